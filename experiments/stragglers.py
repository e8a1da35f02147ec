"""Synchronous updates whose devices take random time: a simulation, and what it must agree with."""

import math

import numpy as np


def simulate(
    hosts: int,
    devices: int,
    compute: float,
    jitter: float,
    in_host: float,
    kind: str,
    between: float,
    updates: int,
    seed: int = 0,
) -> float:
    """Mean seconds of an update.

    A host starts to exchange gradients when its own devices are done, and takes each step with a
    neighbour when both have taken the last. It starts the next update when it has every average.

    Args:
      hosts, devices: of which all learn; devices of a host. A tree needs a power of two of hosts.
      compute: mean seconds of a device; lognormal, anew for each device and update.
      jitter: standard deviation of its logarithm.
      in_host: seconds of the exchange in a host, half of it before that between hosts.
      kind: "ring" or "tree" between hosts, a tree by recursive halving.
      between: seconds that it takes when nobody waits.
      updates: how many.
    """
    random = np.random.default_rng(seed)
    partners = neighbours(hosts, kind)
    ready = np.zeros(hosts)  # when each host can go on
    for _ in range(updates):
        noise = random.normal(-(jitter**2) / 2, jitter, (hosts, devices))
        ready = ready + (compute * np.exp(noise)).max(axis=1) + in_host / 2
        for partner in partners:
            ready = np.maximum(ready, ready[partner]) + between / len(partners)
        ready = ready + in_host / 2
    return float(ready.max()) / updates


def neighbours(hosts: int, kind: str) -> list[np.ndarray]:
    """For each step of an all-reduce, from whom each host receives."""
    number = np.arange(hosts)
    if kind == "ring":
        return [(number - 1) % hosts] * (2 * (hosts - 1))
    if hosts & (hosts - 1):
        raise ValueError(f"a tree of {hosts} hosts: not a power of two")
    halving = [number ^ 1 << k for k in range(hosts.bit_length() - 1)]
    return halving + halving[::-1]


def expected_maximum(number: int, jitter: float, points: int = 20_001) -> float:
    """Computes the mean of the longest of so many lognormal times, each of mean 1.

    It is the integral of 1 - F(x)^n, by the trapezoid rule.
    """
    if jitter == 0:
        return 1.0
    z = np.linspace(-10.0, 10.0, points)  # standard normal
    x = np.exp(jitter * z - jitter**2 / 2)
    cdf = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in z])
    return float(x[0] + np.trapezoid(1 - cdf**number, x))
