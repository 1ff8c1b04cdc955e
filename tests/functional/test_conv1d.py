"""One-dimensional convolution against plain loops and PyTorch, on every backend."""

import numpy as np
import pytest

from xpconv import functional as F
from xpconv.testing import LAYOUTS, check_gradients

# stride, padding, dilation, groups
CALLS = [(1, 0, 1, 1), (2, 1, 1, 2), (3, (2, 0), 2, 1), (1, "same", 2, 1), (2, "same", 1, 1), (1, "valid", 1, 4)]


def problem(rng, groups):
    return rng.normal(size=(2, 4, 9)), rng.normal(size=(8, 4 // groups, 3)), rng.normal(size=8)


def convolved(x, w, b, stride, padding, dilation, groups):
    """From the definition."""
    length, extent = x.shape[2], 2 * dilation + 1
    if padding == "same":
        total = max((-(-length // stride) - 1) * stride + extent - length, 0)
        padding = (total // 2, total - total // 2)
    before, behind = {"valid": (0, 0)}.get(padding, padding) if not isinstance(padding, int) else (padding, padding)
    padded = np.zeros((*x.shape[:2], before + length + behind))
    padded[:, :, before : before + length] = x
    starts = range(0, padded.shape[2] - extent + 1, stride)
    y = np.zeros((x.shape[0], w.shape[0], len(starts)))
    for f in range(w.shape[0]):
        first = f // (w.shape[0] // groups) * w.shape[1]
        for p, start in enumerate(starts):
            seen = padded[:, first : first + w.shape[1], start : start + extent : dilation]
            y[:, f, p] = (seen * w[f]).sum(axis=(1, 2)) + b[f]
    return y


@pytest.mark.parametrize("call", CALLS)
def test_conv1d(on, close, sparing, rng, call):
    sparing(call is CALLS[1])
    stride, padding, dilation, groups = call
    x, w, b = problem(rng, groups)
    want = convolved(x, w, b, *call)
    for dtype in on.dtypes:
        arrays = [on.asarray(a, dtype) for a in (x, w, b)]
        y, cache = F.conv1d(*arrays, stride=stride, padding=padding, dilation=dilation, groups=groups)
        close(y, want, dtype, 4)
        dy = on.asarray(rng.normal(size=want.shape), dtype)
        dx, dw, db = F.conv1d_backward(dy, cache)
        assert (tuple(dx.shape), tuple(dw.shape), tuple(db.shape)) == (x.shape, w.shape, b.shape)
        skipped, dw_alone, _ = F.conv1d_backward(dy, cache, need_dx=False)
        assert skipped is None
        np.testing.assert_array_equal(on.to_numpy(dw_alone), on.to_numpy(dw))


@pytest.mark.parametrize("call", CALLS)
def test_gradients(on, rng, call):
    if "float64" not in on.dtypes:
        pytest.skip("gradients are checked in float64")
    stride, padding, dilation, groups = call
    x, w, b = (on.asarray(a) for a in problem(rng, groups))
    arguments = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    check_gradients(lambda x, w, b: F.conv1d(x, w, b, **arguments), F.conv1d_backward, [x, w, b])
    check_gradients(lambda x, w: F.conv1d(x, w, **arguments), F.conv1d_backward, [x, w])


def test_empty_batch(on, sparing):
    sparing(False)
    x, w = on.asarray(np.zeros((0, 4, 9)), "float32"), on.asarray(np.ones((8, 4, 3)), "float32")
    y, cache = F.conv1d(x, w)
    assert tuple(y.shape) == (0, 8, 7)
    dx, dw, _ = F.conv1d_backward(y, cache)
    assert tuple(dx.shape) == (0, 4, 9)
    assert not on.to_numpy(dw).any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(rng, layout):
    lay = LAYOUTS[layout]
    x, w, b = problem(rng, 1)
    y, cache = F.conv1d(x, w, b, padding=1)
    other, other_cache = F.conv1d(lay(x), lay(w), lay(b), padding=1)
    np.testing.assert_allclose(other, y, rtol=1e-12, atol=1e-13)
    for got, want in zip(F.conv1d_backward(lay(y), other_cache), F.conv1d_backward(y, cache), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_agrees_with_torch(rng):
    torch = pytest.importorskip("torch")
    arguments = {"stride": 2, "padding": 3, "dilation": 2, "groups": 2}
    arrays = problem(rng, 2)
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    want = torch.nn.functional.conv1d(*leaves, **arguments)
    y, cache = F.conv1d(*arrays, **arguments)
    np.testing.assert_allclose(y, want.detach().numpy(), rtol=1e-12, atol=1e-13)
    dy = rng.normal(size=y.shape)
    gradients = torch.autograd.grad(want, leaves, torch.tensor(dy))
    for got, gradient in zip(F.conv1d_backward(dy, cache), gradients, strict=True):
        np.testing.assert_allclose(got, gradient.numpy(), rtol=1e-11, atol=1e-12)


X, W = np.ones((2, 4, 9)), np.ones((8, 4, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.conv1d(X[0], W), ValueError, r"x: expected 3 dimensions \(N, C, L\), got 2"),
        (lambda: F.conv1d(X, W[:, :, :, None]), ValueError, r"w: expected 3 dimensions \(F, C/groups, k\), got 4"),
        (lambda: F.conv1d(X, W, np.ones(3)), ValueError, r"b: expected shape \(8\) \(F,\), got \(3,\)"),
        (lambda: F.conv1d(X, W, stride=0), ValueError, "stride: must be at least 1, got 0"),
        (lambda: F.conv1d(X, W, stride=(2, 2)), TypeError, r"stride: expected an integer, got \(2, 2\)"),
        (lambda: F.conv1d(X, W, dilation=(1, 1)), TypeError, r"dilation: expected an integer, got \(1, 1\)"),
        (
            lambda: F.conv1d(X, W, padding=(1, (2, 3))),
            ValueError,
            r"padding: expected .* a pair \(before, behind\), got \(1, \(2, 3\)\)",
        ),
        (lambda: F.conv1d(X, W, padding=(1, 2, 3)), ValueError, r"a pair \(before, behind\), got \(1, 2, 3\)"),
        (lambda: F.conv1d(X, W, padding=(1, 0.5)), TypeError, r"a pair \(before, behind\), got 0.5"),
        (lambda: F.conv1d(X, W, padding=-1), ValueError, "padding: must be at least 0, got -1"),
        (lambda: F.conv1d(X, W, padding="full"), ValueError, "padding: expected 'valid', 'same', an integer or a pair"),
        (lambda: F.conv1d(X, W, groups=3), ValueError, "groups: 3 must divide"),
        (lambda: F.conv1d(X, W, dilation=5), ValueError, "kernel width 3 .spread to 11 by dilation 5. is larger than"),
        (lambda: F.conv1d(X, None), TypeError, "w: expected an array"),
        (lambda: F.conv1d(X.tolist(), W), TypeError, "x: expected an array, got builtins.list"),
        (lambda: F.conv1d(X.astype(int), W.astype(int)), TypeError, "x: expected float32 or float64, got int64"),
        (lambda: F.conv1d_backward(X, F.conv1d(X, W)[1]), ValueError, r"dy: expected shape \(2, 8, 7\), that of the"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
