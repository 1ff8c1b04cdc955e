"""The model of what a step costs on several ranks, by hand; and the job that is measured, once, in a small form."""

import pytest

from benchmarks.distributed.__main__ import launcher, run_job
from benchmarks.distributed.model import Network, fit_network, stops_paying, strong_scaling, weak_scaling


def test_an_all_reduce():
    network = Network(latency=1e-3, bandwidth=1e6)
    assert network.allreduce(1, 500) == 0
    assert network.allreduce(8, 8000) == pytest.approx(2 * 3 * 1e-3 + 2 * 7 / 8 * 8e-3)


def test_a_network_is_found_again():
    network = Network(latency=2e-5, bandwidth=3e9)
    times = {str(size): network.allreduce(4, size) for size in (8, 1000, 10**5, 10**7)}
    assert fit_network(times, 4) == pytest.approx(network, rel=1e-6)


def test_steps():
    network = Network(latency=1e-3, bandwidth=1e6)
    messages = network.allreduce(4, 1000)
    small = 3 * network.allreduce(4, 16)
    assert weak_scaling(network, 4, 1.0, 1000, 3) == pytest.approx(1 + messages + small)
    assert weak_scaling(network, 4, 1.0, 1000, 3, hidden=0.5) == pytest.approx(1 + small)  # beside the backward pass
    assert strong_scaling(network, 4, 1.0, 1000, 3) == pytest.approx(0.25 + messages + small)
    assert weak_scaling(network, 1, 1.0, 1000, 3) == 1


def test_where_it_stops_paying():
    assert stops_paying({1: 8.0, 2: 4.0, 4: 2.5, 8: 2.1, 16: 1.0}) == 4
    assert stops_paying({1: 8.0, 2: 4.0}) == 2


def test_a_job_of_two_ranks():
    pytest.importorskip("mpi4py", reason="ranks talk through mpi4py")
    if launcher() is None:
        pytest.skip("no mpiexec on this machine")
    result = run_job(2, "train", "--images", 4, "--steps", 2)
    assert 0 < result["wait_s"] < result["step_s"]
    assert result["gradient_bytes"] == 4 * 272474 < result["bytes"]
