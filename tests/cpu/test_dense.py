"""Convolution with results of one pixel, on every instruction set of this processor."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import xpconv
import xpconv.functional as F
from xpconv._cpu import _kernels
from xpconv._cpu.conv import choice, dense, im2col
from xpconv._geometry import conv_geometry

SETS = _kernels.instruction_sets()

pytestmark = pytest.mark.skipif(not SETS, reason="the kernels were built by a compiler without vectors")


def whole_numbers(rng, dtype, *shapes):
    """Arrays of small integers: all sums are exact, so that every order of them gives the same bits."""
    return [rng.integers(-4, 5, shape).astype(dtype) for shape in shapes]


def geometry_of(x_shape, w_shape, **arguments):
    return conv_geometry(x_shape, w_shape, **({"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | arguments))


SHAPES = {
    "one of each": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "3x3 on one pixel": ((5, 20, 1, 1), (19, 20, 3, 3), {"padding": 1}),
    "3x3 on four, stride 2": ((3, 7, 2, 2), (18, 7, 3, 3), {"padding": 1, "stride": 2}),
    "1x1 on four, stride 2": ((3, 7, 2, 2), (5, 7, 1, 1), {"stride": 2}),
    "whole image": ((17, 3, 5, 4), (6, 3, 5, 4), {}),
    "the corner": ((2, 3, 4, 4), (6, 3, 2, 2), {"stride": 3}),
    "dilated": ((2, 3, 5, 5), (4, 3, 3, 3), {"dilation": 2}),
    "dilated, around the pixels": ((2, 3, 4, 4), (4, 3, 4, 4), {"dilation": 3, "padding": 3}),
    "padding on one side": ((2, 3, 2, 3), (4, 3, 4, 5), {"padding": ((0, 2), (2, 0))}),
    "one image": ((1, 64, 2, 2), (64, 64, 3, 3), {"padding": 1, "stride": 2}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_results_are_those_of_the_generic_operators(engine_results, generic_results, isa, name, dtype, rng):
    x_shape, w_shape, arguments = SHAPES[name]
    geometry = geometry_of(x_shape, w_shape, **arguments)
    for operation in choice.OPERATIONS:
        assert choice.engine_for(operation, dtype, geometry) is dense
    x, w, b = whole_numbers(rng, dtype, x_shape, w_shape, w_shape[0])
    for bias in (b, None):
        for actual, expected in zip(
            engine_results(dense, x, w, bias, None, geometry), generic_results(x, w, bias, None, geometry), strict=True
        ):
            if expected is None:
                assert actual is None
                continue
            assert actual.dtype == expected.dtype
            np.testing.assert_array_equal(actual, expected)


@settings(max_examples=50)
@given(data=st.data())
def test_any_geometry(engine_results, data):
    draw = data.draw
    kernel, dilation, stride = ([draw(st.integers(1, high)) for _ in "hw"] for high in (5, 3, 4))
    padding = [[draw(st.integers(0, 5)) for _ in range(2)] for _ in "hw"]
    extent = [(k - 1) * d + 1 - sum(pads) for k, d, pads in zip(kernel, dilation, padding, strict=True)]
    size = [max(1, least + draw(st.integers(0, s - 1))) for least, s in zip(extent, stride, strict=True)]
    n, c, f = draw(st.integers(1, 20)), draw(st.integers(1, 20)), draw(st.integers(1, 40))
    geometry = geometry_of((n, c, *size), (f, c, *kernel), stride=stride, padding=padding, dilation=dilation)
    assume(dense.possible("forward", "float32", geometry) is None)
    rng = np.random.default_rng(0)
    dtype = draw(st.sampled_from(["float32", "float64"]))
    x, w, b = whole_numbers(rng, dtype, (n, c, *size), (f, c, *kernel), f)
    expected = engine_results(im2col, x, w, b, None, geometry)
    for mine, want in zip(engine_results(dense, x, w, b, None, geometry), expected, strict=True):
        np.testing.assert_array_equal(mine, want)


def test_arrays_in_any_memory(engine_results, scattered, threads, rng):
    geometry = geometry_of((4, 6, 3, 2), (5, 6, 3, 4), padding=((0, 1), (1, 2)), stride=2)
    arrays = whole_numbers(rng, "float32", (4, 6, 3, 2), (5, 6, 3, 4), 5, (4, 5, 1, 1))
    places = [scattered(array) for array in arrays]
    expected = engine_results(dense, *arrays, geometry)
    for mine, want in zip(engine_results(dense, *(place.view for place in places), geometry), expected, strict=True):
        np.testing.assert_array_equal(mine, want)
    assert all(place.margin_is_whole() for place in places)


def test_the_number_of_threads_changes_nothing(engine_results, rng):
    geometry = geometry_of((64, 96, 1, 1), (200, 96, 3, 3), padding=1)
    x, w, b = (rng.standard_normal(shape, dtype=np.float32) for shape in ((64, 96, 1, 1), (200, 96, 3, 3), 200))
    before, results = xpconv.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            xpconv.set_num_threads(threads)
            results.append(engine_results(dense, x, w, b, None, geometry))
    finally:
        xpconv.set_num_threads(before)
    for other in results[1:]:
        for mine, want in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(mine, want)


def test_relu_is_fused_and_keeps_nan(rng):
    geometry = geometry_of((9, 3, 2, 2), (6, 3, 3, 3), padding=1, stride=2)
    x, w = whole_numbers(rng, "float32", (9, 3, 2, 2), (6, 3, 3, 3))
    x[4, 1] = np.nan
    plain = dense.forward(x, w, None, geometry, False)
    assert np.isnan(plain).any()
    assert (plain < 0).any()
    np.testing.assert_array_equal(dense.forward(x, w, None, geometry, True), np.maximum(plain, 0))


def test_what_it_cannot_do_it_says():
    assert dense.possible("forward", "float32", geometry_of((1, 2, 3, 3), (2, 2, 2, 2))) == (
        "it takes results of one pixel, got 2 x 2"
    )
    grouped = geometry_of((1, 4, 1, 1), (4, 2, 1, 1), groups=2)
    assert dense.possible("forward", "float32", grouped) == "it takes one group"
    around = geometry_of((1, 4, 1, 1), (4, 4, 2, 1), dilation=2, padding=((1, 1), (0, 0)))
    assert dense.possible("forward", "float32", around) == "the window sees no pixel"


def test_a_window_that_sees_no_pixel(rng):
    x, w, b = whole_numbers(rng, "float32", (2, 3, 1, 1), (4, 3, 2, 1), 4)
    y, cache = F.conv2d(x, w, b, dilation=2, padding=((1, 1), (0, 0)))
    np.testing.assert_array_equal(y, np.broadcast_to(b[None, :, None, None], y.shape))
    dx, dw, db = F.conv2d_backward(np.ones_like(y), cache)
    assert not dx.any()
    assert not dw.any()
    np.testing.assert_array_equal(db, np.full(4, 2.0))


def test_kernels_name_what_is_missing():
    numbers = np.ones((2, 2), np.float32)
    for arguments in ((None, numbers, None, numbers, None), (numbers, None, numbers, None, None)):
        with pytest.raises(ValueError, match="dx takes w, dw takes x"):
            _kernels.linear_backward(numbers, *arguments, 2, 2, 2)
