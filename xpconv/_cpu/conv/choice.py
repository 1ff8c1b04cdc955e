"""Which engine takes a convolution, and why."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..._algorithm import get_conv_algorithm
from ..._geometry import ConvGeometry
from ..._precision import get_matmul_precision
from . import direct, im2col

__all__ = ["engine_for"]

# the engines of each algorithm, best first
_ENGINES: dict[str, tuple[Any, ...]] = {
    "auto": (direct, im2col),
    "winograd": (),
    "direct": (direct,),
    "im2col": (im2col,),
}


def engine_for(operation: str, dtype: str, geometry: ConvGeometry) -> Any:
    """The module that does ``operation``: "forward", "input_gradient" or "weight_gradient".

    Raises
    ------
    ValueError
        The algorithm that was set cannot do it.
    """
    return _engine_for(operation, dtype, geometry, get_conv_algorithm())


@lru_cache(maxsize=4096)
def _engine_for(operation: str, dtype: str, geometry: ConvGeometry, algorithm: str) -> Any:
    window = geometry.window
    if min(geometry.batch, geometry.in_channels, geometry.out_channels, window.height, window.width) == 0:
        return im2col  # the others do not look for what is not there
    reasons = []
    for engine in _ENGINES[algorithm]:
        reason = engine.possible(operation, dtype, geometry)
        if reason is None:
            return engine
        reasons.append(reason)
    why = "; ".join(dict.fromkeys(reasons))
    raise ValueError(
        f"conv algorithm {algorithm!r} (set_conv_algorithm, XPCONV_CONV) cannot do this convolution: {why}"
    )
