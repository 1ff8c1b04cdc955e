"""PyTorch on the same card: whether it is there, its precision, and the time of what it does."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import statistics
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

__all__ = ["cuda_torch", "graph_of", "graph_seconds", "precision_set"]

_SECONDS = 0.25
_ROUNDS = 7


def cuda_torch() -> ModuleType | None:
    """PyTorch, or None where it is not installed or sees no card."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch if torch.cuda.is_available() else None


@contextlib.contextmanager
def precision_set(torch: ModuleType, precision: str, *, benchmark: bool) -> Iterator[None]:
    """``"fp32"``, ``"tf32"`` or ``"bf16"`` for products and convolutions; whether cuDNN tries its algorithms."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    cudnn.benchmark = benchmark
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def graph_of(torch: ModuleType, call: Callable[[], Any]) -> Any:
    """``call`` recorded as a CUDA graph, warmed up on a side stream first, as PyTorch's notes on graphs say."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def graph_seconds(torch: ModuleType, call: Callable[[], Any]) -> float:
    """Median time of a call on the device, from replays of it as a graph."""
    graph = graph_of(torch, call)

    def elapsed(times: int) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(times):
            graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / times

    graph.replay()
    times = max(1, math.ceil(_SECONDS / _ROUNDS / max(elapsed(1), 1e-6)))
    return statistics.median(elapsed(times) for _ in range(_ROUNDS))
