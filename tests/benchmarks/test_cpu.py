"""The comparison on a CPU, on minute arrays: that it runs, compares results and tells them; nothing about speed."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("threadpoolctl", reason="the benchmarks need the extra 'bench'")
pytest.importorskip("benchmarks", reason="the benchmarks are in the repository, not in the package")

import xpconv.functional as F
from benchmarks import peers, timing
from benchmarks.command import Options
from benchmarks.cpu import (
    accuracy,
    ceilings,
    convolution,
    layers,
    memory,
    overhead,
    script,
    summary,
)
from benchmarks.peers import BOTH, FORWARD
from benchmarks.report import Row, row_of_samples

ROOT = Path(script.__file__).resolve().parents[2]


def row(benchmark="convolution", case="A 3->64 k3 @32", operation=BOTH, ratio=2.0, threads=1, **more):
    samples = {"torch": [ratio * 1e-3], "xpconv": [1e-3]}
    made = row_of_samples(benchmark, case, operation, threads, samples, baseline="torch")
    return Row(**{**{field: getattr(made, field) for field in made.__dataclass_fields__}, **more})


# ---- sections -----------------------------------------------------------------------------------------------------

# what is not here is slow: it is tested in parts
CASES = {
    "ceilings": (),
    "convolution": (),
    "layers": (),
    "training": (),
    "overhead": (overhead.CALL, overhead.INSTALLED),
    "accuracy": (),
}


@functools.cache
def measured(name):
    return tuple(script._module(name).measure(Options("tiny", threads=(1,), only=CASES[name])))


@pytest.mark.parametrize("name", CASES)
def test_measures_every_case(name):
    rows = measured(name)
    assert rows
    assert {found.benchmark for found in rows} == {name}
    assert len({(found.case, found.operation) for found in rows}) == len(rows)
    for found in rows:
        assert found.values
        assert all(value >= 0 for value in found.values.values()), found
        assert all(low <= found.values[name] <= high for name, (low, high) in found.spread.items()), found
        assert Row.from_dict(json.loads(json.dumps(found.as_dict()))) == found


@pytest.mark.parametrize(
    ("name", "case"), [("convolution", "A 3"), ("layers", "Adam"), ("training", "lenet"), ("accuracy", "A 3")]
)
def test_runs_without_pytorch(name, case, monkeypatch):
    module = script._module(name)
    monkeypatch.setattr(module, "optional_torch", lambda: None)
    rows = list(module.measure(Options("tiny", threads=(1,), only=(case,))))
    assert rows
    for found in rows:
        assert not any("torch" in contender for contender in found.values)
        assert found.ratio is None


def test_without_peers_only_xpconv_runs():
    options = Options("tiny", threads=(1,), only=("A 3", "ReLU"), peers=False)
    for name in ("convolution", "layers"):
        rows = list(script._module(name).measure(options))
        assert rows
        assert all(list(found.values) == ["xpconv"] for found in rows)


def test_no_new_case_is_begun_behind_the_deadline():
    late = Options("tiny", threads=(1, 2), only=("A 3", "ReLU", "lenet", "training"), deadline=-1.0)
    for name in ("convolution", "layers", "training", "memory", "accuracy"):
        rows = list(script._module(name).measure(late))
        assert rows
        assert all(found.values == {} and "left out" in found.note for found in rows)


def test_engines_of_an_algorithm_that_cannot_do_a_shape_have_no_column():
    rows = list(accuracy.measure(Options("tiny", threads=(1,), only=("E 64",))))
    assert "winograd" not in rows[0].values  # stride 2
    assert {"im2col", "xpconv"} <= set(rows[0].values)
    for found in measured("accuracy"):
        assert found.values[found.engine] == found.values["xpconv"]


# ---- wrong results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "case", "operator"),
    [
        ("convolution", "A 3", "conv2d"),
        ("convolution", "L ", "conv2d_backward"),
        ("convolution", "E ", "conv_transpose2d"),
        ("layers", "batch norm + add", "batch_norm_relu_backward"),
        ("layers", "max pool 3x3", "max_pool2d"),
        ("layers", "cross-entropy", "softmax_cross_entropy"),
        ("training", "lenet", "softmax_cross_entropy"),
        ("overhead", overhead.CALL, "conv2d_backward"),
        ("accuracy", "A 3", "conv2d"),
    ],
)
def test_a_wrong_result_is_not_timed(name, case, operator, monkeypatch):
    pytest.importorskip("torch")
    right = getattr(F, operator)

    def wrong(*arguments, **options):
        first, *rest = right(*arguments, **options)
        return (first if first is None else first * np.float32(1.01), *rest)

    monkeypatch.setattr(F, operator, wrong)
    with pytest.raises(AssertionError, match=r"off that of|errors against float64"):
        list(script._module(name).measure(Options("tiny", threads=(1,), only=(case,))))


def test_errors_are_fractions_of_the_largest_value():
    want = [np.array([1.0, -4.0]), np.array([2.0])]
    assert accuracy.largest_error([np.array([1.0, -4.0]), np.array([2.5])], want) == 0.25
    assert accuracy.largest_error([np.array([1.4, -4.0]), np.array([2.0])], want) == pytest.approx(0.1)


# ---- contenders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["A 3->64 k3 @32", "G 3->64 k7 s2 @224"])
def test_the_course_computes_the_same(case):
    from benchmarks import course

    module = course.course_im2col()
    if module is None:
        pytest.skip("no Cython or no C compiler")
    shape = convolution.tiny(convolution.SHAPES[case])
    arrays = shape.arrays(np.random.default_rng(0), "float64")
    want = convolution.xpconv_functions(*arrays, shape)
    got = convolution._course(module, arrays, shape)
    for operation in (FORWARD, BOTH):
        timing.assert_same(case, {"xpconv": want[operation](), "course": got[operation]()}, 1e-12)
    assert course.forward(module, *arrays[1:], shape.stride, shape.padding)[1].shape[0] == 3 * shape.kernel**2


@pytest.mark.parametrize("case", ["E 64->128 k3 s2 @32", "L depthwise 128 k3 @32"])
def test_jax_computes_the_same_convolution(case):
    jax = pytest.importorskip("jax")
    shape = convolution.tiny(convolution.SHAPES[case])
    arrays = shape.arrays(np.random.default_rng(0))
    want = convolution.xpconv_functions(*arrays, shape)
    got = convolution._jax(jax, arrays, shape)
    for operation in (FORWARD, BOTH):
        found = [np.asarray(array) for array in got[operation]()]
        timing.assert_same(case, {"xpconv": want[operation](), "jax": found}, 1e-5)


@pytest.mark.parametrize("case", ["batch norm + add + ReLU", "avg pool 2x2", "group norm, 8 groups"])
def test_jax_computes_the_same_layer(case):
    jax = pytest.importorskip("jax")
    work = layers.CASES[case](np.random.default_rng(0), layers.TINY, layers._Peers(None, jax))
    for operation in (FORWARD, BOTH):
        found = {name: [np.asarray(a) for a in run[operation]()] for name, run in work.contenders.items()}
        timing.assert_same(case, found, 1e-5)


def test_channels_last_is_the_same_convolution():
    torch = pytest.importorskip("torch")
    shape = convolution.tiny(convolution.SHAPES["E 64->128 k3 s2 @32"])
    arrays = shape.arrays(np.random.default_rng(0))
    results = {
        str(last): [array.numpy() for array in convolution.torch_functions(torch, arrays, shape, last=last)[BOTH]()]
        for last in (False, True)
    }
    timing.assert_same("channels last", results, 1e-5)


def test_a_gradient_through_one_number():
    torch = pytest.importorskip("torch")
    x = np.arange(3, dtype=np.float32)
    functions = peers.torch_pass(torch, lambda x: (x * x).sum(), [x], None)
    y, dx = functions[BOTH]()
    assert (float(y), dx.tolist()) == (5.0, [0.0, 2.0, 4.0])


def test_operations_are_those_of_the_definition():
    shape = convolution.Shape(2, 6, 5, 4, 3, stride=2, padding=1, groups=2)
    assert shape.flops == 2 * (2 * 4 * 3 * 3) * (3 * 3 * 3)
    assert shape.output_padding == (0, 0)
    assert convolution.SHAPES["E 64->128 k3 s2 @32"].output_padding == (1, 1)


def test_multiply_adds_are_counted():
    run = ceilings._compiled()
    if run is None:
        pytest.skip("no C compiler")
    assert run(10) in {2 * 12 * lanes * 10 for lanes in (4, 8, 16)}


# ---- memory, imports, sizes ---------------------------------------------------------------------------------------


def test_memory_of_a_convolution():
    rows = list(memory.measure(Options("tiny", threads=(1,), only=("convolution",), peers=False)))
    assert [found.unit for found in rows] == ["MB"]
    assert all(value > 0 for value in rows[0].values.values())


def test_memory_of_a_run_is_measured_once_for_each_number_of_threads():
    rows = list(memory.measure(Options("tiny", threads=(1, 2), only=("LeNet",), peers=False)))
    assert [found.threads for found in rows] == [1, 2]


def test_memory_of_training_steps_is_that_beyond_the_start():
    more, before, loss = memory.step_peak("xpconv", 4, 16, 1)
    assert 0 <= more < 2**31
    assert before > 10e6
    assert np.isfinite(loss)


def test_files_for_the_memory_of_training_are_mnist(tmp_path):
    from xpconv.data import load

    assert memory.write_mnist(tmp_path, 6, 4) == (16 + 6 * 784) + (8 + 6) + (16 + 4 * 784) + (8 + 4)
    splits = load(tmp_path)
    assert (len(splits.train), len(splits.test)) == (6, 4)


def test_the_import_is_timed_by_the_interpreter_that_does_it():
    assert 0 < overhead.import_seconds("json") < 60


def test_installed_sizes_are_those_of_the_files():
    own, everything = overhead.installed_bytes("numpy")
    assert own == everything  # NumPy needs no other package
    assert own > 5e6
    mine = overhead.installed_bytes("xpconv")
    assert mine is None or mine[1] > mine[0] + own
    assert overhead.installed_bytes("no-such-package") is None


# ---- the script ---------------------------------------------------------------------------------------------------


def test_one_command_one_table(tmp_path):
    result = tmp_path / "all.json"
    options = ["--only", "A 3", "--tiny", "--threads", "1", "--json", str(result)]
    command = [sys.executable, "-m", "benchmarks.cpu", "accuracy", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ceilings" in done.stdout
    assert "figures mean nothing" in done.stdout
    document = json.loads(result.read_text())
    assert document["environment"]["numpy"] == np.__version__
    rows = [Row.from_dict(fields) for fields in document["rows"]]
    assert {found.benchmark for found in rows} == {"ceilings", "accuracy"}


def test_a_section_that_fails_is_told_and_the_others_go_on(monkeypatch, capsys, tmp_path):
    def one_fails(variant, arguments):
        return ([], "layers, threads 1, warm: exit status 1: why") if variant.section == "layers" else ([row()], None)

    monkeypatch.setattr(script, "run_section", one_fails)
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results")
    assert script.main(["convolution", "layers", "--threads", "1"]) == 1
    printed = capsys.readouterr()
    assert "A 3->64 k3 @32" in printed.out
    assert "FAILED: layers, threads 1, warm: exit status 1: why" in printed.err
    (text,) = (tmp_path / "results").glob("*.md")
    assert "FAILED: layers" in text.read_text()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('torch is 1e-1 off', flush=True); raise SystemExit(1)", "exit status 1: torch is 1e-1 off"),
        ("import time; time.sleep(60)", "killed after 1 s"),
        ("import os; os.abort()", "exit status -6: no message"),
    ],
)
def test_a_section_that_crashes_or_hangs_keeps_its_rows(program, message, monkeypatch):
    def command(variant, arguments, rows):
        line = json.dumps(row().as_dict())
        return [sys.executable, "-c", f"open({str(rows)!r}, 'w').write({line!r} + '\\n{{\"half')\n{program}"]

    monkeypatch.setattr(script, "_command", command)
    monkeypatch.setattr(script, "_GRACE", 0)
    rows, wrong = script.run_section(script.Variant("layers", (1,), "default", 1 if "sleep" in program else 30), None)
    assert rows == [row()]
    assert wrong.startswith("layers, threads 1, default: ")
    assert message in wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["convolutions"], "unknown section convolutions; known are ceilings"), (["--threads", "0"], "from 1 on")],
)
def test_bad_usage_is_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        script.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_every_section_is_a_module_with_a_measurement():
    for name in script.SECTIONS:
        module = script._module(name)
        assert callable(module.measure)
        assert module.__doc__


def test_budgets_are_together_not_much_longer_than_a_run_takes():
    for size, minutes in (("full", 45), ("quick", 12)):
        processes = [v for name in script.SECTIONS for v in script.variants(name, size, (1, 2))]
        assert sum(variant.seconds for variant in processes) <= 60 * minutes


def test_a_process_knows_its_threads_and_its_allocator(monkeypatch):
    monkeypatch.setattr(timing.platform, "libc_ver", lambda: ("glibc", "2.36"))
    one, two = script.variants("convolution", "quick", (1, 2))
    assert script.environment_of(one)["GLIBC_TUNABLES"] == timing.WARM_BUFFERS
    assert "multi_thread_eigen=false" in script.environment_of(one)["XLA_FLAGS"]
    assert script.environment_of(two)["NPROC"] == "2"
    both = script.variants("convolution", "full", (1, 2))
    assert [variant.allocator for variant in both] == ["warm", "warm", "default", "default"]
    assert "GLIBC_TUNABLES" not in script.environment_of(both[-1])
    assert len(script.variants("memory", "full", (1, 2))) == 1


def test_shares_are_of_what_the_machine_can_do_with_as_many_threads():
    peak = [row("ceilings", ceilings.MULTIPLY_ADDS, "best", threads=n, values={"a": 10 * n, "b": 5}) for n in (1, 2)]
    copy = row("ceilings", ceilings.COPY, "best", values={"memmove": 4.0})
    work = [row(flops=4e6), row(flops=4e6, threads=2), row("layers", nbytes=3e6), row("training")]
    shares = [found.share for found in script._with_shares([*peak, copy, *work])][3:]
    assert shares == [pytest.approx(4 / 10), pytest.approx(4 / 20), pytest.approx(3 / 4), None]


def test_saved_results_hold_goals_table_and_numbers(tmp_path):
    about = {**timing.environment("full"), "date": "2024-02-29 10:00 +0000", "cpu": "Some(R) CPU @ 3.0 GHz"}
    arguments = script._parser().parse_args(["--quick"])
    stem = script._stem(about, arguments)
    assert stem == "2024-02-29-some-cpu-3-0-ghz-cpu-quick"
    text, numbers = script.save(tmp_path / "results" / stem, [row()], about, "python -m benchmarks.cpu", [])
    assert "NOT REACHED: convolution, forward + backward, geometric mean" in text.read_text()
    assert "| A 3->64 k3 @32 |" in text.read_text()
    assert [Row.from_dict(fields) for fields in json.loads(numbers.read_text())["rows"]] == [row()]


def test_a_part_of_the_table_has_another_name_than_the_whole():
    about = {"date": "2024-02-29", "cpu": "x"}
    names = {
        script._stem(about, script._parser().parse_args(arguments))
        for arguments in ([], ["layers"], ["--allocator", "warm"], ["--quick"], ["--only", "A 3"], ["--no-peers"])
    }
    assert len(names) == 6


# ---- goals --------------------------------------------------------------------------------------------------------


def goals(rows):
    return [line for line in summary.lines(rows) if not line.startswith("not measured")]


def test_goals_are_told_reached_or_not():
    rows = [row(case=case, ratio=2.2) for case in convolution.SHAPES]
    found = goals(rows)
    assert (
        "reached: convolution, forward + backward, geometric mean, threads 1, default: 2.20, goal at least 2.2" in found
    )
    assert any(line.startswith("NOT REACHED: convolution 3x3 stride 1, 64 channels on") for line in found)
    assert not any("threads 2" in line for line in found)
    assert "not measured: convolution, forward, geometric mean" in summary.lines(rows)[-1]


def test_goals_are_for_warm_buffers_where_there_are_any():
    rows = [row(ratio=3.0, allocator="default"), row(ratio=0.5, allocator="warm")]
    assert "warm, 1 of 12 cases: 0.50" in goals(rows)[0]


def test_the_lowest_case_is_named():
    rows = [row(case=case, ratio=2.0 - 1.5 * case.startswith("J")) for case in convolution.SHAPES]
    (line,) = (line for line in goals(rows) if "forward + backward, lowest" in line and "3x3" not in line)
    assert line.startswith("NOT REACHED")
    assert "0.50 (J 16->32 k7 @11x9), goal at least 1" in line


def test_a_goal_from_above():
    call = {"benchmark": "overhead", "case": overhead.CALL, "operation": FORWARD}
    assert goals([row(**call, values={"xpconv": 0.016, "kernel": 0.002})])[0].startswith(
        "reached: microseconds of a small conv2d call"
    )
    assert goals([row(**call, values={"xpconv": 0.016, "kernel": 0.0005})])[0].startswith("NOT REACHED")


def test_every_goal_is_about_rows_that_sections_give():
    """Names in goals and in sections are the same."""
    rows = [found for name in ("convolution", "layers", "training", "overhead") for found in measured(name)]
    rows += [row("memory", f"{memory.RESNET}, 128")]
    for goal in summary.GOALS:
        wanted = [found for found in rows if goal.wants(found)]
        assert wanted, goal.what
        assert goal.cases in (0, len(wanted)), goal.what
