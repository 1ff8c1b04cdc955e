"""What a run leaves for its page, against what NumPy and the data say."""

import base64
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from xpconv import data, layers
from xpconv.report import read_run
from xpconv.report.record import Recording, environment
from xpconv.training import RunFolder

SCORES = np.array(
    [[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 4.0]], dtype=np.float32
)
LABELS = np.array([0, 0, 2, 2, 1])


@pytest.fixture
def recording(tmp_path):
    """One that has begun, of a net with one convolution."""
    net = layers.Sequential(layers.ReLU(), layers.Conv2d(1, 2, 3, rng=np.random.default_rng(0)))
    return Recording(RunFolder.create(tmp_path / "r", {}), net, 7), net


def images_of(shape, dtype=np.uint8):
    count = int(np.prod(shape))
    values = (np.arange(5 * count).reshape(5, *shape) % 251).astype(dtype)
    return data.ArrayDataset(values, LABELS, classes=("a", "b", "c"))


def decode(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_it_begins_with_what_is_known(recording):
    run = read_run(recording[0].folder.path)
    assert (run.status, run.parameters) == ("running", 2 * 9 + 2)
    assert run.environment["seed"] == "7"
    assert run.environment["NumPy"].startswith(np.__version__)
    assert run.environment["Python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert run.started


def test_environment_outside_of_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    facts = environment()
    assert "commit" not in facts
    assert "seed" not in facts
    monkeypatch.setenv("PATH", "")
    assert environment() == facts


def test_confusion_and_mistakes(recording):
    recording[0].predictions("test", images_of((1, 6, 5)), SCORES, weights="some")
    recording[0].end("finished")
    found = read_run(recording[0].folder.path).predictions
    assert found.confusion == {(0, 0): 1, (0, 1): 1, (2, 0): 1, (2, 2): 1, (1, 2): 1}
    assert (found.part, found.images, found.total, found.weights) == ("test", 5, 5, "some")
    p = np.exp(SCORES.astype(float)) / np.exp(SCORES.astype(float)).sum(axis=1, keepdims=True)
    assert [m.number for m in found.mistakes] == [2, 4, 1]  # p of the label: 0.007, 0.017, 0.045
    for mistake in found.mistakes:
        assert (mistake.label, mistake.predicted) == (LABELS[mistake.number], SCORES[mistake.number].argmax())
        assert mistake.label_probability == pytest.approx(p[mistake.number, mistake.label])
        assert mistake.probability == pytest.approx(p[mistake.number, mistake.predicted])


def test_only_the_worst_mistakes_are_kept(recording):
    rng = np.random.default_rng(0)
    labels = np.zeros(100, int)
    labels[0] = 1
    scores = np.stack([np.zeros(100), rng.uniform(1, 9, 100)], axis=1)
    many = data.ArrayDataset(np.zeros((100, 1, 2, 2), np.uint8), labels)
    recording[0].predictions("validation", many, scores, weights="")
    mistakes = recording[0]._values["predictions"]["mistakes"]
    expected = np.argsort(-scores[1:, 1])[:24] + 1
    assert [m["number"] for m in mistakes] == expected.tolist()
    json.dumps(recording[0]._values, allow_nan=False)


@pytest.mark.parametrize(
    ("shape", "dtype", "mode", "size", "kind"),
    [
        ((1, 6, 5), np.uint8, "L", (5, 6), "PNG"),
        ((3, 6, 5), np.uint8, "RGB", (5, 6), "PNG"),
        ((2, 6, 5), np.uint8, "L", (5, 6), "PNG"),
        ((4, 6, 5), np.uint8, "L", (5, 6), "PNG"),
        ((1, 6, 5), np.float32, "L", (5, 6), "PNG"),
        ((3, 224, 448), np.uint8, "RGB", (112, 56), "JPEG"),
        ((1, 300, 300), np.float64, "L", (112, 112), "PNG"),
    ],
)
def test_pictures_of_mistakes(recording, shape, dtype, mode, size, kind):
    images = images_of(shape, dtype)
    recording[0].predictions("test", images, SCORES, weights="")
    found = decode(recording[0]._values["predictions"]["mistakes"][0]["picture"])
    assert (found.mode, found.size, found.format) == (mode, size, kind)
    if size == (5, 6) and dtype == np.uint8:
        image = images.images[2]
        expected = {"L": image.mean(axis=0).round(), "RGB": image.transpose(1, 2, 0)}[mode]
        np.testing.assert_array_equal(np.asarray(found), expected)
    else:
        assert np.asarray(found).std() > 1  # not one colour


def test_files_of_mistakes(recording, tmp_path):
    for k in range(5):
        Image.new("L", (4, 4), 40 * k).save(tmp_path / f"<{k}>.png")
    files = data.ImageFiles([tmp_path / f"<{k}>.png" for k in range(5)], LABELS, classes=("a", "b", "c"))
    recording[0].predictions("test", files, SCORES, weights="")
    recording[0].end("finished")
    found = read_run(recording[0].folder.path).predictions.mistakes
    assert [m.file for m in found] == [str(tmp_path / f"<{k}>.png") for k in (2, 4, 1)]


@pytest.mark.parametrize("bad", [np.full((5, 3), np.nan), np.zeros((0, 3)), np.zeros(5)])
def test_scores_that_are_no_use(recording, bad, capfd):
    recording[0].predictions("test", images_of((1, 6, 5)), bad, weights="")
    recording[0].end("finished")
    assert read_run(recording[0].folder.path).predictions is None
    assert capfd.readouterr().err == ""


def test_filters(recording):
    record, net = recording
    weight = np.linspace(-1, 0.5, 18).reshape(2, 1, 3, 3).astype(np.float32)
    net[1].weight.data[...] = weight
    record.filters(net, (1, 8, 8))
    record.end("finished")
    found = read_run(record.folder.path).filters
    assert (found.layer, found.kind, found.total, found.size, found.channels) == ("1", "Conv2d", 2, (3, 3), 1)
    pixels = np.asarray(decode(found.pictures[0].partition(",")[2]))
    assert pixels[0, 0] == 0  # the largest weight, negative: black
    np.testing.assert_allclose(pixels, 127.5 + 127.5 * weight[0, 0] / np.abs(weight[0]).max(), atol=0.51)


def test_filters_of_a_linear_layer_are_images(recording):
    net = layers.Sequential(layers.Flatten(), layers.Linear(3 * 4 * 5, 70))
    recording[0].filters(net, (3, 4, 5))
    found = recording[0]._values["filters"]
    assert (found["total"], found["size"], found["channels"], len(found["pictures"])) == (70, [4, 5], 3, 64)
    assert decode(found["pictures"][0]).mode == "RGB"


@pytest.mark.parametrize(
    "net",
    [layers.Sequential(layers.ReLU()), layers.Sequential(layers.BatchNorm2d(1)), layers.Linear(7, 2)],
    ids=["no-weights", "norm-first", "not-of-images"],
)
def test_networks_without_filters(recording, net, capfd):
    recording[0].filters(net, (1, 8, 8))
    assert recording[0]._values["filters"] is None
    assert capfd.readouterr().err == ""


def test_no_error_in_here_ends_a_run(recording, monkeypatch):
    """One line tells the first, and the page is made of the rest."""
    record, net = recording
    monkeypatch.setattr("xpconv.report.record._filters", lambda *_: 1 / 0)

    def end():
        record.filters(net, (1, 8, 8))
        record.filters(net, (1, 8, 8))
        record.layers(None, None, 1, 1.0)
        record.end("finished")

    with pytest.warns(RuntimeWarning, match="lacks a part: division by zero") as warned:
        end()
    assert len(warned) == 1
    assert record.folder.report.exists()


def test_a_folder_that_is_gone(recording):
    record, _ = recording
    for path in record.folder.path.iterdir():
        path.unlink()
    record.folder.path.rmdir()
    with pytest.warns(RuntimeWarning, match="lacks a part: .*No such file") as warned:
        record.end("finished")
    assert len(warned) == 1
