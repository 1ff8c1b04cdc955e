"""A user's script under ``mypy --strict``: no errors, and types that say something."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import xpconv

SCRIPT = """\
from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

import xpconv
from xpconv import Trainer, data, functional as F, layers as L, models, optim
from xpconv.backends import get_kernels, use_kernels
from xpconv.training import EarlyStopping, confusion_matrix


class Scaled(L.Layer):
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def forward(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return x * np.float32(self.factor)

    def backward(self, dy: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return dy * np.float32(self.factor)


def network(classes: int) -> L.Sequential:
    return L.Sequential(
        L.Conv2d(1, 8, 3, padding=1), L.BatchNorm2d(8), L.ReLU(), L.MaxPool2d(2), Scaled(0.5), L.Flatten(),
        L.Linear(8 * 14 * 14, classes),
    )


def operators(x: npt.NDArray[np.float32], w: npt.NDArray[np.float32]) -> None:
    y, cache = F.conv2d(x, w, stride=(1, 2), padding="same")
    dx, dw, db = F.conv2d_backward(y, cache)
    reveal_type(cache)
    reveal_type(cache.geometry.window.out_h)
    loss, dscores = F.softmax_cross_entropy(x, np.arange(4))
    reveal_type(F.max_pool2d(x, 2))


def train(folder: Path) -> float:
    xpconv.set_backend("numpy")
    xpconv.manual_seed(1)
    splits = data.load("fashion-mnist-small")
    reveal_type(splits.train)
    reveal_type(splits.test[0])
    reveal_type(splits.test[:100])
    reveal_type(data.load(folder).test)
    net = network(len(splits.train.classes))
    reveal_type(list(net.named_parameters()))
    reveal_type(net[0])
    reveal_type(net[:-1])
    optimizer = optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    trainer = Trainer(net, F.softmax_cross_entropy, optimizer, callbacks=[EarlyStopping(3)])
    trainer.fit(splits.train, epochs=1, validation=splits.test)
    trainer.save(folder / "net.safetensors")
    xpconv.save_weights(net, folder / "weights.safetensors")
    result = trainer.evaluate(splits.test)
    reveal_type(result)
    return result.accuracy


def elsewhere(folder: Path) -> None:
    resnet = models.resnet18(num_classes=10)
    reveal_type(resnet)
    xpconv.onnx.export(resnet, folder / "net.onnx", (3, 32, 32))
    with xpconv.use_backend("numpy"), use_kernels("generic"):
        reveal_type(get_kernels())
    reveal_type(xpconv.get_num_threads())
    reveal_type(xpconv.to_numpy(xpconv.asarray([1.0, 2.0])))
    reveal_type(xpconv.Parameter(np.zeros(3)).grad)


def classifier() -> None:
    from xpconv.sklearn import ConvNetClassifier

    model = ConvNetClassifier(max_iter=2)
    reveal_type(model.fit(np.zeros((4, 8, 8)), np.arange(4)))
"""


# what the calls of reveal_type say, in their order: part of it
REVEALED = (
    "xpconv.functional.conv.Conv2dCache",
    "int",
    "xpconv.functional.pool.MaxPool2dCache",
    "xpconv.data.dataset.ArrayDataset",
    "tuple[numpy.ndarray[",
    "xpconv.data.dataset.ArrayDataset",
    "xpconv.data.dataset.Dataset",
    "list[tuple[str, xpconv.layers.base.Parameter]]",
    "xpconv.layers.base.Layer",
    "xpconv.layers.containers.Sequential",
    "xpconv.training.metrics.Metrics",
    "xpconv.models.resnet.ResNet",
    "str",
    "int",
    "numpy.ndarray[",
    "Any | None",
    "xpconv.sklearn._classifier.ConvNetClassifier",
)


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_a_users_script_is_clean_under_strict(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    # as installed, where py.typed tells mypy to read the package
    environment = os.environ | {"MYPYPATH": str(Path(xpconv.__file__).parents[1])}
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--ignore-missing-imports"]
    done = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache"), "script.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    revealed = re.findall(r'Revealed type is "(.*)"$', done.stdout, re.MULTILINE)
    assert len(revealed) == len(REVEALED) == SCRIPT.count("reveal_type("), done.stdout
    assert [(said, part) for said, part in zip(revealed, REVEALED, strict=True) if part not in said] == []
