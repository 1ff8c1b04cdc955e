"""What the commands of several ranks share, with ranks that are threads."""

import dataclasses
import os
import threading
from types import SimpleNamespace

import pytest

import xpconv
from xpconv.cli import ranks, train
from xpconv.cli.config import TrainConfig
from xpconv.cli.ranks import Ending, FirstFailed
from xpconv.cli.run import DataInfo, machine
from xpconv.distributed import DistributedError, SelfComm

WRONG = Ending(2, "error", "there is no such file")


def test_what_rank_0_does_for_all(run_ranks):
    done = []

    def work():
        done.append(1)
        return {"folder": "runs/a", "numbers": (0.1, 1 / 3)}

    results = run_ranks(3, lambda comm: ranks.first_does(comm, work))
    assert done == [1]
    assert results[0] == {"folder": "runs/a", "numbers": (0.1, 1 / 3)}
    assert results[1] == results[2] == {"folder": "runs/a", "numbers": [0.1, 1 / 3]}
    assert ranks.first_does(SelfComm(), work) == results[0]


def test_what_rank_0_cannot_do_is_told_by_rank_0(run_ranks):
    def work():
        raise OSError("the disk is full")

    def each(comm):
        try:
            return ranks.first_does(comm, work)
        except (OSError, FirstFailed) as error:
            return type(error)

    assert run_ranks(3, each) == [OSError, FirstFailed, FirstFailed]


def test_ranks_that_were_not_started_alike(run_ranks):
    def each(comm):
        with pytest.raises(DistributedError) as caught:
            ranks.check_same(comm, {"--seed": 3 if comm.rank == 1 else 0, "--model": "lenet"})
        return str(caught.value)

    assert set(run_ranks(3, each)) == {"the ranks were not started alike: --seed is 0 on rank 0 and 3 on rank 1"}
    ranks.check_same(SelfComm(), {"--seed": 3})


def test_data_that_do_not_do(run_ranks):
    config = TrainConfig(batch_size=3)
    info = DataInfo(("a", "b"), (1, 2, 2), (0.5,), (1.0,), (0.0, 1.0), (5, 1, 2))

    def found(images, size, odd=info):
        parts = SimpleNamespace(train=range(images))

        def each(comm):
            with pytest.raises(DistributedError) as caught:
                train._check_data(config, parts, odd if comm.rank == size - 1 else info, comm)
            return str(caught.value)

        (message,) = set(run_ranks(size, each))
        return message

    assert found(5, 2, dataclasses.replace(info, classes=("a", "c"))) == (
        "the ranks were not started alike: the list of classes is ['a', 'b'] on rank 0 and ['a', 'c'] on rank 1"
    )
    assert found(2, 3) == "--data: fashion-mnist-small has 2 training images for 3 ranks"
    assert found(5, 4).startswith("--batch-size: it is that of all ranks together, and each of the 4 needs an image")
    run_ranks(2, lambda comm: train._check_data(config, SimpleNamespace(train=range(2)), info, comm))


def test_an_error_of_all_ranks_is_told_once(run_ranks):
    told = run_ranks(3, lambda comm: ranks.endings(comm, WRONG))
    assert told == [([WRONG], False), *[([WRONG._replace(text="")], False)] * 2]
    assert ranks.endings(SelfComm(), WRONG) == ([WRONG], False)


def test_different_errors_are_told_with_their_ranks(run_ranks):
    texts = ["there is no such file", "no memory", "there is no such file"]
    told = run_ranks(3, lambda comm: ranks.endings(comm, Ending(comm.rank + 1, "error", texts[comm.rank])))
    named = ["rank 0 of 3: there is no such file", "rank 1 of 3: no memory"]
    assert [ending.text for ending in told[0][0]] == named
    assert [[ending.status for ending in endings] for endings, _ in told] == [[1, 2], [1], [1]]
    assert [any(ending.text for ending in endings) for endings, _ in told] == [True, False, False]


def test_the_error_of_rank_0_alone_among_ranks_that_only_leave(run_ranks):
    silent = Ending(1, "", "")
    told = run_ranks(3, lambda comm: ranks.endings(comm, WRONG if comm.rank == 0 else silent))
    assert told[0] == ([WRONG], False)
    assert [endings[0].status for endings, _ in told] == [2, 2, 2]


def test_a_rank_that_meets_nobody_ends_the_job(run_ranks):
    class Lost(SelfComm):
        rank, size = 1, 4

        def meet(self, text, seconds):
            return None

    assert ranks.endings(Lost(), WRONG) == ([WRONG._replace(text="rank 1 of 4: there is no such file")], True)
    assert ranks.endings(Lost(), Ending(141, "", "")) == ([Ending(141, "", "")], True)


def test_the_cpus_of_a_machine_are_shared_by_its_ranks(run_ranks, monkeypatch):
    cpus, here = [{0, 1, 2, 3}, {0, 1, 2, 3}, {4, 5}], threading.local()

    def of_rank(comm):
        here.rank = comm.rank
        return ranks.place_of(comm)

    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cpus[here.rank], raising=False)
    places = run_ranks(3, of_rank)
    assert [place.threads for place in places] == [2, 2, 2]  # the third has two CPUs for itself
    assert [place.local_rank for place in places] == [0, 1, 2]
    assert {(place.machines, place.local_size, place.machine_cpus) for place in places} == {(1, 3, 8)}
    assert places[0].lines(3, 64, 2) == [
        "3 on this machine, 2 threads each; a batch of 64 images is 21 or 22 for each",
        "6 of 8 CPUs of this machine are used; Open MPI's mpiexec --bind-to none gives the ranks all of them, "
        "--threads N sets how many threads each has",
    ]


@pytest.mark.parametrize(
    ("threads", "variable", "expected"), [(None, None, 3), (None, "5", 1), (2, None, 2), (2, "5", 2)]
)
def test_threads_of_a_rank(monkeypatch, threads, variable, expected):
    """Its part of the CPUs, unless the user says otherwise by --threads, or by the variable (1 in these tests)."""
    monkeypatch.delenv("XPCONV_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("XPCONV_NUM_THREADS", variable)
    before = xpconv.get_num_threads()
    xpconv.set_num_threads(1)  # what the process has started with
    try:
        with machine(TrainConfig(threads=threads), ranks.Place(1, 0, 2, 3, 6)):
            assert xpconv.get_num_threads() == expected
        assert xpconv.get_num_threads() == 1
    finally:
        xpconv.set_num_threads(before)


def test_warnings_are_told_once(run_ranks, capsys):
    def each(comm):
        warned = ranks.Warned(comm)
        warned("the data are few")
        if comm.rank == 2:
            warned("overflow in exp")
        warned.wait_for_all()

    run_ranks(3, each)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["xpconv: warning: the data are few", "xpconv: warning: rank 2 of 3: overflow in exp"]


def test_ranks_meet(run_ranks):
    assert run_ranks(2, lambda comm: comm.meet(f"rank {comm.rank}", 1.0)) == [["rank 0", "rank 1"]] * 2
