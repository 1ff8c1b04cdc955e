"""The example that trains on Fashion-MNIST."""

import importlib.util
import re
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion_mnist.py"


@pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are in the repository, not in the package")
def test_it_learns(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("fashion_mnist", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    few = module.load("fashion-mnist-small")
    few = few._replace(train=few.train.subset(range(640)), test=few.test.subset(range(100)))
    monkeypatch.setattr(module, "load", lambda name: few)
    accuracy = module.main(["--epochs", "2"])
    out = capsys.readouterr().out
    first, second = (float(loss) for loss in re.findall(r"epoch \d: loss ([\d.]+),", out))
    assert second < first
    assert f"test accuracy {accuracy:.4f}" in out
