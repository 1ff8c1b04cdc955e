"""Convolution of 3 x 3 by Winograd's minimal filtering, on every instruction set of this processor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xpconv
from xpconv._cpu import _kernels
from xpconv._cpu.conv import im2col, winograd
from xpconv._geometry import conv_geometry

SETS = _kernels.instruction_sets()
BOUND = {"float32": 6e-6, "float64": 1.5e-14}  # largest error, as a share of the largest number

pytestmark = pytest.mark.skipif(not SETS, reason="the kernels were built by a compiler without vectors")


def geometry_of(x_shape, filters, padding=1):
    return conv_geometry(x_shape, (filters, x_shape[1], 3, 3), stride=1, padding=padding, dilation=1, groups=1)


def numbers(rng, dtype, geometry):
    """x, w, b and dy of a convolution."""
    window, n, c, f = geometry.window, geometry.batch, geometry.in_channels, geometry.out_channels
    shapes = (n, c, window.height, window.width), (f, c, 3, 3), (f,), (n, f, window.out_h, window.out_w)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def results(x, w, b, dy, geometry, tile):
    """[y, dx, dw, db] of the engine."""
    y = winograd.forward(x, w, b, geometry, False, tile=tile)
    dx = winograd.input_gradient(dy, w, geometry, tile=tile)
    return [y, dx, *winograd.weight_gradient(dy, x, geometry, True, tile=tile)]


def exact_results(x, w, b, dy, geometry):
    """The same in float64 by another engine."""
    x, w, b, dy = (np.asarray(array, np.float64) for array in (x, w, b, dy))
    y, dx = im2col.forward(x, w, b, geometry, False), im2col.input_gradient(dy, w, geometry)
    return [y, dx, *im2col.weight_gradient(dy, x, geometry, True)]


def assert_close(actual, exact, bound):
    for mine, want in zip(actual, exact, strict=True):
        assert mine.shape == want.shape
        assert mine.flags.c_contiguous
        assert np.abs(mine - want).max(initial=0) <= bound * np.abs(want).max(initial=0)


# sizes around those of tiles and vectors, blocks of several images, of a part of one, of a part of a row
SHAPES = {
    "one of each": ((1, 1, 1, 1), 1, 1),
    "whole tiles": ((2, 3, 8, 8), 5, 1),
    "partial tiles": ((2, 17, 9, 11), 18, 1),
    "no padding": ((2, 4, 7, 6), 33, 0),
    "padding on one side": ((1, 5, 6, 9), 3, ((2, 0), (0, 1))),
    "padding beyond the kernel": ((2, 3, 2, 3), 4, ((5, 3), (4, 6))),
    "many small images": ((70, 16, 4, 4), 16, 1),
    "parts of an image": ((2, 40, 50, 30), 9, 1),
    "parts of a row": ((1, 20, 5, 700), 3, 1),
    "more filters than a panel": ((3, 6, 5, 5), 70, 1),
}


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_results_are_those_of_other_engines(isa, name, dtype, tile, rng):
    geometry = geometry_of(*SHAPES[name])
    arrays = numbers(rng, dtype, geometry)
    assert_close(results(*arrays, geometry, tile), exact_results(*arrays, geometry), BOUND[dtype])


@settings(max_examples=40)
@given(data=st.data())
def test_any_geometry(data):
    draw = data.draw
    padding = [[draw(st.integers(0, 4)) for _ in range(2)] for _ in "hw"]
    size = [max(1, 3 - sum(pads)) + draw(st.integers(0, 19)) for pads in padding]
    geometry = geometry_of(
        (draw(st.integers(1, 3)), draw(st.integers(1, 20)), *size), draw(st.integers(1, 20)), padding
    )
    dtype = draw(st.sampled_from(["float32", "float64"]))
    arrays = numbers(np.random.default_rng(0), dtype, geometry)
    exact = exact_results(*arrays, geometry)
    before = _kernels.instruction_set()
    try:
        for name in SETS:
            _kernels.use_instruction_set(name)
            for tile in (2, 4):
                assert_close(results(*arrays, geometry, tile), exact, BOUND[dtype])
    finally:
        _kernels.use_instruction_set(before)


def test_no_images():
    geometry = geometry_of((0, 3, 6, 7), 4)
    for algorithm in ("auto", "winograd"):
        with xpconv.use_conv_algorithm(algorithm):
            y, _ = xpconv.functional.conv2d(np.zeros((0, 3, 6, 7)), np.zeros((4, 3, 3, 3)), padding=1)
        assert y.shape == (0, 4, geometry.window.out_h, geometry.window.out_w)
