"""`xpconv report`, the page that `xpconv train` leaves, and `xpconv train --watch`."""

import json
import os
import signal
import socket
import urllib.request

import pytest

from xpconv.report import read_run


def test_the_page_of_a_run(train, tmp_path):
    out = train()
    run = read_run(tmp_path / "r")
    assert run.status == "finished"
    assert (run.predictions.part, run.predictions.images) == ("test", 30)
    right = sum(n for (label, guess), n in run.predictions.confusion.items() if label == guess)
    assert f"{right / 30:.4f}" == out.split()[-1]
    assert run.filters.kind == "Conv2d"
    assert run.layers.images == 9
    assert {row[0] for row in run.layers.rows} >= {"conv1", "data", "loss", "optimizer"}
    assert run.environment["seed"] == "0"
    assert (tmp_path / "r" / "report.html").stat().st_size < 400_000


def test_the_page_can_be_made_again(train, run, tmp_path):
    train()
    page = tmp_path / "r" / "report.html"
    before = page.read_bytes()
    page.unlink()
    for name in ("best.safetensors", "last.safetensors"):
        (tmp_path / "r" / name).unlink()
    assert run("report", "r") == (0, "report    r/report.html\n", "")
    assert page.read_bytes() == before
    assert run("report", "r", "--out", "other.html")[0] == 0
    assert (tmp_path / "other.html").read_bytes() == before


def test_runs_side_by_side(train, run, tmp_path):
    train()
    train("--lr", 0.001, "--out", "s")
    assert run("report", "r", "s") == (0, "report    comparison.html\n", "")
    assert "2 runs side by side" in (tmp_path / "comparison.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "gone: no such folder"),
        (["."], ".: not a run folder: it has no config.json"),
        (["r", "gone"], "gone: no such folder"),
        (["r", "r"], "r: this run is named twice"),
        (["r", "./r/"], "./r/: this run is named twice, also as r"),
        (["r", "--out", "r"], "--out: expected a file, r is a folder"),
        (["r", "--out", "none/there.html"], "none/there.html: No such file or directory"),
    ],
)
def test_mistakes_of_the_user(run, tmp_path, arguments, message):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.json").write_text('{"version": 1}')
    status, out, err = run("report", *arguments)
    assert (status, out) == (2, "")
    assert err == f"xpconv: error: {message}\n"


def test_a_damaged_folder_is_told(run, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.json").write_text('{"version": 1}')
    (tmp_path / "r" / "report.json").write_text("{")
    assert run("report", "r") == (0, "note      r: report.json: damaged, left out\nreport    r/report.html\n", "")


def test_open(run, tmp_path, monkeypatch):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.json").write_text('{"version": 1}')
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or len(opened) == 1)
    assert run("report", "r", "--open")[1] == "report    r/report.html\n"
    assert opened == [(tmp_path / "r" / "report.html").as_uri()]
    assert run("report", "r", "--open")[1].endswith("no browser was found here; open the file in one\n")


@pytest.mark.filterwarnings("default:the report:RuntimeWarning")
def test_no_report_ends_a_run(run, npz, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("the disk is full of pages")

    monkeypatch.setattr("xpconv.report.record._predictions", fail)
    status, out, err = run("train", "--data", npz, "--epochs", 1, "--out", "r")
    assert status == 0
    assert out.splitlines()[-1].startswith("test accuracy")
    assert err == "xpconv: warning: the report in r lacks a part: the disk is full of pages\n"
    assert read_run(tmp_path / "r").filters is not None


def test_a_run_that_fails_has_a_page(run, npz, tmp_path):
    status, _, err = run("train", "--data", npz, "--epochs", 1, "--lr", 1e30, "--optimizer", "sgd", "--out", "r")
    assert status == 1
    found = read_run(tmp_path / "r")
    assert found.status == "failed"
    assert found.message in err.replace("xpconv: error: ", "").rstrip("\n")
    assert "The run failed:" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")


def test_a_profile_is_not_measured_twice(train, tmp_path):
    train("--profile")
    assert read_run(tmp_path / "r").layers.steps == 10


def until_line(child, start):
    """The first line of output that begins so."""
    for line in child.stdout:
        if line.startswith(start):
            return line
    raise AssertionError(f"no line {start!r}: {child.stderr.read()}")


def test_watching_and_ctrl_c(process, npz, tmp_path):
    child = process("train", "--data", npz, "--epochs", 500, "--batch-size", 9, "--out", "r", "--watch", 0)
    address = until_line(child, "watch").split()[1]
    until_line(child, "epoch 2/")
    with urllib.request.urlopen(address, timeout=20) as answer:
        assert "small-cnn" in answer.read().decode()
    with urllib.request.urlopen(f"{address}run.json", timeout=20) as answer:
        news = json.loads(answer.read())
    assert len(news["charts"][1]["x"]) >= 1
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 130
    assert err.endswith("to go on: xpconv train --resume r\n")
    run = read_run(tmp_path / "r")
    assert run.status == "interrupted"
    assert (run.predictions.part, run.predictions.images) == ("validation", 9)
    assert run.filters is not None
    assert "To go on: xpconv train --resume" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")


def test_a_port_that_is_taken_is_told_before_the_run(run, npz, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        status, out, err = run("train", "--data", npz, "--out", "r", "--watch", port)
    assert (status, out) == (2, "")
    assert err == (
        f"xpconv: error: --watch: port {port} is taken, perhaps by another run that is watched; give another one, or 0 "
        "for any that is free: --watch 0\n"
    )
    assert os.listdir(tmp_path) == []
