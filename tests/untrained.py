"""Folders of runs that nobody trained: a Config, and a checkpoint of random parameters."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlsys import algorithms, streams
from rlsys.acting.opponents import PastSelf
from rlsys.envs import layout, make, shared_spaces
from rlsys.running import config_file
from rlsys.running.checkpoint import Checkpoints

TINY = "--hidden-size 16 --head-size 8 --num-envs 32 --minibatches 1 --epochs 1"


def random_like(shapes: Any, seed: int) -> Any:
    """Arrays of such shapes, of random numbers; nothing is compiled for them. Statistics, such as
    deviations, are positive."""
    random = np.random.default_rng(seed)

    def draw(path, x):
        number = random.normal(0.0, 0.3, x.shape)
        learned = "params" in jax.tree_util.keystr(path)
        return (number if learned else np.abs(number)).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def write_run(
    folder: Path, words: str, *, checkpoint: bool = True, past_selves: int = 0, change: Any = None
) -> Path:
    """Writes the folder of a run.

    Args:
      words: the algorithm's name, and fields.
      checkpoint: whether to write one.
      past_selves: of a run of a game; each has parameters of its own.
      change: (learner state) -> the one that is saved.

    Returns:
      the folder.
    """
    name, *args = words.split()
    algorithm, config = algorithms.find(name), algorithms.config_of(name, args)
    config_file.write(folder, {"algorithm": name, "config": dataclasses.asdict(config)})
    if not checkpoint:
        return folder
    pools = [make(task, max(2, layout(task).rows), 0) for task in config.tasks]
    network = algorithm.make_network(config, *shared_spaces(pools))
    shapes = jax.eval_shape(lambda: algorithm.make_state(network, config))
    key = streams.key(config.seed, "minibatches")
    params = random_like(shapes.params, config.seed)
    rest = random_like(shapes._replace(params=(), key=()), config.seed + 1)
    state = rest._replace(params=params, key=key)
    state = change(state) if change else state
    trees: dict[str, Any] = {"learner": state}
    meta: dict[str, Any] = {"counters": {"env_steps": 9_000, "learner_steps": 90}}
    if past_selves:
        past = [PastSelf(i, 1_000 * i, None, 0.0) for i in range(past_selves)]
        trees["opponents"] = {str(x.number): random_like(params, 2 + x.number) for x in past}
        about = [x._asdict() for x in past]
        meta["opponents"] = {"past_selves": about, "iterations": 0, "joined": past_selves}
    Checkpoints(folder / "checkpoints").save(1, trees, meta)
    return folder
