"""The example that fine-tunes a network of an ONNX file."""

import pytest


def test_it_loads_trains_and_writes(example, tmp_path, capsys):
    pytest.importorskip("onnx", reason="onnx is not installed")
    file = tmp_path / "tuned.onnx"
    tuned, _ = example("finetune_onnx.py").main(["--small", "--out", str(file)])
    out = capsys.readouterr().out
    assert tuned > 0.3  # of five classes
    assert f"accuracy {tuned:.3f} with all layers trained on" in out
    assert "written and read again: tuned.onnx" in out
    assert file.exists()
