"""What can be set of IMPALA, and presets: the paper's table, and small tasks."""

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
    """IMPALA on cart-pole; see PRESETS for others."""

    env: str = "CartPole-v1"
    """EnvPool task, or several: task,task,... for one agent on all; task:option=value sets one."""
    task: envs.Options = envs.Options()
    env_steps: int = 2_000_000
    """Environment steps of the whole run, all environments together."""
    num_envs: int = 256
    """Environments, shared evenly by the tasks."""
    seed: int = 0
    """Of environments, parameters and exploration."""
    run_dir: str = ""
    """Folder of the run; runs/<algorithm>-<task>-<time>-s<seed> if empty."""

    discount: float = 0.99
    """gamma."""
    clip_rho: float = 1.0
    """rho-bar of V-trace."""
    clip_pg_rho: float = 1.0
    """The same clip in the policy gradient."""
    vtrace_lambda: float = 1.0
    """lambda of V-trace: decay of the traces."""
    baseline_cost: float = 0.5
    """Weight of the value's squared error, halved."""
    entropy_cost: float = 0.01
    """Weight of the policy's entropy."""
    popart: bool = True
    """Normalise values by each task's own mean and deviation (PopArt)."""
    popart_step_size: float = 3e-4
    """beta: how far one sample moves them."""
    popart_floor: float = 0.1
    """Least deviation that values are normalised by, as a share of their mean's size."""

    batch_size: int = 32
    """Unrolls of an update, over all devices."""
    sum_losses: bool = False
    """Add up the losses of all steps, as the paper does, rather than average them."""
    optimizer: str = "adam"
    """rmsprop, the paper's, or adam."""
    learning_rate: float = 1e-3
    """Of the optimiser."""
    learning_rate_decay: float = 1.0
    """Share of the learning rate that is gone, linearly, at the end; 0 keeps it constant."""
    rmsprop_decay: float = 0.99
    """Of RMSProp's mean of squares."""
    optimizer_eps: float = 1e-5
    """Of the optimiser; inside the root of RMSProp."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to it."""

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
    """Unrolls that actors may be ahead of the learner; 0 to play in turn. A run repeats itself,
    unless several tasks come as they are finished."""
    unroll_length: int = 20
    """Steps that an actor plays at a time."""
    refresh_steps: int = 20
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
            "env_steps num_envs batch_size frame_stack pixel_scale actors unroll_length "
            "refresh_steps checkpoint_every keep_checkpoints log_every eval_episodes",
        )
        check_at_least(self, 0, "seed hidden_size core_size head_size unrolls_ahead actor_devices")
        check_positive(self, "learning_rate max_gradient_norm clip_rho clip_pg_rho")
        check_within(
            self,
            0.0,
            1.0,
            "discount vtrace_lambda popart_step_size learning_rate_decay rmsprop_decay",
        )
        check_within(self, 0.0, float("inf"), "popart_floor entropy_cost optimizer_eps")
        check_shares(self, len(envs.tasks(self.env, self.task)))
        if self.optimizer not in ("rmsprop", "adam"):
            raise UserError(f"optimizer must be rmsprop or adam, not {self.optimizer!r}")
        share = self.num_envs // self.actors
        if self.batch_size % share and share % self.batch_size:
            raise UserError(
                f"batch_size {self.batch_size} must divide the {share} environments of an actor or "
                f"be a multiple of them"
            )
        if self.batch_size > self.num_envs:
            raise UserError(
                f"batch_size {self.batch_size} is more than the {self.num_envs} environments"
            )
        if self.unrolls_ahead == 0 and self.actors % self.join:
            raise UserError(
                f"batches of {self.batch_size} unrolls take {self.join} actors of {share} "
                f"environments; in turn that must divide the {self.actors} actors"
            )

    @property
    def join(self) -> int:
        """Actors whose unrolls make a batch, or several batches."""
        return max(1, self.batch_size * self.actors // self.num_envs)


ATARI = Config(  # Espeholt et al. 2018, table G.1, shallow network, no LSTM
    env="Pong-v5",
    task=envs.Options(minimal_actions=True, life_loss_ends=True, clip_rewards=True),
    env_steps=50_000_000,
    num_envs=64,
    batch_size=32,
    sum_losses=True,
    popart=False,
    max_gradient_norm=40.0,
    optimizer="rmsprop",
    learning_rate=6e-4,
    optimizer_eps=0.01,
    torso="shallow",
    hidden_size=256,
    head_size=0,
    frame_stack=4,
    actors=4,
    unrolls_ahead=1,
    checkpoint_every=5_000_000,
    log_every=50_000,
    eval_episodes=32,
)
PRESETS = {
    "cartpole": Config(
        num_envs=64,
        batch_size=64,
        unroll_length=10,
        refresh_steps=10,
        vtrace_lambda=0.95,
        # Where Adam's eps is small, a policy that is all but perfect takes steps as large as ever,
        # at random, and breaks sooner or later; where gradients are clipped to small ones, too.
        optimizer_eps=1e-3,
        max_gradient_norm=5.0,
    ),
    "small": Config(env_steps=5_000_000),
    "atari": ATARI,
    "atari-lstm": dataclasses.replace(ATARI, core_size=256),
    "atari-deep": dataclasses.replace(ATARI, torso="impala"),
    "atari-deep-lstm": dataclasses.replace(ATARI, torso="impala", core_size=256),
    "pixels": dataclasses.replace(ATARI, torso="impala", task=envs.Options(clip_rewards=True)),
}
SUITS = {"atari": "atari", "procgen": "pixels", "vizdoom": "pixels"}  # families of tasks
ON_CPU: dict[str, str] = {}  # presets of tasks, without an accelerator


def preset(name: str | None, env: str | None) -> Config:
    """The preset of that name or, without one, what suits the task; set to the tasks if given.

    Several tasks get an actor each, of whom none waits for another, and PopArt.

    Raises:
      UserError: there is no such preset, or no such task.
    """
    config, changes = choose(PRESETS, SUITS, name, env)
    num_tasks = len(envs.tasks(changes["env"], changes["task"]))
    if num_tasks == 1:
        return dataclasses.replace(config, **changes)
    most = config.batch_size // min(2, num_tasks - 1)
    share = power_of_two(min(config.num_envs // num_tasks, most))
    together = max(config.batch_size // share, (num_tasks + 1) // 2)  # tasks in a batch
    join = min(together, num_tasks - 1)  # all would wait for the slowest
    return dataclasses.replace(
        config,
        popart=True,
        actors=num_tasks,
        unrolls_ahead=max(config.unrolls_ahead, 1),
        num_envs=share * num_tasks,
        batch_size=share * join,
        **changes,
    )
