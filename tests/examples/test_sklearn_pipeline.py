"""The example with scikit-learn."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "sklearn_pipeline.py"


@pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are in the repository, not in the package")
def test_it_learns(capsys):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    spec = importlib.util.spec_from_file_location("sklearn_pipeline", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    accuracy = module.main(["--epochs", "2", "--images", "400"])
    out = capsys.readouterr().out
    assert accuracy > 0.5
    assert f"test accuracy {accuracy:.4f}" in out
    assert "default network: cross-validated accuracy 0." in out
