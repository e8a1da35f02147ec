"""Streams of a run's seed: no two uses of one, and none that runs of neighbouring seeds share."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rlsys import networks, streams
from rlsys.acting import actor_critic
from rlsys.acting import actors as playing
from rlsys.acting.actors import Actors
from rlsys.algorithms import ppo, r2d2
from rlsys.algorithms.r2d2 import Config
from rlsys.running.log import Silent

SEEDS = range(21)


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def words(sequence):
    return tuple(sequence.generate_state(4).tolist())


def test_streams_of_neighbouring_seeds_are_distinct():
    keys = [data(streams.key(s, name)) for s in SEEDS for name in streams.STREAMS]
    assert len(set(keys)) == len(keys) == 21 * len(streams.STREAMS)
    indices = [(), (0,), (1,), (0, 0)]
    found = [
        words(streams.sequence(s, name, *i)) for s in SEEDS for name in streams.STREAMS
        for i in indices
    ]  # fmt: skip
    found += [words(np.random.SeedSequence(s)) for s in SEEDS]  # as environments use their seeds
    assert len(set(found)) == len(found) == 21 * (len(streams.STREAMS) * len(indices) + 1)


def test_large_seeds_have_streams_of_their_own_and_small_ones_are_jaxs():
    large = [2**n + i for n in (32, 33, 62, 63, 64, 100) for i in (0, 1)]
    small = [0, 1, 2, 2**31, 2**32 - 1]
    for seed in small:
        expected = jax.random.fold_in(jax.random.key(seed), 2)
        assert data(streams.key(seed, "actions")) == data(expected)
    found = [data(streams.key(seed, "actions")) for seed in small + large]
    assert len(set(found)) == len(found) == 17
    sequences = [words(streams.sequence(seed, "actions")) for seed in small + large]
    assert len(set(sequences)) == 17


@pytest.fixture
def init_keys(monkeypatch):
    """The keys that parameters are initialised with."""
    found = []

    def init(network, key):
        found.append(key)
        return {"w": np.zeros(1, np.float32)}

    monkeypatch.setattr(networks, "init", init)
    return found


def test_runs_of_neighbouring_seeds_share_no_key(init_keys):
    """Nor do parameters, minibatches and actors of one run."""
    network = SimpleNamespace(head=SimpleNamespace(num_tasks=1), initial=lambda n: ())
    pools = [SimpleNamespace(num_envs=1, name="a", reset=lambda: (), close=lambda: None)] * 2
    keys = []
    for seed in SEEDS:
        config = ppo.Config(seed=seed, actors=2)
        optimizer = SimpleNamespace(init=lambda params: ())
        keys.append(actor_critic.make_state(network, config, optimizer).key)
        actors = Actors(pools, [None] * 2, network.initial, config, Silent().time)
        keys += [state.key for state in actors.states]
        actors.close()
    keys += init_keys
    assert len({data(key) for key in keys}) == len(keys) == 21 * 4
    before, keys = list(init_keys), []
    init_keys.clear()
    for seed in SEEDS:  # of R2D2, whose runs are no others' beside them
        keys.append(r2d2.make_state(network, Config(seed=seed)).key)
    assert [data(key) for key in init_keys] == [data(key) for key in before]
    keys += init_keys
    assert len({data(key) for key in keys}) == len(keys) == 21 * 2


def test_replay_and_environments_draw_from_streams_of_their_own():
    """The environments' seeds at the run's start, of the words that the replay begins with."""
    config = Config(num_envs=8)
    network = SimpleNamespace(
        observation_space=SimpleNamespace(), initial=lambda n: SimpleNamespace(lstm=())
    )
    given = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(r2d2, "Replay", lambda *_, seed, **__: given.append(seed))
        patch.setattr(networks, "sample_obs", lambda space: ())
        r2d2.make_replay(config, network)
    numbers = np.random.SeedSequence(given[0].entropy, spawn_key=given[0].spawn_key)
    replays = numbers.generate_state(4).tolist()
    environments = [seed for (seed,) in playing.seeds([Config(num_envs=8, actors=4)], 0)]
    assert not set(replays) & set(environments)
