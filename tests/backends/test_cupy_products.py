"""Matrix products and recordings of the CuPy backend, on the stand-in of ``fake_cupy.py``."""

from types import SimpleNamespace

import numpy as np
import pytest

import xpconv
import xpconv.functional as F
from xpconv._gpu import cublas, graph
from xpconv.backends import CaptureError, load_backend
from xpconv.testing.cuda_host.blas import HostBlas


class Library:
    """libcublas, as far as the number and the kind of calls go."""

    def __init__(self):
        self.calls, self.status = [], 0

    def __getattr__(self, name):
        def function(*arguments):
            self.calls.append((name, arguments))
            return self.status

        setattr(self, name, function)
        return function


@pytest.fixture
def library(two_gpus, fake_cupy, monkeypatch):
    found = Library()
    versions = []
    monkeypatch.setattr(cublas, "load_library", lambda major: versions.append(major) or found)
    cuda = load_backend("cupy:1")._cupy.cuda
    monkeypatch.setattr(cuda, "get_current_stream", lambda: SimpleNamespace(ptr=70 + two_gpus.current[-1]))
    memory = SimpleNamespace(ptr=4096)
    monkeypatch.setattr(cuda, "alloc", lambda size: found.calls.append(("alloc", two_gpus.current[-1])) or memory,
                        raising=False)  # fmt: skip
    found.versions = versions
    return found


def test_products_by_cublas_on_the_device_of_the_arrays(library):
    backend = load_backend("cupy:1")
    assert library.versions == []  # not before it is needed
    a, b = (xpconv.asarray(np.ones(shape, np.float32), backend=backend) for shape in ((2, 3), (3, 4)))
    out = backend.gemm(a, b)
    names = [name for name, _ in library.calls]
    assert names[2:] == ["cublasSetStream_v2", "alloc", "cublasSetWorkspace_v2", "cublasGemmEx"]
    assert library.calls[2][1][1] == 71
    assert library.calls[3][1] == 1
    arguments = library.calls[-1][1]
    with backend.running():
        assert (arguments[7], arguments[10], arguments[14]) == (b.data.ptr, a.data.ptr, out.data.ptr)
    backend.gemm(a, b, out=out, accumulate=True)
    assert library.versions == [13]


def test_cublas_out_of_memory(library):
    backend = load_backend("cupy:1")
    assert backend.out_of_memory(cublas.CublasError("a", cublas.OUT_OF_MEMORY)).total == 200 * 2**20
    assert backend.out_of_memory(cublas.CublasError("a", 13)) is None


def test_a_convolution_through_the_binding(two_gpus, monkeypatch, rng):
    """The same results as NumPy's, slices included; the products by a model of cuBLAS."""
    backend = load_backend("cupy:1")
    monkeypatch.setattr(backend, "blas", HostBlas(), raising=False)
    monkeypatch.setattr(backend, "l2_bytes", 2048)
    monkeypatch.setattr(backend, "gemm_tile", 8)
    x, w, b = (rng.standard_normal(s) for s in ((5, 4, 6, 7), (4, 2, 3, 2), (4,)))
    arguments = {"padding": 1, "stride": 2, "groups": 2}
    expected, cache = F.conv2d(x, w, b, **arguments)
    gradients = F.conv2d_backward(expected, cache)
    y, cache = F.conv2d(*(xpconv.asarray(a, backend=backend) for a in (x, w, b)), **arguments)
    for ours, reference in zip((y, *F.conv2d_backward(y, cache)), (expected, *gradients), strict=True):
        np.testing.assert_allclose(xpconv.to_numpy(ours), reference, rtol=1e-12, atol=1e-12)


def test_without_cublas(two_gpus, monkeypatch):
    def missing(major):
        raise OSError(f"cuBLAS of CUDA {major} cannot be loaded: ...")

    monkeypatch.setattr(cublas, "load_library", missing)
    backend = load_backend("cupy")
    a = xpconv.asarray(np.full((2, 2), 3.0), backend=backend)
    np.testing.assert_array_equal(xpconv.to_numpy(backend.gemm(a, a)), 18)
    with pytest.raises(CaptureError, match="cuBLAS of CUDA 13 cannot be loaded"):
        backend.capture(lambda: None)


def test_nothing_comes_from_the_host_in_a_recording(two_gpus):
    backend = load_backend("cupy")
    x = xpconv.asarray(np.ones(3), backend=backend)
    with graph._capturing():
        assert backend.asarray(x) is x
        for host in (np.ones(3), [1.0], 2.0):
            with pytest.raises(CaptureError, match="asarray brings values of the host to the device"):
                backend.asarray(host)
    backend.asarray(np.ones(3))
