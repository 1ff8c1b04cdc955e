"""The script for a machine with a GPU, on the stand-in and with minute sizes: that it works, nothing about speed."""

import argparse
import ctypes
import importlib.util
import json
import math
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("threadpoolctl", reason="the benchmarks need the extra 'bench'")
pytest.importorskip("benchmarks", reason="the benchmarks are in the repository, not in the package")

from benchmarks.gpu import cifar, convolution, device, environment, kernels, sanitizer, script, training
from benchmarks.gpu.section import Options, Rows, Skipped
from xpconv import _gpu, data, models, use_backend
from xpconv._bench.networks import NETWORKS
from xpconv.backends import CaptureError
from xpconv.testing import Case, parity

ROOT = Path(script.__file__).resolve().parents[2]
NEED_A_GPU = {"sanitizer", "cifar"}
HOST = Case("cuda-host", "cuda-host")


@pytest.fixture
def host():
    """A `Device` of the stand-in, with minute sizes."""
    reason = HOST.why_unavailable()
    if reason is not None:
        pytest.skip(reason)
    return device.Device(Options("cuda-host", tiny=True))


def test_whole_script_on_the_stand_in(tmp_path, monkeypatch, capsys):
    reason = HOST.why_unavailable()
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.chdir(ROOT)
    out = tmp_path / "gpu.json"
    assert script.main(["--backend", "cuda-host", "--tiny", "--out", str(out)]) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    assert printed.startswith("minute sizes")
    sections = json.loads(out.read_text())["sections"]
    assert list(sections) == list(script.SECTIONS)
    for name, section in sections.items():
        if name in NEED_A_GPU:
            assert (section["status"], section["reason"]) == ("skipped", "needs a GPU")
            assert f"{name} (0 s): skipped: needs a GPU" in printed
        else:
            assert section["status"] == "ok"
            assert section["rows"]
            assert not [row for row in section["rows"] if row.get("error") or row.get("left_out")]
    assert {row["contender"] for row in sections["training"]["rows"]} == {"xpconv eager", "xpconv recorded"}
    assert all(row["us"] > 0 for row in sections["kernels"]["rows"] if "us" in row)
    assert all(row["ok"] for row in sections["parity"]["rows"])


def test_budgets_are_within_ten_minutes():
    seconds = [script._module(name).SECONDS for name in script.SECTIONS]
    assert sum(seconds) <= script.TOTAL_SECONDS == 600
    assert [script._seconds(name, False) for name in script.SECTIONS] == seconds


# ---- sections that go wrong ---------------------------------------------------------------------------------------

PROGRAMS = {
    "environment": "import os; os.abort()",
    "ceilings": "import time; time.sleep(60)",
    "parity": "import sys; print('no such tool', file=sys.stderr); sys.exit(77)",
    "kernels": "raise ValueError('out of memory')",
    "curve": "pass",
}


@pytest.fixture
def planted(monkeypatch):
    """Sections that write a row, then do what `PROGRAMS` says."""

    def command(name, seconds, rows, arguments):
        return [sys.executable, "-c", f"open({str(rows)!r}, 'w').write('{{\"a\": 1}}\\n{{\"b')\n{PROGRAMS[name]}"]

    monkeypatch.setattr(script, "_command", command)
    monkeypatch.setattr(script, "_GRACE", 0)
    for name in PROGRAMS:
        monkeypatch.setattr(script._module(name), "lines", lambda rows: [f"{len(rows)} rows"])
    monkeypatch.setattr(script, "_seconds", lambda name, tiny: 1 if name == "ceilings" else 60)


def test_a_section_that_crashes_or_hangs_loses_itself_alone(planted, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    if HOST.why_unavailable():
        pytest.skip(HOST.why_unavailable())
    assert script.main(["--backend", "cuda-host", "--tiny", "--out", str(out), *PROGRAMS]) == 1
    sections = json.loads(out.read_text())["sections"]
    assert {name: section["status"] for name, section in sections.items()} == {
        "environment": "failed",
        "ceilings": "failed",
        "parity": "skipped",
        "kernels": "failed",
        "curve": "ok",
    }
    assert all(section["rows"] == [{"a": 1}] for section in sections.values())  # the half row is dropped
    assert "exit status -6" in sections["environment"]["reason"]
    assert "killed after 1 s" in sections["ceilings"]["reason"]
    assert sections["parity"]["reason"] == "no such tool"
    assert "ValueError: out of memory" in sections["kernels"]["reason"]
    assert "ceilings" in capsys.readouterr().out


def test_the_file_is_written_after_each_section(planted, tmp_path, monkeypatch):
    if HOST.why_unavailable():
        pytest.skip(HOST.why_unavailable())
    out = tmp_path / "gpu.json"
    seen = []
    section = script._section

    def watched(*arguments):
        seen.append(list(json.loads(out.read_text())["sections"]) if out.exists() else [])
        return section(*arguments)

    monkeypatch.setattr(script, "_section", watched)
    script.main(["--backend", "cuda-host", "--tiny", "--out", str(out), "parity", "curve"])
    assert seen == [[], ["parity"]]


def test_one_case_that_fails_makes_the_section_fail_and_leaves_the_others(monkeypatch, tmp_path):
    def command(name, seconds, rows, arguments):
        rows.write_text('{"operator": "a", "error": "OutOfMemory"}\n{"operator": "b"}\n')
        return [sys.executable, "-c", ""]

    monkeypatch.setattr(script, "_command", command)
    found = script._section("kernels", 10, argparse.Namespace())
    assert found["status"] == "failed"
    assert found["reason"] == "1 cases, the first: OutOfMemory"
    assert len(found["rows"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kernel"], "unknown section kernel; known are environment"),
        (["--backend", "cuda-host"], "needs --tiny"),
        (["--backend", "numpy"], "takes cupy, cupy:N or cuda-host"),
        (["--backend", "cupy:99"], "--backend cuda-host --tiny tries the script without a GPU"),
    ],
)
def test_bad_usage_is_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        script.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_no_new_case_is_begun_behind_the_deadline():
    rows = Rows()
    assert rows.attempt(Options(deadline=-1.0), lambda: pytest.fail("was begun"), case="x") == {
        "case": "x",
        "left_out": "the time of the section was up",
    }


# ---- what the figures rest on -------------------------------------------------------------------------------------


def test_wrong_results_are_not_timed(host):
    a = host.normal((3, 4))
    assert host.check([a], [a], 0) == 0
    for wrong in (a * 1.001, a * math.nan):
        with pytest.raises(AssertionError, match="not timed"):
            host.check([wrong], [a], 1e-5)
    with pytest.raises(AssertionError, match="instead of"):
        host.check([a[:1]], [a], 1e-5)


def test_bytes_are_those_of_inputs_and_outputs_once(host):
    row = kernels._measured(host, dict(kernels._table(host))["relu"], copy=1e9)
    assert row["mb"] == 2 * 2 * 3 * 8 * 8 * 4 / 1e6
    assert row["gb_per_s"] == pytest.approx(row["mb"] * 1e6 / (row["us"] * 1e-6) / 1e9)
    assert row["share"] == pytest.approx(row["gb_per_s"])


# the same kernel as another one in the table, a matrix product, measured with its optimizer or by its shapes
ELSEWHERE = {
    *(f"{name}{way}" for name in ("leaky_relu", "sigmoid", "silu", "tanh") for way in ("", "_backward")),
    *("batch_norm_inference", "batch_norm_relu_inference", "multiclass_hinge", "clip_gradients"),
    *(
        "linear",
        "linear_backward",
        "conv2d",
        "conv2d_relu",
        "conv2d_backward",
        "conv_transpose2d",
        "conv_transpose2d_backward",
    ),
    *("sgd_steps", "rmsprop_steps", "adam_steps", "copy_tensors"),
}


def test_every_kernel_is_in_the_table(host):
    measured = {draw().operator for _, draw in kernels._table(host)}
    assert measured | ELSEWHERE == set(_gpu.ENGINES)


def test_a_wrong_kernel_has_no_figure(host, monkeypatch):
    (engine, *rest) = host.backend.engines["relu"]
    wrong = engine._replace(function=lambda *arguments: engine.function(*arguments) * np.float32(1.01))
    monkeypatch.setattr(host.backend, "engines", {**host.backend.engines, "relu": (wrong, *rest)})
    with pytest.raises(AssertionError, match="not timed"):
        kernels._measured(host, dict(kernels._table(host))["relu"], copy=1e9)


def test_buffers_are_together_beyond_the_cache(host):
    host.l2_bytes, host.tiny = 50 << 20, False
    for nbytes in (1 << 20, 30 << 20, 100 << 20, 1 << 30):
        copies = host.copies(nbytes)
        assert copies >= 2
        assert copies * nbytes >= 4 * host.l2_bytes or copies == 8


def test_shapes_have_the_padding_of_their_networks():
    """Padding keeps the size at stride 1 and halves it, rounded up, at stride 2."""
    assert len({str(shape) for shape in convolution.SHAPES}) == len(convolution.SHAPES)
    for shape in convolution.SHAPES:
        window = shape.geometry.window
        assert window.out_h == -(-shape.size // shape.stride)


# ---- what needs a GPU, as far as it goes without ------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("shape", convolution._TINY, ids=str)
def test_pytorch_does_the_same_convolution(host, shape, layout):
    torch = pytest.importorskip("torch")
    case = convolution._Case(host, shape, "float32")
    functions = convolution._torch_functions(torch, case, "fp32", layout)
    want = [*case.forward(case.x, case.w), *case.backward(case.dy, case.x, case.w)]
    dx, dw, _ = functions["backward"]()
    got = [host.backend.asarray(tensor.contiguous().numpy()) for tensor in (functions["forward"](), dx, dw)]
    assert host.error(got, want) < 1e-6


@pytest.mark.parametrize("name", ["lenet", "three-layer-convnet", "resnet20"])
def test_pytorch_takes_the_same_steps(name):
    torch = pytest.importorskip("torch")
    (network,) = (network for network in NETWORKS if network.name == name)
    case = training.Case(network, 6, 16)
    with use_backend("numpy"):
        weights = {key: np.array(array) for key, array in case.model("float32").state_dict().items()}
        want = training._xpconv(Options("numpy"), case, "float32", recorded=False).losses(3)
    for how in ("default", "channels last"):
        got = training._torch(torch, case, "fp32", weights, how, device="cpu").losses(3)
        assert got == pytest.approx(want, rel=2e-3)
    training._check_losses(name, want, want, "fp32")
    with pytest.raises(AssertionError, match="not timed"):
        training._check_losses(name, [loss * 1.01 for loss in want], want, "fp32")


def test_a_recording_that_fails_is_an_error():
    """Of its row, not a silent fall-back to eager steps."""
    known = {network.name: network for network in NETWORKS}
    case = training.Case(known["lenet"], 2, 12)
    with use_backend("numpy"), pytest.raises(CaptureError):
        training._xpconv(Options("numpy"), case, "float32", recorded=True).losses(4)


def test_cifar_trains_and_stops_at_the_accuracy(monkeypatch):
    if HOST.why_unavailable():
        pytest.skip(HOST.why_unavailable())
    rng = np.random.default_rng(0)
    part = data.ArrayDataset(rng.integers(0, 256, (16, 3, 12, 12)).astype(np.uint8), np.arange(16) % 10)
    build = models.build
    monkeypatch.setattr(cifar.data, "load", lambda *arguments, **options: data.Splits(part, part))
    monkeypatch.setattr(cifar.models, "build", lambda name, **o: build("lenet", **{**o, "image_size": 12}))
    monkeypatch.setattr(cifar, "BATCH", 4)
    monkeypatch.setattr(cifar, "ACCURACY", 0.0)
    rows = Rows()
    cifar.run(Options("cuda-host", data="somewhere"), rows)
    assert [row["epoch"] for row in rows.all] == [1]
    assert "in epoch 1" in cifar.lines(rows.all)[0]


def test_cifar_without_data_is_skipped(tmp_path):
    with pytest.raises(Skipped, match="--data"):
        cifar.run(Options("cuda-host"), Rows())
    with pytest.raises(Skipped, match="no CIFAR-10"):
        cifar.run(Options("cuda-host", data=str(tmp_path)), Rows())


@pytest.mark.parametrize(("status", "ok"), [(0, True), (99, False)])
def test_sanitizer_tells_what_the_tool_says(monkeypatch, tmp_path, status, ok):
    program = tmp_path / "compute-sanitizer"
    program.write_text(f"#!/bin/sh\necho running $2\necho '========= ERROR SUMMARY: 3 errors'\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    rows = Rows()
    options = Options("cupy", deadline=time.monotonic() + 60)
    if ok:
        sanitizer.run(options, rows)
    else:
        with pytest.raises(AssertionError, match="memcheck and racecheck"):
            sanitizer.run(options, rows)
    assert [(row["tool"], row["ok"], row["status"]) for row in rows.all] == [
        ("memcheck", ok, status),
        ("racecheck", ok, status),
    ]
    assert "ERROR SUMMARY: 3 errors" in sanitizer.lines(rows.all)[0]


def test_sanitizer_that_is_missing_is_a_reason(monkeypatch):
    monkeypatch.setattr(sanitizer, "_program", lambda: None)
    with pytest.raises(Skipped, match="not installed"):
        sanitizer.run(Options("cupy"), Rows())


def test_cases_of_the_sanitizer_are_in_the_table():
    names = [case.name.lower() for case in parity.cases()]
    for text in sanitizer._CASES:
        assert any(text.lower() in name for name in names), text
    chosen = [name for name in names if any(text.lower() in name for text in sanitizer._CASES)]
    assert len(chosen) < len(names) / 2


def test_time_on_a_gpu_is_that_between_events(host, monkeypatch):
    class Event:
        def record(self):
            pass

        synchronize = record

    cuda = types.SimpleNamespace(Event=Event, get_elapsed_time=lambda begin, end: 6.0)
    host.cupy, host.is_gpu = types.SimpleNamespace(cuda=cuda), True
    calls = []
    seconds, recorded = host.seconds(calls.append, copies=3)
    assert seconds == pytest.approx(6e-3 / 3)
    assert recorded
    assert calls == [0, 1, 2, 0, 1, 2]  # once to warm up, once to be recorded; replays call nothing


# ---- the branches for a GPU, on a stand-in for CuPy ---------------------------------------------------------------


@pytest.fixture
def second_gpu(monkeypatch):
    """Options for the second device of a stand-in for CuPy, which takes arrays of the current device only."""
    import array_api_compat

    from xpconv.backends import registry

    if HOST.why_unavailable():
        pytest.skip(HOST.why_unavailable())
    path = ROOT / "tests" / "backends" / "fake_cupy.py"
    spec = importlib.util.spec_from_file_location("fake_cupy_of_benchmarks", path)
    fake = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fake)
    cupy, namespace = fake.start()

    class Event:
        def record(self):
            self.time = time.perf_counter()

        def synchronize(self):
            pass

    class Generator:
        def __init__(self, seed):
            self.rng = np.random.default_rng(seed)

        def standard_normal(self, shape, dtype):
            return fake.new(self.rng.standard_normal(shape, dtype=dtype))

    cupy.random = types.SimpleNamespace(default_rng=Generator)
    cupy.cuda.Event = Event
    cupy.cuda.get_elapsed_time = lambda begin, end: (end.time - begin.time) * 1e3
    cupy.cuda.get_current_stream = lambda: types.SimpleNamespace(ptr=0, is_capturing=lambda: False)
    runtime = cupy.cuda.runtime
    runtime.memcpyDeviceToDevice = 3
    runtime.memcpyAsync = lambda to, source, size, kind, stream: ctypes.memmove(to, source, size)
    monkeypatch.setattr(fake.Device, "compute_capability", "90", raising=False)
    monkeypatch.setattr(fake.Device, "mem_info", (1 << 20, 1 << 30), raising=False)
    monkeypatch.setattr(fake.Device, "pci_bus_id", property(lambda gpu: f"0000:0{gpu.id}:00.0"), raising=False)
    for name in ("_entries", "_loaded", "_by_type"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", namespace)
    monkeypatch.setattr(array_api_compat, "cupy", namespace, raising=False)
    registry.register_backend("cupy", registry._builtin("cupy"), packages=("fake_cupy_of_benchmarks", "cupy"))
    with registry.load_backend("cupy:1").running():
        yield Options("cupy:1", tiny=True)


@pytest.mark.parametrize("name", ["environment", "ceilings", "convolution"])
def test_sections_on_the_second_of_two_gpus(second_gpu, name):
    rows = Rows()
    module = script._module(name)
    module.run(second_gpu, rows)
    assert rows.all
    assert not [row for row in rows.all if row.get("error")]
    assert module.lines(rows.all)


def test_the_card_is_that_of_the_device(second_gpu, monkeypatch):
    asked, rows = [], Rows()
    monkeypatch.setattr(environment, "_card", lambda bus: asked.append(bus) or {})
    environment.run(second_gpu, rows)
    assert asked == ["0000:01:00.0"]


def test_a_kernel_without_a_graph_is_timed_too(second_gpu):
    """The stand-in cannot record: the figure says so."""
    gpu = device.Device(second_gpu)
    row = kernels._measured(gpu, dict(kernels._table(gpu))["relu"], copy=1e9)
    assert row["us"] > 0
    assert row["in_graph"] is False
