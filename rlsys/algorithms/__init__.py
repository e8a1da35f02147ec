"""The algorithms, a file each."""
