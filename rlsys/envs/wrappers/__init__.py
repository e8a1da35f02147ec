"""Wrappers: environments that change one thing of those that they hold."""

from rlsys.envs.wrappers.actions import ActionBins
from rlsys.envs.wrappers.blank import Flicker, OnlyFirst
from rlsys.envs.wrappers.life_loss import LifeLossEnds
from rlsys.envs.wrappers.observe import Observe
from rlsys.envs.wrappers.permute import Permute
from rlsys.envs.wrappers.randomised import left_exact, with_actions, with_observations
from rlsys.envs.wrappers.rewards import AddEvents, ClipRewards, ScaleRewards
from rlsys.envs.wrappers.show_value import Exact, ShowValue
from rlsys.envs.wrappers.versus import Versus

__all__ = [
    "ActionBins",
    "AddEvents",
    "ClipRewards",
    "Exact",
    "Flicker",
    "LifeLossEnds",
    "Observe",
    "OnlyFirst",
    "Permute",
    "ScaleRewards",
    "ShowValue",
    "Versus",
    "left_exact",
    "with_actions",
    "with_observations",
]
