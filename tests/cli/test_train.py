import json
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl

import xpconv
from xpconv import _files
from xpconv.cli import main
from xpconv.training import RunRecorder, read_checkpoint

FILES = ["best.safetensors", "config.json", "last.safetensors", "log.jsonl", "report.html", "report.json"]


def weights(folder, name="last"):
    arrays = read_checkpoint(folder / f"{name}.safetensors").arrays
    return {key: array.tobytes() for key, array in arrays.items()}


def log(folder):
    """The log without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


# ---- a run ------------------------------------------------------------------------------------------------------


def test_what_is_printed(train):
    lines = train().splitlines()
    assert lines[0].endswith("bands.npz: 81 training, 9 validation and 30 test images of 1x12x12, 3 classes")
    assert re.fullmatch(r"model +small-cnn, [\d,]+ parameters, float32", lines[1])
    assert re.fullmatch(r"backend +numpy \(numpy [\d.]+.*; \d+ threads?\)", lines[2])
    assert lines[3:5] == [
        "training  2 epochs of 9 steps, adamw, one-cycle with learning rate 0.006, seed 0",
        "folder    r",
    ]
    for number, line in enumerate(lines[5:7], 1):
        assert re.fullmatch(
            rf"epoch {number}/2  loss \d\.\d{{4}}  acc [01]\.\d{{4}}  "
            r"val loss \d\.\d{4}  val acc [01]\.\d{4}  \d+/s  0:\d\d left",
            line,
        )
    assert re.fullmatch(
        r"tested    the weights of epoch [12], the best on the validation images: [01]\.\d{4}", lines[7]
    )
    assert re.fullmatch(r"test loss \d\.\d{4}", lines[8])
    assert lines[9] == "report    r/report.html"
    assert re.fullmatch(r"test accuracy [01]\.\d{4}", lines[10])
    assert len(lines) == 11


@pytest.mark.parametrize("fits", [True, False])
def test_a_run_on_a_device(train, tmp_path, monkeypatch, fits):
    """It goes as on the host, from images on the device or sent to it."""
    from xpconv.testing.cuda_host import HostCudaBackend, find_compiler

    if find_compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setattr(HostCudaBackend, "free_bytes", lambda self: 4 * 81 * 144 - (not fits))
    options = ("--epochs", 1, "--matmul-precision", "highest", "--batch-size", 16)
    lines = train("--backend", "cuda-host", *options, "--capture" if fits else "--no-capture").splitlines()
    how = "images on the device" if fits else "images are sent batch by batch"
    assert re.fullmatch(rf"backend +cuda-host \(.*; {how}\)", lines[2])
    records = log(tmp_path / "r")
    shutil.rmtree(tmp_path / "r")
    train("--backend", "numpy", *options)
    expected = log(tmp_path / "r")
    assert [r["kind"] for r in records] == [r["kind"] for r in expected]
    assert records[0]["loss"] == pytest.approx(expected[0]["loss"], rel=1e-4)
    assert not any(line.startswith("capture") for line in lines)


def test_a_step_that_cannot_be_recorded(train):
    lines = train("--epochs", 1, "--capture").splitlines()
    assert "capture   steps were not recorded: the backend numpy records no graphs" in lines


def test_it_learns(train):
    out = train("--epochs", 8, "--lr", 0.01)
    assert float(out.split()[-1]) > 0.9


def test_the_run_folder(train, tmp_path):
    out = train()
    folder = tmp_path / "r"
    assert sorted(os.listdir(folder)) == FILES
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["batch_size"] == 9
    assert config["config"]["backend"] == "numpy"
    assert config["data"]["images"] == [81, 9, 30]
    lines = log(folder)
    assert [line["kind"] for line in lines] == ["epoch", "epoch", "test"]
    assert f"{lines[2]['accuracy']:.4f}" == out.split()[-1]
    assert lines[2]["weights"] == "best"
    best = read_checkpoint(folder / "best.safetensors").state
    assert best["epoch"] == lines[2]["epoch"]
    assert best["epoch"] == max(lines[:2], key=lambda line: (line["val_accuracy"], -line["val_loss"]))["epoch"]
    last = read_checkpoint(folder / "last.safetensors").state
    assert last["step"] == 18
    assert [{"kind": "epoch", **record} for record in last["history"]] == [
        json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()[:2]
    ]
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert json.loads((folder / "report.json").read_text())["status"] == "finished"


def test_one_seed_is_one_run(train, tmp_path):
    train("--seed", 3)
    train("--seed", 3, "--out", "again")
    train("--seed", 4, "--out", "other")
    assert weights(tmp_path / "r") == weights(tmp_path / "again")
    assert weights(tmp_path / "r") != weights(tmp_path / "other")
    assert log(tmp_path / "r") == log(tmp_path / "again")


def test_the_same_run_on_another_backend(train, tmp_path):
    pytest.importorskip("array_api_strict")
    train("--epochs", 1)
    out = train("--epochs", 1, "--backend", "array_api_strict", "--out", "s")
    assert "backend   array_api_strict" in out
    assert log(tmp_path / "s")[0]["loss"] == pytest.approx(log(tmp_path / "r")[0]["loss"], rel=1e-4)
    assert xpconv.get_backend().name == "numpy"


def test_without_validation_the_last_epoch_is_tested(train, tmp_path):
    out = train("--validation", 0, "--no-augment", "--dtype", "float64", "--optimizer", "sgd", "--schedule", "step")
    assert "90 training, 30 test images" in out
    assert "tested    the weights of the last epoch" in out
    assert "  val " not in out
    assert sorted(os.listdir(tmp_path / "r")) == FILES[1:]
    assert read_checkpoint(tmp_path / "r" / "last.safetensors").arrays["model.fc.weight"].dtype == np.float64


@pytest.mark.parametrize(
    ("optimizer", "schedule"), [("adam", "cosine"), ("rmsprop", "constant"), ("sgd", "one-cycle"), ("adamw", "step")]
)
def test_optimizers_and_schedules(train, tmp_path, optimizer, schedule):
    train("--optimizer", optimizer, "--schedule", schedule, "--lr", 0.01, "--weight-decay", 0.001)
    settings = read_checkpoint(tmp_path / "r" / "last.safetensors").state["optimizer"]
    assert settings["kind"].lower() == optimizer
    group = settings["groups"][0]
    assert group["weight_decay"] == 0.001
    expected = {"cosine": 0.005 * (1 + np.cos(np.pi * 17 / 18)), "constant": 0.01, "one-cycle": 0.01 / 25e4}
    assert group["lr"] == pytest.approx(expected.get(schedule, 1e-4))


def test_threads(train, tmp_path, monkeypatch):
    """The number holds for the run, and the BLAS is held at one thread unless its own variables say otherwise."""
    seen = []

    def look(recorder, trainer):
        blas = [info["num_threads"] for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"]
        seen.append((xpconv.get_num_threads(), set(blas)))

    before = xpconv.get_num_threads()
    monkeypatch.setattr(RunRecorder, "on_step_end", look)
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        train("--threads", 1, "--epochs", 1)
        assert seen[-1][0] == 1
        assert seen[-1][1] <= {1}
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
        train("--epochs", 1, "--out", "s")
        assert seen[-1][0] == before
        assert 1 not in seen[-1][1] or os.cpu_count() == 1
    assert xpconv.get_num_threads() == before


def test_names_of_new_folders(run, npz, tmp_path):
    (tmp_path / "runs" / "lenet-bands-2").mkdir(parents=True)
    for number in (1, 3):
        status, out, _ = run("train", "--data", npz, "--model", "lenet", "--epochs", 1)
        assert status == 0
        assert f"folder    runs/lenet-bands-{number}\n" in out
    assert sorted(os.listdir(tmp_path / "runs")) == ["lenet-bands-1", "lenet-bands-2", "lenet-bands-3"]
    assert not list((tmp_path / "runs" / "lenet-bands-2").iterdir())


# ---- options ----------------------------------------------------------------------------------------------------


def test_toml_and_options(run, npz, tmp_path):
    (tmp_path / "c.toml").write_text(
        f'data = "{npz}"\nmodel = "lenet"\nepochs = 3\nbatch-size = 30\nlr = 1\naugment = false\nout = "t"\n'
        'optimizer = "sgd"\nschedule = "constant"\n'
    )
    status, out, err = run("train", "--config", "c.toml", "--epochs", 1, "--lr", 0.02)
    assert (status, err) == (0, "")
    assert "1 epoch of 3 steps, sgd, constant with learning rate 0.02" in out
    config = json.loads((tmp_path / "t" / "config.json").read_text())["config"]
    assert (config["model"], config["augment"], config["weight_decay"]) == ("lenet", False, 5e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", r"c.toml: unknown key 'epoch' \(did you mean epochs\?\); known are data, "),
        ("batchsize = 3", r"did you mean batch-size\?"),
        ("epochs = '3'", "c.toml: epochs: expected a whole number, got '3'"),
        ("epochs = true", "c.toml: epochs: expected a whole number, got True"),
        ("epochs = 0", "c.toml: epochs: must be at least 1, got 0"),
        ("augment = 1", "c.toml: augment: expected true or false, got 1"),
        ("lr = inf", "c.toml: lr: must be above 0, got inf"),
        ("out = 3", "c.toml: out: expected a text in quotes, got 3"),
        ("out = " + "[" * 10_000, "c.toml: not a TOML file: "),
        ("batch-size = 3\nbatch_size = 4", "c.toml: batch-size is given twice"),
        ("matmul-precision = 'tf16'", "c.toml: matmul-precision: must be one of default, highest, tf32.*, got tf16"),
        ("[train]\nepochs = 3", "unknown key 'train'"),
        ("epochs = ", "c.toml: not a TOML file: "),
    ],
)
def test_mistakes_in_toml(run, tmp_path, text, message):
    (tmp_path / "c.toml").write_text(text)
    assert_error(run("train", "--config", "c.toml"), message)
    assert os.listdir(tmp_path) == ["c.toml"]


def assert_error(result, message):
    """One line on standard error, nothing else."""
    status, out, err = result
    assert status == 2
    assert out == ""
    assert re.fullmatch(r"xpconv: error: [^\n]+\n", err)
    assert re.search(message, err), err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "--epochs: must be at least 1, got 0"),
        (["--epochs", "x"], "argument --epochs: invalid int value: 'x'"),
        (["--batch-size", "-3"], "--batch-size: must be at least 1, got -3"),
        (["--lr", "0"], "--lr: must be above 0, got 0.0"),
        (["--lr", "nan"], "--lr: must be above 0, got nan"),
        (["--weight-decay", "-1"], "--weight-decay: must be at least 0, got -1.0"),
        (["--validation", "0.6"], "--validation: must be from 0 to 0.5, got 0.6"),
        (["--seed", "-1"], "--seed: must be at least 0"),
        (["--threads", "0"], "--threads: must be at least 1"),
        (["--model", "small-cn"], r"--model: must be one of small-cnn, .* \(did you mean small-cnn\?\), got small-cn"),
        (["--optimizer", "adamq"], r"--optimizer: must be one of .* \(did you mean adamw?\?\)"),
        (["--schedule", "linear"], "--schedule: must be one of one-cycle, cosine, step, constant, got linear"),
        (["--dtype", "float16"], "--dtype: must be one of float32, float64"),
        (["--backend", "numpie"], "backend: unknown 'numpie'; known are numpy, cupy, torch"),
        (["--data", "fashion-mist"], "fashion-mist"),
        (["--data", "missing.npz"], "missing.npz"),
        (["--config", "missing.toml"], "missing.toml: No such file or directory"),
        (["--resume", "missing"], "missing: no such folder"),
        (["--resume"], "--resume: no run in the folder runs here"),
        (["--epoch", "3"], r"unknown option --epoch \(did you mean --epochs\?\); see xpconv train --help"),
        (["--out", "/dev/null/x"], "/dev/null/x: Not a directory"),
    ],
)
def test_mistakes_in_options(run, tmp_path, options, message):
    assert_error(run("train", *options), message)
    assert os.listdir(tmp_path) == []


def test_mistakes_in_the_command(run):
    status, out, err = run()
    assert (status, out) == (2, "")
    assert err.startswith("usage: xpconv ")
    assert_error(run("trian"), r"unknown command 'trian' \(did you mean train\?\); known are train, lr-find, ")


def test_cupy_without_a_gpu(run):
    try:
        xpconv.backends.load_backend("cupy")
    except xpconv.BackendUnavailableError:
        assert_error(run("train", "--backend", "cupy"), "cupy.*(not installed: pip install|no NVIDIA driver)")
    else:
        pytest.skip("there is a GPU")


def test_bad_data(run, tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not really")
    assert_error(run("train", "--data", "bad.npz"), "bad.npz")
    images = np.zeros((20, 4, 4), np.uint8)
    np.savez("nan.npz", x=images, y=np.where(np.arange(20) == 7, np.nan, 0))
    assert_error(run("train", "--data", "nan.npz"), "nan.npz: labels: .* NaN for image 7")
    np.savez("tiny.npz", x=images, y=np.arange(20) % 2)
    assert_error(run("train", "--data", "tiny.npz"), "image_size: must be at least 8 x 8, got 4 x 4")
    assert sorted(os.listdir(tmp_path)) == ["bad.npz", "nan.npz", "tiny.npz"]


def test_missing_packages(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert_error(run("train"), r'threadpoolctl, which is not installed: pip install "xpconv\[train\]"')


def test_traceback_on_demand(run, monkeypatch):
    monkeypatch.setenv("XPCONV_TRACEBACK", "1")
    with pytest.raises(ValueError, match="--epochs"):
        run("train", "--epochs", 0)


def test_help_and_version(capsys):
    for arguments in (["--help"], ["--version"], ["train", "--help"], ["evaluate", "-h"], ["predict", "-h"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"xpconv {xpconv.__version__}\n" in out
    assert "(default: fashion-mnist-small)" in out
    assert "small-cnn, lenet" in out


# ---- folders ----------------------------------------------------------------------------------------------------


def test_a_used_folder_is_left_alone(run, train, npz, tmp_path):
    train()
    before = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    assert_error(run("train", "--data", npz, "--out", "r"), "r: exists and is not an empty folder; .*--resume r")
    (tmp_path / "file").write_text("mine")
    assert_error(run("train", "--data", npz, "--out", "file"), "file: exists and is not an empty folder")
    assert {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()} == before


def test_an_empty_folder_is_taken(train, tmp_path):
    (tmp_path / "r").mkdir()
    train()
    assert sorted(os.listdir(tmp_path / "r")) == FILES


def test_an_unwritable_folder(run, npz, monkeypatch):
    def mkdir(self, *arguments, mkdir=Path.mkdir, **options):
        if os.geteuid() != 0:
            mkdir(self, *arguments, **options)
            return
        os.seteuid(65534)  # root may write everywhere
        try:
            mkdir(self, *arguments, **options)
        finally:
            os.seteuid(0)

    with tempfile.TemporaryDirectory() as folder:  # not below pytest's own, which others may not enter
        monkeypatch.chdir(folder)
        os.chmod(folder, 0o555)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", mkdir)
            assert_error(run("train", "--data", npz), "runs: Permission denied")
            assert_error(run("train", "--data", npz, "--out", "a"), "a: Permission denied")
        os.chmod(folder, 0o755)
        assert os.listdir(folder) == []


def test_a_disk_that_fills_up(run, npz, tmp_path, monkeypatch):
    """The first epoch can be saved, the second not: what was saved stays, and can be resumed."""
    seen = []

    def replace(source, target, replace=os.replace):
        if str(target).endswith("last.safetensors"):
            seen.append(target)
            if len(seen) == 2:
                raise OSError(28, os.strerror(28))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(_files.os, "replace", replace)
        status, _, err = run("train", "--data", npz, "--epochs", 3, "--batch-size", 9, "--out", "r")
    assert status == 1
    assert re.fullmatch(r"xpconv: error: r/last.safetensors: cannot write the checkpoint: No space left [^\n]+\n", err)
    assert read_checkpoint(tmp_path / "r" / "last.safetensors").state["epoch"] == 1
    assert not [name for name in os.listdir(tmp_path / "r") if name.endswith(".tmp")]
    assert run("train", "--resume", "r")[0] == 0
    assert run("train", "--data", npz, "--epochs", 3, "--batch-size", 9, "--out", "whole")[0] == 0
    assert weights(tmp_path / "r") == weights(tmp_path / "whole")
    assert log(tmp_path / "r") == log(tmp_path / "whole")


def test_a_scheduler_that_wants_the_machine(process, run, npz, tmp_path):
    """SIGTERM saves, too, and the status asks to be started again."""
    child = process("train", "--data", npz, "--epochs", "50", "--batch-size", "9", "--out", "r")
    for line in child.stdout:
        if line.startswith("epoch 2/50"):
            break
    child.terminate()
    _, err = child.communicate(timeout=60)
    assert child.returncode == 75
    assert re.fullmatch(r"xpconv: interrupted, saved after step \d+ .*; to go on: xpconv train --resume r\n", err)
    assert read_checkpoint(tmp_path / "r" / "last.safetensors").state["step"] >= 18
    assert run("train", "--resume", "r", "--epochs", "8")[0] == 0


# ---- resuming ---------------------------------------------------------------------------------------------------


def test_more_epochs(run, train, npz, tmp_path):
    train("--schedule", "constant")
    status, out, _ = run("train", "--resume", "r", "--epochs", 4)
    assert status == 0
    assert "resumed   after step 18, in epoch 3" in out
    assert run("train", "--data", npz, "--epochs", 4, "--batch-size", 9, "--out", "w", "--schedule", "constant")[0] == 0
    assert weights(tmp_path / "r") == weights(tmp_path / "w")
    assert log(tmp_path / "r") == log(tmp_path / "w")
    status, out, _ = run("train", "--resume", "r")  # the new number has been noted
    assert "resumed   after step 36, all epochs done" in out
    assert log(tmp_path / "r") == log(tmp_path / "w")


def test_a_run_is_used_from_another_folder(run, npz, tmp_path, monkeypatch):
    """Its data set was named relative to the folder in which it was trained."""
    shutil.copy(npz, "here.npz")
    assert run("train", "--data", "here.npz", "--epochs", 1, "--batch-size", 9, "--out", "r")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    status, _, err = run("evaluate", tmp_path / "r")
    assert (status, err) == (0, "")
    assert run("train", "--resume", tmp_path / "r", "--epochs", 2)[0] == 0


def test_what_may_not_change(run, train, npz, tmp_path):
    train()
    assert_error(run("train", "--resume", "r", "--lr", 1), "--lr: the run in r has 0.006, got 1.0; start a new run")
    assert_error(run("train", "--resume", "r", "--out", "s"), "--out: a resumed run stays in its folder r, got s")
    assert run("train", "--resume", "r", "--data", npz, "--lr", 0.006)[0] == 0


def test_other_data(run, train, npz, tmp_path):
    moved = tmp_path / "moved.npz"
    shutil.copy(npz, moved)
    assert run("train", "--data", moved, "--epochs", 1, "--out", "m")[0] == 0
    with np.load(npz) as arrays:
        np.savez(moved, **{**arrays, "x_train": arrays["x_train"] // 2})
    status, _, err = run("train", "--resume", "m")
    assert status == 2
    assert "is not what the run in m was started with" in err


def test_broken_run_folders(run, train, tmp_path):
    train()
    config = tmp_path / "r" / "config.json"
    contents = config.read_text()
    for damage, message in (
        (contents[:50], "r/config.json: damaged"),
        ("[]", "r/config.json: damaged"),
        (contents.replace('"version": 1', '"version": 2'), "format 2, this xpconv reads 1"),
        (contents.replace('"epochs"', '"ages"'), "unknown option 'ages'"),
        (contents.replace('"epochs": 2', '"epochs": "2"'), "epochs: expected a whole number"),
        (contents.replace('"classes"', '"classs"'), "damaged"),
        (contents.replace('"images": [', '"images": [1e999, '), "r/config.json: damaged: the description of the data"),
        ("[" * 100_000, "r/config.json: damaged"),
    ):
        assert damage != contents
        config.write_text(damage)
        assert_error(run("train", "--resume", "r"), message)
        assert_error(run("evaluate", "r"), message)
    config.unlink()
    assert_error(run("train", "--resume", "r"), "r: not a run folder: it has no config.json")


def test_a_damaged_checkpoint(run, train, tmp_path):
    train()
    last = tmp_path / "r" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-100])
    status, _, err = run("train", "--resume", "r", "--epochs", 3)
    assert status == 2
    assert re.fullmatch(
        r"xpconv: error: r/last.safetensors: not a safetensors file, truncated or damaged\b[^\n]+\n", err
    )


def test_killed_before_the_first_checkpoint(run, train, tmp_path):
    train()
    (tmp_path / "r" / "last.safetensors").rename(tmp_path / "whole")
    (tmp_path / "r" / "log.jsonl").write_text('{"kind": "step", "step": 20')
    assert run("train", "--resume", "r")[0] == 0
    assert read_checkpoint(tmp_path / "r" / "last.safetensors").arrays.keys() == read_checkpoint("whole").arrays.keys()
    for name, array in read_checkpoint("whole").arrays.items():
        assert read_checkpoint(tmp_path / "r" / "last.safetensors").arrays[name].tobytes() == array.tobytes()


def test_ctrl_c_and_resume(run, train, npz, tmp_path, monkeypatch):
    options = ("--data", npz, "--epochs", 3, "--batch-size", 9, "--out")
    assert run("train", *options, "whole")[0] == 0

    def press(recorder, trainer, on_step_end=RunRecorder.on_step_end):
        on_step_end(recorder, trainer)
        if trainer.step == 13:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "on_step_end", press)
        status, out, err = run("train", *options, "my run")
    assert status == 130
    assert err.count("\n") == 1
    told, command = err.split("; to go on: ")
    assert told == "xpconv: interrupted, saved after step 13 (epoch 2, step 4 of 9)"
    assert shlex.split(command) == ["xpconv", "train", "--resume", "my run"]
    assert sorted(os.listdir(tmp_path / "my run")) == FILES
    status, out, _ = run(*shlex.split(command)[1:])
    assert status == 0
    assert "resumed   after step 13, in epoch 2" in out
    assert re.fullmatch(r"test accuracy [01]\.\d{4}", out.splitlines()[-1])
    for name in ("last", "best"):
        assert weights(tmp_path / "my run", name) == weights(tmp_path / "whole", name)
    assert log(tmp_path / "my run") == log(tmp_path / "whole")


def test_resume_takes_the_latest_run(run, npz, tmp_path):
    for model in ("lenet", "three-layer-convnet"):
        assert run("train", "--data", npz, "--model", model, "--epochs", 1)[0] == 0
    old = tmp_path / "runs" / "lenet-bands-1"
    for path in old.iterdir():
        os.utime(path, (time.time() + 60, time.time() + 60))
    status, out, _ = run("train", "--resume", "--epochs", 2)
    assert status == 0
    assert "folder    runs/lenet-bands-1\n" in out


# ---- processes --------------------------------------------------------------------------------------------------


def test_a_real_ctrl_c(process, run, npz, tmp_path):
    """SIGINT to a process; a resumed run ends with the weights of one that was left alone."""
    options = ["train", "--data", npz, "--epochs", "20", "--batch-size", "9", "--out"]
    child = process(*options, "r")
    for line in child.stdout:
        if line.startswith("epoch 2/20"):
            break
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    told = r"xpconv: interrupted, saved after step \d+ \(epoch \d+, step \d of 9\); to go on: xpconv train --resume r\n"
    assert re.fullmatch(told, err)
    step = read_checkpoint(tmp_path / "r" / "last.safetensors").state["step"]
    assert 18 <= step < 180
    status, out, err = run("train", "--resume", "r")
    assert (status, err) == (0, "")
    assert f"resumed   after step {step}, in epoch" in out
    status, whole, err = run(*options, "whole")
    assert (status, err) == (0, "")
    assert weights(tmp_path / "r") == weights(tmp_path / "whole")
    assert log(tmp_path / "r") == log(tmp_path / "whole")
    assert out.splitlines()[-1] == whole.splitlines()[-1]


def test_a_reader_that_goes_away(process, npz):
    child = process("train", "--data", npz, "--epochs", "30", "--batch-size", "9", "--out", "r")
    child.stdout.readline()
    child.stdout.close()
    child.stdout = None
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (141, "")
