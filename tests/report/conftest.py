"""Run folders made by hand, so that every number on a page is known."""

import base64
import io
import json
from types import SimpleNamespace

import pytest
from PIL import Image

from xpconv.training import RunFolder

CLASSES = ("cat", "dog", "eel")


def picture(mode="L", colour=0):
    """A small PNG in base 64."""
    buffer = io.BytesIO()
    Image.new(mode, (4, 4), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def epoch(number, **changes):
    """A line of the log of an epoch."""
    record = {
        "kind": "epoch", "epoch": number, "step": 10 * number, "loss": 2 / number, "accuracy": 1 - 0.5 / number,
        "lr": 0.01, "val_loss": 2.2 / number, "val_accuracy": 1 - 0.6 / number, "seconds": 1.5,
    }  # fmt: skip
    return {**record, **changes}


def step(position, **changes):
    """A line of the log of a step."""
    record = {"kind": "step", "position": position, "batch_loss": 1.0, "loss": 1.1, "accuracy": 0.5, "lr": 0.02}
    return {**record, **changes}


def measured(**changes):
    """A report.json: 10 test images, 7 right."""
    mistake = {
        "number": 4, "file": "", "label": 0, "predicted": 1, "label_probability": 0.001, "probability": 0.9,
        "picture": picture(),
    }  # fmt: skip
    values = {
        "version": 1,
        "status": "finished",
        "message": "",
        "started": "2026-01-02T03:04:05+00:00",
        "environment": {"NumPy": "2.4", "threads": "2"},
        "parameters": 1234,
        "predictions": {
            "part": "test", "images": 10, "total": 10, "weights": "the weights of epoch 2",
            "confusion": [[0, 0, 2], [0, 1, 2], [1, 1, 3], [2, 2, 2], [2, 0, 1]], "mistakes": [mistake],
        },
        "filters": {
            "layer": "conv1", "kind": "Conv2d", "total": 2, "size": [3, 3], "channels": 1,
            "pictures": [picture(), picture()],
        },
        "layers": {
            "steps": 3, "images": 8, "seconds": 0.01,
            "rows": [["conv1", "Conv2d", 1, 0.004, 0.003], ["relu", "ReLU", 0, 0, 0], ["data", "", 1, 0.003, 0]],
        },
    }  # fmt: skip
    return {**values, **changes}


TEST = {"kind": "test", "weights": "best", "epoch": 2, "loss": 0.9, "accuracy": 0.7}


@pytest.fixture
def make_run(tmp_path):
    """``make_run(name, ...)``: a folder; of config.json, log and report.json those that are given."""

    def make(name="run", *, config=None, classes=CLASSES, log=None, values=None):
        options = {"model": "small-cnn", "data": "pets", "epochs": 2, "lr": 0.01, **(config or {})}
        described = {"classes": list(classes), "image_shape": [1, 4, 4], "images": [50, 5, 10]}
        folder = RunFolder.create(tmp_path / name, {"xpconv": "0.1.0", "config": options, "data": described})
        log = [step(0.5), epoch(1), step(1.5), epoch(2), TEST] if log is None else log
        folder.log.write_text("".join(json.dumps(record) + "\n" for record in log))
        if values is not False:
            folder.measured.write_text(json.dumps(measured() if values is None else values))
        return folder

    return make


@pytest.fixture
def make():
    """Lines of a log, and a report.json."""
    return SimpleNamespace(epoch=epoch, step=step, measured=measured, picture=picture, test=TEST)
