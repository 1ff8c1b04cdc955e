"""Stand-ins for the systems that wheels are for: their compilers read every C source, where they are installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels" / "cpu"

COMPILERS = {
    "musl": ("musl-gcc", "-DXPC_THREADS=1"),
    "clang": ("clang", "-DXPC_THREADS=1", "-Wall", "-Werror"),
    # no POSIX threads of the kind that setup.py asks for
    "windows": ("x86_64-w64-mingw32-gcc",),
    # what MSVC has: C11 without extensions, variable lengths or vectors
    "plain C": ("gcc", "-std=c11", "-pedantic-errors", "-Wvla", "-Werror=vla", "-D_GNU_SOURCE", "-DXPC_NO_VECTORS"),
}


@pytest.mark.skipif(not KERNELS.is_dir(), reason="the sources of the kernels are part of the source tree only")
@pytest.mark.parametrize("name", COMPILERS)
def test_every_source_compiles(name):
    program, *options = COMPILERS[name]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    sources = sorted(KERNELS.glob("*.c"))
    assert len(sources) > 10
    command = [program, "-fsyntax-only", "-DNDEBUG", f"-I{KERNELS}", *options]
    done = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
