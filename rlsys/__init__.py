"""rlsys: the large-scale deep-RL systems of 2018 on one machine, in JAX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlsys.acting.exported import ExportedPolicy


def load_policy(path: str | Path, mode: str | None = None) -> ExportedPolicy:
    """Loads a policy that `make export` wrote.

    Args:
      path: the file.
      mode: "greedy" for the best action, or the way that it explored in training; None for the one
        whose return is the algorithm's score.

    Returns:
      an ExportedPolicy, whose reset(batch) begins episodes and whose act(obs) chooses actions.

    Raises:
      rlsys.types.UserError: the file is missing or is no exported policy, or there is no such mode.
    """
    from rlsys.acting.exported import load  # which imports JAX

    return load(path, mode)
