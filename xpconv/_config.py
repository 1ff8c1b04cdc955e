"""`show_config`: what is installed, what runs here and on what, and what to install for the rest."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ._algorithm import get_conv_algorithm
from ._geometry import conv_geometry, conv_window
from ._precision import get_matmul_precision
from ._text import printable, wrap
from ._workspace import get_workspace_mb
from .backends import (
    Backend,
    BackendUnavailableError,
    KernelUnavailableError,
    get_backend,
    get_kernels,
    load_backend,
    operators,
    registered_backends,
    serving,
)
from .backends.registry import loaded_backend, packages_of

__all__ = ["config_lines", "describe", "processor", "show_config"]

WIDTH = 100
_NARROW = 60  # columns: too few for two columns of text

# the distributions that our own backends need
_DISTRIBUTIONS = {
    "numpy": ("numpy",),
    "cupy": ("cupy", "cupy-cuda12x", "cupy-cuda13x"),
    "torch": ("torch",),
    "jax": ("jax",),
    "array_api_strict": ("array-api-strict",),
}

# too slow to import for a look: a user of one has imported it already
_LAZY = ("torch", "jax", "array_api_strict")

# instruction sets that matter to convolutions, as /proc/cpuinfo calls them
_CPU_FLAGS = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "asimd", "asimdhp", "asimddp", "sve", "sve2"),
)

# calls that engines are asked about: ordinary ones, and some that a special engine may leave to the next
_CONVOLUTIONS = tuple(
    conv_geometry(x, w, stride=stride, padding=1, dilation=dilation, groups=groups)
    for x, w, stride, dilation, groups in (
        ((32, 64, 56, 56), (64, 64, 3, 3), 1, 1, 1),
        ((32, 64, 56, 56), (64, 64, 1, 1), 1, 1, 1),
        ((32, 64, 56, 56), (64, 64, 7, 5), 2, 1, 1),
        ((32, 64, 56, 56), (64, 1, 3, 3), 1, 2, 64),
        ((1, 3, 8, 8), (4, 3, 3, 3), 1, 1, 1),
    )
)
_WINDOWS = tuple(conv_window((56, 56), kernel, stride, 1, 1) for kernel, stride in ((2, 2), (3, 1), (17, 1)))
_DTYPES = ("float32", "float64")


def show_config(file: TextIO | None = None) -> None:
    """Print versions, processor, settings, backends, extras, and which engine serves each operator.

    Libraries that are slow to import are started only if they are imported already; of the others only the version is
    told. Backends that cannot start say why.

    Parameters
    ----------
    file
        Where to; the standard output if None.
    """
    out = sys.stdout if file is None else file
    for line in config_lines(WIDTH):
        print(line, file=out)


def config_lines(width: int) -> Iterator[str]:
    """What `show_config` prints, for so many columns."""
    found = {name: _status(name) for name in registered_backends()}  # first: starting one may change what is told
    yield from _pairs(_environment(), width)
    yield ""
    yield "Backends"
    yield from _pairs([(name, f"{status:<13}{text}") for name, (status, text, _) in found.items()], width, hang=13)
    yield from _pairs([("GPU", _gpu())], width, indent=max(map(len, found)) + 4)
    yield ""
    yield "Extras"
    extras = _extras()
    yield from _pairs(
        [(name, _told(name, packages)) for name, packages in extras.items()] or [("", _NO_METADATA)], width
    )
    yield ""
    yield from wrap(f"Engine of each operator ({' / '.join(_DTYPES)} where they differ)", width)
    yield from _table([backend for _, _, backend in found.values() if backend is not None], width)


def describe() -> dict[str, Any]:
    """The same for programs: numbers, names and lists.

    Keys: ``xpconv``, ``python``, ``numpy``, ``processor`` and the settings, each a text; ``backends``, a list of name,
    status and text; ``gpu``; ``extras``, with the version of each package or None, and the command that installs
    them; ``operators``, the engine of each by backend and dtype.
    """
    found = {name: _status(name) for name in registered_backends()}
    ready = [backend for _, _, backend in found.values() if backend is not None]
    return {
        **{name.lower(): text for name, text in _environment()},
        "backends": [{"name": name, "status": status, "text": text} for name, (status, text, _) in found.items()],
        "gpu": _gpu(),
        "extras": {
            name: {"packages": packages, "complete": None not in packages.values(), "install": _install(name)}
            for name, packages in _extras().items()
        },
        "operators": {
            operator: {
                backend.name: {dtype: _engines(backend, operator, dtype) for dtype in _DTYPES} for backend in ready
            }
            for operator in operators()
        },
    }


def _pairs(rows: Sequence[tuple[str, str]], width: int, *, hang: int = 0, indent: int | None = None) -> Iterator[str]:
    """Two aligned columns, the second one wrapped."""
    indent = max(len(name) for name, _ in rows) + 4 if indent is None else indent
    for name, text in rows:
        head, text = f"  {name}".ljust(indent), printable(text)
        if width < _NARROW:
            yield from wrap(" ".join(text.split()), width, first=f"  {name} ", indent="    ")
        else:
            yield from wrap(text, width, first=head, indent=" " * (indent + hang))


# ---- what it runs on ----------------------------------------------------------------------------------------------


def _environment() -> list[tuple[str, str]]:
    from . import __version__

    return [
        ("xpconv", f"{__version__}, {Path(__file__).parent}"),
        ("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        ("NumPy", f"{np.__version__}{_blas()}"),
        ("processor", processor()),
        ("threads", _try(_threads)),
        ("workspace", f"{get_workspace_mb()} MiB (set_workspace_mb, XPCONV_WORKSPACE_MB)"),
        ("convolution", _try(lambda: f"{get_conv_algorithm()} (set_conv_algorithm, XPCONV_CONV)")),
        ("matmul", _try(lambda: f"{get_matmul_precision()} (set_matmul_precision, XPCONV_MATMUL_PRECISION)")),
        ("kernels", f"{get_kernels()} (backends.set_kernels, XPCONV_KERNELS)"),
        ("backend", _try(lambda: f"{get_backend().name} (set_backend, XPCONV_BACKEND)")),
    ]


def _try(tell: Callable[[], str]) -> str:
    """What ``tell`` returns; a setting from the environment that is wrong must not hide the rest."""
    try:
        return tell()
    except (ValueError, BackendUnavailableError) as error:
        return str(error)


def _threads() -> str:
    from ._threads import get_num_threads

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{get_num_threads()}, on {cpus} CPUs (set_num_threads, XPCONV_NUM_THREADS)"


def _blas() -> str:
    """Which BLAS NumPy was built with; its matrix products are most of a convolution."""
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index]
        return f", BLAS {blas['name']} {blas['version']}".rstrip()
    except Exception:  # whatever NumPy was built with, there is no more to tell then
        return ""


def processor() -> str:
    """Name and instruction sets of the CPU."""
    name, flags = "", set()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = set(value.split())
        if not line and flags:  # the others are the same
            break
    name = name or platform.processor() or platform.machine()
    known = [flag for flag in _CPU_FLAGS if flag in flags]
    return f"{name}: {' '.join(known)}" if known else name


# ---- backends -----------------------------------------------------------------------------------------------------


def _status(name: str) -> tuple[str, str, Backend | None]:
    """In a word whether the backend runs, what there is to say, and the backend if it runs."""
    backend = loaded_backend(name)
    if backend is None:
        imported = any(package in sys.modules for package in packages_of(name))
        if name not in _DISTRIBUTIONS and not imported:
            return "registered", "starts when it is first used", None
        version = _version(name)
        if name in _LAZY and version and not imported:
            return "installed", f"{version}; starts when it is first used", None
        try:
            backend = load_backend(name)
        except BackendUnavailableError as error:
            return "unavailable", " ".join(str(error).split()), None
    return "ready", backend.describe(), backend


def _version(name: str) -> str:
    """Name and version of the distribution that a backend of ours needs, if it is installed."""
    for distribution in _DISTRIBUTIONS.get(name, ()):
        try:
            return f"{distribution} {metadata.version(distribution)}"
        except metadata.PackageNotFoundError:
            continue
    return ""


# ---- what else there is to install ---------------------------------------------------------------------------------

_GPU_EXTRAS = {12: "cuda12", 13: "cuda13"}  # by version of CUDA
_OF_DEVELOPERS = ("test", "bench", "dev", "docs", "release")
_NO_METADATA = "unknown: xpconv runs without having been installed"
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+).*;.*\bextra *== *['\"]([A-Za-z0-9._-]+)['\"]")


def _install(extra: str) -> str:
    return f'pip install "xpconv[{extra}]"'


def _extras() -> dict[str, dict[str, str | None]]:
    """By extra, the installed version of each of its packages; without those of developers and of GPUs."""
    try:
        requirements = metadata.requires("xpconv") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, dict[str, str | None]] = {}
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match and match[2] not in (*_OF_DEVELOPERS, *_GPU_EXTRAS.values()):
            try:
                version = metadata.version(match[1])
            except metadata.PackageNotFoundError:
                version = None
            found.setdefault(match[2], {})[match[1]] = version
    return found


def _told(extra: str, packages: dict[str, str | None]) -> str:
    missing = [name for name, version in packages.items() if version is None]
    there = [f"{name} {version}" for name, version in packages.items() if version is not None]
    text = ", ".join(there)
    if missing:
        text += f"{'; ' if there else ''}missing {', '.join(missing)}: {_install(extra)}"
    return text


def _driver_version() -> int:
    """The version of CUDA that the NVIDIA driver supports, as 1000 * major + 10 * minor; 0 without a driver."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            library, version = ctypes.CDLL(name), ctypes.c_int(0)
            if library.cuDriverGetVersion(ctypes.byref(version)) == 0:
                return version.value
        except (OSError, AttributeError):
            continue
    return 0


def _gpu() -> str:
    """Which GPU is used, or what to install for one."""
    backend = loaded_backend("cupy")
    if backend is not None:
        return f"{backend.describe()}, by the backend cupy"
    version = _driver_version()
    newest, oldest = max(_GPU_EXTRAS), min(_GPU_EXTRAS)
    if not version:
        return (
            f"no NVIDIA driver here; with one: {_install(_GPU_EXTRAS[newest])} (or {_GPU_EXTRAS[oldest]} for a driver "
            f"of CUDA {oldest})"
        )
    major = version // 1000
    about = f"the NVIDIA driver supports CUDA {major}.{version % 1000 // 10}"
    if major < oldest:
        return f"{about}: install a newer one, for CUDA {newest}; then {_install(_GPU_EXTRAS[newest])}"
    return f"{about}: {_install(_GPU_EXTRAS[min(major, newest)])}"


# ---- operators ----------------------------------------------------------------------------------------------------


def _geometries(operator: str) -> Sequence[Any]:
    """What to ask engines of ``operator`` about."""
    if operator.startswith("conv"):
        return _CONVOLUTIONS
    if operator in ("im2col", "col2im") or operator.startswith(("max_pool", "avg_pool")):
        return _WINDOWS
    return (None,)


def _engines(backend: Backend, operator: str, dtype: str) -> str:
    """Names of the engines that serve one or the other call."""
    names: list[str] = []
    for geometry in _geometries(operator):
        try:
            name = serving(backend, operator, dtype, geometry).name
        except KernelUnavailableError:  # XPCONV_KERNELS=native
            name = "none"
        if name not in names:
            names.append(name)
    return ", ".join(names)


def _cells(backends: Sequence[Backend], operator: str) -> tuple[str, ...]:
    """The engines of an operator on each backend; where the dtypes differ, for each of them."""
    cells = []
    for backend in backends:
        names = [_engines(backend, operator, dtype) for dtype in _DTYPES]
        cells.append(names[0] if names[0] == names[1] else " / ".join(names))
    return tuple(cells)


def _table(backends: Sequence[Backend], width: int) -> Iterator[str]:
    """One row an operator, one column a backend; operator and backward share a row where they are served alike."""
    cells = {operator: _cells(backends, operator) for operator in operators()}
    rows = []
    for operator, row in cells.items():
        forward, backward = operator.removesuffix("_backward"), f"{operator}_backward"
        if forward != operator and cells.get(forward) == row:
            continue
        rows.append((f"{operator}, _backward" if cells.get(backward) == row else operator, *row))
    rows.insert(0, ("", *(backend.name for backend in backends)))
    widths = [max(len(row[k]) for row in rows) + 2 for k in range(len(rows[0]))]
    if widths[0] + max(widths[1:], default=0) > width:  # not a column fits
        for operator, *engines in rows[1:]:
            for backend, names in zip(backends, engines, strict=True):
                yield from wrap(f"{backend.name}: {names}", width, first=f"  {operator} ", indent="    ")
        return
    first = 1
    while first < len(widths):  # as many columns at a time as there is room for
        last = first + 1
        while last < len(widths) and widths[0] + sum(widths[first : last + 1]) + 2 <= width:
            last += 1
        for row in rows:
            parts = (row[0].ljust(widths[0]), *(row[k].ljust(widths[k]) for k in range(first, last)))
            yield ("  " + "".join(parts)).rstrip()
        if last < len(widths):
            yield ""
        first = last
