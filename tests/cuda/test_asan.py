"""Every kernel under AddressSanitizer and UndefinedBehaviorSanitizer, in a process of its own.

The first catches what is outside of arrays, the second integers that overflow, and 16 bytes at once that begin at no
multiple of 16. The library of the first has to be preloaded.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xpconv.testing.cuda_host import find_compiler

PROGRAM = Path(__file__).with_name("asan_program.py")


def library():
    """The compiler's AddressSanitizer library, or a skip."""
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    for name in ("libasan.so", "libclang_rt.asan-x86_64.so"):
        done = subprocess.run([compiler[0], f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        path = Path(done.stdout.strip())
        if path.is_absolute():
            return path.resolve()
    pytest.skip(f"{compiler[1]} has no AddressSanitizer library")


def run(*arguments):
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library()),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=0:halt_on_error=1",
        "PYTHONMALLOC": "malloc",
    }
    return subprocess.run([sys.executable, PROGRAM, *arguments], env=environment, capture_output=True, text=True)


def test_every_operator():
    done = run()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert "softmax_cross_entropy" in done.stdout  # the last group
    assert "AddressSanitizer" not in done.stderr
    assert "runtime error" not in done.stderr


def test_planted_misaligned_vectors_are_caught():
    done = run("misaligned")
    assert "aligned" in done.stdout
    assert "not caught" not in done.stdout
    assert done.returncode != 0
    assert "misaligned address" in done.stderr


def test_a_planted_overflow_is_caught():
    done = run("planted")
    assert "in bounds" in done.stdout
    assert "not caught" not in done.stdout
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert "WRITE of size 4" in done.stderr
