"""Whole training steps against PyTorch's eager mode, and inference of one image.

A step is forward pass, loss, backward pass and optimizer, on a batch of 128 that lies in memory, float32. Each network
starts from the same weights on both sides, carried over by its state_dict, and first takes three steps of which the
losses must agree (without dropout, whose random numbers differ). `torch NHWC` is PyTorch with network and images in
channels-last memory. Inference is of a ResNet-20 in evaluation mode; its scores must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from xpconv._bench.networks import (
    NETWORKS,
    Network,
    Step,
    images,
    torch_step,
    twin_with_weights,
    xpconv_model,
    xpconv_step,
)

from ..command import Options
from ..peers import optional_torch
from ..report import Row, left_out, row_of_samples
from ..timing import assert_same, interleave, threads_set

__all__ = ["INFERENCE", "STEP", "images", "measure", "torch_step", "xpconv_model", "xpconv_step"]

STEP, INFERENCE = "training step", "inference"
NAMES = ("lenet", "three-layer-convnet", "resnet20", "resnet18")
BATCH, CHECKED_BATCH = 128, 16

# ---- measuring ----------------------------------------------------------------------------------------------------


def _steps(
    options: Options, torch: ModuleType | None, network: Network, size: int, batch: int, *, dropout: bool
) -> dict[str, Step]:
    """A training step by contender, all from the same weights."""
    x, labels = images(network, batch, size)
    found: dict[str, Step] = {}
    if torch:
        model = xpconv_model(network, size, dropout=dropout)
        layouts = {"torch": False}
        if options.all_peers:
            layouts["torch NHWC"] = True
        for name, last in layouts.items():
            found[name] = torch_step(torch, model, network, x, labels, channels_last=last, dropout=dropout)
    return {**found, "xpconv": xpconv_step(xpconv_model(network, size, dropout=dropout), network, x, labels)}


def _inference(torch: ModuleType | None, network: Network, size: int) -> dict[str, Callable[[], Any]]:
    """The scores of one image."""
    x, _ = images(network, 1, size)
    model = xpconv_model(network, size).eval()
    found: dict[str, Callable[[], Any]] = {}
    if torch:
        twin, image = twin_with_weights(torch, model, dropout=True).eval(), torch.from_numpy(x)

        def theirs() -> Any:
            with torch.inference_mode():
                return twin(image)

        found["torch"] = theirs
    return {**found, "xpconv": lambda: model(x)}


def measure(options: Options) -> Iterator[Row]:
    """One row for each network and number of threads, and those of inference."""
    torch = optional_torch() if options.peers else None
    tiny = options.size == "tiny"
    known = {network.name: network for network in NETWORKS}
    for name in NAMES:
        network = known[name]
        size, batch = (12, 8) if tiny else (network.size, BATCH)
        case = f"{name}, {batch} of {network.channels}x{size}x{size}, {network.optimizer}"
        if not options.wants(case):
            continue
        if options.late:
            yield from (left_out("training", case, threads) for threads in options.threads)
            continue
        with threads_set(max(options.threads)):
            checked = _steps(options, torch, network, size, min(batch, CHECKED_BATCH), dropout=False)
            losses = {library: [np.asarray([step() for _ in range(3)])] for library, step in checked.items()}
        assert_same(f"{case}: losses of the first three steps", losses, 2e-3)
        contenders = _steps(options, torch, network, size, batch, dropout=True)
        for threads in options.threads:
            with threads_set(threads):
                samples = interleave(contenders, options.budget, rest=threads > 1, few=("torch NHWC",))
            yield row_of_samples("training", case, STEP, threads, samples, baseline="torch")
    size = 12 if tiny else 32
    case = f"resnet20, 1 of 3x{size}x{size}"
    if not options.wants(case):
        return
    scores = _inference(torch, known["resnet20"], size)
    assert_same(f"{case}: scores", {library: [np.asarray(run())] for library, run in scores.items()}, 1e-4)
    for threads in options.threads:
        with threads_set(threads):
            samples = interleave(scores, options.budget, rest=threads > 1)
        yield row_of_samples("training", case, INFERENCE, threads, samples, baseline="torch")
