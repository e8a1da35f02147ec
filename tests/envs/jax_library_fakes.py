"""Environments with the interfaces of brax, gymnax and JaxMARL: ENV=jax/jax_library_fakes:brax."""

from typing import Any

import flax.struct
import jax.numpy as jnp
from jax_fakes import LIMIT, show, start, tick


@flax.struct.dataclass
class BraxState:
    pipeline_state: Any
    obs: Any
    reward: Any
    done: Any
    info: dict[str, Any]


class Brax:
    """As brax's, with the info that its EpisodeWrapper adds."""

    action_size = 2

    def reset(self, rng):
        state = start(rng)
        info = {"truncation": jnp.zeros(()), "steps": jnp.zeros(())}
        return BraxState(state, show(state), jnp.zeros(()), jnp.zeros(()), info)

    def step(self, state, action):
        clock, end = tick(state.pipeline_state)
        late = ~end & (clock.time >= LIMIT)
        info = state.info | {"truncation": late.astype(jnp.float32)}
        done = (end | late).astype(jnp.float32)
        reward = clock.time.astype(jnp.float32)
        return state.replace(
            pipeline_state=clock, obs=show(clock), reward=reward, done=done, info=info
        )


class AutoResetWrapper:
    """As brax's, which starts episodes by itself."""

    def __init__(self, env):
        self.env = env

    def __getattr__(self, name):
        return getattr(self.env, name)


class Outer(AutoResetWrapper):
    """A wrapper around that one."""


@flax.struct.dataclass
class Params:
    max_steps_in_episode: int = LIMIT
    step_reward: float = 1.0


class Box:
    """gymnax's own space."""

    def __init__(self, low, high, shape, dtype=jnp.float32):
        self.low, self.high, self.shape, self.dtype = low, high, shape, dtype


class Discrete:
    """gymnax's own space."""

    def __init__(self, num_categories):
        self.n, self.shape, self.dtype = num_categories, (), jnp.int32


class Gymnax:
    """As gymnax's before 1.0: its step() starts episodes by itself, its step_env() does not."""

    default_params = Params()

    def observation_space(self, params):
        return Box(0.0, 1e6, (2,))

    def action_space(self, params=None):
        return Discrete(3)

    def reset_env(self, key, params):
        state = start(key)
        return show(state), state

    def is_terminal(self, state, params):
        return tick(state._replace(time=state.time - 1))[1] | (
            state.time >= params.max_steps_in_episode
        )

    def step_env(self, key, state, action, params):
        state, _ = tick(state)
        reward = params.step_reward * state.time
        return show(state), state, reward, self.is_terminal(state, params), {"discount": 1.0}

    def reset(self, key, params):
        raise AssertionError("reset_env is to be called")

    def step(self, key, state, action, params):
        raise AssertionError("step_env is to be called")


class GymnaxTruncates(Gymnax):
    """As gymnax's from 1.0 on, where an end by the time limit is said apart."""

    def is_terminal(self, state, params):
        return tick(state._replace(time=state.time - 1))[1]

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode


class JaxMarl:
    """As JaxMARL's, of which step() starts episodes by itself."""

    def __init__(self, agents=("agent_0",)):
        self.agents = list(agents)

    def observation_space(self, agent):
        return Box(jnp.zeros(2), jnp.full(2, 1e6), (2,))

    def action_space(self, agent):
        return Discrete(3)

    def reset(self, key):
        state = start(key)
        return {agent: show(state) for agent in self.agents}, state

    def step_env(self, key, state, actions):
        state, end = tick(state)
        late = ~end & (state.time >= LIMIT)
        each = {agent: end | late for agent in self.agents}
        obs = {agent: show(state) for agent in self.agents}
        reward = {agent: state.time.astype(jnp.float32) for agent in self.agents}
        return obs, state, reward, each | {"__all__": end | late}, {"truncated": late}

    def step(self, key, state, actions):
        raise AssertionError("step_env is to be called")


brax = Brax
gymnax = Gymnax
gymnax_1 = GymnaxTruncates
jaxmarl = JaxMarl


def gymnax_pair():
    """As gymnax.make gives an environment: with its params."""
    return Gymnax(), Params(max_steps_in_episode=4, step_reward=0.5)


def several_agents():
    return JaxMarl(("agent_0", "agent_1"))


def auto_resets():
    return AutoResetWrapper(Brax())


def outer_auto_resets():
    return Outer(auto_resets())
