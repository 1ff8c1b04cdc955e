"""The convolution without columns, on every instruction set of this processor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xpconv
from xpconv._cpu import _kernels
from xpconv._cpu.columns import steps
from xpconv._cpu.conv import direct, im2col
from xpconv._cpu.conv.choice import engine_for
from xpconv._geometry import conv_geometry

SETS = _kernels.instruction_sets()
MARK = -77.0

pytestmark = pytest.mark.skipif(not SETS, reason="the kernels were built by a compiler without vectors")


def whole_numbers(rng, dtype, *shapes):
    """Arrays of small integers: all sums are exact, so that every order of them gives the same bits."""
    return [rng.integers(-4, 5, shape).astype(dtype) for shape in shapes]


# widths around those of the vectors and of whole tiles, filters around the panels
SHAPES = {
    "one of each": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "3x3": ((3, 3, 9, 17), (5, 3, 3, 3), {"padding": 1}),
    "a tile and a lane": ((2, 2, 4, 49), (9, 2, 1, 1), {}),
    "stride 2": ((2, 3, 31, 31), (25, 3, 3, 3), {"stride": 2, "padding": 1}),
    "stride 3, leftovers": ((2, 2, 12, 20), (6, 2, 2, 4), {"stride": (3, 3), "padding": ((0, 1), (2, 0))}),
    "kernel below the stride": ((2, 2, 9, 10), (7, 2, 1, 2), {"stride": (2, 4)}),
    "dilation": ((2, 2, 14, 13), (4, 2, 3, 2), {"dilation": (3, 2), "stride": (2, 3), "padding": 2}),
    "padding beyond the image": ((1, 1, 2, 3), (3, 1, 2, 2), {"padding": ((4, 3), (5, 2))}),
    "whole image": ((4, 3, 6, 7), (11, 3, 6, 7), {}),
    "large, whole lines go past the caches": ((2, 3, 131, 127), (130, 3, 2, 2), {"padding": ((0, 0), (1, 1))}),
    "no images": ((0, 3, 6, 7), (4, 3, 3, 3), {}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_results_are_those_of_the_generic_operators(engine_results, generic_results, isa, threads, name, dtype, rng):
    x_shape, w_shape, arguments = SHAPES[name]
    geometry = conv_geometry(x_shape, w_shape, **({"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | arguments))
    assert direct.possible("forward", dtype, geometry) is None
    x, w, b = whole_numbers(rng, dtype, x_shape, w_shape, w_shape[:1])
    for actual, expected in zip(
        engine_results(direct, x, w, b, None, geometry), generic_results(x, w, b, None, geometry), strict=True
    ):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


@settings(max_examples=60)
@given(data=st.data())
def test_any_geometry(engine_results, data):
    draw = data.draw
    kernel, stride, dilation = ([draw(st.integers(1, high)) for _ in "hw"] for high in (4, 4, 3))
    padding = [[draw(st.integers(0, 4)) for _ in range(2)] for _ in "hw"]
    n, c, f = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 10))
    size = [
        max(1, (k - 1) * d + 1 - sum(pads)) + draw(st.integers(0, 21))
        for k, d, pads in zip(kernel, dilation, padding, strict=True)
    ]
    geometry = conv_geometry(
        (n, c, *size), (f, c, *kernel), stride=stride, padding=padding, dilation=dilation, groups=1
    )
    rng = np.random.default_rng(0)
    x, w, b = whole_numbers(rng, draw(st.sampled_from(["float32", "float64"])), (n, c, *size), (f, c, *kernel), (f,))
    expected = engine_results(im2col, x, w, b, None, geometry)
    before = _kernels.instruction_set()
    try:
        for name in SETS:
            _kernels.use_instruction_set(name)
            for mine, want in zip(engine_results(direct, x, w, b, None, geometry), expected, strict=True):
                np.testing.assert_array_equal(mine, want)
    finally:
        _kernels.use_instruction_set(before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("size", "stride"), [((9, 20), (1, 2)), ((9, 20), (2, 1)), ((7, 41), (3, 3)), ((5, 3), (1, 1))]
)
def test_nothing_outside_is_touched(generic_results, isa, dtype, rng, size, stride):
    """Through the kernels themselves: channels and images lie apart in a marked array."""
    geometry = conv_geometry((2, 3, *size), (5, 3, 3, 2), stride=stride, padding=1, dilation=1, groups=1)
    window = geometry.window
    x, w, b, dy = whole_numbers(rng, dtype, (2, 3, *size), (5, 3, 3, 2), 5, (2, 5, window.out_h, window.out_w))
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

    numbers = (3, 2, *steps(window))
    inside, (_, gradient), matrix = apart(x)[1], apart(dy), w.reshape(5, -1)
    margin, y = apart(np.zeros_like(dy))
    _kernels.direct(inside, matrix, b, y, *numbers, False, 1 << 20)
    np.testing.assert_array_equal(y, expected[0])
    assert whole(margin, y)

    margin, dx = apart(np.zeros_like(x))
    dw, db = np.empty_like(matrix), np.empty_like(b)
    _kernels.direct_backward(gradient, inside, matrix, dx, dw, db, *numbers, 1 << 20)
    for actual, want in zip((dx, dw.reshape(w.shape), db), expected[1:], strict=True):
        np.testing.assert_array_equal(actual, want)
    assert whole(margin, dx)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "arguments"),
    [
        ((2, 3, 224, 200), (9, 3, 7, 7), {"stride": 2, "padding": 3}),
        ((1, 4, 150, 90), (6, 4, 5, 5), {"padding": 2}),
        ((1, 2, 90, 301), (5, 2, 3, 3), {"stride": (3, 1), "dilation": 2}),
        ((1, 1, 1000, 40), (3, 1, 9, 4), {"stride": (5, 4)}),
    ],
)
def test_images_beyond_the_cache_in_bands(engine_results, x_shape, w_shape, arguments, dtype, rng):
    geometry = conv_geometry(x_shape, w_shape, **({"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | arguments))
    x, w, b = whole_numbers(rng, dtype, x_shape, w_shape, w_shape[:1])
    expected = engine_results(im2col, x, w, b, None, geometry)
    for mine, want in zip(engine_results(direct, x, w, b, None, geometry), expected, strict=True):
        np.testing.assert_array_equal(mine, want)


def test_relu(isa, rng):
    geometry = conv_geometry((3, 2, 6, 19), (5, 2, 3, 3), stride=1, padding=1, dilation=1, groups=1)
    for dtype in ("float32", "float64"):
        x, w, b = (rng.normal(size=shape).astype(dtype) for shape in ((3, 2, 6, 19), (5, 2, 3, 3), 5))
        x[1, 1, 2, 3] = np.nan
        plain = direct.forward(x, w, b, geometry, False)
        assert np.isnan(plain).any()
        np.testing.assert_array_equal(direct.forward(x, w, b, geometry, True), np.maximum(plain, 0))


def test_long_sums_keep_their_precision(isa):
    """A sum of half a million ones and more in float32: one number after the other would lose many."""
    geometry = conv_geometry((1, 1, 720, 800), (1, 1, 1, 1), stride=1, padding=0, dilation=1, groups=1)
    x = np.full((1, 1, 720, 800), 1.1, np.float32)
    dw, db = direct.weight_gradient(np.ones_like(x), x, geometry, True)
    assert abs(dw.item() / (720 * 800 * np.float64(np.float32(1.1))) - 1) < 1e-5
    assert db.item() == 720 * 800


def test_a_gradient_in_any_memory(engine_results, generic_results, isa, rng, scattered):
    geometry = conv_geometry((2, 3, 8, 7), (4, 3, 3, 3), stride=1, padding=1, dilation=1, groups=1)
    x, w, dy = whole_numbers(rng, "float32", (2, 3, 8, 7), (4, 3, 3, 3), (2, 4, 8, 7))
    expected = generic_results(x, w, None, dy, geometry)
    for gradient in (scattered(dy).view, np.asfortranarray(dy), np.broadcast_to(dy[:1, :1, :1, :1], dy.shape)):
        want = expected if gradient.strides[0] else generic_results(x, w, None, gradient, geometry)
        for actual, reference in zip(engine_results(direct, x, w, None, gradient, geometry), want, strict=True):
            np.testing.assert_array_equal(actual, reference)


def test_an_infinity_reaches_only_the_windows_that_see_it(engine_results, generic_results, isa, rng):
    x, w, dy = rng.normal(size=(1, 2, 6, 19)), rng.normal(size=(3, 2, 3, 3)), rng.normal(size=(1, 3, 4, 17))
    x[0, 0, 0, 18] = np.inf
    dy[0, 0, 3, 16] = np.inf
    geometry = conv_geometry(x.shape, w.shape, stride=1, padding=0, dilation=1, groups=1)
    with np.errstate(invalid="ignore"):  # both meet in one entry of dw
        expected = generic_results(x, w, None, dy, geometry)
    for mine, want in zip(engine_results(direct, x, w, None, dy, geometry), expected, strict=True):
        if want is not None:
            np.testing.assert_array_equal(np.isfinite(mine), np.isfinite(want))


def test_what_is_not_asked_for_is_none(generic_results, rng):
    geometry = conv_geometry((2, 3, 8, 7), (4, 3, 3, 3), stride=1, padding=1, dilation=1, groups=1)
    x, w, dy = whole_numbers(rng, "float32", (2, 3, 8, 7), (4, 3, 3, 3), (2, 4, 8, 7))
    dw, db = direct.weight_gradient(dy, x, geometry, False)
    assert db is None
    np.testing.assert_array_equal(dw, generic_results(x, w, None, dy, geometry)[2])


def test_results_do_not_depend_on_the_number_of_threads(engine_results, rng, threads):
    x, w, b = (rng.normal(size=shape).astype("float32") for shape in ((33, 3, 12, 12), (8, 3, 3, 3), (8,)))
    geometry = conv_geometry(x.shape, w.shape, stride=1, padding=1, dilation=1, groups=1)
    got = engine_results(direct, x, w, b, None, geometry)
    xpconv.set_num_threads(1)
    for mine, alone in zip(got, engine_results(direct, x, w, b, None, geometry), strict=True):
        np.testing.assert_array_equal(mine, alone)


class TestChoice:
    """Which calls it takes."""

    def geometry(self, x_shape=(2, 3, 8, 8), w_shape=(4, 3, 3, 3), groups=1):
        return conv_geometry(x_shape, w_shape, stride=1, padding=1, dilation=1, groups=groups)

    def test_small_images_and_weights(self):
        assert engine_for("forward", "float32", self.geometry()) is direct
        assert engine_for("weight_gradient", "float64", self.geometry()) is direct

    @pytest.mark.parametrize(
        "other",
        [
            {"x_shape": (1, 3, 2**19, 2**19)},
            {"x_shape": (1, 128, 8, 8), "w_shape": (128, 128, 3, 3)},
            {"x_shape": (2, 4, 8, 8), "w_shape": (4, 2, 3, 3), "groups": 2},
        ],
        ids=["huge image", "large weights", "groups"],
    )
    def test_other_engines_take_the_rest(self, other):
        assert engine_for("forward", "float32", self.geometry(**other)) is not direct


ARRAYS = {"x": (2, 3, 8, 8), "w": (4, 27), "b": (4,), "y": (2, 4, 8, 8)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros((1, 4, 8, 8))}, "expected outputs"),
        ({"y": np.zeros((2, 4, 8, 16))[..., ::2]}, "contiguous"),
        ({"x": np.zeros((2, 3, 8, 9))[..., :8]}, "contiguous"),
        ({"w": np.zeros((4, 26))}, "taps"),
        ({"b": np.zeros(3)}, "b: has 3 elements, expected 4"),
    ],
)
def test_arrays_that_do_not_belong_together(change, message):
    arrays = {name: np.zeros(shape) for name, shape in ARRAYS.items()} | change
    with pytest.raises(ValueError, match=message):
        _kernels.direct(*arrays.values(), 3, 3, 1, 1, 1, 1, 1, 1, False, 1 << 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dy": np.zeros((2, 5, 8, 8))}, "expected outputs"),
        ({"dx": np.zeros((2, 3, 8, 9))}, "dx must have the shape of x"),
        ({"dw": np.zeros((4, 26))}, "dw must have the shape of w"),
        ({"db": np.zeros(5)}, "db: has 5 elements, expected 4"),
        ({"x": None}, "dw takes x"),
        ({"w": None}, "dx takes w"),
        ({"dw": None}, "db takes dw"),
        ({"dx": None, "dw": None, "db": None}, "expected dx or dw"),
    ],
)
def test_gradients_that_do_not_belong_together(change, message):
    shapes = {"dy": (2, 4, 8, 8), "x": (2, 3, 8, 8), "w": (4, 27), "dx": (2, 3, 8, 8), "dw": (4, 27), "db": (4,)}
    arrays = {name: np.zeros(shape) for name, shape in shapes.items()} | change
    with pytest.raises(ValueError, match=message):
        _kernels.direct_backward(*arrays.values(), 3, 3, 1, 1, 1, 1, 1, 1, 1 << 20)


def test_an_unknown_instruction_set_is_named():
    with pytest.raises(ValueError, match=r"expected one of .*baseline.*, got 'mmx'"):
        _kernels.use_instruction_set("mmx")


@pytest.mark.skipif("avx2" not in SETS, reason="takes a processor with AVX2")
@pytest.mark.parametrize("name", SETS)
def test_each_instruction_set_is_compiled_for_itself(name):
    """SSE2 rounds a product before it is added to, AVX2 and AVX-512 fuse both: code that is mixed up shows."""
    x = np.full((1, 1, 1, 1), 1 + 2.0**-30)
    geometry = conv_geometry(x.shape, x.shape, stride=1, padding=0, dilation=1, groups=1)
    before = _kernels.instruction_set()
    try:
        _kernels.use_instruction_set(name)
        y = direct.forward(x, x, np.array([-(1 + 2.0**-29)]), geometry, False)
    finally:
        _kernels.use_instruction_set(before)
    assert y.item() == (0 if name == "baseline" else 2.0**-60)
