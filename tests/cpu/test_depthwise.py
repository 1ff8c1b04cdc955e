"""Convolution of each channel by filters of its own, on every instruction set of this processor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xpconv
from xpconv._cpu import _kernels
from xpconv._cpu.columns import steps
from xpconv._cpu.conv import depthwise, im2col
from xpconv._cpu.conv.choice import engine_for
from xpconv._geometry import conv_geometry

SETS = _kernels.instruction_sets()
MARK = -77.0

pytestmark = pytest.mark.skipif(not SETS, reason="the kernels were built by a compiler without vectors")


def whole_numbers(rng, dtype, *shapes):
    """Arrays of small integers: all sums are exact, so that every order of them gives the same bits."""
    return [rng.integers(-4, 5, shape).astype(dtype) for shape in shapes]


def geometry_of(x_shape, kernel, multiplier=1, **arguments):
    channels = x_shape[1]
    return conv_geometry(
        x_shape,
        (channels * multiplier, 1, *kernel),
        **({"stride": 1, "padding": 0, "dilation": 1, "groups": channels} | arguments),
    )


# (x, kernel, filters a channel, arguments): rows around blocks of 4, widths around vectors, special kernels and others
SHAPES = {
    "one of each": ((1, 1, 1, 1), (1, 1), 1, {}),
    "3x3": ((2, 3, 11, 33), (3, 3), 1, {"padding": 1}),
    "3x3, two filters": ((2, 3, 7, 15), (3, 3), 2, {"padding": 1}),
    "3x3, stride 2": ((2, 3, 31, 31), (3, 3), 1, {"stride": 2, "padding": 1}),
    "5x5": ((2, 2, 13, 18), (5, 5), 1, {"padding": 2}),
    "5x5, stride 2": ((2, 2, 14, 37), (5, 5), 1, {"stride": 2, "padding": 2}),
    "7x7": ((1, 2, 12, 17), (7, 7), 1, {"padding": 3}),
    "3x3, dilated": ((2, 3, 12, 12), (3, 3), 1, {"dilation": 2, "padding": 2}),
    "3x3, stride down alone": ((1, 2, 12, 12), (3, 3), 1, {"stride": (2, 1), "padding": 1}),
    "3x3, padding beyond the kernel": ((1, 2, 5, 6), (3, 3), 1, {"padding": ((4, 3), (5, 2))}),
    "stride 3, leftovers": ((2, 2, 12, 20), (2, 4), 3, {"stride": (3, 3), "padding": ((0, 1), (2, 0))}),
    "kernel below the stride": ((2, 2, 9, 10), (1, 2), 1, {"stride": (2, 4)}),
    "whole image": ((3, 4, 6, 7), (6, 7), 1, {}),
    "one channel, the batch in shares": ((9, 1, 28, 29), (5, 5), 6, {"padding": 2}),
    "three channels, the batch in shares": ((5, 3, 40, 37), (3, 3), 2, {"padding": 1}),
    "narrow": ((2, 5, 7, 7), (3, 3), 1, {"padding": 1}),
    "large, whole lines go past the caches": ((1, 21, 257, 256), (3, 3), 4, {"padding": 1}),
    "large, and so for the gradient of the image": ((1, 65, 257, 256), (3, 3), 1, {"padding": 1}),
    "no images": ((0, 3, 6, 7), (3, 3), 1, {}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_results_are_those_of_the_generic_operators(engine_results, generic_results, isa, name, dtype, rng):
    x_shape, kernel, multiplier, arguments = SHAPES[name]
    geometry = geometry_of(x_shape, kernel, multiplier, **arguments)
    assert depthwise.possible("forward", dtype, geometry) is None
    f = x_shape[1] * multiplier
    x, w, b = whole_numbers(rng, dtype, x_shape, (f, 1, *kernel), f)
    for actual, expected in zip(
        engine_results(depthwise, x, w, b, None, geometry), generic_results(x, w, b, None, geometry), strict=True
    ):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


@settings(max_examples=50)
@given(data=st.data())
def test_any_geometry(engine_results, data):
    draw = data.draw
    kernel, stride, dilation = ([draw(st.integers(1, high)) for _ in "hw"] for high in (5, 4, 3))
    padding = [[draw(st.integers(0, 4)) for _ in range(2)] for _ in "hw"]
    n, c, multiplier = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    size = [
        max(1, (k - 1) * d + 1 - sum(pads)) + draw(st.integers(0, 37))
        for k, d, pads in zip(kernel, dilation, padding, strict=True)
    ]
    geometry = geometry_of((n, c, *size), kernel, multiplier, stride=stride, padding=padding, dilation=dilation)
    rng, f = np.random.default_rng(0), c * multiplier
    x, w, b = whole_numbers(rng, draw(st.sampled_from(["float32", "float64"])), (n, c, *size), (f, 1, *kernel), f)
    expected = engine_results(im2col, x, w, b, None, geometry)
    before = _kernels.instruction_set()
    try:
        for name in SETS:
            _kernels.use_instruction_set(name)
            for mine, want in zip(engine_results(depthwise, x, w, b, None, geometry), expected, strict=True):
                np.testing.assert_array_equal(mine, want)
    finally:
        _kernels.use_instruction_set(before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("size", "kernel", "multiplier", "arguments"),
    [
        ((300, 211), (3, 3), 1, {"padding": 1}),
        ((290, 311), (5, 5), 2, {"stride": (1, 2), "padding": 1}),
        ((400, 170), (7, 4), 1, {"stride": (3, 1), "dilation": 2}),
    ],
)
def test_images_beyond_the_cache_in_bands(engine_results, size, kernel, multiplier, arguments, dtype, rng):
    geometry = geometry_of((1, 2, *size), kernel, multiplier, **arguments)
    f = 2 * multiplier
    x, w, b = whole_numbers(rng, dtype, (1, 2, *size), (f, 1, *kernel), f)
    expected = engine_results(im2col, x, w, b, None, geometry)
    for mine, want in zip(engine_results(depthwise, x, w, b, None, geometry), expected, strict=True):
        np.testing.assert_array_equal(mine, want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), 1), ((3, 3), 2), ((5, 5), 1), ((2, 3), (3, 1))])
def test_nothing_outside_is_touched(generic_results, isa, dtype, rng, kernel, stride):
    """Through the kernels themselves: channels and images lie apart in a marked array."""
    geometry = geometry_of((2, 3, 9, 21), kernel, stride=stride, padding=1)
    window = geometry.window
    x, w, b, dy = whole_numbers(rng, dtype, (2, 3, 9, 21), (3, 1, *kernel), 3, (2, 3, window.out_h, window.out_w))
    expected = generic_results(x, w, b, dy, geometry)

    def apart(values):
        """The values with a marked row before and behind every plane, and a marked plane between the images."""
        n, c, height, width = values.shape
        margin = np.full((n, c + 1, height + 2, width), MARK, dtype)
        view = margin[:, :c, 1:-1]
        view[...] = values
        return margin, view

    def whole(margin, view):
        view[...] = MARK
        return (margin == MARK).all()

    numbers = (*kernel, *steps(window))
    inside, gradient, matrix = apart(x)[1], apart(dy)[1], w.reshape(3, -1)
    margin, y = apart(np.zeros_like(dy))
    _kernels.depthwise(inside, matrix, b, y, *numbers, False, 1 << 20)
    np.testing.assert_array_equal(y, expected[0])
    assert whole(margin, y)
    margin, dx = apart(np.zeros_like(x))
    _kernels.depthwise_input_gradient(gradient, matrix, dx, *numbers, 1 << 20)
    np.testing.assert_array_equal(dx, expected[1])
    assert whole(margin, dx)
    dw, db = np.empty_like(matrix), np.empty_like(b)
    _kernels.depthwise_gradients(gradient, inside, None, None, dw, db, *numbers, 1 << 20)
    np.testing.assert_array_equal(dw.reshape(w.shape), expected[2])
    np.testing.assert_array_equal(db, expected[3])
    margin, dx = apart(np.zeros_like(x))
    dw, db = np.empty_like(matrix), np.empty_like(b)
    _kernels.depthwise_gradients(gradient, inside, matrix, dx, dw, db, *numbers, 1 << 20)
    for mine, want in zip((dx, dw.reshape(w.shape), db), expected[1:], strict=True):
        np.testing.assert_array_equal(mine, want)
    assert whole(margin, dx)


def test_arrays_in_any_memory(engine_results, generic_results, isa, rng, scattered):
    geometry = geometry_of((2, 3, 8, 7), (3, 3), padding=1)
    x, w, b, dy = whole_numbers(rng, "float32", (2, 3, 8, 7), (3, 1, 3, 3), 3, (2, 3, 8, 7))
    expected = generic_results(x, w, b, dy, geometry)
    others = (scattered(x).view, scattered(w).view, b[::-1].copy()[::-1], np.asfortranarray(dy))
    for actual, want in zip(engine_results(depthwise, *others, geometry), expected, strict=True):
        np.testing.assert_array_equal(actual, want)


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (2, 3)])
def test_an_infinity_reaches_only_the_windows_that_see_it(engine_results, generic_results, isa, rng, kernel):
    geometry = geometry_of((1, 2, 9, 19), kernel)
    window = geometry.window
    x, w = rng.normal(size=(1, 2, 9, 19)), rng.normal(size=(2, 1, *kernel))
    dy = rng.normal(size=(1, 2, window.out_h, window.out_w))
    x[0, 0, 0, 18] = np.inf
    dy[0, 1, -1, -1] = np.inf
    with np.errstate(invalid="ignore"):
        expected = generic_results(x, w, None, dy, geometry)
    for mine, want in zip(engine_results(depthwise, x, w, None, dy, geometry), expected, strict=True):
        if want is not None:
            np.testing.assert_array_equal(np.isnan(mine), np.isnan(want))
            np.testing.assert_array_equal(np.isinf(mine), np.isinf(want))


def test_relu(isa, rng):
    for dtype, kernel in (("float32", (3, 3)), ("float64", (2, 3))):
        geometry = geometry_of((3, 2, 6, 19), kernel, padding=1)
        x, w, b = (rng.normal(size=shape).astype(dtype) for shape in ((3, 2, 6, 19), (2, 1, *kernel), 2))
        x[1, 1, 2, 3] = np.nan
        plain = depthwise.forward(x, w, b, geometry, False)
        assert np.isnan(plain).any()
        np.testing.assert_array_equal(depthwise.forward(x, w, b, geometry, True), np.maximum(plain, 0))


def test_results_do_not_depend_on_the_number_of_threads(engine_results, rng, threads):
    x, w, b = (rng.normal(size=shape).astype("float32") for shape in ((9, 8, 30, 30), (8, 1, 3, 3), (8,)))
    geometry = geometry_of(x.shape, (3, 3), padding=1)
    got = engine_results(depthwise, x, w, b, None, geometry)
    xpconv.set_num_threads(1)
    for mine, alone in zip(got, engine_results(depthwise, x, w, b, None, geometry), strict=True):
        np.testing.assert_array_equal(mine, alone)


class TestChoice:
    """Which calls it takes."""

    @pytest.mark.parametrize("operation", ["forward", "input_gradient", "weight_gradient"])
    def test_as_many_groups_as_channels(self, operation):
        assert engine_for(operation, "float32", geometry_of((2, 8, 9, 9), (3, 3), 2)) is depthwise

    def test_other_groups_are_refused(self):
        geometry = conv_geometry((2, 8, 9, 9), (8, 2, 3, 3), stride=1, padding=1, dilation=1, groups=4)
        assert depthwise.possible("forward", "float32", geometry) == "it takes as many groups as channels"

    def test_a_row_beyond_the_cache_is_refused(self):
        geometry = geometry_of((1, 2, 4, 2**20), (3, 3))
        assert "more than 2 MiB" in (depthwise.possible("forward", "float32", geometry) or "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros((1, 6, 8, 8))}, "expected outputs"),
        ({"y": np.zeros((2, 6, 8, 16))[..., ::2]}, "contiguous"),
        ({"w": np.zeros((6, 8))}, "taps"),
        ({"w": np.zeros((5, 9))}, "5 filters are no multiple of 3 channels"),
        ({"b": np.zeros(3)}, "b: has 3 elements, expected 6"),
    ],
)
def test_arrays_that_do_not_belong_together(change, message):
    shapes = {"x": (2, 3, 8, 8), "w": (6, 9), "b": (6,), "y": (2, 6, 8, 8)}
    arrays = {name: np.zeros(shape) for name, shape in shapes.items()} | change
    with pytest.raises(ValueError, match=message):
        _kernels.depthwise(*arrays.values(), 3, 3, 1, 1, 1, 1, 1, 1, False, 1 << 20)
