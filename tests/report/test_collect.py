"""What is read from a run folder, and from one that is damaged."""

import json

import pytest

from xpconv.report import read_run
from xpconv.training import RunFolder, RunFolderError


def test_a_whole_run(make_run):
    run = read_run(make_run("my run").path)
    assert (run.name, run.version, run.status, run.parameters) == ("my run", "0.1.0", "finished", 1234)
    assert run.config["model"] == "small-cnn"
    assert run.classes == ("cat", "dog", "eel")
    assert (run.image_shape, run.images) == ((1, 4, 4), (50, 5, 10))
    assert [record["loss"] for record in run.epochs] == [2.0, 1.0]
    assert [record["position"] for record in run.steps] == [0.5, 1.5]
    assert run.test == {"loss": 0.9, "accuracy": 0.7, "epoch": 2}
    assert run.seconds == 3.0
    assert run.best["epoch"] == 2
    assert run.environment == {"NumPy": "2.4", "threads": "2"}
    assert run.predictions.confusion[0, 1] == 2
    assert run.predictions.mistakes[0].picture.startswith("data:image/png;base64,iVBOR")
    assert run.filters.size == (3, 3)
    assert run.layers.rows[0] == ("conv1", "Conv2d", 1.0, 0.004, 0.003)
    assert run.notes == ()


def test_a_run_of_a_program_of_ones_own(tmp_path):
    """Any configuration, and nothing else."""
    folder = RunFolder.create(tmp_path / "r", {"lr": 0.1, "anything": [1, {"a": None}]})
    run = read_run(folder.path)
    assert run.config == {"lr": 0.1, "anything": [1, {"a": None}]}
    assert (run.epochs, run.test, run.best, run.status, run.notes) == ([], None, None, "", ())


def test_the_best_epoch(make_run, make):
    folder = make_run()

    def best(*log):
        folder.log.write_text("".join(json.dumps(record) + "\n" for record in log))
        return read_run(folder.path).best

    accuracy = [make.epoch(1, val_accuracy=0.5, val_loss=0.1), make.epoch(2, val_accuracy=0.7, val_loss=0.9)]
    assert best(*accuracy)["epoch"] == 2
    assert best(*(make.epoch(k, val_accuracy=0.5, val_loss=v) for k, v in ((1, 0.3), (2, 0.2), (3, 0.4))))["epoch"] == 2
    regression = [make.epoch(k, val_accuracy=None, val_loss=v) for k, v in ((1, 0.35), (2, 0.6))]
    assert best(*regression)["epoch"] == 1
    assert best(make.epoch(1, val_loss=None, val_accuracy=None)) is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "no such folder"),
        ({}, "not a run folder: it has no config.json"),
        ({"config.json": "{"}, "config.json: damaged"),
        ({"config.json": "[]"}, "config.json: damaged: it has no version"),
        ({"config.json": "\x00\xff"}, "config.json: damaged"),
        ({"config.json": '{"version": 2}'}, r"config.json: format 2, this xpconv reads 1; update xpconv"),
        ({"config.json": "[" * 100000}, "config.json: damaged"),
    ],
)
def test_no_run(tmp_path, files, message):
    folder = tmp_path / "r"
    if files is not None:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text, encoding="latin-1")
    with pytest.raises(RunFolderError, match=message):
        read_run(folder)


def test_a_log_of_garbage(make_run, make):
    folder = make_run(log=[])
    lines = [
        json.dumps(make.epoch(2)),
        json.dumps(make.epoch(1, loss=1e400, accuracy="good", val_loss=10**400, val_accuracy=True)),  # Infinity, ...
        json.dumps(make.epoch(3, val_top5=0.9)),
        json.dumps(make.epoch(-1)),
        json.dumps(make.epoch(1, epoch="1")),
        json.dumps(make.epoch(1.5)),
        json.dumps(make.step(None)),
        json.dumps({"kind": ["epoch"], "epoch": 9}),
        json.dumps([1, 2]),
        "not json",
        json.dumps(make.epoch(4))[:-9],  # cut off
    ]
    folder.log.write_bytes("\n".join(lines).encode() + b"\xff\xfe\n")
    run = read_run(folder.path)
    assert [record["epoch"] for record in run.epochs] == [1, 2, 3]
    first = run.epochs[0]
    assert [first[key] for key in ("loss", "accuracy", "val_loss", "val_accuracy")] == [None] * 4
    assert run.epochs[2]["val_top5"] == 0.9
    assert run.notes == ("log.jsonl: 5 lines make no sense and are left out",)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"version"', '{"version', "{}", "[" * 100000, "\xff"])
def test_a_damaged_report_costs_itself(make_run, text):
    folder = make_run()
    folder.measured.write_text(text, encoding="latin-1")
    run = read_run(folder.path)
    assert len(run.epochs) == 2
    assert (run.predictions, run.filters, run.layers, run.environment, run.status) == (None, None, None, {}, "")
    assert run.notes == ("report.json: damaged, left out",)


def test_a_report_of_a_newer_version(make_run, make):
    run = read_run(make_run(values=make.measured(version=99)).path)
    assert run.predictions is None
    assert run.notes == ("report.json: format 99, this xpconv reads 1; update xpconv to see it",)


PARTS = [
    ("environment", []),
    ("environment", "text"),
    ("parameters", -1),
    ("parameters", 1.5),
    ("parameters", True),
    ("predictions", []),
    ("predictions", {"part": "secret", "images": 1, "total": 1, "confusion": [], "mistakes": []}),
    ("predictions", {"part": "test", "images": 1, "total": 1, "confusion": [[0, 1]], "mistakes": []}),
    ("predictions", {"part": "test", "images": 1, "total": 1, "confusion": [[0, -1, 3]], "mistakes": []}),
    ("predictions", {"part": "test", "images": 1, "total": 1, "confusion": [], "mistakes": [{"number": 1}]}),
    ("filters", {"layer": "a", "kind": "b", "total": 1, "size": [3], "channels": 1, "pictures": []}),
    ("filters", {"layer": "a", "kind": "b", "total": 1, "size": [3, 3], "channels": 1, "pictures": ["PHN2Zz4="]}),
    ("filters", {"layer": "a", "kind": "b", "total": 1, "size": [3, 3], "channels": 1, "pictures": ['" onload="']}),
    ("layers", {"steps": 1, "images": 1, "seconds": 0, "rows": []}),
    ("layers", {"steps": 1, "images": 1, "seconds": 1, "rows": [["a", "b", 1, None, 1]]}),
]


@pytest.mark.parametrize(("name", "value"), PARTS)
def test_a_damaged_part_costs_itself(make_run, make, name, value):
    run = read_run(make_run(values=make.measured(**{name: value})).path)
    assert not getattr(run, name)
    assert run.notes == (f"report.json: the part '{name}' is damaged and left out",)
    for other in {"environment", "parameters", "predictions", "filters", "layers"} - {name}:
        assert getattr(run, other)


def test_a_description_that_makes_no_sense(tmp_path):
    described = {"classes": 5, "image_shape": [-1], "images": "x"}
    folder = RunFolder.create(tmp_path / "r", {"xpconv": 3, "config": 4, "data": described})
    run = read_run(folder.path)
    assert (run.version, run.classes, run.image_shape, run.images) == ("", (), (), ())
