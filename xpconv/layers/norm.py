"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import add
from typing import Any

import numpy as np

from .. import functional
from .._checks import check_integer, check_number
from .._geometry import check_layout
from ..backends import backend_of, compute, get_backend
from ..backends.protocol import Array
from ..distributed.batch_norm import SyncBatchNormCache, sync_batch_norm, sync_batch_norm_backward
from ..distributed.communicator import Communicator
from ..functional._arguments import check_shape
from ..functional.norm import BatchNormReluCache
from ._fusion import runs_as
from ._initial import constant
from .base import Layer, Parameter

__all__ = ["BatchNorm1d", "BatchNorm2d", "GroupNorm", "InstanceNorm2d", "LayerNorm"]


def _accumulate(parameter: Parameter | None, gradient: Array | None) -> None:
    if parameter is not None:
        parameter.accumulate_grad(gradient)


def _check_channels(x: Array, channels: int, layout: str = "NCHW") -> None:
    """Raise unless x is (N, channels, ...), also for a layer without weights, which functional would not miss."""
    if len(x.shape) < 2 or x.shape[layout.index("C")] != channels:
        axes = "(N, C, ...)" if layout == "NCHW" else "(N, H, W, C)"
        raise ValueError(f"x: expected {channels} channels {axes}, got shape {tuple(x.shape)}")


class _BatchNorm(Layer):
    """What `BatchNorm1d` and `BatchNorm2d` share."""

    weight: Parameter | None
    bias: Parameter | None
    running_mean: Array | None
    running_var: Array | None
    num_batches_tracked: Array | None
    _ranks: tuple[int, ...]
    _axes: str
    layout = "NCHW"
    comm: Communicator | None = None  # while set, a batch is what all of its ranks have together

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: str = "float32",
    ) -> None:
        self.num_features = check_integer("num_features", num_features, 1)
        self.eps = check_number("eps", eps, 0)
        self.momentum = None if momentum is None else check_number("momentum", momentum, 0, 1)
        self.affine = bool(affine)
        self.track_running_stats = bool(track_running_stats)
        shape = (self.num_features,)
        self.weight = constant(shape, 1.0, dtype) if affine else None
        self.bias = constant(shape, 0.0, dtype) if affine else None
        backend, track = get_backend(), self.track_running_stats
        self.register_buffer("running_mean", backend.zeros(shape, dtype) if track else None)
        self.register_buffer("running_var", backend.full(shape, 1.0, dtype) if track else None)
        # int64, as in PyTorch; JAX makes int32 of it
        self.register_buffer("num_batches_tracked", backend.asarray(np.array(0, np.int64)) if track else None)

    def forward(self, x: Array) -> Array:
        """Normalise every channel, by the batch in training, by the running statistics in evaluation."""
        return self._forward(functional.batch_norm, x)

    def _forward(self, operator: Callable[..., Any], x: Array, **more: Any) -> Array:
        """The result of ``operator``, `functional.batch_norm` or one of its signature and ``more``."""
        if len(x.shape) not in self._ranks:
            raise ValueError(
                f"x: expected {' or '.join(map(str, self._ranks))} dimensions {self._axes}, got shape {tuple(x.shape)}"
            )
        _check_channels(x, self.num_features, self.layout)
        update = self.training and self.num_batches_tracked is not None
        count: Array = compute(backend_of(x=x), "BatchNorm", add, self.num_batches_tracked, 1) if update else None
        momentum = 0.0 if self.momentum is None else self.momentum
        if update and self.momentum is None:
            momentum = 1.0 / int(count)  # the plain average of all batches
        if self.training and self.comm is not None:
            operator, training = partial(sync_batch_norm, self.comm, operator), {}
        else:
            training = {"training": self.training or not self.track_running_stats}
        y, cache = operator(
            x[:, :, None, :] if len(x.shape) == 3 else x,
            None if self.weight is None else self.weight.data,
            None if self.bias is None else self.bias.data,
            self.running_mean,
            self.running_var,
            momentum=momentum,
            eps=self.eps,
            layout=self.layout,
            **training,
            **more,
        )
        if update:
            # the sum of a 0-dimensional NumPy array is a scalar, hence asarray
            self.num_batches_tracked = backend_of(x=x).asarray(count)
            self.running_mean, self.running_var = cache.running_mean, cache.running_var
        self.push(cache)
        return y[:, :, 0, :] if len(x.shape) == 3 else y

    def backward(self, dy: Array) -> Array:
        """Gradient to the input; adds to the gradients of the parameters."""
        cache = self.pop()
        signals = len(dy.shape) == 3
        if isinstance(cache, SyncBatchNormCache):
            dx = self._gradients_relu(dy[:, :, None, :] if signals else dy, cache)[0]
            return dx[:, :, 0, :] if signals else dx
        if isinstance(cache, BatchNormReluCache):  # a Sequential has put the ReLU behind this layer into it
            return self._gradients_relu(dy, cache)[0]
        dx, dweight, dbias = functional.batch_norm_backward(dy[:, :, None, :] if signals else dy, cache)
        _accumulate(self.weight, dweight)
        _accumulate(self.bias, dbias)
        return dx[:, :, 0, :] if signals else dx

    def _forward_relu(self, x: Array) -> Array | None:
        # signals (N, C, L) are images for the operator, whose result is not the one that the ReLU would keep
        if not self._is_plain() or len(x.shape) == 3:
            return None
        return self._forward(functional.batch_norm_relu, x)

    def _is_plain(self) -> bool:
        """Whether it does nothing but normalise, in the way of its class."""
        return self.comm is None and runs_as(self, type(self)) and type(self) in (BatchNorm1d, BatchNorm2d)

    def _has_relu(self, y: Array) -> bool:
        cache = self._stack[-1] if self._stack else None
        return isinstance(cache, BatchNormReluCache) and cache.y is y

    def _backward_relu(self, dy: Array) -> Array:
        return self.backward(dy)

    def _gradients_relu(self, dy: Array, cache: BatchNormReluCache | SyncBatchNormCache) -> tuple[Array, Array | None]:
        """Gradients to the input and to the residual, None where there was none, from that behind the ReLU."""
        if isinstance(cache, SyncBatchNormCache):
            dx, dweight, dbias, dresidual = sync_batch_norm_backward(dy, cache)
        else:
            dx, dweight, dbias, dresidual = functional.batch_norm_relu_backward(dy, cache)
        _accumulate(self.weight, dweight)
        _accumulate(self.bias, dbias)
        return dx, dresidual

    def __getstate__(self) -> dict[str, Any]:
        """Everything but ``comm``: a copy, such as a callback may take, belongs to no run."""
        return {name: value for name, value in self.__dict__.items() if name != "comm"}

    def extra_repr(self) -> str:
        """As PyTorch."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """Batch normalisation (Ioffe, Szegedy 2015, arXiv:1502.03167) of (N, C) or (N, C, L).

    Parameters
    ----------
    num_features : int
        C.
    eps : float
        Added to the variance.
    momentum : float or None
        Weight of the newest batch in the running statistics; None averages over all batches, which waits for the device
        in every step.
    affine : bool
        Whether to scale and shift the result by trained numbers.
    track_running_stats : bool
        Whether evaluation uses running statistics; if not, it uses those of its batch.
    dtype : str
        Of parameters and statistics, and so of the input.

    Attributes
    ----------
    weight, bias : Parameter (C,) or None
    running_mean, running_var : array (C,) or None
        Buffers; the variance is the unbiased one.
    num_batches_tracked : integer array () or None
        Buffer.
    """

    _ranks, _axes = (2, 3), "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    """Batch normalisation (Ioffe, Szegedy 2015, arXiv:1502.03167) of images (N, C, H, W), or channels last.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, dtype
        As for `BatchNorm1d`, as are the attributes.
    activation : str, optional
        ``"relu"`` makes the layer ``relu(batch_norm(x) + residual)`` in one pass over the memory, where there is a
        kernel for it: see `functional.batch_norm_relu`.
    layout : str
        Order of the axes of the images, "NCHW" or "NHWC".

    Raises
    ------
    TypeError, ValueError
        A count that is no positive integer, eps or momentum that are no numbers or out of range, an unknown dtype,
        layout or activation.

    Examples
    --------
    The end of a residual block::

        y = self.bn2(self.conv2(y), x)
        ...
        dy, straight = self.bn2.backward(dy)
    """

    _ranks, _axes = (4,), "(N, C, H, W)"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        activation: str | None = None,
        dtype: str = "float32",
        layout: str = "NCHW",
    ) -> None:
        if activation not in (None, "relu"):
            raise ValueError(f"activation: expected None or 'relu', got {activation!r}")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype=dtype)
        self.activation = activation
        self.layout = check_layout("layout", layout, ("NCHW", "NHWC"))

    def forward(self, x: Array, residual: Array | None = None) -> Array:
        """Normalise every channel, by the batch in training, by the running statistics in evaluation.

        Parameters
        ----------
        x : array (N, C, H, W), or (N, H, W, C) in the other layout
        residual : array like x, optional
            Added before the activation; `backward` then gives its gradient too. Only with ``activation="relu"``.

        Returns
        -------
        array like x

        Raises
        ------
        ValueError
            x does not have four axes, or not as many channels; a residual without ``activation="relu"``, or of another
            shape.
        """
        if self.activation is None:
            if residual is not None:
                raise ValueError("residual: only a layer with activation='relu' adds one, this has activation=None")
            return super().forward(x)
        return self._forward(functional.batch_norm_relu, x, residual=residual)

    def _is_plain(self) -> bool:
        return self.activation is None and super()._is_plain()

    def __call__(self, x: Array, residual: Array | None = None) -> Array:
        """``forward(x, residual)``."""
        return self.forward(x, residual)

    def backward(self, dy: Array) -> Any:
        """Gradient to the input, and where the forward had a residual a pair of it and the residual's gradient.

        Adds to the gradients of the parameters.
        """
        if self.activation is None:
            return super().backward(dy)
        cache = self.pop()
        dx, dresidual = self._gradients_relu(dy, cache)
        return (dx, dresidual) if cache.has_residual else dx

    def extra_repr(self) -> str:
        """As PyTorch, and what it does not have."""
        more = f", activation={self.activation!r}" if self.activation else ""
        return super().extra_repr() + more + (f", layout={self.layout!r}" if self.layout != "NCHW" else "")


class LayerNorm(Layer):
    """Layer normalisation (Ba, Kiros, Hinton 2016, arXiv:1607.06450): of each sample, over the last axes.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        Lengths of the axes that are normalised together, the last ones of the input.
    eps : float
        Added to the variance.
    elementwise_affine : bool
        Whether to scale and shift the result by trained numbers.
    bias : bool
        Whether to shift, if elementwise_affine.
    dtype : str
        Of the parameters, and so of the input.

    Attributes
    ----------
    weight, bias : Parameter (normalized_shape) or None

    Raises
    ------
    TypeError, ValueError
        Lengths that are no positive integers, an eps that is no number or negative, an unknown dtype.
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: str = "float32",
    ) -> None:
        lengths = normalized_shape if isinstance(normalized_shape, (list, tuple)) else (normalized_shape,)
        self.normalized_shape = tuple(check_integer("normalized_shape", n, 1) for n in lengths)
        if not self.normalized_shape:
            raise ValueError("normalized_shape: expected at least one length, got ()")
        self.eps = check_number("eps", eps, 0)
        self.elementwise_affine = bool(elementwise_affine)
        self.weight = constant(self.normalized_shape, 1.0, dtype) if elementwise_affine else None
        self.bias = constant(self.normalized_shape, 0.0, dtype) if elementwise_affine and bias else None

    def forward(self, x: Array) -> Array:
        """(..., normalized_shape) to the same shape."""
        y, cache = functional.layer_norm(
            x,
            None if self.weight is None else self.weight.data,
            None if self.bias is None else self.bias.data,
            normalized_shape=self.normalized_shape,
            eps=self.eps,
        )
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array:
        """Gradient to the input; adds to the gradients of the parameters."""
        dx, dweight, dbias = functional.layer_norm_backward(dy, self.pop())
        _accumulate(self.weight, dweight)
        _accumulate(self.bias, dbias)
        return dx

    def extra_repr(self) -> str:
        """As PyTorch."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Layer):
    """Group normalisation (Wu, He 2018, arXiv:1803.08494): of groups of channels of each sample.

    Parameters
    ----------
    num_groups, num_channels : int
        The first divides the second, which is C.
    eps : float
        Added to the variance.
    affine : bool
        Whether to scale and shift each channel of the result by trained numbers.
    dtype : str
        Of the parameters, and so of the input.

    Attributes
    ----------
    weight, bias : Parameter (C,) or None

    Raises
    ------
    TypeError, ValueError
        Counts that are no positive integers or of which the first does not divide the second, an eps that is no number
        or negative, an unknown dtype.
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, dtype: str = "float32"
    ) -> None:
        self.num_groups = check_integer("num_groups", num_groups, 1)
        self.num_channels = check_integer("num_channels", num_channels, 1)
        if self.num_channels % self.num_groups:
            raise ValueError(f"num_groups: {num_groups} must divide num_channels, got {num_channels}")
        self.eps = check_number("eps", eps, 0)
        self.affine = bool(affine)
        self.weight = constant((self.num_channels,), 1.0, dtype) if affine else None
        self.bias = constant((self.num_channels,), 0.0, dtype) if affine else None

    def forward(self, x: Array) -> Array:
        """(N, C, ...) to the same shape.

        Raises
        ------
        ValueError
            x does not have as many channels.
        """
        _check_channels(x, self.num_channels)
        y, cache = functional.group_norm(
            x,
            self.num_groups,
            None if self.weight is None else self.weight.data,
            None if self.bias is None else self.bias.data,
            eps=self.eps,
        )
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array:
        """Gradient to the input; adds to the gradients of the parameters."""
        dx, dweight, dbias = functional.group_norm_backward(dy, self.pop())
        _accumulate(self.weight, dweight)
        _accumulate(self.bias, dbias)
        return dx

    def extra_repr(self) -> str:
        """As PyTorch."""
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class InstanceNorm2d(Layer):
    """Instance normalisation (Ulyanov, Vedaldi, Lempitsky 2016, arXiv:1607.08022): of each channel of each image.

    Parameters
    ----------
    num_features : int
        C of the images (N, C, H, W).
    eps : float
        Added to the variance.
    affine : bool
        Whether to scale and shift each channel of the result by trained numbers.
    dtype : str
        Of the parameters, and so of the input.

    Attributes
    ----------
    weight, bias : Parameter (C,) or None

    Raises
    ------
    TypeError, ValueError
        A count that is no positive integer, an eps that is no number or negative, an unknown dtype.
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(self, num_features: int, eps: float = 1e-5, *, affine: bool = False, dtype: str = "float32") -> None:
        self.num_features = check_integer("num_features", num_features, 1)
        self.eps = check_number("eps", eps, 0)
        self.affine = bool(affine)
        self.weight = constant((self.num_features,), 1.0, dtype) if affine else None
        self.bias = constant((self.num_features,), 0.0, dtype) if affine else None

    def forward(self, x: Array) -> Array:
        """(N, C, H, W) to the same shape.

        Raises
        ------
        TypeError, ValueError
            x does not have four axes, or not as many channels.
        """
        check_shape("x", x, (None, self.num_features, None, None), "(N, C, H, W)")
        y, cache = functional.instance_norm(
            x,
            None if self.weight is None else self.weight.data,
            None if self.bias is None else self.bias.data,
            eps=self.eps,
        )
        self.push(cache)
        return y

    def backward(self, dy: Array) -> Array:
        """Gradient to the input; adds to the gradients of the parameters."""
        dx, dweight, dbias = functional.instance_norm_backward(dy, self.pop())
        _accumulate(self.weight, dweight)
        _accumulate(self.bias, dbias)
        return dx

    def extra_repr(self) -> str:
        """As PyTorch."""
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}"
