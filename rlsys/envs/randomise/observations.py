"""Changes observations by drawn numbers: adds noise, loses sensors, repeats observations."""

from typing import Any

import numpy as np

from rlsys.envs.randomise.places import ALONE, Layout
from rlsys.envs.spaces import MASK


def add_noise(layout: Layout, obs: Any, normal: np.ndarray) -> Any:
    """Returns observations with noise: x + size * normal, or quaternions turned by small rotations.

    Args:
      layout: where noise goes, and how large it is.
      obs: [B, ...] an array of floats, or a dict of arrays.
      normal: [B, N] numbers drawn from a normal distribution of mean 0 and deviation 1, one for
        each entry, or three for each quaternion.

    Returns:
      obs, with new arrays where noise was added. They may leave the bounds of the observation's
      space, as a noisy sensor may.
    """
    noise = layout.size * normal  # [B, N]
    alone = not isinstance(obs, dict)
    arrays = {ALONE: obs} if alone else dict(obs)
    for key in {piece.key for piece in layout.slices}:
        arrays[key] = arrays[key].copy()
    for key, entries, drawn, rotation in layout.slices:
        x = arrays[key].reshape(len(normal), -1)  # a view
        if rotation:
            x[:, entries] = turn(x[:, entries], noise[:, drawn])
        else:
            x[:, entries] += noise[:, drawn]
    return arrays[ALONE] if alone else arrays


def turn(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Turns quaternions by small rotations: exp(v / 2) q.

    Args:
      quaternion: [B, 4] (w, x, y, z).
      vector: [B, 3] each rotation's axis, in the world's frame, times its angle in rad.

    Returns:
      [B, 4], with the norms of the quaternions that were given.
    """
    angle = np.sqrt((vector**2).sum(-1, keepdims=True))  # [B, 1]
    a = np.cos(angle / 2)
    b, c, d = (0.5 * np.sinc(angle / (2 * np.pi)) * vector).T[..., None]  # sin(angle / 2) v / angle
    w, x, y, z = quaternion.T[..., None]
    turned = (
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
    )
    return np.concatenate(turned, axis=-1)


def lose(
    left: np.ndarray, first: np.ndarray, uniform: np.ndarray, probability: Any, steps: int
) -> np.ndarray:
    """Returns for how many steps each sensor stays lost, this step included: [B, S]; 0 if it works.

    A sensor that works is lost with some probability at each step, for a fixed number of steps. All
    sensors work in an episode's first observation.

    Args:
      left: [B, S] what this function returned a step ago.
      first: [B] bool, where an episode begins.
      uniform: [B, S] drawn from [0, 1).
      probability: [S] the probability that a sensor is lost at a step.
      steps: the number of steps for which a sensor stays lost.
    """
    started = np.where(uniform < probability, steps, 0)
    return np.where(first[:, None], 0, np.where(left > 0, left - 1, started))


def keep(obs: Any, before: Any, kept: np.ndarray) -> Any:
    """Returns observations [B, ...]: `before`, those of a step ago, in rows where kept [B] is True,
    and `obs` in the others. Masks of legal actions are always those of `obs`."""
    if isinstance(obs, dict):
        return {k: x if k == MASK else keep(x, before[k], kept) for k, x in obs.items()}
    return np.where(kept.reshape(-1, *[1] * (obs.ndim - 1)), before, obs)
