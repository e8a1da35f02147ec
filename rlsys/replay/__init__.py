"""Replay keeps sequences in host memory and draws them by priority."""
