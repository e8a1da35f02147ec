"""The matrix products and convolutions of a program, and how long an accelerator takes for them.

XLA's own cost analysis counts the body of a loop once, however often it runs, so a recurrent
network would seem T times cheaper than it is. These counts come from the jaxpr, loops multiplied.
"""

import collections
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Product(NamedTuple):
    """A matrix product [M, K] x [K, N], `number` of them side by side; or a convolution as one."""

    number: int
    m: int
    n: int
    k: int
    bytes: int  # factors read, and the result written
    result_bytes: int
    bfloat16: bool  # both factors

    @property
    def flops(self) -> int:
        return 2 * self.number * self.m * self.n * self.k


def products(function: Callable, *args: Any) -> dict[Product, int]:
    """How often function(*args) computes each product. args: arrays or ShapeDtypeStructs."""
    found: collections.Counter[Product] = collections.Counter()
    _count(jax.make_jaxpr(function)(*args).jaxpr, 1, found)
    return dict(found)


def flops(found: dict[Product, int]) -> int:
    return sum(product.flops * times for product, times in found.items())


def _count(jaxpr, times: int, found: collections.Counter) -> None:
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            found[_dot(equation)] += times
        elif name == "conv_general_dilated":
            found[_convolution(equation)] += times
        elif name == "cond":  # the dearest branch
            branches: list[collections.Counter[Product]] = []
            for branch in params["branches"]:
                branches.append(collections.Counter())
                _count(branch.jaxpr, times, branches[-1])
            found.update(max(branches, key=lambda x: flops(dict(x))))
        else:
            inner = times * params["length"] if name == "scan" else times
            for value in params.values():
                for part in value if isinstance(value, tuple | list) else [value]:
                    part = getattr(part, "jaxpr", part)  # a ClosedJaxpr's
                    if hasattr(part, "eqns"):
                        _count(part, inner, found)


def _product(equation, count: int, n: int, k: int) -> Product:
    factors, (result,) = [x.aval for x in equation.invars], [x.aval for x in equation.outvars]
    sizes = [x.size * x.dtype.itemsize for x in (*factors, result)]
    bfloat16 = all(x.dtype == jnp.bfloat16 for x in factors)
    m = result.size // (count * n)
    return Product(count, m, n, k, sum(sizes), sizes[-1], bfloat16)


def _dot(equation) -> Product:
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    left, right = (x.aval.shape for x in equation.invars)
    count = math.prod(left[i] for i in batch)
    k = math.prod(left[i] for i in contracted)
    return _product(equation, count, math.prod(right) // (count * k), k)


def _convolution(equation) -> Product:
    """Zeros between the pixels of a dilated image, of a gradient through strides, cost nothing."""
    features = equation.outvars[0].aval.shape[equation.params["dimension_numbers"].out_spec[1]]
    taps = equation.invars[1].aval.size // features
    return _product(
        equation, 1, features, max(taps // math.prod(equation.params["lhs_dilation"]), 1)
    )


def seconds(found: dict[Product, int], machine) -> float:
    """On one device of a machine: of each product the longer of its arithmetic, with rows and
    columns in whole tiles, and its memory traffic; and two kernel launches.

    What goes element by element is taken as one more pass over each product's result.
    """

    def tiled(size: int) -> int:
        return -(-size // machine.tile) * machine.tile

    total = 0.0
    for product, times in found.items():
        work = 2 * product.number * tiled(product.m) * tiled(product.n) * product.k
        rate = machine.bfloat16_flops if product.bfloat16 else machine.float32_flops
        traffic = product.bytes + 2 * product.result_bytes
        total += times * (2 * machine.launch + max(work / rate, traffic / machine.bandwidth))
    return total


def all_reduce_seconds(num_bytes: float, members: int, rate: float, latency: float) -> float:
    """A ring's: 2 (n - 1) steps, each of which passes on 1 / n of the bytes.

    Args:
      num_bytes: of what is averaged.
      members: n.
      rate: bytes/s that each may send while it receives as much.
      latency: seconds of a step.
    """
    if members == 1:
        return 0.0
    return 2 * (members - 1) * (num_bytes / members / rate + latency)
