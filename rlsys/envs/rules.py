"""The rules that environments keep: each is a function, which raises Broken where one is broken."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Envs, Episode
from rlsys.envs.spaces import MASK, mask_axes
from rlsys.types import Timestep, UserError


class Play(NamedTuple):
    """Holds some steps that environments played under random legal actions."""

    envs: Envs
    steps: Timestep  # [T + 1, B, ...] x_0 .. x_T
    actions: list[np.ndarray]  # T of [B, ...]


class Broken(Exception):
    """A rule is not kept; the message says where."""


class Unseen(Exception):
    """Nothing was played that could break a rule; the message says what was missing."""


def random_action(envs: Envs, obs: Any, rng: np.random.Generator) -> np.ndarray:
    """Draws an action [B] or [B, D] from the legal ones, or between the bounds of a Box."""
    space: Any = envs.action_space
    if isinstance(space, spaces.Box):
        low, high = np.clip(space.low, -1e3, 1e3), np.clip(space.high, -1e3, 1e3)
        return rng.uniform(low, high, (envs.num_envs, *space.shape)).astype(space.dtype)
    axes = mask_axes(space)
    weight = rng.random((envs.num_envs, *axes)) + 1
    if isinstance(space, spaces.MultiDiscrete):
        weight *= np.arange(axes[-1]) < space.nvec[:, None]  # unequal sizes
    if isinstance(obs, dict) and MASK in obs:
        weight *= obs[MASK]
    return weight.argmax(-1).astype(np.int32)


def play(envs: Envs, num_steps: int, seed: int = 0) -> Play:
    """Plays num_steps random legal actions after a reset()."""
    rng = np.random.default_rng(seed)
    timesteps, actions = [envs.reset()], []
    for _ in range(num_steps):
        actions.append(random_action(envs, timesteps[-1].obs, rng))
        timesteps.append(envs.step(actions[-1]))
    return Play(envs, jax.tree.map(lambda *xs: np.stack(xs), *timesteps), actions)


def _spaces(played: Play, build, seed) -> str:
    envs, steps = played.envs, played.steps
    _in_space(envs.observation_space, steps.obs, "obs")
    action: Any = envs.action_space
    if not isinstance(action, spaces.Discrete | spaces.MultiDiscrete | spaces.Box):
        _broken(f"actions are {action}")
    if np.any(getattr(action, "start", 0)):
        _broken(f"actions are counted from {action.start}")
    if isinstance(action, spaces.Box) and len(action.shape) != 1:
        _broken(f"continuous actions are {list(action.shape)}, and not flat")
    return f"obs {envs.observation_space}, action {action}"


def _in_space(space: Any, x: Any, name: str) -> None:
    """Checks keys, shapes, dtypes, and the ranges of integers. x: [T, B, ...]."""
    if isinstance(space, spaces.Dict):
        if not isinstance(x, dict) or set(x) != set(space):
            _broken(f"{name} should have the arrays {', '.join(space)}")
        for key in space:
            _in_space(space[key], x[key], key)
        return
    if x.shape[2:] != space.shape:
        _broken(f"{name} is {list(x.shape[2:])}, its space {list(space.shape)}")
    dtype = np.dtype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        dtype = np.dtype(bool)
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        dtype = np.dtype(np.int32)
    elif dtype in (np.float64, np.float16):
        _broken(f"the space of {name} is {dtype}, not float32")
    if x.dtype != dtype:
        _broken(f"{name} is {x.dtype}, not {dtype}")
    if dtype.kind == "f":  # rounding takes some floats a little past their bounds
        if not np.isfinite(x).all():
            _broken(f"{name} is not finite")
    elif dtype.kind != "b":
        low: Any = 0
        high: Any = getattr(space, "n", None)
        if isinstance(space, spaces.MultiDiscrete):
            high = space.nvec
        if isinstance(space, spaces.Box):
            low, high = space.low, space.high + np.int64(1)
        if (x < low).any() or (x >= high).any():
            _broken(f"{name} holds {x.min()} to {x.max()}, outside of {space}")


def _types(played: Play, build, seed) -> str:
    kinds = {"first": bool, "reward": np.float32, "discount": np.float32, "truncated": bool}
    for name, kind in kinds.items():
        x, shape = getattr(played.steps, name), (len(played.actions) + 1, played.envs.num_envs)
        if x.dtype != kind or x.shape != shape:
            _broken(f"{name} is {x.dtype} {list(x.shape[1:])}, not {np.dtype(kind)} [B]")
    reward = played.steps.reward
    if not np.isfinite(reward).all():
        _broken("a reward is not finite")
    return f"rewards of {reward.min():g} to {reward.max():g}"


def _ends(played: Play, build, seed) -> str:
    steps = played.steps
    ended, first = (steps.discount == 0) | steps.truncated, steps.first
    if not first[0].all():
        _broken("reset() shows a step that is not first")
    _nowhere("an end is not followed by a first", ended[:-1] & ~first[1:])
    _nowhere("a first comes after no end", first[1:] & ~ended[:-1])
    _nowhere("a step onto a first has a reward", first & (steps.reward != 0))
    _nowhere("a first is an end too", first & ended)
    _nowhere("a discount is neither 0 nor 1", (steps.discount != 0) & (steps.discount != 1))
    if not ended[:-1].any():
        raise Unseen("no episode has ended; --steps plays more")
    return f"{ended.sum()} ends"


def _last_observations(played: Play, build, seed) -> str:
    steps = played.steps
    t, b = np.nonzero(((steps.discount == 0) | steps.truncated)[:-1])
    if len(t) == 0:
        raise Unseen("no episode has ended; --steps plays more")
    leaves = jax.tree.leaves(steps.obs)
    if all((x[1:] == x[:-1]).all() for x in leaves):
        raise Unseen("the observation never changes")
    if all((x[t, b] == x[t + 1, b]).all() for x in leaves):
        _broken("every end shows the next episode's first observation, and not its own last one")
    return f"{len(t)} last observations differ from the next first ones"


def _time_limits(played: Play, build, seed) -> str:
    steps = played.steps
    _nowhere("a truncated step has a discount of 0", steps.truncated & (steps.discount == 0))
    if not steps.truncated.any():
        raise Unseen("no time limit was met; `:max_episode_steps=N` sets one")
    return f"{steps.truncated.sum()} time-outs"


def _seeds(played: Play, build, seed) -> str:
    again = play(build(seed), len(played.actions))
    again.envs.close()
    _same("the same seed gives", played.steps, again.steps)
    return f"seed {seed} played {len(played.actions)} steps twice alike"


def _restart(played: Play, build, seed) -> str:
    envs = build(seed + 1)
    last = jax.tree.map(lambda x: x[-1], play(envs, len(played.actions) // 2 + 1).steps)
    cut = envs.restart(seed, last)
    running = (last.discount == 1) & ~last.first
    if (cut.truncated != (last.truncated | running)).any():
        _broken("running episodes are not truncated")
    envs.pop_episodes()
    length = min(len(played.actions), 50)
    steps = [envs.step(a) for a in [played.actions[0], *played.actions[:length]]]
    envs.close()
    expected = jax.tree.map(lambda x: x[: length + 1], played.steps)
    _same("restart() goes on with", jax.tree.map(lambda *xs: np.stack(xs), *steps), expected)
    return f"{length} steps after it are those of a fresh start"


def _episodes(played: Play, build, seed) -> str:
    steps = played.steps
    expected, running = [], []
    for env in range(0, played.envs.num_envs, played.envs.team_size):
        total, length = 0.0, 0
        for t in range(1, len(steps.first)):
            total += float(steps.reward[t, env])
            length += not steps.first[t, env]
            if steps.discount[t, env] == 0 or steps.truncated[t, env]:
                expected.append((env, length, total))
                total, length = 0.0, 0
        running.append((env, length, total))
    by_env = sorted(played.envs.pop_episodes(), key=lambda e: e.env)
    _same_episodes("ended", by_env, expected)
    _same_episodes("are running", played.envs.running_episodes(), running)
    if played.envs.pop_episodes():
        _broken("pop_episodes() tells an episode twice")
    if not expected:
        raise Unseen("no episode has ended; --steps plays more")
    return f"{len(expected)} episodes return {min(x[2] for x in expected):g} and more"


def _same_episodes(words: str, told: list[Episode], seen: list[tuple[int, int, float]]) -> None:
    """Compares the episodes that are told with those seen: environment, length, return of each."""
    if [(e.env, e.length) for e in told] != [x[:2] for x in seen]:
        _broken(f"{len(told)} episodes that {words} are told and {len(seen)} seen, or not as long")
    for episode, (env, _, total) in zip(told, seen, strict=True):
        if not np.isclose(episode.episode_return, total, rtol=1e-4, atol=1e-4):
            returned = f"returned {total:g}, and {episode.episode_return:g} is told"
            _broken(f"of the episodes that {words} that of environment {env} {returned}")


def _reset(played: Play, build, seed) -> str:
    envs = build(seed)
    play(envs, len(played.actions) // 2 + 1)
    envs.pop_episodes()
    try:
        found = _episodes(play(envs, len(played.actions)), build, seed)
    finally:
        envs.close()
    return f"after it, {found}"


def _masks(played: Play, build, seed) -> str:
    envs, obs = played.envs, played.steps.obs
    if not isinstance(obs, dict) or MASK not in obs:
        raise Unseen("every action is legal")
    mask, axes = obs[MASK], mask_axes(envs.action_space)
    if mask.dtype != bool or mask.shape[2:] != axes:
        _broken(f"{MASK} is {mask.dtype} {list(mask.shape[2:])}, not bool {list(axes)}")
    _nowhere("no action is legal", ~mask.any(-1))
    return f"{mask.mean():.0%} of the actions are legal"


def _wrong_actions(played: Play, build, seed) -> str:
    envs, right = build(seed), played.actions[0]
    envs.reset()
    wrong = {"shape": right[:-1], "type": right.astype(bool)}
    if isinstance(envs.action_space, spaces.Box):
        wrong["value"] = np.full_like(right, np.nan)
    else:
        wrong["range"] = right - right.max() - 1
    for what, action in wrong.items():
        try:
            envs.step(action)
        except UserError:
            continue
        except Exception as error:
            _broken(f"an action of the wrong {what} raises {type(error).__name__}, not UserError")
        _broken(f"an action of the wrong {what} is played")
    envs.close()
    return f"actions of a wrong {', '.join(wrong)} are refused"


def _kept(played: Play, build, seed) -> str:
    envs = build(seed)
    shown = [envs.reset()]
    copies = [jax.tree.map(np.copy, shown[0])]
    for action in played.actions[:10]:
        shown.append(envs.step(action))
        copies.append(jax.tree.map(np.copy, shown[-1]))
    envs.close()
    _same("later steps leave", copies, shown)
    return "no step changes the arrays of an earlier one"


RULES: dict[str, Callable[[Play, Callable[[int], Envs], int], str]] = {
    "observations and actions are of their spaces": _spaces,
    "a timestep's arrays have their types": _types,
    "rule 1: an end is followed by one step that is first": _ends,
    "rule 1: an end shows its true last observation": _last_observations,
    "rule 2: a time limit keeps the discount": _time_limits,
    "the same seed plays the same": _seeds,
    "restart() starts afresh": _restart,
    "episodes are those of the raw rewards": _episodes,
    "reset() drops the running episodes": _reset,
    "an action is always legal": _masks,
    "wrong actions are refused": _wrong_actions,
    "timesteps are not overwritten": _kept,
}


def _broken(words: str) -> None:
    raise Broken(words)


def _nowhere(words: str, where: np.ndarray) -> None:
    """Raises Broken if `where`, bool [T + 1 or T, B, ...], is True anywhere."""
    if where.any():
        t, env = np.argwhere(where)[0][:2]
        _broken(f"{words} (step {t}, environment {env}; {where.sum()} in all)")


def _same(words: str, a: Any, b: Any) -> None:
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        if not np.array_equal(x, y):
            _broken(f"{words} another {jax.tree_util.keystr(path)}")
