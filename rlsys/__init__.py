"""rlsys: the large-scale deep-RL systems of 2018 on one machine, in JAX."""
