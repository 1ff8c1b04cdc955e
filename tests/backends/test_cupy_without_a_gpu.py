"""What xpconv expects of the real CuPy, as far as CuPy shows it on a machine without a GPU."""

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest

import xpconv
from xpconv._geometry import conv_window
from xpconv._gpu import launch, optim, walk

pytest.importorskip("cupy", reason="cupy is not installed (pip install cupy-cuda13x)")


@pytest.mark.parametrize(
    "number",
    [np.bool_(True), np.uint32(0xFFFFFFF0), np.int32(-7), np.int64(-(2**40)), np.float32(0.1), np.float64(0.1)],
    ids=lambda number: type(number).__name__,
)
def test_numbers_reach_a_kernel_in_their_own_type(number):
    from cupy._core import _scalar

    argument = _scalar.CScalar(number)
    assert ctypes.string_at(argument.ptr, number.itemsize) == number.tobytes()


def test_structures_reach_a_kernel_as_they_lie_in_memory():
    from cupy.cuda import function

    index = launch.index_for(1)
    structures = [
        launch.struct_of_window(conv_window((8, 9), 3, 1, 1, 1)),
        walk.walk(index, 2, 3, 8, 9),
        index.struct(1, 2),
        optim._decay(0.9, np.float32),
        np.zeros(1, optim._TABLE),
    ]
    for structure in structures:
        assert structure.size == 1  # CuPy passes no others by value
        assert function.CNumpyArray(structure).ptr == structure.ctypes.data


def test_the_language_standard_is_given_once():
    from cupy._core import core

    options = core.assemble_cupy_compiler_options(("-std=c++17",))
    assert [option for option in options if "std=" in option] == ["-std=c++17"]


def test_the_namespace_has_every_function_in_use():
    xp = pytest.importorskip("array_api_compat.cupy")
    source = "".join(path.read_text(encoding="utf-8") for path in Path(xpconv.__file__).parent.rglob("*.py"))
    used = set(re.findall(r"\bxp\.([a-z_0-9]+)\(", source))
    assert {"matmul", "permute_dims", "reshape"} <= used
    assert not {name for name in used if not hasattr(xp, name)}
