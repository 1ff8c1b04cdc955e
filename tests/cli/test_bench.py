"""``xpconv bench``, on cases of nothing: that it compares, measures, and tells what it found."""

import json
import os

import numpy as np
import pytest

from xpconv._bench import cases, peers
from xpconv.cli import bench, output

pytest.importorskip("threadpoolctl", reason="timings take the extra 'train'")


class Torch:
    """All that the command asks of PyTorch where the cases are made up."""

    __version__ = "9.9"


def contenders(torch, *, wrong=0.0):
    a = np.ones(3)
    found = {"xpconv": lambda: (a.copy(),)}
    return found if torch is None else {"PyTorch": lambda: (a + wrong,), **found}


def wrong_contenders(torch):
    return contenders(torch, wrong=1.0)


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    """Two cases, and PyTorch."""
    monkeypatch.setattr(cases, "CASES", (case("first group", "a"), case("second group", "b", quick=True)))
    monkeypatch.setattr(peers, "optional_torch", lambda: Torch)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))


def case(group, name, make=contenders, quick=False):
    return cases.Case(group, name, make, quick=quick)


def test_a_table_and_what_it_means(run):
    status, out, err = run("bench", "--seconds", 0.1, "--threads", 1)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[1].endswith(", 1 thread")
    assert "PyTorch   9.9" in lines
    assert lines[4].split() == ["first", "group", "xpconv", "PyTorch", "ratio", "(quartiles)"]
    assert lines[5].split()[0] == "a"
    assert [lines[5].split()[k] for k in (2, 4)] == ["ms", "ms"]
    assert "above 1 xpconv is faster" in out
    assert lines[-1].startswith("xpconv is faster in ")


def test_a_busy_machine(run, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.25, 0.0, 0.0))
    assert "busy      load 1000.2 on " in run("bench", "--quick", "--seconds", 0.1)[1]
    assert "busy" not in run("bench", "--quick", "--seconds", 0.1, "--quiet")[1]


def test_without_pytorch(run, monkeypatch):
    monkeypatch.setattr(peers, "optional_torch", lambda: None)
    status, out, err = run("bench", "--quick", "--seconds", 0.1)
    assert (status, err) == (0, "")
    assert "not installed: the times of xpconv alone" in out
    assert "ratio" not in out
    assert "second group" in out
    assert "first group" not in out
    assert "left out" in run("bench", "--no-torch", "--seconds", 0.1)[1]


def test_for_machines(run):
    status, out, err = run("bench", "--seconds", 0.1, "--json")
    assert (status, err) == (0, "")
    start, machine, *measurements, verdict, end = map(json.loads, out.splitlines())
    assert [e["event"] for e in (start, machine, verdict, end)] == ["start", "machine", "bench", "end"]
    assert machine["pytorch"] == "9.9"
    for m in measurements:
        assert m["event"] == "measurement"
        assert m["rounds"] >= 3
        for times in (m["xpconv_seconds"], m["pytorch_seconds"], m["ratio"]):
            assert 0 < times["low"] <= times["median"] <= times["high"]
    assert verdict["cases"] == len(measurements) == 2


def test_the_geometric_mean_of_what_was_measured(run, monkeypatch):
    ratios = iter((4.0, 0.25, 8.0))
    monkeypatch.setattr(cases, "CASES", (case("g", "a"), case("g", "b"), case("g", "c")))
    spread = cases.Ratio(0.0123, 0.012, 0.013)
    monkeypatch.setattr(
        cases, "measure", lambda *_: cases.Measurement(spread, spread, cases.Ratio(next(ratios), 0.1, 9.0), 3)
    )
    status, out, _ = run("bench", "--quiet")
    assert status == 0
    assert out.splitlines()[-1] == "xpconv is faster in 2 of 3 cases; the geometric mean of the ratios is 2.00"
    assert "12.3 ms" in out


@pytest.mark.parametrize("columns", [80, 77, 40])
@pytest.mark.parametrize("peer", [True, False])
def test_the_table_fits_the_terminal(run, monkeypatch, columns, peer):
    """With the real names; at 80 columns a case is one line."""
    monkeypatch.undo()
    times, ratio = cases.Ratio(0.2011, 0.1954, 0.2202), cases.Ratio(17.5, 11.09, 27.28)
    found = cases.Measurement(times, times if peer else None, ratio if peer else None, 3)
    monkeypatch.setattr(cases, "measure", lambda *_: found)
    monkeypatch.setattr(peers, "optional_torch", lambda: Torch if peer else None)
    for module in (bench, output):
        monkeypatch.setattr(module, "width_of", lambda stream: columns)
    status, out, _ = run("bench")
    assert status == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= columns
    name = cases.CASES[2].name
    assert len(name) == max(len(case.name) for case in cases.CASES)
    (line,) = (line for line in lines if line.startswith(name))
    assert ("201.1 ms" in line) == (columns == 80 or (not peer and columns == 77))
    assert ("17.5 (11.1 to 27.3)" in out) == peer


def test_results_that_differ_are_status_1(run, monkeypatch):
    monkeypatch.setattr(cases, "CASES", (case("g", "a", wrong_contenders),))
    status, out, _ = run("bench", "--seconds", 0.1)
    assert status == 1
    assert out.splitlines()[-1] == "xpconv and PyTorch do not compute the same"
    assert "g, a: result 0 of xpconv is" in out


def test_the_real_cases_compute_what_pytorch_computes(monkeypatch):
    """One layer, one step and one image of the real ones; the rest differs in numbers only."""
    monkeypatch.undo()
    torch = pytest.importorskip("torch", reason="the peer")
    real = {c.name: c for c in cases.CASES}
    for name in ("linear, 1024 to 512, 128 rows", "LeNet, 128 of 1x28x28", "ResNet-20, 1 of 3x32x32"):
        found = cases.measure(real[name], torch, 1, 0.0)
        assert found.rounds == 3
        assert found.ratio.value > 0
    assert cases.measure(real["linear, 1024 to 512, 128 rows"], None, 1, 0.0).ratio is None
