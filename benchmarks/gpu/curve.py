"""The first steps of a run on Fashion-MNIST, on the device and on NumPy: how far the loss curves come apart."""

from __future__ import annotations

import contextlib

import numpy as np

from xpconv import Trainer, data, functional, models, optim, use_backend
from xpconv.training import Callback

from .section import Options, Row, Rows

SECONDS = 40
NEEDS_GPU = False
LIMIT = 1e-3
STEPS, BATCH = 100, 128


class _Losses(Callback):
    """Reads the losses behind the last step of the epoch."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.epoch_step == trainer.epoch_steps:
            self.losses = trainer.losses


def _dataset(options: Options) -> tuple[data.ArrayDataset, str]:
    """The training set: all of Fashion-MNIST where it is, else the part of it that comes with the package."""
    if not options.tiny:
        for folder in dict.fromkeys((options.data, None)):
            with contextlib.suppress(data.DataError):
                return data.load("fashion-mnist", folder, download=False, progress=False).train, "fashion-mnist"
    return data.load("fashion-mnist-small", progress=False).train, "fashion-mnist-small"


def _curve(backend: str, dataset: data.ArrayDataset, batch: int, *, recorded: bool) -> list[float]:
    with use_backend(backend):
        channels, height, width = dataset.image_shape
        model = models.build(
            "small-cnn", in_channels=channels, image_size=(height, width), num_classes=dataset.num_classes, rng=0
        )
        transform = data.standard_transform(dataset)
        batches = data.Batches(dataset, batch, seed=0, transform=transform, drop_last=True)
        losses = _Losses()
        optimizer = optim.AdamW(model.parameters(), lr=2e-3)
        trainer = Trainer(
            model, functional.softmax_cross_entropy, optimizer, callbacks=[losses], seed=0, capture=recorded
        )
        trainer.fit(batches, epochs=1)
    if recorded and trainer.capture_reason is not None:
        raise AssertionError(f"the steps were not recorded: {trainer.capture_reason}")
    return losses.losses


def run(options: Options, rows: Rows) -> None:
    """A row for NumPy, and one each for eager and recorded steps."""
    steps, batch = (3, 8) if options.tiny else (STEPS, BATCH)
    whole, name = _dataset(options)
    chosen = np.arange(steps * batch) % len(whole)
    part = data.ArrayDataset(whole.images[chosen], whole.labels[chosen], classes=whole.classes, name=name)

    want = np.asarray(_curve("numpy", part, batch, recorded=False))
    rows.add(data=name, steps=steps, batch=batch, curve=[round(float(loss), 7) for loss in want])

    def compare(recorded: bool) -> Row:
        got = np.asarray(_curve(options.backend, part, batch, recorded=recorded))
        if len(want) != steps or got.shape != want.shape:
            raise AssertionError(f"{got.shape} and {want.shape} losses instead of {steps}")
        apart = np.abs(got - want)
        return {
            "largest_difference": float(apart.max()),
            "at_step": int(apart.argmax()),
            "limit": LIMIT,
            "ok": bool(apart.max() <= LIMIT),
            "curve": [round(float(loss), 7) for loss in got],
        }

    for recorded in (False, True):
        rows.attempt(options, lambda r=recorded: compare(r), device_steps="recorded" if recorded else "eager")
    apart = [row["device_steps"] for row in rows.all if row.get("ok") is False]
    if apart:
        raise AssertionError(f"the curves come apart, steps {' and '.join(apart)}")


def lines(rows: list[Row]) -> list[str]:
    """For the table."""
    found = [f"{row['data']}, {row['steps']} steps of {row['batch']}" for row in rows if "steps" in row]
    for row in rows:
        if "ok" in row:
            found.append(
                f"{row['device_steps']}: losses within {row['largest_difference']:.1e} of NumPy's "
                f"(limit {row['limit']:.0e})"
            )
    return found
