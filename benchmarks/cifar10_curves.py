"""The same training run in xpconv and in PyTorch: ResNet-20 on CIFAR-10, same weights, same batches, same schedule.

    python -m benchmarks.cifar10_curves --data FOLDER [--epochs 4] [--images 50000] [--threads 2] [--out STEM]

Both start from one set of weights and see the same augmented batches (xpconv makes them) in the same order: SGD with
Nesterov momentum, weight decay 5e-4, a one-cycle schedule. Rounding differs, so the losses part after some hundred
steps; what has to agree is where the runs end. Writes STEM.json with both curves, and STEM.png.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import xpconv
from xpconv import layers, models
from xpconv._bench.networks import twin_with_weights
from xpconv.data import ArrayDataset, Batches, load, standard_transform
from xpconv.functional import softmax_cross_entropy
from xpconv.optim import SGD, OneCycleSchedule

from .peers import optional_torch
from .report import environment_line
from .timing import environment, threads_set

__all__ = ["main", "run"]

BATCH, PEAK = 128, 0.2
SETTINGS = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
RESULTS = Path(__file__).parent / "results"

Step = Callable[[np.ndarray, np.ndarray, float], float]
Scores = Callable[[np.ndarray], np.ndarray]


def _xpconv_side(model: layers.Layer) -> tuple[Step, Scores]:
    optimizer = SGD(model.parameters(), lr=PEAK, **SETTINGS)

    def step(x: np.ndarray, labels: np.ndarray, lr: float) -> float:
        optimizer.lr = lr
        optimizer.zero_grad()
        model.train()
        loss, dscores = softmax_cross_entropy(model(x), labels)
        model.backward(dscores)
        optimizer.step()
        return float(loss)

    return step, lambda x: xpconv.to_numpy(model.eval()(x))


def _torch_side(torch: Any, twin: Any) -> tuple[Step, Scores]:
    optimizer = torch.optim.SGD(twin.parameters(), lr=PEAK, **SETTINGS)

    def step(x: np.ndarray, labels: np.ndarray, lr: float) -> float:
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin.train()(torch.from_numpy(x)), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        return loss.item()

    def scores(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return twin.eval()(torch.from_numpy(x)).numpy()

    return step, scores


def _accuracy(scores: Scores, held_out: Batches) -> float:
    hits = [np.asarray(scores(x)).argmax(axis=1) == labels for x, labels in _arrays(held_out, 0)]
    return float(np.concatenate(hits).mean())


def _arrays(batches: Batches, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for x, labels in batches.epoch(epoch):
        # a copy where the batch is a view in an order of its own, so that both sides get the same plain memory
        yield np.ascontiguousarray(x), np.asarray(labels).astype(np.int64)


def run(train: ArrayDataset, test: ArrayDataset, epochs: int, depth: int = 20) -> dict[str, list[dict[str, float]]]:
    """Train on both sides; the records of the epochs by library: loss, accuracy on the test images, seconds."""
    transform = standard_transform(train)
    batches = Batches(train, BATCH, transform=transform, backend="numpy")
    held_out = Batches(test, 500, shuffle=False, transform=transform, backend="numpy")
    schedule = OneCycleSchedule(PEAK, total_steps=epochs * len(batches))
    model = models.CifarResNet(depth, num_classes=len(train.classes), rng=0)
    torch = optional_torch()
    sides = {"xpconv": _xpconv_side(model)}
    if torch:
        sides["torch"] = _torch_side(torch, twin_with_weights(torch, model))
    curves: dict[str, list[dict[str, float]]] = {library: [] for library in sides}
    steps = 0
    for epoch in range(epochs):
        losses: dict[str, list[float]] = {library: [] for library in sides}
        seconds = dict.fromkeys(sides, 0.0)
        for x, labels in _arrays(batches, epoch):
            for library, (step, _) in sides.items():
                start = time.perf_counter()
                losses[library].append(step(x, labels, schedule(steps)))
                seconds[library] += time.perf_counter() - start
            steps += 1
        for library, (_, scores) in sides.items():
            loss, accuracy = float(np.mean(losses[library])), _accuracy(scores, held_out)
            assert math.isfinite(loss), f"{library}: the loss of epoch {epoch + 1} is {loss}"
            record = {"epoch": epoch + 1, "loss": loss, "test_accuracy": accuracy, "seconds": seconds[library]}
            curves[library].append(record)
            print(f"{library:7s} epoch {epoch + 1}: loss {loss:.4f}, test accuracy {accuracy:.4f}, "
                  f"{seconds[library]:.0f} s", flush=True)  # fmt: skip
    return curves


def draw(curves: dict[str, list[dict[str, float]]], path: Path, title: str) -> None:
    """Loss and test accuracy of both, side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "test_accuracy"), strict=True):
        for (library, records), (marker, colour) in zip(
            curves.items(), (("o", "#0072B2"), ("x", "#D55E00")), strict=False
        ):
            points = [(record["epoch"], record[quantity]) for record in records]
            axes.plot(*zip(*points, strict=True), marker=marker, color=colour, label=library)
        axes.set_xlabel("epoch")
        axes.set_ylabel(quantity.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cifar10_curves", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--data", default="cifar10", help="what `xpconv.data.load` takes")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=None, help="of the training set; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depth", type=int, default=20, help="of the residual network")
    parser.add_argument("--out", type=Path, default=RESULTS / "cifar10-curves", metavar="STEM")
    options = parser.parse_args(argv)
    splits = load(options.data)
    train = splits.train.subset(np.arange(options.images)) if options.images else splits.train
    with threads_set(options.threads):
        curves = run(train, splits.test, options.epochs, options.depth)
    about = environment("full")
    settings = {"epochs": options.epochs, "images": len(train), "threads": options.threads, "depth": options.depth,
                "batch": BATCH, "peak learning rate": PEAK, **SETTINGS}  # fmt: skip
    document = {"environment": about, "settings": settings, "curves": curves}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    title = f"ResNet-{options.depth} on {len(train)} images of CIFAR-10, {len(splits.test)} test images"
    draw(curves, options.out.with_suffix(".png"), title)
    print(environment_line(about))
    ends = {library: records[-1]["test_accuracy"] for library, records in curves.items()}
    if len(ends) == 2:
        gap = abs(ends["xpconv"] - ends["torch"])
        print(f"test accuracy at the end: {ends['xpconv']:.4f} and {ends['torch']:.4f}, {gap:.4f} apart")
    print(f"written: {options.out.with_suffix('.json')} and .png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
