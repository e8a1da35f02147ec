"""The replay ratio says how many steps are learned for each environment step.

Only steps that updates learn from are counted, not burn-in, padding past an episode's end, or
resets: if episodes are shorter than sequences, an update learns fewer steps and more updates are
due. Kapturowski et al. 2019, section 2.3, call it "the effective number of times each experienced
observation is being replayed", 0.8 for R2D2, and do not say if padding counted.
"""

from typing import Any


class ReplayRatio:
    """Counts what was learned and says how many updates are due, so that replay_ratio holds."""

    def __init__(self, config: Any):
        self._config = config
        self.learned_steps = 0  # by all updates of all processes
        self._of_update = float(
            config.batch_size * config.length
        )  # a guess, until the first update is done

    def due(self, env_steps: int) -> int:
        """Return the number of updates that are due after env_steps environment steps.

        Each is taken to learn as many steps as the last ones did. If they learn more or fewer, the
        next call makes up for it.
        """
        config = self._config
        allowed = (env_steps - config.learning_starts) * config.replay_ratio
        return max(int((allowed - self.learned_steps) / self._of_update), 0)

    def learned(self, updates: int, steps: int) -> None:
        """Count updates that are done, and the steps that they learned in all processes."""
        self.learned_steps += steps
        self._of_update = max(steps / updates, 1.0)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint's meta keeps."""
        return {"learned_steps": self.learned_steps, "of_update": self._of_update}

    def restore(self, meta: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.learned_steps, self._of_update = meta["learned_steps"], meta["of_update"]
