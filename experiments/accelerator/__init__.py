"""A check of this machine's accelerator: python -m experiments.accelerator."""
