"""``conv_backward(dY, X, W, b, P, S)`` on channels-last images and HWIO weights: the cases of a notebook, with the
numbers it prints, its shape tests, and TensorFlow's paddings."""

import numpy as np
import pytest

from xpconv import functional as F


def conv_backward(dy, x, w, b, p=0, s=1):
    """The system's general call, on one operator: gradients (dX, dW, db)."""
    _, cache = F.conv2d(x, w, b, stride=s, padding=p, layout="NHWC", weight_layout="HWIO")
    return F.conv2d_backward(dy, cache)


def sequence(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def by_loops(dy, x, w, p, s):
    """(Y without bias, dX, dW, db), a window at a time, channels last."""
    padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0))).astype(np.float64)
    kh, kw = w.shape[:2]
    y = np.zeros(dy.shape)
    dw, dx = np.zeros(w.shape), np.zeros(padded.shape)
    for n, h, v, f in np.ndindex(dy.shape):
        window = (n, slice(h * s, h * s + kh), slice(v * s, v * s + kw))
        y[n, h, v, f] = (padded[window] * w[..., f]).sum()
        dw[..., f] += dy[n, h, v, f] * padded[window]
        dx[window] += dy[n, h, v, f] * w[..., f]
    return y, dx[:, p : p + x.shape[1], p : p + x.shape[2]], dw, dy.sum(axis=(0, 1, 2))


FILTERS = (10.0, 100.0, 1000.0, 10000.0)

# name: images, weights, bias, P, S, TensorFlow's padding
CASES = {
    "1 basic": (sequence(1, 4, 4, 1), 12 - sequence(3, 3, 1, 1), None, 0, 1, "valid"),
    "2 padding": (sequence(1, 4, 4, 1), 12 - sequence(3, 3, 1, 1), None, 1, 1, "same"),
    "3 stride": (sequence(1, 7, 7, 1), 12 - sequence(3, 3, 1, 1), None, 0, 2, "valid"),
    "4 padding and stride": (sequence(1, 7, 7, 1), 12 - sequence(3, 3, 1, 1), None, 1, 2, "same"),
    "5 channels": (sequence(1, 4, 4, 3), 30 - sequence(3, 3, 3, 1), None, 0, 1, "valid"),
    "6 channels and bias": (sequence(1, 4, 4, 3), 30 - sequence(3, 3, 3, 1), (10.0,), 0, 1, "valid"),
    "7 filters": (sequence(1, 4, 4, 3), 120 - sequence(3, 3, 3, 4), None, 0, 1, "valid"),
    "8 filters and bias": (sequence(1, 4, 4, 3), 120 - sequence(3, 3, 3, 4), FILTERS, 0, 1, "valid"),
    "9 batch": (sequence(3, 4, 4, 3), 120 - sequence(3, 3, 3, 4), FILTERS, 0, 1, "valid"),
    "10 everything": (sequence(3, 7, 7, 3), 120 - sequence(3, 3, 3, 4), FILTERS, 1, 2, "same"),
}

# (dX, dW) of the first image's first channel, as the notebook prints them
PRINTED = {
    "1 basic": (
        [[12, 23, 21, 10], [21, 40, 36, 17], [15, 28, 24, 11], [6, 11, 9, 4]],
        [[10, 14, 18], [26, 30, 34], [42, 46, 50]],
    ),
    "2 padding": (
        [[40, 57, 57, 36], [51, 72, 72, 45], [51, 72, 72, 45], [28, 39, 39, 24]],
        [[45, 66, 54], [84, 120, 96], [81, 114, 90]],
    ),
    "3 stride": (
        [
            [12, 11, 22, 11, 22, 11, 10],
            [9, 8, 16, 8, 16, 8, 7],
            [18, 16, 32, 16, 32, 16, 14],
            [9, 8, 16, 8, 16, 8, 7],
            [18, 16, 32, 16, 32, 16, 14],
            [9, 8, 16, 8, 16, 8, 7],
            [6, 5, 10, 5, 10, 5, 4],
        ],
        [[144, 153, 162], [207, 216, 225], [270, 279, 288]],
    ),
    "4 padding and stride": (
        [[8, 16] * 3 + [8], [16, 32] * 3 + [16]] * 3 + [[8, 16] * 3 + [8]],
        [[216, 288, 216], [288, 384, 288], [216, 288, 216]],
    ),
}
LOSS = {"4 padding and stride": 19200, "5 channels": 34650}  # sum of the outputs, as printed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_the_notebooks_case(on, sparing, name, dtype):
    sparing(name in ("1 basic", "10 everything"))
    if dtype not in on.dtypes:
        pytest.skip(f"{on.backend} has no {dtype} by default")
    x, w, b, p, s, mode = CASES[name]
    here, weights = on.asarray(x, dtype), on.asarray(w, dtype)
    bias = None if b is None else on.asarray(b, dtype)
    y, _ = F.conv2d(here, weights, bias, stride=s, padding=mode, layout="NHWC", weight_layout="HWIO")
    dy = np.ones(tuple(y.shape))
    want_y, want_dx, want_dw, want_db = by_loops(dy, x, w, p, s)

    # all are whole numbers below 2**24: equal to the last bit in every dtype, as the notebook demands
    np.testing.assert_array_equal(on.to_numpy(y), want_y if b is None else want_y + np.asarray(b))
    dx, dw, db = conv_backward(on.asarray(dy, dtype), here, weights, bias, p, s)
    np.testing.assert_array_equal(on.to_numpy(dx), want_dx)
    np.testing.assert_array_equal(on.to_numpy(dw), want_dw)
    if b is None:
        assert db is None
    else:
        np.testing.assert_array_equal(on.to_numpy(db), want_db)
    if name in PRINTED:
        np.testing.assert_array_equal(on.to_numpy(dx)[0, :, :, 0], PRINTED[name][0])
        np.testing.assert_array_equal(on.to_numpy(dw)[:, :, 0, 0], PRINTED[name][1])
    if name == "8 filters and bias":
        np.testing.assert_array_equal(on.to_numpy(db), [4, 4, 4, 4])
    if name in LOSS:
        assert float(on.to_numpy(y).sum()) == LOSS[name]


# images, kernel, channels, filters, P, S: the two shape tests, and the benchmark's shape with fewer images
SHAPES = {
    "not square images": ((6, 11, 9), (7, 7), 16, 32, 3, 1),
    "not square kernels, long stride": ((4, 28, 46), (8, 16), 128, 2, 0, 5),
    "benchmark": ((4, 28, 28), (3, 3), 3, 16, 1, 1),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_notebooks_shapes(on, sparing, rng, name):
    sparing(name == "benchmark")
    (n, height, width), kernel, channels, filters, p, s = SHAPES[name]
    if on.backend == "cuda-host":  # a thread at a time: fewer channels tell as much
        channels, filters = min(channels, 4), min(filters, 4)
    x = rng.normal(size=(n, height, width, channels)).astype(np.float32)
    w = rng.normal(size=(*kernel, channels, filters)).astype(np.float32)
    out = ((height + 2 * p - kernel[0]) // s + 1, (width + 2 * p - kernel[1]) // s + 1)
    dy = rng.normal(size=(n, *out, filters)).astype(np.float32)
    got = conv_backward(
        on.asarray(dy), on.asarray(x), on.asarray(w), on.asarray(rng.normal(size=filters), "float32"), p, s
    )
    for mine, want in zip(got, gradients_by_taps(dy, x, w, p, s), strict=True):
        error = np.linalg.norm(on.to_numpy(mine) - want) / (2 * np.linalg.norm(want))
        assert error < 1e-6  # the notebook's measure and bound


def gradients_by_taps(dy, x, w, p, s):
    """(dX, dW, db) in double precision, a tap of the kernel at a time."""
    padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0))).astype(np.float64)
    dy, w = dy.astype(np.float64), w.astype(np.float64)
    dx, dw = np.zeros(padded.shape), np.zeros(w.shape)
    for i, j in np.ndindex(w.shape[:2]):
        pixels = (slice(None), slice(i, i + s * dy.shape[1], s), slice(j, j + s * dy.shape[2], s))
        dw[i, j] = np.einsum("nhwc,nhwf->cf", padded[pixels], dy)
        dx[pixels] += dy @ w[i, j].T
    return dx[:, p : p + x.shape[1], p : p + x.shape[2]], dw, dy.sum(axis=(0, 1, 2))
