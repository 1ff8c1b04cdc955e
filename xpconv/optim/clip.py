"""Gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..backends import backend_of
from ..backends.protocol import Array
from ..layers import Parameter

__all__ = ["clip_grad_norm"]


def clip_grad_norm(
    params: Iterable[Parameter] | Parameter, max_norm: float, *, error_if_nonfinite: bool = True
) -> float:
    """Scale all gradients together so that their common norm is at most ``max_norm`` (Pascanu et al. 2013).

    As `torch.nn.utils.clip_grad_norm_`: if the Euclidean norm of all gradients taken as one vector is larger than
    max_norm, each is replaced by itself times ``max_norm / (norm + 1e-6)``. Reading the norm waits for the device.

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
    float
        The norm before clipping; 0.0 without any gradient.

    Raises
    ------
    ValueError
        max_norm is not above 0.
    FloatingPointError
        The norm is not finite.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm: must be above 0, got {max_norm!r}")
    if isinstance(params, Parameter):
        params = [params]
    graded = [(parameter, parameter.grad) for parameter in params if parameter.grad is not None]
    # one number is read for each backend and dtype, not for each parameter
    totals: dict[tuple[str, str], Array] = {}
    for _, grad in graded:
        backend = backend_of(grad=grad)
        key = (backend.name, backend.dtype_name(grad))
        # squares of half precision overflow at 256
        values = backend.astype(grad, "float64" if key[1] == "float64" else "float32")
        part = backend.xp.sum(values * values)
        totals[key] = totals[key] + part if key in totals else part
    norm = math.sqrt(sum(float(total) for total in totals.values()))
    if not math.isfinite(norm):
        if error_if_nonfinite:
            raise FloatingPointError(
                f"the norm of the gradients is {norm}: the loss has diverged, or is not finite itself; "
                "a lower learning rate may help"
            )
        return norm
    scale = float(max_norm) / (norm + 1e-6)
    if scale < 1:
        for parameter, grad in graded:
            # asarray, since NumPy makes a scalar of an array without axes
            parameter.grad = backend_of(grad=grad).asarray(grad * scale)
    return norm
