"""How fast the pure functions of rlsys/losses are, beside rlax's.

    python -m experiments.functions [--csv experiments/results/functions.csv]

Each is timed in turn with rlax's function of the same meaning or, where there is none, with a copy
of the bytes that it reads and writes. tests/test_functions.py checks that both give the same.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rlax
from rich.console import Console

from experiments.bench import clock, machine, report
from experiments.bench.figures import Figure, write
from rlsys import cli
from rlsys.losses import policy_gradient, popart, ppo, r2d2
from rlsys.losses.gae import gae
from rlsys.losses.q_learning import n_step_double_q
from rlsys.losses.value_rescaling import h, h_inv
from rlsys.losses.vtrace import vtrace
from rlsys.running import process

SHAPES = ((20, 32), (128, 1024), (1000, 32), (1000, 1024))
ACTIONS, TASKS, FEATURES, N = 6, 5, 256, 5
STEP_SIZE = 1e-7  # n steps of it added up, as rlax does, are (1 - STEP_SIZE)^n to rounding
BAR = 1.0  # of rlax's speed
VTRACE_BAR = {(128, 1024): 2.0}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to time."""

    quick: bool = False
    """Time the smallest shape alone, twice: no figure means anything."""
    csv: Path | None = None
    """Write all figures here, and as JSON beside it."""


class Pair(NamedTuple):
    """One function of ours and another's, of the same arguments."""

    ours: Callable
    theirs: Callable | None
    arguments: tuple


def data(length: int, batch: int) -> dict[str, Any]:
    """Return random numbers [T, B, ...] of the kinds that the functions take, by name."""
    random = np.random.default_rng(0)
    shape = (length, batch)

    def normal(*more):
        return random.normal(size=(*shape, *more)).astype(np.float32)

    x = {name: normal() for name in ("v", "r_t", "td_error")}
    x["v_all"] = np.concatenate([x["v"], normal()[-1:]])  # rlax's GAE takes T + 1 values
    x["v_t"] = x["v_all"][1:]
    x |= {name: normal(ACTIONS) for name in ("logits", "q", "q_target")}
    x |= {name: random.integers(ACTIONS, size=shape, dtype=np.int32) for name in ("a", "a_star")}
    x["discount_t"] = (0.99 * (random.random(shape) > 0.02)).astype(np.float32)
    x["rho"] = random.uniform(0.5, 1.5, shape).astype(np.float32)
    x["log_pi_a"], x["log_mu_a"] = -np.abs(normal()), -np.abs(normal())
    x["mask"] = random.random(shape) > 0.1
    x["weights"] = random.random(batch).astype(np.float32)
    x["task"] = random.integers(TASKS, size=batch, dtype=np.int32)
    x["kernel"] = random.normal(size=(FEATURES, TASKS)).astype(np.float32)
    x["mean"], x["bias"] = random.normal(size=(2, TASKS)).astype(np.float32)
    x["variance"] = jnp.full(TASKS, 2.0)
    return {name: jnp.asarray(value) for name, value in x.items()}


def over_batch(function: Callable) -> Callable:
    """Map one of rlax's functions, which take one sequence [T, ...], over [T, B, ...]."""
    return jax.vmap(function, 1, 1)


def ours_statistics(mean, variance):
    zeros = jnp.zeros_like(mean)
    return popart.PopArtState(mean, variance, count=zeros, rest=zeros)


def rlax_statistics(mean, variance):
    return rlax.PopArtState(mean, jnp.sqrt(variance), variance + mean**2)


def ours_popart(targets, task, mean, variance, kernel, bias):
    old = ours_statistics(mean, variance)
    new = popart.update(old, targets, task, step_size=STEP_SIZE)
    return new.mean, popart.preserve_outputs(old, new, kernel, bias)


def rlax_popart(targets, task, mean, variance, kernel, bias):
    update = rlax.popart(TASKS, STEP_SIZE, 1e-4, 1e6)[1]
    old, index = rlax_statistics(mean, variance), jnp.broadcast_to(task, targets.shape)
    params, new = update({"w": kernel, "b": bias}, old, targets, index)
    return new.shift, (params["w"], params["b"])


def ours_normalize(v, task, mean, variance):
    return popart.normalize(ours_statistics(mean, variance), v, task)


def rlax_normalize(v, task, mean, variance):
    index = jnp.broadcast_to(task, v.shape)
    return rlax.normalize(rlax_statistics(mean, variance), v, index)


def pairs(x: dict[str, Any]) -> dict[str, Pair]:
    """Return every function of ours, and its peer, by name."""
    softmax = rlax.softmax()
    pick = [x[k] for k in ("q", "a", "q_target", "a_star", "r_t", "discount_t")]
    transform = {"tx_pair": rlax.SIGNED_HYPERBOLIC_PAIR}
    tasks = x["v"], x["task"], x["mean"], x["variance"]

    def q(**options):
        return lambda *args: n_step_double_q(*args, N, **options)

    def rlax_q(**options):
        return over_batch(lambda *args: rlax.transformed_n_step_q_learning(*args, N, **options))

    return {
        "vtrace": Pair(
            vtrace,
            over_batch(rlax.vtrace_td_error_and_advantage),
            (x["v"], x["v_t"], x["r_t"], x["discount_t"], x["rho"]),
        ),
        "gae": Pair(
            lambda v_all, r_t, discount_t: gae(v_all[:-1], v_all[1:], r_t, discount_t),
            lambda v_all, r_t, discount_t: over_batch(
                lambda r, d, v: rlax.truncated_generalized_advantage_estimation(r, d, 0.95, v)
            )(r_t, discount_t, v_all),
            (x["v_all"], x["r_t"], x["discount_t"]),
        ),
        "n_step_double_q": Pair(q(), rlax_q(), (*pick,)),
        "n_step_double_q, h": Pair(q(h=h, h_inv=h_inv), rlax_q(**transform), (*pick,)),
        "h": Pair(h, rlax.signed_hyperbolic, (x["v"],)),
        "h_inv": Pair(h_inv, rlax.signed_parabolic, (x["v"],)),
        "log_prob": Pair(
            policy_gradient.log_prob,
            lambda logits, a: softmax.logprob(a, logits),
            (x["logits"], x["a"]),
        ),
        "entropy": Pair(policy_gradient.entropy, softmax.entropy, (x["logits"],)),
        "policy_gradient_loss": Pair(
            lambda logits, a, advantage: jnp.mean(
                policy_gradient.policy_gradient_loss(policy_gradient.log_prob(logits, a), advantage)
            ),
            lambda logits, a, advantage: jnp.mean(
                jax.vmap(rlax.policy_gradient_loss, (1, 1, 1, None))(
                    logits, a, advantage, jnp.ones_like(advantage[:, 0])
                )
            ),
            (x["logits"], x["a"], x["v"]),
        ),
        "baseline_loss": Pair(policy_gradient.baseline_loss, rlax.l2_loss, (x["v"], x["v_t"])),
        "clipped_surrogate": Pair(
            lambda *args: jnp.mean(ppo.clipped_surrogate(*args)),
            lambda log_pi_a, log_mu_a, advantage: jnp.mean(
                jax.vmap(lambda *args: rlax.clipped_surrogate_pg_loss(*args, 0.2), 1)(
                    jnp.exp(log_pi_a - log_mu_a), advantage
                )
            ),
            (x["log_pi_a"], x["log_mu_a"], x["v"]),
        ),
        "clipped_value_loss": Pair(ppo.clipped_value_loss, None, (x["v"], x["v_t"], x["r_t"])),
        "sequence_priority": Pair(r2d2.sequence_priority, None, (x["td_error"], x["mask"])),
        "sequence_loss": Pair(r2d2.sequence_loss, None, (x["td_error"], x["mask"], x["weights"])),
        "popart update": Pair(ours_popart, rlax_popart, (*tasks, x["kernel"], x["bias"])),
        "popart normalize": Pair(ours_normalize, rlax_normalize, tasks),
    }  # fmt: skip


def moved_bytes(function: Callable, arguments: tuple) -> float:
    """Return the bytes that the function must read and write at least."""
    results = jax.eval_shape(function, *arguments)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((arguments, results)))


def figures(quick: bool) -> Iterator[Figure]:
    for length, batch in SHAPES[:1] if quick else SHAPES:
        for name, (ours, theirs, arguments) in pairs(data(length, batch)).items():
            calls: dict[str, clock.Call] = {"ours": functools.partial(jax.jit(ours), *arguments)}
            # A copy reads each byte and writes it.
            calls["ceiling"] = clock.copy(moved_bytes(ours, arguments) / 2)
            if theirs:
                calls["ceiling"] = functools.partial(jax.jit(theirs), *arguments)
            seconds = clock.alternate(calls, 11, 4e-3, quick)
            times, ceiling = 1e6 * seconds["ours"], 1e6 * seconds["ceiling"]
            bar = VTRACE_BAR.get((length, batch), BAR) if name == "vtrace" else BAR
            peer, bar_of_peer = ("rlax", bar) if theirs else ("copy", None)
            setting = f"T={length} B={batch}"
            yield Figure("functions", name, setting, "us", times, ceiling, peer, bar_of_peer)


def main(config: Config) -> None:
    console = Console(width=None if sys.stdout.isatty() else report.WIDTH)
    (about,), found = machine.about(["python", "-m", "experiments.functions", *sys.argv[1:]]), []
    for figure in figures(config.quick):
        found.append(figure)
        if config.csv:
            write(config.csv, about, found)
    report.show(found, {}, console)


if __name__ == "__main__":
    process.prepare()
    cli.run(main, Config(), __doc__)
