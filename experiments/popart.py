"""One agent learns five tasks whose rewards differ by 1e4 in scale with PopArt, and not without.

    python -m experiments.popart [--seeds 5] [--jobs 2]

Catch five times, each with its own fixed permutation of the pixels, and rewards times 0.01 to 100;
returns are reported as the task has them, 1 to be reached. In turn (--unrolls-ahead 0), so that a
run can be repeated to the bit.
"""

import tyro

from experiments.study import Options, study

SCALES = (0.01, 0.1, 1, 10, 100)
TASKS = ",".join(f"Catch-v0:permute={i}:reward_scale={s}" for i, s in enumerate(SCALES, 1))
WORDS = ["impala", "--env", TASKS, "--env-steps", "800000"]
WORDS += ["--unrolls-ahead", "0", "--batch-size", "80"]

if __name__ == "__main__":
    agents = {"popart": WORDS, "without": [*WORDS, "--popart", "False"]}
    study("popart-catch", agents, tyro.cli(Options))
