"""Everything in a network that is not a convolution: most of it on activations (128, 64, 32, 32), float32.

Operations: the forward pass, and forward and backward pass together; one step for optimizers. PyTorch runs under
autograd and JAX as one compiled program, as their users run them; of JAX a number is given and no ratio. Labels of
softmax cross-entropy are for scores (128, 1000); optimizers step over ten million parameters, and `torch fused` is
PyTorch's with ``fused=True``, which is not its default. Bytes are counted as each input read once and each result
written once, whatever a kernel moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import xpconv
import xpconv.functional as F

from ..command import Options
from ..peers import BOTH, FORWARD, Pass, jax_pass, optional_jax, optional_torch, torch_pass
from ..report import Row, left_out, row_of_samples
from ..timing import assert_same, interleave, threads_set

__all__ = ["CASES", "STEP", "measure"]

STEP = "step"
TOLERANCE = 1e-4  # of the largest value


class Work(NamedTuple):
    """The same work in every library.

    Attributes
    ----------
    contenders
        Functions by library and operation; xpconv last.
    flops, nbytes
        Of one forward pass and of both; of a step.
    compare
        False where there is nothing to compare, as for dropout, whose random numbers differ.
    """

    contenders: dict[str, Pass]
    flops: dict[str, float]
    nbytes: dict[str, float]
    compare: bool = True


class Sizes(NamedTuple):
    """Of the arrays."""

    activations: tuple[int, int, int, int]
    scores: tuple[int, int]
    features: tuple[int, int]
    parameters: int


FULL = Sizes((128, 64, 32, 32), (128, 1000), (1024, 512), 10_000_000)
TINY = Sizes((2, 8, 8, 8), (4, 10), (5, 3), 100)


class _Peers(NamedTuple):
    torch: ModuleType | None
    jax: ModuleType | None


def _draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


Function = Callable[..., Any]


def _work(
    peers: _Peers, forward: Function, backward: Function, arguments: Sequence[np.ndarray],
    dy: np.ndarray | None, torch: Callable[[ModuleType], Function], jax: Callable[[ModuleType], Function] | None, *,
    flops: float = 0.0, compare: bool = True,
) -> Work:  # fmt: skip
    """Of functions in each library.

    Parameters
    ----------
    forward
        xpconv's: (y, cache) of the arguments.
    backward
        xpconv's: the gradients to the arguments, of (dy, cache).
    torch, jax
        Functions of the library that give one of the arguments.
    flops
        Of the forward pass; the backward pass is counted twice. 0 where bytes matter.
    """

    def both() -> Sequence[np.ndarray]:
        y, cache = forward(*arguments)
        gradients = backward(dy, cache)
        return (y, *(gradients if isinstance(gradients, tuple) else (gradients,)))

    contenders: dict[str, Pass] = {}
    if peers.torch:
        contenders["torch"] = torch_pass(peers.torch, torch(peers.torch), arguments, dy)
    if peers.jax and jax:
        contenders["jax"] = jax_pass(peers.jax, jax(peers.jax), arguments, dy)
    contenders["xpconv"] = {FORWARD: lambda: (forward(*arguments)[0],), BOTH: both}
    if flops:
        return Work(contenders, {FORWARD: flops, BOTH: 3 * flops}, {}, compare)
    read = float(sum(array.nbytes for array in arguments))
    result = 0.0 if dy is None else float(dy.nbytes)
    # on the way back: dy and what the forward pass was given, and a gradient for each of it
    return Work(contenders, {}, {FORWARD: read + result, BOTH: 3 * read + 2 * result}, compare)


def _relu(rng: np.random.Generator, sizes: Sizes, peers: _Peers) -> Work:
    x, dy = _draw(rng, *sizes.activations), _draw(rng, *sizes.activations)
    return _work(peers, F.relu, F.relu_backward, [x], dy, lambda t: t.relu, lambda j: j.nn.relu)


# ---- normalisation ------------------------------------------------------------------------------------------------


def _batch_norm_arrays(rng: np.random.Generator, sizes: Sizes) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Arguments, running statistics, dy."""
    channels = sizes.activations[1]
    arguments = [_draw(rng, *sizes.activations), _draw(rng, channels), _draw(rng, channels)]
    running = [np.zeros(channels, np.float32), np.ones(channels, np.float32)]
    return arguments, running, _draw(rng, *sizes.activations)


def _torch_batch_norm(torch: ModuleType, running: Sequence[np.ndarray]) -> Function:
    mean, variance = (torch.from_numpy(array.copy()) for array in running)
    return lambda x, w, b: torch.nn.functional.batch_norm(x, mean, variance, w, b, training=True)


def _jax_norm(jax: ModuleType, axes: tuple[int, ...], shape: tuple[int, ...]) -> Function:
    """Normalise over axes, then scale and shift with vectors of that shape."""

    def norm(x: Any, w: Any, b: Any) -> Any:
        centred = x - jax.numpy.mean(x, axes, keepdims=True)
        scale = jax.lax.rsqrt(jax.numpy.mean(centred * centred, axes, keepdims=True) + 1e-5)
        return centred * scale * w.reshape(shape) + b.reshape(shape)

    return norm


_BATCH, _CHANNEL = (0, 2, 3), (-1, 1, 1)


def _batch_norm(rng: np.random.Generator, sizes: Sizes, peers: _Peers) -> Work:
    arguments, running, dy = _batch_norm_arrays(rng, sizes)
    return _work(
        peers, lambda x, w, b: F.batch_norm(x, w, b, *running, training=True), F.batch_norm_backward,
        arguments, dy, lambda t: _torch_batch_norm(t, running), lambda j: _jax_norm(j, _BATCH, _CHANNEL),
    )  # fmt: skip


def _settled(dy: np.ndarray, arguments: Sequence[np.ndarray], residual: np.ndarray | float) -> np.ndarray:
    """The gradient dy without those numbers of which rounding decides whether the ReLU lets them through."""
    x, w, b = (array.astype(np.float64) for array in arguments)
    centred = x - x.mean(_BATCH, keepdims=True)
    scale = 1 / np.sqrt(np.mean(centred**2, _BATCH, keepdims=True) + 1e-5)
    y = centred * scale * w[:, None, None] + b[:, None, None] + residual
    return np.where(np.abs(y) < 1e-4, np.float32(0), dy)


def _batch_norm_relu(rng: np.random.Generator, sizes: Sizes, peers: _Peers) -> Work:
    arguments, running, dy = _batch_norm_arrays(rng, sizes)

    def torch(t: ModuleType) -> Function:
        norm = _torch_batch_norm(t, running)
        return lambda x, w, b: t.relu(norm(x, w, b))

    def jax(j: ModuleType) -> Function:
        norm = _jax_norm(j, _BATCH, _CHANNEL)
        return lambda x, w, b: j.nn.relu(norm(x, w, b))

    return _work(
        peers, lambda x, w, b: F.batch_norm_relu(x, w, b, *running, training=True),
        lambda dy, cache: F.batch_norm_relu_backward(dy, cache)[:3], arguments, _settled(dy, arguments, 0.0), torch,
        jax,
    )  # fmt: skip


def _batch_norm_relu_add(rng: np.random.Generator, sizes: Sizes, peers: _Peers) -> Work:
    arguments, running, dy = _batch_norm_arrays(rng, sizes)
    residual = _draw(rng, *sizes.activations)

    def torch(t: ModuleType) -> Function:
        norm = _torch_batch_norm(t, running)
        return lambda x, w, b, r: t.relu(norm(x, w, b) + r)

    def jax(j: ModuleType) -> Function:
        norm = _jax_norm(j, _BATCH, _CHANNEL)
        return lambda x, w, b, r: j.nn.relu(norm(x, w, b) + r)

    return _work(
        peers,
        lambda x, w, b, r: F.batch_norm_relu(x, w, b, *running, residual=r, training=True), F.batch_norm_relu_backward,
        [*arguments, residual], _settled(dy, arguments, residual), torch, jax,
    )  # fmt: skip


def _layer_norm(rng: np.random.Generator, sizes: Sizes, peers: _Peers) -> Work:
    x, shape = _draw(rng, *sizes.activations), sizes.activations[1:]
    arguments = [x, _draw(rng, *shape), _draw(rng, *shape)]
    return _work(
        peers, lambda x, w, b: F.layer_norm(x, w, b, normalized_shape=shape), F.layer_norm_backward,
        arguments, _draw(rng, *x.shape), lambda t: lambda x, w, b: t.nn.functional.layer_norm(x, shape, w, b),
        lambda j: _jax_norm(j, (1, 2, 3), shape),
    )  # fmt: skip


def _group_norm(rng: np.random.Generator, sizes: Sizes, peers: _Peers) -> Work:
    groups = 8
    n, c, h, w = sizes.activations
    arguments = [_draw(rng, n, c, h, w), _draw(rng, c), _draw(rng, c)]

    def jax(j: ModuleType) -> Function:
        norm = _jax_norm(j, (2, 3, 4), (groups, c // groups, 1, 1))
        return lambda x, w, b: norm(x.reshape(n, groups, c // groups, h, -1), w, b).reshape(x.shape)

    return _work(
        peers, lambda x, w, b: F.group_norm(x, groups, w, b), F.group_norm_backward, arguments,
        _draw(rng, n, c, h, w), lambda t: lambda x, w, b: t.nn.functional.group_norm(x, groups, w, b), jax,
    )  # fmt: skip


# ---- pooling and dropout ------------------------------------------------------------------------------------------


def _pool(
    kind: str, kernel: int, stride: int, padding: int, rng: np.random.Generator, sizes: Sizes, peers: _Peers
) -> Work:
    x = _draw(rng, *sizes.activations)
    forward, backward = getattr(F, f"{kind}_pool2d"), getattr(F, f"{kind}_pool2d_backward")
    dy = _draw(rng, *forward(x, kernel, stride=stride, padding=padding)[0].shape)

    def jax(j: ModuleType) -> Function:
        lax = j.lax
        start, reduce = (-np.inf, lax.max) if kind == "max" else (0.0, lax.add)
        size, steps = (1, 1, kernel, kernel), (1, 1, stride, stride)
        pads = ((0, 0), (0, 0), (padding, padding), (padding, padding))
        scale = 1.0 if kind == "max" else 1.0 / kernel**2
        return lambda x: lax.reduce_window(x, start, reduce, size, steps, pads) * scale

    return _work(
        peers, lambda x: forward(x, kernel, stride=stride, padding=padding), backward, [x], dy,
        lambda t: lambda x: getattr(t.nn.functional, f"{kind}_pool2d")(x, kernel, stride, padding), jax,
    )  # fmt: skip


def _dropout(rng: np.random.Generator, sizes: Sizes, peers: _Peers) -> Work:
    x, dy = _draw(rng, *sizes.activations), _draw(rng, *sizes.activations)
    return _work(
        peers, lambda x: F.dropout(x, 0.5, training=True, key=(0, 0, 0)), F.dropout_backward, [x], dy,
        lambda t: lambda x: t.nn.functional.dropout(x, 0.5, training=True), None, compare=False,
    )  # fmt: skip


# ---- the head of a network, and transposed convolution ------------------------------------------------------------


def _cross_entropy(rng: np.random.Generator, sizes: Sizes, peers: _Peers) -> Work:
    batch, classes = sizes.scores
    scores, labels = _draw(rng, batch, classes), rng.integers(0, classes, batch)

    def torch(t: ModuleType) -> Function:
        targets = t.from_numpy(labels)
        return lambda scores: t.nn.functional.cross_entropy(scores, targets)

    def jax(j: ModuleType) -> Function:
        targets = j.numpy.asarray(labels)[:, None]
        take = j.numpy.take_along_axis
        return lambda scores: -j.numpy.mean(take(j.nn.log_softmax(scores), targets, 1))

    work = _work(
        peers, lambda scores: F.softmax_cross_entropy(scores, labels),
        lambda dy, dscores: dscores, [scores], None, torch, jax,
    )  # fmt: skip
    # xpconv gives the gradient along with the loss: there is no forward pass by itself
    both = {name: {BOTH: functions[BOTH]} for name, functions in work.contenders.items()}
    return work._replace(contenders=both)


def _linear(rng: np.random.Generator, sizes: Sizes, peers: _Peers) -> Work:
    batch, (inputs, outputs) = sizes.scores[0], sizes.features
    arguments = [_draw(rng, batch, inputs), _draw(rng, outputs, inputs), _draw(rng, outputs)]
    return _work(
        peers, F.linear, F.linear_backward, arguments, _draw(rng, batch, outputs),
        lambda t: t.nn.functional.linear, lambda j: lambda x, w, b: x @ w.T + b, flops=2.0 * batch * inputs * outputs,
    )  # fmt: skip


def _transposed(kernel: int, padding: int, rng: np.random.Generator, sizes: Sizes, peers: _Peers) -> Work:
    """To images of twice the size, which are the activations."""
    n, c, h, w = sizes.activations
    arguments = [_draw(rng, n, c, h // 2, w // 2), _draw(rng, c, c, kernel, kernel), _draw(rng, c)]
    return _work(
        peers,
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=padding), F.conv_transpose2d_backward, arguments,
        _draw(rng, n, c, h, w), lambda t: lambda x, w, b: t.nn.functional.conv_transpose2d(x, w, b, 2, padding), None,
        flops=2.0 * arguments[0].size * c * kernel**2,
    )  # fmt: skip


# ---- optimizers ---------------------------------------------------------------------------------------------------

_SETTINGS: dict[str, dict[str, float]] = {"SGD": {"lr": 1e-3, "momentum": 0.9}, "Adam": {"lr": 1e-3}}


def _optimizer(name: str, rng: np.random.Generator, sizes: Sizes, peers: _Peers) -> Work:
    gradient = _draw(rng, sizes.parameters)
    settings = _SETTINGS[name]
    ours = xpconv.Parameter(np.zeros(sizes.parameters, np.float32))
    ours.grad = gradient
    optimizer = getattr(xpconv.optim, name)([ours], **settings)

    def step() -> Sequence[np.ndarray]:
        optimizer.step()
        return (ours.data,)

    def theirs(torch: ModuleType, **more: bool) -> Pass:
        parameter = torch.zeros(sizes.parameters, requires_grad=True)
        parameter.grad = torch.from_numpy(gradient)
        optimizer = getattr(torch.optim, name)([parameter], **settings, **more)

        def step() -> Sequence[Any]:
            optimizer.step()
            return (parameter.detach(),)

        return {STEP: step}

    contenders: dict[str, Pass] = {}
    if peers.torch:
        contenders["torch"] = theirs(peers.torch)
        contenders["torch fused"] = theirs(peers.torch, fused=True)
    contenders["xpconv"] = {STEP: step}
    # parameter and state are read and written, the gradient is read
    arrays = {"SGD": 5, "Adam": 7}[name]
    return Work(contenders, {}, {STEP: 4.0 * arrays * sizes.parameters})


CASES: Mapping[str, Callable[[np.random.Generator, Sizes, _Peers], Work]] = {
    "ReLU": _relu,
    "batch norm": _batch_norm,
    "batch norm + ReLU": _batch_norm_relu,
    "batch norm + add + ReLU": _batch_norm_relu_add,
    "max pool 2x2": partial(_pool, "max", 2, 2, 0),
    "max pool 3x3 s2": partial(_pool, "max", 3, 2, 1),
    "avg pool 2x2": partial(_pool, "avg", 2, 2, 0),
    "dropout 0.5": _dropout,
    "layer norm": _layer_norm,
    "group norm, 8 groups": _group_norm,
    "softmax cross-entropy": _cross_entropy,
    "linear 1024->512": _linear,
    "transposed convolution 2x2 s2": partial(_transposed, 2, 0),
    "transposed convolution 4x4 s2": partial(_transposed, 4, 1),
    "SGD, 10 M parameters": partial(_optimizer, "SGD"),
    "Adam, 10 M parameters": partial(_optimizer, "Adam"),
}


# ---- measuring ----------------------------------------------------------------------------------------------------


def measure(options: Options) -> Iterator[Row]:
    """A row for each layer, operation and number of threads."""
    torch = optional_torch() if options.peers else None
    jax = optional_jax() if options.all_peers else None
    for case, make in CASES.items():
        if not options.wants(case):
            continue
        if options.late:
            yield from (left_out("layers", case, threads) for threads in options.threads)
            continue
        work = make(np.random.default_rng(0), TINY if options.size == "tiny" else FULL, _Peers(torch, jax))
        for operation in next(iter(work.contenders.values())):
            contenders = {name: functions[operation] for name, functions in work.contenders.items()}
            if work.compare:
                with threads_set(max(options.threads)):
                    results = {name: [np.asarray(array) for array in run()] for name, run in contenders.items()}
                assert_same(f"{case}, {operation}", results, TOLERANCE)
                del results
            for threads in options.threads:
                with threads_set(threads):
                    samples = interleave(contenders, options.budget, rest=threads > 1, few=("jax",))
                yield row_of_samples(
                    "layers", case, operation, threads, samples, baseline="torch",
                    flops=work.flops.get(operation, 0.0), nbytes=work.nbytes.get(operation, 0.0),
                )  # fmt: skip
