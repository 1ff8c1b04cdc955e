"""array-api-strict: nothing but the array API standard. It proves that the generic operators are portable.

Its second device (``"array_api_strict:device1"``) behaves like a GPU: NumPy cannot read its arrays directly, so a
hidden transfer to the host becomes an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .protocol import Array, Backend
from .registry import BackendUnavailableError, load_backend

__all__ = ["StrictBackend", "load"]

_DEVICES = {"cpu": "CPU_DEVICE", "device1": "device1", "device2": "device2"}


class StrictBackend(Backend):
    """One of the devices that array-api-strict simulates."""

    def __init__(self, device: str) -> None:
        try:
            import array_api_strict as xp
        except ImportError as error:
            raise BackendUnavailableError("array_api_strict is not installed: pip install array-api-strict") from error
        self.xp = xp
        self.name = "array_api_strict" if device == "cpu" else f"array_api_strict:{device}"
        self.device = xp.Device(_DEVICES[device])
        self.on_host = device == "cpu"
        self._cpu = xp.Device("CPU_DEVICE")
        super().__init__()

    def owns(self, array: object) -> bool:
        return isinstance(array, type(self.xp.empty(0)))

    def for_array(self, array: Array) -> Backend:
        if array.device == self.device:
            return self
        names = {value: key for key, value in _DEVICES.items()}
        device = names[str(array.device).split("'")[1]] if "'" in str(array.device) else "cpu"
        return load_backend("array_api_strict" if device == "cpu" else f"array_api_strict:{device}")

    def asarray(self, obj: Any, dtype: Any = None) -> Array:
        if self.owns(obj):
            moved = obj.to_device(self.device)
            return moved if dtype is None else self.astype(moved, dtype)
        values = np.asarray(obj)
        values = np.asarray(values, dtype=values.dtype.newbyteorder("="))
        return self.xp.asarray(values, device=self.device, dtype=None if dtype is None else self.dtype(dtype))

    def to_numpy(self, array: Array) -> np.ndarray:
        return np.asarray(array.to_device(self._cpu))


def load(device: str | None) -> StrictBackend:
    """Factory of the registry."""
    device = device or "cpu"
    if device not in _DEVICES:
        raise BackendUnavailableError(f"array_api_strict has no device {device!r}; it has {', '.join(_DEVICES)}")
    return StrictBackend(device)
