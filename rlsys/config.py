"""Defines the fields that algorithms share, and checks, registers and reads Configs.

A Config is a frozen dataclass. A sweep may vary its float fields within one compiled program.
"""

import dataclasses
import math
import types
import typing
from operator import attrgetter
from typing import Any, ClassVar

import jax

from rlsys import envs
from rlsys.types import UserError

PREFIXED = ("randomise",)  # fields that are dataclasses, whose name is a prefix: randomise.preset
LARGEST = 2**53  # whole numbers up to here are exact in float64


def register(cls):
    """Registers a Config as a pytree: its float fields are leaves, all else is static.

    So an update takes a Config as an argument like any other, and vmap over a stack of Configs
    makes a sweep.
    """
    fields = dataclasses.fields(cls)
    leaves = [f.name for f in fields if f.type in (float, "float")]
    rest = [f.name for f in fields if f.name not in leaves]
    return jax.tree_util.register_dataclass(cls, data_fields=leaves, meta_fields=rest)


def not_learned(default: Any) -> Any:
    """Returns a dataclass field that does not change what is learned, which a report shows only on
    request; default: its default value."""
    return dataclasses.field(default=default, metadata={"learned": False})


def not_of_learning(cls) -> list[str]:
    """Returns the names of a Config's fields that do not change what is learned."""
    return [f.name for f in dataclasses.fields(cls) if not f.metadata.get("learned", True)]


def check_numbers(config) -> None:
    """Raises UserError if a number is not finite, or is whole and too large for float64 to hold."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{field.name} must be finite, not {value}")
        if isinstance(value, int) and field.name != "seed" and abs(value) > LARGEST:
            raise UserError(f"{field.name} must lie within 2^53, so that float64 can hold it")


def check_at_least(config, least: int, names: str) -> None:
    """Raises UserError if one of the fields is below `least`; names: the fields, with spaces."""
    for name in names.split():
        if getattr(config, name) < least:
            raise UserError(f"{name} must be {least} or more, not {getattr(config, name)}")


def check_positive(config, names: str) -> None:
    """Raises UserError if one of the fields is not positive; names: the fields, with spaces."""
    for name in names.split():
        value = getattr(config, name)
        if isinstance(value, int | float) and not value > 0:  # tracers of a sweep pass
            raise UserError(f"{name} must be positive, not {value}")


def check_within(config, low: float, high: float, names: str) -> None:
    """Raises UserError if one of the fields is outside [low, high]; names: as in check_positive."""
    for name in names.split():
        value = getattr(config, name)
        if isinstance(value, int | float) and not low <= value <= high:  # tracers of a sweep pass
            bounds = f"{low:g} or more" if high == float("inf") else f"within [{low:g}, {high:g}]"
            raise UserError(f"{name} must be {bounds}, not {value}")


def check_default(config, names: str, rest: str) -> None:
    """Raises UserError if a field that would do nothing is not at its default; names: as in
    check_positive; rest: what the sentence says after the field's name."""
    for name in names.split():
        value = getattr(config, name)
        if isinstance(value, int | float) and value != getattr(type(config), name):  # as above
            raise UserError(f"{name} {rest}")


@register
@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The fields that every algorithm shares; each algorithm's Config adds its own.

    Raises:
      UserError: the fields cannot work together.
    """

    env: str = "CartPole-v1"
    """The task, or several with commas between them, task,task,..., which one agent then plays. A
    word after a task sets an option of this task alone: task:option=value."""
    env_options: envs.Options = envs.Options()
    randomise: envs.Randomise = envs.NOTHING
    env_steps: int = 1_000_000
    """The run ends after this many environment steps, counted over all environments. The unrolls
    that are under way then are played to their end."""
    num_envs: int = 256
    """The number of environments, which the tasks share evenly. In a game each player counts as
    one."""
    seed: int = 0
    """The seed of the environments, the parameters, the exploration and all else that is random."""
    run_dir: str = not_learned("")
    """The run's folder; if empty it is runs/<algorithm>-<task>-<time>-s<seed>."""
    init_from: str = ""
    """The folder of a run: begin with its newest parameters and statistics, and with a fresh
    optimiser. If empty, begin with random parameters."""

    discount: float = 0.99
    """gamma: a reward that comes one step later counts gamma times as much."""
    learning_rate: float = 1e-3
    """The learning rate at the start."""
    learning_rate_decay: float = 1.0
    """The share of the learning rate that is lost by the end of the run, linearly: 1 decays it to
    0, and 0 keeps it constant."""
    max_gradient_norm: float = 1.0
    """Gradients whose norm is larger than this are scaled down to it."""

    torso: str | None = None
    """The network for images and grids: nature, shallow, impala (IMPALA's deep network), grid or
    mlp; if None, the observation's shape decides."""
    hidden_size: int = 64
    """The size of the torso's dense layer; 0 for none."""
    core_size: int = 0
    """The size of the LSTM, which also sees the previous action and reward; with 0 the agent has no
    memory and sees neither."""
    head_size: int = 64
    """The size of the hidden layer before each output of the network; 0 for none."""
    frame_stack: int = 1
    """The number of the latest images that the network sees at once."""
    pixel_offset: int = 0
    """The grey level of an image that the network sees as 0, such as the background's."""
    pixel_scale: int = 255
    """The difference of two grey levels that the network sees as 1."""
    normalize_observations: bool = False
    """Normalise numbers in observations by the mean and deviation of all observations that were
    learned from, and clip them to 5 deviations."""
    orthogonal: bool = False
    """Begin with orthogonal weights of gain sqrt(2) in layers that are followed by a ReLU."""
    bfloat16: bool = False
    """Compute the network in bfloat16; parameters, statistics and results stay float32."""

    actors: int = 1
    """The number of threads that play, each with an equal share of the environments; with several
    tasks it must be a multiple of their number."""
    unrolls_ahead: int = 1
    """The number of unrolls that actors may be ahead of the learner; with 0 actors and learner take
    turns. A run repeats itself to the bit either way, except for IMPALA on several tasks, which
    takes unrolls as they are finished."""
    unroll_length: int = 20
    """The number of steps of each environment that an actor plays before it hands them to the
    learner."""
    refresh_steps: int = 20
    """Actors copy the learner's parameters after this many steps of each environment."""
    actor_devices: int = not_learned(0)
    """The number of devices set aside for acting; with 0 the actors share the learner's first
    device."""

    checkpoint_every: int = 1_000_000
    """The number of environment steps from one checkpoint to the next; the first ones come sooner,
    at 10,000, 40,000, 160,000 and so on. Environments start afresh at each."""
    keep_checkpoints: int = not_learned(2)
    """The number of newest checkpoints that are kept."""
    log_every: int = not_learned(20_000)
    """The number of environment steps from one line of the log to the next."""
    eval_episodes: int = not_learned(64)
    """The number of episodes that an evaluation plays of each task, in each of two ways: greedily,
    and with random actions as in training. A run that is not stopped ends with an evaluation."""
    gif: bool = not_learned(True)
    """Record an episode of the final policy at the end, where the task can be drawn."""
    eval_every: int = not_learned(0)
    """The number of environment steps from one evaluation during training to the next; the best
    parameters are kept beside the newest. With 0 there is none."""

    plays_games: ClassVar[bool] = False  # whether it can play both sides of a game
    has_values: ClassVar[bool] = False  # whether a value function is learned beside what acts

    def __post_init__(self):
        check_numbers(self)
        if self.randomise.show_value and not self.has_values:
            raise UserError(
                "show_value shows the value function what the policy does not see, which needs "
                "impala or ppo: what acts by Q-values has no such function"
            )
        check_at_least(
            self,
            1,
            "env_steps num_envs frame_stack pixel_scale actors unroll_length refresh_steps "
            "checkpoint_every keep_checkpoints log_every eval_episodes",
        )
        check_at_least(
            self, 0, "seed hidden_size core_size head_size unrolls_ahead actor_devices eval_every"
        )
        for task in self.tasks:
            teams, rows = envs.is_team_game(task.env_id), envs.layout(task).rows
            if (teams or rows > 1) and not self.plays_games:
                sides = "teams" if teams else "players"
                raise UserError(f"{task.name!r} is a game of two {sides}, which only ppo can play")
            if self.num_envs // self.actors % rows:
                even = "an even number" if rows == 2 else f"a multiple of {rows}"
                who = f"{rows} players" if teams else "two players"
                raise UserError(
                    f"{task.name!r} has {who}, each with a row of its own, so each actor needs "
                    f"{even} of num_envs, not {self.num_envs} / {self.actors}"
                )
        check_positive(self, "learning_rate max_gradient_norm")
        if self.normalize_observations:
            rest = "is not used with normalize_observations, which shifts and scales each pixel"
            check_default(self, "pixel_offset pixel_scale", rest)
        check_within(self, 0.0, 1.0, "discount learning_rate_decay")
        num_tasks = len(self.tasks)
        if self.actors % num_tasks:
            raise UserError(
                f"actors must be a multiple of the {num_tasks} tasks, not {self.actors}: each "
                f"actor plays one of them"
            )
        if self.num_envs % self.actors:
            raise UserError(
                f"{self.num_envs} environments cannot be shared evenly by {self.actors} actors"
            )
        if self.randomise.adapt and num_tasks > 1:
            raise UserError(
                f"randomise.adapt widens the ranges of one task, and {num_tasks} tasks are played"
            )
        self.randomise.check_shares(self.num_envs // self.actors)
        if self.refresh_steps % self.unroll_length:
            raise UserError(
                f"refresh_steps {self.refresh_steps} is no multiple of unroll_length "
                f"{self.unroll_length}"
            )

    @property
    def tasks(self) -> list[envs.Task]:
        """The tasks of the run, each with its options."""
        tasks = envs.read_tasks(self.env, self.env_options)
        return [task._replace(randomise=self.randomise) for task in tasks]

    @property
    def eval_tasks(self) -> list[envs.Task]:
        """The tasks that an evaluation plays."""
        return [x for task in self.tasks for x in evaluated(task)]

    @property
    def has_past_selves(self) -> bool:
        """Whether past selves play against the learner."""
        return False

    @property
    def join(self) -> int:
        """The number of actors whose unrolls the learner gets together."""
        return self.actors

    @property
    def network(self) -> dict[str, Any]:
        """The values of the fields that every network takes, by name."""
        sizes = "hidden_size core_size head_size frame_stack"
        names = f"torso {sizes} pixel_offset pixel_scale normalize_observations bfloat16"
        return {name: getattr(self, name) for name in names.split()}


@register
@dataclasses.dataclass(frozen=True)
class ReplayConfig(RunConfig):
    """The fields that every algorithm with a replay shares."""

    learning_rate_decay: float = 0.0  # as in both papers
    unrolls_ahead: int = 0
    replay_capacity: int = 200_000
    """The number of environment steps that the replay can hold."""
    learning_starts: int = 5_000
    """Learning begins once this many environment steps have been played."""
    replay_ratio: float = 2.5
    """The number of steps that are learned from for each environment step. A step counts each time
    that an update learns from it, and not in burn-in or in padding past an episode's end."""
    priority_exponent: float = 0.9
    """Samples are drawn with a probability in proportion to their priority to the power of this."""
    importance_exponent: float = 0.6
    """The loss of a sample is weighted by (1 / its probability) to the power of this."""
    batch_size: int = 32
    """The number of samples that an update learns from, over all devices."""
    n: int = 5
    """The number of rewards that an n-step return adds up before a value stands for the rest."""
    target_update: int = 50
    """The number of updates after which the parameters are copied to the target network."""
    epsilon_base: float = 0.4
    """The largest exploration rate: environment i of N acts at random with probability
    epsilon_base^(1 + epsilon_exponent i / (N - 1))."""
    epsilon_exponent: float = 7.0
    """The exponent in epsilon_base's formula: the larger, the further exploration rates spread."""

    def __post_init__(self):
        if len(self.tasks) > 1:
            raise UserError("a replay holds one task; impala and ppo play several")
        super().__post_init__()
        check_at_least(self, 1, "batch_size n target_update")
        check_positive(self, "replay_ratio")
        check_within(self, 0.0, 1.0, "epsilon_base importance_exponent")
        check_within(self, 0.0, float("inf"), "priority_exponent epsilon_exponent")
        if self.learning_starts >= self.env_steps:
            raise UserError(
                f"learning_starts {self.learning_starts} must be below env_steps {self.env_steps}"
            )


@register
@dataclasses.dataclass(frozen=True)
class ActorCriticConfig(RunConfig):
    """The fields that every algorithm with a policy and a value shares."""

    has_values: ClassVar[bool] = True

    policy: str = "categorical"
    """The policy's distribution: "categorical", for which each dimension of a continuous action
    takes one of a few values, or "gaussian", which is for continuous actions only."""
    separate_networks: bool = False
    """Give the values a torso and an LSTM of their own, in place of the policy's."""
    value_core_size: int | None = None
    """The size of the values' own LSTM, 0 for none; if None, it is core_size. It needs
    separate_networks, and lets a policy without memory learn from values that have a memory."""
    privileged: tuple[str, ...] = ()
    """Names of the observation's arrays that only the values read, and never the policy (Pinto et
    al. 2017, "Asymmetric Actor Critic"), whose LSTM then sees no rewards either. It needs
    separate_networks. An exported policy does not take these arrays, and a task that evaluation
    plays need not show them."""
    entropy_cost: float = 0.01
    """The weight of the policy's entropy in the loss."""
    popart: bool = True
    """Normalise values by each task's own mean and deviation (PopArt)."""
    popart_step_size: float = 3e-4
    """beta: the share by which one sample moves PopArt's mean and deviation."""
    popart_floor: float = 0.1
    """PopArt divides values by at least this share of the absolute value of their mean."""

    def __post_init__(self):
        super().__post_init__()
        if self.policy not in ("categorical", "gaussian"):
            raise UserError(f"policy must be categorical or gaussian, not {self.policy!r}")
        if self.value_core_size is not None and self.value_core_size < 0:
            raise UserError(f"value_core_size must be 0 or more, not {self.value_core_size}")
        for name in ("privileged", "value_core_size", "randomise.show_value"):
            value = attrgetter(name)(self)
            if value not in ((), None, False) and not self.separate_networks:
                raise UserError(f"{name} {value} needs separate_networks: True")
        check_within(self, 0.0, 1.0, "popart_step_size")
        check_within(self, 0.0, float("inf"), "popart_floor entropy_cost")
        if not self.popart:
            check_default(self, "popart_step_size popart_floor", "is for popart, which is off")

    @property
    def tasks(self) -> list[envs.Task]:
        """The tasks of the run; a Gaussian policy plays their continuous actions without bins."""
        return [t._replace(continuous=self.policy == "gaussian") for t in super().tasks]


def flat(config: Any) -> dict[str, Any]:
    """Returns the values of a Config's fields by name, and beside them those of dataclasses in it.

    Args:
      config: a Config, or what dataclasses.asdict makes of it.
    """
    if dataclasses.is_dataclass(config):
        config = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    found: dict[str, Any] = {}
    for name, value in config.items():
        if not (dataclasses.is_dataclass(value) or isinstance(value, dict)):
            found[name] = value
        elif name in PREFIXED:
            found |= {f"{name}.{inner}": x for inner, x in flat(value).items()}
        else:
            found |= flat(value)
    return found


def evaluated(task: envs.Task) -> list[envs.Task]:
    """Returns the tasks that an evaluation plays for one of training: for a game of two, one
    against each player that does not learn. Drawn physics stay as they were drawn at first, so that
    no episode is cut. They are drawn from the whole ranges of their words, however far training has
    widened its own."""
    fixed = dataclasses.replace(task.randomise, redraw_steps=0, adapt=False)
    return [x._replace(randomise=fixed) for x in envs.against_players(task)]


def tasks_of(config: dict[str, Any]) -> list[envs.Task]:
    """Returns the tasks of what dataclasses.asdict makes of a Config, whether or not they can be
    played here."""
    options = from_dict(envs.Options, config.get("env_options", {}))
    return envs.read_tasks(config["env"], options, check=False)


def fits(kind: Any, x: Any) -> bool:
    """Tells whether a value is of a field's type; a whole number is a float too, a bool is
    neither.

    Args:
      kind: bool, int, float, str, None, tuple[<one of these>, ...], or a union of them. Whatever
        else a Config may have passes.
    """
    origin, kinds = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return isinstance(x, tuple) and all(fits(kinds[0], y) for y in x)
    if origin in (types.UnionType, typing.Union):
        return any(fits(one, x) for one in kinds)
    if kind in (int, float) and isinstance(x, bool):
        return False
    return not isinstance(kind, type) or isinstance(x, int | float if kind is float else kind)


def from_dict(cls, values: dict[str, Any]):
    """Makes a Config from what dataclasses.asdict gave, after JSON has made lists of its tuples.

    Raises:
      UserError: there is no such field, a value is of another type than its field, or the fields
        cannot work together.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if not isinstance(values, dict):
        raise UserError(f"{values!r} stands where {cls.__module__} has fields with names")
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UserError(f"{cls.__module__} has no field {unknown[0]!r}: another version wrote it")

    def value(name, x):
        default = fields[name].default
        if dataclasses.is_dataclass(default):
            return from_dict(type(default), x)
        x = tuple(x) if isinstance(x, list) else x
        if not fits(fields[name].type, x):
            kind = fields[name].type
            kind = kind.__name__ if isinstance(kind, type) else kind
            raise UserError(f"{name} must be of type {kind}, not {x!r}")
        return x

    return cls(**{name: value(name, x) for name, x in values.items()})
