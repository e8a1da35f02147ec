"""Wrappers: each on several back-ends. Episodes keep raw returns, whatever the learner sees."""

import numpy as np
import pytest
from environments import assert_aligned, assert_episodes, assert_same, make, play
from gymnasium import spaces

from rlsys import envs
from rlsys.envs import Options
from rlsys.envs.wrappers import LifeLossEnds
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import UserError

VECTORS = ("CartPole-v1", "gymnasium/CartPole-v1", "jax/experiments.own_jax_env:Reach")
REWARDS = ("Taxi-v3", "gymnasium/gymnasium_fakes:ClockEnds-v0", "jax/jax_fakes:own")
MASKED = ("Maze-v0", "gymnasium/gymnasium_fakes:Masked-v0", "jax/jax_fakes:masked")


def both(env_id, steps=210, **options):
    """Timesteps and episodes with the options and without, under the same actions."""
    for chosen in (Options(**options), Options()):
        env = make(env_id, 4, 0, chosen)
        timesteps, _ = play(env, steps)
        assert_aligned(timesteps)
        yield timesteps, env.pop_episodes()


@pytest.mark.parametrize("env_id", REWARDS)
@pytest.mark.parametrize(
    "options, change",
    [
        (dict(clip_rewards=True), lambda r: r.clip(-1, 1)),
        (dict(reward_scale=0.25), lambda r: r * np.float32(0.25)),
        (dict(clip_rewards=True, reward_scale=0.5), lambda r: r.clip(-1, 1) / 2),
    ],
)
def test_rewards_are_changed_for_the_learner_alone(env_id, options, change):
    (changed, ours), (plain, raw) = both(env_id, **options)
    for a, b in zip(changed, plain, strict=True):
        np.testing.assert_array_equal(a.reward, change(b.reward))
        assert_same(a._replace(reward=0), b._replace(reward=0))
    assert max(np.abs(t.reward).max() for t in plain) > 1
    assert ours == raw != []
    assert_episodes(plain, ours)


@pytest.mark.parametrize("env_id", VECTORS)
def test_observe_keeps_some_entries(env_id):
    entries = (2, 0) if "CartPole" in env_id else (1,)
    (part, ours), (whole, raw) = both(env_id, 60, observe=entries)
    for a, b in zip(part, whole, strict=True):
        assert_same(a, b._replace(obs=b.obs[:, list(entries)]))
    assert ours == raw != []
    all_of, space = (
        make(env_id, 1, 0, o).observation_space for o in (Options(), Options(observe=entries))
    )
    np.testing.assert_array_equal(space.high, all_of.high[list(entries)])
    np.testing.assert_array_equal(space.low, all_of.low[list(entries)])


@pytest.mark.parametrize("env_id", [*VECTORS, "gymnasium/gymnasium_fakes:SeeMultiBinary-v0"])
def test_permute_shows_another_order(env_id):
    (mixed, ours), (plain, raw) = both(env_id, 60, permute=3)
    a, b = (np.stack([t.obs for t in ts]).reshape(61, 4, -1) for ts in (mixed, plain))
    order = [
        next(i for i in range(b.shape[-1]) if (a[..., j] == b[..., i]).all())
        for j in range(a.shape[-1])
    ]
    assert sorted(order) == list(range(b.shape[-1])) != order
    np.testing.assert_array_equal(a, b[..., order])
    assert ours == raw != []
    one, same = (make(env_id, 4, 0, Options(permute=3)).reset().obs for _ in range(2))
    np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("env_id", MASKED)
def test_flicker_blanks_all_but_the_mask(env_id):
    (flicker, ours), (plain, raw) = both(env_id, 200, flicker=0.25)
    num_blank = 0
    for a, b in zip(flicker, plain, strict=True):
        assert_same(a._replace(obs=0), b._replace(obs=0))
        np.testing.assert_array_equal(a.obs["action_mask"], b.obs["action_mask"])
        for i in range(4):
            shown = {k: v[i] for k, v in a.obs.items() if k != "action_mask"}
            blank = not any(x.any() for x in shown.values())
            num_blank += blank
            assert_same(shown, {k: b.obs[k][i] * (not blank) for k in shown})
    assert 0.2 < num_blank / (4 * 201) < 0.3 + 0.1 * ("jax" in env_id)  # a reset there shows zeros
    assert ours == raw


@pytest.mark.parametrize("env_id", ["CartPole-v1", "gymnasium/CartPole-v1", "jax/jax_fakes:own"])
def test_each_seed_flickers_by_itself(env_id):
    """Several seeds blank what each does alone, and restart() begins their numbers anew."""
    options = Options(flicker=0.5)
    actions = play(make(env_id, 6, 0, options), 20)[1]

    def blanked(env, columns=slice(None), begun=False):
        timesteps = [] if begun else [env.reset()]
        timesteps += [env.step(a[columns]) for a in ([actions[0]] if begun else []) + actions]
        return np.stack([(t.obs == 0).all(-1) for t in timesteps])

    together = make(env_id, 6, (3, 4), options)
    found = blanked(together)
    for seed, columns in ((3, slice(0, 3)), (4, slice(3, 6))):
        alone = make(env_id, 3, seed, options)
        np.testing.assert_array_equal(found[:, columns], blanked(alone, columns))
    together.restart((3, 4), together.step(actions[0]))
    np.testing.assert_array_equal(blanked(together, begun=True), found)
    assert (found[:, :3] != found[:, 3:]).any()


@pytest.mark.parametrize("env_id", ["Catch-v0", *VECTORS[1:]])
def test_only_first_shows_first_observations(env_id):
    (hidden, ours), (plain, raw) = both(env_id, 60, only_first=True)
    for a, b in zip(hidden, plain, strict=True):
        shown = a.first.reshape(-1, *[1] * (a.obs.ndim - 1))
        assert_same(a, b._replace(obs=b.obs * shown))
    assert any(t.first.any() for t in hidden[1:]) and ours == raw != []


@pytest.mark.parametrize(
    "env_id", ["Pendulum-v1", "gymnasium/Pendulum-v1", "jax/experiments.own_jax_env:Reach"]
)
def test_action_bins_span_the_range(env_id):
    """A choice among bins plays as its number does."""
    high = 1 if "jax" in env_id else 2
    assert make(env_id, 1, 0).action_space == spaces.MultiDiscrete([11])
    binned = make(env_id, 5, 0, Options(action_bins=5))
    torque = binned.values(np.arange(5)[:, None])
    np.testing.assert_array_equal(torque, high * np.float32([[-1], [-0.5], [0], [0.5], [1]]))
    numbers = envs.make(envs.Task(env_id, env_id, Options(), continuous=True), 5, 0)
    assert numbers.action_space == spaces.Box(-high, high, (1,), np.float32)
    assert_same(binned.reset(), numbers.reset())
    for _ in range(10):
        assert_same(binned.step(np.arange(5)[:, None]), numbers.step(torque))


def test_action_bins_of_several_dimensions():
    car = make("CarRacing-v3", 1, 0, Options(action_bins=3))
    controls = car.values(np.array([[0, 0, 2], [1, 1, 1]]))
    np.testing.assert_array_equal(controls, np.float32([[-1, 0, 1], [0, 0.5, 0.5]]))


REFUSED = [
    ("gymnasium/Taxi-v4", dict(flicker=0.5), "flicker and only_first need an array to blank"),
    ("gymnasium/Taxi-v4", dict(permute=1), "permute needs one array, and '.*Taxi-v4' shows"),
    ("jax/jax_fakes:masked", dict(permute=1), "permute needs one array"),
    ("jax/jax_fakes:masked", dict(observe=(0,)), "observe needs one flat vector"),
    ("jax/jax_fakes:own", dict(observe=(0, 2)), "has 2 entries, counted from 0"),
]


@pytest.mark.parametrize("env_id, options, message", REFUSED)
def test_refused(env_id, options, message):
    with pytest.raises(UserError, match=message):
        make(env_id, 1, 0, Options(**options))


def test_numbers_and_bins_exclude_each_other():
    task = envs.Task("Pendulum-v1", "Pendulum-v1", Options(action_bins=3), continuous=True)
    with pytest.raises(UserError, match="action_bins has no use where actions are played as num"):
        envs.make(task, 1, 0)


class Lives(Wrapper):
    """Three lives of Clock: one is lost at step 3 and one at 6; with none left it plays on."""

    def __init__(self, name, lose_at=(3, 6, 8)):
        super().__init__(make(f"gymnasium/gymnasium_fakes:{name}-v0", 2, 0))
        self.lose_at, self.played = np.array(lose_at), []

    def change(self, timestep):
        self.lives = 3 - (timestep.obs[:, 1:] >= self.lose_at).sum(-1)
        return timestep

    def step(self, action):
        self.played.append(action.tolist())
        return super().step(action)


def test_life_loss_step_by_step():
    """Clock's reward is the number of the step, and its tenth is the last."""
    inner = Lives("ClockEnds10")
    env = LifeLossEnds(inner)
    timesteps = [env.reset(), *(env.step(np.ones(2, int)) for _ in range(11))]
    assert_aligned(timesteps)
    assert [int(t.first[0]) for t in timesteps] == [1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1]
    assert [int(t.discount[0]) for t in timesteps] == [1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1]
    assert [t.reward[0] for t in timesteps] == [0, 1, 2, 3, 0, 5, 6, 0, 8, 9, 10, 0]
    assert [a[0] for a in inner.played] == [1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1]
    whole = [envs.Episode(55.0, 8, i, env.name) for i in (0, 1)]  # two no-ops are not counted
    assert env.pop_episodes() == whole and env.pop_episodes() == []
    env.step(np.ones(2, int))
    assert env.running_episodes() == [
        envs.Episode(1.0, 1, i, env.name, ended=False) for i in (0, 1)
    ]


def test_a_life_lost_on_the_last_step_is_the_games_end():
    env = LifeLossEnds(Lives("ClockIsCut", lose_at=(3,)))
    timesteps = [env.reset(), *(env.step(np.ones(2, int)) for _ in range(4))]
    assert_aligned(timesteps)
    assert timesteps[3].truncated.all() and timesteps[4].first.all()
    assert [e.length for e in env.pop_episodes()] == [3, 3]


def test_restart_forgets_a_lost_life():
    inner = Lives("ClockEnds10")
    env = LifeLossEnds(inner)
    timesteps = [env.reset(), *(env.step(np.ones(2, int)) for _ in range(3))]
    assert (timesteps[-1].discount == 0).all()
    cut = env.restart(1, timesteps[-1])
    assert not cut.truncated.any()  # it has ended
    again = [env.step(np.ones(2, int)) for _ in range(4)]
    assert_same(again, timesteps)
    assert inner.played[3:] == [[1, 1]] * 4


def test_life_loss_ends_the_learners_episode_alone():
    """The same games as without the option, if its no-ops are played: ends and firsts are added."""
    env = make("Breakout-v5", 5, 0, Options(life_loss_ends=True, noop_max=5))
    timesteps, actions = play(env, 400)
    assert_aligned(timesteps)
    game = make("Breakout-v5", 5, 0, Options(noop_max=5))
    assert_same(game.reset(), timesteps[0])
    lost = np.zeros(5, bool)
    num_lost = no_ops = np.zeros(5, int)
    for action, t in zip(actions, timesteps[1:], strict=True):
        raw = game.step(np.where(lost, 0, action))
        np.testing.assert_array_equal(t.obs, raw.obs)
        np.testing.assert_array_equal(t.first, raw.first | lost)
        np.testing.assert_array_equal(t.reward, np.where(lost, 0, raw.reward))
        no_ops = no_ops + lost
        lost = (t.discount == 0) & (raw.discount == 1)
        num_lost = num_lost + lost
    assert num_lost.sum() > 20 and no_ops.sum() > 20
    ours, raws = env.pop_episodes(), game.pop_episodes()
    assert len(ours) > 4 and sum(e.episode_return for e in raws) > 0
    for a, b in zip(ours, raws, strict=True):
        assert (a.env, a.episode_return) == (b.env, b.episode_return)
        assert a.length == b.length - 4  # five lives, so four no-ops in place of the agent
