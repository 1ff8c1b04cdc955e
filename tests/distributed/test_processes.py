"""Ranks that are processes, started by mpiexec: what they compute, and how a job ends."""

import re
import subprocess
import sys
import time

import numpy as np
import pytest

from xpconv.training import read_checkpoint

PROTOCOL = """
import numpy as np
from xpconv.distributed import MPIComm, get_communicator

comm = get_communicator()
assert isinstance(comm, MPIComm) and comm.size == 3, comm
r = comm.rank
for dtype in ("float16", "float32", "float64"):
    x = np.arange(6, dtype=dtype).reshape(2, 3).T + r
    mean = comm.allreduce_mean(x)
    assert mean.dtype == x.dtype and np.array_equal(mean, x - r + 1), mean
    assert np.array_equal(comm.broadcast(x, 2), x - r + 2)
    rows = comm.allgather(x)
    assert rows.shape == (3, 3, 2) and rows.dtype == x.dtype
    assert all(np.array_equal(rows[k], x - r + k) for k in range(3))
    waits = [comm.start_mean(x + k) for k in range(3)]
    comm.progress()
    assert all(np.array_equal(wait(), x - r + 1 + k) for k, wait in enumerate(waits))
assert np.array_equal(comm.broadcast(np.array(r)), 0) and comm.broadcast(np.array(r)).shape == ()
assert np.array_equal(comm.allgather(np.array([r > 0])), [[False], [True], [True]])
comm.barrier()
print("rank", r, "is content")
"""

TRAIN = """
import os, signal, sys, time
import numpy as np
import xpconv
from xpconv import layers, optim
from xpconv.distributed import get_communicator
from xpconv.functional import softmax_cross_entropy
from xpconv.training import Callback, Trainer

mode, folder = sys.argv[1:3]
comm = get_communicator()
rng = np.random.default_rng(0)
labels = rng.integers(0, 4, 48)
x = rng.normal(size=(48, 1, 6, 6)) + labels[:, None, None, None] / 2

def make():
    net = layers.Sequential(
        layers.Conv2d(1, 4, 3, rng=1, dtype="float64"), layers.ReLU(), layers.Flatten(),
        layers.Linear(64, 4, rng=2, dtype="float64"),
    )
    return net, optim.Adam(net.parameters(), lr=0.01)

class Ends(Callback):
    saves = True

    def on_step_end(self, trainer):
        if trainer.step % 10 == 0:
            trainer.save(os.path.join(folder, "net.safetensors"))
        if trainer.step == 25 and comm.rank == 1:
            if mode == "exit":
                sys.exit("nothing is left on the disk of this rank")
            if mode == "raise":
                raise RuntimeError("the disk of this rank is full")
            if mode == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if mode == "term":
                os.kill(os.getpid(), signal.SIGTERM)

    def on_interrupt(self, trainer):
        trainer.save(os.path.join(folder, "net.safetensors"))
        print("rank", comm.rank, "stopped after step", trainer.step, flush=True)

net, optimizer = make()
if mode == "resume":
    trainer = Trainer.resume(os.path.join(folder, "net.safetensors"), net, softmax_cross_entropy, optimizer, comm=comm)
else:
    callbacks = [] if mode == "whole" else [Ends()]
    trainer = Trainer(net, softmax_cross_entropy, optimizer, comm=comm, callbacks=callbacks, check_ranks=1)
trainer.fit((x, labels), epochs=10, batch_size=12)
if comm.rank == 0:
    np.save(os.path.join(folder, mode + ".npy"), [record["loss"] for record in trainer.history])
"""


def finish(job, seconds=60):
    out, err = job.communicate(timeout=seconds)
    return job.returncode, out, err


def test_the_protocol(mpiexec):
    code, out, err = finish(mpiexec(3, PROTOCOL))
    assert code == 0, err
    assert sorted(out.split("\n")) == ["", *(f"rank {r} is content" for r in range(3))]


@pytest.mark.parametrize("ending", ["raise", "exit", "kill", "term"])
def test_a_rank_that_ends_ends_the_job_and_the_run_goes_on(mpiexec, tmp_path, ending):
    """On another number of ranks, as if nothing had happened."""
    start = time.monotonic()
    code, out, err = finish(mpiexec(2, TRAIN, ending, tmp_path))
    assert time.monotonic() - start < 50  # a job that hangs is found by the limit of `finish`
    assert code != 0
    if ending == "raise":
        assert "rank 1 of 2: it ends the job for this exception" in err
        assert "RuntimeError: the disk of this rank is full" in err
    elif ending == "exit":
        assert "nothing is left on the disk of this rank" in err
        assert "rank 1 of 2: it left with exit code 1, and ends the job" in err
    elif ending == "kill":
        assert re.search(r"rank 1\b", out + err)
        assert re.search(r"signal 9|Killed", out + err)
    else:
        assert "rank 0 stopped after step 25" in out
        assert "rank 1 stopped after step 25" in out
        assert code == 75
    step = read_checkpoint(tmp_path / "net.safetensors").state["step"]
    assert step == (25 if ending == "term" else 20)
    if ending == "exit":  # how the run goes on is seen in the others
        return
    for ranks, mode in ((1, "whole"), (3, "resume")):
        code, _, err = finish(mpiexec(ranks, TRAIN, mode, tmp_path))
        assert code == 0, err
    whole, resumed = np.load(tmp_path / "whole.npy"), np.load(tmp_path / "resume.npy")
    np.testing.assert_allclose(resumed, whole, rtol=1e-10)


def test_a_signal_to_one_process_alone(tmp_path):
    """Without MPI, too, SIGTERM saves and asks to be started again."""
    path = tmp_path / "script.py"
    path.write_text(TRAIN.replace("comm.rank == 1", "comm.rank == 0"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, path, "term", tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (75, "rank 0 stopped after step 25\n"), done.stderr
    assert (tmp_path / "net.safetensors").exists()
