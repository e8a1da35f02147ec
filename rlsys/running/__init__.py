"""A run has a folder, a log, checkpoints and checks of its health, and it stops when it is due."""
