"""``xpconv train`` on ranks that mpiexec starts: what it prints, what it writes, and how it ends."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from xpconv.cli import main
from xpconv.training import RunFolder

# The command, in which a rank may come to harm after some steps: `harm RANK STEP WHAT` stands before its words.
COMMAND = """
import os, signal, sys
from mpi4py import MPI
from xpconv.cli import main
from xpconv.training import Trainer

harmed, step, what = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
arguments, steps = sys.argv[4:], Trainer._train_step

def harm():
    if what == "KILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "USR1":
        os.kill(os.getpid(), signal.SIGUSR1)
    if what == "OSError":
        raise OSError(28, "No space left on device", "/scratch/of/this/rank")
    if what == "bug":
        raise AssertionError("what cannot be")

def harmful(self, x, targets, images=None):
    steps(self, x, targets, images)
    if self.step == step and harmed in (MPI.COMM_WORLD.rank, -1):
        harm()

Trainer._train_step = harmful
if what == "--seed" and MPI.COMM_WORLD.rank == harmed:
    arguments += ["--seed", "7"]
if what == "evaluate" and MPI.COMM_WORLD.rank == harmed:
    arguments[:] = ["evaluate", "r"]
sys.exit(main(arguments))
"""
FILES = ["best.safetensors", "config.json", "last.safetensors", "log.jsonl", "report.html", "report.json"]
STEPS = ("--epochs", 2, "--batch-size", 12, "--dtype", "float64", "--model", "fully-connected", "--lr", 1e-3)


@pytest.fixture
def npz(tmp_path):
    """Path of a data set: 60 training images of 12 x 12, 54 without those that are held out, and 20 test images."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 3
    images = rng.integers(0, 100, (80, 1, 12, 12), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * label : 4 * label + 4] += 120
    path = tmp_path / "bands.npz"
    np.savez(path, x_train=images[:60], y_train=labels[:60], x_test=images[60:], y_test=labels[60:])
    return path


@pytest.fixture
def command(mpiexec, npz):
    """``code, out, err = command(2, "train", ...)``, on ranks of which one may come to harm."""

    def call(ranks, *arguments, harm=(0, -1, "none")):
        job = mpiexec(ranks, COMMAND, *harm, *arguments)
        out, err = job.communicate(timeout=60)
        return job.returncode, out, err

    return call


def ours(err):
    """The lines that are not the launcher's."""
    return [line for line in err.splitlines() if line.startswith("xpconv: ")]


def losses(folder):
    records = RunFolder(folder).records()
    kinds = {"epoch": ("loss", "val_loss"), "test": ("loss",)}
    return [record[name] for record in records for name in kinds.get(record["kind"], ())]


@pytest.fixture
def whole(tmp_path, npz, capfd):
    """Losses of the run in one process that nothing disturbs."""
    assert main(list(map(str, ("train", "--data", npz, *STEPS, "--out", tmp_path / "whole")))) == 0
    capfd.readouterr()
    return losses(tmp_path / "whole")


def test_a_run_on_three_ranks(command, npz, tmp_path, whole):
    """Is that of one, and looks like it: a single rank prints and writes."""
    code, out, err = command(3, "train", "--data", npz, *STEPS, "--out", "r", "--json", "--check-ranks", 1)
    assert (code, ours(err)) == (0, []), err
    events = [json.loads(line) for line in out.splitlines()]
    kinds = [event["event"] for event in events if event["event"] != "step"]
    assert kinds == ["start", "run", "epoch", "epoch", "report", "test", "end"]
    assert next(event for event in events if event["event"] == "run")["ranks"] == 3
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == FILES
    np.testing.assert_allclose(losses(tmp_path / "r"), whole, rtol=1e-10)
    code, out, err = command(2, "evaluate", "r", "--report")
    assert (code, ours(err)) == (0, []), err
    accuracy = next(event for event in events if event["event"] == "test")["accuracy"]
    assert out.endswith(f"test accuracy {accuracy:.4f}\n")
    assert len(set(out.splitlines())) == len(out.splitlines())  # each is printed once


def test_a_killed_rank(command, npz, tmp_path, whole):
    """Ends the job; on another number of ranks the run goes on as if nothing had happened."""
    start = time.monotonic()
    options = ("--data", npz, *STEPS, "--out", "r", "--save-every", 2)
    code, _, _ = command(2, "train", *options, harm=(1, 7, "KILL"))
    assert code != 0
    assert time.monotonic() - start < 50  # a job that hangs is found by the limit of `command`
    code, out, err = command(3, "train", "--resume", "r")
    assert (code, ours(err)) == (0, []), err
    assert "resumed   after step 6, in epoch 2" in out
    np.testing.assert_allclose(losses(tmp_path / "r"), whole, rtol=1e-10)


def test_a_rank_that_is_told_to_go(command, npz, tmp_path, whole):
    """All finish the step, rank 0 saves and says how to go on; one process may go on with the run."""
    code, out, err = command(2, "train", "--data", npz, *STEPS, "--out", "r", harm=(1, 3, "USR1"))
    assert code == 75
    how = "saved after step 3 (epoch 1, step 3 of 5)"
    assert ours(err) == [f"xpconv: interrupted, {how}; to go on: mpiexec -n 2 xpconv train --resume r"]
    assert out.count("folder") == 1
    assert main(["train", "--resume", str(tmp_path / "r")]) == 0
    np.testing.assert_allclose(losses(tmp_path / "r"), whole, rtol=1e-10)


@pytest.mark.parametrize("what", ["OSError", "bug"])
def test_a_rank_that_fails_alone_names_itself(command, npz, what):
    code, _, err = command(2, "train", "--data", npz, *STEPS, harm=(1, 3, what))
    assert code == 1
    if what == "bug":
        assert ours(err) == []
        assert err.count("Traceback (most recent call last)") == 1
        assert "rank 1 of 2: Traceback (most recent call last)" in err
        assert "AssertionError: what cannot be" in err
    else:
        assert ours(err) == ["xpconv: error: rank 1 of 2: /scratch/of/this/rank: No space left on device"]


def test_what_all_ranks_find_wrong_is_told_once(command, npz):
    code, out, err = command(2, "train", "--data", npz, *STEPS, harm=(-1, 3, "bug"))
    assert code == 1
    assert err.count("AssertionError: what cannot be") == 1
    code, out, err = command(2, "train", "--data", npz, "--batch-size", 1, "--json")
    assert code == 2
    line = "--batch-size: it is that of all ranks together, and each of the 2 needs an image at least, got 1"
    assert ours(err) == [f"xpconv: error: {line}"]
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["start", "error", "end"]


def test_ranks_that_are_not_started_alike(command, npz, tmp_path):
    code, _, err = command(2, "train", "--data", npz, harm=(1, -1, "--seed"))
    assert code == 2
    assert ours(err) == ["xpconv: error: the ranks were not started alike: --seed is 0 on rank 0 and 7 on rank 1"]
    assert not (tmp_path / "runs").exists()
    code, _, err = command(2, "train", "--data", npz, harm=(1, -1, "evaluate"))
    assert code == 2
    alike = "the ranks were not started alike: the command is 'train' on rank 0 and 'evaluate' on rank 1"
    assert ours(err) == [f"xpconv: error: {alike}"]


def test_a_command_for_one_process(command):
    code, out, err = command(2, "info")
    assert (code, out) == (2, "")
    assert ours(err) == ["xpconv: error: xpconv info takes one process, mpiexec has started 2: run it without mpiexec"]


@pytest.mark.parametrize("kind", ["missing", "other"])
def test_mpi_that_does_not_do(tmp_path, kind):
    """Without mpi4py, or with one of another MPI than the launcher's, no process trains on its own; one says so."""
    if kind == "missing":
        (tmp_path / "mpi4py").mkdir()
        (tmp_path / "mpi4py" / "__init__.py").write_text("raise ModuleNotFoundError('mpi4py', name='mpi4py')\n")
        (tmp_path / "mpi4py" / "MPI.py").write_text("")
        says = "xpconv[mpi]"
    else:
        pytest.importorskip("mpi4py", reason="an MPI that is not the launcher's")
        says = "launcher and mpi4py belong to different MPIs"
    found = []
    for rank in ("0", "1"):
        of_hydra = {"PMI_SIZE": "2", "PMI_RANK": rank, "MPI_LOCALRANKID": rank}
        paths = [str(tmp_path), *sys.path]
        environment = {**os.environ, **of_hydra, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}
        found.append(
            subprocess.run(
                [sys.executable, "-m", "xpconv", "train", "--epochs", "1"],
                capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60, check=False,
            )
        )  # fmt: skip
    assert [done.returncode for done in found] == [2, 2], found
    assert says in found[0].stderr
    assert found[0].stderr.startswith("xpconv: error: ")
    assert (found[1].stdout, found[1].stderr) == ("", "")
    assert not (tmp_path / "runs").exists()
