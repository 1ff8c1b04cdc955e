"""CIFAR-10 to an accuracy: ResNet-20 trained on the device, the data lying there, the step recorded if that works."""

from __future__ import annotations

import time
from typing import Any

from xpconv import Trainer, data, functional, models, optim, use_backend
from xpconv.training import Callback

from .section import Options, Row, Rows, Skipped

SECONDS = 50
NEEDS_GPU = True
ACCURACY = 0.85
EPOCHS, BATCH = 15, 512


class _Epochs(Callback):
    """A row for each epoch; stops at the accuracy or at the end of the time."""

    def __init__(self, options: Options, rows: Rows) -> None:
        self.options, self.rows, self.start = options, rows, time.monotonic()

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        row = self.rows.add(**record, seconds_in_all=time.monotonic() - self.start)
        if row["val_accuracy"] >= ACCURACY or self.options.seconds_left() < 1.5 * record["seconds"]:
            trainer.stop()


def run(options: Options, rows: Rows) -> None:
    """A row for each epoch."""
    if options.data is None:
        raise Skipped("needs --data FOLDER with the files of CIFAR-10")
    try:
        splits = data.load("cifar10", options.data, download=False, progress=False)
    except data.DataError as error:
        raise Skipped(f"no CIFAR-10: {error}") from None
    transform = data.standard_transform(splits.train)
    with use_backend(options.backend):
        model = models.build("resnet20", in_channels=3, image_size=32, num_classes=10, rng=0)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        train = data.Batches(splits.train, BATCH, seed=0, transform=transform, drop_last=True)
        test = data.Batches(splits.test, BATCH, shuffle=False, transform=transform)
        schedule = optim.OneCycleSchedule(0.4, EPOCHS * len(train))
        trainer = Trainer(
            model,
            functional.softmax_cross_entropy,
            optimizer,
            schedule=schedule,
            callbacks=[_Epochs(options, rows)],
            capture=True,
        )
        trainer.fit(train, epochs=EPOCHS, validation=test)


def lines(rows: list[Row]) -> list[str]:
    """For the table."""
    if not rows:
        return []
    best = max(rows, key=lambda row: row["val_accuracy"])
    last = rows[-1]
    return [
        f"resnet20: test accuracy {best['val_accuracy']:.4f} in epoch {best['epoch']}, {last['epoch']} epochs in "
        f"{last['seconds_in_all']:.1f} s"
    ]
