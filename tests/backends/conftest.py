"""Fixtures for tests that change the registry of backends."""

import subprocess
import sys

import pytest

from xpconv.backends import registry


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
