"""A trained policy for use in other programs: numpy in, numpy out, without the trainer.

The file is a zip of policy.json (what the policy is) and params.npz (its parameters), which numpy
reads without pickle. rlsys.results.export writes it.
"""

import functools
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from gymnasium import spaces

from rlsys import networks, streams
from rlsys.acting import actor_critic, epsilon_greedy
from rlsys.envs.space_json import from_json
from rlsys.envs.spaces import make_actions, make_observations, within_bounds
from rlsys.envs.wrappers.actions import binned
from rlsys.envs.wrappers.blank import blank
from rlsys.envs.wrappers.observe import picked
from rlsys.envs.wrappers.permute import permuted
from rlsys.types import Policy, Timestep, UserError

FORMAT = 1  # of the file; one of another format is refused
NETWORKS: dict[str, Callable[..., networks.AgentNetwork]] = {
    "policy": networks.policy_network,
    "policy_value": networks.policy_value_network,
    "q": networks.q_network,
}


def _in_32_bits(function: Callable) -> Callable:
    """Have a function compute as in training, also in a program with jax_enable_x64."""

    @functools.wraps(function)
    def wrapped(*args, **options):
        with jax.enable_x64(False):
            return function(*args, **options)

    return wrapped


class ExportedPolicy:
    """A trained policy. It plays B environments at a time, and keeps a memory of each.

    Attributes:
      about: what policy.json says, a dict.
      modes: the ways in which it can play. A policy with values is "greedy" or "sampled"; one that
        acts by Q-values is "greedy", or explores by its "ladder" of random actions.
      mode: the way in which it plays.
      observation_space, action_space: Gymnasium's, of one environment; act() takes a batch of
        observations and gives a batch of actions.
    """

    def __init__(self, about: dict[str, Any], params: Any, mode: str | None = None):
        """Makes the policy from what load() found.

        Raises:
          UserError: there is no such mode.
        """
        self.about, self._params = about, params
        self.modes, self.mode = tuple(about["modes"]), mode or about["score_mode"]
        if self.mode not in self.modes:
            raise UserError(f"this policy plays {' or '.join(self.modes)}, not {mode!r}")
        self.observation_space = from_json(about["raw_observation_space"])
        self.action_space = from_json(about["raw_action_space"])
        self._network = make_network(about)
        name, options = about["task"], about["options"]
        actions = make_actions(name, self.action_space)
        self._to_action = [actions.convert]  # each is applied to what the one before it gave
        if isinstance(actions.space, spaces.Box) and not about["continuous"]:
            chosen = binned(name, actions.space, options["action_bins"])
            self._to_action.insert(0, chosen.convert)
            actions = chosen
        elif isinstance(actions.space, spaces.Box):  # a Gaussian's draws may lie beyond
            self._to_action.insert(0, functools.partial(within_bounds, actions.space))
        seen = make_observations(name, self.observation_space, actions.space)
        self._to_obs = [seen.convert]
        if options["observe"]:
            seen = picked(name, seen.space, tuple(options["observe"]))
            self._to_obs.append(seen.convert)
        if options["permute"]:
            self._to_obs.append(permuted(name, seen.space, options["permute"]).convert)
        self._expected = networks.sample_obs(self._network.observation_space)  # [1, ...]
        self._batch = 0

    @_in_32_bits
    def reset(self, batch: int = 1, *, seed: int = 0) -> None:
        """Begins an episode in each of `batch` environments, and forgets all earlier ones.

        Args:
          seed: of the actions that are drawn at random.

        Raises:
          UserError: batch is less than 1.
        """
        if batch < 1:
            raise UserError(f"a policy plays 1 environment or more, not {batch}")
        self._batch, self._begins = batch, True
        self._key = streams.key(seed, "evaluation")
        self._core_state = self._network.initial(batch)
        greedy = self.mode == "greedy"
        if self.about["network"] == "q":
            epsilon = np.zeros(batch, np.float32)
            if not greedy:
                ladder = SimpleNamespace(**self.about["exploration"])
                epsilon = epsilon_greedy.ladder(ladder, batch)
            self._policy = Policy(epsilon_greedy.make_policy(self._network), epsilon)
        else:
            sample = actor_critic.sample
            self._policy = actor_critic.make_policy(sample, self._network, greedy=greedy)

    @_in_32_bits
    def act(self, obs: Any, reward: Any = None, first: Any = None) -> np.ndarray:
        """Chooses an action for each of B environments.

        Args:
          obs: [B, ...] arrays in the tree of observation_space, as the task shows them: the options
            observe, permute and only_first are applied here. flicker is not, as it is noise of
            the environment.
          reward: [B] raw rewards of the last step. A policy with an LSTM needs them, except in the
            first call after reset(); others ignore them, and so does one that was trained beside
            values that saw more than it. In a game of two teams they are what training adds up: the
            result, and event_rewards times what the game pays for events.
          first: [B] bool, True where obs opens an episode; None where none does. In the first call
            after reset() all do.

        Returns:
          [B, ...] actions in action_space.

        Raises:
          UserError: reset() was not called, or an array has another shape than these.
        """
        if not self._batch:
            raise UserError("reset(batch) comes before act()")
        shape = (self._batch,)
        if self._begins:
            reward, first = np.zeros(shape), np.ones(shape, bool)
        if reward is None and self._core_state.lstm and self._network.body.reward_bound:
            raise UserError("this policy's LSTM sees the last rewards: call act(obs, reward)")
        reward = np.zeros(shape) if reward is None else np.asarray(reward, np.float32)
        first = np.zeros(shape, bool) if first is None else np.asarray(first, bool)
        for name, x in (("reward", reward), ("first", first)):
            if x.shape != shape:
                raise UserError(f"{name} is to be [{self._batch}], not {list(x.shape)}")
        ones = np.ones(shape, np.float32)
        timestep = Timestep(
            self._see(obs, first),
            first,
            np.where(first, 0 * ones, self._scale(reward)),
            ones,
            ones < 0,
        )
        action, _, self._core_state, self._key = self._policy(
            self._params, timestep, self._core_state, self._key
        )
        self._begins = False
        action = np.asarray(action)
        for convert in self._to_action:
            action = convert(action)
        return action

    def _see(self, obs: Any, first: np.ndarray) -> Any:
        """Returns the observation as the network takes it; first: as act() takes it."""
        try:
            obs = _arrays(obs)
            for convert in self._to_obs:
                obs = convert(obs)
            shapes = jax.tree.map(
                lambda x, like: x.shape == (self._batch, *like.shape[1:]), obs, self._expected
            )
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"an observation is none of {self.observation_space}") from error
        if not all(jax.tree.leaves(shapes)):
            raise UserError(
                f"an observation of {self._batch} environments does not have the shape of "
                f"{self.observation_space}, with the environments before all else"
            )
        return blank(obs, ~first) if self.about["options"]["only_first"] else obs

    def _scale(self, reward: np.ndarray) -> np.ndarray:
        """Returns rewards as the learner got them."""
        options = self.about["options"]
        reward = np.clip(reward, -1, 1) if options["clip_rewards"] else reward
        return reward * np.float32(options["reward_scale"])


@_in_32_bits
def load(path: str | Path, mode: str | None = None) -> ExportedPolicy:
    """Reads a policy that `make export` wrote.

    Args:
      mode: the way in which it is to play; None for the mode that the algorithm is scored by.

    Raises:
      UserError: the file is missing or is no exported policy, or there is no such mode.
    """
    try:
        with zipfile.ZipFile(path) as file:
            about = json.loads(file.read("policy.json"))
            arrays = np.load(io.BytesIO(file.read("params.npz")), allow_pickle=False)
            arrays = {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no exported policy, or is damaged: {error}") from error
    if about.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {about.get('format')}, and this version of rlsys reads {FORMAT}"
        )
    shapes = jax.eval_shape(lambda: networks.init(make_network(about), jax.random.key(0)))
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    named = {name_of(place): leaf.shape for place, leaf in leaves}
    if named != {name: x.shape for name, x in arrays.items()}:
        raise UserError(f"{path} does not hold the parameters of the network that it describes")
    params = jax.tree.unflatten(tree, [arrays[name] for name in named])
    return ExportedPolicy(about, params, mode)


def make_network(about: dict[str, Any]) -> networks.AgentNetwork:
    """Returns the network that policy.json describes."""
    found = (from_json(about[name]) for name in ("observation_space", "action_space"))
    return NETWORKS[about["network"]](*found, **about["network_arguments"])


def name_of(path: Any) -> str:
    """Returns a parameter's name in params.npz: "params/torso/Dense_0/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _arrays(obs: Any) -> Any:
    """Returns the observation with each leaf as an array."""
    if isinstance(obs, dict):
        return {key: _arrays(x) for key, x in obs.items()}
    return tuple(map(_arrays, obs)) if isinstance(obs, tuple) else np.asarray(obs)
