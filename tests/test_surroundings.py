"""Surroundings that a run must bear: 64 bits asked for, no home, odd terminals and folders."""
