"""The convolution by blocks, on every instruction set of this processor."""

import ctypes
import mmap
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xpconv
from xpconv._cpu import _kernels
from xpconv._cpu.columns import steps
from xpconv._cpu.conv import blocked, im2col
from xpconv._cpu.conv.choice import candidates
from xpconv._geometry import conv_geometry
from xpconv.testing.strategies import convolutions

SETS = _kernels.instruction_sets()

pytestmark = pytest.mark.skipif(not SETS, reason="the kernels were built by a compiler without vectors")


def geometry_of(x_shape, w_shape, **arguments):
    return conv_geometry(x_shape, w_shape, **({"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | arguments))


def whole_numbers(rng, dtype, *shapes):
    """Arrays of small integers: all sums are exact, so that every order of them gives the same bits."""
    return [rng.integers(-4, 5, shape).astype(dtype) for shape in shapes]


# outputs around vectors and tiles, filters around panels, taps around chunks and rows, and what is cut differently
SHAPES = {
    "one of each": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "panels of 8, 4 and 3": ((2, 3, 9, 17), (15, 3, 3, 3), {"padding": 1}),
    "a tile and a lane": ((1, 2, 7, 7), (9, 2, 1, 1), {}),
    "in place, images together": ((9, 20, 5, 5), (33, 20, 1, 1), {}),
    "in place, bands of rows": ((1, 2, 40, 41), (3, 2, 1, 1), {}),
    "many channels, chunks": ((2, 190, 4, 4), (20, 190, 3, 3), {"padding": 1}),
    "stride 2": ((3, 5, 31, 30), (25, 5, 3, 3), {"stride": 2, "padding": 1}),
    "stride 2, one tap": ((3, 5, 9, 8), (6, 5, 1, 1), {"stride": 2}),
    "stride 3, leftovers": ((2, 2, 12, 20), (6, 2, 2, 4), {"stride": (3, 3), "padding": ((0, 1), (2, 0))}),
    "kernel below the stride": ((2, 2, 9, 10), (7, 2, 1, 2), {"stride": (2, 4)}),
    "stride 2, rows of whole vectors": ((3, 40, 20, 64), (19, 40, 3, 3), {"stride": 2, "padding": 1}),
    "stride 2, rows of whole vectors, padding at both ends": ((5, 7, 8, 30), (8, 7, 2, 2), {"stride": 2, "padding": 1}),
    "stride 2, one tap, rows of whole vectors": ((3, 9, 9, 32), (6, 9, 1, 1), {"stride": 2}),
    "stride 2, chunks, whole vectors are woven": ((1, 20, 20, 64), (180, 20, 3, 3), {"stride": 2, "padding": (7, 1)}),
    "strides of one tap, padding": ((4, 15, 11, 10), (5, 15, 1, 1), {"stride": (3, 2), "padding": (1, 2)}),
    "strides of one tap, few rows": ((40, 5, 3, 1), (5, 5, 1, 1), {"stride": (1, 2)}),
    "one tap, a stride beyond the image": ((2, 3, 5, 4), (4, 3, 1, 1), {"stride": (1 << 40, 3)}),
    "stride 2, more padding than a vector": ((2, 3, 5, 38), (8, 3, 3, 3), {"stride": 2, "padding": 19}),
    # taps that see nothing for whole vectors, before the first number of the images
    "stride 2, rows of whole vectors, more padding than two": (
        (1, 1, 2, 40),
        (8, 1, 1, 2),
        {"stride": 2, "padding": (0, 44)},
    ),
    "one tap, a stride beyond the image, padding": ((2, 3, 5, 4), (4, 3, 1, 1), {"stride": (1 << 61, 3), "padding": 1}),
    "dilation": ((2, 2, 14, 13), (4, 2, 3, 2), {"dilation": (3, 2), "stride": (2, 3), "padding": 2}),
    "mostly padding": ((3, 4, 5, 4), (18, 4, 7, 7), {"padding": 3}),
    "padding beyond the image": ((1, 1, 2, 3), (3, 1, 2, 2), {"padding": ((4, 3), (5, 2))}),
    "whole image": ((4, 3, 6, 7), (11, 3, 6, 7), {}),
    "bands of rows": ((2, 3, 70, 40), (5, 3, 3, 3), {"padding": 1}),
    "images as lanes": ((37, 5, 5, 4), (11, 5, 3, 3), {"padding": 1}),
    "images as lanes, stride 2": ((16, 3, 7, 6), (9, 3, 3, 5), {"stride": 2, "padding": ((1, 0), (3, 2))}),
    "images as lanes, pixels that nothing sees": ((50, 2, 5, 5), (3, 2, 2, 1), {"stride": 3, "dilation": (2, 1)}),
    "stride beyond the image": ((2, 3, 5, 4), (4, 3, 2, 3), {"stride": (1 << 40, 7), "padding": 1}),
    "one image, weights where they lie": ((1, 40, 5, 6), (24, 40, 3, 3), {"padding": 1}),
    "one image, stride and dilation": ((1, 3, 9, 8), (8, 3, 2, 3), {"stride": (2, 1), "dilation": 2, "padding": 1}),
    "one image, one tap, groups": ((1, 8, 4, 5), (32, 4, 1, 1), {"groups": 2}),
    # images of more than 512 KiB, or half of that, with few outputs each, and many filters
    "a large band, images together": ((3, 330, 14, 14), (66, 330, 3, 3), {"stride": 2, "padding": 1}),
    "a large band of rows": ((1, 140, 28, 60), (64, 140, 3, 3), {"stride": 2, "padding": 1}),
    "images together for full lanes": ((5, 4, 7, 7), (70, 4, 1, 1), {"stride": (1, 2), "padding": (0, 1)}),
    "panels of channels": ((5, 31, 6, 5), (21, 31, 3, 2), {"stride": (1, 2), "padding": (1, 2)}),
    # few channels: taps of a row of the kernel are rows of tiles, too
    "three channels": ((9, 3, 40, 37), (33, 3, 7, 7), {"stride": 2, "padding": 3}),
    "one channel": ((40, 1, 12, 11), (6, 1, 5, 5), {"padding": ((0, 2), (4, 1))}),
    "seven channels": ((3, 7, 9, 8), (17, 7, 3, 5), {"padding": 2}),
    "groups": ((3, 6, 8, 9), (9, 2, 3, 3), {"groups": 3, "stride": 2, "padding": 1}),
    # results of more than 2 MiB go past the caches where lines are whole
    "large, one tap": ((6, 12, 32, 32), (97, 12, 1, 1), {}),
    "large, chunks": ((11, 40, 20, 24), (112, 40, 3, 3), {"padding": 1}),
    "large, taps beyond a chunk see only padding": ((1, 64, 48, 64), (180, 64, 3, 3), {"padding": (9, 1)}),
    "large, lines that are not whole": ((9, 4, 27, 30), (80, 4, 1, 1), {}),
    "large, stride 2": ((2, 37, 96, 96), (9, 37, 3, 3), {"stride": 2, "padding": 1}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_results_are_those_of_the_generic_operators(engine_results, generic_results, isa, name, dtype, rng):
    x_shape, w_shape, arguments = SHAPES[name]
    geometry = geometry_of(x_shape, w_shape, **arguments)
    assert blocked.possible("forward", dtype, geometry) is None
    x, w, b = whole_numbers(rng, dtype, x_shape, w_shape, w_shape[:1])
    for actual, expected in zip(
        engine_results(blocked, x, w, b, None, geometry), generic_results(x, w, b, None, geometry), strict=True
    ):
        assert actual.dtype == expected.dtype
        assert actual.flags.c_contiguous
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", ["large, one tap", "large, chunks", "large, taps beyond a chunk see only padding"])
def test_large_results_with_relu(isa, name, rng):
    x_shape, w_shape, arguments = SHAPES[name]
    geometry = geometry_of(x_shape, w_shape, **arguments)
    x, w, b = whole_numbers(rng, "float32", x_shape, w_shape, w_shape[:1])
    y = blocked.forward(x, w, b, geometry, True)
    assert y.nbytes >= 2 << 20
    np.testing.assert_array_equal(y, np.maximum(im2col.forward(x, w, b, geometry, False), 0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name", ["one of each", "panels of 8, 4 and 3", "stride 2", "images as lanes, stride 2", "groups"]
)
def test_the_gradient_to_the_images_takes_a_bias(isa, name, dtype, rng):
    x_shape, w_shape, arguments = SHAPES[name]
    geometry = geometry_of(x_shape, w_shape, **arguments)
    y_shape = (x_shape[0], w_shape[0], geometry.window.out_h, geometry.window.out_w)
    dy, w, b = whole_numbers(rng, dtype, y_shape, w_shape, x_shape[1:2])
    expected = blocked.input_gradient(dy, w, geometry) + b.reshape(-1, 1, 1)
    np.testing.assert_array_equal(blocked.input_gradient(dy, w, geometry, b), expected)


@pytest.mark.parametrize("x_shape", [(32, 600, 4, 4), (1, 600, 12, 12)], ids=["images as lanes", "tiles"])
def test_long_sums_are_accurate(isa, x_shape, rng):
    """Of 5400 products, added up one after the other, rounding would pass the bound."""
    geometry = geometry_of(x_shape, (9, 600, 3, 3), padding=1)
    x, w = rng.standard_normal(x_shape, np.float32), rng.standard_normal((9, 600, 3, 3), np.float32)
    exact = blocked.forward(x.astype(np.float64), w.astype(np.float64), None, geometry, False)
    actual = blocked.forward(x, w, None, geometry, False)
    assert np.abs(actual - exact).max() < 1e-6 * np.abs(exact).max()


@settings(max_examples=60)
@given(case=convolutions(max_channels=9), dtype=st.sampled_from(["float32", "float64"]), relu=st.booleans())
def test_any_geometry(engine_results, case, dtype, relu):
    if 0 in case.x_shape:
        return
    geometry = conv_geometry(case.x_shape, case.w_shape, **case.arguments)
    rng = np.random.default_rng(0)
    x, w, b = whole_numbers(rng, dtype, case.x_shape, case.w_shape, case.w_shape[:1])
    expected = engine_results(im2col, x, w, b, None, geometry)
    before = _kernels.instruction_set()
    try:
        for name in SETS:
            _kernels.use_instruction_set(name)
            for mine, want in zip(engine_results(blocked, x, w, b, None, geometry), expected, strict=True):
                np.testing.assert_array_equal(mine, want)
            y = blocked.forward(x, w, b, geometry, relu)
            np.testing.assert_array_equal(y, np.maximum(expected[0], 0) if relu else expected[0])
    finally:
        _kernels.use_instruction_set(before)


@settings(max_examples=30)
@given(data=st.data())
def test_any_number_of_channels(engine_results, data):
    """Panels, chunks of taps, rows of taps and their ends."""
    n, c, f = (data.draw(st.integers(1, high)) for high in (6, 90, 70))
    size = [data.draw(st.integers(1, 13)) for _ in "hw"]
    kernel = data.draw(st.sampled_from([1, 2, 3]))
    geometry = geometry_of((n, c, *size), (f, c, kernel, kernel), padding=kernel // 2)
    rng = np.random.default_rng(0)
    x, w, b = whole_numbers(rng, "float32", (n, c, *size), (f, c, kernel, kernel), (f,))
    expected = engine_results(im2col, x, w, b, None, geometry)
    for mine, want in zip(engine_results(blocked, x, w, b, None, geometry), expected, strict=True):
        np.testing.assert_array_equal(mine, want)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "arguments"),
    [
        ((20, 24, 16, 16), (40, 24, 3, 3), {"stride": 2, "padding": 1}),
        ((9, 40, 16, 32), (40, 40, 2, 2), {"stride": 2}),
        ((20, 40, 16, 32), (70, 40, 1, 1), {"stride": 2}),
        ((33, 9, 20, 20), (10, 9, 3, 3), {"padding": 1}),
        ((1, 96, 6, 6), (130, 96, 3, 3), {"padding": 1}),
        ((40, 64, 9, 9), (64, 64, 1, 1), {}),
    ],
    ids=["stride", "whole vectors", "one tap", "many pieces", "one image", "pointwise"],
)
def test_results_do_not_depend_on_the_number_of_threads(engine_results, rng, threads, x_shape, w_shape, arguments):
    x, w, b = (rng.normal(size=shape).astype("float32") for shape in (x_shape, w_shape, w_shape[:1]))
    geometry = geometry_of(x_shape, w_shape, **arguments)
    got = engine_results(blocked, x, w, b, None, geometry)
    xpconv.set_num_threads(1)
    for mine, alone in zip(got, engine_results(blocked, x, w, b, None, geometry), strict=True):
        np.testing.assert_array_equal(mine, alone)


def test_errors_are_those_of_single_precision(engine_results, isa, rng):
    """Sums of some thousand products, and of dw and db over as many pixels."""
    shape = (6, 70, 30, 30)
    x, w, b = (rng.normal(size=s).astype("float32") for s in (shape, (33, 70, 3, 3), (33,)))
    geometry = geometry_of(shape, w.shape, padding=1)
    y = blocked.forward(x, w, b, geometry, False)
    wide = engine_results(im2col, *(a.astype("float64") for a in (x, w, b, y[::-1])), geometry)
    for mine, want in zip(engine_results(blocked, x, w, b, None, geometry), wide, strict=True):
        assert np.abs(mine - want).max() < 5e-6 * np.abs(want).max()


@pytest.mark.parametrize("kernel", [1, 3])
def test_images_in_any_memory(engine_results, generic_results, isa, rng, scattered, kernel):
    geometry = geometry_of((2, 3, 8, 7), (4, 3, kernel, kernel), padding=kernel // 2)
    x, w, dy = whole_numbers(rng, "float32", (2, 3, 8, 7), (4, 3, kernel, kernel), (2, 4, 8, 7))
    expected = generic_results(x, w, None, dy, geometry)

    def channel_major(array):
        return np.ascontiguousarray(array.transpose(1, 0, 2, 3)).transpose(1, 0, 2, 3)

    def backwards(array):
        return np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1]

    def apart(array):
        return np.repeat(np.repeat(array, 2, axis=0), 3, axis=1)[::2, ::3]

    for change in (channel_major, backwards, apart, np.asfortranarray, lambda array: scattered(array).view):
        got = engine_results(blocked, change(x), scattered(w).view, None, change(dy), geometry)
        for actual, want in zip(got, expected, strict=True):
            np.testing.assert_array_equal(actual, want)


@pytest.mark.parametrize("kernel", [1, 3])
def test_nothing_outside_is_read_or_written(generic_results, isa, rng, kernel):
    """Inputs end with their memory, NaN around them; results lie between marked numbers."""
    geometry = geometry_of((2, 3, 9, 7), (5, 3, kernel, kernel), padding=kernel // 2)
    x, w, b, dy = whole_numbers(rng, "float64", (2, 3, 9, 7), (5, 3, kernel, kernel), 5, (2, 5, 9, 7))
    expected = generic_results(x, w, b, dy, geometry)
    numbers = (*steps(geometry.window), 1)

    def inside(array, fill):
        around = np.full((array.shape[0] + 2, *array.shape[1:]), fill, float)
        around[1:-1] = array
        return around, around[1:-1]

    ((_, x), (_, w), (_, dy)) = (inside(array, np.nan) for array in (x, w, dy))
    marked = [inside(np.zeros_like(array), -77) for array in expected]
    _kernels.blocked_forward(x, w, b, marked[0][1], *numbers, False, 1 << 20)
    _kernels.blocked_input_gradient(dy, w, None, marked[1][1], *numbers, 1 << 20)
    _kernels.blocked_weight_gradient(dy, x, marked[2][1], marked[3][1], *numbers, 1 << 20)
    for (around, result), want in zip(marked, expected, strict=True):
        np.testing.assert_array_equal(result, want)
        assert (around[0] == -77).all()
        assert (around[-1] == -77).all()


@pytest.mark.skipif(os.name != "posix", reason="no pages to protect")
def test_nothing_before_the_images_is_read(generic_results, isa, rng):
    """They begin where a page begins, behind one that must not be read."""
    page = mmap.PAGESIZE
    x_shape, w_shape = (1, 1, 2, 40), (8, 1, 1, 2)
    geometry = geometry_of(x_shape, w_shape, stride=2, padding=(0, 44))
    x, w = whole_numbers(rng, "float32", x_shape, w_shape)
    memory = mmap.mmap(-1, 2 * page)
    start = np.frombuffer(memory, np.uint8).ctypes.data
    behind = np.frombuffer(memory, np.float32, x.size, page).reshape(x_shape)
    behind[:] = x
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start), page, 0) == 0
    y = blocked.forward(behind, w, None, geometry, False)
    assert libc.mprotect(ctypes.c_void_p(start), page, mmap.PROT_READ | mmap.PROT_WRITE) == 0
    np.testing.assert_array_equal(y, generic_results(x, w, None, None, geometry)[0])


def test_an_infinity_reaches_only_the_windows_that_see_it(engine_results, generic_results, isa, rng):
    x, w, dy = rng.normal(size=(1, 2, 6, 19)), rng.normal(size=(3, 2, 3, 3)), rng.normal(size=(1, 3, 4, 17))
    x[0, 0, 0, 18] = np.inf
    dy[0, 0, 3, 16] = np.inf
    geometry = geometry_of(x.shape, w.shape)
    with np.errstate(invalid="ignore"):  # both meet in one entry of dw
        expected = generic_results(x, w, None, dy, geometry)
    for mine, want in zip(engine_results(blocked, x, w, None, dy, geometry), expected, strict=True):
        if want is not None:
            np.testing.assert_array_equal(np.isfinite(mine), np.isfinite(want))


@pytest.mark.parametrize("channels", [3, 90])
def test_relu_keeps_nan(isa, rng, channels):
    x, w, b = whole_numbers(rng, "float32", (3, channels, 5, 6), (7, channels, 3, 3), (7,))
    x[1, 0, 4, 5] = np.nan
    geometry = geometry_of(x.shape, w.shape, padding=1)
    y = blocked.forward(x, w, b, geometry, False)
    assert np.isnan(y).any()
    np.testing.assert_array_equal(blocked.forward(x, w, b, geometry, True), np.maximum(y, 0))


def test_what_is_not_asked_for_is_none(generic_results, rng):
    geometry = geometry_of((2, 3, 8, 7), (4, 3, 3, 3), padding=1)
    x, w, dy = whole_numbers(rng, "float32", (2, 3, 8, 7), (4, 3, 3, 3), (2, 4, 8, 7))
    dw, db = blocked.weight_gradient(dy, x, geometry, False)
    assert db is None
    np.testing.assert_array_equal(dw, generic_results(x, w, None, dy, geometry)[2])


class TestMemory:
    """Working memory under a cap."""

    @pytest.mark.parametrize(
        ("w_shape", "arguments"),
        [((70, 40, 3, 3), {"padding": 1}), ((70, 40, 3, 3), {"stride": 2}), ((300, 40, 1, 1), {})],
        ids=["3x3", "stride 2", "pointwise"],
    )
    def test_pieces_shrink(self, engine_results, rng, threads, w_shape, arguments):
        geometry = geometry_of((4, 40, 45, 45), w_shape, **arguments)
        x, w, b = whole_numbers(rng, "float32", (4, 40, 45, 45), w_shape, w_shape[:1])
        dy = whole_numbers(rng, "float32", (4, w_shape[0], geometry.window.out_h, geometry.window.out_w))[0]
        expected = engine_results(blocked, x, w, b, dy, geometry)
        results = [np.empty_like(array) for array in expected]
        numbers = (*steps(geometry.window), 1)
        for limit in (w.nbytes + (1 << 19), 1):
            for call in (
                lambda limit=limit: _kernels.blocked_forward(x, w, b, results[0], *numbers, False, limit),
                lambda limit=limit: _kernels.blocked_input_gradient(dy, w, None, results[1], *numbers, limit),
                lambda limit=limit: _kernels.blocked_weight_gradient(dy, x, *results[2:], *numbers, limit),
            ):
                _kernels.trim_memory()
                call()
                kept = _kernels.memory_sizes()[1]
                assert kept < max(limit, w.nbytes + (3 << 17)) + (1 << 17)  # tables come on top
            for mine, want in zip(results, expected, strict=True):
                np.testing.assert_array_equal(mine, want)

    def test_a_line_that_is_too_long_names_the_setting(self):
        width, channels = 1 << 25, 1 << 21  # a band of one row is more than there are addresses
        memory = np.empty(width, np.float32)
        x = np.lib.stride_tricks.as_strided(memory, (1, channels, 1, width), (0, 0, 0, 4))
        y = np.empty((1, 1, 1, width - 2), np.float32)
        w = np.zeros((1, channels, 1, 3), np.float32)
        with pytest.raises(MemoryError, match="XPCONV_WORKSPACE_MB"):
            _kernels.blocked_forward(x, w, None, y, 1, 1, 0, 0, 1, 1, 1, False, 1 << 26)
        with pytest.raises(MemoryError, match="XPCONV_WORKSPACE_MB"):
            _kernels.blocked_weight_gradient(y, x, w, None, 1, 1, 0, 0, 1, 1, 1, 1 << 26)


def test_it_is_one_of_the_direct_engines():
    geometry = geometry_of((2, 300, 20, 20), (300, 300, 3, 3), stride=2)
    with xpconv.use_conv_algorithm("direct"):
        for operation in ("forward", "input_gradient", "weight_gradient"):
            assert candidates(operation, "float32", geometry)[0].engine is blocked


@pytest.mark.parametrize("arguments", [{}, {"padding": 3, "stride": 2}, {"groups": 2}])
def test_counts_grow_with_the_batch(arguments):
    sizes = [
        np.array(
            blocked.features(
                operation, geometry_of((n, 8, 20, 20), (16, 8 // arguments.get("groups", 1), 3, 3), **arguments), 16
            )
        )
        for operation in ("forward", "input_gradient", "weight_gradient")
        for n in (1, 64)
    ]
    for one, many in zip(sizes[::2], sizes[1::2], strict=True):
        assert one.shape == many.shape
        assert (one >= 0).all()
        assert many[1] > 32 * one[1]
        assert many[3] >= 64 * one[3]  # nothing is gathered where images are lanes, which one image never is
        assert one[2] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros((1, 4, 8, 8))}, "expected images .* and outputs"),
        ({"y": np.zeros((2, 4, 8, 0))}, "sizes must be at least 1"),
        ({"x": np.zeros((2, 3, 8, 16))[..., ::2]}, "x: planes must be contiguous"),
        ({"w": np.zeros((4, 2, 3, 3))}, "expected images"),
        ({"b": np.zeros(3)}, "b: has 3 elements, expected 4"),
        ({"groups": 3}, "3 equal groups"),
    ],
)
def test_arrays_that_do_not_belong_together(change, message):
    arrays = {
        "x": np.zeros((2, 3, 8, 8)),
        "w": np.zeros((4, 3, 3, 3)),
        "b": np.zeros(4),
        "y": np.zeros((2, 4, 8, 8)),
        "groups": 1,
    } | change
    groups = arrays.pop("groups")
    with pytest.raises(ValueError, match=message):
        _kernels.blocked_forward(*arrays.values(), 1, 1, 1, 1, 1, 1, groups, False, 1 << 20)
