"""The card, its driver, and the versions of everything."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import xpconv
from xpconv.backends import load_backend

from ..timing import environment
from .section import Options, Row, Rows

SECONDS = 15
NEEDS_GPU = False

_CARD = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,temperature.gpu,clocks.sm,utilization.gpu"


def _card(bus: str | None) -> dict[str, str]:
    """What nvidia-smi tells of the card at a PCI address, or of the first one; empty without it."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={_CARD}", "--format=csv,noheader"]
    if bus is not None:  # it numbers cards otherwise than CUDA, which leaves out those that are not visible
        command.append(f"--id={bus}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    first = done.stdout.splitlines()[:1]
    return dict(zip(_CARD.split(","), (part.strip() for part in first[0].split(",")), strict=True)) if first else {}


def _packages() -> dict[str, str]:
    found = {}
    for package in ("cupy-cuda13x", "cupy-cuda12x", "array-api-compat", "ml_dtypes"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def run(options: Options, rows: Rows) -> None:
    """One row."""
    about: dict[str, Any] = environment("tiny" if options.tiny else "full")
    about |= {"backend": load_backend(options.backend).describe(), "packages": _packages()}
    if not options.is_gpu:
        about["card"] = _card(None)
    else:
        import cupy

        device = cupy.cuda.Device(load_backend(options.backend).number)
        runtime = cupy.cuda.runtime
        about |= {
            "card": _card(device.pci_bus_id),
            "cuda_runtime": runtime.runtimeGetVersion(),
            "cuda_driver": runtime.driverGetVersion(),
            "compute_capability": device.compute_capability,
            "multiprocessors": device.attributes["MultiProcessorCount"],
            "l2_bytes": device.attributes["L2CacheSize"],
            "memory_bytes": device.mem_info[1],
        }
        with contextlib.suppress(Exception):  # no public name of CuPy's
            from cupy_backends.cuda.libs import nvrtc

            about["nvrtc"] = list(nvrtc.getVersion())
        if importlib.util.find_spec("torch") is not None:
            import torch

            about |= {"torch_cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    rows.add(**about, kernels=xpconv.backends.get_kernels())


def lines(rows: list[Row]) -> list[str]:
    """For the table."""
    found = []
    for row in rows:
        found.append(f"{row['backend']}; xpconv {row['xpconv']}, numpy {row['numpy']}, torch {row['torch']}")
        if row["card"]:
            found.append(f"driver {row['card']['driver_version']}, {row['card']['memory.total']}")
    return found
