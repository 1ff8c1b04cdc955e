"""``convolve_2d`` and its companions: columns grouped by image, ``(dW, dX)`` for gradients, right for every stride."""

import numpy as np
import pytest

from xpconv import functional as F
from xpconv.testing import naive


def convolve_2d(images, kernel, padding=0, stride=1):
    """The system's naive form: a window of the padded image at a time, with every filter."""
    images = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    (n, _, height, width), (out_channels, _, kh, kw) = images.shape, kernel.shape
    out = np.zeros((n, out_channels, (height - kh) // stride + 1, (width - kw) // stride + 1))
    for image in range(n):
        for f in range(out_channels):
            for i in range(out.shape[2]):
                for j in range(out.shape[3]):
                    window = images[image, :, i * stride : i * stride + kh, j * stride : j * stride + kw]
                    out[image, f, i, j] = (window * kernel[f]).sum()
    return out


def convolution_backprop(x, kernel, gradient_values, padding=0, stride=1):
    """The system's naive gradients ``(dW, dX)``; the gradient is indexed by window, so that every stride is right."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    *_, kh, kw = kernel.shape
    dw, dx = np.zeros_like(kernel), np.zeros_like(padded)
    for image, f, i, j in np.ndindex(gradient_values.shape):
        window = (image, slice(None), slice(i * stride, i * stride + kh), slice(j * stride, j * stride + kw))
        dw[f] += gradient_values[image, f, i, j] * padded[window]
        dx[window] += gradient_values[image, f, i, j] * kernel[f]
    return dw, dx[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]]


def fast_convolve_2d(inputs, kernel, padding=0, stride=1):
    """The system's fast form, on one operator."""
    return F.conv2d(inputs, kernel, stride=stride, padding=padding)[0]


def fast_convolution_backprop(inputs, kernel, gradient_values, padding=0, stride=1):
    """The system's fast gradients ``(dW, dX)``, on one operator."""
    _, cache = F.conv2d(inputs, kernel, stride=stride, padding=padding)
    dx, dw, _ = F.conv2d_backward(gradient_values, cache)
    return dw, dx


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_fast_equals_naive(on, close, sparing, rng, padding, stride):
    sparing((padding, stride) == (1, 2))
    x, kernel = rng.normal(size=(2, 3, 6, 8)), rng.normal(size=(4, 3, 3, 2))
    y = convolve_2d(x, kernel, padding, stride)
    grad = rng.normal(size=y.shape)
    dw, dx = convolution_backprop(x, kernel, grad, padding, stride)
    dtype = on.dtypes[-1]
    inputs, weights, gradient = (on.asarray(a, dtype) for a in (x, kernel, grad))

    close(fast_convolve_2d(inputs, weights, padding, stride), y)
    got_dw, got_dx = fast_convolution_backprop(inputs, weights, gradient, padding, stride)
    close(got_dw, dw)
    close(got_dx, dx)


@pytest.mark.parametrize(("padding", "stride"), [(0, 1), (1, 2)])
def test_the_loops_here_equal_those_of_the_package(rng, padding, stride):
    x, kernel = rng.normal(size=(2, 2, 5, 6)), rng.normal(size=(3, 2, 3, 3))
    geometry = ((stride, stride), ((padding, padding), (padding, padding)))
    y = naive.conv2d(x, kernel, None, *geometry)
    np.testing.assert_allclose(convolve_2d(x, kernel, padding, stride), y, atol=1e-12)
    dx, dw, _ = naive.conv2d_backward(y, x, kernel, *geometry)
    got_dw, got_dx = convolution_backprop(x, kernel, y, padding, stride)
    np.testing.assert_allclose(got_dw, dw, atol=1e-12)
    np.testing.assert_allclose(got_dx, dx, atol=1e-12)


def test_columns_are_grouped_by_image(on, close, rng):
    # the system's matrix: the columns of the first image, then those of the second; here the batch axis comes first
    x = rng.normal(size=(2, 3, 5, 4))
    columns = on.to_numpy(F.im2col(on.asarray(x, "float32"), (3, 2), stride=1, padding=0))
    side_by_side = np.concatenate(list(columns), axis=1)
    first = naive.im2col(x[:1], (3, 2))[0]
    np.testing.assert_allclose(side_by_side[:, : first.shape[1]], first.astype("float32"))
    assert side_by_side.shape == (3 * 3 * 2, 2 * 3 * 3)
