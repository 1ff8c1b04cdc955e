"""Every benchmark runs, on minute arrays, and tells what it measured; nothing here says how fast."""

import importlib
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("threadpoolctl", reason="the benchmarks need the extra 'bench'")
pytest.importorskip("benchmarks", reason="the benchmarks are in the repository, not in the package")

from benchmarks import memory, naive_loops, run, timing
from benchmarks.command import NO_CASE, Options
from benchmarks.command import main as command
from benchmarks.report import Row, markdown, plain, row_of_samples

ROOT = Path(run.__file__).resolve().parents[1]
IN_PROCESS = ("naive_loops", "course_convolution", "convolution", "pooling_and_layers", "training_step")


@pytest.mark.parametrize("name", IN_PROCESS)
def test_measures_every_case(name):
    rows = list(importlib.import_module(f"benchmarks.{name}").measure(Options("tiny", threads=(1,))))
    assert rows
    assert {row.benchmark for row in rows} == {name}
    assert len({(row.case, row.operation) for row in rows}) == len(rows)
    for row in rows:
        assert all(value > 0 for value in row.values.values()) or row.operation == "dx", row
        assert row.ratio is None or row.ratio.value > 0, row


@pytest.mark.parametrize(
    ("name", "case"),
    [("naive_loops", "float32"), ("convolution", "A 3"), ("pooling_and_layers", "Adam"), ("training_step", "lenet")],
)
def test_runs_without_pytorch(name, case, monkeypatch):
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(module, "optional_torch", lambda: None)
    rows = list(module.measure(Options("tiny", threads=(1,), only=(case,))))
    assert rows
    for row in rows:
        assert not any("torch" in contender for contender in row.values)
        assert "torch not installed" in row.note


def test_memory_of_a_convolution():
    rows = list(memory.measure(Options("tiny", threads=(1,), only=("convolution",))))
    assert [row.unit for row in rows] == ["MB"]
    assert all(value > 0 for value in rows[0].values.values())


def test_files_for_the_memory_of_training_are_mnist(tmp_path):
    from xpconv.data import load

    assert memory.write_mnist(tmp_path, 6, 4) == (16 + 6 * 784) + (8 + 6) + (16 + 4 * 784) + (8 + 4)
    splits = load(tmp_path)
    assert (len(splits.train), len(splits.test)) == (6, 4)


def test_all_benchmarks_are_modules_with_a_measurement():
    for name in run.BENCHMARKS:
        module = importlib.import_module(f"benchmarks.{name}")
        assert callable(module.measure)
        assert module.__doc__


def test_one_command_one_table(tmp_path):
    result = tmp_path / "all.json"
    named = ["naive_loops", "memory", "--only", "float32"]  # the second has no such case
    command = [sys.executable, "-m", "benchmarks.run", *named, "--tiny", "--threads", "1", "--json", str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "naive_loops: loops / xpconv" in done.stdout
    document = json.loads(result.read_text())
    assert document["environment"]["numpy"] == np.__version__
    rows = [Row.from_dict(fields) for fields in document["rows"]]
    assert len(rows) == 1
    assert "float32" in rows[0].case
    assert plain(rows) in done.stdout


def test_a_benchmark_that_fails_is_told_and_the_others_go_on(monkeypatch, capsys):
    row = row_of_samples("b", "case", "forward", 1, {"torch": [2.0], "xpconv": [1.0]}, baseline="torch")

    def one_fails(name, allocator, arguments):
        if name == "memory":
            raise RuntimeError("benchmarks.memory ended with status 1")
        return [row]

    monkeypatch.setattr(run, "_run", one_fails)
    assert run.main(["memory", "naive_loops"]) == 1
    printed = capsys.readouterr()
    assert plain([row, row]) in printed.out  # one for each allocator
    assert "FAILED: benchmarks.memory ended with status 1" in printed.err


def test_an_unknown_benchmark_is_an_error(capsys):
    with pytest.raises(SystemExit):
        run.main(["convolutions"])
    assert "unknown benchmark convolutions; known are naive_loops" in capsys.readouterr().err


def test_no_case_left_is_told(capsys):
    assert command(naive_loops.measure, "", ["--tiny", "--only", "nothing like it"]) == NO_CASE
    assert "no case contains nothing like it" in capsys.readouterr().err


def test_saved_results_hold_table_and_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    row = row_of_samples("b", "case", "forward", 1, {"torch": [2.0], "xpconv": [1.0]}, baseline="torch")
    about = {**timing.environment("full"), "date": "2024-02-29 10:00 +0000", "cpu": "Some(R) CPU @ 3.0 GHz"}
    paths = run._save([row], about, "python -m benchmarks.run")
    assert [path.name for path in paths] == ["2024-02-29-some-cpu-3-0-ghz.md", "2024-02-29-some-cpu-3-0-ghz.json"]
    assert markdown([row]) in paths[0].read_text()
    assert json.loads(paths[1].read_text())["rows"] == [row.as_dict()]


# ---- what the numbers rest on -------------------------------------------------------------------------------------


def test_contenders_run_in_turn_and_as_often():
    order = []
    contenders = {name: lambda name=name: order.append(name) or sum(range(300_000)) for name in "ab"}
    samples = timing.interleave(contenders, timing.Budget(rounds=3, seconds=0.0))
    assert {name: len(times) for name, times in samples.items()} == {"a": 3, "b": 3}
    changes = sum(x != y for x, y in itertools.pairwise(order))
    assert changes >= 4  # a a b b | a.. b.. | b.. a.. | a.. b..


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
    import threadpoolctl

    import xpconv

    before = xpconv.get_num_threads()
    with timing.threads_set(1):
        assert xpconv.get_num_threads() == 1
        assert all(library["num_threads"] == 1 for library in threadpoolctl.threadpool_info())
    assert xpconv.get_num_threads() == before


def test_peak_memory_sees_an_array_that_is_gone():
    before = timing.peak_memory()
    resident = timing.resident_memory()
    np.ones(40_000_000).sum()
    assert timing.peak_memory() >= max(before, resident + 300_000_000)


def test_missing_peer_gives_no_ratio_and_a_note():
    row = row_of_samples("b", "case", "forward", 1, {"xpconv": [1.0]}, baseline="torch")
    assert row.ratio is None
    assert row.note == "torch not installed"
    assert "torch not installed" in plain([row])


def test_tables_show_medians_ratio_and_means():
    samples = {"torch": [0.004, 0.004, 0.008], "xpconv": [0.001, 0.002, 0.002]}
    rows = [row_of_samples("b", case, "forward", 2, samples, baseline="torch") for case in ("one", "two")]
    assert rows[0].values == {"torch": 4.0, "xpconv": 2.0}
    text = plain(rows)
    assert "b: torch / xpconv, above 1 where xpconv is better" in text
    assert "4.00 (3.00-4.00)" in text
    mean = math.exp(math.log(4.0))
    assert f"geometric mean of 2 cases, forward, threads 2, default: {mean:.2f} (lowest 4.00)" in text
    assert "| one | forward | 2 | default | 4 | 2 | 4.00 (3.00-4.00) |" in markdown(rows)


def test_rows_survive_json():
    row = row_of_samples("b", "c", "forward", 1, {"torch": [2.0], "xpconv": [1.0]}, baseline="torch", note="n")
    assert Row.from_dict(json.loads(json.dumps(row.as_dict()))) == row
