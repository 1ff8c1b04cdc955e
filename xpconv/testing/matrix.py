"""The backends that one test runs over, as cases for `pytest.mark.parametrize` or a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ..backends import BackendUnavailableError, get_backend, load_backend, to_numpy, use_backend, use_kernels
from ..backends.protocol import Array, Backend

__all__ = ["CASES", "Case"]


class Case(NamedTuple):
    """One way to run an operator.

    Attributes
    ----------
    id
        Name of the case in test reports.
    backend
        Name for `xpconv.use_backend`.
    kernels
        Mode for `xpconv.backends.use_kernels`.
    readonly
        Whether `asarray` gives arrays that raise when something writes to them.
    """

    id: str
    backend: str
    kernels: str = "auto"
    readonly: bool = False

    def why_unavailable(self) -> str | None:
        """Why the case cannot run here, or None if it can."""
        try:
            load_backend(self.backend)
        except BackendUnavailableError as error:
            return str(error)
        return None

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that every operator is tested in: JAX has no float64 by default."""
        return ("float32",) if self.backend.startswith("jax") else ("float32", "float64")

    @contextmanager
    def active(self) -> Iterator[Backend]:
        """Inside the block, new arrays are born on the case's backend and its kernels run."""
        with use_backend(self.backend), use_kernels(self.kernels):
            yield get_backend()

    def asarray(self, values: Any, dtype: str | None = None) -> Array:
        """``values`` as an array of the case; a copy, so that the caller's array is safe.

        Parameters
        ----------
        values : array of any shape
            What NumPy makes an array of.
        dtype
            A name; None keeps that of the values.

        Returns
        -------
        array
            Of the shape of the values.

        Raises
        ------
        TypeError
            The backend does not have the dtype.
        """
        backend = load_backend(self.backend)
        array = backend.asarray(np.array(values), dtype)
        if self.readonly:
            array.flags.writeable = False
        return array

    def to_numpy(self, array: Array) -> np.ndarray:
        """The values on the host; asserts that ``array`` is of the case's backend.

        Parameters
        ----------
        array : array of any shape
            Of the case's backend.

        Returns
        -------
        numpy.ndarray
            Of the same shape.

        Raises
        ------
        AssertionError
            An array of another backend.
        """
        assert load_backend(self.backend).owns(array), f"{type(array)} is not of {self.backend}"
        return to_numpy(array)


CASES: tuple[Case, ...] = (
    Case("numpy", "numpy"),
    Case("numpy-generic", "numpy", kernels="generic"),
    Case("numpy-readonly", "numpy", readonly=True),
    Case("strict", "array_api_strict", readonly=False),
    Case("strict-device1", "array_api_strict:device1"),
    Case("torch", "torch"),
    Case("jax", "jax"),
    Case("cuda-host", "cuda-host"),
    Case("cupy", "cupy"),
)
"""The backend matrix, every way to run an operator; `Case.why_unavailable` says which of them run here."""
