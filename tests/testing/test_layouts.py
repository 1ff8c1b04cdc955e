import numpy as np
import pytest

from xpconv.testing import LAYOUTS

SHAPES = [(2, 3, 4, 5), (3, 4), (5,), (), (0, 3, 2, 2)]


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_a_layout_keeps_the_values_and_shares_no_memory(name, shape, dtype, rng):
    array = rng.integers(-9, 9, shape).astype(dtype)
    placed = LAYOUTS[name](array)
    assert np.array_equal(placed, array)
    assert placed.dtype.name == dtype
    assert not np.shares_memory(placed, array)


def test_each_layout_is_what_its_name_says(rng):
    x = rng.standard_normal((2, 3, 4, 5))
    of = {name: make(x) for name, make in LAYOUTS.items()}
    assert of["contiguous"].flags.c_contiguous
    assert of["fortran"].flags.f_contiguous
    assert of["transposed"].strides[-2:] == (8, 32)
    assert of["channels-last"].strides == (480, 8, 120, 24)
    assert of["sliced"].strides == (8 * 2 * 11 * 9 * 7, 8 * 2 * 11 * 9, 8 * 2 * 11, 8 * 2)
    assert np.isnan(of["sliced"].base).sum() == of["sliced"].base.size - x.size
    assert max(of["negative"].strides) < 0
    assert not of["readonly"].flags.writeable
    assert not of["misaligned"].flags.aligned
    assert not of["byteswapped"].dtype.isnative
