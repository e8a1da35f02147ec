"""What can be set of R2D2, and presets: table 2 of the paper, and small tasks that need memory."""

import dataclasses

from rlsys import envs
from rlsys.config import check_at_least, check_positive, check_shares, choose, register
from rlsys.types import UserError


@register
@dataclasses.dataclass(frozen=True)
class Config:
    """R2D2 on a small task that needs memory; see PRESETS for others."""

    env: str = "CartPole-v1"
    """EnvPool task."""
    task: envs.Options = envs.Options(observe=(0, 2))
    env_steps: int = 1_500_000
    """Environment steps of the whole run, all environments together."""
    num_envs: int = 64
    """Environments; number i of N explores with epsilon_base^(1 + epsilon_exponent i / (N - 1))."""
    seed: int = 0
    """Of environments, parameters, exploration and sampling."""
    run_dir: str = ""
    """Folder of the run; runs/<algorithm>-<task>-<time>-s<seed> if empty."""

    discount: float = 0.997
    """gamma."""
    n: int = 5
    """Steps of the bootstrapped return."""
    value_rescaling: bool = True
    """Learn h(Q), h(x) = sign(x) (sqrt(|x| + 1) - 1) + 0.001 x."""
    epsilon_base: float = 0.4
    """Largest exploration rate."""
    epsilon_exponent: float = 7.0
    """How far the rates are spread."""

    burn_in: int = 10
    """Steps that only bring the recurrent state up to date."""
    length: int = 20
    """Learned steps of a sequence."""
    stride: int = 10
    """Steps from one sequence's start to the next."""
    cross_episodes: bool = True
    """Let sequences run on into the next episode."""
    stored_state: bool = True
    """Begin burn-in with the actor's recurrent state rather than zeros."""
    replay_capacity: int = 200_000
    """Steps held."""
    learning_starts: int = 5_000
    """Steps held before learning begins."""
    replay_ratio: float = 2.5
    """Learned steps for each environment step. A step counts where an update learns from it: not
    in burn-in, not padding past an episode's end. The paper says "effective number of times each
    experienced observation is being replayed", and nothing of padding."""
    priority_eta: float = 0.9
    """Priority is eta max|delta| + (1 - eta) mean|delta|."""
    priority_exponent: float = 0.9
    """Sequences are drawn in proportion to priority^this."""
    importance_exponent: float = 0.6
    """Weights are (1 / probability)^this."""

    batch_size: int = 32
    """Sequences of an update, over all devices."""
    learning_rate: float = 5e-4
    """Of Adam."""
    learning_rate_decay: float = 1.0
    """Share of the learning rate that is gone, linearly, at the end; 0 keeps it constant."""
    adam_eps: float = 1e-5
    """Of Adam."""
    max_gradient_norm: float = 40.0
    """Gradients are scaled down to it."""
    target_update: int = 50
    """Updates from one copy of the target network to the next."""

    torso: str | None = None
    """nature, shallow, impala, grid or mlp; by the observation's shape if None."""
    hidden_size: int = 64
    """Size of the torso's dense layer; 0 for none, as in the paper: the convolutions' output goes
    to the LSTM as it is."""
    core_size: int = 64
    """Of the LSTM; 0 for a memoryless agent, without previous action and reward."""
    head_size: int = 64
    """Of the hidden layers of the dueling head."""
    frame_stack: int = 1
    """Images seen at once."""
    bfloat16: bool = False
    """Compute the network in bfloat16; parameters, statistics and results stay float32."""

    actors: int = 1
    """Threads with equal shares of the environments."""
    unrolls_ahead: int = 0
    """Unrolls that actors may be ahead of the learner; 0 to play in turn. A run repeats itself
    either way."""
    unroll_length: int = 20
    """Steps that an actor plays at a time."""
    refresh_steps: int = 20
    """Steps of each environment after which actors copy the parameters."""
    actor_devices: int = 0
    """Devices set aside for acting; if 0 the actors share the learner's first."""

    checkpoint_every: int = 500_000
    """Environment steps from one checkpoint to the next; environments start afresh there."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept."""
    log_every: int = 20_000
    """Environment steps from one line of the log to the next."""
    eval_episodes: int = 64
    """Episodes played at the end: greedy ones, and as many that explore as in training."""

    def __post_init__(self):
        check_at_least(
            self,
            1,
            "env_steps num_envs batch_size n target_update frame_stack actors "
            "unroll_length refresh_steps checkpoint_every keep_checkpoints log_every eval_episodes",
        )
        check_at_least(self, 0, "seed hidden_size core_size burn_in unrolls_ahead actor_devices")
        check_positive(self, "learning_rate replay_ratio max_gradient_norm")
        if len(envs.tasks(self.env, self.task)) > 1:
            raise UserError("r2d2 plays one task; impala plays several")
        check_shares(self, 1)
        complete = self.num_envs * (self.length + 1)
        if not complete <= self.learning_starts < self.env_steps:
            raise UserError(
                f"learning_starts {self.learning_starts} must be {complete} or more, when "
                f"sequences are complete, and below env_steps {self.env_steps}"
            )
        if not 1 <= self.stride <= self.length:
            raise UserError(
                f"stride {self.stride} must lie between 1 and the length of the learned steps, "
                f"{self.length}"
            )
        if self.replay_capacity < self.batch_size * self.length:
            raise UserError(
                f"a replay of {self.replay_capacity} steps is smaller than a batch of "
                f"{self.batch_size} x {self.length} = {self.batch_size * self.length}"
            )


PRESETS = {
    "cartpole": Config(),  # without velocities
    "small": Config(task=envs.Options()),
    "catch": Config(
        env="Catch-v0",
        task=envs.Options(only_first=True),
        env_steps=400_000,
        learning_rate=1e-3,
        log_every=10_000,
    ),
    "memory": Config(
        env="MiniGrid-MemoryS7-v0",
        task=envs.Options(),
        env_steps=2_500_000,
        epsilon_exponent=3.0,
        length=16,
        stride=8,
        burn_in=0,
        learning_rate=1e-3,
    ),
    "atari": Config(
        env="Breakout-v5",
        task=envs.Options(),
        env_steps=2_500_000_000,
        num_envs=256,
        discount=0.997,
        burn_in=40,
        length=80,
        stride=40,
        cross_episodes=False,
        replay_capacity=4_000_000,
        learning_starts=200_000,
        replay_ratio=0.8,
        batch_size=64,
        learning_rate=1e-4,
        learning_rate_decay=0.0,
        adam_eps=1e-3,
        target_update=2500,
        hidden_size=0,
        core_size=512,
        head_size=512,
        frame_stack=4,
        actors=2,
        unrolls_ahead=1,
        unroll_length=40,
        refresh_steps=400,
        checkpoint_every=10_000_000,
        log_every=100_000,
        eval_episodes=32,
    ),
}


SUITS = {"atari": "atari", "procgen": "atari", "vizdoom": "atari"}  # families of tasks
ON_CPU: dict[str, str] = {}  # presets of tasks, without an accelerator


def preset(name: str | None, env: str | None) -> Config:
    """The preset of that name or, without one, what suits the task; set to the task if given.

    Raises:
      UserError: there is no such preset, or no such task.
    """
    config, changes = choose(PRESETS, SUITS, name, env)
    return dataclasses.replace(config, **changes)
