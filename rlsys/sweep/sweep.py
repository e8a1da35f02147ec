"""The run of a sweep: all members together, in a folder of its own."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlsys import algorithms
from rlsys.acting.actors import Actors, make_envs
from rlsys.config import from_dict
from rlsys.envs import shared_spaces
from rlsys.learning import learner
from rlsys.learning.sampler import Sampler
from rlsys.replay import memory
from rlsys.replay.replay import Replay
from rlsys.running import health, initial, process
from rlsys.running.algorithm import Algorithm, FromSamples
from rlsys.running.display import Display
from rlsys.running.first_lines import first_lines
from rlsys.running.health import Health
from rlsys.running.log import Log
from rlsys.running.run import Run
from rlsys.running.session import Session
from rlsys.sweep import vmapped
from rlsys.sweep.ending import conclude
from rlsys.sweep.members import Member, check_together
from rlsys.sweep.status import Status
from rlsys.sweep.updates import SampleUpdates, UnrollUpdates, make_samplers
from rlsys.types import Stopped


def sweep(name: str, members: list[Member], folder: str = "", *, resume: bool = False) -> Path:
    """Trains all members as one program, evaluates each, and returns the folder.

    Args:
      name: the algorithm's.
      members: runs that differ in numbers and seeds only.
      folder: the sweep's; if empty one in runs/, as of a single run.
      resume: go on with the sweep in folder.

    Raises:
      UserError: the members cannot be one program, or do not fit the memory.
      Stopped: a signal stopped the sweep, which can be resumed.
    """
    check_together([member.config for member in members])
    algorithm = algorithms.find(name)
    configs = [dataclasses.replace(m.config, run_dir=folder) for m in members]
    with open_sweep(algorithm, members, configs, resume=resume) as (session, updates, status):
        while not session.ended:
            for unroll in session.unrolls():
                updates.learn(session, unroll)
            if session.line_due:
                steps, more = np.asarray(session.state.step), measured(algorithm, configs, session)
                status.write(session.run, session.metrics, steps, more)
                session.metrics.clear()
            session.save(**status.state())
        states = jax.device_get(session.state)
    if session.run.stopped:
        raise Stopped
    with session.run.ending_well():
        conclude(algorithm, session.network, configs, states, session.run, status)
    return session.folder


def measured(algorithm: Algorithm, configs: list[Any], session: Session) -> list[dict[str, float]]:
    """Returns what the line of each member's log has beside means over updates."""
    played = [vmapped.split(x, len(configs), configs[0].join) for x in session.latest]
    states = session.state._replace(params=learner.snapshot(session.state.params))
    found = []
    for i, config in enumerate(configs):
        state = vmapped.one(states, i)
        own = [of_members[i] for of_members in played]
        more = health.dead_units(session.network, state.params, own)
        if isinstance(algorithm.learning, FromSamples):
            more |= session.sampled(session.samplers[i])
        else:
            more |= algorithm.learning.line(config, state, *session.since_change)
        found.append(more)
    return found


@contextlib.contextmanager
def open_sweep(
    algorithm: Algorithm, members: list[Member], configs: list[Any], *, resume: bool
) -> Iterator[tuple[Session, UnrollUpdates | SampleUpdates, Status]]:
    """Opens the run of a sweep, and closes it whatever happens."""
    process.check_32_bits()
    config, num = configs[0], len(members)
    mesh = vmapped.make_mesh(num, config.actor_devices)
    with contextlib.ExitStack() as stack:
        display = stack.enter_context(Display())
        with display.phase("making environments"):
            pools = make_envs(*configs)
        network = algorithm.make_network(config, *shared_spaces(pools))
        policies = vmapped.make_policies([algorithm.make_policies(network, c) for c in configs])
        learning, replays = algorithm.learning, list[Replay]()
        updates: UnrollUpdates | SampleUpdates
        if isinstance(learning, FromSamples):
            replays = [learning.make_replay(c, network) for c in configs]
            updates = SampleUpdates(learning, network, configs, mesh, config.join, replays)
        else:
            updates = UnrollUpdates(learning, network, configs, mesh, config.join)
        start = None if resume else initial.read(algorithm, config, network)
        with display.phase("making the networks"):
            settings = vmapped.place_numbers(mesh, configs)
            new = [initial.begin(algorithm.make_state(network, c), start, c) for c in configs]
            states = vmapped.stack(new)
            states = learner.place(mesh, states, vmapped.SHARDED)
        with display.phase(f"compiling {num} members as one program"):
            takes_turns = any(len(envs.to_move) for envs in pools)
            example = vmapped.example(
                policies[0], states.params, network, config, num, config.join, takes_turns
            )
            needs = updates.compile(settings, states, example)
        sentence = memory.check_sweep(num, *needs, mesh.devices.flat)
        content = {"algorithm": algorithm.name, "members": [_to_json(m) for m in members]}
        names = ["learner", "actors", *(f"replay-{i}" for i in range(len(replays)))]
        run = stack.enter_context(
            Run(algorithm.name, config, names, resume=resume, content=content, display=display)
        )
        lines = first_lines(algorithm.presets, config, network, mesh, states.params, num)
        for line in (*lines, *([start.sentence] if start else []), sentence):
            run.log.say(line)
        resumed = run.env_steps if resume else None
        folders = [run.folder / "members" / str(i) for i in range(num)]
        healths = [Health(c, run.changes) for c in configs]
        options = {"group": config.num_envs, "display": Display(shown=False)}
        logs = [
            stack.enter_context(Log(path, c.env_steps, resumed, health=health, config=c, **options))
            for path, health, c in zip(folders, healths, configs, strict=True)
        ]
        status = Status(members, logs, healths)
        run.log.display.below, run.log.display.num_members = status.table, num
        actors = Actors(
            pools, policies, network.initial, config, run.log.time, config.join, members=configs,
            stopping=run.stopping,
        )  # fmt: skip
        stack.callback(actors.close)
        samplers = dict[str, Sampler]()
        if isinstance(learning, FromSamples):
            samplers = make_samplers(learning, configs, replays, run)
        share = config.num_envs // config.actors
        session = Session(
            run, config, config, network, actors, mesh, settings, states, samplers,
            state_spec=vmapped.SHARDED, num_members=num,
            name_episodes=functools.partial(status.episodes, share=share),
        )  # fmt: skip
        stack.callback(session.close)
        if resume:
            status.restore(session.restore())
        yield session, updates, status


def _to_json(member: Member) -> dict[str, Any]:
    return member._replace(config=dataclasses.asdict(member.config))._asdict()


def of_json(algorithm: str, content: dict[str, Any]) -> Member:
    """A member, from a sweep's config.json."""
    config = from_dict(algorithms.find(algorithm).Config, content["config"])
    return Member(**{**content, "config": config})
