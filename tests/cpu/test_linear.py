"""The fully connected layer by the compiled kernels, on every instruction set of this processor."""

import numpy as np
import pytest

import xpconv
import xpconv.functional as F
from xpconv._cpu import _kernels, linear
from xpconv.backends import load_backend, serving

pytestmark = pytest.mark.skipif(
    not _kernels.instruction_sets(), reason="the kernels were built by a compiler without vectors"
)

# (batch, inputs, outputs): around tiles, vectors and panels of every instruction set, around chunks of a sum, few rows
# or columns with long and short sums, a gradient to the weights that is written past the caches
SHAPES = [
    (1, 1, 1), (1, 300, 5), (1, 40, 33), (2, 700, 64), (3, 7, 31), (5, 321, 16), (14, 320, 32), (15, 641, 33),
    (16, 191, 10), (17, 192, 10), (29, 65, 97), (130, 33, 7), (257, 9, 130), (40, 193, 64), (13, 512, 1024),
]  # fmt: skip


def whole_numbers(rng, dtype, *shapes):
    """Arrays of small integers: all sums are exact, so that every order of them gives the same bits."""
    return [rng.integers(-4, 5, shape).astype(dtype) for shape in shapes]


def results(dy, x, w, b, need_dx=True):
    backend = load_backend("numpy")
    y = linear.linear(backend, x, w, b)
    return [y, *linear.linear_backward(backend, dy, x, w, need_dx, b is not None)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_of_whole_numbers_are_exact(isa, threads, shape, dtype, rng):
    batch, inputs, outputs = shape
    x, w, b, dy = whole_numbers(rng, dtype, (batch, inputs), (outputs, inputs), (outputs,), (batch, outputs))
    expected = [x @ w.T + b, dy @ w, dy.T @ x, dy.sum(axis=0)]
    for actual, wanted in zip(results(dy, x, w, b), expected, strict=True):
        assert actual.dtype == dtype
        assert actual.flags.c_contiguous
        np.testing.assert_array_equal(actual, wanted)
    np.testing.assert_array_equal(linear.linear(load_backend("numpy"), x, w, None), x @ w.T)
    dx, dw, db = results(dy, x, w, None, need_dx=False)[1:]
    assert dx is None
    assert db is None
    np.testing.assert_array_equal(dw, dy.T @ x)


@pytest.mark.parametrize("threads", [1], indirect=True)
def test_results_do_not_depend_on_the_number_of_threads(isa, rng, threads):
    """One thread lays out a part of a matrix at a time, several lay out all of it."""
    x, w, b, dy = (rng.standard_normal(shape, np.float32) for shape in [(300, 700), (130, 700), (130,), (300, 130)])
    expected = results(dy, x, w, b)
    for number in (2, 3):
        xpconv.set_num_threads(number)
        for actual, alone in zip(results(dy, x, w, b), expected, strict=True):
            np.testing.assert_array_equal(actual, alone)


def test_nothing_is_written_beyond_the_results(isa, rng):
    batch, inputs, outputs = 15, 37, 19
    x, w, b, dy = whole_numbers(rng, "float32", (batch, inputs), (outputs, inputs), (outputs,), (batch, outputs))
    margin = np.full(70, -77.0, np.float32)

    def room(*shape):
        memory = np.full(int(np.prod(shape)) + 140, -77.0, np.float32)
        return memory, memory[70:-70].reshape(shape)

    rooms = [room(batch, outputs), room(batch, inputs), room(outputs, inputs), room(outputs)]
    y, dx, dw, db = (array for _, array in rooms)
    _kernels.linear_forward(x, w, b, y, batch, inputs, outputs)
    _kernels.linear_backward(dy, x, w, dx, dw, db, batch, inputs, outputs)
    np.testing.assert_array_equal(y, x @ w.T + b)
    np.testing.assert_array_equal(dw, dy.T @ x)
    for memory, _ in rooms:
        np.testing.assert_array_equal(memory[:70], margin)
        np.testing.assert_array_equal(memory[-70:], margin)


def test_long_sums_are_accurate(isa, rng):
    """Added up by single numbers one after the other, errors would be several times as large."""
    batch, inputs, outputs = 40, 8192, 20
    x, w = rng.standard_normal((batch, inputs), np.float32), rng.standard_normal((outputs, inputs), np.float32)
    y = linear.linear(load_backend("numpy"), x, w, None)
    exact = x.astype(np.float64) @ w.T
    assert np.abs(y - exact).max() < 1e-6 * np.abs(exact).max()
    dy = rng.random((8192, 3), np.float32)
    db = results(dy, rng.random((8192, 2), np.float32), rng.random((3, 2), np.float32), dy[0])[3]
    np.testing.assert_allclose(db, dy.sum(axis=0, dtype=np.float64), rtol=1e-6)


def test_any_layout_is_read(rng):
    x, w, b, dy = whole_numbers(rng, "float32", (6, 40), (10, 80), (20,), (40, 12))
    x, w, b, dy = x.T[::-1, ::2], w[::-1, ::27], b[::2], dy[::-1, 1:11]
    for actual, expected in zip(results(dy, x, w, b), [x @ w.T + b, dy @ w, dy.T @ x, dy.sum(axis=0)], strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_nan_reaches_only_what_it_is_multiplied_with(isa, rng):
    """Lanes beyond the last column hold whatever is there, and that is nobody's result."""
    x, w = rng.standard_normal((4, 21), np.float32), rng.standard_normal((19, 21), np.float32)
    x[2, 3] = np.nan
    assert np.array_equal(np.isnan(linear.linear(load_backend("numpy"), x, w, None)).all(axis=1), [0, 0, 1, 0])
    assert np.isnan(linear.linear(load_backend("numpy"), x, w, None)).sum() == 19


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
def test_empty_arrays(shape):
    batch, inputs, outputs = shape
    x, w, b = np.zeros((batch, inputs)), np.zeros((outputs, inputs)), np.arange(outputs, dtype=float)
    y, dx, dw, db = results(np.ones((batch, outputs)), x, w, b)
    np.testing.assert_array_equal(y, np.broadcast_to(b, (batch, outputs)))
    assert dx.shape == x.shape
    assert dw.shape == w.shape
    np.testing.assert_array_equal(db, np.full(outputs, batch))


def test_kernels_take_no_arrays_that_do_not_belong_together():
    x, w, y = np.zeros((4, 3), np.float32), np.zeros((5, 3), np.float32), np.zeros((4, 5), np.float32)
    with pytest.raises(ValueError, match="15 elements, expected 18"):
        _kernels.linear_forward(x, w, None, y, 4, 3, 6)
    with pytest.raises(ValueError, match="two types"):
        _kernels.linear_forward(x, w.astype(np.float64), None, y, 4, 3, 5)
    with pytest.raises(ValueError, match="at least 1"):
        _kernels.linear_forward(x, w, None, y, 4, 3, 0)
    with pytest.raises(ValueError, match="address space"):
        _kernels.linear_backward(y, x, w, None, w, None, 1 << 40, 1 << 40, 1)


def test_large_products_go_to_the_blas_with_the_same_result(monkeypatch, rng):
    x, w, b, dy = whole_numbers(rng, "float32", (9, 8), (7, 8), (7,), (9, 7))
    expected = results(dy, x, w, b)
    monkeypatch.setattr(linear, "_LARGE", 100)
    monkeypatch.setattr(_kernels, "linear_forward", None)
    monkeypatch.setattr(_kernels, "linear_backward", None)
    for actual, wanted in zip(results(dy, x, w, b), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


def test_the_numpy_backend_uses_them():
    engine = serving(load_backend("numpy"), "linear", "float32")
    assert engine.name == "cpu"
    x = np.ones((2, 3, 4), np.float32)
    y, cache = F.linear(x, np.ones((5, 4), np.float32), np.ones(5, np.float32))
    np.testing.assert_array_equal(y, np.full((2, 3, 5), 5))
    dx, _, db = F.linear_backward(y, cache)
    np.testing.assert_array_equal(dx, np.full((2, 3, 4), 25))
    np.testing.assert_array_equal(db, np.full(5, 30))
