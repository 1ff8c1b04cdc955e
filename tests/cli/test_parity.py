"""``xpconv parity``."""

import json
import re

import pytest

from xpconv.backends import BackendUnavailableError, load_backend, registry
from xpconv.cli import main
from xpconv.cli import parity as command


def test_prints_a_table(run):
    status, out, err = run("parity", "--backend", "array_api_strict", "--only", "im2col", "Linear")
    assert (status, err) == (0, "")
    assert out.startswith("judged    array_api_strict")
    assert "linear_backward" in out
    assert "conv2d" not in out
    assert "all within tolerance" in out


def test_every_result_for_machines(run):
    arguments = ("parity", "--backend", "array_api_strict", "--only", "im2col", "Linear")
    status, out, err = run(*arguments, "--json")
    assert (status, err) == (0, "")
    first, *findings, verdict, last = map(json.loads, out.splitlines())
    assert [first["event"], verdict["event"], last["event"]] == ["start", "parity", "end"]
    assert (verdict["ok"], verdict["against"], verdict["findings"]) == (True, "numpy", len(findings))
    assert {finding["operator"] for finding in findings} >= {"im2col", "linear", "linear_backward"}
    assert all((finding["event"], finding["problem"]) == ("finding", "") for finding in findings)
    status, out, err = run(*arguments, "--quiet")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"\d+ results of \d+ cases: all within tolerance\n", out)


def test_half_precision_is_judged_by_float32(run):
    status, out, err = run(
        "parity", "--backend", "numpy", "--dtype", "float16", "--only", "im2col, 1x1", "training run"
    )
    assert (status, err) == (0, "")
    assert "float16 against float32" in out
    assert "training run" not in out


def test_out_of_tolerance_is_status_1(run, monkeypatch):
    backend = load_backend("numpy")
    (engine, *rest) = backend.engines["im2col"]
    wrong = engine._replace(function=lambda *arguments: engine.function(*arguments) * 1.5)
    monkeypatch.setattr(backend, "engines", {**backend.engines, "im2col": (wrong, *rest)})
    status, out, err = run("parity", "--backend", "numpy", "--against", "array_api_strict", "--only", "im2col, 3x3")
    assert (status, err) == (1, "")
    assert "<-- out" in out
    assert "they must be equal" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "numpi"], "unknown 'numpi'"),
        (["--backend", "numpy:tpu"], "no device"),
        (["--against", "nothing", "--backend", "numpy"], "unknown 'nothing'"),
        (["--backend", "numpy", "--only", "transformer"], "no case contains transformer"),
        (["--backend", "numpy", "--dtype", "int8"], "invalid choice"),
        (["--backend", "numpy", "--dtype", "bfloat16"], "bfloat16"),
    ],
)
def test_bad_usage_is_status_2(run, options, message):
    status, _, err = run("parity", *options)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_backend_without_the_dtype_is_told(run):
    pytest.importorskip("jax")
    status, out, err = run("parity", "--backend", "jax", "--dtype", "float64")
    if status == 0:
        pytest.skip("JAX is set to 64 bits")
    assert (status, out) == (2, "")
    assert "no float64" in err


def test_kernels_can_be_chosen(run):
    status, out, _ = run("parity", "--backend", "numpy", "--kernels", "generic", "--only", "max_pool2d, 2x2")
    assert status == 0
    assert "kernels generic" in out


def test_default_is_cupy_or_its_stand_in(monkeypatch, capsys):
    def load(name):
        if name == "cupy":
            raise BackendUnavailableError("cupy is not installed: pip install it")
        return registry.load_backend(name)

    monkeypatch.setattr(command, "load_backend", load)
    assert command._chosen(None) == "cuda-host"
    assert "cupy is not installed" in capsys.readouterr().out
    monkeypatch.setattr(command, "load_backend", lambda name: None)
    assert command._chosen(None) == "cupy"
    assert command._chosen("torch") == "torch"
    assert capsys.readouterr().out == ""


def test_help_says_what_the_exit_status_means(capsys):
    with pytest.raises(SystemExit):
        main(["parity", "--help"])
    assert "exit status is 1 if anything is out of tolerance" in " ".join(capsys.readouterr().out.split())
