"""What a step costs on N ranks: a model of few numbers, each of which is measured.

Computing
    Every layer costs ``fixed + each * images`` seconds forward and backward; so does what is around them: the batch,
    the loss, the optimizer. The fixed part is what a rank pays however small its share has become.
Messages
    An all-reduce of ``b`` bytes among N ranks takes ``2 log2(N) latency + 2 (N - 1) / N * b / bandwidth``, which is
    Rabenseifner's algorithm, a reduce-scatter and an allgather by recursive halving and doubling (Thakur, Rabenseifner,
    Gropp, *Optimization of Collective Communication Operations in MPICH*, 2005). Gradients travel in the buckets of
    `xpconv.distributed.gradients`, one after the other, each as soon as its last gradient is there.
Overlap
    Where messages need no core of the ranks, they run beside the rest of the backward pass, and cost what is left of
    them behind it. Between processes of one machine the cores copy them, and nothing is hidden.
Handling
    Each rank copies its gradients into buckets, and looks for numbers that are not finite: seconds a byte.
Waiting
    A step ends when the slowest rank does. With normally distributed times of relative deviation ``spread`` the slowest
    of N is later than the mean by about ``spread * z((N - 3/8) / (N + 1/4))``, z being the normal quantile (Blom,
    *Statistical Estimates and Transformed Beta-Variables*, 1958).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "Cost",
    "Layer",
    "Net",
    "Network",
    "Step",
    "buckets",
    "fit_costs",
    "fit_network",
    "net_of",
    "step",
    "stops_paying",
]

PAYS = 1.25  # doubling the ranks has to gain that much
BUCKET_BYTES = 4 << 20


class Network(NamedTuple):
    """What a message costs.

    Attributes
    ----------
    latency
        Seconds from one rank to another.
    bandwidth
        Bytes in a second.
    runs_beside
        Whether messages need no core of the ranks.
    """

    latency: float
    bandwidth: float
    runs_beside: bool = False

    def allreduce(self, ranks: int, size: float) -> float:
        """Seconds of an all-reduce of so many bytes."""
        if ranks == 1:
            return 0.0
        return 2 * math.log2(ranks) * self.latency + 2 * (ranks - 1) / ranks * size / self.bandwidth


class Cost(NamedTuple):
    """Seconds: ``fixed + each * images``."""

    fixed: float
    each: float

    def at(self, images: float) -> float:
        """Seconds for so many images."""
        return self.fixed + self.each * images


class Layer(NamedTuple):
    """A layer: its costs, and the bytes of each of its parameters."""

    name: str
    forward: Cost
    backward: Cost
    sizes: tuple[int, ...]


class Net(NamedTuple):
    """What a step of a network costs a rank.

    Attributes
    ----------
    layers
        In the order of the network.
    around
        Batch, loss, optimizer and what else a step has.
    small
        Bytes of each of the small messages of a step.
    handling
        Seconds for each byte of the gradients.
    spread
        Relative standard deviation of the time that a rank computes.
    """

    layers: list[Layer]
    around: Cost
    small: tuple[float, ...] = ()
    handling: float = 0.0
    spread: float = 0.0

    @property
    def gradient_bytes(self) -> int:
        """Of all parameters."""
        return sum(sum(layer.sizes) for layer in self.layers)


class Step(NamedTuple):
    """Seconds of a step: computing, handling gradients, messages that are not hidden, waiting for the slowest rank.

    ``hidden`` are seconds of messages beside the backward pass, which are not part of the step's.
    """

    compute: float
    handling: float
    messages: float
    waiting: float
    hidden: float

    @property
    def seconds(self) -> float:
        """All that follows each other."""
        return self.compute + self.handling + self.messages + self.waiting


def step(net: Net, network: Network, ranks: int, images: float, *, sharing: float = 1.0) -> Step:
    """The step of ``ranks`` ranks with so many images on each.

    Parameters
    ----------
    net, network, ranks, images
        What is trained, where, by how many, on how much.
    sharing
        What a rank computes takes so many times longer, since others use its core, its caches or its memory.

    Returns
    -------
    Step
    """
    forward = sum(layer.forward.at(images) for layer in net.layers)
    backward = sum(layer.backward.at(images) for layer in net.layers)
    compute = sharing * (forward + backward + net.around.at(images))
    if ranks == 1:
        return Step(compute, 0.0, 0.0, 0.0, 0.0)
    busy = 1.0 if network.runs_beside else sharing
    free, total = 0.0, 0.0  # since the backward pass began
    for ready, size in buckets(net.layers, images):
        seconds = busy * network.allreduce(ranks, size)
        free, total = max(free, sharing * ready) + seconds, total + seconds
    shown = max(0.0, free - sharing * backward) if network.runs_beside else total
    small = sum(busy * network.allreduce(ranks, size) for size in net.small)
    late = net.spread * compute * NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))
    return Step(compute, sharing * net.handling * net.gradient_bytes, shown + small, late, total - shown)


def buckets(layers: Sequence[Layer], images: float, limit: int = BUCKET_BYTES) -> list[tuple[float, int]]:
    """When each bucket of gradients is ready, in seconds since the backward pass began, and its bytes.

    Parameters
    ----------
    layers, images
        See `step`.
    limit
        A bucket that has a parameter takes no further one that would make it larger than so many bytes.

    Returns
    -------
    list of (float, int)
    """
    found: list[tuple[float, int]] = []
    now = 0.0
    for layer in reversed(layers):
        now += layer.backward.at(images)
        for size in reversed(layer.sizes):
            if found and found[-1][1] + size <= limit:
                found[-1] = (now, found[-1][1] + size)
            else:
                found.append((now, size))
    return found


def fit_network(times: Mapping[str, float], ranks: int, *, runs_beside: bool = False) -> Network:
    """The network whose all-reduces take these times, by bytes; least squares of relative errors."""
    sizes = np.array([float(size) for size in times])
    seconds = np.array(list(times.values()))
    columns = np.stack([np.full_like(sizes, 2 * math.log2(ranks)), 2 * (ranks - 1) / ranks * sizes], axis=1)
    latency, inverse = _non_negative(columns, seconds)
    return Network(max(latency, 1e-9), 1 / max(inverse, 1e-15), runs_beside)


def fit_costs(seconds: Mapping[int, float]) -> Cost:
    """The cost that takes so long for these numbers of images; least squares of relative errors, nothing negative."""
    images = np.array([float(count) for count in seconds])
    times = np.array(list(seconds.values()))
    if not times.any():
        return Cost(0.0, 0.0)
    times = np.maximum(times, 1e-9)
    return Cost(*_non_negative(np.stack([np.ones_like(images), images], axis=1), times))


def _non_negative(columns: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The weights of two columns whose sum comes nearest to the values; if one would be negative, the other alone."""
    scaled, ones = columns / values[:, None], np.ones_like(values)
    both = np.linalg.lstsq(scaled, ones, rcond=None)[0]
    if both.min() >= 0:
        return float(both[0]), float(both[1])
    kept = int(np.argmax(both))
    alone = float(scaled[:, kept] @ ones / (scaled[:, kept] @ scaled[:, kept]))
    return (alone, 0.0) if kept == 0 else (0.0, alone)


def net_of(profiles: Mapping[int, Mapping[str, Any]], **more: Any) -> Net:
    """The network of profiles, by images: ``layers``, lists of (name, forward, backward), and ``sizes`` by layer.

    Parameters
    ----------
    profiles
        What the worker's ``profile`` gives, for two numbers of images at least.
    more
        What else `Net` takes.

    Returns
    -------
    Net
    """
    first = next(iter(profiles.values()))
    times = {count: {name: (f, b) for name, f, b in profile["layers"]} for count, profile in profiles.items()}
    layers, around = [], Cost(0.0, 0.0)
    for name, _, _ in first["layers"]:
        forward, backward = (fit_costs({count: times[count][name][k] for count in times}) for k in range(2))
        if name in first["names"]:
            layers.append(Layer(name, forward, backward, tuple(first["sizes"].get(name, ()))))
        else:
            around = Cost(around.fixed + forward.fixed + backward.fixed, around.each + forward.each + backward.each)
    return Net(layers, around, **more)


def stops_paying(steps: Mapping[int, float], pays: float = PAYS) -> int:
    """The number of ranks, of those given in doublings, from which on twice as many gain less than ``pays`` times."""
    sizes = sorted(steps)
    for small, large in itertools.pairwise(sizes):
        if steps[small] / steps[large] < pays:
            return small
    return sizes[-1]
