"""Neural networks: the only place that imports flax."""

from rlsys.networks.frames import stack_frames
from rlsys.networks.q_network import QNetwork, init, legal, q_network, sample_obs

__all__ = ["QNetwork", "init", "legal", "q_network", "sample_obs", "stack_frames"]
