"""Neural networks: the only place that imports flax."""

from rlsys.networks.agent import (
    AgentNetwork,
    policy_alone,
    policy_network,
    policy_value_network,
    q_network,
    sample_obs,
    without_mask,
)
from rlsys.networks.distributions import Distribution, is_continuous
from rlsys.networks.frames import stack_frames
from rlsys.networks.parameters import init, orthogonalize, see, value_layer, with_value_layer
from rlsys.networks.units import alive_units

__all__ = [
    "AgentNetwork",
    "Distribution",
    "alive_units",
    "init",
    "is_continuous",
    "orthogonalize",
    "policy_alone",
    "policy_network",
    "policy_value_network",
    "q_network",
    "sample_obs",
    "see",
    "stack_frames",
    "value_layer",
    "with_value_layer",
    "without_mask",
]
