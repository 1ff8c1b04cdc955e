"""Convolution with binarised weights."""

from __future__ import annotations

import numpy as np

from .._checks import check_number
from .._geometry import IntOrPair, Padding
from ..backends import backend_of
from ..backends.protocol import Array
from .conv import Conv2d

__all__ = ["BinaryConv2d"]


class BinaryConv2d(Conv2d):
    """Convolution whose filters have one magnitude each: ``sign(w) * mean(abs(w))``.

    The real weights are kept and trained; every forward pass binarises them anew (Rastegari et al., *XNOR-Net*, 2016,
    section 3.1; zeros count as positive). Rounding has no useful derivative, so backward passes the gradient of the
    binarised weight straight through to the real one (Bengio, Léonard, Courville, *Estimating or Propagating
    Gradients Through Stochastic Neurons*, 2013), except where the real weight lies outside [-clip, clip] (Courbariaux
    et al., *Binarized Neural Networks*, 2016): such a weight would only run away.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, rng, dtype, layout
        As for `Conv2d`.
    clip : float or None
        Bound of real weights that take a gradient, positive; None for no bound.

    Raises
    ------
    TypeError, ValueError
        As `Conv2d`; or a clip that is not a positive number.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: Padding = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        clip: float | None = 1.0,
        rng: np.random.Generator | int | None = None,
        dtype: str = "float32",
        layout: str = "NCHW",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            rng=rng,
            dtype=dtype,
            layout=layout,
        )
        self.clip = None if clip is None else check_number("clip", clip, 0, above=True)

    def filters(self) -> Array:
        """The binarised weight, (F, C / groups, kh, kw)."""
        weight = self.weight.data
        backend = backend_of(weight=weight)
        xp = backend.xp
        with backend.running():
            wide = backend.astype(weight, backend.accumulator(weight))
            magnitude = xp.mean(xp.abs(wide), axis=(1, 2, 3), keepdims=True)
            return backend.astype(xp.where(wide >= 0, magnitude, -magnitude), weight.dtype)

    def weight_gradient(self, dw: Array) -> Array:
        """The gradient to the filters, straight through; 0 for a weight beyond the bound."""
        if self.clip is None:
            return dw
        weight = self.weight.data
        backend = backend_of(weight=weight)
        with backend.running():
            return backend.keep(backend.xp.abs(weight) <= self.clip, dw)

    def extra_repr(self) -> str:
        """As `Conv2d`, and the bound where it is not 1."""
        return super().extra_repr() + ("" if self.clip == 1.0 else f", clip={self.clip}")
