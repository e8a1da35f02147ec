"""A run: its folder, its log, its checkpoints, its health, and when it stops."""
