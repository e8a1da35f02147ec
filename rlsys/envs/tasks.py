"""Tasks: the words that name them, and which back-end plays each.

    Pong-v5                              an EnvPool id
    gymnasium/my_package:MyEnv-v0        a Gymnasium id, which may name a module to import
    jax/my_package.my_module:make        a function that returns an environment in JAX
    smax/5m                              a game of two teams of JaxMARL's SMAX
    teams/my_package.my_module:Game      a game of two teams of one's own, in JAX

Each may be followed by options of its own, `:option=value`; an option always has a `=`.
"""

import dataclasses
import difflib
import re
from typing import Any

from rlsys.envs import envpool_settings, smax
from rlsys.envs.envpool import EnvPoolEnvs
from rlsys.envs.games import GameEnvs
from rlsys.envs.gymnasium import GymnasiumEnvs
from rlsys.envs.jax_envs import JaxEnvs
from rlsys.envs.options import DEFAULTS, Options, Task, check_family
from rlsys.envs.players import players_of
from rlsys.envs.teams import TEAMS, Layout, TeamEnvs, is_team_game, team_size
from rlsys.types import UserError

# By the word before the slash of an env_id; any other id is EnvPool's.
BACKENDS: dict[str, Any] = {
    "gymnasium": GymnasiumEnvs,
    "jax": JaxEnvs,
    "smax": TeamEnvs,
    "teams": TeamEnvs,
}
# Options that change the learner's rewards and episodes, or the speed, but not what is scored.
UNTOLD = ("life_loss_ends", "clip_rewards", "reward_scale", "event_rewards", "processes")
CHEAP = (*envpool_settings.CHEAP, *BACKENDS)  # families that one thread steps


def backend_of(env_id: str) -> type[EnvPoolEnvs | GymnasiumEnvs | JaxEnvs | TeamEnvs]:
    """Returns the back-end that plays a task."""
    word, slash, _ = env_id.partition("/")
    if slash and word in BACKENDS:
        return BACKENDS[word]
    return GameEnvs if is_game(env_id) else EnvPoolEnvs


def both_sides(task: Task) -> bool:
    """Returns whether the agent plays both sides of a game, so that each player has a row."""
    return (is_game(task.env_id) or is_team_game(task.env_id)) and not task.options.opponent


def layout(task: Task) -> Layout:
    """Returns how the rows of a game are ordered; of a task that is no game a row is a game."""
    return Layout(TEAMS if both_sides(task) else 1, team_size(task.env_id))


def plain_game(task: Task) -> Task:
    """Returns the game of two players or teams that a task is of, without an opponent that does not
    learn and with the rewards as the game pays them, for its result alone.

    Raises:
      UserError: it is of no such game.
    """
    teams = is_team_game(task.env_id)
    if not (is_game(task.env_id) or teams):
        raise UserError(f"{task.name!r} is no game of two players")
    plain: dict[str, Any] = {"opponent": "", "clip_rewards": False, "reward_scale": 1.0}
    plain |= {"event_rewards": 0.0} if teams else {}
    return read_tasks(task.env_id, dataclasses.replace(task.options, **plain))[0]


def against_players(task: Task) -> list[Task]:
    """Returns the tasks in which an agent that plays both sides of a game meets each player of
    players.py, or of a game of two teams the strongest; of any other task itself alone."""
    if not both_sides(task):
        return [task]
    names = players_of(task.env_id)
    names = names[-1:] if is_team_game(task.env_id) else names
    options = [dataclasses.replace(task.options, opponent=name) for name in names]
    return [
        task._replace(name=f"{task.name}:opponent={name}", options=option)
        for name, option in zip(names, options, strict=True)
    ]


def check_opponent(env_id: str, options: Options) -> None:
    """Raises UserError unless the options' opponent plays the task."""
    check_family(env_id, family(env_id), options)
    if not (is_game(env_id) or is_team_game(env_id)):
        raise UserError(f"opponent is for games of two players, and {env_id!r} is none")
    if options.opponent not in players_of(env_id):
        known = ", ".join(players_of(env_id))
        raise UserError(f"there is no opponent {options.opponent!r} in {env_id!r}, only {known}")


def is_game(env_id: str) -> bool:
    """Returns whether a task is a game of two players who move in turn."""
    word, slash, _ = env_id.partition("/")
    return not (slash and word in BACKENDS) and envpool_settings.num_players(env_id) == 2


def family(env_id: str) -> str:
    """Returns the family that a task belongs to: EnvPool's "atari", "minigrid", "classic_control",
    "mujoco" ..., "gymnasium", "jax", "smax" or "teams".

    Raises:
      UserError: there is no such task.
    """
    return backend_of(env_id).family(env_id)


def check_task(env_id: str) -> None:
    """Checks that a task can be played, without making an environment.

    Raises:
      UserError: there is no such task, it is for more than one player and no game of two that move
        in turn, or it cannot be made here.
    """
    backend_of(env_id).check(env_id)


def read_tasks(env: str, options: Options, *, check: bool = True) -> list[Task]:
    """Reads the tasks that a run's `env` names: ids with commas between them.

    Each may be followed by words of its own, `:option=value`, in place of fields of `options`:
    "Catch-v0,Catch-v0:permute=1:reward_scale=0.01". A comma before a number belongs to the value.
    A task's name tells its options, whether they come from its own words or from `options`.

    Args:
      env: the words of a run's Config.
      options: the options of the tasks whose own words do not say otherwise.
      check: whether to check that the tasks can be played here; a report only names them.

    Raises:
      UserError: there is no such task or option, the value is wrong, or a task is named twice.
    """
    found: list[Task] = []
    for words in re.split(r",(?!\s*-?\d)", env):
        given = words.strip()
        env_id, settings = _split(given)
        if check:
            check_task(env_id)
        try:
            changes = dict(map(_setting, settings))
            own = dataclasses.replace(options, **changes)
            if check and own.opponent:
                check_opponent(env_id, own)
        except UserError as error:
            raise UserError(f"task {given!r}: {error}") from None
        name = env_id + "".join(f":{word}" for word in _told(own, list(changes)))
        if name in [t.name for t in found]:
            raise UserError(f"task {name!r} is named twice")
        found.append(Task(name, env_id, own))
    return found


def _told(options: Options, given: list[str]) -> list[str]:
    """Returns the words of the options that a task's name tells: those that make it another task,
    and those of UNTOLD that its own words give, as they set it apart from other tasks of a run."""
    found = []
    for field in dataclasses.fields(Options):
        value = getattr(options, field.name)
        if field.name in given if field.name in UNTOLD else value != getattr(DEFAULTS, field.name):
            found.append(f"{field.name}={_text(value)}")
    return found


def _text(value: Any) -> str:
    """Writes an option's value as _value reads it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower()


def list_tasks(family: str = "") -> list[str]:
    """Returns lines that list the families of tasks or, with a family, the ids of its tasks.

    Raises:
      UserError: there is no such family.
    """
    families = envpool_settings.ids_of_families()
    if family in families:
        return families[family]
    if family:
        near = difflib.get_close_matches(family.lower(), families, cutoff=0.5) or list(families)
        raise UserError(f"there is no family {family!r}; the nearest: {', '.join(near)}")
    lines = [
        f"{name:16}{len(ids):5}  {', '.join(ids[:: max(1, len(ids) // 3)][:3])}, ..."
        for name, ids in families.items()
    ]
    return [
        "family          tasks  among them",
        *lines,
        "make tasks FAMILY=atari lists a family; of several players only PGX's games of two can be "
        "played.",
        "gymnasium/<id> is a task of Gymnasium, jax/<module>:<function> one in JAX.",
        f"smax/<map> is a game of two teams: {', '.join(smax.MAPS)}.",
    ]


def _split(name: str) -> tuple[str, list[str]]:
    """ "gymnasium/module:Id-v0:permute=1" -> ("gymnasium/module:Id-v0", ["permute=1"])."""
    env_id, *settings = name.split(":")
    if env_id.partition("/")[0] in BACKENDS and settings and "=" not in settings[0]:
        env_id = f"{env_id}:{settings.pop(0)}"
    return env_id, settings


def _setting(word: str) -> tuple[str, Any]:
    """ "reward-scale=0.01" -> ("reward_scale", 0.01)."""
    given, _, text = word.partition("=")
    name = given.strip().replace("-", "_")
    kinds = {f.name: f.type for f in dataclasses.fields(Options)}
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=1, cutoff=0.0)[0]
        raise UserError(f"there is no option {given!r}; the nearest: {near}")
    return name, _value(name, kinds[name], text.strip())


def _value(name: str, kind: Any, text: str) -> Any:
    """Reads the text that is given for an option, as a value of type kind."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind == tuple[int, ...]:
            return tuple(int(i) for i in text.split(",")) if text else ()
        if kind == int | None and text.lower() == "none":
            return None
        if kind is str:
            return text
        return float(text) if kind is float else int(text)
    except (KeyError, ValueError):
        words = {bool: "true or false", tuple[int, ...]: "numbers such as 0,2", float: "a number"}
        expected = words.get(kind, "a whole number")
        raise UserError(f"{name} must be {expected}, not {text!r}") from None
