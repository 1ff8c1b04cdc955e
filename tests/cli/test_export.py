"""``xpconv export``: the file computes what the run has learned."""

import json
import os
import re

import numpy as np
import pytest

import xpconv.onnx
from xpconv import data, to_numpy
from xpconv.cli.run import build_model, choose_weights, open_run
from xpconv.training import load_trained

onnx = pytest.importorskip("onnx", reason="the package of the format")


@pytest.fixture
def trained(train):
    """Folder of a short run."""
    train("--model", "small-cnn")
    return "r"


def scores(folder, x, weights=None):
    run_folder, config, info = open_run(folder)
    model = build_model(config, info)
    load_trained(model, choose_weights(run_folder, weights))
    normalized = info.normalize("float32")(xpconv.asarray(x), np.random.default_rng(), False)
    return to_numpy(model.eval().forward(normalized)), to_numpy(normalized), info


@pytest.mark.parametrize("options", [[], ["--fold-batch-norm"], ["--normalize", "--weights", "last"]])
def test_the_file_computes_the_scores_of_the_run(options, run, trained, npz):
    runtime = pytest.importorskip("onnxruntime", reason="it runs the file")
    status, out, err = run("export", trained, "--out", "net.onnx", *options)
    assert (status, err) == (0, "")
    assert re.search(r"^net\.onnx: 0\.\d\d MiB, 3 classes$", out, re.MULTILINE)
    images = data.load(npz, None).test.images[:6]
    want, normalized, info = scores(trained, images, "last" if "last" in options else None)
    session = runtime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    x = images.astype(np.float32) / 255 if "--normalize" in options else normalized
    (got,) = session.run(["scores"], {"input": x})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    metadata = xpconv.onnx.load("net.onnx").metadata
    assert json.loads(metadata["classes"]) == list(info.classes)
    assert json.loads(metadata["mean"]) == list(info.mean)
    assert json.loads(metadata["std"]) == list(info.std)
    assert json.loads(metadata["normalized"]) == ("--normalize" in options)
    kinds = [node.op_type for node in onnx.load("net.onnx").graph.node]
    assert ("BatchNormalization" in kinds) == ("--fold-batch-norm" not in options)
    names = set(xpconv.onnx.load("net.onnx").state_dict())
    assert {"conv1.weight", "fc.weight", "fc.bias"} <= names


def test_errors(run, trained):
    def refused(message, *arguments):
        status, _, err = run("export", *arguments)
        assert status == 2
        assert re.fullmatch(r"xpconv: error: [^\n]+\n", err)
        assert re.search(message, err), err

    refused("required: --out", trained)
    refused("no such folder", "missing", "--out", "a.onnx")
    refused(r"missing/a\.onnx: No such file or directory", trained, "--out", "missing/a.onnx")
    os.remove("r/best.safetensors")
    refused(r"best\.safetensors: cannot read the checkpoint", trained, "--weights", "best", "--out", "a.onnx")
    assert not os.path.exists("a.onnx")


def test_help_has_an_example(run, capfd):
    with pytest.raises(SystemExit):
        run("export", "--help")
    assert "example: xpconv export runs/" in capfd.readouterr().out
