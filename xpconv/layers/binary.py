"""Convolution with binarised weights."""

from __future__ import annotations

import math

import numpy as np

from .. import functional
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
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, rng, dtype
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
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, rng=rng, dtype=dtype
        )
        if clip is not None:
            if isinstance(clip, bool) or not isinstance(clip, (int, float, np.integer, np.floating)):
                raise TypeError(f"clip: expected a positive number or None, got {clip!r}")
            if not 0 < clip < math.inf:
                raise ValueError(f"clip: must be positive and finite, got {clip}")
            clip = float(clip)
        self.clip = clip

    def binarized_weight(self) -> Array:
        """The filters that images are convolved with, (F, C / groups, kh, kw)."""
        weight = self.weight.data
        backend = backend_of(weight=weight)
        xp = backend.xp
        with backend.running():
            wide = backend.astype(weight, backend.accumulator(weight))
            magnitude = xp.mean(xp.abs(wide), axis=(1, 2, 3), keepdims=True)
            return backend.astype(xp.where(wide >= 0, magnitude, -magnitude), weight.dtype)

    def forward(self, x: Array) -> Array:
        """(N, C, H, W) to (N, F, out_h, out_w)."""
        y, cache = functional.conv2d(
            x,
            self.binarized_weight(),
            None if self.bias is None else self.bias.data,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array | None:
        """Gradient to the input, or None with ``need_dx = False``; adds to the gradients of the parameters."""
        dx, dw, db = functional.conv2d_backward(dy, self.pop(), need_dx=self.need_dx)
        if self.clip is not None:
            weight = self.weight.data
            backend = backend_of(weight=weight)
            with backend.running():
                dw = backend.keep(backend.xp.abs(weight) <= self.clip, dw)
        self.weight.accumulate_grad(dw)
        if self.bias is not None:
            self.bias.accumulate_grad(db)
        return dx

    def extra_repr(self) -> str:
        """As `Conv2d`, and the bound where it is not 1."""
        return super().extra_repr() + ("" if self.clip == 1.0 else f", clip={self.clip}")
