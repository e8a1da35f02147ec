"""python -m rlsys.plan ALGORITHM [--machine here|h100|8xh100|FILE] and what rlsys.train takes."""

import dataclasses
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from rlsys import algorithms, cli
from rlsys.plan.machine import load
from rlsys.plan.predict import plan
from rlsys.plan.prediction import Plan
from rlsys.running import output, process


@dataclasses.dataclass(frozen=True)
class Words:
    """Words that are no fields of the Config."""

    machine: cli.Word = ""
    """The machine: here, which is measured, or h100, 8xh100 or a file, which are predicted."""
    preset: cli.Word = ""
    """The preset that the fields start from; without it the task decides."""


def main(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(__doc__)
        return
    name, *args = args
    given, args = cli.take(args, "--machine")
    machine = None if given in (None, "here") else load(given)
    config = algorithms.config_of(
        name,
        args,
        on_cpu=None if machine is None else False,
        command="plan",
        about="Predicts the speed and the memory of a run with the same words.",
        also=Words(),
    )
    found = plan(name, config, machine)
    show(f"{name} on {', '.join(task.name for task in config.tasks)}", found)
    Console().print(left_out(config))


def left_out(config: Any) -> str:
    """Says what takes time in a run and is not in its plan."""
    past = "the inference of past selves, " if config.has_past_selves else ""
    every = f" every {config.eval_every:,} steps and" if config.eval_every else ""
    return f"not counted: {past}checkpoints and an evaluation{every} at the end"


def show(title: str, found: Plan) -> None:
    """Prints a plan."""
    machine, t, console = found.machine, found.times, Console()
    how = "measured" if machine.name == "here" else "predicted, not measured"
    console.print(
        f"[bold]{title}[/], {machine.name}: {machine.cores} cores, {machine.devices} x "
        f"{machine.device}; {how}"
    )
    console.print(
        f"the device's rates: {machine.float32_flops / 1e9:,.0f} GFLOP/s in float32, "
        f"{machine.bfloat16_flops / 1e9:,.0f} in bfloat16, memory {machine.bandwidth / 1e9:,.0f} "
        f"GB/s, copies to it {machine.host_to_device / 1e9:,.0f} GB/s, a call "
        f"{machine.dispatch * 1e6:,.0f} us"
    )
    table = Table("of a round", "ms", title_justify="left")
    for label, value in (
        ("environment, one actor", t.environment),
        ("inference, one actor", t.inference),
        ("stacking and the rest, one actor", t.host),
        ("all actors", t.actors),
        ("replay", t.replay),
        ("transfer", t.transfer),
        (f"learner, {found.learner_steps:.4g} updates", t.learner),
    ):
        table.add_row(label, f"{1e3 * value:,.2f}")
    console.print(table)
    turn = "actors beside the learner: the longer" if found.ahead else "in turn: their sum"
    console.print(f"a round of {found.env_steps:,} steps, {turn}: {1e3 * found.seconds:,.2f} ms")
    b = found.bytes
    console.print(
        f"memory of a device: {b.device / 1e6:,.1f} MB of {machine.device_memory / 1e9:,.1f} GB "
        f"(parameters {b.parameters / 1e6:,.1f}, optimiser {b.optimizer / 1e6:,.1f}, temporaries "
        f"{b.temporaries / 1e6:,.1f}, batches {b.batches / 1e6:,.1f}); of the host: replay "
        f"{b.replay / 1e9:,.2f} GB, unrolls {b.unrolls / 1e6:,.1f} MB, past selves "
        f"{b.past_selves / 1e6:,.1f} MB of {machine.host_memory / 1e9:,.0f} GB"
    )
    if found.inference_busy == found.inference_busy:
        console.print(
            f"the device computes for {found.inference_busy:.0%} of an inference call; the rest is "
            f"its dispatch"
        )
    console.print(f"bottleneck: {found.bottleneck}")
    console.print(f"[bold]{found.rate:,.0f} steps/s[/]")


if __name__ == "__main__":
    process.prepare()
    output.make_lasting()
    sys.exit(cli.exit_code(lambda: main(sys.argv[1:])))
