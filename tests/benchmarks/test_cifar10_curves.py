"""The run in both libraries: that it is the same run."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="the run is compared with PyTorch's")
pytest.importorskip("threadpoolctl", reason="the benchmarks need the extra 'bench'")
pytest.importorskip("benchmarks", reason="the benchmarks are in the repository, not in the package")

from benchmarks import cifar10_curves
from xpconv.data import ArrayDataset, Splits


def pictures(rng, count):
    labels = np.arange(count) % 3
    images = rng.integers(0, 40, (count, 3, 8, 8)) + 60 * labels[:, None, None, None]
    return ArrayDataset(images.astype(np.uint8), labels, name="cifar10")


def test_both_train_alike_and_leave_their_curves(rng, tmp_path, monkeypatch, capsys):
    splits = Splits(pictures(rng, 160), pictures(rng, 30))
    monkeypatch.setattr(cifar10_curves, "load", lambda name: splits)
    out = tmp_path / "new" / "curves"
    assert cifar10_curves.main(["--epochs", "2", "--depth", "8", "--threads", "1", "--out", str(out)]) == 0
    curves = json.loads(out.with_suffix(".json").read_text())["curves"]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert list(curves) == ["xpconv", "torch"]
    for mine, theirs in zip(*curves.values(), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)  # four steps: rounding alone
    assert "apart" in capsys.readouterr().out
