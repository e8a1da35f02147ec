"""Reads the maps of JaxMARL's SMAX, a battle of two teams of units: ENV=smax/5m.

Rutherford et al. 2023, "JaxMARL: Multi-Agent RL Environments and Algorithms in JAX",
https://arxiv.org/abs/2311.10090, section 4.1. EXTRA=teams installs JaxMARL.

JaxMARL gives one reward to a whole team. Here the reward is the result, in the battle's last step:
1 for victory, -1 for defeat, 0 for a draw, such as a battle that JaxMARL ends after 100 steps.
Beside it each player is rewarded for events of its own:

    + DEALT x damage that it dealt, in units of the target's full health
    - TAKEN x health that it lost, in units of its full health
    + KILL x enemies that it killed

These are computed from the units' health before and after a step. The health that a unit lost is
counted as dealt, in equal parts, by all enemies that aimed at it in this step; health that is lost
at the map's edge is dealt by nobody. JaxMARL's own reward is 1 for a victory and, for each enemy's
full health, 1 divided by the number of enemies: the mean over a team of DEALT = 1 alone.
"""

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from rlsys.envs.jax_interfaces import PureEnv
from rlsys.envs.spaces import MASK
from rlsys.types import UserError

DEALT, TAKEN, KILL = 1.0, 0.5, 0.2
EXTRA = "teams"
MAPS = {  # maps of two equal teams, under their names in SMAC, and the players of a team
    "3m": 3,
    "5m": 5,
    "8m": 8,
    "25m": 25,
    "2s3z": 5,
    "3s5z": 8,
    "smacv2_5_units": 5,
    "smacv2_10_units": 10,
    "smacv2_20_units": 20,
}
PIXELS = 8  # the size of a unit of length in a picture
COLORS = np.array([[90, 160, 255], [255, 120, 90]], np.uint8)  # the two teams'


def team_size(env_id: str) -> int:
    """Returns the number of players of a team on a map.

    Raises:
      UserError: there is no such map, or its teams are not equal.
    """
    name = env_id.removeprefix("smax/")
    if name not in MAPS:
        raise UserError(f"there is no map {name!r} of two equal teams, only {', '.join(MAPS)}")
    return MAPS[name]


def check(env_id: str) -> None:
    """Raises UserError unless JaxMARL is installed."""
    if importlib.util.find_spec("jaxmarl") is None:
        raise UserError(
            f"{env_id!r} needs JaxMARL, which is not installed: make install EXTRA={EXTRA}"
        )


def read(env_id: str, opponent: str = "") -> PureEnv:
    """Returns a map as pure functions over all players of a game.

    Args:
      opponent: "heuristic" for JaxMARL's scripted enemies, which then play the second team, as in
        its HeuristicEnemySMAX; if empty, both teams have rows.
    """
    # JaxMARL takes seconds to import, and is an extra.
    from jaxmarl.environments.smax import SMAX, HeuristicEnemySMAX, map_name_to_scenario

    name = env_id.removeprefix("smax/")
    size = MAPS[name]
    same: dict[str, Any] = {"num_allies": size, "num_enemies": size}  # marines, in a line
    scenario = same if name == "5m" else {"scenario": map_name_to_scenario(name)}
    env = (HeuristicEnemySMAX if opponent else SMAX)(**scenario)
    units = (lambda state: state.state) if opponent else (lambda state: state)
    agents = list(env.agents)
    full_health, moves = env.unit_type_health, env.num_movement_actions
    players = jnp.arange(len(agents))
    num_actions = int(env.action_spaces[agents[0]].n)
    shape = env.observation_spaces[agents[0]].shape

    def observe(obs, state):
        legal = env.get_avail_actions(state)
        return {
            "obs": jnp.stack([obs[agent] for agent in agents]),
            MASK: jnp.stack([legal[agent] for agent in agents]).astype(bool),
        }

    def reset(key):
        obs, state = env.reset(key)
        return observe(obs, state), jax.tree.map(_strong, state)

    def step(key, state, action):
        before = units(state)
        actions = {agent: action[i] for i, agent in enumerate(agents)}
        obs, state, _, done, _ = env.step_env(key, state, actions)
        after = units(state)
        # The second team sees, and so aims at, the first one's units in reverse order.
        number = action - moves
        target = jnp.where(players < size, size + number, size - 1 - number)
        target = jnp.where(number >= 0, target, -1)
        full = full_health[before.unit_types]
        events = of_events(target, before.unit_health / full, after.unit_health / full)
        result = done["__all__"] * of_result(after.unit_alive)[: len(agents)]
        rewards = jnp.stack([result.astype(jnp.float32), events], axis=-1)
        over = done["__all__"]
        state = jax.tree.map(_strong, state)
        return observe(obs, state), state, rewards, over, jnp.zeros_like(over)

    return PureEnv(
        spaces.Dict(
            {
                "obs": spaces.Box(-np.inf, np.inf, shape, np.float32),
                MASK: spaces.MultiBinary(num_actions),
            }
        ),
        spaces.Discrete(num_actions),
        reset,
        step,
        lambda state: draw(env, units(state)),
        1.0 / (env.world_steps_per_env_step * env.time_per_step),
        players=len(agents),
    )


def of_events(target: Any, before: Any, after: Any) -> Any:
    """Computes what each player earned in a step by its own events, by the sum at the file's head.

    Args:
      target: [P] int, the unit that each player aimed at; -1 for none.
      before, after: [U] health of all units, from 0 to 1, before and after the step; the first P of
        them are the players.

    Returns:
      [P] float32.
    """
    players, units = target.shape[0], before.shape[0]
    acts = before[:players] > 0
    aims = (target[:, None] == jnp.arange(units)[None]) & acts[:, None]  # [P, U]
    part = aims / jnp.maximum(aims.sum(0), 1)[None]
    lost, died = before - after, (before > 0) & (after <= 0)
    dealt, kills = part @ lost, part @ died.astype(jnp.float32)
    return DEALT * dealt - TAKEN * lost[:players] + KILL * kills


def of_result(alive: Any) -> Any:
    """Computes the result of a battle.

    Args:
      alive: [U] bool, which units are alive; the first half is the first team's.

    Returns:
      [U] int32: 1 for the units of the team that alone has units left, -1 for those of the other
      team; 0 for all if both teams have units left, or none has.
    """
    first, second = alive.reshape(2, -1).any(-1)
    won = first.astype(jnp.int32) - second.astype(jnp.int32)
    return won * jnp.repeat(jnp.array([1, -1]), alive.shape[0] // 2, total_repeat_length=len(alive))


def _strong(x: Any) -> Any:
    """Returns x without the weak type of Python's numbers, for which a step would compile twice."""
    return jax.lax.convert_element_type(x, x.dtype)


def draw(env: Any, state: Any) -> np.ndarray:
    """Draws the units as discs in their team's colour, darker with less health: uint8 [H, W, 3]."""
    height, width = env.map_height * PIXELS, env.map_width * PIXELS
    picture = np.full((height, width, 3), 24, np.uint8)
    y, x = np.mgrid[:height, :width] / PIXELS
    types = np.asarray(state.unit_types)
    health = np.asarray(state.unit_health) / np.asarray(env.unit_type_health)[types]
    radius = np.asarray(env.unit_type_radiuses)[types]
    for i in np.flatnonzero(np.asarray(state.unit_alive)):
        across, up = np.asarray(state.unit_positions)[i]
        disc = np.hypot(x - across, y - (env.map_height - up)) < radius[i]
        picture[disc] = COLORS[int(i >= len(types) // 2)] * (0.4 + 0.6 * health[i])
    return picture
