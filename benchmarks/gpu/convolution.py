"""Convolutions of ResNet-20, ResNet-18 and a VGG-like network, forward and backward, against PyTorch with cuDNN.

Both in the same precision, as work of the device (replays of a graph). xpconv gets and gives channel-major memory, as
between its layers; PyTorch runs with contiguous images, and channels last with ``cudnn.benchmark``. Results are first
compared with a convolution in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import xpconv
from xpconv._geometry import ConvGeometry, conv_geometry
from xpconv.backends import run as run_operator
from xpconv.backends import use_backend, use_kernels

from .ceilings import PRECISIONS
from .device import Device
from .section import Options, Row, Rows
from .torch_peer import cuda_torch, graph_seconds, precision_set

SECONDS = 65
NEEDS_GPU = False


class Shape(NamedTuple):
    """Images (batch, channels, size, size), filters, kernel, stride; the padding keeps the size at stride 1."""

    net: str
    batch: int
    channels: int
    size: int
    filters: int
    kernel: int
    stride: int

    def __str__(self) -> str:
        return (
            f"{self.net}: {self.batch}x{self.channels}x{self.size}x{self.size}, {self.filters} filters "
            f"{self.kernel}x{self.kernel}/{self.stride}"
        )

    @property
    def geometry(self) -> ConvGeometry:
        """For the operator."""
        x, w = self.arrays
        return conv_geometry(x, w, stride=self.stride, padding=self.kernel // 2, dilation=1, groups=1)

    @property
    def arrays(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of x and w."""
        return (
            (self.batch, self.channels, self.size, self.size),
            (self.filters, self.channels, self.kernel, self.kernel),
        )


SHAPES = (
    Shape("resnet20", 128, 3, 32, 16, 3, 1),
    Shape("resnet20", 128, 16, 32, 16, 3, 1),
    Shape("resnet20", 128, 16, 32, 32, 3, 2),
    Shape("resnet20", 128, 16, 32, 32, 1, 2),
    Shape("resnet20", 128, 32, 16, 32, 3, 1),
    Shape("resnet20", 128, 64, 8, 64, 3, 1),
    Shape("resnet18", 32, 3, 224, 64, 7, 2),
    Shape("resnet18", 32, 64, 56, 64, 3, 1),
    Shape("resnet18", 32, 64, 56, 128, 3, 2),
    Shape("resnet18", 32, 128, 28, 128, 3, 1),
    Shape("resnet18", 32, 256, 14, 256, 3, 1),
    Shape("resnet18", 32, 512, 7, 512, 3, 1),
    Shape("vgg", 32, 64, 112, 128, 3, 1),
    Shape("vgg", 32, 256, 56, 256, 3, 1),
    Shape("vgg", 32, 512, 28, 512, 3, 1),
)
_TINY = (Shape("tiny", 2, 3, 6, 4, 3, 1), Shape("tiny", 2, 3, 6, 4, 3, 2))


def _channel_major(device: Device, shape: tuple[int, ...], dtype: str) -> Any:
    """Images in the memory order in which a convolution of xpconv returns them."""
    n, c, h, w = shape
    return device.backend.xp.permute_dims(device.normal((c, n, h, w), dtype), (1, 0, 2, 3))


class _Case:
    """The arrays of a shape, in one precision, and both directions on them."""

    def __init__(self, device: Device, shape: Shape, dtype: str) -> None:
        self.device, self.shape, self.geometry = device, shape, shape.geometry
        window = self.geometry.window
        x, w = shape.arrays
        self.x = _channel_major(device, x, dtype)
        self.w = device.normal(w, dtype)
        self.dy = _channel_major(device, (x[0], w[0], window.out_h, window.out_w), dtype)

    def forward(self, x: Any, w: Any) -> list[Any]:
        return [run_operator(self.device.backend, "conv2d", x, w, None, geometry=self.geometry)]

    def backward(self, dy: Any, x: Any, w: Any) -> list[Any]:
        results = run_operator(self.device.backend, "conv2d_backward", dy, x, w, True, False, geometry=self.geometry)
        return list(results[:2])

    def wide(self) -> tuple[Any, Any, Any]:
        """dy, x, w in float64."""
        return tuple(self.device.backend.astype(a, "float64") for a in (self.dy, self.x, self.w))  # type: ignore[return-value]


def _torch_functions(torch: Any, case: _Case, precision: str, layout: str) -> dict[str, Callable[[], Any]]:
    """Forward and backward of PyTorch on the same numbers."""
    xp = case.device.backend

    def moved(array: Any) -> Any:
        # through float32: not every version hands bfloat16 over
        tensor = torch.from_dlpack(xp.contiguous(xp.astype(array, "float32"))).clone()
        tensor = tensor.to(torch.bfloat16) if precision == "bf16" else tensor
        memory = torch.channels_last if layout == "channels last" else torch.contiguous_format
        return tensor.contiguous(memory_format=memory)

    dy, x, w = moved(case.dy), moved(case.x), moved(case.w)
    stride, padding = [case.shape.stride] * 2, [case.shape.kernel // 2] * 2
    mask = [True, True, False]

    def backward() -> Any:
        return torch.ops.aten.convolution_backward(dy, x, w, None, stride, padding, [1, 1], False, [0, 0], 1, mask)

    return {"forward": lambda: torch.nn.functional.conv2d(x, w, None, stride, padding), "backward": backward}


def _measured(device: Device, shape: Shape, precision: str) -> Row:
    dtype, matmul, tolerance = PRECISIONS[precision]
    torch = cuda_torch() if device.is_gpu else None
    found: Row = {}
    with use_backend(device.backend.name), xpconv.use_matmul_precision(matmul):
        case = _Case(device, shape, dtype)
        dy, x, w = case.wide()
        # the same numbers in float64, by the generic operator
        with use_kernels("generic"):
            want = case.forward(x, w) + case.backward(dy, x, w)
        got = case.forward(case.x, case.w) + case.backward(case.dy, case.x, case.w)
        found["difference"] = device.check(got, want, tolerance)
        del dy, x, w, want, got
        window = case.geometry.window
        operations = 2 * shape.batch * shape.filters * window.positions * shape.channels * window.taps
        for direction, count, call in (
            ("forward", 1, lambda k: case.forward(case.x, case.w)),
            ("backward", 2, lambda k: case.backward(case.dy, case.x, case.w)),
        ):
            seconds, recorded = device.seconds(call)
            found[direction] = {
                "xpconv_us": seconds * 1e6,
                "tflop_per_s": count * operations / seconds / 1e12,
                "in_graph": recorded,
            }
    if torch is None:
        return found
    for layout, benchmark in (("contiguous", False), ("channels last", True)):
        with precision_set(torch, precision, benchmark=benchmark):
            for direction, call in _torch_functions(torch, case, precision, layout).items():
                key = f"torch_{layout.replace(' ', '_')}_us"
                found[direction][key] = graph_seconds(torch, call) * 1e6
    for direction in ("forward", "backward"):
        times = [value for key, value in found[direction].items() if key.startswith("torch")]
        found[direction]["ratio"] = min(times) / found[direction]["xpconv_us"]
    return found


def run(options: Options, rows: Rows) -> None:
    """A row for each precision and shape; strict float32 first."""
    device = Device(options)
    for precision in ("fp32",) if options.tiny else PRECISIONS:
        for shape in _TINY if options.tiny else SHAPES:
            rows.attempt(
                options,
                lambda s=shape, p=precision: _measured(device, s, p),
                shape=str(shape),
                precision=precision,
            )
            device.release()


def lines(rows: list[Row]) -> list[str]:
    """For the table."""
    found = ["us, forward; backward; (ratio of the faster of PyTorch's two, above 1 where xpconv is faster)"]
    for row in rows:
        if "forward" in row:
            parts = [
                f"{times['xpconv_us']:.1f}" + (f" ({times['ratio']:.2f})" if "ratio" in times else "")
                for times in (row["forward"], row["backward"])
            ]
            found.append(f"{row['precision']} {row['shape']}: {'; '.join(parts)}")
    return found if len(found) > 1 else []
