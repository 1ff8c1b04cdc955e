"""What `show_config` prints, here and where something is missing or set wrongly."""

import io
import os
import re
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest

import xpconv
from xpconv import _config, _generic
from xpconv.backends import Engine, registry, use_kernels
from xpconv.backends.numpy import NumpyBackend


def shown():
    file = io.StringIO()
    xpconv.show_config(file)
    return file.getvalue()


def section(text, title):
    """Lines under a title, up to the next empty line; the part before any title has none."""
    lines = text.split("\n")
    start = next(k for k, line in enumerate(lines) if line.startswith(title)) + 1 if title else 0
    return lines[start : lines.index("", start)]


def value(text, name):
    """What stands beside a name, with its continuation lines."""
    match = re.search(rf"^  {name} +(.*(?:\n {{6,}}.*)*)", text, re.MULTILINE)
    return " ".join(match[1].split())


@pytest.fixture
def fresh_registry(monkeypatch):
    """A registry in which no backend has been started."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    for name in ("_loaded", "_by_type"):
        monkeypatch.setattr(registry, name, {})
    monkeypatch.setattr(registry, "_default", None)


def test_it_prints_to_the_standard_output(capsys):
    xpconv.show_config()
    assert capsys.readouterr().out == shown()


def test_versions_and_settings(monkeypatch):
    monkeypatch.setattr(_config, "get_workspace_mb", lambda: 37)
    text = shown()
    assert value(text, "xpconv").startswith(f"{xpconv.__version__}, ")
    assert value(text, "Python").startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert value(text, "NumPy").startswith(np.__version__)
    assert value(text, "threads").startswith(f"{xpconv.get_num_threads()}, on ")
    assert value(text, "workspace").startswith("37 MiB")
    assert value(text, "matmul").startswith("default")
    assert value(text, "kernels").startswith("auto")
    assert value(text, "backend").startswith("numpy")
    with use_kernels("generic"), xpconv.use_matmul_precision("tf32"):
        text = shown()
    assert value(text, "kernels").startswith("generic")
    assert value(text, "matmul").startswith("tf32")


def test_it_fits_a_terminal_of_100_columns(fresh_registry):
    for name in ("torch", "jax", "array_api_strict", "array_api_strict:device1"):
        try:
            registry.load_backend(name)
        except xpconv.BackendUnavailableError:
            continue
    lines = shown().split("\n")
    assert max(map(len, lines)) <= 100
    assert all(line == line.rstrip() for line in lines)
    assert "\t" not in "".join(lines)


def test_every_backend_has_a_status(fresh_registry):
    rows = section(shown(), "Backends")
    names = [row.split()[0] for row in rows if re.match("  [a-z]", row)]
    assert names == registry.registered_backends()
    assert value("\n".join(rows), "numpy").startswith(f"ready numpy {np.__version__}, ")


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_large_libraries_are_not_imported_for_a_look(backend):
    try:
        version = metadata.version(backend)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{backend} is not installed")
    code = f"import sys, xpconv; xpconv.show_config(); print({backend!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nFalse\n")
    assert value(done.stdout, backend) == f"installed {backend} {version}; starts when it is first used"


def test_a_library_that_is_imported_is_started(fresh_registry):
    torch = pytest.importorskip("torch")
    text = shown()
    assert value(text, "torch") == f"ready torch {torch.__version__}, cpu"
    assert re.search(r"^ +numpy +torch", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "reason"), [("torch", "torch is not installed: see"), ("cupy", "cupy is not installed: pip install")]
)
def test_a_library_that_is_missing_says_what_to_install(fresh_registry, monkeypatch, name, reason):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(_config, "_version", lambda name: "")
    assert value(shown(), name).startswith(f"unavailable {reason}")


def test_a_backend_of_another_package_is_not_started(fresh_registry):
    xpconv.register_backend("other", lambda device: pytest.fail("was started"))
    assert value(shown(), "other") == "registered starts when it is first used"


def test_wrong_settings_do_not_hide_the_rest():
    environment = {**os.environ, "XPCONV_BACKEND": "nunpy"}
    code = "import xpconv; xpconv.show_config()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert value(done.stdout, "backend").startswith(
        "XPCONV_BACKEND is 'nunpy': backend: unknown 'nunpy'; known are numpy"
    )
    assert "conv2d" in done.stdout


# ---- the table of operators -----------------------------------------------------------------------------------------


def table(text):
    """Engine by operator, in the first column."""
    # the first block: backends that other tests have loaded may follow in blocks of their own
    lines = text.split("Engine of each operator")[1].split("\n\n")[0].split("\n")[2:]
    cells = {}
    for line in filter(None, lines):
        operator, engine = re.split("  +", line.strip())[:2]
        forward, both, _ = operator.partition(", _backward")
        cells[forward] = engine
        if both:
            cells[f"{forward}_backward"] = engine
    return cells


def test_every_operator_has_an_engine(fresh_registry):
    cells = table(shown())
    assert sorted(cells) == sorted(_generic.__all__)
    engines = registry.load_backend("numpy").engines
    for operator, engine in cells.items():
        assert (engine == "generic") == (operator not in engines)


class Mixed(NumpyBackend):
    """Engines for some calls only."""

    def __init__(self):
        super().__init__()
        self.engines = {
            "conv2d": (
                Engine("3x3", None, lambda dtype, geometry: geometry.window.kernel_h == 3 and geometry.groups == 1),
                Engine("any", None, lambda dtype, geometry: dtype == "float32"),
            ),
            "conv2d_backward": (Engine("any", None, lambda dtype, geometry: True),),
            "relu": (Engine("fast", None, lambda dtype, geometry: dtype == "float64"),),
            "relu_backward": (Engine("fast", None, lambda dtype, geometry: dtype == "float64"),),
        }


def test_engines_that_take_some_calls_only(fresh_registry, monkeypatch):
    monkeypatch.setitem(registry._loaded, "numpy", Mixed())
    cells = table(shown())
    assert cells["conv2d"] == "3x3, any / 3x3, generic"
    assert cells["conv2d_backward"] == "any"
    assert cells["relu"] == cells["relu_backward"] == "generic / fast"
    assert cells["im2col"] == "generic"
    with use_kernels("native"):
        cells = table(shown())
    assert cells["conv2d"] == "3x3, any / 3x3, none"
    assert cells["relu"] == "none / fast"
    with use_kernels("generic"):
        assert set(table(shown()).values()) == {"generic"}


def test_many_backends_are_shown_in_several_blocks():
    backends = [NumpyBackend() for _ in range(9)]
    for k, backend in enumerate(backends):
        backend.name = f"a-rather-long-name-{k}"
    lines = list(_config._table(backends, 100))
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("  conv2d, _backward") for line in lines) == lines.count("") + 1 > 1
    for backend in backends:
        assert sum(backend.name in line for line in lines) == 1


def test_the_processor_is_told_without_proc(monkeypatch):
    monkeypatch.setattr(_config.Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError))
    assert _config.processor()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "processor: 0\nmodel name\t: A CPU\nflags\t\t: fpu avx2 avx fma\n\nprocessor: 1\nflags: sve\n",
            "A CPU: avx avx2 fma",
        ),
        ("processor\t: 0\nFeatures\t: fp asimd sve\n", ": asimd sve"),
        ("model name : A CPU\n", "A CPU"),
    ],
)
def test_instruction_sets(monkeypatch, text, expected):
    monkeypatch.setattr(_config.Path, "read_text", lambda *_, **__: text)
    assert _config.processor().endswith(expected)


def test_numpy_without_a_blas_to_tell(monkeypatch):
    monkeypatch.setattr(_config.np, "show_config", lambda mode: {})
    assert value(shown(), "NumPy") == np.__version__
