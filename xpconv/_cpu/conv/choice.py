"""Which engine takes a convolution, and why.

Every engine says what it can do (`possible`) and counts what that takes (`features`: multiplications, numbers that are
packed or transformed, and so on). A table of seconds for each such count, measured once (``tools/fit_conv_costs.py``),
turns the counts into an estimate, and the lowest estimate wins. Nothing is timed when a program runs, so the same
shapes always get the same engine.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

from ..._algorithm import setting as algorithm_setting
from ..._geometry import ConvGeometry
from ..._precision import setting as precision_setting
from .. import _kernels
from . import blocked, dense, depthwise, direct, im2col, winograd
from ._costs import COSTS

__all__ = ["OPERATIONS", "Candidate", "candidates", "engine_for"]

OPERATIONS = ("forward", "input_gradient", "weight_gradient")

# the engines of each algorithm; where the table of costs lacks one, the first that can do it is taken
_ENGINES: dict[str, tuple[ModuleType, ...]] = {
    "auto": (dense, winograd, direct, depthwise, blocked, im2col),
    "winograd": (winograd,),
    "direct": (dense, direct, depthwise, blocked),
    "im2col": (im2col,),
}
_WINOGRAD: tuple[ModuleType, ...] = (winograd,)

_LEAST_CHANNELS = 8  # with fewer, Winograd's algorithm was the fastest in no case measured

_VECTOR_BYTES = {None: 16, "baseline": 16, "avx2": 32, "avx512": 64}
_ITEMSIZE = {"float32": 4, "float64": 8}
_MEASURED = "avx512"  # the instruction set that the table always has


class Candidate(NamedTuple):
    """An engine, and what is known about it for one convolution.

    Attributes
    ----------
    engine
        The module.
    seconds
        The estimate for one thread; None where there is none.
    reason
        Why it is out of the question; None where it is not.
    """

    engine: ModuleType
    seconds: float | None
    reason: str | None

    @property
    def name(self) -> str:
        return self.engine.__name__.rpartition(".")[2]


def engine_for(operation: str, dtype: str, geometry: ConvGeometry) -> ModuleType:
    """The module that does ``operation``, one of `OPERATIONS`.

    Raises
    ------
    ValueError
        The algorithm that was set cannot do it; says why.
    """
    return _engine_for(
        operation, dtype, geometry, algorithm_setting.get(), precision_setting.get(), _kernels.instruction_set()
    )


def candidates(operation: str, dtype: str, geometry: ConvGeometry) -> list[Candidate]:
    """What there is to choose from with the settings of now, the engine that is taken first."""
    settings = algorithm_setting.get(), precision_setting.get(), _kernels.instruction_set()
    return _candidates(operation, dtype, geometry, *settings)


@lru_cache(maxsize=4096)
def _engine_for(
    operation: str, dtype: str, geometry: ConvGeometry, algorithm: str, precision: str, isa: str | None
) -> ModuleType:
    window = geometry.window
    if min(geometry.batch, window.height, window.width) == 0:
        return im2col  # the others do not look for what is not there
    found = _candidates(operation, dtype, geometry, algorithm, precision, isa)
    if found[0].reason is None:
        return found[0].engine
    why = "; ".join(dict.fromkeys(f"{candidate.name}: {candidate.reason}" for candidate in found))
    raise ValueError(
        f"conv algorithm {algorithm!r} (set_conv_algorithm, XPCONV_CONV) cannot do the {operation} here: {why}"
    )


def _candidates(
    operation: str, dtype: str, geometry: ConvGeometry, algorithm: str, precision: str, isa: str | None
) -> list[Candidate]:
    found = []
    for engine in _ENGINES[algorithm]:
        reason = engine.possible(operation, dtype, geometry)
        if reason is None and engine in _WINOGRAD and precision == "highest":
            reason = "matmul precision 'highest' rules it out"
        few = min(geometry.in_channels, geometry.out_channels) < _LEAST_CHANNELS
        if reason is None and engine in _WINOGRAD and algorithm == "auto" and few:
            reason = f"pays from {_LEAST_CHANNELS} channels and filters on"
        seconds = None if reason else _seconds(engine, operation, dtype, geometry, isa)
        found.append(Candidate(engine, seconds, reason))
    # Sorting is stable: engines without an estimate stay in their order, behind those that have one. With a group for
    # each channel the depthwise engine was several times as fast as the others in every case measured, and so was the
    # dense engine for results of one pixel.
    grouped = geometry.groups > 1
    return sorted(
        found,
        key=lambda c: (
            c.reason is not None,
            c.engine is not dense,
            grouped and c.engine is not depthwise,
            c.seconds is None,
            c.seconds or 0.0,
        ),
    )


def _seconds(engine: ModuleType, operation: str, dtype: str, geometry: ConvGeometry, isa: str | None) -> float | None:
    name = engine.__name__.rpartition(".")[2]
    # costs that were measured with other instructions put the engines into about the same order
    costs = COSTS.get((isa or "baseline", dtype, operation, name)) or COSTS.get((_MEASURED, dtype, operation, name))
    if costs is None:
        return None
    counts = engine.features(operation, geometry, _VECTOR_BYTES[isa] // _ITEMSIZE[dtype])
    return sum(cost * count for cost, count in zip(costs, counts, strict=True)) * 1e-9
