"""Neural networks: the only place that imports flax."""

from rlsys.networks.agent import (
    AgentNetwork,
    legal,
    policy_value_network,
    q_network,
    sample_obs,
    without_mask,
)
from rlsys.networks.frames import stack_frames
from rlsys.networks.parameters import init, orthogonalize, value_layer, with_value_layer
from rlsys.networks.units import alive_units

__all__ = [
    "AgentNetwork",
    "alive_units",
    "init",
    "legal",
    "orthogonalize",
    "policy_value_network",
    "q_network",
    "sample_obs",
    "stack_frames",
    "value_layer",
    "with_value_layer",
    "without_mask",
]
