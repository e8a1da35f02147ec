"""Losses, gradients and updates of the accelerator, beside the CPU's."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.accelerator.settings import PRECISIONS, REPLAYS, SMALL, on_accelerator
from experiments.bench import parts
from experiments.bench.figures import Figure
from rlsys import algorithms
from rlsys.learning import learner
from rlsys.losses import (
    gae,
    n_step,
    policy_gradient,
    popart,
    ppo,
    r2d2,
    retrace,
    value_rescaling,
    vtrace,
)

# The largest distances from the CPU's results, as shares of their size.
EQUATION_BOUND, UPDATE_BOUND = 1e-5, 1e-3
PONG = "--env Pong-v5 --actors 1 --num-envs 8"


def distance(found: Any, expected: Any) -> float:
    """Return |found - expected| / |expected| over all the floats of two trees (Euclidean)."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    floats = [(np.float64(a), np.float64(b)) for a, b in pairs if np.asarray(b).dtype.kind == "f"]
    apart = sum(float(np.sum((a - b) ** 2)) for a, b in floats)
    size = sum(float(np.sum(b**2)) for _, b in floats)
    return float(np.sqrt(apart / max(size, 1e-30)))


def pure() -> dict[str, tuple[Callable, tuple]]:
    """Return equations and float64 arrays [T, B] for them, by name."""
    rng = np.random.default_rng(0)
    shape, q = (80, 64), rng.normal(size=(80, 64, 6))
    v_tm1, v_t, r_t = (10 * rng.normal(size=shape) for _ in range(3))
    discount_t = 0.99 * (rng.random(shape) > 0.05)
    rho, a_tm1 = rng.lognormal(size=shape), jnp.asarray(rng.integers(0, 6, shape))
    state, task = popart.init(2), jnp.asarray(rng.integers(0, 2, 64))
    c_t = np.minimum(rho, 1)
    mask, weights = jnp.asarray(rng.random(shape) > 0.1), rng.random(64)

    def policy_loss(q: Any, advantage: Any) -> Any:
        log_pi_a = policy_gradient.log_prob(q, a_tm1)
        return policy_gradient.policy_gradient_loss(log_pi_a, advantage)

    def surrogate(q: Any, advantage: Any) -> Any:
        log_pi_a = policy_gradient.log_prob(q, a_tm1)
        return ppo.clipped_surrogate(log_pi_a, jnp.zeros_like(log_pi_a) - 1.8, advantage)

    return {
        "policy gradient loss": (policy_loss, (q, v_t)),
        "entropy": (policy_gradient.entropy, (q,)),
        "clipped surrogate": (surrogate, (q, v_t)),
        "clipped value loss": (ppo.clipped_value_loss, (0.1 * v_t, 0.1 * v_tm1, 0.1 * r_t)),
        "sequence loss": (lambda x, w: r2d2.sequence_loss(x, mask, w), (v_t, weights)),
        "V-trace": (vtrace.vtrace, (v_tm1, v_t, r_t, discount_t, rho)),
        "GAE": (gae.gae, (v_tm1, v_t, r_t, discount_t)),
        "n-step returns": (
            lambda v, r, d: n_step.n_step_return(v, r, d, 5),
            (v_t, r_t, discount_t),
        ),
        "Retrace": (
            lambda q, v, qa, r, d, c: retrace.retrace(q, a_tm1, v, qa, r, d, c),
            (q, v_t, v_tm1, r_t, discount_t, c_t),
        ),
        "PopArt": (lambda x: popart.update(state, x, task, step_size=0.01), (100.0 + v_t,)),
        "h and its inverse": (
            lambda x: (value_rescaling.h(x), value_rescaling.h_inv(value_rescaling.h(x))),
            (100 * v_t,),
        ),
    }


def equations(quick: bool, seconds: float) -> Iterator[Figure]:
    """Yield how far the equations are from those of the CPU in float64, and an update of each
    algorithm from the CPU's in float32, whose convolutions have the form that accelerators use."""
    cpu, here = jax.devices("cpu")[0], jax.devices()[0]
    for name, (function, arrays) in pure().items():

        def both(*x: Any, function: Callable = function) -> Any:
            def total(*x: Any) -> Any:
                out = function(*x)
                floats = [y for y in jax.tree.leaves(out) if jnp.issubdtype(y.dtype, jnp.floating)]
                return sum(jnp.sum(y) for y in floats), out

            (_, out), grads = jax.value_and_grad(total, has_aux=True)(*x)
            return out, grads

        floats = [x.astype(np.float32) for x in arrays]
        found = jax.device_get(jax.jit(both)(*jax.device_put(floats, here)))
        with jax.enable_x64(True):
            same = [x.astype(np.float64) for x in floats]
            expected = jax.device_get(jax.jit(both)(*jax.device_put(same, cpu)))
        for what, one, other in zip(("value", "gradient"), found, expected, strict=True):
            if not any(np.any(x) for x in jax.tree.leaves(other)):
                continue  # targets, through which no gradient flows
            far = distance(one, other)
            yield Figure("equations", name, what, "apart", [far], [EQUATION_BOUND], "bound", 1.0)
    for name in list(algorithms.NAMES)[: 2 if quick else None]:
        yield from updates(name, cpu, here)


def updates(name: str, cpu: Any, here: Any) -> Iterator[Figure]:
    """Yield how far one update of an algorithm on Pong is from the CPU's.

    The optimiser's state after its first step holds the gradient, whatever the algorithm.
    """
    words = f"{PONG} {SMALL.get(name, REPLAYS)}".split()
    config = algorithms.config_of(name, words, on_cpu=False)
    work, unroll = parts.play(name, config)
    batch = parts.batch_of(work, unroll)

    def update(device: Any, precision: str, bfloat16: bool, form: str) -> Any:
        own = dataclasses.replace(config, bfloat16=bfloat16)
        network = work.network.convolving(form)
        if bfloat16:
            spaces = network.observation_space, network.action_space
            network = algorithms.find(name).make_network(own, *spaces).convolving(form)
        mesh = learner.make_mesh([device])
        program = learner.data_parallel(
            functools.partial(work.learn, network), mesh, work.spec, work.out_spec
        )
        state = learner.place(mesh, jax.tree.map(jnp.copy, work.state))
        with jax.default_matmul_precision(precision):
            state, out = program(config, state, learner.place(mesh, batch, work.spec))
        metrics = (out[1] if work.add else out)["loss"]
        return jax.device_get((metrics, state.opt_state))

    expected = update(cpu, "highest", False, "plain")
    for precision, (products, bfloat16) in PRECISIONS.items():
        if precision == "tf32" and not on_accelerator():
            continue
        found = update(here, products, bfloat16, "plain" if on_accelerator() else "cpu")
        for what, one, other in zip(("loss", "gradient"), found, expected, strict=True):
            bound = [UPDATE_BOUND] if precision == "float32" else []
            yield Figure(
                "equations", name, f"{what}, {precision}", "apart", [distance(one, other)],
                bound, "bound" if bound else "", 1.0 if bound else None,
            )  # fmt: skip
