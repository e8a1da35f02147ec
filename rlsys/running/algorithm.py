"""The record by which a run knows an algorithm: one value a module, which mypy checks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gymnasium import spaces
from jax.sharding import Mesh

from rlsys.config import RunConfig
from rlsys.networks import AgentNetwork
from rlsys.replay.replay import Replay
from rlsys.running.presets import Presets
from rlsys.types import LearnerState, Policy, Sample, Trajectory, UserError


class Train(Protocol):
    """Trains, evaluates and returns the run's folder; resume goes on with the run in run_dir.

    Raises:
      Stopped: a signal stopped the run, which can be resumed.
    """

    def __call__(self, config: Any, *, resume: bool = False) -> Path: ...


class FromUnrolls(NamedTuple):
    """An algorithm that learns from every unroll once."""

    # (this process's config, unroll) -> what learn takes, numpy
    batches: Callable[[Any, Trajectory], Any]
    batches_spec: Any  # PartitionSpecs of that
    # (network, config, state, batches) -> state, metrics [N] of N updates
    learn: Callable[[Any, Any, LearnerState, Any], tuple[LearnerState, dict[str, Any]]]
    num_updates: Callable[[Any], float]  # config -> N, as learn makes of one unroll
    # (config, state, environment steps and updates with this config) -> more of a line of the log
    line: Callable[[Any, LearnerState, int, int], dict[str, float]] = lambda *_: {}


class FromSamples(NamedTuple):
    """An algorithm that learns from samples of a replay."""

    make_replay: Callable[[Any, AgentNetwork], Replay]  # (this process's config, network)
    # (network, config, state, sample) -> state, (priorities [B], metrics)
    update: Callable[[Any, Any, LearnerState, Sample], tuple[LearnerState, tuple[Any, dict]]]
    # (config, learned steps as Replay.add gives them, mask) -> priorities
    initial_priorities: Callable[[Any, Trajectory, Any], Any]
    window: Callable[[Any], int]  # config -> steps of a sample, learned from or not


class Algorithm(NamedTuple):
    """All that train, eval, sweep, plan, profile, bench and export ask of an algorithm."""

    name: str
    Config: type[RunConfig]
    presets: Presets
    train: Train
    make_network: Callable[[Any, spaces.Space, spaces.Space], AgentNetwork]  # config, spaces
    make_state: Callable[[AgentNetwork, Any], LearnerState]  # before the first update
    make_policies: Callable[[AgentNetwork, Any], list[Policy]]  # of each actor of this process
    # (network, config, number of environments, mode) -> policy
    make_eval_policy: Callable[[AgentNetwork, Any, int, str], Policy]
    eval_modes: Sequence[str]  # ways to play in evaluation
    score_mode: str  # the one whose return is the algorithm's score
    check_mesh: Callable[[Mesh, Any], None]  # raises UserError if a batch cannot be split over it
    learning: FromUnrolls | FromSamples

    def check_mode(self, mode: str, field: str = "mode") -> None:
        """Raises UserError unless mode is one of eval_modes; field: the name to call it by."""
        if mode not in self.eval_modes:
            known = " or ".join(self.eval_modes)
            raise UserError(f"{field} must be {known} for a run of {self.name}, not {mode!r}")
