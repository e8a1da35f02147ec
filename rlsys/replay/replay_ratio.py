"""The replay ratio says how many steps are learned for each environment step.

Only steps that updates learn from are counted, not burn-in, padding past an episode's end, or
resets: if episodes are shorter than sequences, an update learns fewer steps and more updates are
due. Kapturowski et al. 2019, section 2.3, call it "the effective number of times each experienced
observation is being replayed", 0.8 for R2D2, and do not say if padding counted.
"""

import math
from typing import Any

FIELDS = ("replay_ratio", "batch_size", "length", "learning_starts")  # decide what is due


class ReplayRatio:
    """Counts what was learned and says how many updates are due, so that replay_ratio holds."""

    def __init__(self, config: Any):
        self._config = config
        self._fields = {name: getattr(config, name) for name in FIELDS}
        # Steps played, and steps learned, that replay_ratio does not compare.
        self._played_before, self._learned_before = config.learning_starts, 0
        self.learned_steps = 0  # by all updates of all processes
        self._of_update = float(
            config.batch_size * config.length
        )  # steps of an update: a guess until one is done

    def due(self, env_steps: int) -> int:
        """Return the number of updates that are due after env_steps environment steps.

        Each is expected to learn as many steps as the last ones did. If it learns more or fewer,
        the next call makes up for it.
        """
        allowed = (env_steps - self._played_before) * self._config.replay_ratio
        learned = self.learned_steps - self._learned_before
        return max(int((allowed - learned) / self._of_update), 0)

    def learned(self, updates: int, steps: int) -> None:
        """Count updates that are done, and the steps that they learned in all processes."""
        self.learned_steps += steps
        self._of_update = max(steps / updates, 1.0)

    def held(self, env_steps: int) -> float:
        """Return the steps learned for each of env_steps played, or since one of FIELDS changed."""
        played = env_steps - (self._played_before if self._learned_before else 0)
        return (self.learned_steps - self._learned_before) / played if played > 0 else math.nan

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint's meta keeps."""
        return {
            "learned_steps": self.learned_steps,
            "of_update": self._of_update,
            "before": [self._played_before, self._learned_before],
            "fields": self._fields,
        }

    def restore(self, meta: dict[str, Any], env_steps: int) -> None:
        """Go on from what `state` returned after env_steps environment steps.

        If one of FIELDS has changed since, the ratio holds from here on: what was played or learned
        under the old ones makes no update due, and delays none.
        """
        self.learned_steps, self._of_update = meta["learned_steps"], meta["of_update"]
        before = meta.get("fields", self._fields)  # checkpoints of earlier versions have none
        if before == self._fields:
            self._played_before, self._learned_before = meta.get(
                "before", [self._config.learning_starts, 0]
            )
            return
        self._played_before = max(env_steps, self._config.learning_starts)
        self._learned_before = self.learned_steps
        old, new = (fields["batch_size"] * fields["length"] for fields in (before, self._fields))
        self._of_update = max(self._of_update * new / old, 1.0)
