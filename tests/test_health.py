"""A run says when it is unwell: each check on made-up lines, and each warning provoked for real.

PROVOKED takes these metrics of the algorithms: kl, ratio_clipped, entropy, staleness, sample_reuse
and explained_variance of PPO, popart_scale of IMPALA, and gradient_clipped, update_ratio,
learned_share and replay_ratio of R2D2.
"""

import csv
import inspect
import itertools
import json
import math
from types import SimpleNamespace
from unittest.mock import MagicMock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsys import cli, networks, train
from rlsys.losses import popart
from rlsys.running import checks, session
from rlsys.running.checks import CHECKS
from rlsys.running.health import LINES, MOST_OF_IT, Health, dead_units
from rlsys.running.log import Log
from tests import made_up, test_sweep

STEPS = 1000  # of a made-up run, ten a line
CONFIG = SimpleNamespace(
    env_steps=STEPS, learning_rate=0.1, max_gradient_norm=0.5, popart=False, core_size=8
)
FINE = {  # a line of a run that is well
    "env_steps": 0,
    "learner_steps": 0,
    "learning_rate": 0.1,
    "kl": 1e-2,
    "update_ratio": 1e-3,
    "gradient_norm": 2.0,
    "gradient_clipped": 1.0,
    "popart_scale/one": 3.0,
    "popart_scale/two": 0.01,
    "explained_variance": 0.3,
    "value_error": 0.5,
    "entropy": 0.7,
    "ratio_clipped": 0.2,
    "dead_units": 0.1,
    "learned_share": 0.9,
    "staleness": 1.5,
    "params_lag": 4.0,
    "env_steps_per_second": 100.0,
    "learner_steps_per_second": 100.0,
    "replay/sample_age": 600.0,
    "sample_reuse": 4.0,
    "replay_ratio": 2.5,
}
BAD = {  # what makes each check warn
    "policy_frozen": {"kl": 1e-7},
    "parameters_frozen": {"update_ratio": 5e-8},
    "gradient_clipped": {"gradient_norm": 60.0},
    "statistics_on_floor": {"popart_scale/two": 1e-4},
    "value_explains_nothing": {"explained_variance": -0.3},
    "entropy_gone": {"entropy": 0.006},
    "ratios_clipped": {"ratio_clipped": 0.6},
    "dead_units": {"dead_units": 0.6},
    "padding": {"learned_share": 0.4},
    "stale": {"staleness": 8.5},
    "stale_replay": {"replay/sample_age": 6000.0},
    "sample_reuse": {"sample_reuse": 16.0},
    "replay_ratio": {"replay_ratio": 33.0},
}
NAMES = [check.name for check in CHECKS]
check_of = {check.name: check for check in CHECKS}


def line(number, **changes):
    steps = 10 * number
    return {**FINE, "env_steps": steps, "learner_steps": steps, **changes}


def lines_of(*parts):
    """A run's lines; each part of it is a number of lines and what is different in them."""
    changes = [changes for count, changes in parts for _ in range(count)]
    return [line(i + 1, **different) for i, different in enumerate(changes)]


def run(*parts):
    """A Health that has seen a run, and what it gave for each line."""
    health = Health(CONFIG)
    return health, [health.observe(each) for each in lines_of(*parts)]


def warned(seen, name):
    return [i + 1 for i, values in enumerate(seen) if values[f"health/{name}"]]


def lines_before(name, begin):
    """Lines beyond its level that it takes before a check warns, from line number begin on."""
    check = check_of[name]
    started = math.ceil(min(check.not_before, MOST_OF_IT * STEPS) / 10)
    return max(LINES, 1 + int(check.lasts * STEPS / 10), started - begin + 1)


def lines_after(name):
    """Fine lines after which a warning is over: with them half of the latest lines are fine."""
    window = max(LINES, 1 + int(check_of[name].lasts * STEPS / 10))
    return (window + 1) // 2


def test_every_check_has_a_case_and_says_where_its_level_is_from():
    assert list(BAD) == NAMES
    for check in CHECKS:
        assert len(check.source) > 40 and check.words and check.shows
        assert np.isfinite(check.below) != np.isfinite(check.above)


def test_the_floor_is_that_of_popart():
    default = inspect.signature(popart.scale).parameters["min_scale"].default
    assert default == checks.POPART_FLOOR


def test_a_healthy_run_has_no_warnings():
    health, seen = run((100, {}))
    assert all(set(values) == {f"health/{name}" for name in NAMES} for values in seen)
    assert not any(any(values.values()) for values in seen)
    assert health.warnings() == {} and health.summary() == "health: no warnings"


def test_a_log_that_is_too_short_is_not_judged():
    health = Health(CONFIG)
    for number, lines in enumerate(["0 lines", "1 line", "2 lines", "3 lines", "4 lines"]):
        said = f"health: not judged, because the log has {lines} and not 5"
        assert health.summary() == said
        health.observe(line(number + 1))
    assert health.summary() == "health: no warnings"


@pytest.mark.parametrize("name", NAMES)
def test_a_warning_begins_lasts_and_ends(name):
    need, after = lines_before(name, 11), lines_after(name)
    health, seen = run((10, {}), (need + 5, BAD[name]), (after - 1, {}))
    assert list(health.warnings()) == [name]
    assert health.warnings()[name] in health.summary() and "steps on" in health.summary()
    assert check_of[name].words in health.summary() and "from 110 " in health.summary()
    seen += [health.observe(line(len(seen) + 1))]
    assert health.warnings() == {}
    assert warned(seen, name) == [*range(10 + need, 10 + need + 5 + after)]
    assert f"from 110 to {10 * (15 + need)} steps" in health.summary()
    for other in set(NAMES) - {name}:
        assert warned(seen, other) == []


@pytest.mark.parametrize("name", NAMES)
def test_what_is_short_is_no_warning(name):
    need, gap = lines_before(name, 6), 2 * lines_after(name)
    later = lines_before(name, 5 + need + gap)
    parts = [(5, {}), (need - 1, BAD[name]), (gap, {}), (later - 1, BAD[name]), (5, {})]
    health, seen = run(*parts)
    assert warned(seen, name) == [] and health.summary() == "health: no warnings"


@pytest.mark.parametrize("name", NAMES)
def test_one_odd_line_ends_no_warning(name):
    need, after = lines_before(name, 2), lines_after(name)
    health, seen = run((1, {}), (need, BAD[name]), (1, {}), (25, BAD[name]), (after - 1, {}))
    assert warned(seen, name) == [*range(1 + need, 1 + need + 26 + after)]
    assert health.summary().count(" from 20 steps on") == 1 and " and from" not in health.summary()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_number_says_nothing(name):
    """It neither begins a warning nor ends one."""
    unknown = dict.fromkeys(BAD[name])
    unknown |= {"popart_scale/one": None} if name == "statistics_on_floor" else {}
    health, seen = run((5, {}), (lines_before(name, 6), BAD[name]), (50, unknown))
    assert warned(seen, name)[-1] == len(seen)
    health = Health(CONFIG)
    for i in range(20):
        values = {k: v for k, v in line(i + 1).items() if k not in unknown}
        assert f"health/{name}" not in health.observe(values)


@pytest.mark.parametrize("lines", [20, 50, 200, 1000])
def test_how_often_a_line_is_written_decides_nothing(lines):
    """A value that explains less than nothing on four lines of five, however many there are."""
    random, total = np.random.default_rng(0), 10_000_000
    health = Health(SimpleNamespace(**vars(CONFIG) | {"env_steps": total}))
    for i in range(lines):
        share = -0.3 if random.random() < 0.8 else 0.1
        steps = total * (i + 1) // lines
        health.observe(line(1, explained_variance=share, env_steps=steps))
    begin = int(health.summary().partition("nothing from ")[2].partition(" ")[0].replace(",", ""))
    assert begin < 0.2 * total and health.summary().count("steps on") == 1


def test_a_warning_stays_told_when_the_run_is_made_longer():
    """In a longer run the danger would have to last longer, but it was a warning already."""
    first, more = vars(CONFIG) | {"env_steps": 100}, vars(CONFIG) | {"env_steps": 100_000}
    fields = {"env_steps": {"before": 100, "after": 100_000}}
    health = Health(SimpleNamespace(**more), [{"env_steps": 100, "fields": fields}])
    once = Health(SimpleNamespace(**first))
    for each in lines_of((10, BAD["entropy_gone"] | BAD["stale"] | {"entropy": 0.0})):
        health.observe(each)
        once.observe(each)
    assert "entropy gone" in once.summary() and health.summary() == once.summary()
    for i in range(10):
        health.observe(line(11 + i))
    assert "entropy gone early from 10 to 100 steps" in health.summary()
    assert health.warned and not health.warnings()


def test_a_policy_without_entropy_from_the_first_line_on_is_told():
    health, _ = run((40, {"entropy": 0.0}))
    assert list(health.warnings()) == ["entropy_gone"]


def test_a_line_is_of_the_steps_since_the_one_before_it():
    """Of three lines the second begins in the first half of the run, though it ends in the last."""
    health = Health(CONFIG)
    for steps, entropy in ((300, 0.7), (550, 1e-9), (800, 1e-9), (1000, 1e-9)):
        health.observe(line(1, env_steps=steps, entropy=entropy))
    assert "entropy gone early from 550 steps on" in health.summary()


def test_replay_is_as_stale_as_the_updates_since_the_last_line_make_it():
    """Not those of the whole run: it may go on with ten times as many."""
    rates = {"env_steps_per_second": 100.0, "learner_steps_per_second": 1000.0}
    assert list(run((40, {}), (40, rates))[0].warnings()) == ["stale_replay"]
    unknown = dict.fromkeys(rates)
    assert run((40, unknown))[0].observe(line(41, **unknown)).get("health/stale_replay") is None


def test_two_warnings_of_one_check_are_both_told():
    bad = BAD["stale"]
    health, _ = run((5, {}), (4, bad), (4, {}), (87, bad | {"staleness": 12.0}))
    assert health.summary() == (
        "health: samples stale from 60 to 90 steps (versions of the policy 8.5) and from 140 steps "
        "on (versions of the policy 12)"
    )


def test_warnings_of_several_checks_are_all_told():
    health, seen = run((5, {}), (95, BAD["stale"] | BAD["padding"]))
    assert health.summary() == (
        "health: replay mostly padding from 60 steps on (share learned 0.4); samples stale from 60 "
        "steps on (versions of the policy 8.5)"
    )
    assert warned(seen, "stale") == warned(seen, "padding") == [*range(8, 101)]


@pytest.mark.parametrize("cut", [3, 14, 17, 40, 60])
@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_warns_as_the_one_that_went_on(name, cut):
    parts = [(12, {}), (25, BAD[name]), (4, {}), (30, BAD[name])]
    whole, seen = run(*parts)
    lines = json.loads(json.dumps(lines_of(*parts)))  # as metrics.jsonl gives them back
    resumed = Health(CONFIG)
    for kept in lines[:cut]:
        resumed.observe(kept)
    assert [resumed.observe(later) for later in lines[cut:]] == seen[cut:]
    assert resumed.summary() == whole.summary() and resumed.warnings() == whole.warnings()


def test_a_decayed_learning_rate_is_no_frozen_policy():
    small = {"learning_rate": 0.01, "kl": 1e-8, "update_ratio": 5e-8}  # 1e-6 and 5e-7 at the full
    assert run((50, {}), (50, small))[0].summary() == "health: no warnings"
    gone = {"learning_rate": 0.1 * checks.SMALL_RATE / 2, "kl": 0.0, "update_ratio": 0.0}
    assert run((50, {}), (50, gone))[0].summary() == "health: no warnings"
    unknown = {"learning_rate": None, "kl": 1e-8}
    health, _ = run((50, {}), (50, unknown))
    assert health.summary() == "health: policy frozen from 510 steps on (KL 1e-08)"


def test_a_policy_that_moves_little_in_few_updates_is_not_frozen():
    assert run((50, {"kl": 2e-6, "params_lag": 1.5}))[0].warnings() == {}
    assert list(run((50, {"kl": 2e-6, "params_lag": 20.0}))[0].warnings()) == ["policy_frozen"]


def test_a_policy_that_moved_far_is_not_frozen_however_many_updates_lie_between():
    """As PPO's with 320 updates an unroll, of actors that are four unrolls ahead."""
    assert run((50, {"kl": 5e-3, "params_lag": 1439.5}))[0].warnings() == {}
    assert list(run((50, {"kl": 5e-5, "params_lag": 1439.5}))[0].warnings()) == ["policy_frozen"]


def test_values_that_err_little_need_not_tell_equal_returns_apart():
    solved = {"explained_variance": -1.0, "value_error": 0.09}
    assert run((90, solved))[0].summary() == "health: no warnings"
    health, _ = run((90, {"explained_variance": -1.0, "value_error": 0.11}))
    assert list(health.warnings()) == ["value_explains_nothing"]


@pytest.mark.parametrize(
    ("env_steps", "until", "warns"),
    [
        (1_000_000, 400_000, False),  # before START
        (1_000_000, 600_000, True),
        (10_000_000, 600_000, False),  # less than a fifth of the run
        (10_000_000, 3_000_000, True),
        (200_000, 150_000, False),  # before most of the run is over
        (200_000, 200_000, True),
    ],
)
def test_a_new_agent_has_time_to_get_well(env_steps, until, warns):
    health = Health(SimpleNamespace(**vars(CONFIG) | {"env_steps": env_steps}))
    for steps in range(10_000, env_steps + 1, 10_000):
        bad = BAD["value_explains_nothing"] if steps <= until else {}
        health.observe(line(1, **bad, env_steps=steps))
    assert ("value explains nothing from 10,000" in health.summary()) == warns


def test_an_odd_line_after_a_new_agent_got_well_is_no_warning():
    """As of IMPALA on cart-pole: bad up to 320,000 steps, then well but for one line or two."""
    health = Health(SimpleNamespace(**vars(CONFIG) | {"env_steps": 2_000_000}))
    for steps in range(10_000, 2_000_001, 10_000):
        bad = steps <= 320_000 or steps in (490_000, 500_000, 510_000, 700_000)
        health.observe(line(1, **(BAD["value_explains_nothing"] if bad else {}), env_steps=steps))
    assert health.summary() == "health: no warnings"


def test_lines_before_a_change_are_judged_by_the_fields_of_then():
    """A rate that is a hundredth from a checkpoint on makes no earlier line one of a frozen policy,
    and a rate that is a hundred times as large forgives none."""
    frozen = BAD["policy_frozen"]
    for before, rate, now in [({}, 0.001, 0.001), (frozen, 10.0, 10.0)]:
        fields = {"learning_rate": {"before": CONFIG.learning_rate, "after": rate}}
        changed = SimpleNamespace(**vars(CONFIG) | {"learning_rate": rate})
        health = Health(changed, [{"env_steps": 500, "learner_steps": 500, "fields": fields}])
        for each in lines_of((50, before), (30, {"learning_rate": now})):
            health.observe(each)
        once, _ = run((50, before), (30, {}))
        assert health.summary() == once.summary()
    assert "policy frozen from 10 to 500 steps" in health.summary()


def test_the_policy_that_acts_is_not_frozen_where_it_is_the_one_that_learns():
    assert run((50, {}), (50, {"kl": 0.0, "params_lag": 0.0}))[0].warnings() == {}
    assert list(run((50, {"kl": 0.0}))[0].warnings()) == ["policy_frozen"]


def test_a_gradient_that_is_large_but_not_always_clipped():
    assert run((50, {"gradient_norm": 60.0, "gradient_clipped": 0.9}))[0].warnings() == {}


def test_entropy_may_go_late():
    assert run((51, {}), (49, BAD["entropy_gone"]))[0].summary() == "health: no warnings"
    health, _ = run((45, {}), (55, BAD["entropy_gone"]))  # begun early, it is told to the end
    assert "from 460 steps on" in health.summary()


def test_the_entropy_of_a_gaussian_policy_is_not_judged():
    """It may be negative, so its share of the first value means nothing."""
    for policy, judged in [("categorical", True), ("gaussian", False)]:
        health = Health(SimpleNamespace(**vars(CONFIG), policy=policy))
        for each in lines_of((2, {"entropy": 0.5}), (40, {"entropy": -0.3})):
            assert ("health/entropy_gone" in health.observe(each)) == judged
        assert list(health.warnings()) == ["entropy_gone"] * judged


def test_old_samples_are_stale_where_they_have_recurrent_states():
    bad = BAD["stale_replay"]
    assert list(run((40, bad))[0].warnings()) == ["stale_replay"]
    health = Health(SimpleNamespace(**vars(CONFIG) | {"core_size": 0}))
    assert not any("health/stale_replay" in health.observe(each) for each in lines_of((40, bad)))


def test_a_network_without_hidden_units_has_none_that_are_dead():
    class Linear(nn.Module):
        @nn.compact
        def __call__(self, steps, action, core_state):
            return nn.Dense(3)(steps), core_state

    steps = np.ones((2, 4), np.float32)
    params = Linear().init(jax.random.key(0), steps, (), ())
    trajectory = SimpleNamespace(steps=steps, action=(), core_state=())
    assert dead_units(Linear(), params, [trajectory]) == {}


def test_dead_units_are_those_that_are_0_for_all():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, steps, action, core_state):
            kernel = self.param("kernel", nn.initializers.zeros, (2, 4))
            hidden = networks.units.relu(self, steps @ kernel)
            images = networks.units.relu(self, hidden.reshape(-1, 2, 2, 1) - 1.0)
            return images.sum(), core_state

    # Units: alive for the first sample, for the second, for none, and nowhere (0 is not above 0).
    params = {"params": {"kernel": jnp.array([[2.0, -1, -1, 0], [-1, 0.5, -1, 0]])}}
    trajectory = SimpleNamespace(steps=np.eye(2, dtype=np.float32), action=(), core_state=())
    params = jax.device_put(params, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    found = dead_units(Two(), params, [trajectory])
    assert found == {"dead_units": pytest.approx(2 / 5)}  # of 4 units and a channel
    each = [SimpleNamespace(steps=x, action=(), core_state=()) for x in np.eye(2)[:, None]]
    assert dead_units(Two(), params, each) == found  # though each task has units of its own
    assert all(dead_units(Two(), params, [one])["dead_units"] > 0.5 for one in each)
    trajectory = SimpleNamespace(steps=-np.eye(2, dtype=np.float32), action=(), core_state=())
    assert dead_units(Two(), params, [trajectory]) == {"dead_units": pytest.approx(2 / 5)}


@pytest.mark.parametrize("kind", ["memoryless", "recurrent", "stacked"])
@pytest.mark.slow
def test_dead_units_of_a_network(kind):
    """Against its parameters: a bias far below 0 kills a layer, whatever it sees."""
    network, params = made_up.network_of(kind), made_up.params_of(kind)
    trajectory = SimpleNamespace(
        steps=made_up.timesteps(kind, 6, 4),
        action=np.zeros((6, 4), np.int32),
        core_state=network.initial(4),
    )
    units = {"torso": 8, "head": 16}  # the head has 8 of the policy's and 8 of the value's
    before = dead_units(network, jax.device_put(params), [trajectory])["dead_units"]
    assert 0 <= before < 0.7
    for part, of_part in units.items():
        inner = params["params"][part]
        killed = {**inner["Dense_0"], "bias": np.full_like(inner["Dense_0"]["bias"], -1e6)}
        dead = {"params": {**params["params"], part: {**inner, "Dense_0": killed}}}
        total = sum(units.values()) + (48 if kind == "stacked" else 0)
        found = dead_units(network, jax.device_put(dead), [trajectory])["dead_units"]
        assert found >= of_part / total - 1e-6
        assert round(found * total) == pytest.approx(found * total, abs=1e-4)
    out, _ = network.apply(params, trajectory.steps, trajectory.action, trajectory.core_state)
    assert isinstance(out, tuple)  # nothing is kept unless it is asked for


def test_the_log_has_health_and_the_display_tells_of_it(tmp_path, capsys):
    with Log(tmp_path, STEPS, health=Health(CONFIG)) as log:
        for i, staleness in enumerate([1.0, *[9.0] * 5, *[1.0] * 4]):
            log.write(10 * (i + 1), i, {"staleness": staleness})
    found = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [x["health/stale"] for x in found] == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]
    told = [text for text in capsys.readouterr().out.splitlines() if text.startswith("health")]
    assert told == [
        "health: samples stale from 20 steps on (versions of the policy 9)",
        "health: over at 80 steps: samples stale from 20 steps on (versions of the policy 9)",
    ]
    health = Health(CONFIG)
    with Log(tmp_path, STEPS, resume_at=50, health=health) as log:
        assert list(health.warnings()) == ["stale"]
        log.write(60, 6, {"staleness": 9.0})
    assert list(health.warnings()) == ["stale"]
    assert "from 20 steps on" in health.summary()


PPO = (
    "ppo --num-envs 16 --unroll-length 16 --refresh-steps 16 --epochs 2 --minibatches 2 "
    "--hidden-size 16 --head-size 16 --env-steps 10240 --log-every 512 --eval-episodes 1"
)
IMPALA = (
    "impala --num-envs 16 --batch-size 8 --hidden-size 16 --head-size 16 --env-steps 9600 "
    "--log-every 640 --eval-episodes 1"
)
R2D2 = (
    "r2d2 --num-envs 8 --batch-size 8 --hidden-size 16 --core-size 16 --head-size 16 "
    "--replay-capacity 4000 --learning-starts 400 --replay-ratio 1 --env-steps 4000 "
    "--log-every 160 --eval-episodes 1"
)
PROVOKED = {
    "policy_frozen": f"{PPO} --learning-rate 1e-7",
    "parameters_frozen": f"{R2D2} --learning-rate 1e-10",
    "gradient_clipped": f"{R2D2} --max-gradient-norm 1e-6",
    "statistics_on_floor": f"{IMPALA} --reward-scale 1e-8 --discount 0",
    "value_explains_nothing": f"{PPO} --popart False --value-cost 0 --reward-scale 1e-4 "
    "--discount 0.5 --gae-lambda 1",  # values as they began; needs PPO's explained_variance
    "entropy_gone": f"{PPO} --learning-rate 0.1 --entropy-cost 0 --clip-eps 10 --popart False",
    "ratios_clipped": f"{PPO} --clip-eps 1e-4",
    "dead_units": f"{PPO} --learning-rate 1",
    "padding": f"{R2D2} --env Catch-v0 --cross-episodes False --length 40",
    "stale": f"{PPO} --unrolls-ahead 10",
    "stale_replay": "r2d2 --num-envs 8 --batch-size 4 --hidden-size 4 --core-size 4 --head-size 4 "
    "--burn-in 0 --length 2 --stride 2 --n 2 --replay-capacity 4000 --learning-starts 400 "
    "--replay-ratio 100 --env-steps 1360 --log-every 80 --eval-episodes 1",
    "sample_reuse": f"{PPO} --epochs 20",
    "replay_ratio": f"{R2D2} --replay-ratio 100 --batch-size 64 --env-steps 1600",
}


HEALTHY = {
    "ppo": "ppo --env-steps 200000 --learning-rate 3e-3 --log-every 8192 --eval-episodes 1",
    "impala": "impala --env Catch-v0 --num-envs 32 --learning-rate 3e-3 --max-gradient-norm 40 "
    "--env-steps 96000 --log-every 3200 --eval-episodes 1",
    "r2d2": R2D2,
    "apex": R2D2.replace("r2d2", "apex").replace("--core-size 16", "--core-size 0"),
}


def train_it(words, folder):
    with test_sweep.one_device():  # no check depends on their number
        command = [*words.split(), "--run-dir", str(folder)]
        assert cli.exit_code(lambda: train.main(command)) == 0
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


# One of each algorithm is enough to see that a run's numbers reach the checks.
FAST = {"policy_frozen"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in PROVOKED],
)
def test_a_warning_is_provoked(name, tmp_path, capsys):
    lines = train_it(PROVOKED[name], tmp_path / "run")
    assert any(x.get(f"health/{name}") for x in lines)
    summary = [x for x in capsys.readouterr().out.splitlines() if check_of[name].words in x]
    assert summary and summary[-1].startswith("health: ")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", HEALTHY)
def test_a_healthy_run_says_so(algorithm, tmp_path, capsys):
    lines = train_it(HEALTHY[algorithm], tmp_path / "run")
    judged = {k for x in lines for k in x if k.startswith("health/")}
    assert "health/dead_units" in judged and len(judged) >= 3
    assert not any(x[name] for x in lines for name in judged if name in x)
    assert capsys.readouterr().out.count("health: no warnings") == 1


@pytest.mark.slow
def test_the_members_of_a_sweep_have_each_their_own_health(tmp_path, capsys):
    folder = tmp_path / "sweep"
    words = f"{PPO} --epochs 20 --learning-rate 1e-7 3e-3 --run-dir {folder}".split()
    assert test_sweep.sweep(*words) == 0
    with (folder / "members.csv").open() as file:
        frozen, learning = [row["health"] for row in csv.DictReader(file)]
    assert frozen.startswith("policy frozen from 512 steps on (KL ")
    assert "frozen" not in learning
    assert all("reuse too high from " in words for words in (frozen, learning))
    for i, warns in enumerate([True, False]):
        text = (folder / "members" / str(i) / "metrics.jsonl").read_text().splitlines()
        assert json.loads(text[-1])["health/policy_frozen"] == warns
    whole = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    assert not any(name.startswith("health/") for name in whole[-1])
    assert "\nhealth:" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_breaks_tells_of_warnings_that_are_over(tmp_path, capsys):
    folder, words = tmp_path / "run", PPO.replace("--env-steps 10240", "--checkpoint-every 512")
    train_it(f"{words} --env-steps 4096 --epochs 20", folder)
    with test_sweep.one_device():
        more = ["resume", str(folder), "--env-steps", "8192", "--epochs", "2"]
        assert cli.exit_code(lambda: train.main(more)) == 0
        capsys.readouterr()
        more = ["resume", str(folder), "--env-steps", "9216", "--learning-rate", "1e30"]
        assert cli.exit_code(lambda: train.main(more)) == 1
    assert "health: reuse too high from 768 to 4,352 steps" in capsys.readouterr().out


def test_the_latest_unroll_of_each_task_is_kept_however_tasks_are_joined(monkeypatch):
    """Any two of five tasks come together, in ten pairs; no more than five unrolls are kept."""
    monkeypatch.setattr(session.learner, "place", lambda *_: ())
    own = MagicMock(env_steps=0, _num_members=1, _latest={})
    own.config.env_steps, own.state.progress.shape = 1, ()
    for pair in itertools.combinations(range(5), 2):
        trajectory = SimpleNamespace(task_id=np.repeat(pair, 4))
        session.Session._next(own, MagicMock(env_steps=1, trajectory=trajectory))
    kept = [set(x.task_id.tolist()) for x in session.Session.latest.fget(own)]
    assert kept == [{0, 4}, {1, 4}, {2, 4}, {3, 4}]
