"""Several processes: the same result as one, and none is left waiting for another that is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from rlsys import cli, train
from rlsys.algorithms.impala import Config
from rlsys.learning import hosts
from rlsys.running.checkpoint import Checkpoints
from rlsys.types import UserError

SMALL = (
    "--env CartPole-v1 --num-envs 16 --hidden-size 8 --head-size 8 --unroll-length 10 "
    "--refresh-steps 10 --eval-episodes 4 --core-size 0"
).split()
GAME = ["--env", "TicTacToe-v1", *SMALL[2:]]
REPLAYS = {"r2d2": 8, "apex": 64}  # samples of 20 steps and of one in a batch
RUNS = {  # 10 updates of IMPALA, 12 of PPO, none from samples, which each process draws by itself
    "impala": [
        *SMALL,
        *"--batch-size 16 --env-steps 1600 --log-every 320 --eval-every 600".split(),
    ],
    "ppo-game": [
        *GAME,
        *"--minibatches 2 --epochs 2 --env-steps 640 --eval-every 0".split(),
        *"--past-share 0.5 --past-every 2".split(),
    ],
    "ppo": [*SMALL, *"--sequence-length 5 --epochs 2 --minibatches 2 --env-steps 480".split()],
    **{
        name: [*SMALL, *"--env-steps 1600 --learning-starts 1599 --replay-capacity 4000".split()]
        for name in REPLAYS
    },
}
SEVERAL = """
import sys
from rlsys import train
from rlsys.learning import hosts
from rlsys.running import process
process.prepare()
hosts.start(hosts.Address(sys.argv[1], 2, int(sys.argv[2])))
hosts.end, end = lambda: None, hosts.end  # there is more than one run
for words in sys.argv[3:]:
    train.main(words.split())
end()
"""
ONE = """
import sys
from rlsys import cli, train
from rlsys.learning import hosts
from rlsys.running import process
process.prepare()
where = ["--coordinator", sys.argv[1], "--num-processes", "2", "--process-id", sys.argv[2]]
hosts.leave(cli.exit_code(lambda: train.main([*sys.argv[3].split(), *where])))
"""
NUM_DEVICES = 2  # of each process


LATE = """
import sys, time
from rlsys.running.session import Session
if sys.argv[2] == "1":
    learn = Session.learn
    def late(self, *words):
        time.sleep(0 if self.learner_steps else 40)
        learn(self, *words)
    Session.learn = late
"""


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def start_two(words_of, cwd_of, env_of=lambda i: {}):
    """Two processes of 2 devices each. Of each number: what it is started with, and where."""
    env = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={NUM_DEVICES}",
        "PYTHONPATH": str(Path(train.__file__).parents[1]),
    }
    return [
        subprocess.Popen(
            [sys.executable, *map(str, words_of(i))], cwd=cwd_of(i), env=env | env_of(i),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(2)
    ]  # fmt: skip


def train_two(*words, cwd):
    address = ["--coordinator", f"localhost:{free_port()}", "--num-processes", 2, "--process-id"]
    return start_two(lambda i: ["-m", "rlsys.train", *words, *address, i], lambda i: cwd)


def finish(processes, timeout=300):
    """Waits for processes -> what each printed, and its exit status."""
    try:
        said = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return said, [process.returncode for process in processes]


def trees_of(folder, process=0):
    """A process's part of the newest checkpoint, by the names of its leaves."""
    folder = folder / "checkpoints" / ("" if process == 0 else f"process-{process}")
    checkpoints = Checkpoints(folder)
    number = checkpoints.newest([])
    names = json.loads((folder / str(number) / "meta.json").read_text())["trees"]
    _, trees, meta = checkpoints.restore(dict.fromkeys(names))
    return number, trees, meta["counters"]


def numbers(tree):
    """Keys as numbers."""
    return jax.tree.map(
        lambda x: (
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        ),
        tree,
    )


def close(x, y):
    x, y = numbers(x), numbers(y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), x, y)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


GAMES = ["ppo-game"]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["impala"], id="impala"),
        pytest.param(["r2d2", "ppo", "apex"], id="others", marks=pytest.mark.slow),
        pytest.param(GAMES, id="games", marks=pytest.mark.slow),
    ],
)
def test_two_processes_of_2_devices_equal_one_of_4(names, tmp_path):
    """With an actor each, against two: the learner, every actor, the log."""
    runs = {name: [name.partition("-")[0], *RUNS[name]] for name in names}
    words = [f"{' '.join(run)} --run-dir {name}-2" for name, run in runs.items()]
    address = f"localhost:{free_port()}"
    processes = start_two(lambda i: ["-c", SEVERAL, address, i, *words], lambda i: tmp_path)
    for name, run in runs.items():
        folder = str(tmp_path / f"{name}-1")
        train.main([*run, "--actors", "2", "--run-dir", folder])
    said, codes = finish(processes)
    assert codes == [0, 0], said
    scores = {f"score: {'greedy' if name in REPLAYS else 'sampled'} return" for name in names}
    assert all(score in said[0] for score in scores)
    assert "rlsys" not in said[1] and "steps" not in said[1]

    for name in names:
        one, two = tmp_path / f"{name}-1", tmp_path / f"{name}-2"
        (number, trees, counters), (_, first, _) = trees_of(one), trees_of(two)
        number_1, second, counters_1 = trees_of(two, 1)
        assert number_1 == number == 1 and counters_1 == counters
        assert counters["learner_steps"] >= 10 or name in REPLAYS
        assert "learner" not in second and "best" not in second
        assert ("best" in first) == (name == "impala")
        close(trees["learner"], first["learner"])
        actors = trees["actors"]
        assert sorted(actors) == ["0", "1"] and list(first["actors"]) == ["0"]
        close(actors["0"], first["actors"]["0"])
        close(actors["1"], second["actors"]["0"])
        seen = [jax.tree.leaves(x["actors"]["0"]["timestep"]["obs"]) for x in (first, second)]
        assert any(np.abs(1.0 * a - b).max() > 0.01 for a, b in zip(*seen, strict=True))

        if "best" in first:  # process 0 alone evaluates
            close(trees["best"], first["best"])
        both = lines(one), lines(two)
        assert len(both[0]) == len(both[1]) > 0
        for mine, theirs in zip(*both, strict=True):
            assert set(mine) == set(theirs)
            for key in mine:
                if mine[key] is not None and not key.startswith(("time", "second", "replay/")):
                    rate = "per_second" in key
                    assert rate or np.isclose(mine[key], theirs[key], rtol=1e-3, atol=1e-5), key
    for name in set(names) & set(GAMES):
        past_selves = []
        for folder in (f"{name}-1", f"{name}-2", f"{name}-2/process-1"):
            folder, _, process = folder.partition("/")
            checkpoints = Checkpoints(tmp_path / folder / "checkpoints" / process)
            trees = checkpoints.restore({"opponents": None}, 1)[1]["opponents"]
            past_selves.append((trees, checkpoints.meta(1)["opponents"]))
        (trees, about), *others = past_selves
        assert len(trees) == 3 and sum(x["games"] for x in about["past_selves"]) > 10
        for its, other in others:
            close(trees, its)
            assert other == about
    for name in set(names) & set(REPLAYS):
        rings = [
            trees_of(tmp_path / f"{name}-2", i)[1]["replay"]["0.timestep.obs"] for i in range(2)
        ]
        whole = trees_of(tmp_path / f"{name}-1")[1]["replay"]["0.timestep.obs"]
        np.testing.assert_array_equal(whole, np.concatenate(rings))


def test_a_share_is_even_or_refused(monkeypatch):
    config = Config(num_envs=256, batch_size=32)
    assert hosts.share(config) is config
    monkeypatch.setattr(hosts, "count", lambda: 2)
    monkeypatch.setattr(hosts, "index", lambda: 1)
    monkeypatch.setattr(hosts, "gather", lambda x: [x, x])
    mine = hosts.share(config)
    assert (mine.num_envs, mine.batch_size, mine.env_steps) == (128, 16, config.env_steps)
    assert [*range(6)][hosts.local_slice(3)] == [3, 4, 5]
    with pytest.raises(UserError, match="num_envs 33 cannot be shared evenly by 2 processes"):
        hosts.share(Config(num_envs=33, batch_size=33))
    monkeypatch.setattr(hosts, "gather", lambda x: [(Config(seed=1), x[1]), x])
    with pytest.raises(UserError, match="processes 1 and 0 have other fields"):
        hosts.share(config)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--process-id 1", "--num-processes and --process-id need --coordinator HOST:PORT too"),
        ("--coordinator a:1", "--coordinator needs HOST:PORT of process 0, --num-processes and"),
        ("--coordinator a --num-processes 2 --process-id 0", "--coordinator needs HOST:PORT of"),
        (
            "--coordinator a:1 --num-processes two --process-id 0",
            "--num-processes two and --proces",
        ),
        ("--coordinator auto --learning-rat 1", "--learning-rate"),
    ],
)
def test_an_address_that_cannot_be_is_said_in_one_sentence(words, sentence, capfd):
    assert cli.exit_code(lambda: train.main(["impala", *words.split()])) == 2
    error = capfd.readouterr().err
    assert error.startswith("rlsys: ") and sentence in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_process_may_come_to_its_first_update_much_later(tmp_path):
    """As one does whose cache has no compiled program, where the other's has it."""
    words = f"impala {' '.join(RUNS['impala'])} --run-dir run"
    address = f"localhost:{free_port()}"
    said, codes = finish(
        start_two(lambda i: ["-c", LATE + SEVERAL, address, i, words], lambda i: tmp_path)
    )
    assert codes == [0, 0], said


@pytest.mark.slow
def test_where_no_cluster_is_found_that_is_said(tmp_path):
    """In a process of its own: in this one jax has begun."""
    command = [sys.executable, "-m", "rlsys.train", "impala", "--coordinator", "auto"]
    env = {**os.environ, "PYTHONPATH": str(Path(train.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and not any(tmp_path.iterdir())
    assert "rlsys: the processes did not meet: coordinator_address" in done.stderr


LONG = [*SMALL, "--batch-size", "16", "--checkpoint-every", "1600", "--log-every", "800"]
ENDED = "rlsys: another process of the run has ended or cannot be reached"


def wait_for(condition, processes, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        alive = all(process.poll() is None for process in processes)
        assert alive and time.monotonic() < deadline, finish(processes, 1)
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "victim"), [("impala", 1), ("impala", 0), *((name, 1) for name in REPLAYS)]
)
def test_who_is_killed_ends_the_others_and_all_resume(tmp_path, algorithm, victim):
    """To the bit as if none had been killed; not with another number of processes."""
    words = [algorithm, *LONG, "--env-steps", 8000]
    if algorithm in REPLAYS:
        words += ["--batch-size", REPLAYS[algorithm], "--learning-starts", 800]
        words += ["--replay-capacity", 4000]
    said, codes = finish(train_two(*words, "--run-dir", "whole", cwd=tmp_path))
    assert codes == [0, 0], said
    processes = train_two(*words, "--run-dir", "killed", cwd=tmp_path)
    wait_for((tmp_path / "killed/checkpoints/process-1/2").is_dir, processes)
    processes[victim].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    said, codes = finish(processes, timeout=60)
    assert time.monotonic() - begin < 60
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1
    assert ENDED in said[1 - victim].splitlines()[-1]
    before = trees_of(tmp_path / "killed")[0]

    with pytest.raises(UserError, match="killed is a run of 2 processes, and cannot go on with 1"):
        train.main(["resume", str(tmp_path / "killed")])
    said, codes = finish(train_two("resume", "killed", cwd=tmp_path))
    assert codes == [0, 0], said
    for process in range(2):
        whole, again = (trees_of(tmp_path / name, process) for name in ("whole", "killed"))
        assert before < whole[0] == again[0] == 5 and whole[2] == again[2]
        jax.tree.map(np.testing.assert_array_equal, numbers(whole[1]), numbers(again[1]))
    steps = [[line["env_steps"] for line in lines(tmp_path / x)] for x in ("whole", "killed")]
    # Of IMPALA a checkpoint takes in the unroll that its actors are ahead.
    expected = [800, 1760, 2560, 3520, 4320, 5280, 6080, 7040, 7840, 8160]
    if algorithm in REPLAYS:
        expected = [*range(800, 8001, 800)]
    assert steps[0] == steps[1] == expected
    if algorithm in REPLAYS:  # the ratio counts what both learned
        held = lines(tmp_path / "whole")[-1]["replay_ratio"]
        assert held == pytest.approx(2.5 * (8000 - 800) / 8000, rel=0.02)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all(tmp_path):
    """Which have found each other as under SLURM."""
    port = {"SLURM_JOB_ID": str(free_port()), "SLURM_STEP_NODELIST": "localhost"}
    slurm = {**port, "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    words = ["ppo", *SMALL, "--checkpoint-every", "1600", "--env-steps", 10**8]
    processes = start_two(
        lambda i: ["-m", "rlsys.train", *words, "--coordinator", "auto", "--run-dir", "run"],
        lambda i: tmp_path,
        lambda i: {**slurm, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
    )
    wait_for((tmp_path / "run/checkpoints/process-1/1").is_dir, processes)
    processes[1].send_signal(signal.SIGTERM)
    said, codes = finish(processes, timeout=60)
    assert codes == [3, 3], said
    assert "SIGTERM: saving a checkpoint" in said[0] and "make resume RUN=run" in said[0]
    first, second = (trees_of(tmp_path / "run", process) for process in range(2))
    assert first[0] == second[0] >= 2 and first[2] == second[2]


SIGNALLED = """
import os, signal, sys, time
from rlsys.running.run import Run
if sys.argv[2] == "1":
    due = Run.due
    def signalled(self):
        found = due(self)
        if self.env_steps == 800:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
        return found
    Run.due = signalled
"""


@pytest.mark.slow
def test_a_signal_once_processes_have_agreed_to_go_on_keeps_their_evaluation(tmp_path):
    """One of them does not leave out the line of the log, in which the others wait for it."""
    words = f"ppo {' '.join(SMALL)} --unrolls-ahead 0 --log-every 100_000 --eval-every 800"
    words += " --checkpoint-every 100_000 --env-steps 100_000 --run-dir run"
    address = f"localhost:{free_port()}"
    said, codes = finish(
        start_two(lambda i: ["-c", SIGNALLED + ONE, address, i, words], lambda i: tmp_path), 120
    )
    assert codes == [3, 3], said
    assert [line["env_steps"] for line in lines(tmp_path / "run")] == [800, 960], said
    assert "eval/sampled_return" in lines(tmp_path / "run")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folders", "seeds", "sentence"),
    [
        (("a", "b"), (0, 0), "process 1 does not see"),
        (("a", "a"), (0, 1), "have other fields or numbers of devices"),
    ],
)
def test_processes_that_do_not_belong_together_are_refused(tmp_path, folders, seeds, sentence):
    """One sentence from each, though process 0 takes jax's coordinator with it."""
    for folder in folders:
        (tmp_path / folder).mkdir(exist_ok=True)
    address = ["--coordinator", f"localhost:{free_port()}", "--num-processes", 2, "--process-id"]
    words = ["-m", "rlsys.train", "impala", *LONG, "--run-dir", "run", *address]
    processes = start_two(
        lambda i: [*words, i, "--seed", seeds[i]], lambda i: tmp_path / folders[i]
    )
    texts, codes = finish(processes)
    assert codes == [2, 2], texts
    for text in texts:
        # Gloo's threads may write into each other's lines.
        said = [x for x in text.splitlines() if "Gloo" not in x and "peer ranks" not in x]
        assert len(said) == 1, text
        assert said[0].startswith("rlsys: ") and sentence in said[0]
