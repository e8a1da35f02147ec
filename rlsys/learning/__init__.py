"""Agents learn with what is here: a mesh of devices, the processes of a run, and optimisers."""
