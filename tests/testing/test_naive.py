"""The oracles are checked against numbers worked out by hand, and against PyTorch where it is installed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpconv.testing import naive, strategies


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads", "dilation", "ceil_mode", "expected"),
    [
        (5, 3, 1, (0, 0), 1, False, [0, 1, 2]),
        (5, 3, 2, (0, 0), 1, False, [0, 2]),
        (6, 3, 2, (0, 0), 1, False, [0, 2]),  # one pixel left over
        (6, 3, 2, (0, 0), 1, True, [0, 2, 4]),
        (5, 3, 1, (1, 2), 1, False, [-1, 0, 1, 2, 3, 4]),
        (5, 3, 1, (0, 0), 2, False, [0]),
        (4, 3, 1, (0, 0), 2, False, []),
        (10, 2, 7, (0, 0), 1, False, [0, 7]),  # stride > kernel
        (4, 2, 3, (1, 1), 1, True, [-1, 2]),  # it fits exactly: nothing is added
        (3, 2, 3, (0, 0), 1, True, [0]),  # the next one would begin behind the image
        (3, 1, 2, (1, 1), 1, True, [-1, 1, 3]),
        (2, 3, 2, (0, 0), 1, True, [0]),
        (1, 3, 2, (0, 0), 1, True, []),
    ],
)
def test_windows_start_where_the_definition_says(size, kernel, stride, pads, dilation, ceil_mode, expected):
    assert naive.starts(size, kernel, stride, pads, dilation, ceil_mode) == expected


def test_convolution_by_hand():
    x = np.arange(6.0).reshape(1, 1, 2, 3)  # 0 1 2 / 3 4 5
    w = np.array([1.0, 10.0]).reshape(1, 1, 1, 2)
    b = np.array([100.0])
    y = naive.conv2d(x, w, b, padding=((0, 0), (1, 0)))
    assert y.tolist() == [[[[100, 110, 121], [130, 143, 154]]]]
    dx, dw, db = naive.conv2d_backward(np.ones_like(y), x, w, padding=((0, 0), (1, 0)))
    assert dx.tolist() == [[[[11, 11, 10], [11, 11, 10]]]]
    assert dw.tolist() == [[[[8, 15]]]]
    assert db.tolist() == [6]


def test_groups_by_hand():
    x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)
    w = np.array([[1.0, 10.0], [1.0, 10.0]]).reshape(2, 2, 1, 1)
    assert naive.conv2d(x, w, groups=2).ravel().tolist() == [21, 43]


def test_columns_by_hand():
    x = np.arange(6.0).reshape(1, 1, 2, 3)
    cols = naive.im2col(x, (2, 2))
    assert cols.tolist() == [[[0, 1], [1, 2], [3, 4], [4, 5]]]
    assert naive.col2im(cols, (2, 3), (2, 2)).tolist() == [[[[0, 2, 2], [3, 8, 5]]]]


def test_pooling_by_hand():
    nan = np.nan
    x = np.array([[1.0, 1.0, nan], [0.0, 1.0, 9.0]]).reshape(1, 1, 2, 3)
    y, argmax = naive.max_pool2d(x, (2, 2), (1, 1))
    assert np.array_equal(y, [[[[1, nan]]]], equal_nan=True)
    assert argmax.tolist() == [[[[0, 1]]]]
    dx = naive.max_pool2d_backward(np.array([[[[2.0, 3.0]]]]), argmax, (2, 3), (2, 2), (1, 1))
    assert dx.tolist() == [[[[2, 0, 3], [0, 0, 0]]]]

    x = np.array([[1.0, 2.0, 3.0]]).reshape(1, 1, 1, 3)
    pads = ((0, 0), (1, 0))
    assert naive.avg_pool2d(x, (1, 3), (1, 2), pads).tolist() == [[[[1]]]]
    assert naive.avg_pool2d(x, (1, 3), (1, 2), pads, count_include_pad=False).tolist() == [[[[1.5]]]]
    # the second window reaches two pixels beyond the image, which no divisor counts
    assert naive.avg_pool2d(x, (1, 3), (1, 3), pads, ceil_mode=True).tolist() == [[[[1, 3]]]]
    dx = naive.avg_pool2d_backward(np.array([[[[3.0, 5.0]]]]), (1, 3), (1, 3), (1, 3), pads, ceil_mode=True)
    assert dx.tolist() == [[[[1, 1, 5]]]]


@given(strategies.convolutions(), st.integers(0, 2**32 - 1))
def test_convolution_agrees_with_pytorch(case, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    x, w, b = (rng.standard_normal(s) for s in (case.x_shape, case.w_shape, case.w_shape[:1]))
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    padded = torch.nn.functional.pad(leaves[0], (*case.padding[1], *case.padding[0]))
    result = torch.nn.functional.conv2d(
        padded, *leaves[1:], stride=case.stride, dilation=case.dilation, groups=case.groups
    )
    y = naive.conv2d(x, w, b, **case.arguments)
    np.testing.assert_allclose(y, result.detach().numpy(), rtol=1e-10, atol=1e-10)
    dy = rng.standard_normal(y.shape)
    result.backward(torch.tensor(dy))
    for ours, leaf in zip(naive.conv2d_backward(dy, x, w, **case.arguments), leaves, strict=True):
        np.testing.assert_allclose(ours, leaf.grad.numpy(), rtol=1e-10, atol=1e-10)


@given(strategies.poolings(), st.integers(0, 2**32 - 1), st.booleans())
def test_pooling_agrees_with_pytorch(case, seed, include):
    torch = pytest.importorskip("torch")
    x_shape, kernel, stride, _, dilation, ceil_mode = case
    # PyTorch pads both sides alike, at most by half the kernel, and takes no empty batch here
    pad = (min(case.padding[0][0], kernel[0] // 2), min(case.padding[1][0], kernel[1] // 2))
    padding = ((pad[0], pad[0]), (pad[1], pad[1]))
    x = np.random.default_rng(seed).standard_normal((2, *x_shape[1:]))
    leaf = torch.tensor(x, requires_grad=True)
    try:
        expected = torch.nn.functional.max_pool2d(leaf, kernel, stride, pad, dilation, ceil_mode)
    except RuntimeError:
        expected = None  # less padding: the kernel is too large
    if expected is not None and bool(torch.isfinite(expected).all()):  # -inf: a window in the padding
        y, argmax = naive.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
        assert np.array_equal(y, expected.detach().numpy())
        dy = np.random.default_rng(seed + 1).standard_normal(y.shape)
        expected.backward(torch.tensor(dy))
        dx = naive.max_pool2d_backward(dy, argmax, x_shape[2:], kernel, stride, padding, dilation, ceil_mode)
        np.testing.assert_allclose(dx, leaf.grad.numpy(), rtol=1e-12, atol=1e-12)
    leaf = torch.tensor(x, requires_grad=True)
    try:
        expected = torch.nn.functional.avg_pool2d(leaf, kernel, stride, pad, ceil_mode, include)
    except RuntimeError:
        return
    y = naive.avg_pool2d(x, kernel, stride, padding, ceil_mode, include)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-12, atol=1e-12)
    dy = np.random.default_rng(seed + 1).standard_normal(y.shape)
    expected.backward(torch.tensor(dy))
    dx = naive.avg_pool2d_backward(dy, x_shape[2:], kernel, stride, padding, ceil_mode, include)
    np.testing.assert_allclose(dx, leaf.grad.numpy(), rtol=1e-12, atol=1e-12)
