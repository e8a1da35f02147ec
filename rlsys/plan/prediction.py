"""The prediction of a run: times, memory, rate and bottleneck."""

from typing import NamedTuple

from rlsys.plan.machine import Machine


class Times(NamedTuple):
    """Seconds of a round: one unroll of every actor, and the updates that follow."""

    environment: float  # of one actor, like the next two
    inference: float
    host: float  # of actors, beside the two
    actors: float  # until all have played
    replay: float
    transfer: float
    learner: float
    shared: float  # that actors and learner together need of what they share: cores, or a device

    @property
    def learning(self) -> float:
        return self.replay + self.transfer + self.learner


class Bytes(NamedTuple):
    """Memory."""

    parameters: float  # on each device, with a target network's
    optimizer: float
    temporaries: float  # of the learner's program, activations above all
    batches: float
    replay: float  # on the host, like the next two
    unrolls: float
    past_selves: float = 0.0  # as many as are kept

    @property
    def device(self) -> float:
        return self.parameters + self.optimizer + self.temporaries + self.batches


class Plan(NamedTuple):
    """The prediction of a run on a machine."""

    machine: Machine
    ahead: bool  # actors play while the learner learns
    env_steps: int  # of a round
    learner_steps: float
    times: Times
    bytes: Bytes
    inference_busy: float  # share of an inference call that the device computes; nan if unknown

    @property
    def seconds(self) -> float:
        """The seconds of a round."""
        if self.ahead:
            return max(self.times.actors, self.times.learning, self.times.shared)
        return self.times.actors + self.times.learning

    @property
    def rate(self) -> float:
        """Environment steps per second."""
        return self.env_steps / self.seconds

    @property
    def bottleneck(self) -> str:
        """A sentence."""
        t = self.times
        parts = {"the environments": t.environment, "inference": t.inference}
        parts["the actors' own work"] = t.host
        total = sum(parts.values()) or 1.0
        parts = {k: v * t.actors / total for k, v in parts.items()}  # as several actors overlap
        learning = {"the replay": t.replay, "transfer": t.transfer, "the learner": t.learner}
        if self.ahead and self.seconds == t.shared:
            most = max(parts | learning, key=lambda k: (parts | learning)[k])
            return f"actors and learner wait for the same hardware; {most} needs most of it"
        if self.ahead:
            parts = parts if t.actors > t.learning else learning
        else:
            parts |= learning
        most = max(parts, key=lambda k: parts[k])
        share = min(parts[most] / self.seconds, 1.0)
        return f"{most}: {share:.0%} of the time of a round"
