"""Fixtures for tests that change the registry of backends."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from xpconv.backends import registry

_spec = importlib.util.spec_from_file_location("fake_cupy", Path(__file__).with_name("fake_cupy.py"))
_fake_cupy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fake_cupy)


@pytest.fixture
def clean_registry(monkeypatch):
    """The registry, without a default; afterwards it is put back as it was before the test."""
    for name in ("_entries", "_loaded", "_by_type"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    monkeypatch.setattr(registry, "_entry_points_read", registry._entry_points_read)
    monkeypatch.setattr(registry, "_default", None)
    monkeypatch.delenv("XPCONV_BACKEND", raising=False)
    return registry


@pytest.fixture
def fake_cupy(clean_registry, monkeypatch):
    """The module ``fake_cupy.py`` beside this file; ``fake_cupy.install(...)`` puts the stand-in in CuPy's place."""
    import array_api_compat

    def install(*arguments, **options):
        cupy, namespace = _fake_cupy.start(*arguments, **options)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "array_api_compat.cupy", namespace)
        monkeypatch.setattr(array_api_compat, "cupy", namespace, raising=False)
        registry.register_backend("cupy", registry._builtin("cupy"), packages=("fake_cupy", "cupy"))
        return cupy

    monkeypatch.setattr(_fake_cupy, "install", install, raising=False)
    return _fake_cupy


@pytest.fixture
def two_gpus(fake_cupy):
    """CuPy's stand-in with two devices; gives its `Machine`."""
    fake_cupy.install()
    return fake_cupy.machine


@pytest.fixture
def python(monkeypatch):
    """Run code in a new interpreter: ``python(code, XPCONV_BACKEND="torch") -> (status, stdout, stderr)``."""
    for name in ("XPCONV_BACKEND", "XPCONV_KERNELS", "XPCONV_WORKSPACE_MB"):
        monkeypatch.delenv(name, raising=False)

    def run(code, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    return run
