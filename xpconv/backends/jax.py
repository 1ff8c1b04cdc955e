"""JAX arrays, through the generic operators, called eagerly. float64 needs ``jax.config.update("jax_enable_x64", True)``."""

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
        device = array.device
        if device == self.device or isinstance(array, self._jax.core.Tracer):
            return self
        return load_backend(f"jax:{device.platform}:{device.id}")

    def asarray(self, obj: Any, dtype: Any = None) -> Array:
        if isinstance(obj, self._jax.Array):
            moved = obj if obj.device == self.device else self._jax.device_put(obj, self.device)
            return moved if dtype is None else self.astype(moved, dtype)
        values = np.asarray(obj)
        wanted = values.dtype if dtype is None else self.dtype(dtype)
        if np.dtype(wanted) == np.float64 and not self._jax.config.jax_enable_x64:
            raise TypeError(
                'dtype: JAX makes float32 of float64 unless jax.config.update("jax_enable_x64", True) is called first'
            )
        return self._jax.device_put(self.xp.asarray(values, dtype=None if dtype is None else wanted), self.device)

    def to_numpy(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def synchronize(self) -> None:
        self._jax.device_put(0.0, self.device).block_until_ready()

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
        return JaxBackend(jax.devices(platform)[int(number or 0)], f"jax:{platform}:{int(number or 0)}")
    except (RuntimeError, IndexError, ValueError) as error:
        raise BackendUnavailableError(f"jax cannot use device {device!r}: {error}") from error
