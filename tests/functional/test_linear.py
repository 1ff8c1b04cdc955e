"""The fully connected layer against NumPy's product in float64 and PyTorch, on every backend."""

import numpy as np
import pytest

from xpconv import functional as F
from xpconv.testing import LAYOUTS, check_gradients


def problem(rng, *lead):
    return rng.normal(size=(*lead, 5)), rng.normal(size=(3, 5)), rng.normal(size=3), rng.normal(size=(*lead, 3))


@pytest.mark.parametrize("lead", [(4,), (2, 3), (1, 2, 3), (0,), (2, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(on, close, sparing, rng, lead, bias):
    sparing(lead == (2, 3))
    x, w, b, dy = problem(rng, *lead)
    rows, dy_rows = x.reshape(-1, 5), dy.reshape(-1, 3)
    for dtype in on.dtypes:
        x_array, w_array, b_array, dy_array = (on.asarray(a, dtype) for a in (x, w, b, dy))
        y, cache = F.linear(x_array, w_array, b_array if bias else None)
        close(y, x @ w.T + (b if bias else 0), dtype, 4)
        dx, dw, db = F.linear_backward(dy_array, cache)
        close(dx, dy @ w, dtype, 4)
        close(dw, dy_rows.T @ rows, dtype, 4)
        if bias:
            close(db, dy_rows.sum(axis=0), dtype, 4)
        else:
            assert db is None
        dx, dw_alone, _ = F.linear_backward(dy_array, cache, need_dx=False)
        assert dx is None
        np.testing.assert_array_equal(on.to_numpy(dw_alone), on.to_numpy(dw))


def test_gradients(on, rng):
    if "float64" not in on.dtypes:
        pytest.skip("gradients are checked in float64")
    x, w, b, _ = problem(rng, 2, 3)
    check_gradients(F.linear, F.linear_backward, [on.asarray(x), on.asarray(w), on.asarray(b)])
    check_gradients(F.linear, F.linear_backward, [on.asarray(x), on.asarray(w)])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(rng, layout):
    x, w, b, dy = problem(rng, 2, 3)
    lay = LAYOUTS[layout]
    y, cache = F.linear(x, w, b)
    other, other_cache = F.linear(lay(x), lay(w), lay(b))
    np.testing.assert_allclose(other, y, rtol=1e-13)
    for got, want in zip(F.linear_backward(lay(dy), other_cache), F.linear_backward(dy, cache), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)


def test_agrees_with_torch(rng):
    torch = pytest.importorskip("torch")
    x, w, b, dy = problem(rng, 4)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    want = torch.nn.functional.linear(*leaves)
    y, cache = F.linear(x, w, b)
    np.testing.assert_allclose(y, want.detach().numpy(), rtol=1e-13)
    gradients = torch.autograd.grad(want, leaves, torch.tensor(dy))
    for got, gradient in zip(F.linear_backward(dy, cache), gradients, strict=True):
        np.testing.assert_allclose(got, gradient.numpy(), rtol=1e-12, atol=1e-14)


def test_half_precision_adds_up_in_float32():
    """In float16 a sum of ones stops at 2048."""
    x, w, b = np.ones((1, 5000), dtype="float16"), np.ones((1, 5000), dtype="float16"), np.ones(1, dtype="float16")
    y, cache = F.linear(x, w, b)
    assert y.dtype == "float16"
    assert y[0, 0] == np.float16(5001)
    dx, dw, db = F.linear_backward(y, cache)
    assert dx.dtype == dw.dtype == db.dtype == "float16"


X, W, B = np.ones((4, 5)), np.ones((3, 5)), np.ones(3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.linear(X[0], W), ValueError, r"x: expected at least 2 dimensions \(..., in\), got 1"),
        (
            lambda: F.linear(X[:, :4], W),
            ValueError,
            r"x: expected 5 features in the last axis, as w has, got shape \(4, 4\)",
        ),
        (lambda: F.linear(X, W[0]), ValueError, r"w: expected 2 dimensions \(out, in\), got 1"),
        (lambda: F.linear(X, W, B[:2]), ValueError, r"b: expected shape \(3\) \(out,\), got \(2,\)"),
        (lambda: F.linear(X, None), TypeError, "w: expected an array"),
        (lambda: F.linear(None, W), TypeError, r"x: expected an array \(..., in\), got None"),
        (lambda: F.linear(X, W.astype("float32")), TypeError, "w: expected float64 like x, got float32"),
        (lambda: F.linear(X.astype("uint8"), W), TypeError, "x: expected float32 or float64, got uint8"),
        (lambda: F.linear_backward(X, F.linear(X, W)[1]), ValueError, r"dy: expected shape \(4, 3\), that of the"),
        (
            lambda: F.linear_backward(np.ones((4, 3), dtype="float32"), F.linear(X, W)[1]),
            TypeError,
            "dy: expected float64, the dtype of the forward result, got float32",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
