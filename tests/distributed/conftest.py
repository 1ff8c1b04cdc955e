"""Ranks for tests: threads of this process, and processes that mpiexec starts."""

import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

import xpconv
from xpconv.backends import to_numpy
from xpconv.distributed import Communicator


class ThreadComm(Communicator):
    """A rank that is a thread: what it says lies in a list that all ranks share."""

    def __init__(self, rank, board, barrier):
        self._rank, self._board, self._barrier = rank, board, barrier

    @property
    def rank(self):
        return self._rank

    @property
    def size(self):
        return len(self._board)

    def _all(self, array):
        self._board[self._rank] = array
        self._barrier.wait()
        arrays = list(self._board)
        self._barrier.wait()
        forms = {(to_numpy(a).shape, to_numpy(a).dtype) for a in arrays}
        assert len(forms) == 1, f"ranks say different things: {forms}"
        return arrays

    def broadcast(self, array, root=0):
        return xpconv.asarray(np.array(to_numpy(self._all(array)[root])), backend=xpconv.backends.backend_of(a=array))

    def allreduce_mean(self, array):
        with np.errstate(all="ignore"):  # what overflows is no concern of a transport's
            mean = np.mean([to_numpy(a) for a in self._all(array)], axis=0, dtype=to_numpy(array).dtype)
        return xpconv.asarray(np.asarray(mean), backend=xpconv.backends.backend_of(a=array))

    def allgather(self, array):
        return xpconv.asarray(
            np.stack([to_numpy(a) for a in self._all(array)]), backend=xpconv.backends.backend_of(a=array)
        )

    def barrier(self):
        self._barrier.wait()


def _run_ranks(size, function):
    """``[function(comm) of each rank]``; what the first rank raises is raised here."""
    board, barrier = [None] * size, threading.Barrier(size, timeout=60)
    results, errors = [None] * size, [None] * size
    name = xpconv.get_backend().name

    def work(rank):
        try:
            with xpconv.use_backend(name):
                results[rank] = function(ThreadComm(rank, board, barrier))
        except BaseException as error:
            errors[rank] = error
            if not getattr(error, "together", False):
                barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # the one that broke the others' barrier says more than they do
    for error in sorted(
        (e for e in errors if e is not None), key=lambda e: isinstance(e, threading.BrokenBarrierError)
    ):
        raise error
    return results


@pytest.fixture
def run_ranks():
    return _run_ranks


@pytest.fixture
def mpiexec(tmp_path):
    """``mpiexec(ranks, script, *arguments)`` starts a job and gives its Popen."""
    pytest.importorskip("mpi4py", reason="ranks that are processes talk through mpi4py")
    launcher = shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")
    if launcher is None:
        pytest.skip("no mpiexec on this machine")
    environment = dict(os.environ, XPCONV_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    version = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False).stdout
    options = []
    if "Open MPI" in version or "PRRTE" in version or "prte" in version:
        options = ["--oversubscribe"]
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        environment |= {"PRTE_ALLOW_RUN_AS_ROOT": "1", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        environment["OMPI_MCA_mpi_yield_when_idle"] = "1"  # more ranks than cores
    started = []

    def start(ranks, script, *arguments):
        path = tmp_path / "script.py"
        path.write_text(script, encoding="utf-8")
        command = [launcher, *options, "-n", str(ranks), sys.executable, str(path), *map(str, arguments)]
        job = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
        )
        started.append(job)
        return job

    yield start
    for job in started:
        if job.poll() is None:
            job.kill()
        job.communicate()
