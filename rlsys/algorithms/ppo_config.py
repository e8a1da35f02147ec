"""What can be set of PPO, and presets."""

import dataclasses

from rlsys import envs
from rlsys.config import (
    check_at_least,
    check_positive,
    check_shares,
    check_within,
    choose,
    power_of_two,
    register,
)
from rlsys.types import UserError


@register
@dataclasses.dataclass(frozen=True)
class Config:
    """PPO on cart-pole; see PRESETS for others."""

    env: str = "CartPole-v1"
    """EnvPool task, or several: task,task,... for one agent on all; task:option=value sets one."""
    task: envs.Options = envs.Options()
    env_steps: int = 1_000_000
    """Environment steps of the whole run, all environments together."""
    num_envs: int = 256
    """Environments, shared evenly by the tasks."""
    seed: int = 0
    """Of environments, parameters, exploration and minibatches."""
    run_dir: str = ""
    """Folder of the run; runs/<algorithm>-<task>-<time>-s<seed> if empty."""

    discount: float = 0.99
    """gamma, unless horizon_seconds is given."""
    horizon_seconds: float = 0.0
    """H: gamma = 1 - step_seconds / H; 0 to give the discount itself."""
    step_seconds: float = 0.1333
    """Time between two steps of the agent."""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation."""
    clip_eps: float = 0.2
    """How far the probability of an action may be moved, as a ratio."""
    clip_value: bool = False
    """Clip the value's move likewise, in units of the targets' deviation."""
    value_cost: float = 0.5
    """Weight of the value's squared error, halved."""
    entropy_cost: float = 0.01
    """Weight of the policy's entropy."""
    popart: bool = True
    """Normalise values by each task's own mean and deviation (PopArt)."""
    popart_step_size: float = 3e-4
    """beta: how far one sample moves them."""
    popart_floor: float = 0.1
    """Least deviation that values are normalised by, as a share of their mean's size."""

    epochs: int = 4
    """Times that each sample is learned from."""
    minibatches: int = 4
    """Updates of an epoch."""
    sequence_length: int = 1
    """Steps that stay together in a minibatch, played on from the stored recurrent state."""
    learning_rate: float = 1e-3
    """Of Adam."""
    learning_rate_decay: float = 1.0
    """Share of the learning rate that is gone, linearly, at the end; 0 keeps it constant."""
    adam_eps: float = 1e-5
    """Of Adam."""
    max_gradient_norm: float = 0.5
    """Gradients are scaled down to it."""
    clip_entries: bool = False
    """Clip each entry of the gradient by its own second moment instead, as OpenAI Five did."""
    clip_sigmas: float = 5.0
    """To so many roots of it."""

    torso: str | None = None
    """nature, shallow, impala (the deep one), grid or mlp; by the observation's shape if None."""
    hidden_size: int = 64
    """Size of the torso's dense layer; 0 for none."""
    core_size: int = 0
    """Of the LSTM; 0 for a memoryless agent, without previous action and reward."""
    head_size: int = 64
    """Of a hidden layer of the policy's and one of the value's own; 0 for none."""
    frame_stack: int = 1
    """Images seen at once."""
    pixel_offset: int = 0
    """The grey of an image that the network sees as 0, such as the background's."""
    pixel_scale: int = 255
    """The difference of two greys that the network sees as 1."""
    orthogonal: bool = False
    """Begin with orthogonal weights of gain sqrt(2) in the layers that end in a ReLU."""
    bfloat16: bool = False
    """Compute the network in bfloat16; parameters, statistics and results stay float32."""

    actors: int = 1
    """Threads with equal shares of the environments; with several tasks, a multiple of them."""
    unrolls_ahead: int = 1
    """Unrolls that actors may be ahead of the learner; 0 to play in turn. A run repeats itself
    either way."""
    unroll_length: int = 32
    """Steps of each environment that a batch holds."""
    refresh_steps: int = 32
    """Steps of each environment after which actors copy the parameters."""
    actor_devices: int = 0
    """Devices set aside for acting; if 0 the actors share the learner's first."""

    checkpoint_every: int = 1_000_000
    """Environment steps from one checkpoint to the next; environments start afresh there."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept."""
    log_every: int = 20_000
    """Environment steps from one line of the log to the next."""
    eval_episodes: int = 64
    """Episodes played at the end of each task: of the likeliest actions, and of drawn ones."""

    def __post_init__(self):
        check_at_least(
            self,
            1,
            "env_steps num_envs epochs minibatches sequence_length frame_stack pixel_scale actors "
            "unroll_length refresh_steps checkpoint_every keep_checkpoints log_every eval_episodes",
        )
        check_at_least(self, 0, "seed hidden_size core_size head_size unrolls_ahead actor_devices")
        check_positive(self, "learning_rate max_gradient_norm clip_eps step_seconds")
        check_within(self, 0.0, 1.0, "discount gae_lambda popart_step_size learning_rate_decay")
        check_within(
            self,
            0.0,
            float("inf"),
            "horizon_seconds popart_floor clip_sigmas entropy_cost adam_eps",
        )
        check_shares(self, len(envs.tasks(self.env, self.task)))
        if self.unroll_length % self.sequence_length:
            raise UserError(
                f"unroll_length {self.unroll_length} is no multiple of sequence_length "
                f"{self.sequence_length}"
            )
        if self.core_size and self.sequence_length == 1 < self.unroll_length:
            raise UserError(
                f"an LSTM (core_size {self.core_size}) learns nothing through time from sequences "
                f"of one step: set sequence_length, to 16 for instance"
            )
        if self.num_sequences % self.minibatches:
            raise UserError(
                f"{self.num_sequences} sequences of {self.sequence_length} steps cannot be split "
                f"evenly into {self.minibatches} minibatches"
            )
        if isinstance(self.horizon_seconds, float) and 0 < self.horizon_seconds < self.step_seconds:
            raise UserError(
                f"horizon_seconds {self.horizon_seconds} must not be shorter than step_seconds "
                f"{self.step_seconds}"
            )

    @property
    def num_sequences(self) -> int:
        """Sequences of a batch."""
        return self.num_envs * self.unroll_length // self.sequence_length


ATARI = Config(
    env="Pong-v5",
    task=envs.Options(minimal_actions=True, clip_rewards=True),
    env_steps=10_000_000,
    num_envs=64,
    learning_rate=5e-4,
    torso="nature",
    hidden_size=512,
    head_size=0,
    frame_stack=4,
    unroll_length=64,
    refresh_steps=64,
    step_seconds=4 / 60,
    log_every=50_000,
    eval_episodes=32,
)
PRESETS = {
    "cartpole": Config(),
    "small": Config(env_steps=5_000_000, learning_rate=3e-3),
    "recurrent": Config(  # cart-pole without velocities
        task=envs.Options(observe=(0, 2)),
        env_steps=800_000,
        core_size=64,
        sequence_length=16,
    ),
    "atari": ATARI,
    # Pong on a CPU: a small network, few environments, many small updates.
    "pong-cpu": dataclasses.replace(
        ATARI,
        env_steps=1_200_000,
        num_envs=32,
        popart=False,  # returns are of order 1
        minibatches=8,
        torso="shallow",
        hidden_size=256,
        pixel_offset=87,  # the court's grey, so that what moves on it stands out
        pixel_scale=40,
        orthogonal=True,
        checkpoint_every=300_000,
        log_every=20_480,
    ),
    "pixels": dataclasses.replace(ATARI, torso="impala", task=envs.Options(clip_rewards=True)),
}
SUITS = {"atari": "atari", "procgen": "pixels", "vizdoom": "pixels"}  # families of tasks
ON_CPU: dict[str, str] = {"Pong-v5": "pong-cpu"}  # presets of tasks, without an accelerator


def preset(name: str | None, env: str | None) -> Config:
    """The preset of that name or, without one, what suits the task; set to the tasks if given.

    Several tasks get an actor each.

    Raises:
      UserError: there is no such preset, or no such task.
    """
    config, changes = choose(PRESETS, SUITS, name, env)
    num_tasks = len(envs.tasks(changes["env"], changes["task"]))
    if num_tasks > 1:
        changes |= {
            "actors": num_tasks,
            "num_envs": power_of_two(config.num_envs // num_tasks) * num_tasks,
        }
    return dataclasses.replace(config, **changes)
