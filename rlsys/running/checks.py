"""The checks of a run's health: each takes a number from the lines of the log and has a level.

Beyond its level a number is a sign of danger, not only of a run that could be better; each check
says where its level comes from. health.py says how long a number must be beyond its level. If a
line does not have the number, the check does not judge it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

A_WHILE = 0.05  # share of the run's environment steps
START = 500_000  # environment steps that a new agent may take to get well, on small tasks
CLIPPED = 0.99  # share of clipped gradients that counts as always
SMALL_RATE = 0.05  # share of the Config's learning rate below which standing still is no danger
MOVES = 1e-4  # a KL of the acting from the learned policy that shows that it is not frozen
SMALL_ERROR = 0.1  # share of the value targets' size
POPART_FLOOR = 1e-4  # losses.popart.scale's min_scale

Line = dict[str, Any]  # a line of the log: numbers, or None if unknown


class Check(NamedTuple):
    """Says which number is checked and when it is a danger."""

    name: str  # health/<name> in the log
    words: str  # in which the warning begins
    shows: str  # name of the number in the warning
    number: Callable[
        [Line, Any, Line], float | None
    ]  # of the line, the Config and the first values
    source: str  # says where the level comes from
    below: float = -math.inf  # there is danger below this level,
    above: float = math.inf  # or above this one
    lasts: float = A_WHILE  # share of the run after which the danger becomes a warning
    begins_by: float = 1.0  # dangers that begin after this share of the run are ignored
    not_before: int = 0  # environment steps that a new agent has to leave the danger
    told: str = ""  # the metric that the warning shows in place of the number


def metric(name: str) -> Callable:
    """Make a function that takes its number from the line as it is."""
    return lambda line, config, first: line.get(name)


def rate_share(line: Line, config: Any) -> float:
    """Return the learning rate divided by the Config's, from which it decays; 0 below SMALL_RATE,
    where the policy can hardly move."""
    rate = line.get("learning_rate")
    share = 1.0 if rate is None else rate / config.learning_rate
    return share if share >= SMALL_RATE else 0.0


def kl(line: Line, config: Any, first: Line) -> float | None:
    """Return the KL of the acting policy from the learned one as if one update lay between them.

    The KL grows with the square of the number of updates between the two and with the square of the
    learning rate; it is divided by both, so it is that of one update at the Config's rate. A KL
    above MOVES is left as it is: PPO's clipping bounds it however many updates lie between. It is
    None if no update lies between, as the two are then the same policy.
    """
    lag, share, found = line.get("params_lag"), rate_share(line, config), line.get("kl")
    if found is None or not lag or not share:
        return None
    return found if found > MOVES else found / (share * lag) ** 2


def update_ratio(line: Line, config: Any, first: Line) -> float | None:
    """Return an update's norm over the parameters', scaled to the Config's learning rate."""
    ratio, share = line.get("update_ratio"), rate_share(line, config)
    return ratio / share if ratio is not None and share > 0 else None


def gradient_excess(line: Line, config: Any, first: Line) -> float | None:
    """Return the gradients' norm over the largest allowed if all are clipped, else 0."""
    clipped, norm = line.get("gradient_clipped"), line.get("gradient_norm")
    if clipped is None or norm is None:
        return None
    return norm / config.max_gradient_norm if clipped >= CLIPPED else 0.0


def scales(line: Line) -> list[float]:
    """List PopArt's scale of each task, the number that it divides targets by."""
    return [x for name, x in line.items() if name.startswith("popart_scale/") and x is not None]


def smallest_scale(line: Line, config: Any, first: Line) -> float | None:
    """Return the smallest of PopArt's scales."""
    return min(scales(line), default=None)


def explained(line: Line, config: Any, first: Line) -> float | None:
    """Return the explained variance, but 0 at least where values err by less than SMALL_ERROR."""
    share, error = line.get("explained_variance"), line.get("value_error")
    return max(share, 0.0) if share is not None and (error or 1.0) < SMALL_ERROR else share


def entropy_left(line: Line, config: Any, first: Line) -> float | None:
    """Return the entropy of the policy as a share of its first known value, or 0 or 1 if that is 0.

    It is None for a Gaussian policy: its differential entropy depends on the units of the actions
    and may be negative, so a share of it says nothing.
    """
    if getattr(config, "policy", "categorical") == "gaussian":
        return None
    entropy, begin = line.get("entropy"), first.get("entropy")
    if entropy is None:
        return None
    return entropy / begin if begin else float(entropy > 0.0)


def updates_since_played(line: Line, config: Any, first: Line) -> float | None:
    """Count the updates between the parameters that played a sample and those that learn it, as if
    there had always been as many for each step played as since the last line.

    It is None for an agent without memory, as the level is one of stale recurrent states.
    """
    lag, age = line.get("params_lag"), line.get("replay/sample_age")
    played, learned = line["env_steps_per_second"], line["learner_steps_per_second"]
    if not config.core_size or None in (lag, age, played, learned) or not played:
        return None
    return lag + age * learned / played


CHECKS = (
    Check(
        name="policy_frozen",
        words="policy frozen",
        shows="KL",
        told="kl",
        number=kl,
        below=1e-8,
        source="On cart-pole healthy runs of PPO and IMPALA, solved or not, move by a KL of 1e-6 to"
        " 1e-5 an update; PPO whose policy got no gradient, as PopArt's scale was on its floor and"
        " every gradient clipped 400 to 1,200 times, by 2e-9 or less.",
    ),
    Check(
        name="parameters_frozen",
        words="parameters frozen",
        shows="update / parameters",
        number=update_ratio,
        below=1e-7,
        source="An update below 2^-24 = 6e-8 of a parameter is lost when float32 rounds.",
    ),
    Check(
        name="gradient_clipped",
        words="gradient always clipped",
        shows="norm / largest allowed",
        number=gradient_excess,
        above=20.0,
        source="Adam does not see a constant factor, so it does little harm to clip every gradient"
        " by a little. Beyond 20 one loss, mostly the value's, may starve the others: PPO on"
        " cart-pole still learned at 60, and its policy was frozen at 400 to 1,200.",
    ),
    Check(
        name="statistics_on_floor",
        words="statistics on their floor",
        shows="PopArt's scale",
        number=smallest_scale,
        below=1.01 * POPART_FLOOR,
        source="There losses/popart.py no longer normalises: both the targets' deviation and"
        " popart_floor's share of their mean are below its smallest scale, or 0.",
    ),
    Check(
        name="value_explains_nothing",
        words="value explains nothing",
        shows="explained variance",
        number=explained,
        below=0.0,
        lasts=0.2,
        not_before=START,
        source="Below 0 a constant would predict better (Schulman 2016, The Nuts and Bolts of Deep"
        " RL Research). At the start that is usual: on cart-pole PPO takes 160,000 steps and"
        " IMPALA 360,000. Where a task is solved its"
        " returns hardly differ; values that err by less than a tenth need not tell them apart.",
    ),
    Check(
        name="entropy_gone",
        words="entropy gone early",
        shows="share of the first",
        number=entropy_left,
        below=0.01,
        begins_by=0.5,
        source="A policy that never tries another action learns nothing of it (Mnih et al. 2016,"
        " section 4). Late in a run it may well be certain.",
    ),
    Check(
        name="ratios_clipped",
        words="ratios clipped in most samples",
        shows="share",
        number=metric("ratio_clipped"),
        above=0.5,
        source="A sample whose ratio is clipped has no gradient, or one that only pulls it back"
        " (Schulman et al. 2017, section 3). IMPALA's rho_clipped is no such share: about half of"
        " all ratios are above 1, however close the policies are.",
    ),
    Check(
        name="dead_units",
        words="hidden units dead",
        shows="share",
        number=metric("dead_units"),
        above=0.5,
        not_before=START,
        source="A unit that is 0 for every sample has no gradient, and the more there are the less"
        " can still be learned (Sokar et al. 2023, The Dormant Neuron Phenomenon in Deep RL). In"
        " Pong's first 260,000 steps, when all images look alike, 0.4 to 0.6 are nothing unusual.",
    ),
    Check(
        name="padding",
        words="replay mostly padding",
        shows="share learned",
        number=metric("learned_share"),
        below=0.5,
        lasts=0.0,
        source="More than half of what an update computes teaches nothing.",
    ),
    Check(
        name="stale",
        words="samples stale",
        shows="versions of the policy",
        number=metric("staleness"),
        above=8.0,
        lasts=0.0,
        source="8 versions halve the speed of learning, 32 may break it (Berner et al. 2019,"
        " section 4.4 and figure 5).",
    ),
    Check(
        name="stale_replay",
        words="replay stale",
        shows="updates since a sample was played",
        number=updates_since_played,
        above=5500.0,
        source="With 5,500 updates in place of 1,500 recurrent states were further from what they"
        " should be, and results worse (Kapturowski et al. 2019, section 3).",
    ),
    Check(
        name="sample_reuse",
        words="reuse too high",
        shows="times that each sample is learned from",
        number=metric("sample_reuse"),
        above=15.0,
        lasts=0.0,
        source="Schulman et al. 2017 have 3 to 15 epochs (tables 3 to 5). OpenAI Five's scale does"
        " not stand 2 to 3 (Berner et al. 2019, section 4.4), but small tasks do.",
    ),
    Check(
        name="replay_ratio",
        words="replay ratio too high",
        shows="steps learned for each played",
        number=metric("replay_ratio"),
        above=32.0,
        lasts=0.0,
        source="DQN has 8, data-efficient Rainbow 32 (van Hasselt et al. 2019). With more, agents"
        " overfit to what they saw first (Nikishin et al. 2022, The Primacy Bias in Deep RL).",
    ),
)
