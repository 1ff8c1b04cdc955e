"""Everything in a network that is not a convolution, against PyTorch on the CPU.

Pooling, batch normalisation, ReLU and dropout on a batch of activations (128, 64, 32, 32), softmax cross-entropy on
scores (128, 1000), a linear layer, and one step of Adam on ten million parameters. float32. PyTorch's operators are
called directly where autograd adds nothing to compare. `torch fused` is PyTorch's Adam with ``fused=True``, which is
not its default.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np

import xpconv
import xpconv.functional as F
from xpconv.backends import use_kernels

from .command import Options, main
from .report import Row, row_of_samples
from .timing import assert_same, interleave, optional_torch, threads_set

__all__ = ["Work", "measure", "works"]

Run = Callable[[], object]


class Work(NamedTuple):
    """The same work in every library.

    Attributes
    ----------
    contenders
        By name; ``"generic"`` is added from ``"xpconv"``.
    same
        Arrays of each contender's last run that must agree, for the check before the measurement; None where there is
        nothing to compare, as for dropout, whose random numbers differ.
    """

    contenders: dict[str, Run]
    same: Callable[[object], list[np.ndarray]] | None


def _arrays(result: object) -> list[np.ndarray]:
    return [np.asarray(array) for array in (result if isinstance(result, tuple) else (result,))]


class _Sizes(NamedTuple):
    activations: tuple[int, int, int, int]
    scores: tuple[int, int]
    features: tuple[int, int]
    parameters: int


FULL = _Sizes((128, 64, 32, 32), (128, 1000), (1024, 512), 10_000_000)
TINY = _Sizes((2, 3, 8, 8), (4, 10), (5, 3), 100)


def works(sizes: _Sizes, torch: ModuleType | None) -> Iterator[tuple[str, str, Work]]:
    """(case, operation, work) one after the other, so that only one needs its arrays at a time."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    yield from _pooling(draw, sizes, torch)
    yield from _normalisation(draw, sizes, torch)
    yield from _activations(draw, sizes, torch)
    yield from _head(draw, rng, sizes, torch)
    yield from _adam(draw, sizes, torch)


Draw = Callable[..., np.ndarray]
Works = Iterator[tuple[str, str, Work]]


def _pooling(draw: Draw, sizes: _Sizes, torch: ModuleType | None) -> Works:
    x = draw(*sizes.activations)
    for kernel, stride, padding in ((2, 2, 0), (3, 2, 1)):
        name = f"pool {kernel}x{kernel} stride {stride}"
        works = _pool(draw, x, kernel, stride, padding, torch)
        for (kind, operation), contenders in works.items():
            yield f"{kind} {name}", operation, Work(contenders, _arrays)


def _pool(
    draw: Draw, x: np.ndarray, kernel: int, stride: int, padding: int, torch: ModuleType | None
) -> dict[tuple[str, str], dict[str, Run]]:
    """Contenders by kind of pooling and operation."""
    options = {"stride": stride, "padding": padding}
    y, cache = F.max_pool2d(x, kernel, **options)
    mean_cache = F.avg_pool2d(x, kernel, **options)[1]
    dy = draw(*y.shape)
    found: dict[tuple[str, str], dict[str, Run]] = {
        ("max", "forward"): {"xpconv": lambda: F.max_pool2d(x, kernel, **options)[0]},
        ("max", "backward"): {"xpconv": lambda: F.max_pool2d_backward(dy, cache)},
        ("avg", "forward"): {"xpconv": lambda: F.avg_pool2d(x, kernel, **options)[0]},
        ("avg", "backward"): {"xpconv": lambda: F.avg_pool2d_backward(dy, mean_cache)},
    }
    if torch:
        aten = torch.ops.aten
        tx, tdy = torch.from_numpy(x), torch.from_numpy(dy)
        window = ([kernel] * 2, [stride] * 2, [padding] * 2)
        indices = aten.max_pool2d_with_indices(tx, *window)[1]
        found["max", "forward"]["torch"] = lambda: aten.max_pool2d_with_indices(tx, *window)[0]
        found["max", "backward"]["torch"] = lambda: aten.max_pool2d_with_indices_backward(
            tdy, tx, *window, [1, 1], False, indices
        )
        found["avg", "forward"]["torch"] = lambda: aten.avg_pool2d(tx, *window)
        found["avg", "backward"]["torch"] = lambda: aten.avg_pool2d_backward(tdy, tx, *window, False, True, None)
    return found


def _normalisation(draw: Draw, sizes: _Sizes, torch: ModuleType | None) -> Works:
    x, dy = draw(*sizes.activations), draw(*sizes.activations)
    channels = x.shape[1]
    weight, bias = draw(channels), draw(channels)
    mean, variance = np.zeros(channels, np.float32), np.ones(channels, np.float32)

    def forward():
        return F.batch_norm(x, weight, bias, mean, variance, training=True)

    cache = forward()[1]
    run = {"xpconv": lambda: forward()[0]}
    back = {"xpconv": lambda: F.batch_norm_backward(dy, cache)}
    if torch:
        aten = torch.ops.aten
        tx, tdy, tw, tb, tm, tv = map(torch.from_numpy, (x, dy, weight, bias, mean.copy(), variance.copy()))
        run["torch"] = lambda: aten.native_batch_norm(tx, tw, tb, tm, tv, True, 0.1, 1e-5)[0]
        _, kept_mean, kept_scale = aten.native_batch_norm(tx, tw, tb, tm, tv, True, 0.1, 1e-5)
        back["torch"] = lambda: aten.native_batch_norm_backward(
            tdy, tx, tw, tm, tv, kept_mean, kept_scale, True, 1e-5, [True, True, True]
        )
    yield "batch norm", "forward", Work(run, _arrays)
    yield "batch norm", "backward", Work(back, _arrays)


def _activations(draw: Draw, sizes: _Sizes, torch: ModuleType | None) -> Works:
    x, dy = draw(*sizes.activations), draw(*sizes.activations)
    tx, tdy = (torch.from_numpy(x), torch.from_numpy(dy)) if torch else (None, None)
    cache = F.relu(x)[1]
    run: dict[str, Run] = {"xpconv": lambda: F.relu(x)[0]}
    back: dict[str, Run] = {"xpconv": lambda: F.relu_backward(dy, cache)}
    if torch:
        run["torch"] = lambda: torch.relu(tx)
        back["torch"] = lambda: torch.ops.aten.threshold_backward(tdy, tx, 0)
    yield "ReLU", "forward", Work(run, _arrays)
    yield "ReLU", "backward", Work(back, _arrays)

    key = (0, 0, 0)
    dropped = F.dropout(x, 0.5, training=True, key=key)[1]
    run = {"xpconv": lambda: F.dropout(x, 0.5, training=True, key=key)[0]}
    back = {"xpconv": lambda: F.dropout_backward(dy, dropped)}
    if torch:
        kept = torch.ops.aten.native_dropout(tx, 0.5, True)[1]
        run["torch"] = lambda: torch.ops.aten.native_dropout(tx, 0.5, True)[0]
        back["torch"] = lambda: torch.ops.aten.native_dropout_backward(tdy, kept, 2.0)
    yield "dropout", "forward", Work(run, None)
    yield "dropout", "backward", Work(back, None)


def _head(draw: Draw, rng: np.random.Generator, sizes: _Sizes, torch: ModuleType | None) -> Works:
    batch, classes = sizes.scores
    scores, labels = draw(batch, classes), rng.integers(0, classes, batch)
    run: dict[str, Run] = {"xpconv": lambda: F.softmax_cross_entropy(scores, labels)[1]}
    if torch:
        ts, tl = torch.from_numpy(scores).requires_grad_(), torch.from_numpy(labels)
        run["torch"] = lambda: torch.autograd.grad(torch.nn.functional.cross_entropy(ts, tl), ts)[0]
    yield "softmax cross-entropy", "forward + backward", Work(run, _arrays)

    inputs, outputs = sizes.features
    x, w, b, dy = draw(batch, inputs), draw(outputs, inputs), draw(outputs), draw(batch, outputs)

    def ours():
        y, cache = F.linear(x, w, b)
        return (y, *F.linear_backward(dy, cache))

    run = {"xpconv": ours}
    if torch:
        tensors = [torch.from_numpy(a).requires_grad_() for a in (x, w, b)]
        tdy = torch.from_numpy(dy)

        def theirs():
            y = torch.nn.functional.linear(*tensors)
            return (y.detach(), *torch.autograd.grad(y, tensors, tdy))

        run["torch"] = theirs
    yield f"linear {inputs}->{outputs}", "forward + backward", Work(run, _arrays)


def _adam(draw: Draw, sizes: _Sizes, torch: ModuleType | None) -> Works:
    gradient = draw(sizes.parameters)

    def ours(mode: str) -> Run:
        parameter = xpconv.Parameter(np.zeros(sizes.parameters, np.float32))
        parameter.grad = gradient
        optimizer = xpconv.optim.Adam([parameter], lr=1e-3)

        def run():
            with use_kernels(mode):
                optimizer.step()
            return parameter.data

        return run

    contenders = {"xpconv": ours("auto"), "generic": ours("generic")}
    if torch:

        def theirs(**options: bool) -> Run:
            parameter = torch.zeros(sizes.parameters, requires_grad=True)
            parameter.grad = torch.from_numpy(gradient)
            optimizer = torch.optim.Adam([parameter], lr=1e-3, **options)

            def run():
                optimizer.step()
                return parameter.detach()

            return run

        contenders["torch"] = theirs()
        contenders["torch fused"] = theirs(fused=True)
    yield f"Adam, {sizes.parameters:,} parameters", "step", Work(contenders, _arrays)


def _generic(run: Run) -> Run:
    def call():
        with use_kernels("generic"):
            return run()

    return call


def measure(options: Options) -> Iterator[Row]:
    """One row for each operation and number of threads."""
    torch = optional_torch()
    for case, operation, work in works(TINY if options.size == "tiny" else FULL, torch):
        if not options.wants(case):
            continue
        contenders = {"generic": _generic(work.contenders["xpconv"]), **work.contenders}
        # the order of the columns
        contenders = {n: contenders[n] for n in ("torch", "torch fused", "generic", "xpconv") if n in contenders}
        if work.same is not None:
            with threads_set(1):
                results = {name: work.same(run()) for name, run in contenders.items()}
            assert_same(f"{case}, {operation}", results, 1e-4)
            del results
        for threads in options.threads:
            with threads_set(threads):
                samples = interleave(contenders, options.budget, rest=threads > 1)
            yield row_of_samples("pooling_and_layers", case, operation, threads, samples, baseline="torch")


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
