"""Learner steps of the published networks, in turn with the same in stock flax and with a matrix
product.

Both learn by the same program from an unroll of Pong; they differ in the network and in how frames
are handed over (stock flax is given stacks, rlsys single frames).
"""

from collections.abc import Iterator

from experiments.bench import clock, parts
from experiments.bench.figures import Figure
from experiments.bench.stock import stacked, stock
from rlsys import algorithms
from rlsys.algorithms import impala
from rlsys.plan.workload import Workload, workload
from rlsys.types import TRAJECTORY_SPEC

# Name, algorithm, words of the command line, steps of a sequence, sequences in a batch, and the
# bar: how many times as fast as stock flax it is asked to be.
CASES = (
    ("Nature", "impala", "--torso nature --hidden-size 512", 20, 32, 3.5),
    ("ResNet, LSTM", "impala", "--torso impala --core-size 256", 20, 8, 1.5),
    ("R2D2", "r2d2", "--torso nature", 120, 8, 2.0),
)


def one_update(work: Workload) -> Workload:
    """Return the work without IMPALA's loop over the batches of an unroll, which here are one.

    In such a loop XLA's own convolutions are ten times slower on CPUs, and ours are not.
    """
    if work.add:
        return work
    return work._replace(learn=impala.update, spec=TRAJECTORY_SPEC, batch=lambda unroll: unroll)


def figures(quick: bool) -> Iterator[Figure]:
    product, operations = clock.matrix_product(2048)
    for case, name, words, length, batch, bar in CASES[:1] if quick else CASES:
        words += f" --env Pong-v5 --actors 1 --num-envs {batch} --batch-size {batch}"
        config = algorithms.config_of(name, words.split(), on_cpu=False)
        work, unroll = parts.play(name, config)
        played = unroll()
        ours = parts.learn(one_update(work), config, played)
        network = stock(work.network)
        played = stacked(network, played, config.frame_stack)
        work = one_update(workload(algorithms.find(name), config, network))
        theirs = parts.learn(work, config, played)
        calls = {"ours": ours.call, "stock": theirs.call, "product": product}
        seconds = clock.alternate(calls, 5, 0.1, quick)
        shape, samples = f"{length} x {batch}", length * batch
        rate, ceiling = samples / seconds["ours"], samples / seconds["stock"]
        yield Figure("learner", case, shape, "samples/s", rate, ceiling, "stock flax", bar)
        rate, ceiling = ours.gflop() / seconds["ours"], operations / seconds["product"]
        what = f"{case}, operations"
        yield Figure("learner", what, shape, "GFLOP/s", rate, ceiling, "matrix product")
