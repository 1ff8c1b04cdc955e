"""What communicators say, and how they are found."""

import atexit
import multiprocessing
import sys
import threading
import types

import numpy as np
import pytest

import xpconv
from xpconv import layers, optim
from xpconv.backends import to_numpy
from xpconv.data.order import share
from xpconv.distributed import DistributedError, MPIComm, NCCLComm, SelfComm, get_communicator
from xpconv.distributed.communicator import gather_json, gather_rows
from xpconv.distributed.mpi import launched_processes
from xpconv.functional import softmax_cross_entropy

LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS")


@pytest.fixture
def fresh(monkeypatch):
    """A process that nothing has launched, and whose communicators are forgotten."""
    for name in (*LAUNCHERS, "PMIX_RANK", "PMI_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(xpconv.distributed, "_known", {})
    return monkeypatch


def test_a_process_alone(on, fresh):
    comm = get_communicator()
    assert isinstance(comm, SelfComm)
    assert (comm.rank, comm.size) == (0, 1)
    assert get_communicator() is comm
    x = xpconv.asarray(np.arange(3, dtype=np.float32))
    for result in (comm.broadcast(x), comm.allreduce_mean(x), comm.start_mean(x)(), comm.allgather(x)[0, ...]):
        assert np.array_equal(to_numpy(result), [0, 1, 2])
    comm.barrier()
    comm.progress()
    comm.abort()
    assert gather_json(comm, {"a": [1, "ü"]}) == [{"a": [1, "ü"]}]


@pytest.mark.parametrize("root", [-1, 1])
def test_a_rank_that_is_not_there(root):
    with pytest.raises(ValueError, match=f"root: expected a rank from 0 to 0, got {root}"):
        SelfComm().broadcast(np.zeros(2), root)


def test_the_mean_of_integers():
    with pytest.raises(TypeError, match="array: expected floating-point, got int64"):
        SelfComm().allreduce_mean(np.arange(3))


def test_an_unknown_kind():
    with pytest.raises(ValueError, match="kind: expected one of auto, self, mpi, nccl, got 'gloo'"):
        get_communicator("gloo")


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 100])
def test_shares_are_the_whole_in_order_and_alike(count, size):
    parts = [list(range(count))[share(count, rank, size)] for rank in range(size)]
    assert [k for part in parts for k in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_rows_of_ranks_in_the_order_of_the_data(run_ranks):
    data = np.arange(22.0).reshape(11, 2)
    batches = [data[:5], data[5:10], data[10:]]

    def run(comm):
        own = np.concatenate([batch[share(len(batch), comm.rank, comm.size)] for batch in batches])
        counts = [[len(batch[share(len(batch), rank, comm.size)]) for rank in range(comm.size)] for batch in batches]
        return gather_rows(comm, own, counts)

    for rows in run_ranks(3, run):
        assert np.array_equal(rows, data)


def test_json_of_all_ranks(run_ranks):
    values = [None, {"rank": "x" * 500}, [1, 2.5]]
    assert run_ranks(3, lambda comm: gather_json(comm, values[comm.rank])) == [values] * 3


def test_processes_that_a_launcher_counts(fresh):
    assert launched_processes() is None
    fresh.setenv("SLURM_NTASKS", "8")  # of the job, in a step that is no MPI program
    assert launched_processes() is None
    fresh.setenv("PMIX_RANK", "0")
    assert launched_processes() == (8, "srun")
    fresh.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert launched_processes() == (4, "Open MPI's mpiexec")


def test_started_by_mpiexec_without_mpi4py(fresh):
    fresh.setenv("PMI_SIZE", "2")
    fresh.setitem(sys.modules, "mpi4py", None)
    fresh.delitem(sys.modules, "mpi4py.MPI", raising=False)
    with pytest.raises(
        ImportError, match=r'need the package mpi4py, which is not installed: pip install "xpconv\[mpi\]"'
    ):
        get_communicator()


def fake_mpi(fresh, world_size):
    world = types.SimpleNamespace(size=world_size, rank=0)
    world.Dup = lambda: world
    fake = types.ModuleType("mpi4py.MPI")
    fake.COMM_WORLD, fake.Get_library_version = world, lambda: "Other MPI v9, package: x\0"
    package = types.ModuleType("mpi4py")
    package.MPI = fake
    fresh.setitem(sys.modules, "mpi4py", package)
    fresh.setitem(sys.modules, "mpi4py.MPI", fake)
    return world


def test_the_launcher_of_another_mpi(fresh):
    fake_mpi(fresh, 1)
    fresh.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(DistributedError, match=r"started 4 processes, but mpi4py's MPI \(Other MPI v9\) sees one"):
        get_communicator()


def test_mpi_with_one_process_leaves_exceptions_alone(fresh):
    fake_mpi(fresh, 1)
    before = sys.excepthook
    assert MPIComm().size == 1
    assert sys.excepthook is before


def test_nccl_without_cupy(fresh):
    fresh.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match="NCCL needs CuPy"):
        NCCLComm()


class _DeviceArray(np.ndarray):
    """Stands for `cupy.ndarray`."""


class _Stream:
    """What it is given is done as late as may be: when another stream waits for an event behind it."""

    def __init__(self, non_blocking=False):
        self.waiting, self.events = [], []

    def record(self):
        return self, len(self.waiting)

    def wait_event(self, event):
        stream, count = event
        self.events.append(stream)
        while count and stream.waiting:
            stream.waiting.pop(0)()
            count -= 1


class _FakeGroup:
    """What `cupyx.distributed.init_process_group` gives; the ranks are threads. Checks what NCCL and CuPy require."""

    thread = threading.local()

    def __init__(self, size, rank, **options):
        self.size, self.rank, self.options, self.stopped = size, rank, options, False
        self.talk = getattr(self.thread, "comm", None)

    def _add(self, stream, arrays, function):
        assert all(array.flags.c_contiguous and isinstance(array, _DeviceArray) and array.size for array in arrays)
        assert all(array.dtype.char in "bBiIlLqQefd" for array in arrays)
        current = self.thread.current
        assert stream is not current
        assert stream.events.pop() is current  # it waits for what was computed before
        stream.waiting.append(function)

    def broadcast(self, array, root, stream):
        def later():
            array[...] = self.talk.broadcast(np.array(array), root)

        self._add(stream, [array], later)

    def all_reduce(self, source, target, op, stream):
        assert (source.dtype.char in "fd", op) == (True, "sum")

        def later():
            target[...] = self.talk.allgather(np.array(source)).sum(axis=0)  # of a copy: it is overwritten

        self._add(stream, [source, target], later)

    def all_gather(self, source, target, count, stream):
        assert (count, target.size) == (source.size, self.size * source.size)

        def later():
            target[...] = self.talk.allgather(np.array(source)).reshape(target.shape)

        self._add(stream, [source, target], later)

    def stop(self):
        self.stopped = True


@pytest.fixture
def fake_cupy(fresh):
    """NumPy in CuPy's place, with groups as those of `cupyx.distributed`."""
    cupy = types.ModuleType("cupy")
    cupy.ndarray, cupy.float32, cupy.uint8 = _DeviceArray, np.float32, np.uint8
    cupy.array = lambda array, copy: np.array(array, copy=copy).view(_DeviceArray)
    cupy.ascontiguousarray = lambda array: np.ascontiguousarray(array).view(_DeviceArray)
    cupy.empty = lambda shape, dtype: np.empty(shape, dtype).view(_DeviceArray)
    cupy.asnumpy = lambda array: np.array(array.view(np.ndarray))
    cupy.cuda = types.SimpleNamespace(
        nccl=types.SimpleNamespace(available=True), Stream=_Stream, get_current_stream=lambda: _FakeGroup.thread.current
    )
    distributed = types.ModuleType("cupyx.distributed")
    distributed.init_process_group = _FakeGroup
    fresh.setitem(sys.modules, "cupy", cupy)
    fresh.setitem(sys.modules, "cupyx", types.ModuleType("cupyx"))
    fresh.setitem(sys.modules, "cupyx.distributed", distributed)
    known = xpconv.distributed.communicator.backend_of
    fresh.setattr(xpconv.distributed.communicator, "backend_of", lambda array: known(array=array.view(np.ndarray)))
    return cupy


@pytest.fixture
def nccl_ranks(fake_cupy, run_ranks):
    """``nccl_ranks(size, function)``: the function of an `NCCLComm`, on every rank."""

    def run(size, function):
        def work(comm):
            _FakeGroup.thread.comm, _FakeGroup.thread.current = comm, _Stream()
            return function(NCCLComm(comm.rank, comm.size))

        return run_ranks(size, work)

    return run


@pytest.mark.parametrize("kind", [np.ndarray, _DeviceArray], ids=["host", "device"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_ranks_say_over_nccl(nccl_ranks, kind, dtype):
    def run(comm):
        r = comm.rank
        x = (np.arange(6, dtype=dtype).reshape(2, 3).T + r).view(kind)  # not contiguous
        kept = np.array(x)
        assert np.array_equal(comm.broadcast(x, 2), kept - r + 2)
        rows = comm.allgather(x)
        assert [np.array_equal(rows[k], kept - r + k) for k in range(3)] == [True] * 3
        mean = comm.allreduce_mean(x)
        assert np.array_equal(mean, kept - r + 1)
        assert {type(y) for y in (rows, mean)} == {kind}
        assert {y.dtype.name for y in (rows, mean, comm.broadcast(x))} == {dtype}
        assert np.array_equal(x, kept)
        waits = [comm.start_mean((x + k).view(kind)) for k in range(3)]
        assert all(np.array_equal(wait(), kept - r + 1 + k) for k, wait in enumerate(waits))
        number = np.array(2.5 + r, dtype).view(kind)
        assert comm.broadcast(number, 1) == 3.5
        assert comm.broadcast(number, 1).shape == comm.allreduce_mean(number).shape == ()
        assert comm.allgather(number).tolist() == [2.5, 3.5, 4.5]
        nothing = np.zeros((0, 2), dtype).view(kind)
        assert comm.broadcast(nothing).shape == comm.allreduce_mean(nothing).shape == (0, 2)
        assert comm.allgather(nothing).shape == (3, 0, 2)
        comm.barrier()
        return True

    assert nccl_ranks(3, run) == [True] * 3


def test_what_is_only_copied_over_nccl_may_be_of_any_type(nccl_ranks):
    """NCCL has no bool; and JSON goes as bytes."""

    def run(comm):
        flags = comm.allgather(np.array([comm.rank > 0, True]))
        assert comm.broadcast(np.array([True]), 1).dtype == bool
        return flags.tolist(), gather_json(comm, {"rank": comm.rank})

    wanted = [[False, True], [True, True]], [{"rank": 0}, {"rank": 1}]
    assert nccl_ranks(2, run) == [wanted] * 2


def test_a_mean_that_was_begun_is_not_waited_for(nccl_ranks):
    """An array of the device is reduced where it lies, later."""

    def run(comm):
        x = np.full(4, float(comm.rank)).view(_DeviceArray)
        wait = comm.start_mean(x)
        assert np.array_equal(x, [comm.rank] * 4)
        mean = wait()
        assert np.shares_memory(mean, x)
        return mean.tolist()

    assert nccl_ranks(3, run) == [[1.0] * 4] * 3


def test_training_over_nccl(nccl_ranks):
    """Buckets that begin early, running statistics, decisions: as over any other communicator."""

    def run(comm):
        rng = np.random.default_rng(0)
        net = layers.Sequential(
            layers.Conv2d(1, 3, 3, rng=1), layers.BatchNorm2d(3), layers.Flatten(), layers.Linear(48, 2, rng=2)
        )
        trainer = xpconv.Trainer(
            net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.1), comm=comm, check_ranks=1
        )
        trainer.fit((rng.normal(size=(13, 1, 6, 6)).astype("float32"), rng.integers(0, 2, 13)), epochs=2, batch_size=5)
        return trainer.history[-1]["loss"]

    over_nccl = nccl_ranks(2, run)
    assert over_nccl[0] == over_nccl[1]


def test_nccl_says_where_its_store_is_and_ends_it(fake_cupy, fresh):
    fresh.setenv("MASTER_ADDR", "10.0.0.1")
    fresh.setenv("MASTER_PORT", "999")
    comm = NCCLComm(1, 2)
    assert (comm.rank, comm.size) == (1, 2)
    assert comm._group.options == {"host": "10.0.0.1", "port": 999, "use_mpi": False}
    assert comm._group.stopped
    comm.abort()  # there is nobody who could


def test_the_store_of_nccl_is_a_fork_and_ends_with_an_error(fake_cupy, fresh):
    """Its process would keep the program from ending."""
    ended, method = [], multiprocessing.get_start_method(allow_none=True)
    others = types.SimpleNamespace(terminate=lambda: ended.append("another's"))
    store = types.SimpleNamespace(terminate=lambda: ended.append("the store's"))
    children = [others]
    fresh.setattr(multiprocessing, "active_children", lambda: list(children))

    def fails(size, rank, **options):
        assert multiprocessing.get_start_method() == "fork"
        children.append(store)
        raise RuntimeError("no such device")

    sys.modules["cupyx.distributed"].init_process_group = fails
    with pytest.raises(RuntimeError, match="no such device"):
        NCCLComm(0, 2)
    assert ended == ["the store's"]
    assert multiprocessing.get_start_method(allow_none=True) == method


def test_nccl_under_mpiexec_ends_the_job_as_mpi_does(fake_cupy, fresh):
    """Its id goes over MPI; an exception on one rank, or `abort`, ends all ranks."""
    fresh.setattr(sys, "excepthook", sys.__excepthook__)
    fresh.setattr(sys, "exit", sys.exit)
    fresh.setattr(atexit, "register", lambda function: None)
    fresh.setenv("OMPI_COMM_WORLD_SIZE", "2")
    world, codes = fake_mpi(fresh, 2), []
    world.Abort = codes.append
    comm = NCCLComm()
    assert (comm.rank, comm.size) == (0, 2)
    assert comm._group.options["use_mpi"] is True
    sys.excepthook(ValueError, ValueError("x"), None)
    comm.abort(7)
    assert codes == [1, 7]


def test_nccl_under_the_launcher_of_another_mpi(fake_cupy, fresh):
    fake_mpi(fresh, 1)
    fresh.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(DistributedError, match="started 4 processes"):
        NCCLComm()


def test_nccl_takes_arrays_of_numpy_and_cupy_only(fake_cupy):
    with pytest.raises(TypeError, match="NCCL takes arrays of NumPy and CuPy, got list"):
        NCCLComm(0, 1).broadcast([1.0])


def test_nccl_that_nobody_tells_its_ranks(fake_cupy, fresh):
    with pytest.raises(DistributedError, match="NCCLComm needs RANK"):
        NCCLComm()
    fresh.setenv("RANK", "3")
    fresh.setenv("WORLD_SIZE", "2")
    with pytest.raises(DistributedError, match="rank: expected 0 to 1, got 3"):
        NCCLComm()


def test_cupy_without_nccl(fake_cupy, fresh):
    fake_cupy.cuda.nccl.available = False
    with pytest.raises(DistributedError, match="no NCCL"):
        NCCLComm(0, 1)
