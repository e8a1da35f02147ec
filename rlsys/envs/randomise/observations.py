"""What is done to observations, as functions of drawn numbers: noise, and what stays as it was."""

from typing import Any

import numpy as np

from rlsys.envs.randomise.places import Layout
from rlsys.envs.spaces import MASK


def add_noise(layout: Layout, obs: Any, normal: np.ndarray) -> Any:
    """Observations with noise: x + size * normal, and quaternions turned by small rotations.

    Args:
      layout: where noise goes, and its size.
      obs: [B, ...] an array of floats, or a dict of arrays.
      normal: [B, N] numbers drawn from a normal distribution of mean 0 and deviation 1, one for
        each entry, or three for each quaternion.

    Returns:
      obs, with new arrays where noise was added. What is bounded is not held within its bounds, as
      a sensor's noise is not.
    """
    noise = layout.size * normal  # [B, N]
    alone = not isinstance(obs, dict)
    arrays = {"obs": obs} if alone else dict(obs)
    for key in {piece.key for piece in layout.slices}:
        arrays[key] = arrays[key].copy()
    for key, entries, drawn, rotation in layout.slices:
        x = arrays[key].reshape(len(normal), -1)  # a view
        if rotation:
            x[:, entries] = turn(x[:, entries], noise[:, drawn])
        else:
            x[:, entries] += noise[:, drawn]
    return arrays["obs"] if alone else arrays


def turn(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Quaternions turned by small rotations: exp(v / 2) q.

    Args:
      quaternion: [B, 4] (w, x, y, z).
      vector: [B, 3] rotations about the world's axes, in rad: their axis times their angle.

    Returns:
      [B, 4], as long as the quaternions.
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
    """How many steps each sensor stays lost, this one included; it is lost where that is not 0.

    A sensor that works is lost with a probability, for a fixed number of steps. All work in an
    episode's first observation.

    Args:
      left: [B, S] the number a step ago.
      first: [B] bool, where an episode begins.
      uniform: [B, S] drawn from [0, 1).
      probability: [S] of being lost, in one step.
      steps: for which a sensor stays lost.
    """
    started = np.where(uniform < probability, steps, 0)
    return np.where(first[:, None], 0, np.where(left > 0, left - 1, started))


def keep(obs: Any, before: Any, kept: np.ndarray) -> Any:
    """Observations [B, ...] in which whole rows are as they were a step ago where kept [B] is True;
    masks of legal actions are always new."""
    if isinstance(obs, dict):
        return {k: x if k == MASK else keep(x, before[k], kept) for k, x in obs.items()}
    return np.where(kept.reshape(-1, *[1] * (obs.ndim - 1)), before, obs)
