"""What a step costs on N ranks: a model of few numbers, each of which is measured.

A step is the computing of a rank, ``compute``, and its messages. An all-reduce of ``b`` bytes among N ranks takes::

    2 log2(N) latency + 2 (N - 1) / N * b / bandwidth

which is Rabenseifner's algorithm, a reduce-scatter and an allgather by recursive halving and doubling (Thakur,
Rabenseifner, Gropp, *Optimization of Collective Communication Operations in MPICH*, 2005). Messages that run beside the
backward pass cost nothing until they take longer than it: ``hidden`` is the part of the step that can hide them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

__all__ = ["Network", "fit_network", "stops_paying", "strong_scaling", "weak_scaling"]

PAYS = 1.25  # doubling the ranks has to gain that much


class Network(NamedTuple):
    """What a message costs.

    Attributes
    ----------
    latency
        Seconds from one rank to another.
    bandwidth
        Bytes in a second.
    """

    latency: float
    bandwidth: float

    def allreduce(self, ranks: int, size: float) -> float:
        """Seconds of an all-reduce of so many bytes."""
        if ranks == 1:
            return 0.0
        return 2 * math.log2(ranks) * self.latency + 2 * (ranks - 1) / ranks * size / self.bandwidth


def fit_network(times: Mapping[str, float], ranks: int) -> Network:
    """The network whose all-reduces take these times, by bytes; least squares of relative errors."""
    sizes = np.array([float(size) for size in times])
    seconds = np.array(list(times.values()))
    columns = np.stack([np.full_like(sizes, 2 * math.log2(ranks)), 2 * (ranks - 1) / ranks * sizes], axis=1)
    latency, inverse = np.linalg.lstsq(columns / seconds[:, None], np.ones_like(seconds), rcond=None)[0]
    return Network(max(float(latency), 1e-9), 1 / max(float(inverse), 1e-15))


def weak_scaling(
    network: Network, ranks: int, compute: float, gradient: float, small: float, *, hidden: float = 0.0
) -> float:
    """Seconds of a step whose batch grows with the ranks.

    Parameters
    ----------
    compute
        Seconds that a rank computes.
    gradient
        Bytes of all gradients.
    small
        Messages of a few bytes that a step has besides.
    hidden
        The part of the computing, 0 to 1, beside which gradients travel.
    """
    messages = network.allreduce(ranks, gradient)
    return compute + max(0.0, messages - hidden * compute) + small * network.allreduce(ranks, 16)


def strong_scaling(network: Network, ranks: int, whole: float, gradient: float, small: float) -> float:
    """Seconds of a step whose batch, ``whole`` seconds of computing in all, is shared by the ranks."""
    return weak_scaling(network, ranks, whole / ranks, gradient, small)


def stops_paying(steps: Mapping[int, float]) -> int:
    """The number of ranks, of those given in doublings, from which on twice as many gain less than 1.25 times."""
    sizes = sorted(steps)
    for small, large in itertools.pairwise(sizes):
        if steps[small] / steps[large] < PAYS:
            return small
    return sizes[-1]
