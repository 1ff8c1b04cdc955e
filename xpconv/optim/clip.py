"""Gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .._checks import is_number
from ..backends import Backend, backend_of, run, to_numpy
from ..backends.protocol import Array
from ..layers import Parameter

__all__ = ["check_norm", "clip_grad_norm"]


def check_norm(norm: float) -> None:
    """Raise FloatingPointError for a norm of gradients that is not finite.

    Parameters
    ----------
    norm : float, or array without axes
        What `clip_grad_norm` has returned.

    Raises
    ------
    FloatingPointError
        It is infinite or not a number.
    """
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"the norm of the gradients is {norm}: the loss has diverged, or is not finite itself; "
            "a lower learning rate may help"
        )


def clip_grad_norm(
    params: Iterable[Parameter] | Parameter, max_norm: float, *, error_if_nonfinite: bool = True
) -> float | Array:
    """Scale all gradients together so that their common norm is at most ``max_norm`` (Pascanu et al. 2013).

    As `torch.nn.utils.clip_grad_norm_`: if the Euclidean norm of all gradients taken as one vector is larger than
    max_norm, each is replaced by itself times ``max_norm / (norm + 1e-6)``.

    Parameters
    ----------
    params : iterable of Parameter, or one
        Those without a gradient are skipped.
    max_norm : float
        Above 0.
    error_if_nonfinite : bool
        Whether a norm that is infinite or not a number is an error. If not, it is returned and the gradients are left
        as they are: the step should then be skipped.

    Returns
    -------
    float, or array without axes
        The norm before clipping; 0.0 without any gradient. Where all gradients are on one device that is not the host
        it is an array there, float64 for gradients of float64, else float32: nothing waits for the device, and a norm
        that is not finite raises nothing here; `check_norm` does when it is read.

    Raises
    ------
    TypeError, ValueError
        max_norm is not a number, or not above 0.
    FloatingPointError
        The norm is not finite.
    """
    if not is_number(max_norm):
        raise TypeError(f"max_norm: must be a number above 0, got {max_norm!r}")
    max_norm = float(max_norm)
    if not max_norm > 0:
        raise ValueError(f"max_norm: must be above 0, got {max_norm!r}")
    if isinstance(params, Parameter):
        params = [params]
    parts: dict[tuple[str, str], tuple[Backend, list[Parameter]]] = {}  # of one backend and dtype each
    for parameter in params:
        if parameter.grad is not None:
            backend = backend_of(grad=parameter.grad)
            key = (backend.name, backend.dtype_name(parameter.grad))
            parts.setdefault(key, (backend, []))[1].append(parameter)
    squares = [run(backend, "squared_norm", _grads(some)) for backend, some in parts.values()]
    backends = {name: backend for (name, _), (backend, _) in parts.items()}
    if len(backends) == 1:
        (backend,) = backends.values()
        if not backend.on_host:
            return _clip_on_device(backend, [some for _, some in parts.values()], squares, max_norm)
    norm = math.sqrt(sum(float(to_numpy(square)) for square in squares))
    if not math.isfinite(norm):
        if error_if_nonfinite:
            check_norm(norm)
        return norm
    scale = max_norm / (norm + 1e-6)
    if scale < 1:
        for backend, some in parts.values():
            with backend.running():
                for parameter in some:
                    # asarray, since NumPy makes a scalar of an array without axes
                    parameter.grad = backend.asarray(parameter.grad * scale)  # type: ignore[operator]
    return norm


def _grads(parameters: list[Parameter]) -> list[Array | None]:
    return [parameter.grad for parameter in parameters]


def _clip_on_device(backend: Backend, parts: list[list[Parameter]], squares: list[Array], max_norm: float) -> Array:
    """Clip without reading a value; ``squares`` has the squared norm of each part."""
    wide = "float64" if any(backend.dtype_name(square) == "float64" for square in squares) else "float32"
    with backend.running():
        total = backend.astype(squares[0], wide)
        for square in squares[1:]:
            total = total + backend.astype(square, wide)
    norms = {}
    for some, square in zip(parts, squares, strict=True):
        clipped, norms[backend.dtype_name(square)] = run(backend, "clip_gradients", _grads(some), total, max_norm)
        for parameter, grad in zip(some, clipped, strict=True):
            parameter.grad = grad
    return norms[wide]
