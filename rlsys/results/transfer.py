"""Tests how a policy plays in domains that it was not trained in: a table and a heat map.

OpenAI et al. 2018, "Learning Dexterous In-Hand Manipulation", https://arxiv.org/abs/1808.00177,
section 6.2 and tables 4 and 5.
"""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from rlsys.acting.playing import SEED, eval_policy, play
from rlsys.config import check_at_least
from rlsys.envs import NOTHING, Randomise, layout
from rlsys.envs.make import make_own
from rlsys.envs.randomise.effects import effects_of
from rlsys.envs.randomise.physics import physics_of
from rlsys.envs.randomise.variants import check_effect, plain
from rlsys.envs.randomise.words import NUMBERS, OF_XML, read
from rlsys.results import ranges
from rlsys.results.domains import BEYOND, Domain, held_out
from rlsys.results.domains import physics as only_physics
from rlsys.results.evaluate import Saved, cut, describe_successes, mean_interval, saved, summary
from rlsys.results.match import check_mode
from rlsys.running import files
from rlsys.running.algorithm import Algorithm
from rlsys.types import UserError

NAME = "transfer.json"
VARIANTS = 10  # so many draws of a domain's physics are played side by side, for all episodes
MOST = 5  # at most so many environments share a draw
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """Plays runs in domains that differ from those of training, and compares their scores."""

    episodes: int = 100
    """The number of episodes in each domain, rounded up to a multiple of 10, as each of a domain's
    10 draws of the physics plays equally many."""
    mode: str = ""
    """How policies play: sampled draws actions as in training, greedy plays the likeliest one. If
    empty, each plays in the way that is its algorithm's score."""
    physics: tuple[str, ...] = ()
    """Words of physics such as mass=scale:2:3; each adds one more domain. They are written as those
    of --randomise.physics."""
    grid: tuple[str, ...] = ()
    """Two words with a low and a high, such as mass=scale:0.5:3 damping=scale:0.1:10: a heat map
    shows the score over both numbers. Where the low is above 0, values are spaced evenly in the
    logarithm."""
    cells: int = 7
    """The number of values that the heat map has of each of the two."""
    seed: int = SEED
    """The environments, and everything that is drawn in them, follow from this seed."""

    def __post_init__(self):
        check_at_least(self, 1, "episodes")
        check_at_least(self, 2, "cells")
        check_at_least(self, 0, "seed")
        if len(self.grid) not in (0, 2):
            raise UserError(f"grid takes two words of physics, not {len(self.grid)}")
        for text in (*self.physics, *self.grid):
            word = read(text)
            if text in self.grid and NUMBERS[word.how] != ("low", "high"):
                raise UserError(f"grid takes words with a low and a high, not {text!r}")


class Run(NamedTuple):
    """Holds a trained policy that is tested, and plays it."""

    algorithm: Algorithm
    config: Any
    agent: Saved
    mode: str

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.run_dir)

    def play(self, randomise: Randomise, num_episodes: int, seed: int) -> dict[str, float]:
        """Plays episodes of the run's task, changed as `randomise` says, and returns
        evaluate.summary of them.

        Raises:
          UserError: the task cannot be changed in this way.
        """
        num_envs, num_episodes = shared(num_episodes)
        shifted = dataclasses.replace(
            randomise, variants=VARIANTS, redraw_steps=0, show_value=False, adapt=False
        )
        (task,) = self.config.tasks
        player = eval_policy(
            self.algorithm,
            self.config,
            self.agent.network,
            task._replace(randomise=shifted),
            num_envs * layout(task).players,
            seed,
            self.mode,
        )
        with contextlib.closing(player.envs):
            return summary(play(player, self.agent.params, num_episodes))


def shared(num_episodes: int) -> tuple[int, int]:
    """Returns the number of environments that play a domain, and that of the episodes that they
    play: num_episodes, rounded up so that each draw plays equally many. Neither depends on the run,
    so that all runs meet the same draws equally often."""
    each = -(-num_episodes // VARIANTS)
    rows = max(x for x in range(1, MOST + 1) if each % x == 0)
    return VARIANTS * rows, VARIANTS * each


def open_run(algorithm: Algorithm, config: Any, mode: str) -> Run:
    """Reads the newest policy of a run.

    Raises:
      UserError: the run plays games or several tasks, or its algorithm has no such mode.
      CheckpointError: it has no checkpoint.
    """
    if len(config.eval_tasks) > 1:
        raise UserError(f"transfer is for runs of one task, and {config.run_dir} has several")
    return Run(algorithm, config, saved(algorithm, config), check_mode(algorithm, mode))


def task_of(configs: Sequence[Any]) -> str:
    """Returns the name of the task that runs have in common.

    Raises:
      UserError: they play different tasks.
    """
    names = {task.name for config in configs for task in config.tasks}
    if len(names) > 1:
        raise UserError(f"the runs play {' and '.join(sorted(names))}, and not one task")
    return names.pop()


def domains_of(run: Run, words: Sequence[str] = ()) -> list[Domain]:
    """Returns the domains that follow from what a run was trained on.

    Args:
      words: words of physics, each of which makes one more domain.
    """
    (task,) = run.config.tasks
    envs = make_own(task._replace(randomise=NOTHING), layout(task).players, SEED)
    space, rate = envs.action_space, envs.steps_per_second
    effects = effects_of(task.randomise, task.env_id, envs.observation_space, space, rate)
    envs.close()
    own = [Domain(text, BEYOND, only_physics(text)) for text in words]
    counted = not np.issubdtype(space.dtype, np.floating)
    drawn = task.randomise.physics_words
    domains = held_out(
        run.config.randomise,
        effects,
        counted=counted,
        left_out=physics_of(plain(task), False).left_out if drawn else (),
        reached=ranges.reached(run.folder) if task.randomise.adapt else (),
    )
    return domains + own


def transfer(runs: Sequence[tuple[Algorithm, Any]], options: TransferConfig) -> Rows:
    """Plays runs in the domains that follow from the first of them that was randomised, or else
    from the first, prints a table, and writes each run's to transfer.json in its folder, with the
    heat map transfer.png if there is a grid.

    Returns:
      a row for each run and domain: run, domain, kind, mode, and evaluate.summary.

    Raises:
      UserError: the runs play several tasks, the words of the grid do not fit their task, or a
        file cannot be written.
    """
    options = dataclasses.replace(options, episodes=shared(options.episodes)[1])
    opened = [open_run(*run, options.mode) for run in runs]
    name = task_of([run.config for run in opened])
    for text in options.grid:
        (task,) = opened[0].config.tasks
        check_effect(plain(task._replace(randomise=only_physics(text))))
    first = next((run for run in opened if run.config.randomise.draws), opened[0])
    found = domains_of(first, options.physics)
    print(
        f"{name}: {len(found)} domains, which follow from {first.folder}; {options.episodes} "
        f"episodes in each",
        flush=True,
    )
    print("".join(f"  column {i + 1}: {run.folder} ({run.mode})\n" for i, run in enumerate(opened)))
    rows: Rows = []
    for domain in found:
        try:
            played = [run.play(domain.randomise, options.episodes, options.seed) for run in opened]
        except UserError as error:
            print(f"left out: {domain.name}, as {error}", flush=True)
            continue
        for run, result in zip(opened, played, strict=True):
            about = {"run": str(run.folder), "domain": domain.name, "kind": domain.kind}
            rows.append({**about, "mode": run.mode, **result})
        cells = "  ".join(map(_cell, played))
        print(f"  {domain.name:<44.44}  {domain.kind:8}  {cells}", flush=True)
        for i, told in enumerate(map(describe_successes, played)):
            if told:
                print(f"      column {i + 1}: {told}", flush=True)
    for run in opened:
        own = [{k: v for k, v in row.items() if k != "run"} for row in rows
               if row["run"] == str(run.folder)]  # fmt: skip
        kept: dict[str, Any] = {"episodes": options.episodes, "seed": options.seed, "rows": own}
        _write(run, kept)
        if options.grid:
            _write(run, kept | {"grid": grid(run, options)})
    return rows


def grid(run: Run, options: TransferConfig) -> dict[str, Any]:
    """Plays a run at each pair of values of two parameters of physics.

    Returns:
      "words": the two words; "values": for each word, its values as spread() gives them; "score":
      the mean returns [values of the first][values of the second]; "ended": in the same order, the
      number of episodes that have ended.
    """
    words = [read(text) for text in options.grid]
    values = [spread(word.numbers[0], word.numbers[1], options.cells) for word in words]

    def fixed(i: int, value: float) -> str:
        how, together = words[i].how.removeprefix("log"), ":all" * (words[i].how in OF_XML)
        return f"{words[i].place}={how}:{value:.6g}:{value:.6g}{together}"

    def play_at(a: float, b: float) -> dict[str, float]:
        both = Randomise(physics=(fixed(0, a), fixed(1, b)))
        return run.play(both, options.episodes, options.seed)

    played = [[play_at(a, b) for b in values[1]] for a in values[0]]
    score, ended = ([[x[key] for x in row] for row in played] for key in ("mean", "ended"))
    axes = {"words": list(options.grid), "values": [x.tolist() for x in values]}
    return {**axes, "score": score, "ended": ended}


def spread(low: float, high: float, count: int) -> np.ndarray:
    """Returns numbers [count] from low to high, evenly spaced: in the logarithm if low > 0."""
    return np.geomspace(low, high, count) if low > 0 else np.linspace(low, high, count)


def _cell(result: dict[str, float]) -> str:
    """Writes a mean and its 95 % interval as text, and how many episodes have ended if not all
    have."""
    low, high, told = result["interval_95_low"], result["interval_95_high"], cut(result)
    return f"{result['mean']:8.4g} ({low:.4g} to {high:.4g}){told and f', {told}'}"


def _write(run: Run, about: dict[str, Any]) -> None:
    """Writes a run's transfer.json, and its heat map if there is a grid.

    Raises:
      UserError: a file cannot be written.
    """
    path = run.folder / NAME
    try:
        files.write_text(path, json.dumps(about, indent=2) + "\n")
        if "grid" in about:
            with files.replacing(path.with_suffix(".png")) as new:
                draw(about["grid"], run.folder.name).savefig(new, dpi=110, format="png")
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}") from None
    print(f"saved {path}{' and transfer.png' if 'grid' in about else ''}")


def draw(found: dict[str, Any], title: str) -> Figure:
    """Draws the score over two parameters as a heat map; found: as grid() returns it."""
    figure = Figure(figsize=(6.0, 4.6), layout="constrained")
    axes = figure.subplots()
    score = np.array(found["score"])
    image = axes.imshow(score, origin="lower", aspect="auto", cmap="viridis")
    (first, second), (rows, columns) = found["words"], found["values"]
    axes.set_xticks(range(len(columns)), [f"{x:.3g}" for x in columns])
    axes.set_yticks(range(len(rows)), [f"{x:.3g}" for x in rows])
    axes.set(xlabel=second.partition("=")[0], ylabel=first.partition("=")[0], title=title)
    for (i, j), value in np.ndenumerate(score):
        bright = value > (score.min() + score.max()) / 2
        axes.text(
            j, i, f"{value:.3g}", ha="center", va="center", fontsize=7,
            color="black" if bright else "white",
        )  # fmt: skip
    figure.colorbar(image, ax=axes, label="mean return of the episodes")
    return figure


def table(tested: dict[str, list[Rows]]) -> list[str]:
    """Returns lines of markdown: a row for each domain, a column for each agent.

    tested: for each agent, by name, the rows of transfer.json of each of its seeds. A cell is the
    mean over seeds with its 95 % interval; of one seed, that over episodes, marked with a star.
    Where not all episodes have ended, it says how many have.
    """
    domains = {
        (row["domain"], row["kind"]): None
        for seeds in tested.values()
        for rows in seeds
        for row in rows
    }
    head = ["domain", "kind", *tested]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for domain, kind in domains:
        cells = []
        for seeds in tested.values():
            found = [row for rows in seeds for row in rows if row["domain"] == domain]
            if len(found) > 1:
                names = ("mean", "interval_95_low", "interval_95_high")
                over_seeds = zip(names, mean_interval(x["mean"] for x in found), strict=True)
                total = {key: sum(x[key] for x in found) for key in ("episodes", "ended")}
                cells.append(_cell(dict(over_seeds) | total).strip())
            else:
                cells.append(f"{_cell(found[0]).strip()} *" if found else "-")
        lines.append(f"| {' | '.join([domain, kind, *cells])} |")
    return lines


def read_rows(folder: Path) -> Rows:
    """Reads the rows of a run's transfer.json; none if it was not tested.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / NAME
    try:
        return json.loads(path.read_text())["rows"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
