"""Runs that are killed at random moments and resumed must equal the run that was never killed.

    python -m experiments.kill [--kills 20] [--runs runs/kill] [--seed 0]

For every algorithm one run is trained to its end, and another is killed by SIGKILL again and again
and resumed each time. Moments are drawn evenly over the run's environment steps, and from there
within the time between two lines of the log: in imports and compilation, while it learns, and while
a checkpoint is written. A run that is killed before its first checkpoint is begun again. Both
must hold the same to the bit: the newest checkpoint (parameters, optimiser, actors, replay,
counters), every number of the log but times and rates, and the evaluation.

Unrolls that are played ahead change nothing, as a run of one task repeats itself to the bit.
"""

import dataclasses
import json
import math
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.study import RESULTS, check_only, write
from rlsys import algorithms, cli
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.checkpoint.arrays import is_key


@dataclasses.dataclass(frozen=True)
class Options:
    """Kills runs of every algorithm at random moments, resumes them, and compares."""

    kills: int = 20
    """Kills of each algorithm's run."""
    env_steps: int = 300_000
    """Environment steps of each run, with 30 checkpoints."""
    words: str = "--num-envs 64 --eval-episodes 16"
    """More fields of each run."""
    runs: str = "runs/kill"
    """The folder of the runs; runs that are there are removed first."""
    seed: int = 0
    """The moments of the kills follow from it."""
    csv: str = str(RESULTS / "kill.csv")
    """The file with a row for each kill, written as it goes."""
    only: tuple[str, ...] = algorithms.NAMES
    """The algorithms."""

    def __post_init__(self):
        check_only("algorithm", self.only, algorithms.NAMES)


def start(*words: object, output: Path) -> subprocess.Popen:
    """Start a command of rlsys.train, whose output is added to a file."""
    command = [sys.executable, "-m", "rlsys.train", *map(str, words)]
    with output.open("a") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen, output: Path) -> None:
    """Wait for the end of a run.

    Raises:
      SystemExit: it failed.
    """
    if process.wait():
        sys.exit(f"a run failed, see {output}")


def lines(folder: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a run's log, in which a kill may have left half a line."""
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def played(folder: Path) -> int:
    """Return the environment steps in the last line of a run's log."""
    return max((line["env_steps"] for line in lines(folder)), default=0)


def saved(folder: Path) -> int | None:
    """Return the environment steps in a run's newest checkpoint, None without one."""
    checkpoints = Checkpoints(folder / "checkpoints")
    numbers = checkpoints.numbers()
    return checkpoints.meta(numbers[-1])["counters"]["env_steps"] if numbers else None


def content(folder: Path) -> dict[str, Any]:
    """Read all of a run that must be equal, leaf by leaf."""
    checkpoints = Checkpoints(folder / "checkpoints")
    number = checkpoints.numbers()[-1]
    names = json.loads((checkpoints.directory / str(number) / "meta.json").read_text())["trees"]
    _, trees, meta = checkpoints.restore(dict.fromkeys(names), number)
    found: dict[str, Any] = {"checkpoint": number, "meta": json.dumps(meta, sort_keys=True)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(trees):
        leaf = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        found[jax.tree_util.keystr(path)] = (leaf.dtype.str, leaf.shape, leaf.tobytes())
    for i, line in enumerate(lines(folder)):
        found |= {
            f"line {i} {name}": value
            for name, value in line.items()
            if "second" not in name and not name.startswith("time/")
        }
    found["results"] = json.loads((folder / "evaluation.json").read_text())["results"]
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """List what differs between two runs' contents."""
    return [name for name in one | other if name not in one or one[name] != other.get(name)]


def kill_again_and_again(
    train: list[str], folder: Path, moments: list[float], wait: float, draw: random.Random
) -> list[dict[str, Any]]:
    """Train a run to its end under kills.

    Args:
      train: the words that begin it.
      folder: its folder.
      moments: environment steps from which it is to be killed, in order.
      wait: seconds; a kill comes up to so many later. If it has played those steps already, the
        kill comes up to 5 seconds after the process has started.
      draw: draws how much later.

    Returns:
      A row for each kill: the steps then played, whether a checkpoint was half-written, and the
      steps that the run went on from, "" where it began again.
    """
    rows, output = list[dict[str, Any]](), folder.with_suffix(".txt")
    for moment in [*moments, math.inf]:
        at = saved(folder)
        if rows:
            rows[-1]["resumed_from"] = "" if at is None else at
        if at is None:
            shutil.rmtree(folder, ignore_errors=True)
        process = start(*(train if at is None else ["resume", folder]), output=output)
        ahead = moment > (at or 0)
        while ahead and process.poll() is None and played(folder) < moment:
            time.sleep(0.02)
        if math.isinf(moment):
            finish(process, output)
            break
        time.sleep(draw.uniform(0, wait if ahead else 5.0))
        process.kill()
        if process.wait() >= 0:  # it came to its end before
            continue
        half = any((folder / "checkpoints").glob("saving-*"))
        rows.append({"kill": len(rows) + 1, "env_steps": played(folder), "half_written": half})
    return rows


def main(options: Options) -> None:
    """Try each algorithm, write the csv and print a table.

    Raises:
      SystemExit: a run differs from the one that was never killed.
    """
    rows, wrong, draw = list[dict[str, Any]](), list[str](), random.Random(options.seed)
    print(f"{'algorithm':10} {'kills':>5}  {'half-written':>12}  {'begun again':>11}  equal")
    for name in options.only:
        whole, killed = (Path(options.runs) / f"{name}-{x}" for x in ("whole", "killed"))
        for folder in (whole, killed):
            shutil.rmtree(folder, ignore_errors=True)
        whole.parent.mkdir(parents=True, exist_ok=True)
        steps = options.env_steps
        words = [name, *options.words.split(), f"--env-steps={steps}"]
        words += [f"--checkpoint-every={steps // 30}", f"--log-every={steps // 60}", "--run-dir"]
        output = whole.with_suffix(".txt")
        finish(start(*words, whole, output=output), output)
        wait = 2 * lines(whole)[-1]["seconds"] / len(lines(whole))
        moments = sorted(draw.uniform(0, 0.95 * steps) for _ in range(options.kills))
        found = kill_again_and_again([*words, str(killed)], killed, moments, wait, draw)
        wrong += (differ := differences(content(whole), content(killed)))
        rows += [{"algorithm": name, **row, "equal": not differ} for row in found]
        write(Path(options.csv), rows)
        again = sum(row["resumed_from"] == "" for row in found)
        half = sum(row["half_written"] for row in found)
        said = "no: " + ", ".join(differ[:3]) if differ else "yes"
        print(f"{name:10} {len(found):5}  {half:12}  {again:11}  {said}", flush=True)
    if wrong:
        sys.exit("a run that was killed differs from the one that was not")


if __name__ == "__main__":
    cli.run(main, Options(), __doc__)
