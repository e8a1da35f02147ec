"""Presets: the papers' tables, and small tasks on which each algorithm was seen to learn.

Each function takes an algorithm's Config and gives its Presets.
"""

import dataclasses
from typing import Any

from rlsys.acting.opponents import SelfPlay
from rlsys.envs import Options, Randomise
from rlsys.running.presets import Presets

IMAGES = ("procgen", "vizdoom")  # families of tasks with images, beside atari
# How Pong's pixels are seen: the court's grey is 0, so that what moves on it stands out.
COURT = {"pixel_offset": 87, "pixel_scale": 40}
# Games of hundreds of steps: to evaluate takes longer.
LONG_GAMES = ("AnimalShogi-v1", "Backgammon-v1", "Chess-v1", "GardnerChess-v1")


def power_of_two(n: int) -> int:
    """Returns the largest power of two up to n, so that devices can share it; 1 if n is less."""
    return 1 << max(n.bit_length() - 1, 0)


def ppo(Config: Any) -> Presets:
    """PPO on cart-pole, its recurrent form, Atari, MuJoCo, Dactyl's hand, games."""
    atari = Config(
        env="Pong-v5",
        env_options=Options(minimal_actions=True, life_loss_ends=True, clip_rewards=True),
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
    game = Config(  # of two players
        env="TicTacToe-v1",
        env_steps=2_000_000,
        num_envs=256,
        learning_rate=1e-3,
        minibatches=8,
        entropy_cost=0.2,  # else play narrows, and what is not played is forgotten
        discount=0.998,
        popart=False,  # returns are of order 1
        hidden_size=128,
        log_every=50_000,
        eval_every=200_000,  # how strength grows, in 3 % of the run's time or less
    )
    team = Config(  # of two teams
        env="smax/5m",
        env_steps=20_000_000,
        num_envs=320,  # 32 games of 10 players
        learning_rate=2e-3,
        unroll_length=128,  # longer than a battle, so that it shows what became of who died in it
        refresh_steps=128,
        minibatches=8,
        entropy_cost=0.001,  # units that err now and then lose
        zero_sum=0.5,  # with 1 the teams avoid each other
        popart=False,  # returns are of order 1
        hidden_size=128,
        log_every=160_000,
    )
    # The horizon (2,048 steps, of 16 environments together), epochs, minibatches, gamma, lambda and
    # first learning rate are those of Schulman et al. 2017, table 3. The rate decays here, and the
    # policy chooses among 11 values in each dimension. What shorter unrolls and actors that play
    # ahead cost: experiments/README.md, "What PPO needs on Hopper".
    mujoco = Config(
        env="Hopper-v5",
        num_envs=16,
        learning_rate=3e-4,
        epochs=10,
        minibatches=32,  # of 64 samples
        entropy_cost=0.0,
        separate_networks=True,
        normalize_observations=True,
        unrolls_ahead=0,
        unroll_length=128,
        refresh_steps=128,
        log_every=20_480,
    )
    # OpenAI et al. 2018, "Learning Dexterous In-Hand Manipulation", https://arxiv.org/abs/1808.00177,
    # appendix C: a Shadow Hand that turns a block; ARGS="--randomise.preset dactyl" randomises it.
    hand = Config(
        env="HandManipulateBlockRotateZDense-v1",
        randomise=Randomise(show_value=True),
        env_steps=1_000_000_000,
        num_envs=384,
        discount=0.998,
        learning_rate=3e-4,
        learning_rate_decay=0.0,
        normalize_observations=True,
        separate_networks=True,
        hidden_size=1024,
        core_size=512,
        head_size=0,
        sequence_length=16,
        unroll_length=64,
        refresh_steps=64,
        step_seconds=0.04,
        eval_episodes=32,
    )
    # On a CPU: a small network, few environments, many small updates. Each pixel is normalised, so
    # that the little that moves stands out.
    atari_cpu = dataclasses.replace(
        atari,
        env="Breakout-v5",
        env_steps=1_500_000,
        num_envs=32,
        minibatches=8,
        torso="shallow",
        hidden_size=256,
        normalize_observations=True,
        orthogonal=True,
        checkpoint_every=300_000,
        log_every=20_480,
    )
    configs = {
        "cartpole": Config(),
        "small": Config(env_steps=5_000_000, learning_rate=3e-3),
        "recurrent": Config(  # cart-pole without velocities
            env_options=Options(observe=(0, 2)),
            env_steps=800_000,
            core_size=64,
            sequence_length=16,
        ),
        "atari": atari,
        "atari-cpu": atari_cpu,
        "pong-cpu": dataclasses.replace(
            atari_cpu,
            env="Pong-v5",
            env_steps=1_200_000,
            popart=False,  # returns are of order 1
            normalize_observations=False,
            **COURT,
        ),
        "pixels": dataclasses.replace(
            atari, torso="impala", env_options=Options(clip_rewards=True)
        ),
        "mujoco": mujoco,
        # The paper's numbers with layers of 128 units, so that on 2 CPU cores learning takes no
        # longer than simulating.
        "dactyl": dataclasses.replace(
            hand, env_steps=5_000_000, num_envs=64, hidden_size=128, core_size=128
        ),
        "dactyl-paper": hand,
        "game": game,
        "connectfour": dataclasses.replace(
            game,
            env="ConnectFour-v1",
            env_steps=10_000_000,
            hidden_size=256,
            eval_every=500_000,
            self_play=SelfPlay(past_every=25),
        ),
        "long-game": dataclasses.replace(game, env="Chess-v1", eval_every=1_000_000),
        "team": team,
    }

    def for_tasks(config: Any, num_tasks: int) -> dict[str, Any]:
        """Several tasks get an actor each."""
        share = power_of_two(config.num_envs // num_tasks)
        return {"actors": num_tasks, "num_envs": share * num_tasks}

    suits = {
        "atari": "atari",
        "game": "game",
        "mujoco": "mujoco",
        **dict.fromkeys(("smax", "teams"), "team"),
        **dict.fromkeys(IMAGES, "pixels"),
        **dict.fromkeys(LONG_GAMES, "long-game"),
    }
    on_cpu = {"Pong-v5": "pong-cpu", "atari": "atari-cpu"}
    return Presets(configs, suits, on_cpu, for_tasks)


def impala(Config: Any) -> Presets:
    """IMPALA on cart-pole; Espeholt et al. 2018, table G.1, is "atari...", for both networks, with
    and without LSTM."""
    atari = Config(
        env="Pong-v5",
        env_options=Options(minimal_actions=True, life_loss_ends=True, clip_rewards=True),
        env_steps=50_000_000,
        num_envs=64,
        batch_size=32,
        unroll_length=20,
        refresh_steps=20,
        vtrace_lambda=1.0,
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
    configs = {
        "cartpole": Config(),
        "small": Config(
            env_steps=5_000_000,
            num_envs=256,
            batch_size=32,
            unroll_length=20,
            refresh_steps=20,
            vtrace_lambda=1.0,
            optimizer_eps=1e-5,
            max_gradient_norm=1.0,
        ),
        "atari": atari,
        # Pong on a CPU: few environments, many small updates, and little weight on entropy, which
        # outweighs the policy's gradient while hardly a point is won.
        "pong-cpu": dataclasses.replace(
            atari,
            env_steps=2_800_000,
            num_envs=32,
            batch_size=4,
            vtrace_lambda=0.95,
            entropy_cost=0.002,
            sum_losses=False,
            max_gradient_norm=0.5,
            optimizer="adam",
            optimizer_eps=1e-5,
            learning_rate=4e-4,
            **COURT,
            orthogonal=True,
            actors=1,
            checkpoint_every=200_000,
            log_every=20_480,
        ),
        "atari-lstm": dataclasses.replace(atari, core_size=256),
        "atari-deep": dataclasses.replace(atari, torso="impala"),
        "atari-deep-lstm": dataclasses.replace(atari, torso="impala", core_size=256),
        "pixels": dataclasses.replace(
            atari, torso="impala", env_options=Options(clip_rewards=True)
        ),
    }

    def for_tasks(config: Any, num_tasks: int) -> dict[str, Any]:
        """Several tasks get PopArt and an actor each; no actor waits for another."""
        most = config.batch_size // min(2, num_tasks - 1)  # 3 tasks or more: a batch mixes them
        share = power_of_two(min(config.num_envs // num_tasks, most))
        together = max(config.batch_size // share, (num_tasks + 1) // 2)  # tasks in a batch
        return {
            "popart": True,
            "actors": num_tasks,
            "unrolls_ahead": max(config.unrolls_ahead, 1),
            "num_envs": share * num_tasks,
            "batch_size": share * min(together, num_tasks - 1),  # else it waits for the slowest
        }

    suits = {"atari": "atari", **dict.fromkeys(IMAGES, "pixels")}
    return Presets(configs, suits, {"Pong-v5": "pong-cpu"}, for_tasks)


def r2d2(Config: Any) -> Presets:
    """R2D2 on small tasks that need memory; Kapturowski et al. 2019, table 2, is "atari"."""
    configs = {
        "cartpole": Config(),  # without velocities
        "small": Config(env_options=Options(), learning_rate=5e-4),
        "catch": Config(
            env="Catch-v0",
            env_options=Options(only_first=True),
            env_steps=400_000,
            learning_rate=1e-3,
            log_every=10_000,
        ),
        "memory": Config(
            env="MiniGrid-MemoryS7-v0",
            env_options=Options(),
            env_steps=2_500_000,
            epsilon_exponent=3.0,
            length=16,
            stride=8,
            burn_in=0,
            learning_rate=1e-3,
            learning_rate_decay=1.0,
        ),
        "atari": Config(
            env="Breakout-v5",
            env_options=Options(),
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
            adam_eps=1e-3,
            target_update=2500,
            hidden_size=0,  # the convolutions' output goes to the LSTM as it is
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
        # Pong on a CPU: a small network, short sequences, and a policy that acts with few actions.
        "pong-cpu": Config(
            env="Pong-v5",
            env_options=Options(minimal_actions=True),
            env_steps=3_000_000,
            num_envs=32,
            discount=0.99,
            learning_starts=20_000,
            replay_ratio=1.5,
            batch_size=8,
            learning_rate=3e-4,
            learning_rate_decay=1.0,
            target_update=100,
            torso="shallow",
            hidden_size=256,
            core_size=256,
            head_size=256,
            frame_stack=4,
            **COURT,
            orthogonal=True,
            unrolls_ahead=1,
            unroll_length=20,
            refresh_steps=20,
            checkpoint_every=200_000,
            log_every=20_480,
            eval_episodes=32,
        ),
    }
    suits = {"atari": "atari", **dict.fromkeys(IMAGES, "atari")}
    return Presets(configs, suits, {"Pong-v5": "pong-cpu"})


def apex(Config: Any) -> Presets:
    """Ape-X on cart-pole; Horgan et al. 2018, section 4.1 and appendix C, is "atari"."""
    atari = Config(
        env="Breakout-v5",
        env_options=Options(life_loss_ends=True, clip_rewards=True, max_episode_steps=12_500),
        env_steps=5_700_000_000,  # 22.8 billion frames
        num_envs=360,
        discount=0.99,
        replay_capacity=2_000_000,
        learning_starts=50_000,
        replay_ratio=1.3,
        batch_size=512,
        learning_rate=0.00025 / 4,
        target_update=2500,
        hidden_size=0,  # the convolutions' output goes to the dueling head as it is
        head_size=512,
        frame_stack=4,
        actors=2,
        unrolls_ahead=1,
        unroll_length=50,
        refresh_steps=100,  # 400 frames
        checkpoint_every=10_000_000,
        log_every=100_000,
        eval_episodes=32,
    )
    configs = {
        "cartpole": Config(),
        "small": Config(learning_rate=1e-3),
        "atari": atari,
        "pixels": dataclasses.replace(atari, env_options=Options(clip_rewards=True)),
    }
    return Presets(configs, {"atari": "atari", **dict.fromkeys(IMAGES, "pixels")})
