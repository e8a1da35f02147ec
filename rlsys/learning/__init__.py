"""Agents learn by what is here: the mesh of devices, the processes of a run, and optimisers."""
