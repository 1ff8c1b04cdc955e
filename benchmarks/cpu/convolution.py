"""Convolution and its gradients on twelve shapes that networks have; NCHW, float32.

Operations: the forward pass; the gradient of the images, `conv_transpose2d`; the gradients of filters and bias, all
that a first layer needs; the forward pass and all gradients, which is measured by itself. Beside PyTorch, which is what
the ratio is of, and only for the forward pass and everything: PyTorch on channels-last arrays, JAX, xpconv's own im2col
engine, and the course's im2col. Operations are counted as the definition has them, so that an algorithm that saves some
may pass the peak.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import xpconv
import xpconv.functional as F
from xpconv._geometry import ConvGeometry, conv_geometry

from .. import course
from ..command import Options
from ..peers import BOTH, FORWARD, jax_pass, optional_jax, optional_torch, torch_pass
from ..report import Row, left_out, row_of_samples
from ..timing import allocator, assert_same, interleave, threads_set

__all__ = ["DW", "DX", "SHAPES", "Shape", "chosen", "geometry_of", "measure", "xpconv_functions"]

DX, DW = "dx", "dw, db"
OPERATIONS = (FORWARD, DX, DW, BOTH)
TOLERANCE = 2e-4  # of the largest value: sums of a hundred thousand products in float32

Functions = dict[str, Callable[[], Sequence[Any]]]


class Shape(NamedTuple):
    """One convolution; square kernels."""

    batch: int
    channels: int
    size: int
    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    width: int | None = None  # where the images are not square

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of (dy, x, w, b)."""
        sides = (self.size, self.width or self.size)
        out = [(side + 2 * self.padding - self.kernel) // self.stride + 1 for side in sides]
        return (
            (self.batch, self.filters, *out),
            (self.batch, self.channels, *sides),
            (self.filters, self.channels // self.groups, self.kernel, self.kernel),
            (self.filters,),
        )

    def arrays(self, rng: np.random.Generator, dtype: str = "float32") -> tuple[np.ndarray, ...]:
        """(dy, x, w, b) of standard normal numbers."""
        return tuple(rng.standard_normal(shape, dtype=dtype) for shape in self.shapes)

    @property
    def flops(self) -> float:
        """Operations of one pass, a multiplication and an addition for each filter tap at each output pixel."""
        dy, _, w, _ = self.shapes
        return 2.0 * float(np.prod(dy)) * float(np.prod(w[1:]))

    @property
    def output_padding(self) -> tuple[int, int]:
        """Rows and columns of the images that no window reaches, for the transposed convolution."""
        (_, _, *out), (_, _, *sides) = self.shapes[:2]
        covered = [(o - 1) * self.stride + self.kernel - 2 * self.padding for o in out]
        return sides[0] - covered[0], sides[1] - covered[1]


SHAPES: Mapping[str, Shape] = {
    "A 3->64 k3 @32": Shape(128, 3, 32, 64, 3, 1, 1),
    "B 64->64 k3 @32": Shape(128, 64, 32, 64, 3, 1, 1),
    "C 128->128 k3 @16": Shape(128, 128, 16, 128, 3, 1, 1),
    "D 256->256 k3 @8": Shape(128, 256, 8, 256, 3, 1, 1),
    "E 64->128 k3 s2 @32": Shape(128, 64, 32, 128, 3, 2, 1),
    "F 64->128 k1 @32": Shape(128, 64, 32, 128, 1),
    "G 3->64 k7 s2 @224": Shape(32, 3, 224, 64, 7, 2, 3),
    "H 1->32 k5 @28": Shape(128, 1, 28, 32, 5, 1, 2),
    "I 3->16 k3 @28": Shape(128, 3, 28, 16, 3, 1, 1),
    "J 16->32 k7 @11x9": Shape(64, 16, 11, 32, 7, 1, 3, width=9),
    "K 64->64 k3 @56": Shape(32, 64, 56, 64, 3, 1, 1),
    "L depthwise 128 k3 @32": Shape(64, 128, 32, 128, 3, 1, 1, groups=128),
}


def tiny(shape: Shape) -> Shape:
    """The same kernel, stride and padding on as little as makes sense."""
    channels = min(shape.channels, 4)
    filters = channels if shape.groups > 1 else 4
    size = shape.kernel + 4
    return shape._replace(
        batch=2, channels=channels, filters=filters, size=size, groups=min(shape.groups, channels),
        width=size + 1 if shape.width else None,
    )  # fmt: skip


# ---- contenders ---------------------------------------------------------------------------------------------------


def _options(shape: Shape) -> dict[str, Any]:
    return {"stride": shape.stride, "padding": shape.padding, "groups": shape.groups}


def xpconv_functions(dy: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray, shape: Shape) -> Functions:
    """xpconv, with whichever engines it chooses."""
    options = _options(shape)
    cache = F.conv2d(x, w, b, **options)[1]

    def both() -> Sequence[np.ndarray]:
        y, cache = F.conv2d(x, w, b, **options)
        return (y, *F.conv2d_backward(dy, cache))

    return {
        FORWARD: lambda: (F.conv2d(x, w, b, **options)[0],),
        DX: lambda: (F.conv_transpose2d(dy, w, output_padding=shape.output_padding, **options)[0],),
        DW: lambda: F.conv2d_backward(dy, cache, need_dx=False)[1:],
        BOTH: both,
    }


def with_algorithm(algorithm: str, functions: Functions) -> Functions:
    """The same by a named algorithm."""

    def wrapped(run: Callable[[], Sequence[Any]]) -> Callable[[], Sequence[Any]]:
        def call() -> Sequence[Any]:
            with xpconv.use_conv_algorithm(algorithm):
                return run()

        return call

    return {operation: wrapped(run) for operation, run in functions.items()}


def torch_functions(torch: ModuleType, arrays: Sequence[np.ndarray], shape: Shape, *, last: bool = False) -> Functions:
    """PyTorch: autograd for everything, its backward operator directly for one gradient."""
    dy, x, w, b = arrays
    options = (shape.stride, shape.padding, 1, shape.groups)

    def convolve(x: Any, w: Any, b: Any) -> Any:
        return torch.nn.functional.conv2d(x, w, b, *options)

    found = torch_pass(torch, convolve, (x, w, b), dy, channels_last=last)
    tdy, tx, tw = (torch.from_numpy(array) for array in (dy, x, w))

    def gradients(*mask: bool) -> Sequence[Any]:
        return torch.ops.aten.convolution_backward(
            tdy, tx, tw, [shape.filters], [shape.stride] * 2, [shape.padding] * 2, [1, 1], False, [0, 0],
            shape.groups, list(mask),
        )  # fmt: skip

    if not last:
        found[DX] = lambda: gradients(True, False, False)[:1]
        found[DW] = lambda: gradients(False, True, True)[1:]
    return found


def _jax(jax: ModuleType, arrays: Sequence[np.ndarray], shape: Shape) -> Functions:
    dy, x, w, b = arrays

    def convolve(x: Any, w: Any, b: Any) -> Any:
        y = jax.lax.conv_general_dilated(
            x, w, (shape.stride,) * 2, [(shape.padding,) * 2] * 2, feature_group_count=shape.groups,
            dimension_numbers=("NCHW", "OIHW", "NCHW"),
        )  # fmt: skip
        return y + b[:, None, None]

    return jax_pass(jax, convolve, (x, w, b), dy)


def _course(module: ModuleType, arrays: Sequence[np.ndarray], shape: Shape) -> Functions:
    dy, x, w, b = arrays
    step = (shape.stride, shape.padding)

    def both() -> Sequence[np.ndarray]:
        y, columns = course.forward(module, x, w, b, *step)
        return (y, *course.backward(module, dy, x.shape, columns, w, *step))

    return {FORWARD: lambda: course.forward(module, x, w, b, *step)[:1], BOTH: both}


def _contenders(options: Options, arrays: Sequence[np.ndarray], shape: Shape) -> dict[str, Functions]:
    """PyTorch first, xpconv last; those with the allocator's default are the two alone."""
    dy, x, w, b = arrays
    ours = xpconv_functions(dy, x, w, b, shape)
    found: dict[str, Functions] = {}
    torch = optional_torch() if options.peers else None
    if torch:
        found["torch"] = torch_functions(torch, arrays, shape)
    if options.all_peers:
        if torch:
            found["torch NHWC"] = torch_functions(torch, arrays, shape, last=True)
        jax = optional_jax()
        if jax:
            found["jax"] = _jax(jax, arrays, shape)
        module = course.course_im2col() if shape.groups == 1 else None
        if module:
            found["course"] = _course(module, arrays, shape)
        if shape.groups == 1:
            only = {operation: ours[operation] for operation in (FORWARD, BOTH)}
            found["im2col"] = with_algorithm("im2col", only)
    return {**found, "xpconv": ours}


# ---- measuring ----------------------------------------------------------------------------------------------------


def geometry_of(arrays: Sequence[np.ndarray], shape: Shape) -> ConvGeometry:
    """What engines are told of the shape."""
    _, x, w, _ = arrays
    return conv_geometry(x.shape, w.shape, **_options(shape), dilation=1)


def chosen(arrays: Sequence[np.ndarray], shape: Shape) -> dict[str, str]:
    """The engines that xpconv takes, by operation; nothing in a commit that has none to choose from."""
    try:
        from xpconv._cpu.conv.choice import engine_for
    except ImportError:
        return dict.fromkeys(OPERATIONS, "")
    geometry, dtype = geometry_of(arrays, shape), arrays[1].dtype.name

    def name(operation: str) -> str:
        return engine_for(operation, dtype, geometry).__name__.rpartition(".")[2]

    found = {FORWARD: name("forward"), DX: name("input_gradient"), DW: name("weight_gradient")}
    three = list(found.values())
    return {**found, BOTH: three[0] if len(set(three)) == 1 else " / ".join(three)}


def _operations(options: Options) -> tuple[str, ...]:
    """With the default allocator, and in a quick run, only what the goals are about."""
    everything = options.size == "tiny" or (options.size == "full" and allocator() == "warm")
    return OPERATIONS if everything else (FORWARD, BOTH)


def measure(options: Options) -> Iterator[Row]:
    """A row for each shape, operation and number of threads."""
    for case, full in SHAPES.items():
        if not options.wants(case):
            continue
        shape = tiny(full) if options.size == "tiny" else full
        if options.late:
            yield from (left_out("convolution", case, threads) for threads in options.threads)
            continue
        arrays = shape.arrays(np.random.default_rng(0))
        libraries = _contenders(options, arrays, shape)
        engines = chosen(arrays, shape)
        for operation in _operations(options):
            contenders = {name: functions[operation] for name, functions in libraries.items() if operation in functions}
            with threads_set(max(options.threads)):
                results = {name: [np.asarray(array) for array in run()] for name, run in contenders.items()}
            assert_same(f"{case}, {operation}", results, TOLERANCE)
            del results
            for threads in options.threads:
                with threads_set(threads):
                    few = [name for name in contenders if name not in ("torch", "xpconv")]
                    samples = interleave(contenders, options.budget, rest=threads > 1, few=few)
                yield row_of_samples(
                    "convolution", case, operation, threads, samples, baseline="torch",
                    flops=shape.flops * (3 if operation == BOTH else 1), engine=engines[operation],
                )  # fmt: skip
