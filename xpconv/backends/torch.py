"""PyTorch tensors, through the generic operators; gradients are xpconv's own, autograd is not used."""

from __future__ import annotations

from typing import Any

import numpy as np

from .protocol import Array, Backend, Shortage
from .registry import BackendUnavailableError, load_backend

__all__ = ["TorchBackend", "load"]


class TorchBackend(Backend):
    """One torch device: ``"torch"`` is the CPU, ``"torch:cuda:0"`` a GPU."""

    def __init__(self, device: str) -> None:
        try:
            import torch
        except ImportError as error:
            raise BackendUnavailableError("torch is not installed: see https://pytorch.org/get-started") from error
        import array_api_compat.torch as xp

        try:
            self.device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0"
        except (RuntimeError, AssertionError) as error:
            raise BackendUnavailableError(f"torch cannot use device {device!r}: {error}") from error
        self._torch = torch
        self.xp = xp
        self.name = "torch" if self.device.type == "cpu" else f"torch:{self.device}"
        self.on_host = self.device.type == "cpu"
        super().__init__()
        self.word_dtype = torch.int64  # its uint32 has neither shifts nor products

    def owns(self, array: object) -> bool:
        return isinstance(array, self._torch.Tensor)

    def for_array(self, array: Array) -> Backend:
        if array.device == self.device:
            return self
        return load_backend("torch" if array.device.type == "cpu" else f"torch:{array.device}")

    def asarray(self, obj: Any, dtype: Any = None) -> Array:
        dtype = None if dtype is None else self.dtype(dtype)
        if isinstance(obj, self._torch.Tensor):
            return obj.detach().to(device=self.device, dtype=dtype or obj.dtype)
        values = np.asarray(obj)
        if values.dtype.name == "bfloat16":  # an extension of NumPy's dtypes that torch does not read
            values, dtype = values.astype(np.float32), dtype or self._torch.bfloat16
        # torch shares memory only where it may write, and knows neither negative strides nor foreign byte order
        if not values.flags.writeable or min(values.strides, default=0) < 0 or not values.dtype.isnative:
            values = np.array(values, dtype=values.dtype.newbyteorder("="), order="C")
        return self._torch.as_tensor(values, dtype=dtype, device=self.device)

    def to_numpy(self, array: Array) -> np.ndarray:
        array = array.detach().cpu()
        if array.dtype == self._torch.bfloat16:  # NumPy has no such dtype
            array = array.float()
        return array.numpy()

    def prepare(self, array: Array) -> Array:
        return array.detach() if array.requires_grad else array

    def synchronize(self) -> None:
        kind = self.device.type
        if kind in ("cuda", "xpu"):
            getattr(self._torch, kind).synchronize(self.device)
        elif kind == "mps":
            self._torch.mps.synchronize()

    def out_of_memory(self, error: Exception) -> Shortage | None:
        if isinstance(error, self._torch.OutOfMemoryError):  # a RuntimeError, whose text has the numbers
            return Shortage(str(error))
        return super().out_of_memory(error)

    def free_memory(self) -> bool:
        kind = self.device.type
        if kind in ("cuda", "xpu", "mps"):
            getattr(self._torch, kind).empty_cache()
        return kind != "cpu"

    def describe(self) -> str:
        return f"torch {self._torch.__version__}, {self.device}"


def load(device: str | None) -> TorchBackend:
    """Factory of the registry."""
    return TorchBackend(device or "cpu")
