"""Predicts the cost of a Config on a machine, before it runs there."""
