"""Actors: who plays when, with which parameters, and what is handed over."""

import collections
import threading
import time
from types import SimpleNamespace

import environments
import jax
import numpy as np
import pytest

from rlsys.acting.actors import Actors, make_envs
from rlsys.envs import Options, read_tasks
from rlsys.learning import learner
from rlsys.running.log import Log
from rlsys.types import Timestep, UserError

T, B = 3, 2
PLENTY = 1000  # unrolls


class Counter:
    """B environments that show (which they are, steps since the start, steps of the episode).

    They tell of every step as if it were an episode. Environment b's episodes have 3 + b steps, and
    a reset. Every unroll waits for `gate`.
    """

    def __init__(self, number: int, name: str = "a"):
        self.num_envs, self.name, self.number = B, name, number
        self.steps, self.episodes = 0, []
        self.gate = threading.Semaphore(PLENTY)

    def _timestep(self) -> Timestep:
        ids, length = B * self.number + np.arange(B), 3 + np.arange(B)
        age = (self.steps - self.begin) % (length + 1)
        obs = np.stack([ids, np.full(B, self.steps), age], -1).astype(np.float32)
        ended, zero = (age == length), np.zeros(B, np.float32)
        return Timestep(obs, age == 0, zero, (~ended).astype(np.float32), zero > 0)

    def reset(self):
        self.begin = self.steps
        return self._timestep()

    def step(self, action):
        np.testing.assert_array_equal(action, self.steps)  # the policy's, below
        if self.steps % T == 0:
            self.gate.acquire()
        self.steps += 1
        self.episodes.append((self.number, self.steps))
        return self._timestep()

    def restart(self, seed, timestep):
        self.begin = self.steps + 1
        running = (timestep.discount == 1) & ~timestep.first
        return timestep._replace(truncated=timestep.truncated | running)

    def pop_draws(self):

        return []

    def pop_episodes(self):
        episodes, self.episodes = self.episodes, []
        return episodes

    def close(self):
        self.gate.release(PLENTY)


def policy(params, timestep, core_state, key):
    """Plays the number of steps since the start, and keeps the parameters."""
    action = timestep.obs[:, 1].astype(np.int32)
    return action, np.full(B, params["w"]), core_state + 1, key


def make_actors(envs, folder, join=None, policies=None, refresh_steps=T, ahead=0, devices=0):
    config = SimpleNamespace(
        seed=1,
        actors=len(envs),
        actor_devices=devices,
        unroll_length=T,
        refresh_steps=refresh_steps,
        unrolls_ahead=ahead,
    )
    log = Log(folder / str(time.perf_counter_ns()), 1)
    policies = policies or [policy] * len(envs)
    return Actors(envs, policies, lambda n: np.zeros(n), config, log.time, join)


def params(step):
    return {"w": jax.numpy.full((), step)}


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def make(tmp_path):
    """make_actors, closed when the test ends."""
    made = []

    def make(envs, *args, **kwargs):
        made.append(make_actors(envs, tmp_path, *args, **kwargs))
        return made[-1]

    yield make
    for actors in made:
        for envs in actors.envs:
            envs.close()
        actors.close()


def num_finished(actors, i):
    """Unrolls of actor i that wait to be taken."""
    return sum(future.done() for number, future in actors._unrolls if number == i)


def players(unroll):
    """Which actors played an unroll of Counters."""
    return unroll.trajectory.steps.obs[0, ::B, 0].astype(int) // B


@pytest.mark.parametrize("ahead, join", [(0, 4), (0, 2), (0, 1), (1, 4), (1, 2), (3, 1)])
def test_alignment(make, ahead, join):
    """Each environment's steps follow one another, with its task, state and parameters beside."""
    actors = make([Counter(i, "ab"[i % 2]) for i in range(4)], join, ahead=ahead)
    steps_of = collections.Counter()
    for step in range(24):
        trajectory, learner_step = unroll = actors.get(params(step), step)
        obs = trajectory.steps.obs
        assert obs.shape == (T + 1, join * B, 3) and unroll.env_steps == T * join * B
        ids, counts = obs[0, :, 0].astype(int), obs[:, :, 1]
        for i, count in zip(ids.tolist(), counts.T, strict=True):  # an actor may be here twice
            np.testing.assert_array_equal(count, steps_of[i] + np.arange(T + 1))
            steps_of[i] += T
        ends = [(i, n) for i, last in zip(players(unroll), counts[-1, ::B], strict=True)
                for n in range(int(last) - T + 1, int(last) + 1)]  # fmt: skip
        assert actors.pop_episodes() == ends  # those of this unroll, whoever plays on
        np.testing.assert_array_equal(trajectory.action, counts[:-1])
        np.testing.assert_array_equal(trajectory.core_state, counts[0])
        np.testing.assert_array_equal(trajectory.steps.first, obs[:, :, 2] == 0)
        np.testing.assert_array_equal(trajectory.task_id, ids // B % 2)
        assert trajectory.task_id.dtype == np.int32
        assert trajectory.aux.min() == learner_step <= step
        assert (trajectory.aux == trajectory.aux[0]).all()
        if ahead == 0 or join == 4:
            np.testing.assert_array_equal(
                ids, np.arange(join * B) + join * B * (step % (4 // join))
            )
    assert sum(steps_of.values()) == 24 * T * join * B


def test_in_turn_a_round_has_the_same_parameters(make):
    envs = [Counter(i) for i in range(4)]
    actors = make(envs, 2)
    assert [actors.get(params(n), n).learner_step for n in range(6)] == [0, 0, 2, 2, 4, 4]
    assert [e.steps for e in envs] == [3 * T] * 4


@pytest.mark.parametrize("ahead, join, tasks", [(0, 2, 2), (1, 4, 2), (2, 4, 2), (1, 2, 1)])
def test_repeats_itself_to_the_bit(tmp_path, ahead, join, tasks):
    """With several actors, joined in turn, all of them, or of one task; whatever their threads
    do."""

    @jax.jit
    def draw(params, obs, core_state, key):
        key, action_key = jax.random.split(key)
        logits = obs[:, :2] * params["w"]
        return jax.random.categorical(action_key, logits), logits, core_state + 1, key

    def play(pauses):
        def draws(params, timestep, core_state, key):
            time.sleep(next(pauses))
            return draw(params, timestep.obs, core_state, key)

        envs = [
            environments.make("CartPole-v1", B, seed, name=f"task {seed % tasks}")
            for seed in range(4)
        ]
        actors = make_actors(envs, tmp_path, join, [draws] * 4, refresh_steps=2 * T, ahead=ahead)
        unrolls = [actors.get(params(n), n) for n in range(12)]
        episodes = actors.pop_episodes()
        unrolls += actors.drain(params(12), 12)
        actors.close()
        return jax.tree.map(np.asarray, unrolls), episodes

    a, b = (play(iter(np.random.default_rng(n).random(1000) * 2e-3)) for n in (0, 1))
    assert a[1] == b[1] and {e.task for e in a[1]} == {f"task {i}" for i in range(tasks)}
    jax.tree.map(np.testing.assert_array_equal, a[0], b[0])
    if ahead == 0:
        assert [x.learner_step for x in a[0]] == [0] * 4 + [4] * 4 + [8] * 4
    assert len(np.unique([x.trajectory.aux[0] for x in a[0]])) > 40


def test_a_fast_actor_never_waits_for_a_slow_one(make):
    fast, slow = envs = [Counter(0, "a"), Counter(1, "b")]
    slow.gate = threading.Semaphore(0)
    actors = make(envs, 1, ahead=2)
    for step in range(40):
        assert players(actors.get(params(step), step)) == [0]
        assert fast.steps <= (step + 1 + 2 + 1) * T
    wait_for(lambda: num_finished(actors, 0) == 2)  # and no more while the learner learns
    assert fast.steps == (40 + 2) * T and slow.steps == 0

    slow.gate.release()
    wait_for(lambda: num_finished(actors, 1) == 1)
    taken = [players(actors.get(params(40), 40))[0] for _ in range(6)]
    # Fast unrolls that were finished before it come first.
    assert taken == [0, 0, 1, 0, 0, 0]


def test_finished_longest_is_taken_first(make):
    envs = [Counter(i, "ab"[i % 2]) for i in range(4)]
    for e in envs:
        e.gate = threading.Semaphore(0)
    actors = make(envs, 2, ahead=1)
    actors._play_on(2, params(0), 0)
    for n, i in enumerate([3, 1, 1, 0]):
        envs[i].gate.release()
        wait_for(lambda n=n: sum(num_finished(actors, j) for j in range(4)) == n + 1)
    assert list(players(actors.get(params(0), 0))) == [3, 1]
    assert list(players(actors.get(params(0), 0))) == [1, 0]


def test_slow_actors_play_with_the_parameters_at_which_they_were_asked(make, monkeypatch):
    envs = [Counter(0, "a"), slow := Counter(1, "b")]
    slow.gate = threading.Semaphore(0)
    copies = []
    monkeypatch.setattr(learner, "snapshot", lambda x, device: copies.append(int(x["w"])) or x)
    actors = make(envs, 1, ahead=1)
    for step in (0, 1, 1, 2, 3, 3, 9):
        actors.get(params(step), step)
    assert copies == [0, 1, 2, 3, 9]  # once for each learner step
    slow.gate.release(2)
    wait_for(lambda: num_finished(actors, 1) == 2)
    unrolls = [actors.get(params(9), 9) for _ in range(4)]
    assert [x.learner_step for x in unrolls if players(x) == [1]] == [0, 0]
    slow.gate.release(PLENTY)
    unrolls = [actors.get(params(9), 9) for _ in range(20)]
    assert {x.learner_step for x in unrolls if players(x) == [1]} == {9}


def test_refresh_steps_of_each_actor(make, monkeypatch):
    copies = []
    monkeypatch.setattr(learner, "snapshot", lambda x, device: copies.append(int(x["w"])) or x)
    for ahead in (0, 1, 2):
        actors = make([Counter(0), Counter(1)], refresh_steps=5 * T, ahead=ahead)
        aux = np.array([actors.get(params(n), n).trajectory.aux[0, ::B] for n in range(40)])
        for i in range(2):
            _, runs = np.unique(aux[:, i], return_counts=True)
            assert list(runs) == [5] * 8
        lag = np.arange(40)[:, None] - aux
        assert lag.max() <= 4 + ahead + 1
        if ahead == 0:
            assert copies == list(range(0, 40, 5))


@pytest.mark.parametrize("ahead, join", [(0, 2), (0, 1), (1, 2), (1, 1)])
def test_an_exception_surfaces_though_others_are_slow(make, ahead, join):
    class Broken(Exception):
        pass

    def breaking(params, timestep, core_state, key):
        raise Broken

    slow = Counter(0, "a")
    slow.gate = threading.Semaphore(0)
    actors = make([slow, Counter(1, "b")], join, [policy, breaking], ahead=ahead)
    for _ in range(2):  # and stays
        with pytest.raises(Broken):
            actors.get(params(0), 0)
    with pytest.raises(Broken):
        list(actors.drain(params(9), 9))


@pytest.mark.parametrize("ahead, join", [(0, 4), (0, 2), (1, 4), (1, 2), (2, 1)])
def test_drain_hands_over_all_that_was_played(make, ahead, join):
    envs = [Counter(i, "ab"[i % 2]) for i in range(4)]
    envs[3].gate = threading.Semaphore(1 if join < 4 and ahead else PLENTY)
    actors = make(envs, join, ahead=ahead)
    unrolls = [actors.get(params(n), n) for n in range(5)]
    envs[3].gate.release(PLENTY)
    drained = list(actors.drain(params(9), 9))
    assert len(drained) >= ahead
    assert {x.trajectory.action.shape for x in unrolls + drained} == {(T, join * B)}
    assert sum(x.env_steps for x in unrolls + drained) == B * sum(e.steps for e in envs)
    assert list(actors.drain(params(9), 9)) == []


@pytest.mark.parametrize("ahead, join", [(0, 2), (1, 1)])
def test_restart(make, ahead, join):
    actors = make([Counter(0), Counter(1)], join, refresh_steps=100 * T, ahead=ahead)
    actors.get(params(0), 0)
    list(actors.drain(params(9), 9))
    ages = [state.timestep.obs[:, 2] for state in actors.states]
    actors.restart(1)
    for _ in range(2):
        unroll = actors.get(params(7), 7)
        assert unroll.learner_step == 7
        steps = unroll.trajectory.steps
        if steps.truncated.any():
            age = np.concatenate([ages[i] for i in players(unroll)])
            ended = steps.discount[0] == 0
            np.testing.assert_array_equal(steps.truncated[0], (age > 0) & ~ended)
            assert steps.first[1].all() and not steps.first[2].any()


@pytest.mark.parametrize("ahead", [0, 1])
def test_what_follows_dropped_unrolls_continues_those_that_were_handed_over(make, ahead):
    """A replay takes an unroll's x_0 as the successor of the last step that it was given."""
    actors = make(envs := [Counter(0), Counter(1)], ahead=ahead)
    before = actors.get(params(0), 0).trajectory
    actors._play_on(1, params(0), 0)
    for i in range(2):
        wait_for(lambda i=i: num_finished(actors, i) == 1)
    assert [e.steps for e in envs] == [2 * T] * 2
    actors.drop()
    for state, columns in zip(actors.states, (slice(B), slice(B, 2 * B)), strict=True):
        np.testing.assert_array_equal(state.timestep.obs, before.steps.obs[-1, columns])
        np.testing.assert_array_equal(state.core_state, before.core_state[columns] + T)
    for e in envs:
        e.steps = T  # as in the process that goes on, so that the Counters' checks hold
    actors.restart(1)
    after = actors.get(params(1), 1).trajectory
    np.testing.assert_array_equal(after.steps.obs[0], before.steps.obs[-1])
    np.testing.assert_array_equal(after.core_state, before.core_state + T)
    ended = before.steps.discount[-1] == 0
    np.testing.assert_array_equal(after.steps.truncated[0], ~ended & ~before.steps.first[-1])
    assert after.steps.first[1].all()


def test_drain_after_restart_of_the_last_round(make):
    """A checkpoint between two halves of a round: what is left comes with it."""
    actors = make([Counter(i) for i in range(4)], 2)
    actors.get(params(0), 0)
    (rest,) = actors.drain(params(9), 9)
    assert list(players(rest)) == [2, 3]
    actors.restart(1)
    assert list(players(actors.get(params(1), 1))) == [0, 1]


def test_join_must_divide_the_actors(make):
    for join in (0, 3, 8):
        with pytest.raises(UserError, match=f"4 actors' unrolls cannot be joined {join} at a time"):
            make([Counter(i) for i in range(4)], join)


def test_make_envs_deals_tasks_in_turn():
    env = "Catch-v0,Catch-v0:reward-scale=0.5"
    config = SimpleNamespace(tasks=read_tasks(env, Options()), num_envs=12, actors=4, seed=3)
    pools = make_envs(config)
    assert [e.name for e in pools] == ["Catch-v0", "Catch-v0:reward_scale=0.5"] * 2
    assert [e.num_envs for e in pools] == [3] * 4
    for e in pools:
        e.reset()
    rewards = [np.abs([e.step(np.ones(3, int)).reward for _ in range(9)]).max() for e in pools]
    assert rewards == [1, 0.5, 1, 0.5]


def test_reserved_devices_act_in_turn(make):
    """Parameters are sent there once a refresh, and the policy runs where they are."""
    seen = collections.defaultdict(set)

    @jax.jit
    def play(params, timestep, core_state, key):
        key, _ = jax.random.split(key)
        return timestep.obs[:, 1].astype(int), params["w"] + timestep.reward, core_state + 1, key

    def policy_of(i):
        def policy(params, timestep, core_state, key):
            found = play(params, timestep, core_state, key)
            for x in (params["w"], *found):
                seen[i] |= x.devices()
            return found

        return policy

    reserved = jax.local_devices()[-2:]
    actors = make(
        [Counter(i) for i in range(3)], policies=[policy_of(i) for i in range(3)],
        refresh_steps=2 * T, devices=2,
    )  # fmt: skip
    mesh = learner.make_mesh(reserved=2)
    assert set(mesh.devices.flat) | set(reserved) == set(jax.local_devices())
    assert not set(mesh.devices.flat) & set(reserved) and mesh.size == 2
    for step in range(4):
        state = learner.place(mesh, params(step))
        unroll = actors.get(state, step)
        np.testing.assert_array_equal(unroll.trajectory.aux, step // 2 * 2)  # refreshed every other
        jax.tree.map(lambda x: x.delete(), state)  # as donation does
    assert seen == {0: {reserved[0]}, 1: {reserved[1]}, 2: {reserved[0]}}


def test_some_device_must_learn():
    with pytest.raises(UserError, match="actor_devices 4 leaves none of the 4 to learn"):
        learner.make_mesh(reserved=4)
