"""All sections share these: sizes, precisions, and whether there is an accelerator."""

import jax

PRECISIONS = {  # name -> jax's precision of float32 products, and whether the network is bfloat16
    "float32": ("highest", False),
    "tf32": ("tensorfloat32", False),
    "bfloat16": ("highest", True),
}
SMALL = {  # words that make one small update of each kind of algorithm
    "ppo": "--unroll-length 16 --refresh-steps 16 --epochs 1 --minibatches 1 --sequence-length 16",
    "impala": "--batch-size 8 --optimizer adam",
}
REPLAYS = "--batch-size 8 --replay-capacity 4000 --learning-starts 1000"


def on_accelerator() -> bool:
    return jax.default_backend() != "cpu"
