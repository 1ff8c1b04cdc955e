"""What benchmarks share: rounds, ratios, threads, tables; those against what courses teach run, on minute arrays."""

import importlib
import json
import math

import numpy as np
import pytest

pytest.importorskip("threadpoolctl", reason="the benchmarks need the extra 'bench'")
pytest.importorskip("benchmarks", reason="the benchmarks are in the repository, not in the package")

from benchmarks import naive_loops, timing
from benchmarks.command import NO_CASE, Options
from benchmarks.command import main as command
from benchmarks.report import Row, left_out, markdown, plain, row_of_samples


@pytest.mark.parametrize("name", ["naive_loops", "course_convolution", "loader"])
def test_measures_every_case(name):
    rows = list(importlib.import_module(f"benchmarks.{name}").measure(Options("tiny", threads=(1,))))
    assert rows
    assert {row.benchmark for row in rows} == {name}
    assert len({(row.case, row.operation) for row in rows}) == len(rows)
    for row in rows:
        assert all(value > 0 for value in row.values.values()), row
        assert row.ratio is None or row.ratio.value > 0, row


def test_runs_without_pytorch(monkeypatch):
    monkeypatch.setattr(naive_loops, "optional_torch", lambda: None)
    (row,) = naive_loops.measure(Options("tiny", threads=(1,), only=("float32",)))
    assert set(row.values) == {"loops", "generic", "xpconv"}
    assert row.note == "without torch"


def test_one_benchmark_by_itself(tmp_path, capsys):
    result = tmp_path / "one.json"
    arguments = ["--only", "float32", "--tiny", "--threads", "1", "--json", str(result)]
    assert command(naive_loops.measure, "", arguments) == 0
    assert "naive_loops: loops / xpconv" in capsys.readouterr().out
    document = json.loads(result.read_text())
    assert document["environment"]["numpy"] == np.__version__
    assert [Row.from_dict(fields).benchmark for fields in document["rows"]] == ["naive_loops"]


def test_no_case_left_is_told(capsys):
    assert command(naive_loops.measure, "", ["--tiny", "--only", "nothing like it"]) == NO_CASE
    assert "no case contains nothing like it" in capsys.readouterr().err


# ---- what the numbers rest on -------------------------------------------------------------------------------------


def test_peak_memory_sees_an_array_that_is_gone():
    before = timing.peak_memory()
    resident = timing.resident_memory()
    np.ones(40_000_000).sum()
    assert timing.peak_memory() >= max(before, resident + 300_000_000)


def test_missing_peer_gives_no_ratio_and_a_note():
    row = row_of_samples("b", "case", "forward", 1, {"xpconv": [1.0]}, baseline="torch")
    assert row.ratio is None
    assert row.note == "without torch"
    assert "without torch" in plain([row])


def test_rates_are_of_operations_or_of_bytes():
    samples = {"torch": [0.004], "xpconv": [0.002]}
    work = [
        row_of_samples("b", "c", "forward", 1, samples, baseline="torch", flops=6e8, engine="direct", share=0.5),
        row_of_samples("b", "c", "backward", 1, samples, baseline="torch", nbytes=8e7),
    ]
    assert [row.rate for row in work] == [pytest.approx(300), pytest.approx(40)]
    text = markdown(work)
    assert "| 300 GFLOP/s | 50% | direct |" in text
    assert "| 40 GB/s |" in text


def test_a_case_that_was_left_out_is_told():
    assert "left out: the time of the section was up" in plain([left_out("b", "c", 1)])


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
