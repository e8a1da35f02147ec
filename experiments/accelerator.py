"""Check this machine's accelerator, in at most 8 minutes.

.venv/bin/python -m experiments.accelerator [--only equations training] [--seconds 20]

Sections: equations (losses and gradients beside the CPU's), learner (steps of the three networks in
float32, tf32 and bfloat16, as shares of a matrix product's rate), actors (actions a second), and
training (each algorithm on Pong, beside what `make plan` predicts). A csv, JSON and a section in
Markdown are written beside each other. Without an accelerator the same checks run, smaller, on the
CPU alone.
"""

import contextlib
import dataclasses
import functools
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from experiments.bench import clock, machine, parts, report
from experiments.bench.figures import Figure, write
from experiments.bench.learner import CASES, one_update
from experiments.bench.processes import stream
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
from rlsys.replay.memory import num_bytes
from rlsys.running import metrics_file

Section = Literal["equations", "learner", "actors", "training"]
SECTIONS: tuple[Section, ...] = Section.__args__  # type: ignore[attr-defined]
# The largest distances from the CPU's results, as shares of their size.
EQUATION_BOUND, UPDATE_BOUND = 1e-5, 1e-3
PRECISIONS = {  # name -> jax's precision of float32 products, and whether the network is bfloat16
    "float32": ("highest", False),
    "tf32": ("tensorfloat32", False),
    "bfloat16": ("highest", True),
}
# The data sheet's dense rates in TFLOP/s, by the beginning of a device's name.
PEAKS = {
    "NVIDIA H100": {"float32": 67.0, "tf32": 494.7, "bfloat16": 989.4},
    "NVIDIA H200": {"float32": 67.0, "tf32": 494.7, "bfloat16": 989.4},
    "NVIDIA A100": {"float32": 19.5, "tf32": 156.0, "bfloat16": 312.0},
}
WARM = 2  # lines of the log in which programs are compiled
PONG = "--env Pong-v5 --actors 1 --num-envs 8"
SMALL = {  # words that make one small update of each kind of algorithm
    "ppo": "--unroll-length 16 --refresh-steps 16 --epochs 1 --minibatches 1 --sequence-length 16",
    "impala": "--batch-size 8 --optimizer adam",
}
REPLAYS = "--batch-size 8 --replay-capacity 4000 --learning-starts 1000"


def on_accelerator() -> bool:
    return jax.default_backend() != "cpu"


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
    for _ in range(work.first_adds if work.add else 0):
        work.add(unroll())  # type: ignore[misc]
    batch = work.batch(unroll())

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


def learner_steps(quick: bool, seconds: float) -> Iterator[Figure]:
    """Yield learner steps of the three networks, and the rate of a large matrix product beside."""
    accelerated = on_accelerator()
    for precision, (products, bfloat16) in PRECISIONS.items():
        if precision == "tf32" and not accelerated:
            continue
        with jax.default_matmul_precision(products):
            product, operations = matrix_product(8192 if accelerated else 2048, bfloat16)
            for case, name, words, length, batch, _ in CASES[: 1 if quick else None]:
                batch *= 8 if accelerated else 1
                words += f" --env Pong-v5 --actors 1 --num-envs {batch} --batch-size {batch}"
                words += f" --bfloat16 {bfloat16}"
                config = algorithms.config_of(name, words.split(), on_cpu=False)
                work, unroll = parts.play(name, config)
                learning = parts.learn(one_update(work), config, unroll())
                calls = {"learn": learning.call, "product": product}
                times = clock.alternate(calls, 3, 0.3, quick)
                yield Figure(
                    "learner", case, f"{precision}, {length} x {batch}", "samples/s",
                    length * batch / times["learn"],
                )  # fmt: skip
                yield Figure(
                    "learner", f"{case}, operations", precision, "GFLOP/s",
                    learning.gflop() / times["learn"], operations / times["product"],
                    "matrix product",
                )  # fmt: skip
        rate, peak = operations / times["product"], peak_of(precision)
        yield Figure("learner", "matrix product", precision, "GFLOP/s", rate, peak, "data sheet")


def matrix_product(size: int, bfloat16: bool) -> tuple[clock.Call, float]:
    """Return a call that multiplies two [size, size] matrices, and its GFLOP."""
    x = jax.random.normal(jax.random.key(0), (size, size), "bfloat16" if bfloat16 else "float32")
    product = jax.jit(lambda x: x @ x)
    return lambda: product(x), 2e-9 * size**3


def peak_of(precision: str) -> list[float]:
    """Return the device's rate in GFLOP/s by its data sheet, in a list that is empty if unknown."""
    kind = jax.devices()[0].device_kind
    return [1e3 * rates[precision] for start, rates in PEAKS.items() if kind.startswith(start)]


def actors(quick: bool, seconds: float) -> Iterator[Figure]:
    """Yield the actions a second of the three networks, and steps a second of an actor on Pong."""
    sizes = (32, 256) if on_accelerator() else (32,)
    for case, name, words, *_ in CASES[: 1 if quick else None]:
        for num_envs in sizes:
            more = f" --env Pong-v5 --actors 1 --num-envs {num_envs} --unroll-length 10"
            if "impala" in name:
                more += f" --batch-size {num_envs}"
            config = algorithms.config_of(name, (words + more + " --refresh-steps 10").split())
            work, unroll = parts.play(name, config)
            played = unroll()
            now = jax.tree.map(lambda x: x[0], played.steps)
            inputs = work.state.params, now, played.core_state, jax.random.key(0)
            policy = work.policies[0]

            def act(policy: Any = policy, inputs: Any = inputs) -> Any:
                return np.asarray(policy(*inputs)[0])

            times = clock.alternate({"act": act, "unroll": unroll}, 3, 0.2, quick)
            setting = f"{num_envs} environments"
            yield Figure("actors", f"{case}, act", setting, "actions/s", num_envs / times["act"])
            rate, ceiling = 10 * num_envs / times["unroll"], num_envs / times["act"]
            yield Figure("actors", f"{case}, Pong", setting, "steps/s", rate, ceiling, "act alone")


def training(quick: bool, seconds: float) -> Iterator[Figure]:
    """Yield what each algorithm reaches on Pong beside the plan, and what keeps the device busy."""
    for name in list(algorithms.NAMES)[: 1 if quick else None]:
        words = ["--env", "Pong-v5", "--max-episode-steps", "100", "--eval-episodes", "1"]
        if not on_accelerator():
            words += f"{SMALL.get(name, REPLAYS)} --num-envs 8 --actors 1".split()
        try:
            (numbers,) = stream(train, name, words, seconds)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            yield Figure("training", name, "Pong-v5", "steps/s", [0.0], [1.0], "what runs", 1.0)
            continue
        rate, where = [numbers["rate"]], {"idle": numbers["idle"], **numbers["where"]}
        expected = [planned(name, words)]
        yield Figure("training", name, "Pong-v5", "steps/s", rate, expected, "plan", where=where)
        copied = [numbers["copied"] / 1e6]
        yield Figure("training", f"{name}, copied", "of an update", "MB", copied)


def learning(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log in which it has learned."""
    written = (folder / "metrics.jsonl").exists()
    return [line for line in metrics_file.read(folder) if line["learner_steps"]] if written else []


def stop_when(folder: Path, seconds: float, ended: threading.Event) -> None:
    """Stop the run in `folder` as ctrl-C would, so long after its programs are compiled."""
    while not ended.wait(0.2) and len(learning(folder)) <= WARM:
        pass
    if not ended.wait(seconds):
        os.kill(os.getpid(), signal.SIGINT)


def train(name: str, words: list[str], seconds: float) -> Iterator[dict[str, Any]]:
    """Train for some seconds as `python -m rlsys.train` does, then time the parts alone.

    Yields:
      once, rate: environment steps a second, the median of the log's lines once it learns; where:
      shares of time by the log; idle: the share of time in which the device neither learns nor
      acts, by the times of both alone; copied: bytes of a batch that an update learns from.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        probe = [*words, "--log-every", "100000000", "--run-dir", f"{folder}/run"]
        config = algorithms.config_of(name, probe)
        env_steps = 2 * config.num_envs * config.unroll_length
        config = dataclasses.replace(config, log_every=env_steps, checkpoint_every=10**9)
        ended = threading.Event()
        threading.Thread(target=stop_when, args=(Path(folder, "run"), seconds, ended)).start()
        try:
            algorithms.find(name).train(config)
        finally:
            ended.set()
        lines = learning(Path(folder, "run"))[WARM:]

    def median(key: str) -> float:
        return float(np.median([line[key] for line in lines]))

    rate = median("env_steps_per_second")
    spent = parts.seconds_per_step(name, config, "act learn", 3, 0.3)
    busy = rate * sum(float(x.min()) for x in spent.values())
    work, unroll = parts.play(name, config)
    for _ in range(work.first_adds if work.add else 0):
        work.add(unroll())  # type: ignore[misc]
    yield {
        "rate": rate,
        "where": {key[5:]: median(key) for key in lines[-1] if key.startswith("time/")},
        "idle": max(1.0 - busy, 0.0),
        "copied": float(num_bytes(work.batch(unroll()))),
    }


def planned(name: str, words: list[str]) -> float:
    """Return the environment steps a second that `make plan` predicts for this machine."""
    command = [sys.executable, "-m", "rlsys.plan", name, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.findall(r"([\d,]+) steps/s", done.stdout)
    if not found:
        raise RuntimeError(f"make plan failed: {done.stderr.strip().splitlines()[-1:]}")
    return float(found[-1].replace(",", ""))


def markdown(about: dict[str, Any], figures: list[Figure]) -> str:
    """Write the figures as a section of a report."""
    device, versions = about["machine"]["device"], about["versions"]
    lines = [
        f"## {device}, {about['date'][:10]}",
        "",
        f"Measured by `{about['command']}` at commit {about['commit']} with jax {versions['jax']} "
        f"and Python {versions['python']} on {about['machine']['cores']} cores of "
        f"{about['machine']['cpu']}.",
        "",
        "| section | what | setting | median | unit | beside |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for f in figures:
        beside = ""
        if f.ceiling_samples:
            beside = f"{report.number(float(np.median(f.ceiling_samples)))} {f.ceiling_is}"
        median = f"{f.median:.2g}" if f.unit == "apart" else report.number(f.median)
        lines.append(f"| {f.section} | {f.name} | {f.setting} | {median} | {f.unit} | {beside} |")
    return "\n".join(lines) + "\n"


def section(name: Section, quick: bool, seconds: float) -> Iterator[Figure]:
    """Yield the figures of a section."""
    functions = equations, learner_steps, actors, training
    yield from dict(zip(SECTIONS, functions, strict=True))[name](quick, seconds)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to check."""

    only: tuple[Section, ...] = SECTIONS
    """Check these sections."""
    seconds: float = 20.0
    """Train each algorithm for so long once it learns."""
    quick: bool = False
    """Check few and small things, to see that it works: no rate means anything."""
    csv: Path | None = None
    """Write here, and JSON and Markdown beside it; to runs/accelerator-<time>.csv if None."""


def main(config: Config) -> int:
    """Run the sections and return 1 if a result is further from the CPU's than its bound."""
    console = Console(width=None if sys.stdout.isatty() else report.WIDTH)
    path = config.csv or Path(f"runs/accelerator-{time.strftime('%Y%m%d-%H%M%S')}.csv")
    command = ["python", "-m", "experiments.accelerator", *sys.argv[1:]]
    (about,) = stream(machine.about, command)
    device = about["machine"]["device"]
    if device.endswith("cpu"):
        console.print("There is no accelerator: the CPU is checked, with small sizes.")
    console.print(f"{device}; writing {path}", highlight=False)
    figures: list[Figure] = []
    failed = False
    for name in config.only:
        begin = time.monotonic()
        try:
            for figure in stream(section, name, config.quick, config.seconds):
                figures.append(figure)
                write(path, about, figures)
                path.with_suffix(".md").write_text(markdown(about, figures))
                print(".", end="", file=sys.stderr, flush=True)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            failed = True
        print(file=sys.stderr)
        report.show([f for f in figures if f.section == name], {}, console)
        console.print(f"{name}: {time.monotonic() - begin:.0f} s", highlight=False)
    failed |= any(report.below_bar(figure) for figure in figures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, config=(tyro.conf.FlagConversionOff,))))
