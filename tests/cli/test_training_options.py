"""Options of ``xpconv train`` beyond the plain run, ``xpconv lr-find``, and the report of ``xpconv evaluate``."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xpconv.training import read_checkpoint

ALL = ("--ema", 0.9, "--accumulate", 2, "--clip-norm", 1, "--mixed-precision", "float16", "--save-every", 3)


def bits(path):
    checkpoint = read_checkpoint(path)
    return {name: array.tobytes() for name, array in checkpoint.arrays.items()}, checkpoint.state["step"]


def last_line(out):
    return out.splitlines()[-1]


def test_all_of_them(train, run):
    out = train(*ALL, "--early-stopping", 5)
    assert "forward and backward in float16, batches in 2 parts, weights averaged with decay 0.9\n" in out
    checkpoint = read_checkpoint("r/last.safetensors")
    assert checkpoint.state["ema"] == {"decay": 0.9, "count": 18}
    assert checkpoint.state["loss_scale"]["scale"] > 0
    assert [entry["kind"] for entry in checkpoint.state["callbacks"]] == ["EarlyStopping"]
    status, evaluated, _ = run("evaluate", "r")
    assert status == 0
    assert last_line(evaluated) == last_line(out)  # with the averaged weights, both


def test_interrupted_and_resumed(train, run, npz, monkeypatch):
    """A process that is gone after a checkpoint within an epoch: the run that goes on is the one that was whole."""
    from xpconv.training import RunRecorder

    train(*ALL)
    whole = bits("r/last.safetensors")
    on_step_end = RunRecorder.on_step_end

    def killed(self, trainer):
        on_step_end(self, trainer)
        if trainer.step == 13:
            raise OSError("gone")

    arguments = ("--data", npz, "--epochs", 2, "--batch-size", 9)
    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "on_step_end", killed)
        status, _, err = run("train", *arguments, "--out", "s", *ALL)
    assert (status, err) == (2, "xpconv: error: gone\n")
    assert read_checkpoint("s/last.safetensors").state["step"] == 12
    assert run("train", "--resume", "s")[0] == 0
    assert bits("s/last.safetensors") == whole


def test_early_stopping(train, run):
    """It stops, stays stopped when resumed, and goes on with more patience."""
    out = train("--epochs", 30, "--lr", 1e-12, "--early-stopping", 2)
    record = read_checkpoint("r/last.safetensors").state
    epoch = record["epoch"]
    assert epoch < 30
    assert f"stopped   early, after epoch {epoch}: the validation accuracy has not become better any more\n" in out
    accuracies = [entry["val_accuracy"] for entry in record["history"]]
    assert max(accuracies[-2:]) <= max(accuracies[:-2])
    status, again, _ = run("train", "--resume", "r")
    assert status == 0
    assert last_line(again) == last_line(out)
    assert read_checkpoint("r/last.safetensors").state["epoch"] == epoch
    assert run("train", "--resume", "r", "--early-stopping", 3)[0] == 0
    assert read_checkpoint("r/last.safetensors").state["epoch"] > epoch


def test_profile(train):
    """A table and a trace, and the same run as without."""
    train()
    plain = bits("r/last.safetensors")
    out = train("--profile", "--out", "p")
    lines = out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.split() == [
        "layer", "kind", "calls", "forward", "ms", "backward", "ms", "share",
    ])  # fmt: skip
    assert lines[head + 1].split()[:2] == ["(model)", "SmallConvNet"]
    assert lines[head + 2].split()[:2] == ["conv1", "Conv2d"]
    assert "profile   10 steps; p/trace.json is for chrome://tracing\n" in out
    events = json.loads(Path("p/trace.json").read_text())["traceEvents"]
    assert {"conv1", "fc", "data", "loss", "optimizer"} <= {event["name"] for event in events}
    assert sum(event["name"] == "optimizer" for event in events) == 10
    assert bits("p/last.safetensors") == plain


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            ("--early-stopping", 2, "--validation", 0),
            "--early-stopping: needs validation images, and --validation 0 of",
        ),
        (
            ("--early-stopping", 2, "--validation", 0.001),
            "--early-stopping: needs validation images, and --validation 0.001",
        ),
        (("--early-stopping", 0), "--early-stopping: must be at least 1, got 0"),
        (("--ema", 1.0), "--ema: must be at least 0 and below 1, got 1.0"),
        (("--clip-norm", 0), "--clip-norm: must be above 0, got 0.0"),
        (("--accumulate", 0), "--accumulate: must be at least 1, got 0"),
        (
            ("--mixed-precision", "float8"),
            "--mixed-precision: must be one of float16, bfloat16 (did you mean float16?)",
        ),
        (("--mixed-precision", "bfloat16"), "mixed_precision: the backend numpy has no bfloat16"),
        (("--mixed-precision", "float16", "--dtype", "float64"), "mixed_precision: expected a model in float32, got"),
    ],
)
def test_wrong_options(run, npz, tmp_path, options, match):
    """One line, and no folder."""
    status, _, err = run("train", "--data", npz, "--out", "r", *options)
    assert status == 2
    assert err.startswith(f"xpconv: error: {match}")
    assert err.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_what_a_resumed_run_must_keep(train, run):
    train("--ema", 0.9)
    status, _, err = run("train", "--resume", "r", "--ema", 0.8)
    assert (status, err) == (2, "xpconv: error: --ema: the run in r has 0.9, got 0.8; start a new run for it\n")


def test_lr_find(run, npz, tmp_path):
    status, out, err = run(
        "lr-find", "--data", npz, "--batch-size", 9, "--steps", 40, "--start", 1e-5, "--picture", "lr.png",
        "--optimizer", "sgd", "--accumulate", 2,
    )  # fmt: skip
    assert (status, err) == (0, "")
    label, value = last_line(out).rsplit(" ", 1)
    assert label == "suggested learning rate"
    assert 1e-5 < float(value) <= 1
    with Image.open(tmp_path / "lr.png") as image:
        assert image.format == "PNG"
    assert [path.name for path in tmp_path.iterdir()] == ["lr.png"]


def test_lr_find_finds_nothing(run, npz):
    status, _, err = run("lr-find", "--data", npz, "--steps", 10, "--start", 1e3, "--end", 1e4, "--optimizer", "sgd")
    assert status == 1
    assert err.startswith("xpconv: error: no learning rate has made the loss smaller")


def test_report(train, run, npz):
    train()
    status, out, _ = run("evaluate", "r", "--report")
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    start = lines.index(["class", "precision", "recall", "f1", "images"])
    with np.load(npz) as arrays:
        counts = np.bincount(arrays["y_test"])
    assert [line[-1] for line in lines[start + 1 : start + 4]] == [str(count) for count in counts]
    assert lines[start + 4][0] == "macro"
    assert lines[start + 5] == ["accuracy", lines[-1][-1]]
    assert not any(line[:2] == ["top", "5"] for line in lines)  # of three classes
