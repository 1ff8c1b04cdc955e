"""What the ratios rest on."""

import itertools
import os
import time

import numpy as np
import pytest

import xpconv
from xpconv._bench import timing


def test_contenders_run_in_turn_and_as_often():
    order = []
    contenders = {name: lambda name=name: order.append(name) or sum(range(300_000)) for name in "ab"}
    samples = timing.interleave(contenders, timing.Budget(rounds=3, seconds=0.0))
    assert {name: len(times) for name, times in samples.items()} == {"a": 3, "b": 3}
    changes = sum(x != y for x, y in itertools.pairwise(order))
    assert changes >= 4  # a a b b | a.. b.. | b.. a.. | a.. b..


def test_contenders_without_a_ratio_run_in_few_rounds(monkeypatch):
    contenders = {"a": lambda: None, "fast": lambda: None, "slow": lambda: time.sleep(0.02)}
    monkeypatch.setattr(timing, "SLOW_SECONDS", 0.01)
    samples = timing.interleave(contenders, timing.Budget(5, 0.0, sample=0.0), few=("fast", "slow"))
    assert {name: len(times) for name, times in samples.items()} == {"a": 5, "fast": timing.FEW_ROUNDS, "slow": 1}


@pytest.mark.parametrize(("rounds", "kept"), [(3, [1, 3, 5]), (4, [1, 2, 3, 4, 5])])
def test_rounds_in_which_others_had_the_processors_are_left_out(rounds, kept, monkeypatch):
    numbers, stolen = itertools.count(), iter([0, 0, 0, 9, 9, 9, 9, 20, 20, 20])
    monkeypatch.setattr(timing, "_time", lambda function, calls: function())
    monkeypatch.setattr(timing, "_stolen_seconds", lambda: next(stolen))
    budget = timing.Budget(rounds, seconds=1e6, most=5, sample=0.0)
    assert timing.interleave({"one": lambda: next(numbers)}, budget) == {"one": kept}


def test_stolen_seconds_are_those_of_linux(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text("cpu  1 2 3 4 5 6 7 250 9 10\ncpu0 0 0 0 0 0 0 0 1 0 0\n")
    monkeypatch.setattr(timing, "_STAT", stat)
    assert timing._stolen_seconds() == 250 / os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(timing, "_STAT", tmp_path / "none")
    assert timing._stolen_seconds() == 0


def test_ratio_is_formed_within_rounds():
    slow, fast = [2.0, 20.0, 4.0], [1.0, 10.0, 1.0]  # the machine was ten times slower in the second round
    assert timing.ratio(slow, fast).value == 2.0
    assert timing.ratio(fast, slow).value == 0.5


def test_wrong_results_stop_a_benchmark():
    a = np.ones((2, 3))
    timing.assert_same("sum", {"x": [a], "y": [a + 1e-9]}, 1e-6)
    for wrong in (a + 1e-3, a * np.nan, a[:1]):
        with pytest.raises(AssertionError, match="sum: result 0 of y"):
            timing.assert_same("sum", {"x": [a], "y": [wrong]}, 1e-6)


def test_threads_are_the_same_for_all_and_restored():
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="threads of libraries are set through it")
    before = xpconv.get_num_threads()
    with timing.threads_set(1):
        assert xpconv.get_num_threads() == 1
        assert all(library["num_threads"] == 1 for library in threadpoolctl.threadpool_info())
    assert xpconv.get_num_threads() == before
