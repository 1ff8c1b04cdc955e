"""How convolutions are cut into slices: their length, and that the results do not depend on it."""

import numpy as np
import pytest

from xpconv import _workspace
from xpconv._geometry import conv_geometry
from xpconv._gpu import conv, slices
from xpconv.testing.cuda_host import HostArray
from xpconv.testing.cuda_host.blas import HostBlas


def geometry(batch=10, channels=4, size=8, filters=6, kernel=3):
    return conv_geometry((batch, channels, size, size), (filters, channels, kernel, kernel),
                         stride=1, padding=kernel // 2, dilation=1, groups=1)  # fmt: skip


def test_length_of_a_slice(host, monkeypatch):
    shape = geometry()  # columns of an image: 4 * 9 * 64 numbers of 4 bytes, 9 KiB
    dtype = np.dtype(np.float32)

    def images(kib, multiprocessors=1, tile=8):
        monkeypatch.setattr(host, "l2_bytes", 1024 * kib)
        monkeypatch.setattr(host, "multiprocessors", multiprocessors)
        monkeypatch.setattr(host, "gemm_tile", tile)
        return slices.images_in_slice(host, shape, dtype)

    assert images(2 * 9 * 20) == 10  # all
    assert images(2 * 9 * 6) == 5  # two slices of 5 rather than 6 and 4
    assert images(2 * 9 * 3) == 3
    assert images(2) == 1  # one image at the least
    assert images(2, multiprocessors=24) == 3  # 24 tiles of 8 columns fill the device: 192 of 64 each
    assert images(2, multiprocessors=24, tile=128) == 10
    monkeypatch.setattr(_workspace, "_cap_mb", 0)  # less than one image
    assert images(2 * 9 * 20) == 1
    assert slices.images_in_slice(host, geometry(batch=0), dtype) == 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_results_do_not_depend_on_it(host, monkeypatch, rng, dtype):
    shape = geometry()
    x, w = (host.asarray(rng.normal(size=s), dtype) for s in ((10, 4, 8, 8), (6, 4, 3, 3)))
    b, dy = host.asarray(rng.normal(size=6), dtype), host.asarray(rng.normal(size=(10, 6, 8, 8)), dtype)

    def results(kib):
        calls = []
        monkeypatch.setattr(host, "l2_bytes", 1024 * kib)
        plain = HostBlas.multiply
        monkeypatch.setattr(host, "blas", HostBlas())
        monkeypatch.setattr(host.blas, "multiply", lambda *a: calls.append(a) or plain(host.blas, *a), raising=False)
        y = conv.conv2d(host, x, w, b, shape)
        return calls, (y, *conv.conv2d_backward(host, dy, x, w, True, True, shape))

    many, sliced = results(1)
    few, whole = results(1000)
    assert (len(few), len(many)) == (3, 3 * 10)
    for got, expected in zip(sliced, whole, strict=True):
        assert type(got) is HostArray
        assert got.dtype == dtype
        tolerance = 1e-5 if dtype == "float32" else 4e-3
        np.testing.assert_allclose(np.asarray(got, float), np.asarray(expected, float), rtol=tolerance, atol=tolerance)
    # weight gradients are added up by the products themselves, in float32
    sums = [(call[4], call[7]) for call in many if call[7] or call[4] == ("float16", "float32")]
    assert len(sums) == (9 if dtype == "float32" else 10)
    assert all(types == (dtype, "float32") for types, _ in sums)


def test_the_weight_gradient_of_half_precision_is_rounded_once(host, monkeypatch):
    """Slices that add 1 each to 2048: in float16 the sum would stay where it is."""
    shape = geometry(batch=4096, channels=1, size=1, filters=1)
    monkeypatch.setattr(host, "l2_bytes", 64)
    monkeypatch.setattr(host, "gemm_tile", 1)
    ones = host.asarray(np.ones((4096, 1, 1, 1)), "float16")
    weight = host.asarray(np.ones((1, 1, 3, 3)), "float16")
    assert float(conv.conv2d_backward(host, ones, ones, weight, False, False, shape)[1][0, 0, 1, 1]) == 4096


@pytest.mark.parametrize("channel_major", [False, True])
def test_one_by_one_is_one_product_each_way(host, monkeypatch, rng, channel_major):
    shape = geometry(kernel=1)
    x, dy = (rng.normal(size=(c, 10, 8, 8) if channel_major else (10, c, 8, 8)) for c in (4, 6))
    x, dy = (host.asarray(a).transpose(1, 0, 2, 3) if channel_major else host.asarray(a) for a in (x, dy))
    w, calls = host.asarray(rng.normal(size=(6, 4, 1, 1))), []
    plain = HostBlas.multiply
    monkeypatch.setattr(host, "blas", HostBlas())
    monkeypatch.setattr(host.blas, "multiply", lambda *a: calls.append(a) or plain(host.blas, *a), raising=False)
    y = conv.conv2d(host, x, w, None, shape)
    dx, dw, _ = conv.conv2d_backward(host, dy, x, w, True, False, shape)
    assert len(calls) == 3
    if channel_major:  # read where they are
        assert np.may_share_memory(calls[0][1], x)
    matrix = np.asarray(w)[:, :, 0, 0]
    np.testing.assert_allclose(np.asarray(y), np.einsum("fc,nchw->nfhw", matrix, np.asarray(x)), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        np.asarray(dx), np.einsum("fc,nfhw->nchw", matrix, np.asarray(dy)), rtol=1e-12, atol=1e-12
    )
    expected = np.einsum("nfhw,nchw->fc", np.asarray(dy), np.asarray(x))
    np.testing.assert_allclose(np.asarray(dw)[:, :, 0, 0], expected, rtol=1e-12, atol=1e-12)
