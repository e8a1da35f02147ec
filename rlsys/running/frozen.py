"""Reads the policy of another run, which plays against the learner and never changes (--frozen)."""

from pathlib import Path
from typing import Any, NamedTuple

from rlsys.config import tasks_of
from rlsys.envs import plain_game
from rlsys.running.algorithm import Algorithm
from rlsys.running.initial import check_network, like, saved_config, saved_learner
from rlsys.types import Policy, UserError


class Frozen(NamedTuple):
    """Holds a policy that never changes."""

    params: Any  # its parameters and statistics of observations, in numpy
    env_steps: int  # the number of environment steps that it was trained for
    sentence: str  # tells the user whom the learner plays against


def read(algorithm: Algorithm, config: Any, network: Any) -> Frozen | None:
    """Reads the newest policy of the run that config.self_play.frozen names; None if it names none.

    Args:
      algorithm: the new run's.
      config: the new run's.
      network: the new run's. The policy must fit it, as one compiled call acts for both.

    Raises:
      UserError: there is no such run, it plays another game, its network differs, or frozen_mode is
        no mode of the algorithm.
      CheckpointError: it has no checkpoint.
    """
    if not config.self_play.frozen:
        return None
    folder, mode = Path(config.self_play.frozen), config.self_play.frozen_mode
    algorithm.check_mode(mode, "frozen_mode")
    there, unfit = saved_config("frozen", folder, algorithm)
    games = [[plain_game(task).name for task in tasks] for tasks in (tasks_of(there), config.tasks)]
    if games[0] != games[1] or len(games[0]) > 1:
        theirs, ours = (", ".join(names) for names in games)
        raise UserError(f"frozen {folder} plays {theirs}, and this run plays {ours}")
    check_network(there, config, unfit)
    shapes, learner, steps = saved_learner(folder, algorithm, config, network)
    words = f"plays against the policy of {folder} after {steps:,} environment steps ({mode})"
    return Frozen(like(shapes.params, learner["params"], unfit), steps, words)


def policy(algorithm: Algorithm, config: Any, network: Any) -> Policy | None:
    """Returns the Policy that acts for the frozen run; None if there is no such run, or if
    its actions are drawn as the learner's are."""
    mode = config.self_play.frozen_mode
    if not config.self_play.frozen or mode == "sampled":
        return None
    return algorithm.make_eval_policy(network, config, config.num_envs, mode)
