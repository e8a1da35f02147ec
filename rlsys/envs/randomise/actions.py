"""What is done to actions on their way to the environment, as functions of drawn numbers.

Actions are [B, D] floats in the action's own units, from low [D] to high [D]; delays and holds
take counted actions, too. `before` is what the function gave a step ago; in the first step of an
episode there was nothing, and the action acts as it is.
"""

from typing import Any

import numpy as np


def smooth(action: np.ndarray, before: np.ndarray, first: np.ndarray, share: float) -> np.ndarray:
    """An exponential moving average: share * before + (1 - share) * action.

    Args:
      action, before: [B, D].
      first: [B] bool, where it is an episode's first action.
      share: of what was there before, in [0, 1).
    """
    return np.where(first[:, None], action, share * before + (1 - share) * action)


def hold(action: np.ndarray, before: np.ndarray, held: np.ndarray) -> np.ndarray:
    """What acted before where held is True, else the action.

    Args:
      action, before: [B, D]; before is the last action for a delay, and what acted last for a hold.
      held: [B, D] or [B, 1] bool.
    """
    return np.where(held, before, action)


def add_noise(
    action: np.ndarray,
    span: np.ndarray,
    *,
    gain: Any = 0.0,
    offset: Any = 0.0,
    noise: Any = 0.0,
) -> np.ndarray:
    """(1 + gain) * action + span * (offset + noise).

    Args:
      action: [B, D].
      span: [D] high - low.
      gain: [B, D] the multiplicative noise of an episode.
      offset: [B, D] the additive noise of an episode, in shares of the span.
      noise: [B, D] the additive noise of a step, in shares of the span.
    """
    return (1 + gain) * action + span * (offset + noise)


def backlash(
    action: np.ndarray, before: np.ndarray, first: np.ndarray, gap: np.ndarray
) -> np.ndarray:
    """The play of a gear or a tendon: what is driven stands still until the driver, in the action's
    units, has crossed the gap, and then follows at half a gap's distance:

      y_t = min(max(y_{t-1}, a_t - gap / 2), a_t + gap / 2)

    This is the standard dead-band model (the play operator; Tao and Kokotovic 1996, "Adaptive
    Control of Systems with Actuator and Sensor Nonlinearities"). OpenAI et al. 2018 scale a joint's
    action by its slack instead, which needs the joints' positions and gaps that were calibrated on
    their hand.

    Args:
      action, before: [B, D].
      first: [B] bool, where it is an episode's first action.
      gap: [B, D] or [D].
    """
    driven = np.minimum(np.maximum(before, action - gap / 2), action + gap / 2)
    return np.where(first[:, None], action, driven)
