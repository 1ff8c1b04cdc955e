"""``xpconv train`` on data as people keep them."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from xpconv.training import read_checkpoint, write_checkpoint

CLASSES = ("low", "middle", "high")  # of the set of `npz`
OPTIONS = ("--model", "lenet", "--epochs", 2, "--batch-size", 9, "--out", "r")


def read(npz, part):
    with np.load(npz) as arrays:
        return arrays[f"x_{part}"], arrays[f"y_{part}"]


@pytest.fixture
def folder(npz, tmp_path):
    """The images of the set as PNG files, a folder for each class; their classes in another order than by number."""
    for part in ("train", "test"):
        for k, (image, label) in enumerate(zip(*read(npz, part), strict=True)):
            path = tmp_path / "bands" / part / CLASSES[label] / f"{k:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(path)
    return tmp_path / "bands"


def losses(folder):
    lines = (json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "epoch"]


def test_a_folder_a_class(run, folder, tmp_path):
    status, out, err = run("train", "--data", folder, *OPTIONS, "--epochs", 6, "--lr", 0.01)
    assert (status, err) == (0, "")
    assert re.search(r"81 training, 9 validation and 30 test images of 1x12x12, 3 classes", out)
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["config"]["data"] == str(folder)
    assert config["data"]["classes"] == ["high", "low", "middle"]
    for name in ("last", "best"):
        state = read_checkpoint(tmp_path / "r" / f"{name}.safetensors").state
        assert state["classes"] == ["high", "low", "middle"]
    status, out, err = run("predict", "--run", "r", *sorted((folder / "test").glob("*/00[0-5].png")))
    assert (status, err) == (0, "")
    guesses = re.findall(r"/(\w+)/\d+.png: (\w+) ", out)
    assert len(guesses) == 6
    assert sum(name == guess for name, guess in guesses) >= 5
    accuracy = run("evaluate", "r")[1].splitlines()[-1]
    assert run("evaluate", "r", "--data", folder / "test", "--workers", 2)[1].startswith("weights")
    assert not (tmp_path / "r" / "skipped.csv").exists()
    # a folder with some of the classes: labels go by their names
    for name in ("low", "middle"):
        (folder / "part" / "train" / name).mkdir(parents=True)
        (folder / "test" / name).rename(folder / "part" / "train" / name / "of")
    (folder / "part" / "train").rename(folder / "rest")
    status, out, _ = run("evaluate", "r", "--data", folder / "rest")
    assert status == 0
    assert float(out.split()[-1]) >= float(accuracy.split()[-1]) - 0.2
    (folder / "rest" / "low").rename(folder / "rest" / "lower")
    status, _, err = run("evaluate", "r", "--data", folder / "rest")
    assert status == 2
    assert "unknown classes lower; known are high, low, middle" in err


def test_names_that_are_digits_are_names(run, folder):
    for part in ("train", "test"):
        for number, name in enumerate(("high", "low", "middle")):
            (folder / part / name).rename(folder / part / str(number))
    assert run("train", "--data", folder, *OPTIONS, "--epochs", 4, "--lr", 0.01)[0] == 0
    report = run("evaluate", "r", "--report")[1]
    recall = re.search(r"^2 +\S+ +(\S+)", report, re.M)[1]
    assert float(recall) > 0.4  # else what follows could not fail
    (folder / "few" / "train").mkdir(parents=True)
    (folder / "few" / "test").mkdir()
    for number in (0, 2):  # 2 is the second class there
        (folder / "train" / str(number)).rename(folder / "few" / "train" / str(number))
    (folder / "test" / "2").rename(folder / "few" / "test" / "2")
    status, out, _ = run("evaluate", "r", "--data", folder / "few")
    assert status == 0
    assert out.split()[-1] == recall


def test_classes_without_names_go_by_number(run, npz, folder):
    assert run("train", "--data", npz, *OPTIONS)[0] == 0
    assert run("evaluate", "r", "--data", folder)[0] == 0  # high is 0 there, and nobody can know


def test_predict_takes_the_names_from_the_checkpoint(run, folder, tmp_path):
    assert run("train", "--data", folder, *OPTIONS)[0] == 0
    config = tmp_path / "r" / "config.json"
    config.write_text(config.read_text().replace('"low"', '"deep"'))
    _, out, _ = run("predict", "--run", "r", next(folder.glob("test/low/*.png")))
    assert "low" in out.split(": ")[1]
    assert "deep" not in out


def test_bad_files_are_refused_or_kept_in_a_list(run, folder, tmp_path):
    (folder / "train" / "low" / "note.txt").write_text("hello")
    (folder / "test" / "high" / "empty, really.png").write_bytes(b"")
    status, _, err = run("train", "--data", folder, *OPTIONS)
    assert status == 2
    assert "1 of 91 files are no use; bad='skip' (--bad-files skip) goes on without them" in err
    assert "note.txt: cannot be read as an image" in err
    assert not (tmp_path / "r").exists()
    status, out, err = run("train", "--data", folder, *OPTIONS, "--bad-files", "skip")
    assert (status, err) == (0, "")
    assert "skipped   2 files, listed in r/skipped.csv" in out
    with open(tmp_path / "r" / "skipped.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == [
        str(folder / "train" / "low" / "note.txt"),
        str(folder / "test" / "high" / "empty, really.png"),
    ]
    assert all(row["reason"].startswith("cannot be read as an image") for row in rows)


def write(kind, folder, npz, tmp_path):
    """The images as another kind of data; options for it."""
    images, labels = read(npz, "train")
    if kind == "csv":
        paths = sorted(folder.glob("t*/*/*.png"))
        lines = [f"{path.relative_to(folder)},{path.parent.name},{path.parts[-3]}" for path in paths]
        (folder / "list.csv").write_text("\n".join(["path,class,split", *lines]))
        return "--data", folder / "list.csv"
    if kind == "npy":
        np.save(tmp_path / "pictures.npy", images)
        np.save(tmp_path / "classes.npy", labels)
        return "--data", "pictures.npy", "--labels", "classes.npy"
    if kind == "h5":
        h5py = pytest.importorskip("h5py", reason="needs h5py")
        with h5py.File(tmp_path / "set.h5", "w") as file:
            file["images"], file["labels"], file["classes"] = images, labels, list(CLASSES)
        return "--data", "set.h5"
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    return "--data", "set.npz"


@pytest.mark.parametrize("kind", ["csv", "npy", "h5", "npz"])
def test_other_kinds_and_any_number_of_workers(run, folder, npz, tmp_path, kind):
    data = write(kind, folder, npz, tmp_path)
    augment = ("--mirror", "--jitter", 0.2, "--cutout", 3, "--mixup", 0.2, "--class-weights", "balanced")
    assert run("train", *data, *OPTIONS, *augment)[0] == 0
    expected = losses(tmp_path / "r")
    assert len(expected) == 2
    assert np.isfinite(expected).all()
    assert run("train", *data, *OPTIONS, *augment, "--workers", 3, "--out", "s")[0] == 0
    assert losses(tmp_path / "s") == expected
    assert run("evaluate", "s", "--workers", 0)[0] == 0
    # on its own, and one epoch further
    assert run("train", "--resume", "s", "--epochs", 3, "--workers", 0)[0] == 0
    assert losses(tmp_path / "s")[:2] == expected


def test_statistics_are_kept_and_not_computed_again(run, folder, tmp_path, monkeypatch):
    from xpconv.data import statistics

    options = ("--data", folder, "--statistics", "kept.json", *OPTIONS)
    assert run("train", *options)[0] == 0
    assert len(json.loads((tmp_path / "kept.json").read_text())["sets"]) == 1

    def compute(dataset, workers):
        raise AssertionError("computed again")

    monkeypatch.setattr(statistics, "_compute", compute)
    assert run("train", *options, "--out", "s")[0] == 0
    assert losses(tmp_path / "s") == losses(tmp_path / "r")
    (tmp_path / "kept.json").unlink()
    assert run("train", "--resume", "s", "--epochs", 3)[0] == 0  # the run has them itself


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workers", -1), "--workers: must be at least 0 and below 1025, got -1"),
        (("--bad-files", "hide"), "--bad-files: must be one of refuse, skip, got hide"),
        (("--image-size", 0), "--image-size: must be at least 1, got 0"),
        (("--channels", 2), "--channels: must be 1 or 3, got 2"),
        (("--jitter", 2), "--jitter: must be from 0 to 1, got 2"),
        (("--mixup", -1), "--mixup: must be at least 0, got -1"),
        (("--class-weights", "rare"), "--class-weights: must be one of none, balanced, got rare"),
        (("--labels", "x.npy"), "labels: is for a .npy file, not for "),
    ],
)
def test_bad_options(run, npz, options, message):
    status, _, err = run("train", "--data", npz, *options)
    assert status == 2
    assert message in err


def test_a_checkpoint_that_names_fewer_classes(run, folder, tmp_path):
    assert run("train", "--data", folder, *OPTIONS)[0] == 0
    arrays, state = read_checkpoint(tmp_path / "r" / "last.safetensors")
    write_checkpoint(tmp_path / "r" / "last.safetensors", arrays, {**state, "classes": ["high"]})
    for command in (("predict", "--run", "r", next(folder.glob("test/low/*.png"))), ("evaluate", "r")):
        status, _, err = run(*command, "--weights", "last")
        assert status == 2
        assert "r/last.safetensors: names 1 classes, its run has 3" in err
