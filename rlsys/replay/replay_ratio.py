"""The replay ratio: learned steps for each environment step.

Counted are steps that updates truly learn from, not burn-in, padding past an episode's end, or
resets: where episodes are shorter than sequences, an update learns fewer steps and more updates are
due. Kapturowski et al. 2019, section 2.3, call it "the effective number of times each experienced
observation is being replayed", 0.8 for R2D2, and do not say if padding counted.
"""

from typing import Any


class ReplayRatio:
    """How much was learned, and how many updates are due so that replay_ratio holds."""

    def __init__(self, config: Any):
        self._config = config
        self.learned_steps = 0  # by all updates, of all processes
        self._of_update = float(config.batch_size * config.length)  # until an update has shown it

    def due(self, env_steps: int) -> int:
        """Updates that are due after so many environment steps, if each learns as many steps as the
        last ones did. What they learn more or less counts when the next are due."""
        config = self._config
        allowed = (env_steps - config.learning_starts) * config.replay_ratio
        return max(int((allowed - self.learned_steps) / self._of_update), 0)

    def learned(self, updates: int, steps: int) -> None:
        """Takes note that so many updates have learned so many steps, of all processes."""
        self.learned_steps += steps
        self._of_update = max(steps / updates, 1.0)

    def state(self) -> dict[str, Any]:
        """What a checkpoint's meta holds of it."""
        return {"learned_steps": self.learned_steps, "of_update": self._of_update}

    def restore(self, meta: dict[str, Any]) -> None:
        """Goes on from a checkpoint's meta."""
        self.learned_steps, self._of_update = meta["learned_steps"], meta["of_update"]
