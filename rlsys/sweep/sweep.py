"""The run of a sweep: all members together, in a folder of its own."""

import contextlib
import csv
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlsys import train
from rlsys.acting.actors import Actors, make_envs
from rlsys.acting.unroll import Unroll
from rlsys.config import from_dict
from rlsys.learning import learner
from rlsys.replay import memory
from rlsys.results import evaluate
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.health import Health
from rlsys.running.log import Log
from rlsys.running.run import Run
from rlsys.sweep import vmapped
from rlsys.sweep.members import Member, check_together
from rlsys.sweep.status import Board
from rlsys.sweep.updates import FromReplays, FromUnrolls, Metrics


def sweep(algorithm: str, members: list[Member], folder: str = "", *, resume: bool = False) -> Path:
    """Trains all members as one program, evaluates each, and returns the folder.

    Args:
      algorithm: its name.
      members: who differ in numbers and seeds only.
      folder: of the sweep; one in runs/, as of a single run, if empty.
      resume: go on with the sweep in folder.

    Raises:
      UserError: the members cannot be one program, or do not fit the memory.
    """
    check_together([member.config for member in members])
    module = train.algorithm(algorithm)[0]
    content = {"algorithm": algorithm, "members": [_to_json(member) for member in members]}
    configs = [dataclasses.replace(m.config, run_dir=folder) for m in members]
    config, pools = configs[0], make_envs(*configs)
    num, mesh = len(members), vmapped.make_mesh(len(members), config.actor_devices)
    network = module.make_network(config, pools)
    join = getattr(config, "join", config.actors)
    policies = vmapped.make_policies([module.make_policies(network, c) for c in configs])
    kind = FromReplays if hasattr(module, "make_replay") else FromUnrolls
    learners = kind(module, network, configs, mesh, join)
    states = vmapped.stack([module.make_state(network, c) for c in configs])
    states = learner.place(mesh, states, vmapped.SHARDED)
    print(f"compiling {num} members as one program, for {mesh.size} device(s)", flush=True)
    example = vmapped.example(policies[0], states.params, network, config, num, join)
    needs = learners.compile(states, example)
    print(memory.check_sweep(num, *needs, mesh.devices.flat), flush=True)
    with contextlib.ExitStack() as stack:
        names = ["learner", "actors", *learners.trees]
        run = stack.enter_context(Run(algorithm, config, names, resume=resume, content=content))
        resumed = run.env_steps if resume else None
        folders = [run.folder / "members" / str(i) for i in range(num)]
        healths = [Health(c) for c in configs]
        options = {"group": config.num_envs, "display": False}
        logs = [
            stack.enter_context(Log(path, config.env_steps, resumed, health=health, **options))
            for path, health in zip(folders, healths, strict=True)
        ]
        board = Board(members, logs, healths)
        run.log.display.below, run.log.display.num_members = board.table, num
        actors = Actors(
            pools, policies, network.initial, config, run.log.time, join, members=configs
        )
        stack.callback(actors.close)
        if resume:
            templates = {"learner": states, "actors": actors.states}
            trees, meta = run.restore(templates | dict.fromkeys(learners.trees))
            states = learner.place(mesh, trees["learner"], vmapped.SHARDED)
            actors.states = trees["actors"]
            learners.restore(trees, meta)
            board.restore(meta)
            actors.restart(run.number)
        metrics: Metrics = []
        share = config.num_envs // config.actors

        def learn_from(unroll: Unroll):
            nonlocal states
            progress = np.full(num, run.env_steps / config.env_steps, np.float32)
            states = states._replace(progress=learner.place(mesh, progress, vmapped.SHARDED))
            states, more = learners.learn(run, states, unroll)
            metrics.extend(more)
            run.env_steps += unroll.env_steps // num
            run.log.episodes(board.episodes(actors.pop_episodes(), share))

        while not run.ended:
            learn_from(actors.get(states.params, run.learner_steps))
            write, save = run.due()
            if save:
                for unroll in actors.drain(states.params, run.learner_steps):
                    learn_from(unroll)
            if write:
                means = board.write(run, metrics, np.asarray(states.step))
                counters = run.env_steps, run.learner_steps
                run.log.write(*counters, means, all_episodes=run.saving)
                metrics.clear()
            if save:
                arrays, meta = learners.state()
                trees = {"learner": states, "actors": actors.states, **arrays}
                run.save(trees, {**meta, **board.state()})
                if not run.ended:
                    actors.restart(run.number)
        states = jax.device_get(states)
    if not run.stopped:
        _conclude(algorithm, module, network, configs, states, run, board)
    return run.folder


def _conclude(algorithm, module, network, configs, states, run: Run, board: Board) -> None:
    """Evaluates each member that lives; writes members.csv and a run's folder for each."""
    rows, cuts = [], {}
    for i, (member, config) in enumerate(zip(board.members, configs, strict=True)):
        path = run.folder / "members" / str(i)
        row = {"member": i, **{k[2:]: v for k, v in member.values.items()}, "seed": config.seed}
        steps = {"env_steps": run.env_steps, "learner_steps": int(states.step[i])}
        row |= steps
        row["training_return"] = board.returns()[i]
        row["health"] = board.healths[i].summary().removeprefix("health: ")
        if i in board.died:
            rows.append(row | {"set_aside_at": board.died[i]})
            continue
        state = vmapped.one(states, i)
        own = dataclasses.replace(config, run_dir=str(path))
        Run.write_config(path, {"algorithm": algorithm, "config": dataclasses.asdict(own)})
        counters = {"counters": {"checkpoint": 1, **steps}}
        Checkpoints(path / "checkpoints").save(1, {"learner": state}, counters)
        played = evaluate.play_tasks(
            module.make_player, config, network, state.params, module.EVAL_MODES,
            config.eval_episodes,
        )  # fmt: skip
        results = evaluate.write(path, module.SCORE, played)["results"]
        scores = [r["mean"] for name, r in results.items() if name.startswith(module.SCORE)]
        row |= {"score": module.SCORE, "score_return": float(np.mean(scores))}
        row |= {f"{name} return": result["mean"] for name, result in results.items()}
        for key in ("interval_95_low", "interval_95_high", "episodes", "ended"):
            row |= {f"{name} {key}": result[key] for name, result in results.items()}
        rows.append(row)
        few = {name: cut for name, result in results.items() if (cut := evaluate.cut(result))}
        cuts[i] = "".join(f"; {name}: {cut}" for name, cut in few.items())
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (run.folder / "members.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    print(f"members, the best first; score: the {module.SCORE} return")
    for row in sorted(rows, key=lambda row: -row.get("score_return", -np.inf)):
        value = ", ".join(f"{k} {row[k]:.4g}" for k in columns if k.endswith("return") and k in row)
        gone = f", set aside at learner step {row['set_aside_at']}" if "set_aside_at" in row else ""
        i = row["member"]
        print(f"{board.members[i].name}: {value}{gone}{cuts.get(i, '')}")
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
