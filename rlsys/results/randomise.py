"""Shows what would be drawn of a task's physics, and what a rollout does with it.

rlsys randomise TASK [--randomise.preset dactyl] [--randomise.physics mass=scale:0.5:1.5 ...]
"""

import dataclasses
import math

import jax
import numpy as np

from rlsys import envs
from rlsys.config import check_at_least
from rlsys.envs.randomise.groups import EXPLODED, all_well
from rlsys.envs.randomise.model import Refused
from rlsys.envs.randomise.physics import Parameter, Physics, draw, numbers_at, physics_of
from rlsys.envs.randomise.variants import make_variant, plain, rollout
from rlsys.envs.randomise.words import FACTORS, describe
from rlsys.types import Timestep, UserError

DACTYL = envs.Randomise(preset="dactyl")
LOW, HIGH = 0.02, 0.98  # shares of all draws that lie below the ends which are played


@dataclasses.dataclass(frozen=True)
class RandomiseConfig:
    """Shows what would be drawn of a task's physics: each parameter, its range, some draws, and
    what a rollout of random actions does at both ends of each range."""

    randomise: envs.Randomise = DACTYL
    env_options: envs.Options = envs.Options()
    draws: int = 4
    """The number of draws that are shown."""
    steps: int = 200
    """The number of steps of a rollout."""
    seed: int = 0
    """Draws and rollouts follow from it."""

    def __post_init__(self):
        check_at_least(self, 0, "draws seed")
        check_at_least(self, 1, "steps")


def show(env: str, config: RandomiseConfig) -> list[str]:
    """Returns lines on each task that `env` names.

    Raises:
      UserError: there is no such task, its physics cannot be changed, or a word is wrong.
    """
    if not config.randomise.physics_words:
        raise UserError(
            "no physics are drawn: name a preset (--randomise.preset dactyl) or words "
            "(--randomise.physics mass=scale:0.5:1.5)"
        )
    lines: list[str] = []
    for task in envs.read_tasks(env, config.env_options):
        task = plain(task._replace(randomise=config.randomise))
        physics = physics_of(task, False)
        lines += [f"{task.name}: {len(physics.parameters)} numbers are drawn", ""]
        lines += [*parameters(physics, config), "", *ends(task, physics, config)]
        if physics.left_out:
            lines += [f"the task has nothing for {' '.join(physics.left_out)}"]
    return lines


def parameters(physics: Physics, config: RandomiseConfig) -> list[str]:
    """Returns a table of all parameters, with the values that some draws give them."""
    sequences = np.random.SeedSequence(config.seed).spawn(config.draws)
    shares = [draw(physics.parameters, x) for x in sequences]
    drawn = [numbers_at(physics.parameters, u) for u in shares]
    heads = [f"draw {k}" for k in range(config.draws)]
    rows = [["parameter", "as it is", "drawn", *heads]]
    for i, parameter in enumerate(physics.parameters):
        values = [value(parameter, numbers[i]) for numbers in drawn]
        as_it_is = value(parameter, None) if parameter.places else ""
        rows.append([parameter.name, as_it_is, describe(parameter.word), *values])
    return table(rows)


def value(parameter: Parameter, number: float | None) -> str:
    """Returns what a number makes of its parameter; None: as it is. One number for several places
    is shown as it is drawn."""
    factor = parameter.word.how in FACTORS
    if not parameter.places:
        return f"{number:.4g}"
    if len(parameter.places) > 1:
        return f"{1.0 if factor else 0.0}" if number is None else f"{number:.4g}"
    nominal = parameter.places[0].nominal
    if number is None:
        return f"{nominal:.4g}"
    return f"{nominal * number if factor else nominal + number:.4g}"


def ends(task: envs.Task, physics: Physics, config: RandomiseConfig) -> list[str]:
    """Returns a table of rollouts in which all that one word draws is low, or high.

    Raises:
      UserError: the task cannot be played as it is.
    """
    nominal = physics.nominal()
    try:
        before = _play(task, physics, nominal, config)
    except Refused as error:
        raise UserError(f"{task.name!r} cannot be played: {error}") from None
    rows = [["rollout", "return", "steps", "observations apart"], ["as it is", *_told(before), ""]]
    words = list(dict.fromkeys(x.word for x in physics.parameters))
    for word in words:
        own = np.array([x.word == word for x in physics.parameters])
        for name, share in (("low", LOW), ("high", HIGH)):
            numbers = np.where(
                own, numbers_at(physics.parameters, np.full(len(own), share)), nominal
            )
            try:
                found = _play(task, physics, numbers, config)
            except Refused as error:
                rows.append([f"{word.text} {name}", "", "", f"refused: {error}"])
                continue
            rows.append([f"{word.text} {name}", *_told(found), _apart(before, found)])
    sentence = (
        f"one episode of random actions, at most {config.steps} steps; low and high: {LOW:.0%} and "
        f"{HIGH:.0%} of all draws are lower"
    )
    return [sentence, *table(rows)]


def _play(
    task: envs.Task, physics: Physics, numbers: np.ndarray, config: RandomiseConfig
) -> list[Timestep]:
    """Plays the first episode, or as many of its steps as the rollout has.

    Raises:
      Refused: the environments cannot be made with these numbers, or explode.
    """
    bare = task._replace(randomise=envs.NOTHING)
    played = make_variant(bare, physics, numbers, 1, config.seed, num_threads=1)
    timesteps = rollout(played, config.steps)
    played.close()
    ended = [bool(t.truncated[0] or t.discount[0] == 0) for t in timesteps]
    timesteps = timesteps[: ended.index(True) + 1] if True in ended else timesteps
    if not all(all_well(t.obs) and all_well(t.reward) for t in timesteps):
        raise Refused(EXPLODED)
    return timesteps


def _told(timesteps: list[Timestep]) -> list[str]:
    """Returns the return and the length of an episode."""
    return [f"{sum(float(t.reward[0]) for t in timesteps):.4g}", f"{len(timesteps) - 1}"]


def _apart(a: list[Timestep], b: list[Timestep]) -> str:
    """Says how far the observations of two episodes lie apart, for as long as both run: the root of
    the mean square of their difference, in deviations of the first's."""
    both = range(min(len(a), len(b)))
    x, y = (np.stack([_flat(t[i]) for i in both]) for t in (a, b))
    if np.array_equal(x, y):
        return "nothing changes"
    spread = float(np.sqrt(np.mean((x - x.mean(0)) ** 2))) or math.inf
    return f"{float(np.sqrt(np.mean((x - y) ** 2))) / spread:.2g} deviations"


def _flat(timestep: Timestep) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(timestep.obs)]).astype(float)


def table(rows: list[list[str]]) -> list[str]:
    """Returns the lines of a table; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
