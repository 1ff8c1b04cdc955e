"""The example with scikit-learn."""

import pytest


def test_it_learns(example, capsys):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    accuracy = example("sklearn_pipeline.py").main(["--small"])
    out = capsys.readouterr().out
    assert accuracy > 0.5
    assert f"test accuracy {accuracy:.4f}" in out
    assert "default network: cross-validated accuracy 0." in out
