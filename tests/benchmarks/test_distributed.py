"""The model of what a step costs on several ranks, by hand; and the job that is measured, once, in a small form."""

import json
import re

import pytest

import benchmarks.distributed.__main__ as main
from benchmarks.distributed.__main__ import launcher, run_job
from benchmarks.distributed.model import (
    Cost,
    Layer,
    Net,
    Network,
    buckets,
    fit_costs,
    fit_network,
    net_of,
    step,
    stops_paying,
)
from xpconv import models
from xpconv.distributed import SelfComm
from xpconv.distributed.gradients import GradientMean


def test_an_all_reduce():
    network = Network(latency=1e-3, bandwidth=1e6)
    assert network.allreduce(1, 500) == 0
    assert network.allreduce(8, 8000) == pytest.approx(2 * 3 * 1e-3 + 2 * 7 / 8 * 8e-3)


def test_a_network_is_found_again():
    network = Network(latency=2e-5, bandwidth=3e9)
    times = {str(size): network.allreduce(4, size) for size in (8, 1000, 10**5, 10**7)}
    assert fit_network(times, 4) == pytest.approx(network, rel=1e-6)


NET = Net(
    [
        Layer("first", Cost(0.1, 0.01), Cost(0.2, 0.02), (3 << 20,)),
        Layer("middle", Cost(0, 0.01), Cost(0, 0.01), ()),
        Layer("last", Cost(0, 0), Cost(0.3, 0), (2 << 20, 1 << 20)),
    ],
    around=Cost(0.05, 0.001),
    small=(16.0, 16.0),
    handling=1e-9,
)


def test_buckets_are_ready_one_after_the_other():
    ready, sizes = zip(*buckets(NET.layers, 10), strict=True)
    assert ready == pytest.approx((0.3, 0.3 + 0.1 + 0.4))
    assert sizes == (3 << 20, 3 << 20)
    assert buckets(NET.layers, 10, limit=1 << 40) == [(pytest.approx(0.8), 6 << 20)]


@pytest.mark.parametrize("make", [models.resnet20, models.lenet])
def test_buckets_are_those_of_the_trainer(make):
    net = make(rng=0)
    sizes = {}
    for path, parameter in net.named_parameters():
        sizes.setdefault(path.rpartition(".")[0], []).append(4 * parameter.size)
    layers = [Layer(name, Cost(0, 0), Cost(0, 0), tuple(own)) for name, own in sizes.items()]
    for limit in (1000, 100_000, 4 << 20):
        mean = GradientMean(SelfComm(), net, bucket_bytes=limit)
        theirs = [sum(4 * parameter.size for _, parameter in bucket.parameters) for bucket in mean.buckets]
        assert [size for _, size in buckets(layers, 1, limit)] == theirs


def test_steps():
    compute = 0.1 + 0.2 + 0.3 + 0.05 + 10 * (0.03 + 0.02 + 0.001)
    assert step(NET, Network(1, 1), 1, 10) == pytest.approx((compute, 0, 0, 0, 0))
    network = Network(latency=1e-3, bandwidth=100e6)
    one, small = network.allreduce(4, 3 << 20), network.allreduce(4, 16)
    said = step(NET, network, 4, 10)
    assert said == pytest.approx((compute, 1e-9 * (6 << 20), 2 * one + 2 * small, 0, 0))
    assert said.seconds == pytest.approx(sum(said[:4]))
    beside = step(NET, network._replace(runs_beside=True), 4, 10)  # the last bucket has nothing to hide behind
    assert beside.messages == pytest.approx(one + 2 * small)
    assert beside.hidden == pytest.approx(one)
    slow = Network(1e-3, 1e6, True)  # the second message waits for the first
    left = 0.3 + 2 * slow.allreduce(4, 3 << 20) - 0.8
    assert step(NET, slow, 4, 10).messages == pytest.approx(left + 2 * slow.allreduce(4, 16))


def test_ranks_that_share_a_core():
    network = Network(latency=1e-3, bandwidth=100e6)
    alone, shared = step(NET, network, 4, 10), step(NET, network, 4, 10, sharing=2.5)
    assert tuple(shared) == pytest.approx([2.5 * seconds for seconds in alone])


def test_the_slowest_of_several_ranks():
    """Means of the largest of N normal numbers: Harter (1961), table 1."""
    net = NET._replace(spread=0.1)
    for ranks, mean in ((2, 0.56419), (4, 1.02938), (100, 2.50759)):
        said = step(net, Network(0, 1e12), ranks, 10)
        assert said.waiting / said.compute == pytest.approx(0.1 * mean, rel=0.05)


def test_costs_are_found_again():
    assert fit_costs({n: 3 + 2 * n for n in (1, 10, 100)}) == pytest.approx((3, 2))
    assert fit_costs({n: 2 * n - 1 for n in (1, 10, 100)}).fixed == 0
    assert fit_costs({n: 5 - 0.01 * n for n in (1, 10, 100)}).each == 0
    assert fit_costs({1: 0.0, 8: 0.0}) == (0, 0)


def test_a_net_of_profiles():
    def profile(n):
        layers = [["", 0.0, 0.0], ["a", 1 + n, 2.0], ["data", 0.5 * n, 0.0], ["optimizer", 0.0, 0.25]]
        return {"layers": layers, "names": ["", "a"], "sizes": {"a": [40, 8]}}

    net = net_of({n: profile(n) for n in (1, 4)}, spread=0.5)
    assert net.gradient_bytes == 48
    assert net.spread == 0.5
    assert [layer.name for layer in net.layers] == ["", "a"]
    assert net.layers[1].forward == pytest.approx((1, 1))
    assert net.layers[1].backward == pytest.approx((2, 0))
    assert net.around == pytest.approx((0.25, 0.5))


def test_where_it_stops_paying():
    assert stops_paying({1: 8.0, 2: 4.0, 4: 2.5, 8: 2.1, 16: 1.0}) == 4
    assert stops_paying({1: 8.0, 2: 4.0}) == 2


def a_round(one, together, core=1.0, speed=1.0):
    """Of two ranks, on a machine of that speed."""
    job = {"wait_s": 0.1, "bytes": 48.0, "messages": 2.0, "spread": 0.0, "core": core}
    profile = {"layers": [["a", one / speed, 0.0]], "names": ["a"], "sizes": {"a": [48]}}
    return {
        "one": {**job, "step_s": one / speed},
        "alone": {**job, "step_s": 1.5 * one / speed},
        "train": {**job, "step_s": together / speed},
        "profile": {"1": profile, "2": profile},
        "handling": {"s_per_byte": 0.0},
        "messages": {"8": 1e-6, "1000": 2e-6},
    }


def test_rounds_at_several_speeds_of_the_machine():
    """Ratios are those within a round; rounds in which a core was taken away do not count."""
    rounds = [a_round(1, 1.25), a_round(1, 1.25, speed=0.5), a_round(1, 1.25, speed=2), a_round(1, 9, core=0.5)]
    measured = main.summary("wide", {"2": rounds})
    assert measured["rounds"] == {"2": [3, 4]}
    assert measured["efficiency"] == {"2": pytest.approx(0.8)}
    assert measured["sharing"] == pytest.approx(1.5)
    assert measured["runs"]["train 1"]["step_s"] == 1
    assert measured["runs"]["train 2"]["step_s"] == pytest.approx(1.25)
    assert [layer[1] for profile in measured["profiles"].values() for layer in profile["layers"]] == [1, 1]


@pytest.fixture
def mpi():
    pytest.importorskip("mpi4py", reason="ranks talk through mpi4py")
    if launcher() is None:
        pytest.skip("no mpiexec on this machine")


def test_a_round_of_two_ranks(mpi):
    (found,) = run_job(2, "--images", 4, "--steps", 2)
    result = found["train"]
    assert 0 < result["wait_s"] < result["step_s"]
    gradients = 4 * 272474
    assert gradients < result["bytes"] < 1.02 * gradients  # and what a step has besides, not what a run begins with
    assert result["messages"] == 4  # gradients, running statistics, loss and hits, whether to stop


def test_what_is_measured_becomes_a_table(mpi, monkeypatch):
    """One round of the smallest kind; its numbers are worth nothing, but all of them are there."""
    monkeypatch.setitem(main.IMAGES, "wide", 2)
    monkeypatch.setitem(main.PROFILED, "wide", (1, 2))
    measured = main.summary("wide", main.measure("wide", [2], 1, 2))
    text = main.table(measured, main.predict(json.loads(json.dumps(measured))))
    assert "| gradients | 16.83 MB in 4 buckets |" in text
    assert re.search(
        r"\n\| 2 \| [\d.]+ ms \| [\d.]+ \| [\d.]+% \| 16.83 MB in 6 \| [\d.]+ ms \([-+][\d.]+%\) \|\n", text
    )
    assert text.count("\n| 1024 |") == 2
    assert "nan" not in text
