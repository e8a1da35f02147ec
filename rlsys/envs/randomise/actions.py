"""Changes actions by drawn numbers on their way to the environment.

Actions are [B, D] floats in the action's own units, from low [D] to high [D]; delays and holds
take discrete actions, too. `before` is what was played a step ago; for a delay, what was chosen
then. At an episode's first step there was nothing before, and the action is played as it is.
"""

from typing import Any

import numpy as np


def smooth(action: np.ndarray, before: np.ndarray, first: np.ndarray, share: float) -> np.ndarray:
    """Returns an exponential moving average: share * before + (1 - share) * action.

    Args:
      action, before: [B, D].
      first: [B] bool, where the action is an episode's first.
      share: the weight of what was before, in [0, 1).
    """
    return np.where(first[:, None], action, share * before + (1 - share) * action)


def hold(action: np.ndarray, before: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Returns `before` where held is True, and the action elsewhere.

    Args:
      action, before: [B, D]. For a delay `before` is the action that the agent chose a step ago,
        for a hold it is the action that was played then.
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
    """Returns (1 + gain) * action + span * (offset + noise).

    Args:
      action: [B, D].
      span: [D] high - low.
      gain: [B, D] multiplicative noise, which an episode keeps.
      offset: [B, D] additive noise, which an episode keeps, as a share of the span.
      noise: [B, D] additive noise of this step, as a share of the span.
    """
    return (1 + gain) * action + span * (offset + noise)


def backlash(
    action: np.ndarray, before: np.ndarray, first: np.ndarray, gap: np.ndarray
) -> np.ndarray:
    """Returns what an actuator does if its gear or tendon has play, as a position in the action's
    units: it stands still until the action has crossed the gap, and then follows the action at a
    distance of half a gap:

      y_t = min(max(y_{t-1}, a_t - gap / 2), a_t + gap / 2)

    This is the standard dead-band model (the play operator; Tao and Kokotovic 1996, "Adaptive
    Control of Systems with Actuator and Sensor Nonlinearities"). OpenAI et al. 2018 scale a joint's
    action by its slack instead, which needs the joints' positions and gaps that were calibrated on
    their hand.

    Args:
      action, before: [B, D].
      first: [B] bool, where the action is an episode's first.
      gap: [B, D] or [D] the width of the gap.
    """
    driven = np.minimum(np.maximum(before, action - gap / 2), action + gap / 2)
    return np.where(first[:, None], action, driven)
