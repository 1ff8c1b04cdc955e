"""What communicators say, and how they are found."""

import sys
import types

import numpy as np
import pytest

import xpconv
from xpconv.backends import to_numpy
from xpconv.data.order import share
from xpconv.distributed import DistributedError, MPIComm, NCCLComm, SelfComm, get_communicator
from xpconv.distributed.communicator import gather_json, gather_rows
from xpconv.distributed.mpi import launched_processes

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


class _FakeGroup:
    """What `cupyx.distributed.init_process_group` gives, for a group of two equal ranks; checks what NCCL requires."""

    def __init__(self, size, rank, **options):
        self.size, self.rank, self.options = size, rank, options

    def broadcast(self, array, root):
        assert array.flags.c_contiguous

    def all_reduce(self, source, target, op):
        assert source.flags.c_contiguous
        assert (source.dtype.char in "fd", op) == (True, "sum")
        np.multiply(source, self.size, out=target)

    def all_gather(self, source, target, count):
        assert count == source.size
        target[...] = source

    def barrier(self):
        self.waited = True


@pytest.fixture
def fake_cupy(fresh):
    """NumPy in CuPy's place, with groups as those of `cupyx.distributed`."""
    cupy = types.ModuleType("cupy")
    for name in ("ascontiguousarray", "array", "float32", "empty"):
        setattr(cupy, name, getattr(np, name))
    cupy.asnumpy = np.asarray
    cupy.cuda = types.SimpleNamespace(nccl=types.SimpleNamespace(available=True))
    distributed = types.ModuleType("cupyx.distributed")
    distributed.init_process_group = _FakeGroup
    fresh.setitem(sys.modules, "cupy", cupy)
    fresh.setitem(sys.modules, "cupyx", types.ModuleType("cupyx"))
    fresh.setitem(sys.modules, "cupyx.distributed", distributed)
    return cupy


def test_nccl_says_what_it_is_given(fake_cupy, fresh):
    fresh.setenv("MASTER_ADDR", "10.0.0.1")
    fresh.setenv("MASTER_PORT", "999")
    comm = NCCLComm(1, 2)
    assert (comm.rank, comm.size) == (1, 2)
    assert comm._group.options == {"host": "10.0.0.1", "port": 999, "use_mpi": False}
    x = np.arange(6, dtype=np.float32).reshape(2, 3).T  # not contiguous
    kept = x.copy()
    for result in (comm.broadcast(x, 1), comm.allreduce_mean(x), comm.start_mean(x)()):
        assert np.array_equal(result, kept)
        assert result.dtype == np.float32
    assert np.array_equal(x, kept)
    assert np.array_equal(comm.allgather(x), [kept, kept])
    assert comm.allreduce_mean(x.astype(np.float16)).dtype == np.float16
    number = np.array(2.5)
    assert (comm.broadcast(number).shape, comm.allreduce_mean(number).shape) == ((), ())
    assert comm.allgather(number).tolist() == [2.5, 2.5]
    comm.barrier()
    assert comm._group.waited


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
