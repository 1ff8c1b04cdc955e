"""What the card can do: copying memory, and multiplying matrices, launched one by one and in a recorded graph."""

from __future__ import annotations

from xpconv.backends import to_numpy, use_backend

from .device import Device
from .section import Options, Row, Rows

SECONDS = 35
NEEDS_GPU = False

# name -> dtype, precision of matrix products, error taken: float32 far below, 10 and 7 bits of mantissa around
PRECISIONS = {
    "fp32": ("float32", "highest", 1e-4),
    "tf32": ("float32", "tf32", 3e-3),
    "bf16": ("bfloat16", "highest", 2e-2),
}


def run(options: Options, rows: Rows) -> None:
    """A row for the copy, and one for each precision of a matrix product."""
    import xpconv

    device = Device(options)
    rows.attempt(options, lambda: {"gb_per_s": device.copy_rate() / 1e9}, ceiling="copy")
    size = 48 if options.tiny else 8192

    def product(dtype: str, precision: str, tolerance: float) -> Row:
        with use_backend(options.backend), xpconv.use_matmul_precision(precision):
            a, b = device.normal((size, size), dtype), device.normal((size, size), dtype)
            c = device.backend.gemm(a, b)
            # against float64 on the host, some rows
            some = slice(0, 16)
            want = to_numpy(device.backend.astype(a[some, :], "float64")) @ to_numpy(
                device.backend.astype(b, "float64")
            )
            error = device.check([c[some, :]], [device.backend.asarray(want)], tolerance)

            def gemm(k: int) -> object:
                return device.backend.gemm(a, b)

            seconds, recorded = device.seconds(gemm)
            eager = device._elapsed(lambda: gemm(0), 1 if options.tiny else 5)
            rate = 2 * size**3 / 1e12
            return {
                "tflop_per_s": rate / (seconds if recorded else eager),
                "tflop_per_s_eager": rate / eager,
                "in_graph": recorded,
                "difference": error,
            }

    for name, (dtype, precision, tolerance) in PRECISIONS.items():
        if options.tiny and name == "bf16":  # NumPy, which plays the device, has no bfloat16 of its own
            continue
        rows.attempt(
            options,
            lambda d=dtype, p=precision, t=tolerance: product(d, p, t),
            ceiling=f"matrix product {name}",
            size=size,
        )


def lines(rows: list[Row]) -> list[str]:
    """For the table."""
    found = []
    for row in rows:
        if "gb_per_s" in row:
            found.append(f"copy {row['gb_per_s']:.4g} GB/s")
        elif "tflop_per_s" in row:
            graph = "in a graph" if row["in_graph"] else "NOT in a graph"
            found.append(
                f"{row['ceiling']} {row['tflop_per_s']:.3g} TFLOP/s {graph}, {row['tflop_per_s_eager']:.3g} eager"
            )
    return found
