"""The convolution of the compiled kernels: how the batch is cut, its memory, the order of its results."""

import tracemalloc

import numpy as np
import pytest

import xpconv
import xpconv.functional as F
from xpconv import _workspace
from xpconv._cpu import _buffer
from xpconv._cpu.conv import _slices, im2col
from xpconv._geometry import conv_geometry

MIB = 1 << 20


@pytest.fixture(scope="module")
def both(engine_results, generic_results):
    """Results and gradients of the engine and of the generic operators."""

    def results(x, w, b, dy=None, **arguments):
        full = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | arguments
        geometry = conv_geometry(x.shape, w.shape, **full)
        return engine_results(im2col, x, w, b, dy, geometry), generic_results(x, w, b, dy, geometry)

    return results


@pytest.fixture(autouse=True)
def columns_only():
    with xpconv.use_conv_algorithm("im2col"):
        yield


def arrays(rng, x_shape, w_shape, dtype="float32"):
    return [rng.integers(-4, 5, shape).astype(dtype) for shape in (x_shape, w_shape, w_shape[:1])]


# how much of the batch a slice of columns holds
TARGETS = {"one row": 1, "some rows": 9000, "one image": 40_000, "some images": 100_000, "all": 64 * MIB}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "arguments"),
    [
        ((5, 4, 13, 11), (6, 4, 3, 3), {"padding": 1}),
        ((5, 4, 13, 11), (6, 2, 2, 3), {"padding": ((2, 0), (1, 3)), "stride": (3, 2), "groups": 2}),
        ((5, 4, 13, 11), (8, 1, 3, 2), {"padding": 2, "dilation": (2, 3), "groups": 4}),
        ((5, 4, 13, 11), (6, 4, 1, 1), {}),
        ((5, 4, 13, 11), (6, 2, 1, 1), {"groups": 2}),
        ((5, 4, 13, 11), (3, 4, 13, 11), {}),
    ],
    ids=["3x3", "groups", "depthwise", "1x1", "1x1 groups", "whole image"],
)
def test_however_the_batch_is_cut(both, target, x_shape, w_shape, arguments, rng, monkeypatch):
    """Small integers make every sum exact, so nothing depends on where the cuts are."""
    monkeypatch.setattr(_slices, "_CACHE_BYTES", TARGETS[target])
    x, w, b = arrays(rng, x_shape, w_shape)
    native, generic = both(x, w, b, **arguments)
    for actual, expected in zip(native, generic, strict=True):
        assert np.array_equal(actual, expected)


@pytest.mark.parametrize("target", [1, 5000, 100_000, 10**9])
@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_slices_cover_every_output_once(target, batch, monkeypatch):
    monkeypatch.setattr(_slices, "_CACHE_BYTES", target)
    geometry = conv_geometry((batch, 3, 9, 8), (4, 3, 3, 2), stride=(2, 1), padding=1, dilation=1, groups=1)
    window = geometry.window
    parts = _slices.slices(geometry, 18, 4)
    assert [part.begin for part in parts] == [0, *(part.end for part in parts[:-1])]
    assert parts[-1].end == batch * window.positions
    for part in parts:
        rows = (part.last - part.first) * (part.row_last - part.row_first)
        assert part.end - part.begin == rows * window.out_w
        assert part.begin == part.first * window.positions + part.row_first * window.out_w
        one_row = rows == 1
        assert one_row or (part.end - part.begin) * 18 * 4 <= target
    for most in (1, 3, 100):
        runs = _slices.runs_of(parts, most)
        assert [part for run in runs for part in run] == parts
        assert len(runs) <= most


@pytest.mark.parametrize("kind", ["images first", "channels first", "channels last", "backwards", "repeated"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_whatever_the_memory_of_the_gradient(both, kind, kernel, rng):
    """Products read dy in place where they can; elsewhere a slice of it is copied first."""
    x, w, _ = arrays(rng, (3, 4, 6, 5), (6, 2, kernel, kernel))
    dy = rng.integers(-4, 5, (3, 6, 6, 5)).astype("float32")
    if kind == "repeated":
        dy = np.broadcast_to(dy[:1, :, :1, :1], dy.shape)
    else:
        order = {"channels first": (1, 0, 2, 3), "channels last": (0, 2, 3, 1)}.get(kind, (0, 1, 2, 3))
        dy = np.ascontiguousarray(dy.transpose(order)).transpose(np.argsort(order))
        dy = dy[::-1, ::-1, ::-1, ::-1] if kind == "backwards" else dy
    native, generic = both(x, w, None, dy, padding=kernel // 2, groups=2)
    assert native[3] is None
    for actual, expected in zip(native[:3], generic[:3], strict=True):
        assert np.array_equal(actual, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_do_not_depend_on_the_threads(dtype, rng):
    """To the last bit, over slices of images and, for one large image, of rows."""
    before = xpconv.get_num_threads()
    for shape, filters in (((40, 16, 20, 20), 16), ((1, 32, 120, 120), 4)):
        x = rng.standard_normal(shape).astype(dtype)
        w = rng.standard_normal((filters, shape[1], 3, 3)).astype(dtype)
        results = []
        for number in (1, 2, 3):
            xpconv.set_num_threads(number)
            y, cache = F.conv2d(x, w, padding=1)
            results.append((y, *F.conv2d_backward(y, cache)[:2]))
        xpconv.set_num_threads(before)
        for result in results[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_results_are_channel_major_and_gradients_of_images_too(rng):
    """The next convolution then reads them without a copy."""
    x, w, b = arrays(rng, (3, 4, 6, 5), (6, 4, 3, 3))
    y, cache = F.conv2d(x, w, b)
    dx, dw, _ = F.conv2d_backward(y, cache)
    assert y.transpose(1, 0, 2, 3).flags.c_contiguous
    assert dx.transpose(1, 0, 2, 3).flags.c_contiguous
    assert dw.flags.c_contiguous


# ---- memory ---------------------------------------------------------------------------------------------------------


def peak(call):
    """The result of a call, and the largest amount of memory that it held, in bytes, its arguments not counted."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("number", [1, 3])
def test_memory_of_a_large_convolution(number):
    """Forward and backward hold less than 3 times their inputs and outputs and the workspace cap."""
    before = xpconv.get_num_threads()
    xpconv.set_num_threads(number)
    _buffer._local.__dict__.clear()  # a workspace of an earlier test would not be counted

    def run():
        x = np.ones((32, 64, 56, 56), np.float32)
        w, b = np.ones((64, 64, 3, 3), np.float32), np.ones(64, np.float32)
        y, cache = F.conv2d(x, w, b, padding=1)
        dy = np.ones_like(y)
        dx, dw, db = F.conv2d_backward(dy, cache)
        return sum(a.nbytes for a in (x, w, b, y, dy, dx, dw, db))

    size, most = peak(run)
    xpconv.set_num_threads(before)
    assert most < 3 * size + _workspace.get_workspace_mb() * MIB
    assert most < size + 20 * MIB  # what it is in fact: slices are much smaller than the cap


@pytest.mark.parametrize("images", [1, 8])
def test_the_workspace_stays_under_a_small_cap(images, monkeypatch):
    """The columns of one image alone would be 9 MiB; it is then cut into rows."""
    monkeypatch.setattr(_workspace, "_cap_mb", 1)
    before = xpconv.get_num_threads()
    xpconv.set_num_threads(2)
    x, w = np.ones((images, 16, 128, 128), np.float32), np.ones((2, 16, 3, 3), np.float32)
    for threads_have in ("no workspace yet", "one"):
        _buffer._local.__dict__.clear()
        (y, cache), most = peak(lambda: F.conv2d(x, w, padding=1))
        assert most < y.nbytes + 1.1 * MIB, threads_have
        dy = np.ones_like(y)
        (dx, _, _), most = peak(lambda dy=dy, cache=cache: F.conv2d_backward(dy, cache))
        assert most < dx.nbytes + 2.2 * MIB, threads_have
    xpconv.set_num_threads(before)


def test_the_workspace_is_kept_and_let_go():
    _buffer._local.__dict__.clear()
    with _buffer.workspace(1000, np.dtype("float32")) as first:
        assert first.shape == (1000,)
        assert first.ctypes.data % 64 == 0
        with _buffer.workspace(1000, np.dtype("float32")) as inner:  # not the same one while it is in use
            assert not np.shares_memory(first, inner)
    with _buffer.workspace(400, np.dtype("float64")) as again:
        kept = again.ctypes.data
    with _buffer.workspace(10, np.dtype("float32")) as small:
        assert small.ctypes.data == kept
    huge = _buffer._KEEP // 4 + 1000
    with _buffer.workspace(huge, np.dtype("float32")):
        pass
    assert _buffer._local.buffer.nbytes == 4 * huge
    with _buffer.workspace(10, np.dtype("float32")):
        pass
    assert _buffer._local.buffer.nbytes < _buffer._KEEP
    with pytest.raises(KeyError), _buffer.workspace(10, np.dtype("float32")):
        raise KeyError
    assert _buffer._local.buffer.nbytes == 40


def test_no_result_is_in_the_workspace(rng):
    x, w, b = arrays(rng, (2, 2, 5, 5), (3, 2, 3, 3))
    y, cache = F.conv2d(x, w, b)
    results = [y, *F.conv2d_backward(y, cache)]
    kept = [result.copy() for result in results]
    assert not any(np.shares_memory(result, _buffer._local.buffer) for result in results)
    with _buffer.workspace(_buffer._local.buffer.nbytes // 4, np.dtype("float32")) as buffer:
        buffer.fill(np.nan)
    assert all(np.array_equal(a, b) for a, b in zip(results, kept, strict=True))
