"""How agents learn: the mesh of devices, the processes of a run, and optimisers."""
