"""Softmax cross-entropy: the generic operator in float64, PyTorch, numbers of every size."""

import math

import numpy as np
import pytest

import xpconv
import xpconv.functional as F
from xpconv import _generic
from xpconv._cpu import _kernels, loss
from xpconv.backends import load_backend, use_kernels

NUMPY = load_backend("numpy")
# around the 16 sums side by side
CLASSES = (1, 2, 10, 15, 16, 17, 100, 1000)


def drawn(rng, count, classes, dtype, scale=3.0):
    return (rng.standard_normal((count, classes)) * scale).astype(dtype), rng.integers(0, classes, count)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_is_the_generic_operator(rng, isa, dtype, classes, smoothing):
    scores, labels = drawn(rng, 33, classes, dtype)
    before = scores.copy()
    got, dscores = loss.softmax_cross_entropy(NUMPY, scores, labels, smoothing)
    want, gradient = _generic.softmax_cross_entropy(NUMPY, scores.astype(np.float64), labels, smoothing)
    assert isinstance(got, np.ndarray)
    assert (got.shape, got.dtype, dscores.dtype) == ((), scores.dtype, scores.dtype)
    tolerance = 2e-7 if dtype == "float32" else 4e-16
    np.testing.assert_allclose(got, want, rtol=2 * tolerance, atol=tolerance)
    np.testing.assert_allclose(dscores, gradient, rtol=6 * tolerance, atol=tolerance / 33)
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("classes", [10, 1000])
def test_does_not_depend_on_threads(rng, isa, classes):
    scores, labels = drawn(rng, 600, classes, "float32")
    before, results = xpconv.get_num_threads(), set()
    try:
        for number in (1, 2, 3):
            xpconv.set_num_threads(number)
            value, gradient = loss.softmax_cross_entropy(NUMPY, scores, labels, 0.1)
            results.add((float(value), gradient.tobytes()))
    finally:
        xpconv.set_num_threads(before)
    assert len(results) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [3, 16, 40])
def test_scores_of_any_size(rng, isa, dtype, classes):
    scores, labels = drawn(rng, 50, classes, dtype, 1e4)
    value, gradient = loss.softmax_cross_entropy(NUMPY, scores, labels, 0.0)
    want, expected = _generic.softmax_cross_entropy(NUMPY, scores.astype(np.float64), labels, 0.0)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)
    largest = np.finfo(dtype).max
    value, gradient = loss.softmax_cross_entropy(
        NUMPY, np.asarray([[largest, 0], [0, -largest]], dtype), np.asarray([0, 0]), 0.0
    )
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [3, 17])
def test_infinite_scores_and_nan(isa, classes, smoothing):
    """As the generic operator: -inf excludes a class, NaN and inf give NaN in their row and in the loss."""
    rows = {"excluded": -math.inf, "nan": math.nan, "inf": math.inf}
    for name, number in rows.items():
        for place in (0, classes - 1):
            for label in (0, 1, classes - 1):
                scores = np.zeros((2, classes), np.float32)
                scores[0, place] = number
                labels = np.asarray([label, 1])
                with np.errstate(all="ignore"):
                    want, expected = _generic.softmax_cross_entropy(NUMPY, scores, labels, smoothing)
                value, gradient = loss.softmax_cross_entropy(NUMPY, scores, labels, smoothing)
                np.testing.assert_allclose(value, want, rtol=1e-6, err_msg=name)
                np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8, err_msg=name)
    nothing = np.full((1, classes), -math.inf, np.float32)
    value, gradient = loss.softmax_cross_entropy(NUMPY, nothing, np.asarray([0]), 0.0)
    assert math.isnan(float(value))
    assert np.isnan(gradient).all()


@pytest.mark.parametrize("label", [-1, 4, 2**62, -(2**63)])
def test_labels_out_of_range_give_nan_in_their_row(rng, isa, label):
    scores, _ = drawn(rng, 3, 4, "float32")
    value, gradient = loss.softmax_cross_entropy(NUMPY, scores, np.asarray([0, label, 3]), 0.1)
    assert math.isnan(float(value))
    np.testing.assert_array_equal(np.isnan(gradient), [[False] * 4, [True] * 4, [False] * 4])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_labels_of_any_integer_dtype_and_arrays_of_any_layout(rng, scattered, dtype):
    scores, labels = drawn(rng, 20, 7, "float32")
    want = loss.softmax_cross_entropy(NUMPY, scores, labels, 0.1)
    for given in (scores, scattered(scores).view, np.asfortranarray(scores)):
        got = loss.softmax_cross_entropy(NUMPY, given, scattered(labels.astype(dtype)).view, 0.1)
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_array_equal(got[1], want[1])
    if dtype == "uint64":
        assert math.isnan(loss.softmax_cross_entropy(NUMPY, scores, np.full(20, 2**64 - 1, dtype), 0.0)[0])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_is_that_of_torch(rng, smoothing):
    torch = pytest.importorskip("torch")
    scores, labels = drawn(rng, 64, 10, "float32")
    leaf = torch.tensor(scores, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(leaf, torch.tensor(labels), label_smoothing=smoothing)
    theirs.backward()
    value, gradient = F.softmax_cross_entropy(scores, labels, label_smoothing=smoothing)
    assert float(value) == pytest.approx(float(theirs.detach()), rel=1e-6)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-5, atol=1e-8)


def test_the_gradient_is_that_of_the_loss(rng):
    scores, labels = drawn(rng, 3, 5, "float64", 1.0)
    _, gradient = loss.softmax_cross_entropy(NUMPY, scores, labels, 0.1)
    step = 1e-6
    for place in np.ndindex(scores.shape):
        ends = []
        for sign in (1, -1):
            moved = scores.copy()
            moved[place] += sign * step
            ends.append(float(loss.softmax_cross_entropy(NUMPY, moved, labels, 0.1)[0]))
        assert gradient[place] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-9)


def test_errors_are_those_of_the_function(rng):
    scores, _ = drawn(rng, 3, 4, "float32")
    with use_kernels("native"), pytest.raises(ValueError, match="got 4 at index 1"):
        F.softmax_cross_entropy(scores, np.asarray([0, 4, 1]))


def test_calls_that_do_not_fit():
    ones, labels = np.ones((3, 4), np.float32), np.zeros(3, np.int64)
    with pytest.raises(ValueError, match="expected 12"):
        _kernels.softmax_cross_entropy(np.ones((3, 5), np.float32), labels, ones.copy(), 0.0)
    with pytest.raises(ValueError, match="5 labels"):
        _kernels.softmax_cross_entropy(ones, np.zeros(5, np.int64), ones.copy(), 0.0)
    with pytest.raises(ValueError, match="0 labels"):
        _kernels.softmax_cross_entropy(ones, labels[:0], ones.copy(), 0.0)
    with pytest.raises(ValueError, match="two types"):
        _kernels.softmax_cross_entropy(ones, labels, np.ones((3, 4)), 0.0)
