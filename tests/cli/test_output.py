"""What is printed where: pipes, terminals of any width, machines, locales; and readers that go away."""

import json
import os
import re
import signal
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest

from xpconv._text import columns_of
from xpconv.cli import config, output, progress
from xpconv.cli.status import MEANINGS

from .conftest import make_images

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CONV = ("info", "--conv", "8,3,16,16", "4,3,3,3")
TRAIN = ("--epochs", 2, "--batch-size", 9, "--out", "r")


def lines_left(text):
    """What stays on a terminal: of a line that was written anew the last version, without colours."""
    return [ESCAPE.sub("", line.split("\r")[-1]).rstrip() for line in text.split("\n")]


def events(out):
    return [json.loads(line) for line in out.splitlines()]


# ---- terminals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [20, 40, 120])
def test_a_run_on_a_terminal(terminal, npz, columns):
    pytest.importorskip("rich", reason="live progress")
    status, text = terminal(columns, "train", "--data", npz, *TRAIN)
    assert status == 0, text
    live = [ESCAPE.sub("", part) for part in re.split(r"[\r\n]", text)]
    step = {
        20: r"\d/2  \d+/9  \d:\d\d",
        40: r"\d/2  \d+/9  loss \d\.\d{4}  \d:\d\d",
        120: r"epoch \d/2 .{20} step \d+/9  loss \d\.\d{4}  accuracy \d\.\d{4}  \d+ images/s  \d:\d\d left",
    }[columns]
    assert any(re.fullmatch(step, line.rstrip()) for line in live), live
    assert all(columns_of(line) <= columns for line in live if not npz.startswith(line.strip()) and npz not in line)
    assert "\x1b[?25h" in text  # the cursor is there again
    left = lines_left(text)
    assert left[-2:] == [next(line for line in left if line.startswith("test accuracy")), ""]
    assert "".join(left).replace(" ", "").count("valacc") == 2


class _Clock:
    """Stands for `time` in the module of the progress."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def test_the_time_left_follows_the_speed(monkeypatch, capsys):
    """Two epochs of 100 steps of 1 s and a validation of 10 s; then steps take 3 s."""
    clock = _Clock()
    monkeypatch.setattr(progress, "time", clock)
    shown = progress.PlainProgress(sys.stdout)
    trainer = types.SimpleNamespace(
        epochs=3, epoch=0, epoch_steps=100, epoch_step=0, batch_images=8,
        running=lambda: types.SimpleNamespace(loss=1.0, accuracy=0.5),
    )  # fmt: skip

    def steps(seconds, count):
        for _ in range(count):
            clock.now += seconds
            trainer.epoch_step += 1
            shown.on_step_end(trainer)

    left = []
    for seconds in (1, 3):
        shown.on_epoch_start(trainer)
        steps(seconds, 50)
        left.append(shown._left(trainer))
        steps(seconds, 50)
        clock.now += 10
        trainer.epoch, trainer.epoch_step = trainer.epoch + 1, 0
        shown.on_epoch_end(trainer, {"epoch": trainer.epoch, "loss": 1.0, "accuracy": 0.5})
    assert left[0] == pytest.approx(250)  # of the validations nothing is known yet
    assert left[1] == pytest.approx(150 * 3 + 2 * 10, rel=0.02)  # at the mean speed so far it would be 270
    lines = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch 1/3") and "step" not in line
    ]
    assert [line.split("  ")[-2:] for line in lines] == [["8/s", "3:40 left"]]


def test_a_terminal_without_a_size(terminal):
    status, text = terminal(0, *CONV)
    assert status == 0
    assert "forward" in text


@pytest.mark.parametrize("columns", [20, 80])
def test_info_fits(terminal, columns):
    status, text = terminal(columns, "info", environment={"XPCONV_NUM_THREADS": "1"})
    assert status == 0
    longest = max(text.split(), key=len)  # a path or a command is not broken; values begin in column 15
    assert [line for line in text.split("\n") if len(line) > max(columns, len(longest) + 15)] == []
    assert "conv2d" in text


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ],
)
def test_colours_on_a_terminal(monkeypatch, capsys, environment, coloured):
    set_environment(monkeypatch, environment)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.say("label", "text")
    output.result("result")
    assert capsys.readouterr().out == (
        "\x1b[36mlabel\x1b[0m     text\n\x1b[1mresult\x1b[0m\n" if coloured else "label     text\nresult\n"
    )


def set_environment(monkeypatch, environment):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("value", "coloured"), [("1", True), ("0", False), ("", False)])
def test_colours_in_a_pipe(monkeypatch, capsys, value, coloured):
    set_environment(monkeypatch, {"FORCE_COLOR": value})
    output.say("label", "text")
    output.complain("error", "wrong")
    printed = capsys.readouterr()
    assert ("\x1b" in printed.out, "\x1b" in printed.err) == (coloured, coloured)
    assert ESCAPE.sub("", printed.out) == "label     text\n"
    assert ESCAPE.sub("", printed.err) == "xpconv: error: wrong\n"
    assert isinstance(progress.progress_for(), progress.PlainProgress)  # no cursor is moved


def test_a_dumb_terminal_and_one_without_rich_get_lines(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    set_environment(monkeypatch, {"TERM": "dumb"})
    assert isinstance(progress.progress_for(), progress.PlainProgress)
    set_environment(monkeypatch, {})
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert isinstance(progress.progress_for(), progress.PlainProgress)


def test_lines_are_wrapped_on_terminals_only(monkeypatch, capsys):
    set_environment(monkeypatch, {"NO_COLOR": "1", "COLUMNS": "40"})
    text = "word " * 20 + "end"
    output.say("label", text)
    assert capsys.readouterr().out == f"label     {text}\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.say("label", text)
    lines = capsys.readouterr().out.split("\n")
    assert max(map(len, lines)) <= 40
    assert " ".join(" ".join(lines).split()) == f"label {text}"


def test_a_transient_line_goes_away(monkeypatch, capsys):
    set_environment(monkeypatch, {"NO_COLOR": "1", "COLUMNS": "20"})
    output.transient("unseen")  # in a pipe
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.transient("\x1b[2Jsomething that is 猫猫 too long")
    output.result("done")
    assert capsys.readouterr().out == "\r\x1b[K\\x1b[2Jsomething th\r\x1b[Kdone\n"


# ---- names from outside -------------------------------------------------------------------------------------------

EVIL = "\x1b]0;owned\x07\x9b2J\u202eevil\n猫"


@pytest.fixture
def evil_run(run, tmp_path):
    """A run on image files whose folders, which are the classes, have such names; its folder and a picture too."""
    image = pytest.importorskip("PIL.Image", reason="image files")
    images, labels = make_images(30, 1)
    for part in ("train", "test"):
        for k in range(3):
            (tmp_path / "data" / part / f"{EVIL}{k}").mkdir(parents=True)
        for n, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            image.fromarray(pixels[0]).save(tmp_path / "data" / part / f"{EVIL}{label}" / f"{n}.png")
    image.fromarray(images[0, 0]).save(tmp_path / f"{EVIL}.png")
    result = run("train", "--data", "data", "--epochs", 1, "--batch-size", 9, "--out", f"run {EVIL}")
    assert result[0] == 0, result[2]
    return result[1]


def assert_harmless(text):
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text), repr(text)


def test_names_cannot_command_a_terminal(run, evil_run):
    folder = f"run {EVIL}"
    for result in (
        (0, evil_run, ""),
        run("evaluate", folder, "--report"),
        run("predict", "--run", folder, f"{EVIL}.png"),
        run("predict", "--run", folder, f"{EVIL}.jpg"),
        run("evaluate", f"no {EVIL}"),
        run("train", "--data", EVIL),
        run("train", f"--{EVIL}"),
        run(EVIL),
        run("info", "--conv", EVIL, "1,1,1,1"),
    ):
        _, out, err = result
        assert_harmless(out)
        assert_harmless(err)
        assert "\\x1b]0;owned\\x07\\x9b2J\\u202eevil" in out + err
        assert err.count("\n") <= 1
    report = run("evaluate", folder, "--report")[1].splitlines()
    rows = report[next(k for k, line in enumerate(report) if line.startswith("class")) :][:6]
    assert len({columns_of(row) for row in rows[:5]}) == 1  # wide characters are counted as two columns
    assert run("predict", "--run", folder, f"{EVIL}.png")[1].count("\n") == 1


def test_machines_get_the_names_as_they_are(run, evil_run):
    status, out, err = run("predict", "--run", f"run {EVIL}", f"{EVIL}.png", "--json")
    assert (status, err) == (0, "")
    assert_harmless(out)
    prediction = events(out)[1]
    assert prediction["image"] == f"{EVIL}.png"
    assert {entry["name"] for entry in prediction["classes"]} == {f"{EVIL}{k}" for k in range(3)}


# ---- quiet, and machines ------------------------------------------------------------------------------------------


def test_quiet_prints_the_result(run, npz):
    status, out, err = run("train", "--data", npz, *TRAIN, "--quiet")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"test accuracy [01]\.\d{4}\n", out)
    assert run("evaluate", "r", "-q") == (0, out, "")
    status, _, err = run("evaluate", "missing", "-q")
    assert status == 2
    assert err.startswith("xpconv: error: missing: no such folder")


def test_a_run_for_machines(run, npz):
    status, out, err = run("train", "--data", npz, *TRAIN, "--json", "--profile")
    assert (status, err) == (0, "")
    assert out.isascii()
    found = events(out)
    assert all(event["schema"] == output.SCHEMA for event in found)
    names = [event["event"] for event in found]
    assert [name for name in names if name not in ("step", "report")] == [
        *("start", "run", "profile", "epoch", "epoch", "test", "end")
    ]
    by_name = {event["event"]: event for event in found}
    assert by_name["run"]["data"]["classes"] == ["0", "1", "2"]
    assert by_name["run"]["config"]["batch_size"] == 9
    assert by_name["epoch"]["epoch"] == by_name["epoch"]["epochs"] == 2
    assert by_name["step"].keys() >= {"loss", "accuracy", "epoch_step", "seconds_left", "images_per_second"}
    assert by_name["end"]["status"] == 0
    status, out, err = run("evaluate", "r", "--json", "--report")
    assert (status, err) == (0, "")
    test = events(out)[1]
    assert test["accuracy"] == by_name["test"]["accuracy"]
    assert [row["name"] for row in test["classes"]] == ["0", "1", "2"]


def test_errors_for_machines(run):
    status, out, err = run("evaluate", "missing", "--json")
    assert (status, err.count("\n")) == (2, 1)
    assert [event["event"] for event in events(out)] == ["start", "error", "end"]
    assert events(out)[1]["message"] == err.removeprefix("xpconv: error: ").rstrip("\n")
    assert events(out)[2]["status"] == 2
    status, out, err = run("evaluate", "missing", "--json", "--quiet")
    assert (status, out) == (2, "")
    assert "not allowed with" in err


def test_numbers_that_json_has_not(capsys):
    with output.use_output("json"):
        output.emit("numbers", values=np.array([1.0, np.nan]), one=float("inf"), count=np.int64(3), path=os.curdir)
    assert events(capsys.readouterr().out)[0] == {
        "schema": 1, "event": "numbers", "values": [1.0, None], "one": None, "count": 3, "path": ".",
    }  # fmt: skip


def test_warnings_take_a_line(capsys):
    with output.use_output("text"), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("look\nout \x1b[2J", RuntimeWarning, stacklevel=1)
    assert capsys.readouterr() == ("", "xpconv: warning: look out \\x1b[2J\n")


# ---- processes ----------------------------------------------------------------------------------------------------


def test_an_ascii_locale(process, npz, tmp_path):
    name = "größe 猫.npz"
    (tmp_path / name).write_bytes(b"no data")
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    child = process("train", "--data", name, environment=environment)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (2, "")
    assert err.startswith(r"xpconv: error: gr\udcc3\udcb6\udcc3\udc9fe ")


@pytest.mark.parametrize("arguments", [("info",), ("completion", "bash")])
def test_a_reader_that_goes_away_at_once(tmp_path, arguments):
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "xpconv", *arguments], cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE, text=True
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_output_that_cannot_be_written(tmp_path):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "xpconv", *CONV]
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"xpconv: error: [^\n]*No space left on device\n", done.stderr)


def test_ctrl_c_twice(process, npz):
    """The second one does not wait for the step, or for what is saved: one line, no traceback."""
    child = process("train", "--data", npz, "--epochs", "500", "--batch-size", "9", "--out", "r")
    for line in child.stdout:
        if line.startswith("epoch 1/500"):
            break
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert re.fullmatch(r"xpconv: interrupted[^\n]*\n", err)


def test_every_status_is_told(capsys):
    from xpconv.cli import main

    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for status, meaning in MEANINGS.items():
        assert f"{status} {meaning}" in text


def test_half_types_have_one_home():
    from xpconv.training import mixed

    assert config.HALF_TYPES is mixed.HALF_TYPES
