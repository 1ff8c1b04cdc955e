"""JAX arrays, through the generic operators; float64 needs ``jax.config.update("jax_enable_x64", True)``."""

from __future__ import annotations

from typing import Any

import numpy as np

from .protocol import Array, Backend
from .registry import BackendUnavailableError, load_backend

__all__ = ["JaxBackend", "load"]


class JaxBackend(Backend):
    """One JAX device: ``"jax"`` is JAX's default one, ``"jax:cpu:0"`` a named one."""

    def __init__(self, device: Any, name: str) -> None:
        import jax
        import jax.numpy as jnp

        self._jax = jax
        self.xp = jnp
        self.device = device
        self.name = name
        self.on_host = device.platform == "cpu"
        super().__init__()

    def owns(self, array: object) -> bool:
        return isinstance(array, self._jax.Array)

    def for_array(self, array: Array) -> Backend:
        if isinstance(array, self._jax.core.Tracer):  # under jit or grad an array has no device yet
            return self
        device = array.device
        if device == self.device:
            return self
        if not isinstance(device, self._jax.Device):
            raise TypeError(f"an array sharded over several JAX devices ({device}) is not supported; gather it first")
        return load_backend(f"jax:{device.platform}:{device.id}")

    def asarray(self, obj: Any, dtype: Any = None) -> Array:
        if isinstance(obj, self._jax.Array):
            traced = isinstance(obj, self._jax.core.Tracer)
            moved = obj if traced or obj.device == self.device else self._jax.device_put(obj, self.device)
            return moved if dtype is None else self.astype(moved, self._checked(dtype))
        values = np.asarray(obj)
        if dtype is not None:
            wanted = self._checked(dtype)
        elif values.dtype.kind in "iu":
            wanted = self._integer(values)
        else:
            wanted = self._checked(values.dtype)
        # a copy: JAX may share memory with NumPy arrays, but takes it for granted that nobody writes to it
        return self._jax.device_put(self.xp.array(values.astype(wanted)), self.device)

    def _checked(self, dtype: Any) -> np.dtype:
        """``dtype``, if JAX has it as it is set up; by itself JAX would take a narrower one."""
        dtype = np.dtype(self.dtype(dtype))
        narrow = self._jax.dtypes.canonicalize_dtype(dtype)
        if narrow != dtype:
            raise TypeError(
                f"dtype: JAX has no {dtype.name} unless jax.config.update('jax_enable_x64', True) is called first; "
                f"dtype={narrow.name!r} works without"
            )
        return dtype

    def _integer(self, values: np.ndarray) -> np.dtype:
        """The dtype of integers, narrowed to JAX's 32 bits if they fit."""
        narrow = np.dtype(self._jax.dtypes.canonicalize_dtype(values.dtype.newbyteorder("=")))
        limits = np.iinfo(narrow)
        if values.size and (values.min() < limits.min or values.max() > limits.max):
            raise ValueError(
                f"obj: holds integers beyond {narrow.name}, JAX's widest unless "
                "jax.config.update('jax_enable_x64', True) is called first"
            )
        return narrow

    def to_numpy(self, array: Array) -> np.ndarray:
        if self.dtype_name(array) == "bfloat16":  # NumPy has no such dtype
            array = self.astype(array, "float32")
        return np.asarray(array)

    def can_read(self, array: Array) -> bool:
        return self.on_host and not isinstance(array, self._jax.core.Tracer)

    def synchronize(self) -> None:
        self._jax.block_until_ready(self._jax.live_arrays(self.device.platform))

    def describe(self) -> str:
        return f"jax {self._jax.__version__}, {self.device}"


def load(device: str | None) -> JaxBackend:
    """Factory of the registry."""
    try:
        import jax
    except ImportError as error:
        raise BackendUnavailableError("jax is not installed: pip install jax") from error
    try:
        if device is None:
            return JaxBackend(jax.devices()[0], "jax")
        platform, _, number = device.partition(":")
        chosen = jax.devices(platform)[int(number or 0)]
        name = "jax" if chosen == jax.devices()[0] else f"jax:{chosen.platform}:{chosen.id}"
        return JaxBackend(chosen, name)
    except (RuntimeError, IndexError, ValueError) as error:
        raise BackendUnavailableError(f"jax cannot use device {device!r}: {error}") from error
