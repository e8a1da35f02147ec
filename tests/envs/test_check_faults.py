"""The checker's rules: for each, environments that break it are caught, by that rule."""

import collections
import re

import numpy as np
import pytest
from environments import make
from gymnasium import spaces

from rlsys.envs import Options, rules
from rlsys.envs.check import check
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import UserError

SPACES = "observations and actions are of their spaces"
TYPES = "a timestep's arrays have their types"
ENDS = "rule 1: an end is followed by one step that is first"
LAST = "rule 1: an end shows its true last observation"
LIMITS = "rule 2: a time limit keeps the discount"
SEEDS = "the same seed plays the same"
RESTART = "restart() starts afresh"
EPISODES = "episodes are those of the raw rewards"
RESET = "reset() drops the running episodes"
MASKS = "an action is always legal"
WRONG = "wrong actions are refused"
KEPT = "timesteps are not overwritten"


class Faulty(Wrapper):
    """Right environments of 3, to be made wrong; CartPole is cut off after 20 steps."""

    def __init__(self, seed, env_id="CartPole-v1"):
        options = Options(max_episode_steps=20) if env_id == "CartPole-v1" else Options()
        super().__init__(make(env_id, 3, seed, options))


def shows(change, env_id="CartPole-v1"):
    """Builds environments that change each Timestep."""

    def build(seed):
        envs = Faulty(seed, env_id)
        envs.change = change
        return envs

    return build


def says(**spaces_):
    """Builds environments with other spaces than they keep to."""

    def build(seed):
        envs = Faulty(seed)
        vars(envs).update(spaces_)
        return envs

    return build


def array(name, function):
    """A change of one array of a Timestep."""
    return lambda t: t._replace(**{name: function(getattr(t, name))})


def part(name, function):
    """A change of one array of a Timestep's dict of observations."""
    return lambda t: t._replace(obs=t.obs | {name: function(t.obs[name])})


def without(name):
    return lambda t: t._replace(obs={k: x for k, x in t.obs.items() if k != name})


def ended(t):
    return (t.discount == 0) | t.truncated


class StartsAtOnce(Faulty):
    """Shows the next episode's first observation where an episode ends, and then once more."""

    def __init__(self, seed):
        super().__init__(seed)
        self.coming = collections.deque()

    def reset(self):
        self.coming.clear()
        return super().reset()

    def step(self, action):
        now = self.coming.popleft() if self.coming else self.envs.step(action)
        if not ended(now).any():
            return now
        self.coming.append(self.envs.step(action))
        obs = np.where(ended(now)[:, None], self.coming[0].obs, now.obs)
        return now._replace(obs=obs)


class EndsAndGoesOn(Faulty):
    """Shows no step that is first: the reset's step is the episode's second."""

    def step(self, action):
        return super().step(action)._replace(first=np.zeros(3, bool))


class ResetIsNotFirst(Faulty):
    def reset(self):
        return super().reset()._replace(first=np.zeros(3, bool))


class RestartIgnoresItsSeed(Faulty):
    def restart(self, seed, timestep):
        return super().restart(seed + 1, timestep)


class RestartCutsNothing(Faulty):
    def restart(self, seed, timestep):
        super().restart(seed, timestep)
        return timestep


class RestartPlaysAtOnce(Faulty):
    """The first action after it is played, and not ignored."""

    def restart(self, seed, timestep):
        cut = super().restart(seed, timestep)
        self.envs.reset()
        return cut


class Returns(Faulty):
    """Tells other returns or lengths than those played."""

    def __init__(self, seed, scale=1, longer=0, dropped=0):
        super().__init__(seed)
        self.scale, self.longer, self.dropped = scale, longer, dropped

    def pop_episodes(self):
        return [
            e._replace(episode_return=self.scale * e.episode_return, length=e.length + self.longer)
            for e in super().pop_episodes()[self.dropped :]
        ]


class TellsTwice(Faulty):
    told = ()

    def pop_episodes(self):
        self.told = self.told or super().pop_episodes()
        return self.told


class ForgetsWhatRuns(Faulty):
    def running_episodes(self):
        return [e._replace(length=0) for e in super().running_episodes()]


class ResetGoesOn(Faulty):
    """A second reset() adds what was running to the next episodes."""

    def __init__(self, seed):
        super().__init__(seed)
        self.more = None

    def reset(self):
        self.more = [0] * 3 if self.more is None else [e.length for e in self.running_episodes()]
        return super().reset()

    def pop_episodes(self):
        episodes = super().pop_episodes()
        return [e._replace(length=e.length + self.more[e.env]) for e in episodes]


class PlaysAnything(Faulty):
    def step(self, action):
        return super().step(np.resize(action, 3).astype(np.int32).clip(0, 1))


class PlaysAnyNumber(Faulty):
    def __init__(self, seed):
        super().__init__(seed)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def step(self, action):
        if action.shape != (3, 1) or action.dtype.kind != "f":
            raise UserError("an action is float [3, 1]")
        return super().step((action[:, 0] > 0).astype(np.int32))


class RaisesSomethingElse(Faulty):
    def step(self, action):
        try:
            return super().step(action)
        except UserError as error:
            raise ValueError(str(error)) from None


class Overwrites(Faulty):
    """Shows the same few buffers in turn."""

    def __init__(self, seed, buffers=1):
        super().__init__(seed)
        self.buffers, self.turn = np.zeros((buffers, 3, 4), np.float32), 0

    def change(self, t):
        self.turn = (self.turn + 1) % len(self.buffers)
        self.buffers[self.turn] = t.obs
        return t._replace(obs=self.buffers[self.turn])


def only_firsts(t):
    ones = np.ones(3, bool)
    return t._replace(first=ones, truncated=ones, reward=np.zeros(3, np.float32))


class RaisesOnRestart(Faulty):
    def restart(self, seed, timestep):
        raise NotImplementedError("cannot begin again")


def noise(x):
    return x + np.random.default_rng().normal(size=x.shape).astype(x.dtype)


FAULTS = [  # the rule that catches it, what it says, and what builds it
    (SPACES, "obs is float64, not float32", shows(array("obs", np.float64))),
    (SPACES, r"obs is \[3\], its space \[4\]", shows(array("obs", lambda x: x[:, :3]))),
    (SPACES, "obs is not finite", shows(array("obs", lambda x: x * np.float32(np.inf)))),
    (SPACES, "obs holds 16 to", shows(array("obs", lambda x: x + np.int32(16)), "FrozenLake-v1")),
    (SPACES, "should have the arrays action_mask", shows(without("walls"), "Maze-v0")),
    (SPACES, "the space of obs is float64", says(observation_space=spaces.Box(-9, 9, (4,), float))),
    (SPACES, "actions are counted from 1", says(action_space=spaces.Discrete(2, start=1))),
    (TYPES, r"reward is float64 \[3\], not float32", shows(array("reward", np.float64))),
    (TYPES, "first is int8", shows(array("first", lambda x: x.astype(np.int8)))),
    (TYPES, r"truncated is bool \[3, 1\]", shows(array("truncated", lambda x: x[:, None]))),
    (TYPES, "a reward is not finite", shows(array("reward", lambda x: x / np.float32(0)))),
    (ENDS, "an end is not followed by a first", EndsAndGoesOn),
    (ENDS, "shows a step that is not first", ResetIsNotFirst),
    (ENDS, "a first comes after no end", shows(array("first", np.ones_like))),
    (ENDS, "a step onto a first has a reward", shows(array("reward", np.ones_like))),
    (ENDS, "a first is an end too", shows(only_firsts)),
    (ENDS, "neither 0 nor 1", shows(array("discount", lambda x: x * np.float32(0.99)))),
    (LAST, "every end shows the next episode's first observation", StartsAtOnce),
    (LIMITS, "discount of 0", shows(lambda t: t._replace(discount=t.discount * ~t.truncated))),
    (SEEDS, r"the same seed gives another \.obs", shows(array("obs", noise))),
    (SEEDS, r"the same seed gives another \.reward", shows(array("reward", noise))),
    (RESTART, "goes on with another", RestartIgnoresItsSeed),
    (RESTART, "running episodes are not truncated", RestartCutsNothing),
    (RESTART, "goes on with another", RestartPlaysAtOnce),
    (RESTART, "NotImplementedError: cannot begin again", RaisesOnRestart),
    (EPISODES, "and .* is told", lambda seed: Returns(seed, scale=2)),
    (EPISODES, "or not as long", lambda seed: Returns(seed, longer=1)),
    (EPISODES, "that ended are told", lambda seed: Returns(seed, dropped=1)),
    (EPISODES, "tells an episode twice", TellsTwice),
    (EPISODES, "that are running are told", ForgetsWhatRuns),
    (RESET, "that ended are told and", ResetGoesOn),
    (MASKS, "no action is legal", shows(part("action_mask", np.zeros_like), "Maze-v0")),
    (MASKS, "is int8", shows(part("action_mask", lambda x: x.astype(np.int8)), "Maze-v0")),
    (WRONG, "an action of the wrong shape is played", PlaysAnything),
    (WRONG, "an action of the wrong value is played", PlaysAnyNumber),
    (WRONG, "raises ValueError, not UserError", RaisesSomethingElse),
    (KEPT, r"later steps leave another \[0\]\.obs", Overwrites),
    (KEPT, r"later steps leave another \[0\]\.obs", lambda seed: Overwrites(seed, buffers=4)),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of a division by zero
@pytest.mark.parametrize("rule, message, build", FAULTS)
def test_each_rule_catches(rule, message, build):
    found = {x.rule: x for x in check(build, 60)}
    assert found[rule].kept is False
    assert re.search(message, found[rule].found), found[rule].found


def test_every_rule_has_a_fault():
    assert {rule for rule, _, _ in FAULTS} == set(rules.RULES)


def test_the_right_ones_break_none():
    for env_id in ("CartPole-v1", "Maze-v0", "FrozenLake-v1"):
        found = check(lambda seed, env_id=env_id: Faulty(seed, env_id), 60)
        assert [x for x in found if x.kept is False] == []
        assert sum(x.kept is True for x in found) >= 7
