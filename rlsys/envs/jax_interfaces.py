"""Environments written in JAX, told apart by what they look like; no library is imported.

    brax    reset(key) -> state, step(state, action) -> state, with state.obs, reward, done, info
            (made without its AutoResetWrapper); MuJoCo Playground looks the same
    gymnax  reset(key, params) -> obs, state, and step(key, state, action, params) -> obs, state,
            reward, done, info; without params where the environment has no default_params; with
            reset_env and step_env in place of reset and step, if it has them. An environment of
            one's own is simplest like this.
    JaxMARL the same with a dict of agents, of which there may be one; see teams.py for more

Time limits: brax's info["truncation"], gymnax's is_truncated or max_steps_in_episode, and
info["truncated"] of any. Without one of these, every end counts as the episode's own.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from rlsys.types import UserError

TRUNCATED = ("truncated", "truncation", "TimeLimit.truncated")  # keys of info


class PureEnv(NamedTuple):
    """Holds one environment as pure functions that start no new episode by themselves."""

    observation_space: spaces.Space
    action_space: spaces.Space
    reset: Callable[[Any], tuple[Any, Any]]  # key -> obs, state
    # key, state, action -> obs, state, reward, terminated, truncated
    step: Callable[[Any, Any, Any], tuple[Any, Any, Any, Any, Any]]
    draw: Callable[[Any], Any]  # state -> a picture, if the environment can
    steps_per_second: float | None = None  # of the environment's own time, if it tells
    # P of a game of two teams: obs are [P, ...], an action [P], a reward [P, 2], as teams.py says
    players: int = 0


def read(made: Any) -> PureEnv:
    """Reads the interface of an environment, or of a pair of it and its params (gymnax.make's).

    Raises:
      UserError: it looks like none of the three, it starts episodes by itself, or it has several
        agents.
    """
    env, params = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    missing = [name for name in ("reset", "step") if not callable(getattr(env, name, None))]
    if missing:
        raise UserError(f"a {type(env).__name__} is no environment: it has no {missing[0]}()")
    if hasattr(env, "agents"):
        return _jaxmarl(env)
    if hasattr(env, "action_size"):
        return _brax(env)
    if params is None:
        params = getattr(env, "default_params", None)
    return _gymnax(env, () if params is None else (params,))


def _brax(env: Any) -> PureEnv:
    inner = env
    while inner is not None:
        if "AutoReset" in type(inner).__name__:
            raise UserError(
                "brax's environment starts episodes by itself: make it with auto_reset=False"
            )
        inner = inner.__dict__.get("env", inner.__dict__.get("_env"))

    def reset(key):
        state = env.reset(key)
        return state.obs, state

    def step(key, state, action):
        state = env.step(state, action)
        return state.obs, state, state.reward, *ends(state.done, state.info)

    shown = jax.eval_shape(lambda: reset(jax.random.key(0))[0])
    return PureEnv(
        _unbounded(shown),
        spaces.Box(-1.0, 1.0, (int(env.action_size),), np.float32),
        reset,
        step,
        lambda state: env.render([getattr(state, "pipeline_state", state)])[0],
        1 / float(env.dt) if hasattr(env, "dt") else None,  # dt: seconds of a step
    )


def _gymnax(env: Any, params: tuple) -> PureEnv:
    reset = getattr(env, "reset_env", env.reset)
    raw_step = getattr(env, "step_env", env.step)

    def step(key, state, action):
        obs, state, reward, *done, info = raw_step(key, state, action, *params)
        over, cut = ends(done[0], info) if len(done) == 1 else (done[0], done[1])
        if hasattr(env, "is_truncated"):  # gymnax from 1.0 on
            cut = cut | env.is_truncated(state, *params)
        elif hasattr(env, "is_terminal") and params and hasattr(params[0], "max_steps_in_episode"):
            # Before 1.0 an end by the time limit is one that would be none without it.
            endless = params[0].replace(max_steps_in_episode=np.iinfo(np.int32).max)
            limit = env.is_terminal(state, *params) & ~env.is_terminal(state, endless)
            over, cut = over & ~limit, cut | limit
        return obs, state, reward, over, cut

    return PureEnv(
        _space(_space_of(env, "observation_space", params)),
        _space(_space_of(env, "action_space", params)),
        lambda key: reset(key, *params),
        step,
        lambda state: env.render(state, *params),
    )


def _jaxmarl(env: Any) -> PureEnv:
    if len(env.agents) != 1:
        raise UserError(
            f"the environment has {len(env.agents)} agents, and only one can be played: games of "
            f"two teams are named teams/<module>:<class>"
        )
    agent = env.agents[0]
    raw_step = getattr(env, "step_env", env.step)

    def reset(key):
        obs, state = env.reset(key)
        return obs[agent], state

    def step(key, state, action):
        obs, state, reward, done, info = raw_step(key, state, {agent: action})
        return obs[agent], state, reward[agent], *ends(done["__all__"], info)

    return PureEnv(
        _space(_space_of(env, "observation_space", (agent,))),
        _space(_space_of(env, "action_space", (agent,))),
        reset,
        step,
        lambda state: env.render(state),
    )


def ends(done: Any, info: Any) -> tuple[Any, Any]:
    """Says whether the episode came to its own end, and whether a time limit cut it off."""
    done = jnp.asarray(done).astype(bool)
    for key in TRUNCATED:
        if isinstance(info, Mapping) and key in info:
            truncated = jnp.asarray(info[key]).astype(bool)
            return done & ~truncated, truncated
    return done, jnp.zeros_like(done)


def _space_of(env: Any, name: str, arguments: tuple) -> Any:
    """Returns a space that is an attribute, or that a method returns for the arguments."""
    space = getattr(env, name, None)
    if space is None:
        raise UserError(f"a {type(env).__name__} has no {name}")
    return space(*arguments) if callable(space) else space


def _unbounded(shown: Any) -> spaces.Space:
    """Makes the space of an observation of which only shapes and types are known."""
    if isinstance(shown, Mapping):
        return spaces.Dict({key: _unbounded(x) for key, x in shown.items()})
    if np.issubdtype(shown.dtype, np.integer):
        info = np.iinfo(shown.dtype)
        return spaces.Box(info.min, info.max, shown.shape, shown.dtype.type)
    return spaces.Box(-np.inf, np.inf, shown.shape, np.float32)


def _space(space: Any) -> spaces.Space:
    """Turns a space of gymnax's or JaxMARL's into Gymnasium's."""
    if isinstance(space, spaces.Space):
        return space
    if hasattr(space, "spaces"):
        if isinstance(space.spaces, Mapping):
            return spaces.Dict({key: _space(x) for key, x in space.spaces.items()})
        return spaces.Tuple([_space(x) for x in space.spaces])
    if hasattr(space, "n"):
        return spaces.Discrete(int(space.n))
    if hasattr(space, "num_categories"):
        return spaces.MultiDiscrete(np.asarray(space.num_categories))
    if not hasattr(space, "low"):
        raise UserError(
            f"a space is a {type(space).__name__}, and not Discrete, Box, Dict or Tuple"
        )
    dtype: Any = np.dtype(space.dtype) if jnp.issubdtype(space.dtype, jnp.integer) else np.float32
    shape = tuple(space.shape)
    low, high = (np.broadcast_to(np.asarray(x, dtype), shape) for x in (space.low, space.high))
    return spaces.Box(low, high, shape, dtype)
