"""The run of a sweep: all members together, in a folder of its own."""

import contextlib
import csv
import dataclasses
import math
from collections import deque
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table

from rlsys import actor, evaluate, learner, memory, train
from rlsys.checkpoint import Checkpoints
from rlsys.config import from_dict
from rlsys.log import Log
from rlsys.run import Run
from rlsys.sweep import program
from rlsys.sweep.learners import FromReplays, FromUnrolls, Metrics
from rlsys.sweep.members import Member, check_together
from rlsys.types import UserError

SHOWN = 20  # members of the live table, the best


class Board:
    """How each member does: its log, its returns, and whether it still learns."""

    def __init__(self, members: list[Member], logs: list[Log]):
        self.members, self._logs = members, logs
        self._returns: list[deque] = [deque(maxlen=100) for _ in members]
        self.died: dict[int, int] = {}  # member -> learner step

    def returns(self) -> list[float]:
        """Mean of each member's last 100 episodes; nan without any."""
        return [sum(x) / len(x) if x else math.nan for x in self._returns]

    def episodes(self, episodes, share: int) -> list:
        """Takes episodes of environments that belong to the members, `share` each, in order; gives
        them back under the members' names."""
        named = []
        for episode in episodes:
            i = episode.env // share
            self._returns[i].append(episode.episode_return)
            self._logs[i].episodes([episode])
            named.append(episode._replace(task=self.members[i].name))
        return named

    def write(self, run: Run, metrics: Metrics) -> dict[str, float]:
        """A line in each living member's log; the means of those for the sweep's own.

        Raises:
          FloatingPointError: no member is alive.
        """
        fetched = jax.device_get(metrics)
        flat = {
            name: np.concatenate([m[name].reshape(len(self.members), -1) for m in fetched], axis=1)
            for name in (fetched or [{}])[0]
        }  # [S, updates]
        bad = np.zeros(len(self.members), bool)
        for i in range(len(self.members)):
            wrong = [name for name, x in flat.items() if not np.isfinite(x[i]).all()]
            bad[i] = bool(wrong)
            if i in self.died:
                continue
            if wrong:
                at = int(np.argmin(np.isfinite(flat[wrong[0]][i])))
                self.died[i] = run.learner_steps - flat[wrong[0]].shape[1] + 1 + at
                run.log.say(
                    f"{self.members[i].name}: {wrong[0]} is no finite number at learner step "
                    f"{self.died[i]}; it is set aside, the others go on"
                )
            else:
                means = {name: x[i].mean() for name, x in flat.items()}
                self._logs[i].write(run.env_steps, run.learner_steps, means)
        if len(self.died) == len(self.members):
            raise FloatingPointError(f"no member learns at learner step {run.learner_steps}")
        return {name: float(x[~bad].mean()) for name, x in flat.items()}

    def table(self) -> Table:
        """The members, best first."""
        table = Table(box=None, padding=(0, 2))
        for column in ("member", "return of the last 100 episodes", ""):
            table.add_column(column, justify="left" if column == "member" else "right")
        means = self.returns()
        key = [m if math.isfinite(m) else -math.inf for m in means]
        order = sorted(range(len(means)), key=lambda i: -key[i])
        for i in order[:SHOWN]:
            state = f"set aside at learner step {self.died[i]}" if i in self.died else ""
            value = f"{means[i]:,.4g}" if math.isfinite(means[i]) else "-"
            table.add_row(self.members[i].name, value, state)
        if len(order) > SHOWN:
            table.add_row(f"and {len(order) - SHOWN} more", "", "")
        return table


def sweep(algorithm: str, members: list[Member], folder: str = "", *, resume: bool = False) -> Path:
    """Trains all members as one program, evaluates each, and returns the folder.

    Args:
      algorithm: its name.
      members: who differ in numbers and seeds only.
      folder: of the sweep; runs/<algorithm>-<task>-<time> if empty.
      resume: go on with the sweep in folder.

    Raises:
      UserError: the members cannot be one program, or do not fit the memory.
    """
    check_together([member.config for member in members])
    module = train.algorithm(algorithm)[0]
    config = dataclasses.replace(members[0].config, run_dir=folder)
    content = {"algorithm": algorithm, "members": [_to_json(member) for member in members]}
    num, mesh = len(members), program.make_mesh(len(members), config.actor_devices)
    configs = [dataclasses.replace(config, **_numbers(m.config)) for m in members]
    pools = actor.make_envs(*configs)
    network = module.make_network(config, pools)
    join = getattr(config, "join", config.actors)
    kind = FromReplays if hasattr(module, "make_replay") else FromUnrolls
    same = [dataclasses.replace(c, seed=config.seed) for c in configs]  # one pytree structure
    learners = kind(module, network, same, mesh, join)
    names = ["learner", "actors", *learners.trees]
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(Run(algorithm, config, names, resume=resume, content=content))
        resumed = run.env_steps if resume else None
        folders = [run.folder / "members" / str(i) for i in range(num)]
        logs = [
            stack.enter_context(Log(path, config.env_steps, resumed, display=False))
            for path in folders
        ]
        board = Board(members, logs)
        run.log.below = board.table
        policies = program.make_policies([module.make_policies(network, c) for c in configs])
        actors = actor.Actors(
            pools, policies, network.initial, config, run.log, join, members=configs
        )
        stack.callback(actors.close)
        states = program.stack([module.make_state(network, c) for c in configs])
        if resume:
            templates = {"learner": states, "actors": actors.states}
            trees, meta = run.restore(templates | dict.fromkeys(learners.trees))
            states, actors.states = trees["learner"], trees["actors"]
            learners.restore(trees, meta)
            board.died = {int(i): step for i, step in meta["died"].items()}
            actors.restart(run.number)
        states = learner.place(mesh, states, program.SHARDED)
        metrics: Metrics = []
        share = config.num_envs // config.actors

        def learn_from(unroll: actor.Unroll):
            nonlocal states
            states, more = learners.learn(run, states, unroll)
            metrics.extend(more)
            run.env_steps += unroll.env_steps // num
            run.log.episodes(board.episodes(actors.pop_episodes(), share))

        run.log.say(f"{num} members, {mesh.size} device{'s' * (mesh.size > 1)}")
        checked = False
        while not run.ended:
            unroll = actors.get(states.params, run.learner_steps)
            if not checked:
                run.log.say(_check_memory(learners.num_bytes(states, unroll), num))
                checked = True
            learn_from(unroll)
            write, save = run.due()
            if save:
                for unroll in actors.drain(states.params, run.learner_steps):
                    learn_from(unroll)
            if write:
                run.log.write(run.env_steps, run.learner_steps, board.write(run, metrics))
                metrics.clear()
            if save:
                arrays, meta = learners.state()
                trees = {"learner": states, "actors": actors.states, **arrays}
                run.save(trees, {**meta, "died": board.died})
                if not run.ended:
                    actors.restart(run.number)
        states = jax.device_get(states)
    if not run.stopped:
        _conclude(algorithm, module, network, configs, states, run, board)
    return run.folder


def _numbers(config: Any) -> dict[str, Any]:
    """The fields in which members may differ."""
    leaves = jax.tree_util.tree_leaves_with_path(config)
    names = [path[0].name for path, _ in leaves] + ["seed"]
    return {name: getattr(config, name) for name in names}


def _check_memory(num_bytes: int, num_members: int) -> str:
    free = memory.free_bytes()
    sentence = (
        f"{num_members} members take {num_bytes / 1e9:.2f} GB beside their environments, "
        f"of {free / 1e9:.1f} GB free"
    )
    if num_bytes > 0.9 * free:
        fit = int(0.8 * num_members * free / num_bytes)
        raise UserError(f"{sentence}: {fit} members would fit")
    return sentence


def _conclude(algorithm, module, network, configs, states, run: Run, board: Board) -> None:
    """Evaluates each member that lives; writes members.csv and a run's folder for each."""
    rows = []
    for i, (member, config) in enumerate(zip(board.members, configs, strict=True)):
        path = run.folder / "members" / str(i)
        row = {"member": i, **{k[2:]: v for k, v in member.values.items()}, "seed": config.seed}
        row |= {"env_steps": run.env_steps, "learner_steps": run.learner_steps}
        row["training_return"] = board.returns()[i]
        if i in board.died:
            rows.append(row | {"set_aside_at": board.died[i]})
            continue
        state = program.one(states, i)
        own = dataclasses.replace(config, run_dir=str(path))
        Run.write_config(path, {"algorithm": algorithm, "config": dataclasses.asdict(own)})
        counters = {"checkpoint": 1, "env_steps": run.env_steps, "learner_steps": run.learner_steps}
        Checkpoints(path / "checkpoints").save(1, {"learner": state}, {"counters": counters})
        played = evaluate.play_tasks(
            module.make_player, config, network, state.params, module.PLAYERS[:1],
            config.eval_episodes,
        )  # fmt: skip
        results = evaluate.write(path, played)
        row |= {f"{kind} return": result["mean"] for kind, result in results.items()}
        rows.append(row | {f"{kind} interval_95": r["interval_95"] for kind, r in results.items()})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (run.folder / "members.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        value = ", ".join(f"{k} {row[k]:.4g}" for k in columns if k.endswith("return") and k in row)
        gone = f", set aside at learner step {row['set_aside_at']}" if "set_aside_at" in row else ""
        print(f"{board.members[row['member']].name}: {value}{gone}")
    print(
        f"{run.folder}: config.json, metrics.jsonl, checkpoints/, members.csv, and each member's "
        f"run in members/\nmake eval RUN={run.folder}/members/0    more episodes of a member"
    )


def _to_json(member: Member) -> dict[str, Any]:
    return member._replace(config=dataclasses.asdict(member.config))._asdict()


def of_json(algorithm: str, content: dict[str, Any]) -> Member:
    """A member, from a sweep's config.json."""
    config = from_dict(train.algorithm(algorithm)[1].Config, content["config"])
    return Member(**{**content, "config": config})
