"""Prioritised replay of sequences, on the host."""
