"""What an installation holds, and builds of the kernels with less than everything: no threads, an older compiler."""

import importlib.util
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import xpconv

ROOT = Path(__file__).parents[2]

needs_source = pytest.mark.skipif(
    not (ROOT / "setup.py").exists()
    or not all(importlib.util.find_spec(name) for name in ("Cython", "setuptools"))
    or shutil.which("cc") is None,
    reason="building takes the source tree, Cython, setuptools and a C compiler",
)


def test_cuda_sources_are_where_kernels_look_for_them():
    text = resources.files("xpconv._cuda").joinpath("common.cuh").read_text()
    assert "#define GRID_STRIDE_LOOP" in text


def test_the_package_says_that_it_is_typed():
    package = resources.files("xpconv")
    assert package.joinpath("py.typed").is_file()
    assert package.joinpath("_cpu", "_kernels.pyi").is_file()


def test_no_sources_of_kernels_are_in_the_package():
    package = Path(xpconv.__file__).parent
    assert [path for path in package.rglob("*") if path.suffix in {".c", ".h", ".pyx", ".pxd"}] == []


CHECK = """
import importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("_kernels", sys.argv[1])
kernels = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernels)
kernels.set_num_threads(3)
x = np.arange(8 * 4 * 64 * 64.0).reshape(8, 4, 64, 64)
y, argmax = np.empty((8, 4, 32, 32)), np.empty((8, 4, 32, 32), np.uint8)
kernels.max_pool(x, y, argmax, 2, 2, 2, 2, 0, 0, 1, 1)
assert np.array_equal(y, x[:, :, 1::2, 1::2])
assert (argmax == 3).all()
dx = np.empty_like(x)
kernels.max_pool_backward(y, argmax, dx, 2, 2, 2, 2, 0, 0, 1, 1)
assert np.array_equal(dx[:, :, 1::2, 1::2], y)
assert dx.sum() == y.sum()
cols = np.empty((8, 4, 3, 3, 62, 62))
kernels.im2col(x, cols, 1, 1, 0, 0, 1, 1)
assert np.array_equal(cols[:, :, 1, 2], x[:, :, 1:-1, 2:])
kernels.dropout(None, None, y, 1, 2, 3, 0, 2**31, 2.0)
assert 0.9 < y.mean() < 1.1
with kernels.PoolClaim() as claimed:
    print(kernels.THREADED, kernels.get_num_threads(), claimed, kernels.instruction_set() is None)
"""


@needs_source
@pytest.mark.parametrize("how", ["asked for", "compiler without threads", "plain compiler"])
def test_a_build_with_less_works(how, tmp_path):
    """Serial because the user says so, or because the compiler has no threads; without vectors, clones, other flags."""
    environment = os.environ | {"CFLAGS": "-O0"}
    refused = {"compiler without threads": "-pthread", "plain compiler": "-f*math*|-ffp*|-fvis*"}.get(how)
    if refused is None:
        environment |= {"XPCONV_SERIAL": "1", "CFLAGS": "-O0 -DXPC_NO_VECTORS"}
    else:
        compiler = tmp_path / "cc"
        # refuses options, and attributes as a compiler that does not know them under -Werror
        compiler.write_text(
            f"""#!/bin/sh
for word in "$@"; do
  case $word in
    {refused}) echo "unknown option $word" >&2; exit 1;;
    */probe.c) if grep -q target_clones "$word"; then exit 1; fi;;
  esac
done
exec {shutil.which("cc")} "$@"
"""
        )
        compiler.chmod(0o755)
        environment |= {"CC": str(compiler), "LDSHARED": f"{compiler} -shared"}
    built = subprocess.run(
        [
            *(sys.executable, "setup.py", "-q", "build_ext", "--force"),
            *("--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")),
        ],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert ("building serial kernels" in built.stdout) == (how != "plain compiler")
    (library,) = (tmp_path / "lib" / "xpconv" / "_cpu").iterdir()
    done = subprocess.run([sys.executable, "-c", CHECK, str(library)], capture_output=True, text=True, cwd=tmp_path)
    threads = ["True", "3", "True"] if how == "plain compiler" else ["False", "1", "False"]
    assert done.stdout.split() == [*threads, str(how == "asked for")], done.stderr


@needs_source
def test_a_source_archive_holds_what_building_and_testing_take(tmp_path):
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    listed = set((tmp_path / "xpconv.egg-info" / "SOURCES.txt").read_text().split("\n"))
    wanted = ["setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "xpconv/py.typed"]
    for folder in ("kernels", "tests", "xpconv", "tools", "benchmarks"):
        wanted += [
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.suffix in {".py", ".pyi", ".pyx", ".c", ".h", ".cu", ".cuh", ".npz", ".sh"}
        ]
    assert sorted(set(wanted) - listed) == []
    assert [name for name in listed if name.endswith((".so", ".pyc")) or name.startswith("build/")] == []
