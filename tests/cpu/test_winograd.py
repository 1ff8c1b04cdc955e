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


def assert_close(actual, exact, bound, sizes=None):
    """Errors as a share of the largest number, or of a tenth of the largest of ``sizes``: few sums may all cancel."""
    for mine, want, size in zip(actual, exact, sizes or exact, strict=True):
        assert mine.shape == want.shape
        assert mine.flags.c_contiguous
        largest = max(np.abs(want).max(initial=0), 0.1 * np.abs(size).max(initial=0))
        assert np.abs(mine - want).max(initial=0) <= bound * largest


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
    "large, whole lines go past the caches": ((9, 5, 32, 30), 70, ((1, 1), (2, 2))),
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
    sizes = exact_results(*map(np.abs, arrays), geometry)
    before = _kernels.instruction_set()
    try:
        for name in SETS:
            _kernels.use_instruction_set(name)
            for tile in (2, 4):
                assert_close(results(*arrays, geometry, tile), exact, BOUND[dtype], sizes)
    finally:
        _kernels.use_instruction_set(before)


def test_no_images():
    geometry = geometry_of((0, 3, 6, 7), 4)
    for algorithm in ("auto", "winograd"):
        with xpconv.use_conv_algorithm(algorithm):
            y, _ = xpconv.functional.conv2d(np.zeros((0, 3, 6, 7)), np.zeros((4, 3, 3, 3)), padding=1)
        assert y.shape == (0, 4, geometry.window.out_h, geometry.window.out_w)


@pytest.mark.parametrize("tile", [2, 4])
def test_relu_and_no_bias(isa, tile, rng):
    geometry = geometry_of((2, 5, 7, 9), 19)
    x, w, b, _ = numbers(rng, "float32", geometry)
    x[1, 0, 3, 3] = np.nan
    y = winograd.forward(x, w, b, geometry, False, tile=tile)
    np.testing.assert_array_equal(winograd.forward(x, w, b, geometry, True, tile=tile), np.maximum(y, 0))
    assert np.isnan(y).any()
    np.testing.assert_allclose(
        winograd.forward(x, w, None, geometry, False, tile=tile) + b[:, None, None], y, atol=2e-5
    )


def test_what_is_not_asked_for_is_none(rng):
    geometry = geometry_of((2, 3, 8, 7), 4)
    x, _, _, dy = numbers(rng, "float32", geometry)
    assert winograd.weight_gradient(dy, x, geometry, False)[1] is None


@pytest.mark.parametrize("tile", [2, 4])
def test_arrays_in_any_memory(isa, tile, rng, scattered):
    geometry = geometry_of((3, 18, 6, 9), 17)
    arrays = numbers(rng, "float32", geometry)
    expected = results(*arrays, geometry, tile)
    others = [
        [scattered(array).view for array in arrays],
        [np.asfortranarray(array) for array in arrays],
        # channel-major: planes are contiguous, and read in place
        [np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1) if a.ndim == 4 else a for a in arrays],
    ]
    for other in others:
        for actual, want in zip(results(*other, geometry, tile), expected, strict=True):
            np.testing.assert_array_equal(actual, want)


def test_one_image_for_a_whole_batch(isa, rng):
    geometry = geometry_of((3, 4, 6, 6), 5)
    x, w, b, dy = numbers(rng, "float32", geometry)
    x, dy = (np.broadcast_to(array[:1], array.shape) for array in (x, dy))
    for actual, want in zip(
        results(x, w, b, dy, geometry, 4), results(x.copy(), w, b, dy.copy(), geometry, 4), strict=True
    ):
        np.testing.assert_array_equal(actual, want)


# many blocks; fewer blocks than threads, whose filters are split; more threads than shares of the batch
@pytest.mark.parametrize("shape", [((40, 16, 12, 12), 70), ((1, 80, 12, 12), 200), ((2, 30, 40, 41), 35)])
@pytest.mark.parametrize("tile", [2, 4])
def test_results_do_not_depend_on_the_number_of_threads(shape, tile, threads, rng):
    geometry = geometry_of(*shape)
    arrays = numbers(rng, "float32", geometry)
    got = results(*arrays, geometry, tile)
    xpconv.set_num_threads(1)
    for mine, alone in zip(got, results(*arrays, geometry, tile), strict=True):
        np.testing.assert_array_equal(mine, alone)


def test_a_small_workspace_gives_the_same_results(isa, rng):
    geometry = geometry_of((9, 160, 10, 10), 144)
    arrays = numbers(rng, "float32", geometry)
    before, expected = xpconv.get_workspace_mb(), results(*arrays, geometry, 4)
    try:
        xpconv.set_workspace_mb(1)
        got = results(*arrays, geometry, 4)
    finally:
        xpconv.set_workspace_mb(before)
    for mine, want in zip(got[:2], expected, strict=False):
        np.testing.assert_array_equal(mine, want)
    assert_close(got[2:], expected[2:], BOUND["float32"])  # the shares that are summed are fewer


@pytest.mark.parametrize("channels", [16, 128, 512])
@pytest.mark.parametrize("tile", [2, 4])
def test_rounding_stays_within_the_stated_bound(isa, channels, tile, rng):
    geometry = geometry_of((1, channels, 8, 8), channels)
    x, w, b, dy = numbers(rng, "float32", geometry)
    exact = exact_results(x, w, b, dy, geometry)
    assert_close(results(x, w, b, dy, geometry, tile), exact, 4e-6 if tile == 4 else 1e-6)


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_what_is_not_finite_never_gets_lost(isa, tile, special, rng):
    geometry = geometry_of((1, 3, 11, 10), 4)
    arrays = numbers(rng, "float32", geometry)
    arrays[0][0, 1, 4, 6] = special
    arrays[3][0, 2, 5, 1] = special
    with np.errstate(invalid="ignore"):
        got, exact = results(*arrays, geometry, tile), exact_results(*arrays, geometry)
    for mine, want in zip(got, exact, strict=True):
        assert not np.isfinite(mine[~np.isfinite(want)]).any()
    window = np.isfinite(got[0])
    assert window[:, :, :2].all(), "only tiles that see it"
    assert window[:, :, :, :2].all()


class TestTile:
    """Which tile a call gets."""

    @pytest.mark.parametrize(
        ("shape", "tile"),
        [
            (((128, 64, 32, 32), 64), 4),
            (((1, 256, 8, 8), 256), 2),  # the weights of few tiles
            (((64, 64, 2, 2), 64), 2),  # tiles of 4 x 4 would be empty for three quarters
            (((64, 64, 7, 7), 64), 4),
        ],
    )
    def test_by_shape(self, shape, tile):
        for operation in ("forward", "input_gradient", "weight_gradient"):
            assert winograd.tile_of(operation, geometry_of(*shape)) == tile

    def test_features_count_what_is_padded(self):
        geometry = geometry_of((2, 3, 8, 9), 5)
        assert winograd.features("forward", geometry, 16, tile=4) == (
            1, 36 * 12 * 3 * 16, 36 * 12 * 16, 36 * 12 * 16, 36 * 3 * 16,
        )  # fmt: skip
        assert winograd.features("input_gradient", geometry, 4, tile=2)[1] == 16 * 2 * 4 * 5 * 5 * 4

    def test_another_number(self):
        geometry = geometry_of((1, 1, 4, 4), 1)
        with pytest.raises(ValueError, match="tile: expected 2 or 4, got 3"):
            winograd.forward(np.zeros((1, 1, 4, 4)), np.zeros((1, 1, 3, 3)), None, geometry, False, tile=3)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"w_shape": (4, 3, 3, 2)}, "3 x 2"),
        ({"stride": 2}, "stride 1"),
        ({"dilation": (1, 2)}, "dilation 1"),
        ({"w_shape": (6, 1, 3, 3), "groups": 3}, "one group"),
    ],
)
def test_what_it_cannot_do(arguments, reason):
    every = {"x_shape": (2, 3, 8, 8), "w_shape": (4, 3, 3, 3), "stride": 1, "padding": 1, "dilation": 1, "groups": 1}
    assert reason in winograd.possible("forward", "float32", conv_geometry(**(every | arguments)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros((1, 4, 8, 8))}, "inputs are 2 images, outputs 1"),
        ({"x": np.zeros((2, 3, 8, 16))[..., ::2]}, "planes of inputs must be contiguous"),
        ({"w": np.zeros((4, 2, 3, 3))}, r"expected weights \(4, 3, 3, 3\), got \(4, 2, 3, 3\)"),
        ({"b": np.zeros(3)}, "b: has 3 elements, expected 4"),
        ({"x": np.zeros((2, 0, 8, 8))}, "at least 1"),
    ],
)
def test_arrays_that_do_not_belong_together(change, message):
    arrays = {
        "x": np.zeros((2, 3, 8, 8)),
        "w": np.zeros((4, 3, 3, 3)),
        "b": np.zeros(4),
        "y": np.zeros((2, 4, 8, 8)),
    } | change
    with pytest.raises(ValueError, match=message):
        _kernels.winograd(*arrays.values(), 1, 1, 4, False, False, 1 << 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dy": np.zeros((2, 4, 16, 8))[:, :, ::2]}, "planes of gradients must be contiguous"),
        ({"dw": np.zeros((4, 2, 3, 3))}, r"expected gradients of weights \(4, 3, 3, 3\), got \(4, 2, 3, 3\)"),
        ({"db": np.zeros(5)}, "db: has 5 elements, expected 4"),
    ],
)
def test_gradients_that_do_not_belong_together(change, message):
    arrays = {
        "dy": np.zeros((2, 4, 8, 8)),
        "x": np.zeros((2, 3, 8, 8)),
        "dw": np.zeros((4, 3, 3, 3)),
        "db": np.zeros(4),
    } | change
    with pytest.raises(ValueError, match=message):
        _kernels.winograd_weights(*arrays.values(), 1, 1, 4, 1 << 20)
