"""Environments written in JAX, stepped in one compiled call: ENV=jax/<module>:<function>.

The function returns the environment; jax_interfaces.py says which kinds there are. It needs no
arguments. Where some are drawn at random (randomise/physics.py), it is called while JAX traces
it, so that one compiled program serves all draws. Environments run on JAX's default device, and a
step's results come to the host like any other environment's.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from rlsys.envs import jax_interfaces
from rlsys.envs.backend import Backend, Played, argument_names, cannot_make
from rlsys.envs.options import NO_LIMIT, Task, check_family
from rlsys.envs.spaces import make_actions, make_observations
from rlsys.types import UserError


class Carry(NamedTuple):
    """Holds B environments between two steps, on the device."""

    state: Any  # [B, ...] the environment's own
    ended: Any  # [B] bool, the next step is spent on a reset
    age: Any  # [B] int32, steps of the running episode
    key: Any  # [B]


class Program(NamedTuple):
    """Holds an environment and its compiled functions, which play any number of it."""

    env: jax_interfaces.PureEnv
    reset: Any  # keys [B], drawn arguments -> Carry, obs
    step: Any  # Carry, action [B, ...], drawn arguments -> Carry, Played


class JaxEnvs(Backend):
    """Plays B environments of a task in JAX. Each has its own key, so that it plays the same
    whatever the number of the others."""

    def __init__(
        self,
        task: Task,
        num_envs: int,
        seed: int | Sequence[int],
        *,
        num_threads: int = 0,
        render: bool = False,
        variant: dict[str, float] | None = None,
    ):
        """Makes the environments; make.make explains the arguments.

        Args:
          variant: keyword arguments of the function, drawn at random.
        """
        check_family(task.env_id, self.family(task.env_id), task.options)
        self._drawn = {name: np.float32(x) for name, x in (variant or {}).items()}
        self._program = self._load(task)
        super().__init__(task, num_envs, seed, render=render)
        self.raw_action_space = self._program.env.action_space
        self.raw_observation_space = self._program.env.observation_space
        self._actions = make_actions(task.name, self.raw_action_space)
        self.action_space = self._actions.space
        self._observations = make_observations(
            task.name, self.raw_observation_space, self.action_space
        )
        self.observation_space = self._observations.space

    @staticmethod
    def check(env_id: str) -> None:
        """Checks that the module is there, without importing it: it may ask JAX for its devices,
        which several processes may not before they have met.

        Raises:
          UserError: there is no such module.
        """
        module, _, function = env_id.removeprefix("jax/").partition(":")
        find_module(env_id, module, function, "a task in JAX is named jax/<module>:<function>")

    @staticmethod
    def family(env_id: str) -> str:
        return "jax"

    def _load(self, task: Task) -> "Program":
        """Makes the environment that the task names.

        Raises:
          UserError: it cannot be made.
        """
        limit = task.options.max_episode_steps or NO_LIMIT
        return load(task.env_id, limit, tuple(self._drawn))

    @staticmethod
    def arguments(env_id: str) -> list[str]:
        """Returns the names of the arguments that the function takes; "**" if it takes any."""
        return argument_names(_function(env_id))

    def _make(self, seeds: list[int]) -> None:
        self._keys = _on_device(lambda: jax.vmap(jax.random.key)(np.array(seeds, np.uint32)))
        self._carry: Carry | None = None

    def _reset(self) -> Any:
        # A later reset() goes on with each environment's random numbers.
        keys = self._keys if self._carry is None else self._carry.key
        self._carry, obs = _on_device(lambda: self._program.reset(keys, self._drawn))
        return self._observations.convert(jax.device_get(obs))

    def send(self, action: np.ndarray) -> None:
        action = self._actions.convert(action)
        self._carry, self._played = _on_device(
            lambda: self._program.step(self._carry, action, self._drawn)
        )

    def _step(self, action: np.ndarray) -> Played:
        self.send(action)
        return self.receive()

    def receive(self) -> Played:
        played = jax.device_get(self._played)
        return played._replace(obs=self._observations.convert(played.obs))

    def _draw(self) -> np.ndarray | None:
        assert self._carry is not None
        try:
            state = jax.tree.map(lambda x: x[0], self._carry.state)
            return np.asarray(self._program.env.draw(state))
        except Exception:  # whatever a renderer raises; most environments have none
            return None

    @property
    def steps_per_second(self) -> float | None:
        return self._program.env.steps_per_second

    def close(self) -> None:
        self._carry = None


def _on_device(function: Any) -> Any:
    """Calls function where a step's action may go to the device, as it must."""
    with jax.transfer_guard_host_to_device("allow"):
        return function()


def find_module(env_id: str, module: str, name: str, how: str) -> None:
    """Finds a module without importing it.

    Args:
      env_id: the task that names it, and something in it by `name`.
      how: says how such a task is named.

    Raises:
      UserError: the task does not name both, or there is no such module.
    """
    if not (module and name):
        raise UserError(f"{how}, not {env_id!r}")
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent is missing, or the word is no module's name
        found = False
    if not found:
        raise UserError(f"there is no module {module!r}, which {env_id!r} names")


def _function(env_id: str) -> Any:
    """Returns the function that an env_id names; it imports the function's module.

    Raises:
      UserError: there is none.
    """
    JaxEnvs.check(env_id)
    module, _, function = env_id.removeprefix("jax/").partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever the module raises
        raise cannot_make("JAX", env_id, error) from error


@functools.cache
def load(env_id: str, max_episode_steps: int, drawn: tuple[str, ...] = ()) -> Program:
    """Makes an environment, once in a process: all actors share what is compiled of it.

    Args:
      drawn: names of the function's arguments that are drawn at random.

    Raises:
      UserError: it cannot be made, or its functions do not fit together.
    """
    function = _function(env_id)

    def read(**arguments: Any) -> jax_interfaces.PureEnv:
        return jax_interfaces.read(function(**arguments))

    return program_of(env_id, read, max_episode_steps, drawn)


def program_of(
    env_id: str,
    read: Callable[..., jax_interfaces.PureEnv],
    max_episode_steps: int,
    drawn: tuple[str, ...] = (),
) -> Program:
    """Compiles an environment's functions for any number of it.

    Args:
      read: makes it, of the arguments that are drawn at random.
      drawn: names of these arguments.

    Raises:
      UserError: it cannot be made, or its functions do not fit together.
    """
    try:
        env = read()
        program = _program(read, env, max_episode_steps)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
        numbers = dict.fromkeys(drawn, np.float32(0))
        carry, obs = jax.eval_shape(program.reset, keys, numbers)
        action: Any = env.action_space
        if action.dtype is not None:  # one array; make_actions refuses others, such as Dict
            rows = 2 * max(env.players, 1)
            actions = np.zeros((rows, *action.shape), action.dtype)
            jax.eval_shape(program.step, carry, actions, numbers)
    except UserError as error:
        raise UserError(f"{env_id!r}: {error}") from None
    except Exception as error:  # whatever the environment raises
        raise cannot_make("JAX", env_id, error) from error
    shown = _as_shown(env_id, env.observation_space, obs)
    return program._replace(env=env._replace(observation_space=shown))


def _program(
    read: Callable[..., jax_interfaces.PureEnv], env: jax_interfaces.PureEnv, max_episode_steps: int
) -> Program:
    """Compiles an environment.

    Args:
      read: makes it of drawn arguments.
      env: as it is without any.
    """

    def made(drawn):
        return read(**drawn) if drawn else env

    def as_rows(obs):  # of a game of two teams a row for each player
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), obs) if env.players else obs

    @jax.jit
    def reset(keys, drawn):
        env = made(drawn)
        key, reset_key = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        obs, state = jax.vmap(env.reset)(reset_key)
        ended = jnp.zeros(keys.shape, bool)
        return Carry(state, ended, ended.astype(jnp.int32), key), as_rows(_arrays(env, obs))

    @jax.jit
    def step(carry, action, drawn):
        env, first = made(drawn), carry.ended
        action = action.reshape(-1, env.players, *action.shape[1:]) if env.players else action
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(carry.key)
        obs, state, reward, terminated, truncated = jax.vmap(env.step)(
            keys[:, 1], carry.state, action
        )
        rewards = (env.players, 2) if env.players else ()
        for name, x in (("reward", reward), ("end", terminated), ("time-out", truncated)):
            axes = rewards if name == "reward" else ()
            if jnp.shape(x) != (*keys.shape[:1], *axes):
                shape, words = list(jnp.shape(x)[1:]), list(axes) if axes else "one number"
                raise UserError(f"the {name} of a step is {shape}, and not {words}")
        started = (obs, state)
        # Computed only where an episode has ended: some environments' resets are dear.
        obs, state = jax.lax.cond(
            first.any(),
            lambda: jax.tree.map(
                functools.partial(_choose, first), jax.vmap(env.reset)(keys[:, 2]), started
            ),
            lambda: jax.tree.map(jnp.asarray, started),
        )
        age = jnp.where(first, 0, carry.age + 1)
        terminated = jnp.asarray(terminated).astype(bool) & ~first
        truncated = jnp.asarray(truncated).astype(bool) | (age >= max_episode_steps)
        truncated = truncated & ~terminated & ~first
        reward = jnp.asarray(reward).astype(jnp.float32)
        reward = jnp.where(first.reshape(-1, *[1] * len(rewards)), 0.0, reward)
        carry = Carry(state, terminated | truncated, age, keys[:, 0])
        return carry, Played(as_rows(_arrays(env, obs)), first, reward, terminated, truncated)

    return Program(env, reset, step)


def _choose(where: Any, a: Any, b: Any) -> Any:
    """Returns a where `where` [B] is True, else b, in b's dtype."""
    b = jnp.asarray(b)
    a = a if jnp.issubdtype(b.dtype, jax.dtypes.prng_key) else jnp.asarray(a).astype(b.dtype)
    return jnp.where(where.reshape(-1, *[1] * (b.ndim - 1)), a, b)


def _arrays(env: jax_interfaces.PureEnv, obs: Any) -> Any:
    """Returns obs as dicts and tuples of arrays, as its space has them; floats as float32."""

    def part(space, obs):
        if isinstance(space, spaces.Dict):
            named = obs if isinstance(obs, Mapping) else vars(obs)  # or a dataclass
            return {key: part(inner, named[key]) for key, inner in space.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(part(*pair) for pair in zip(space, obs, strict=True))
        obs = jnp.asarray(obs)
        return obs.astype(jnp.float32) if jnp.issubdtype(obs.dtype, jnp.floating) else obs

    return part(env.observation_space, obs)


def _as_shown(env_id: str, space: Any, obs: Any) -> spaces.Space:
    """Returns the space with a Box of floats where it says integers and the environment shows
    floats, as gymnax's Catch does. obs: [B, ...], or its shapes.

    Raises:
      UserError: the observations have other shapes than the space, or a category is a float.
    """
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _as_shown(env_id, x, obs[key]) for key, x in space.items()})
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([_as_shown(env_id, *pair) for pair in zip(space, obs, strict=True)])
    shown, said = list(obs.shape[1:]), list(space.shape or ())
    if shown != said:
        raise UserError(
            f"{env_id!r} shows an observation of {shown}, and its observation_space says {said}"
        )
    if obs.dtype.kind != "f":
        return space
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        raise UserError(f"{env_id!r} shows {obs.dtype} where its observation_space says {space}")
    if isinstance(space, spaces.Box) and space.dtype.kind in "iu":
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return spaces.Box(low, high, dtype=np.float32)
    return space
