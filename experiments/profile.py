"""A trace of a short training run, once it is warm.

python -m experiments.profile ALGORITHM [--env TASK] [--seconds S] [--field value ...]

Inference, environment, learner, replay and the other activities of the log are spans on the threads
that do them, beside what XLA runs. The run itself ends with the trace, in a folder of its own.
"""

import contextlib
import sys
import threading
import time
from pathlib import Path

import jax

from rlsys import cli, train
from rlsys.running import process, signals
from rlsys.types import Stopped, UserError

WARM = 3  # lines of the log with updates: by then every program is compiled
POLL = 0.02  # s


def wait_until_warm(folder: Path, ended: threading.Event) -> bool:
    """Waits until the run in `folder` has compiled its programs; False if it ends before."""
    metrics = folder / "metrics.jsonl"
    while not ended.wait(POLL):
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if sum('"learner_steps": 0,' not in line for line in lines) >= WARM:
            return True
    return False


def record(folder: Path, seconds: float, ended: threading.Event) -> None:
    """Traces the run in `folder` for so long when it is warm, then has it stop."""
    if not wait_until_warm(folder, ended):
        return
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # every call of Python's would be most of what is seen
    jax.profiler.start_trace(folder / "trace", profiler_options=options)
    ended.wait(seconds)
    jax.profiler.stop_trace()
    signals.stop("the trace is complete")


def main(words: list[str]) -> None:
    """Trains and traces.

    Raises:
      UserError: the run ended before it was warm.
    """
    seconds, words = cli.take(words, "--seconds")
    if "--help" in words or not words:
        print(__doc__.strip())
        return
    folder = Path(f"runs/profile-{words[0]}-{time.strftime('%Y%m%d-%H%M%S')}")
    given, words = cli.take(words, "--run-dir")
    folder = Path(given) if given else folder
    ended = threading.Event()
    thread = threading.Thread(target=record, args=(folder, float(seconds or 3.0), ended))
    thread.start()
    try:
        with contextlib.suppress(Stopped):
            train.main([*words, "--run-dir", str(folder)])
    finally:
        ended.set()
        thread.join()
    traces = sorted(folder.glob("trace/**/*.trace.json.gz"))
    if not traces:
        raise UserError("the run ended before it was warm: give it more --env-steps")
    print(
        f"\n{traces[-1]}\nopen it at https://ui.perfetto.dev (which keeps it in the browser), or "
        f"with TensorBoard and its profile plugin: tensorboard --logdir {folder / 'trace'}"
    )


if __name__ == "__main__":
    process.prepare()
    sys.exit(cli.exit_code(lambda: main(sys.argv[1:])))
