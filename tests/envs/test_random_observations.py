"""Observations that are drawn at random: each effect against a loop, and where it is refused."""

import numpy as np
import pytest
from environments import assert_same, make
from gymnasium import spaces
from random_fakes import VECTOR, Script, normals, play, rng_of, uniforms

from rlsys import envs
from rlsys.envs import Options, Randomise
from rlsys.envs.randomise import observations, places
from rlsys.envs.randomise.effects import Effects, dactyl, effects_of
from rlsys.envs.wrappers import with_observations
from rlsys.envs.wrappers.show_value import ShowValue
from rlsys.types import UserError

POSE = spaces.Dict(
    action_mask=spaces.MultiBinary(3),
    count=spaces.MultiBinary(2),
    goal=spaces.Box(-9, 9, (4,)),
    pose=spaces.Box(-9, 9, (7,)),
    privileged_state=spaces.Box(-9, 9, (2,)),
)
STEPS = 60


def changed(script, seed=3, **effects):
    """What one effect makes of a script's observations -> timesteps, wrapped."""
    wrapped = with_observations(script, Effects(**effects), seed)
    return play(wrapped, STEPS)[0], wrapped


def rotated(q, v):
    """exp(v / 2) q in float64 by the product of two quaternions."""
    angle = float(np.linalg.norm(v))
    a = [np.cos(angle / 2), *(np.sin(angle / 2) * np.array(v) / angle)]
    (aw, ax, ay, az), (w, x, y, z) = a, q
    return [
        aw * w - ax * x - ay * y - az * z,
        aw * x + ax * w + ay * z - az * y,
        aw * y - ax * z + ay * w + az * x,
        aw * z + ax * y - ay * x + az * w,
    ]


@pytest.mark.parametrize("kept", [False, True])
def test_noise_is_drawn_at_each_step_or_kept_for_an_episode(kept):
    """The last observation of an episode has its noise still, and the next one its own."""
    field = "observation_offset" if kept else "observation_noise"
    words = "pose.0-2=0.5,pose.3-6+goal=0.25rad"
    script = Script(space=POSE)
    found, wrapped = changed(script, **{field: words})
    rng, drawn = rng_of(field, 3), np.zeros((4, 6))
    offsets = set()
    for timestep, plain in zip(found, script.seen, strict=True):
        if not kept or plain.first.any():
            new = normals(rng, 4, 6)
            for i in range(4):
                if not kept or plain.first[i]:
                    drawn[i] = new[i]
        for i in range(4):
            pose, goal = (plain.obs[k][i].astype(float) for k in ("pose", "goal"))
            expected = [*(pose[:3] + 0.5 * drawn[i, :3]), *rotated(pose[3:], 0.25 * drawn[i, 3:])]
            np.testing.assert_allclose(timestep.obs["pose"][i], expected, rtol=1e-4, atol=1e-5)
            expected = rotated(goal, 0.25 * drawn[i, 3:])  # the same rotation
            np.testing.assert_allclose(timestep.obs["goal"][i], expected, rtol=1e-4, atol=1e-5)
        offsets.add(drawn[0, 0])
        for key in ("action_mask", "count", "privileged_state"):
            np.testing.assert_array_equal(timestep.obs[key], plain.obs[key])
        assert_same(timestep._replace(obs=0), plain._replace(obs=0))
        assert timestep.obs["pose"].dtype == np.float32
    assert len(offsets) == (1 + STEPS // 3 if kept else 1 + STEPS)  # 2 steps and a reset
    assert hasattr(wrapped, "episode_draws") == kept
    if kept:
        np.testing.assert_array_equal(wrapped.episode_draws, drawn.astype(np.float32))


def test_one_number_is_for_all_floats_but_privileged_ones():
    script = Script(space=POSE)
    found, _ = changed(script, observation_noise="0.1")
    for key in POSE.spaces:
        differs = [
            (a.obs[key] != b.obs[key]).all() for a, b in zip(found, script.seen, strict=True)
        ]
        assert all(differs) if key in ("pose", "goal") else not any(differs)
    script = Script()
    found, _ = changed(script, observation_noise="obs.2=0.1")
    moved = np.array([a.obs != b.obs for a, b in zip(found, script.seen, strict=True)]).any((0, 1))
    assert moved.tolist() == [False, False, True, False, False, False, False]


def test_noise_has_the_size_that_it_is_given():
    """Within 5 standard errors; a rotation by three normal numbers of 0.1 rad each."""
    script, steps = Script(num_envs=64, space=POSE), 400
    wrapped = with_observations(
        script, Effects(observation_noise="pose.0-2=0.02,pose.3-6=0.1rad"), 0
    )
    found = play(wrapped, steps)[0]
    a, b = (np.array([t.obs["pose"] for t in ts]).astype(float) for ts in (found, script.seen))
    x = (a - b)[..., :3] / 0.02
    assert abs(x.mean()) < 5 / np.sqrt(x.size) and abs(x.std() - 1) < 5 / np.sqrt(2 * x.size)
    assert abs(np.corrcoef(x[1:, :, 0].ravel(), x[:-1, :, 0].ravel())[0, 1]) < 5 / np.sqrt(
        x.size / 3
    )
    cosine = (a[..., 3:] * b[..., 3:]).sum(-1) / (b[..., 3:] ** 2).sum(-1)  # of half the angle
    angle = 2 * np.arccos(np.clip(cosine, -1, 1)) / 0.1
    np.testing.assert_allclose((angle**2).mean(), 3, rtol=5 * np.sqrt(2 / 3 / angle.size))
    lengths = [np.linalg.norm(x[..., 3:], axis=-1) for x in (a, b)]
    np.testing.assert_allclose(*lengths, rtol=1e-5)  # a quaternion stays as long


def test_a_rotation_of_nothing_turns_nothing():
    q = np.random.default_rng(0).normal(size=(5, 4)).astype("f")
    np.testing.assert_array_equal(observations.turn(q, np.zeros((5, 3), "f")), q)


def test_a_lost_sensor_shows_its_last_value():
    """Two sensors: the first two entries, and another with an entry of two arrays."""
    words = "pose.0-1=3,pose.5+goal.2=1.5"
    script = Script(space=POSE)
    found, _ = changed(script, sensor_loss=words, sensor_loss_seconds=0.3)
    rng, left = rng_of("sensor_loss", 3), np.zeros((4, 2), int)
    probability = [1 - np.exp(-3 / 10), 1 - np.exp(-1.5 / 10)]
    shown, losses, last_of_episode = None, 0, 0
    for timestep, plain in zip(found, script.seen, strict=True):
        u = uniforms(rng, 4, 2)
        expected = {key: plain.obs[key].copy() for key in ("pose", "goal")}
        for i in range(4):
            for s in range(2):
                if plain.first[i]:
                    left[i, s] = 0
                elif left[i, s]:
                    left[i, s] -= 1
                elif u[i, s] < probability[s]:
                    left[i, s] = 3
                    losses += 1
            if left[i, 0]:
                expected["pose"][i, :2] = shown["pose"][i, :2]
            if left[i, 1]:
                expected["pose"][i, 5] = shown["pose"][i, 5]
                expected["goal"][i, 2] = shown["goal"][i, 2]
            last_of_episode += left[i].any() and (plain.discount[i] == 0 or plain.truncated[i])
        shown = expected
        for key, x in expected.items():
            np.testing.assert_array_equal(timestep.obs[key], x)
    assert losses > 20 and last_of_episode > 5


def test_a_number_makes_each_entry_a_sensor():
    """In a long episode a sensor is lost for a share r T / (1 + r T) of the time."""
    script = Script(num_envs=200)
    wrapped = with_observations(script, Effects(sensor_loss="0.2", sensor_loss_seconds=1.0), 0)
    found = play(wrapped, 150)[0]
    a, b = (np.array([t.obs for t in ts])[:, 150:] for ts in (found, script.seen))
    lost = (a != b)[30:]  # [T, 50, 7]
    p = 1 - np.exp(-0.02)
    assert abs(lost.mean() - 10 * p / (1 + 10 * p)) < 0.02
    assert abs(np.corrcoef(lost[..., 0].ravel(), lost[..., 1].ravel())[0, 1]) < 0.15


def test_a_dropped_observation_shows_the_last_one_again():
    space = spaces.Dict(action_mask=spaces.MultiBinary(3), image=spaces.Box(0, 8, (2, 2), np.uint8))
    script = Script(space=space)
    found, _ = changed(script, observation_drop=0.4)
    rng, shown, drops = rng_of("observation_drop", 3), None, 0
    for timestep, plain in zip(found, script.seen, strict=True):
        u, expected = uniforms(rng, 4, 1), plain.obs["image"].copy()
        for i in range(4):
            if u[i, 0] < 0.4 and not plain.first[i]:
                expected[i] = shown[i]
                drops += 1
        np.testing.assert_array_equal(timestep.obs["image"], expected)
        assert timestep.obs["image"].dtype == np.uint8
        np.testing.assert_array_equal(timestep.obs["action_mask"], plain.obs["action_mask"])
        shown = expected
    assert drops > 30


ALL = dict(
    observation_offset="0.1",
    observation_noise="0.1",
    observation_drop=0.2,
    sensor_loss="2",
    sensor_loss_seconds=0.3,
)


def test_each_seed_draws_by_itself_and_restart_begins_anew():
    together = with_observations(Script(num_envs=6), Effects(**ALL), (3, 4))
    timesteps, _ = play(together, 30)
    both = np.array([t.obs for t in timesteps])
    for seeds, same in (((3, 4), True), ((9, 4), False)):
        together.restart(seeds, timesteps[-1])
        again = np.array([t.obs for t in play(together, 30, begun=True)[0]])
        assert (again[:, :3] == both[:, :3]).all() == same
        np.testing.assert_array_equal(again[:, 3:], both[:, 3:])
    for seed, rows in ((3, slice(0, 3)), (4, slice(3, 6))):
        part = _Part(rows)
        wrapped = with_observations(part, Effects(**ALL), seed)
        alone = np.array([t.obs for t in play(wrapped, 30)[0]])
        np.testing.assert_array_equal(both[:, rows], alone)
    assert (both[:, :3] != both[:, 3:]).any()


class _Part(Script):
    """Some of the six environments of a Script, as they are among the six."""

    def __init__(self, rows):
        super().__init__(num_envs=3)
        self._all, self._rows = Script(num_envs=6), rows

    def _part(self, timestep):
        return timestep._replace(**{k: getattr(timestep, k)[self._rows] for k in timestep._fields})

    def reset(self):
        return self._part(self._all.reset())

    def step(self, action):
        return self._part(self._all.step(np.tile(action, (2, 1))))


def test_effects_do_not_draw_from_each_other():
    """Switching one on leaves the noise of another as it was."""
    noises = []
    for more in ({}, {"observation_drop": 1e-9}, {"observation_offset": "1e-9"}):
        script = Script()
        found, _ = changed(script, observation_noise="0.1", **more)
        noises.append(np.array([a.obs - b.obs for a, b in zip(found, script.seen, strict=True)]))
    np.testing.assert_allclose(noises[0], noises[1], atol=1e-6)
    np.testing.assert_allclose(noises[0], noises[2], atol=1e-6)


SPACES = {
    "vector": VECTOR,
    "pose": POSE,
    "image": spaces.Box(0, 255, (8, 8, 3), np.uint8),
    "category": spaces.Discrete(5),
}


@pytest.mark.parametrize(
    "space, field, words, message",
    [
        ("vector", "observation_noise", "nothing=0.1", "names 'nothing', which 'Script' does not"),
        ("pose", "observation_noise", "poze=0.1", "the nearest: pose"),
        ("vector", "observation_offset", "obs.7=0.1", "entry 7 of obs, of which 'Script' shows 7"),
        ("pose", "observation_noise", "count=0.1", "is for floats, and count of 'Script' is a Mul"),
        ("image", "observation_noise", "0.1", "for floats, and 'Script' shows uint8 .8, 8, 3."),
        ("category", "observation_noise", "0.1", "for floats, and 'Script' shows a Discrete"),
        ("pose", "observation_noise", "action_mask=1", "names 'action_mask', which"),
        ("pose", "observation_noise", "pose.0-2=0.1rad", "4 entries, a quaternion, not of 3"),
        ("pose", "observation_noise", "pose.0-2+goal=0.1", "as many entries each, not of 3, 4"),
        ("pose", "observation_noise", "pose=0.1,pose.2=1", "names entries of pose twice"),
        ("pose", "sensor_loss", "pose.0-9=0.1", "entry 9 of pose, of which 'Script' shows 7"),
    ],
)
def test_what_a_task_cannot_have_is_refused(space, field, words, message):
    with pytest.raises(UserError, match=message) as info:
        with_observations(Script(space=SPACES[space]), Effects(**{field: words}), 0)
    assert "\n" not in str(info.value)


def test_sensors_are_lost_in_seconds():
    with pytest.raises(UserError, match="does not tell how many steps"):
        with_observations(Script(steps_per_second=None), Effects(sensor_loss="1"), 0)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(preset="rubik"), "there is no preset 'rubik' of randomise, only dactyl"),
        (dict(observation_noise="-0.1"), "observation_noise must be 0 or more, and finite, not -0"),
        (dict(observation_noise="nan"), "must be 0 or more, and finite, not nan"),
        (dict(observation_noise="obs"), "observation_noise takes a number, or words such as"),
        (dict(observation_offset="obs=x"), "observation_offset takes a number, or words such as"),
        (dict(observation_offset="=1"), "observation_offset takes a number, or words such as"),
        (dict(observation_offset="obs.5-2=1"), "names entries 5 to 2 in 'obs.5-2=1', which are"),
        (dict(sensor_loss="obs.0-3=1rad"), "never in rad"),
        (dict(sensor_loss_seconds=0.0), "sensor_loss_seconds must be positive, and finite, not 0"),
        (dict(observation_drop=1.0), r"observation_drop must lie in \[0, 1\), not 1"),
        (dict(action_hold=-0.5), r"action_hold must lie in \[0, 1\), not -0.5"),
        (dict(action_smoothing=1.0), r"action_smoothing must lie in \[0, 1\), not 1"),
        (dict(action_delay=1.5), r"action_delay must lie within \[0, 1\], not 1.5"),
        (dict(action_backlash=-1.0), r"action_backlash must lie within \[0, 1\], not -1"),
        (dict(action_noise=-1.0), "action_noise must be 0 or more, and finite, not -1"),
        (dict(action_gain=float("nan")), "action_gain must be 0 or more, and finite, not nan"),
        (dict(action_offset=float("inf")), "action_offset must be 0 or more, and finite, not inf"),
    ],
)
def test_bad_ranges_are_refused(change, message):
    with pytest.raises(UserError, match=message) as info:
        Randomise(**change)
    assert "\n" not in str(info.value)


def hand(**randomise):
    (task,) = envs.read_tasks("HandManipulateBlockRotateZDense-v1", Options())
    return envs.make(task._replace(randomise=Randomise(physics=("none",), **randomise)), 4, 0)


def test_dactyls_table_on_the_hand():
    """Both copies of the object's pose are alike, and as far from the truth as the table says."""
    pool = hand(preset="dactyl", show_value=True, sensor_loss="0", action_hold=0.0)
    assert pool.steps_per_second == 25
    timestep, offsets = pool.reset(), []
    for _ in range(30):
        obs = timestep.obs
        np.testing.assert_array_equal(obs["observation"][:, 54:], obs["achieved_goal"])
        np.testing.assert_array_equal(obs["desired_goal"], obs["privileged/desired_goal"])
        offsets.append(obs["observation"] - obs["privileged/observation"])
        timestep = pool.step(np.full((4, 20), 5))
    pool.close()
    x = np.array(offsets)[..., :57]  # [T, B, ...] all but the orientation
    sizes = np.repeat([0.02, 0.707, 0.0354, 3.54, 0.001], [24, 24, 3, 3, 3])
    np.testing.assert_allclose((x - x.mean(0)).std((0, 1)) / sizes, 1, atol=0.3)
    assert (np.abs(x.mean(0)[:, :24]) < 5 * 0.012).all() and x.mean(0)[:, :24].std() > 0.005
    assert 0.002 < x.mean(0)[:, 54:57].std() < 0.01


def test_a_field_of_the_preset_can_be_switched_off():
    plain = hand()
    first = plain.reset()
    plain.close()
    for zero in ("0", ""):
        off = hand(
            preset="dactyl", observation_noise=zero, observation_offset=zero, sensor_loss=zero
        )
        assert_same(off.reset(), first)
        off.close()
    given = Randomise(preset="dactyl", action_delay=0.0, observation_noise="0")
    found = effects_of(given, "Script", VECTOR, Script().action_space, 10.0)
    assert found.action_delay == 0 and found.observation_noise == "0"
    assert found.action_noise == 0.05 and found.observation_offset == "obs=0.02"


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("actions", [spaces.Discrete(3), Script().action_space])
@pytest.mark.parametrize("rate", [None, 10.0])
def test_the_preset_fits_every_task(space, actions, rate):
    found = dactyl("Script", space, actions, rate)
    wrapped = with_observations(Script(space=space), found, 0)
    if not isinstance(space, spaces.Discrete):
        play(wrapped, 3)
    assert (found.action_delay == 0.5) == (space is not POSE)  # which names its legal actions
    has_range = isinstance(actions, spaces.Box) and space is not POSE
    assert (found.action_noise == 0.05) == has_range
    assert bool(found.sensor_loss) == (rate is not None and space in (VECTOR, POSE))


def test_the_value_is_shown_what_is_hidden():
    """Whatever hides or changes observations: the exact one and the numbers drawn are there."""
    (task,) = envs.read_tasks("Pendulum-v1:observe=1,0", Options())
    randomise = Randomise(
        observation_offset="0.5", observation_noise="0.1", action_delay=0.5, show_value=True
    )
    shown = envs.make(task._replace(randomise=randomise), 3, 0)
    late = envs.make(task._replace(randomise=Randomise(action_delay=0.5)), 3, 0)
    (all_of,) = envs.read_tasks("Pendulum-v1", Options())
    late_all = envs.make(all_of._replace(randomise=Randomise(action_delay=0.5)), 3, 0)
    assert isinstance(shown, ShowValue)
    assert list(shown.observation_space) == ["obs", "privileged/drawn", "privileged/obs"]
    assert shown.observation_space["privileged/drawn"].shape == (4,)
    a, b, c = shown.reset(), late.reset(), late_all.reset()
    for i in range(250):
        np.testing.assert_array_equal(a.obs["privileged/obs"], c.obs)
        drawn = a.obs["privileged/drawn"]
        assert drawn.dtype == np.float32 and set(drawn[:, 3]) <= {0.0, 1.0}
        apart = a.obs["obs"] - b.obs - 0.5 * drawn[:, [1, 0]]
        assert 0 < np.abs(apart).max() < 0.6
        assert_same(a._replace(obs=0), b._replace(obs=0))
        action = np.full((3, 1), i % 11)
        a, b, c = (pool.step(action) for pool in (shown, late, late_all))
    assert shown.raw_observation_space == late.raw_observation_space
    assert shown.pop_episodes() == late.pop_episodes() != []


def test_nothing_switched_on_changes_nothing():
    for randomise in (Randomise(), Randomise(observation_noise="0", action_noise=0.0)):
        (task,) = envs.read_tasks("Pendulum-v1", Options())
        pool = envs.make(task._replace(randomise=randomise), 2, 0)
        assert_same(pool.reset(), make("Pendulum-v1", 2, 0).reset())


def test_places_are_read():
    found = places.read("x", "a/b.0-2+c.5=0.5,d=2rad,e=0")
    assert found == [
        places.Amount((places.Part("a/b", (0, 2)), places.Part("c", (5, 5))), 0.5),
        places.Amount((places.Part("d", None),), 2.0, True),
    ]
    assert places.read("x", "") == places.read("x", "0") == []
    assert places.read("x", "1e-3") == [places.Amount((places.Part("", None),), 1e-3)]
