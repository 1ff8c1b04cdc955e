"""Checks of array arguments, with messages that name the argument, what it is and what it must be."""

from __future__ import annotations

import numpy as np

from ..backends import backend_of, compute
from ..backends.protocol import FLOATING, Array, Backend

__all__ = ["check_cache", "check_dimensions", "check_gradient", "check_shape", "floating_backend", "reshaped"]


def reshaped(backend: Backend, array: Array, shape: tuple[int, ...]) -> Array:
    """``array`` in another shape: a view, or a copy where its strides do not allow one."""
    if array.shape == shape:
        return array
    if type(array) is np.ndarray and array.flags.c_contiguous:  # surely a view, which `compute` would do nothing for
        return array.reshape(shape)
    return compute(backend, "reshape", backend.reshape, array, shape)


def floating_backend(**arrays: Array | None) -> Backend:
    """The backend of the arrays, all of one floating-point dtype; None values are skipped.

    Raises
    ------
    TypeError
        No array, arrays of several backends (`BackendMismatchError`), not floating-point, or several dtypes.
    """
    backend = backend_of(**arrays)
    first, dtype, seen = "", "", None
    for name, array in arrays.items():
        if array is None or array.dtype is seen:
            continue
        this = backend.dtype_name(array)
        if not dtype:
            first, dtype, seen = name, this, array.dtype
            if this not in FLOATING:
                raise TypeError(f"{name}: expected float32 or float64, got {this}{_advice(backend, name, this)}")
        elif this != dtype:
            other, to = (first, this) if this in FLOATING else (name, dtype)
            raise TypeError(
                f"{name}: expected {dtype} like {first}, got {this}; convert one of them, as in "
                f"xpconv.asarray({other}, {to!r}, backend={backend.name!r})"
            )
    return backend


def _advice(backend: Backend, name: str, dtype: str) -> str:
    """What to do with an array that is not floating-point."""
    if dtype.startswith("complex"):
        return "; complex numbers are not supported"
    scaled = " / 255, for images" if dtype == "uint8" else ""
    return f"; convert it first: xpconv.asarray({name}, 'float32', backend={backend.name!r}){scaled}"


def check_dimensions(name: str, array: Array, number: int, meaning: str) -> None:
    """Raise ValueError unless ``array`` has so many axes; ``meaning`` says what they are, for the message."""
    if array is None:
        raise TypeError(f"{name}: expected an array {meaning}, got None")
    if array.ndim != number:
        shape = tuple(array.shape)
        raise ValueError(f"{name}: expected {number} dimensions {meaning}, got {len(shape)} with shape {shape}")


def check_shape(name: str, array: Array, shape: tuple[int | None, ...], meaning: str) -> None:
    """Raise ValueError unless ``array`` has ``shape``; None stands for any size.

    Parameters
    ----------
    meaning
        What the axes are, for the message: ``"(N, C, H, W)"``.
    """
    if array is None:
        raise TypeError(f"{name}: expected an array {meaning}, got None")
    if array.shape == shape:
        return
    check_dimensions(name, array, len(shape), meaning)
    got = tuple(array.shape)
    for want, have in zip(shape, got):  # noqa: B905 - of one length, as was just checked; strict=True takes time
        if want is not None and want != have:
            wanted = ", ".join("any" if s is None else str(s) for s in shape)
            raise ValueError(f"{name}: expected shape ({wanted}) {meaning}, got {got}")


def check_cache(cache: object, kind: type) -> None:
    """Raise TypeError unless ``cache`` is what the forward call has returned, of type ``kind``."""
    if not isinstance(cache, kind):
        raise TypeError(
            f"cache: expected the {kind.__name__} that the forward call returned, got {type(cache).__name__}"
        )


def check_gradient(dy: Array, like: Array | None, shape: tuple[int, ...], *, dtype: str | None = None) -> Backend:
    """Backend of ``dy``, which must have the shape and the dtype of the forward result.

    Parameters
    ----------
    like
        An array kept by the forward call, of that dtype; None if there is none.
    shape
        The shape of the forward result.
    dtype
        The name of its dtype, where no array was kept.
    """
    if dy is None:
        raise TypeError(f"dy: expected an array of shape {tuple(shape)}, that of the forward result, got None")
    if like is not None and type(dy) is type(like) and dy.dtype == like.dtype and dy.shape == shape:
        return backend_of(cached=like, dy=dy)
    backend = floating_backend(dy=dy)
    if like is not None:
        backend_of(cached=like, dy=dy)
        dtype = backend.dtype_name(like)
    if tuple(dy.shape) != tuple(shape):
        raise ValueError(f"dy: expected shape {tuple(shape)}, that of the forward result, got {tuple(dy.shape)}")
    if dtype is not None and backend.dtype_name(dy) != dtype:
        raise TypeError(f"dy: expected {dtype}, the dtype of the forward result, got {backend.dtype_name(dy)}")
    return backend
