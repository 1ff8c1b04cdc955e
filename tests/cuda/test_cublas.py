"""Matrix products: what cuBLAS is told, by a model of it in NumPy; the binding, by a library that notes calls."""

import ctypes
import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import xpconv
import xpconv.functional as F
from xpconv._gpu import cublas
from xpconv.testing.cuda_host import HostArray
from xpconv.testing.cuda_host.blas import round_to_tf32


def device(array):
    return np.asarray(array).view(HostArray)


def column_major_product(flat_a, flat_b, flat_c, product, starts, alpha, beta):
    """The definition of cublasGemmStridedBatchedEx, number by number, on flat memory."""
    p = product
    for i in range(p.batch):
        for row, column in itertools.product(range(p.m), range(p.n)):
            total = 0.0
            for k in range(p.k):
                a = (k, row) if p.transpose_first else (row, k)
                b = (column, k) if p.transpose_second else (k, column)
                total += (
                    flat_a[starts[0] + i * p.step_first + a[0] + a[1] * p.ld_first]
                    * flat_b[starts[1] + i * p.step_second + b[0] + b[1] * p.ld_second]
                )  # fmt: skip
            at = starts[2] + i * p.step_out + row + column * p.ld_out
            flat_c[at] = alpha * total + beta * flat_c[at]


def laid_out(rng, batch, rows, columns, layout):
    """Matrices, the flat memory that they lie in, and where in it they start."""
    lead = (batch,) if batch else ()
    if layout == "rows":
        flat = rng.normal(size=(*lead, rows, columns))
        view = flat
    elif layout == "columns":
        flat = rng.normal(size=(*lead, columns, rows))
        view = flat.swapaxes(-1, -2)
    elif layout == "slice of rows":
        flat = rng.normal(size=(*lead, rows, columns + 3))
        view = flat[..., 2 : 2 + columns]
    else:
        flat = rng.normal(size=(*lead, columns, rows + 2))
        view = flat[..., 1 : 1 + rows].swapaxes(-1, -2)
    start = (view.__array_interface__["data"][0] - flat.__array_interface__["data"][0]) // flat.itemsize
    return view, flat.reshape(-1), start


LAYOUTS = ("rows", "columns", "slice of rows", "slice of columns")


@pytest.mark.parametrize("sizes", [(0, 3, 4, 2), (3, 2, 3, 4), (0, 1, 4, 3), (0, 3, 1, 1), (2, 1, 1, 1)])
def test_arguments_mean_the_product(rng, sizes):
    batch, m, k, n = sizes
    for layouts in itertools.product(LAYOUTS, repeat=3):
        a, flat_a, start_a = laid_out(rng, batch, m, k, layouts[0])
        b, flat_b, start_b = laid_out(rng, batch, k, n, layouts[1])
        out, flat_out, start_out = laid_out(rng, batch, m, n, layouts[2])
        expected = flat_out.copy()
        view = np.lib.stride_tricks.as_strided(expected[start_out:], out.shape, out.strides)
        view[...] = 2 * (a @ b) + 0.5 * out
        product = cublas.product_of(a, b, out)
        memory = [(flat_a, start_a), (flat_b, start_b)]
        first, second = memory[::-1] if product.exchanged else memory
        assert product.ld_first >= (product.k if product.transpose_first else product.m)
        assert product.ld_second >= (product.n if product.transpose_second else product.k)
        assert product.ld_out >= product.m
        starts = (first[1], second[1], start_out)
        column_major_product(first[0], second[0], flat_out, product, starts, 2.0, 0.5)
        np.testing.assert_allclose(flat_out, expected, rtol=1e-12, atol=1e-12)


def test_matrices_that_cublas_cannot_take():
    a = np.zeros((4, 6))
    for bad in (a[:, ::2], a[::-1], np.broadcast_to(a[0], (4, 6)), np.lib.stride_tricks.sliding_window_view(a[0], 3)):
        with pytest.raises(ValueError, match="a: cuBLAS cannot take strides"):
            cublas.product_of(bad, np.zeros((bad.shape[1], 2)), np.zeros((bad.shape[0], 2)))
    with pytest.raises(ValueError, match="out: cuBLAS cannot take strides"):
        cublas.product_of(a, np.zeros((6, 3)), np.zeros((4, 6))[:, ::2])


class TestGemm:
    def test_factors_that_must_be_copied(self, host, rng):
        a, b = rng.normal(size=(4, 6)), rng.normal(size=(3, 5))
        got = host.gemm(device(a)[::-1, ::2], device(b))
        assert type(got) is HostArray
        np.testing.assert_allclose(np.asarray(got), a[::-1, ::2] @ b, rtol=1e-13)

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_into_a_slice_and_added_up(self, host, rng, dtype):
        a, b = rng.normal(size=(3, 5)).astype(dtype), rng.normal(size=(5, 4)).astype(dtype)
        wide = "float32" if dtype == "float16" else dtype
        for result in {dtype, wide}:
            memory = device(np.full((3, 9), np.nan, result))
            out = memory[:, 2:6]
            assert host.gemm(device(a), device(b), out=out) is out
            host.gemm(device(a), device(b), out=out, accumulate=True)
            tolerance = {"float16": 3e-3, "float32": 1e-5, "float64": 1e-13}[result]
            expected = 2 * (a.astype(float) @ b.astype(float))
            np.testing.assert_allclose(np.asarray(out), expected, rtol=tolerance, atol=tolerance)
            assert np.isnan(np.asarray(memory)[:, [0, 1, 6, 7, 8]]).all()

    def test_half_precision_adds_up_in_float32(self, host):
        ones = device(np.ones((1, 4096), np.float16))
        assert float(host.gemm(ones, ones.T)[0, 0]) == 4096  # in float16 it would stay at 2048

    def test_batches(self, host, rng):
        a, b = rng.normal(size=(3, 2, 5)), rng.normal(size=(3, 4, 5))
        memory = device(np.zeros((3, 2, 10)))
        got = host.batched_gemm(device(a), device(b).transpose(0, 2, 1), out=memory[:, :, 3:7])
        np.testing.assert_allclose(np.asarray(got), a @ b.transpose(0, 2, 1), rtol=1e-13)
        assert not np.asarray(memory)[:, :, 7:].any()

    def test_nothing_to_add_up_and_nothing_at_all(self, host):
        out = device(np.ones((2, 3)))
        host.gemm(device(np.zeros((2, 0))), device(np.zeros((0, 3))), out=out, accumulate=True)
        assert (np.asarray(out) == 1).all()
        host.gemm(device(np.zeros((2, 0))), device(np.zeros((0, 3))), out=out)
        assert not np.asarray(out).any()
        assert host.gemm(device(np.zeros((0, 4))), device(np.zeros((4, 3)))).shape == (0, 3)

    @pytest.mark.parametrize(
        ("b", "options", "error", "match"),
        [
            ((4, 2), {}, ValueError, r"b: expected 3 rows, the columns of a \(2, 3\), got shape \(4, 2\)"),
            ((1, 3, 2), {}, ValueError, "b: expected a matrix"),
            ((3, 2), {"out": np.zeros((2, 3))}, ValueError, r"out: expected shape \(2, 2\), got \(2, 3\)"),
            ((3, 2), {"out": np.zeros((2, 2), np.float32)}, TypeError, "out: expected float64 .* got float32"),
            ((3, 2), {"accumulate": True}, ValueError, "out: accumulate needs an array"),
        ],
    )
    def test_wrong_arguments(self, host, b, options, error, match):
        options = {name: device(v) if name == "out" else v for name, v in options.items()}
        with pytest.raises(error, match=match):
            host.gemm(device(np.zeros((2, 3))), device(np.zeros(b)), **options)

    def test_without_the_library(self, host, rng, monkeypatch):
        monkeypatch.setattr(host, "blas", None)
        a, b = rng.normal(size=(3, 5)), rng.normal(size=(5, 4))
        out = host.gemm(device(a), device(b))
        host.gemm(device(a), device(b), out=out, accumulate=True)
        np.testing.assert_allclose(np.asarray(out), 2 * (a @ b), rtol=1e-13)


class TestPrecision:
    def test_rounding_to_10_bits(self):
        one = np.float32(1)
        step = np.float32(2**-10)
        values = np.array([one + step, one + step / 2, one + 3 * step / 2, one + step / 2 + step / 8, np.inf, -0.0])
        got = round_to_tf32(values.astype(np.float32))
        assert got.tolist() == [1 + 2**-10, 1.0, 1 + 2**-9, 1 + 2**-10, np.inf, -0.0]
        assert np.isnan(round_to_tf32(np.array([np.nan], np.float32))).all()

    def test_it_changes_float32_on_gpus_only(self, host, rng):
        x, w = rng.normal(size=(2, 3, 6, 6)), rng.normal(size=(4, 3, 3, 3))
        for dtype, changes in (("float32", True), ("float64", False), ("float16", False)):
            strict = F.conv2d(host.asarray(x, dtype), host.asarray(w, dtype))[0]
            with xpconv.use_matmul_precision("tf32"):
                fast = F.conv2d(host.asarray(x, dtype), host.asarray(w, dtype))[0]
            error = np.abs(np.asarray(fast) - np.asarray(strict)).max()
            assert (1e-5 < error < 2e-2) if changes else error == 0
        x, w = x.astype(np.float32), w.astype(np.float32)
        with xpconv.use_matmul_precision("tf32"):
            got = F.conv2d(x, w)[0]
        np.testing.assert_array_equal(got, F.conv2d(x, w)[0])

    def test_setting(self, monkeypatch):
        monkeypatch.setattr("xpconv._precision.setting._value", None)
        assert xpconv.get_matmul_precision() == "default"
        xpconv.set_matmul_precision("tf32")
        assert xpconv.get_matmul_precision() == "tf32"
        with xpconv.use_matmul_precision("highest"):
            assert xpconv.get_matmul_precision() == "highest"
            seen = []
            thread = threading.Thread(target=lambda: seen.append(xpconv.get_matmul_precision()))
            thread.start()
            thread.join()
            assert seen == ["tf32"]
        for call in (xpconv.set_matmul_precision, lambda p: xpconv.use_matmul_precision(p).__enter__()):
            with pytest.raises(ValueError, match="precision: expected one of default, highest, tf32, got 'high'"):
                call("high")
        assert xpconv.get_matmul_precision() == "tf32"

    def test_from_outside(self, monkeypatch):
        monkeypatch.setattr("xpconv._precision.setting._value", None)
        monkeypatch.setenv("XPCONV_MATMUL_PRECISION", "tf32")
        assert xpconv.get_matmul_precision() == "tf32"
        monkeypatch.setattr("xpconv._precision.setting._value", None)
        monkeypatch.setenv("XPCONV_MATMUL_PRECISION", "best")
        with pytest.raises(ValueError, match=r"XPCONV_MATMUL_PRECISION: expected one of .*tf32, got 'best'"):
            xpconv.get_matmul_precision()


# ---- the binding -----------------------------------------------------------------------------------------------------


class Function:
    """A function of the library: notes what it gets, as C would see it."""

    def __init__(self, owner, name):
        self.owner, self.name, self.argtypes = owner, name, None

    def __call__(self, *args):
        assert len(args) == len(self.argtypes)
        seen = [kind.from_param(a) if kind is ctypes.c_void_p else kind(a).value if isinstance(a, int) else a
                for kind, a in zip(self.argtypes, args, strict=True)]  # fmt: skip
        if self.name == "cublasCreate_v2":
            self.owner.handles += 1
            args[0]._obj.value = self.owner.handles
        numbers = ctypes.c_double if 70 in args[-2:] else ctypes.c_float
        if self.name.startswith("cublasGemm"):
            beta = next(a for a in args[7:] if isinstance(a, int) and a > 2**32 and a not in self.owner.pointers)
            seen = {"args": args, "alpha": numbers.from_address(args[6]).value,
                    "beta": numbers.from_address(beta).value}  # fmt: skip
        self.owner.calls.append((self.name, seen))
        return self.owner.status


class Library:
    def __init__(self):
        self.calls, self.handles, self.status, self.pointers = [], 0, 0, set()
        names = ("Create_v2", "SetStream_v2", "SetWorkspace_v2", "SetMathMode", "GemmEx", "GemmStridedBatchedEx")
        for name in (*names, "GemmEx_64", "GemmStridedBatchedEx_64"):
            setattr(self, f"cublas{name}", Function(self, f"cublas{name}"))

    def names(self):
        return [name for name, _ in self.calls]


def on_gpu(array, address):
    return SimpleNamespace(
        shape=array.shape, strides=array.strides, dtype=array.dtype, data=SimpleNamespace(ptr=address)
    )


@pytest.fixture
def bound():
    library, stream = Library(), [7]
    binding = cublas.Cublas(library, lambda: stream[0], lambda size: SimpleNamespace(ptr=1000 + stream[0], size=size))

    def multiply(batch=0, dtype="float32", out_dtype=None, compute="float32", alpha=1.0, beta=0.0):
        lead = (batch,) * bool(batch)
        a, b = (on_gpu(np.zeros(lead + shape, dtype), i) for i, shape in ((111, (3, 5)), (222, (5, 4))))
        out = on_gpu(np.zeros((*lead, 3, 4), out_dtype or dtype), 333)
        product = cublas.product_of(a, b, out)
        assert product.exchanged
        binding.multiply(product, b, a, out, (dtype, out_dtype or dtype), compute, alpha, beta)
        return library.calls[-1]

    return SimpleNamespace(noted=library, stream=stream, binding=binding, multiply=multiply)


def test_a_call_of_cublas(bound):
    name, seen = bound.multiply(alpha=2.0, beta=0.5)
    assert name == "cublasGemmEx"
    args = seen["args"]
    assert (args[0].value, *args[1:6]) == (1, 0, 0, 4, 3, 5)  # the transposed problem: m, n, k
    assert args[7:13] == (222, 0, 4, 111, 0, 5)
    assert args[14:] == (333, 0, 4, 68, -1)
    assert (seen["alpha"], seen["beta"]) == (2.0, 0.5)
    name, seen = bound.multiply(dtype="float64", compute="float64", beta=1.0)
    assert seen["args"][-2:] == (70, -1)
    assert (seen["args"][8], seen["beta"]) == (1, 1.0)
    name, seen = bound.multiply(dtype="float16", out_dtype="float32")
    assert (seen["args"][8], seen["args"][11], seen["args"][15]) == (2, 2, 0)
    assert bound.multiply(compute="tf32")[1]["args"][-2] == 77
    name, seen = bound.multiply(batch=6)
    assert name == "cublasGemmStridedBatchedEx"
    assert seen["args"][7:15] == (222, 0, 4, 20, 111, 0, 5, 15)
    assert seen["args"][16:] == (333, 0, 4, 12, 6, 68, -1)


def test_the_handle_follows_the_stream_and_gets_a_workspace_each_time(bound):
    bound.multiply()
    assert bound.noted.names() == [
        "cublasCreate_v2", "cublasSetMathMode", "cublasSetStream_v2", "cublasSetWorkspace_v2", "cublasGemmEx",
    ]  # fmt: skip
    bound.noted.calls.clear()
    bound.multiply()
    bound.stream[0] = 8
    bound.multiply()
    bound.stream[0] = 7
    bound.multiply()
    one, both = ["cublasGemmEx"], ["cublasSetStream_v2", "cublasSetWorkspace_v2", "cublasGemmEx"]
    assert bound.noted.names() == one + both + both
    assert bound.binding.take_workspace().ptr == 1007  # of the current stream, for a graph
    assert bound.binding.take_workspace() is None
    bound.noted.calls.clear()
    bound.multiply()
    assert bound.noted.names() == both


def test_each_thread_has_a_handle_and_leaves_it_to_the_next(bound):
    def handle():
        return bound.multiply()[1]["args"][0].value

    seen = [handle()]
    for _ in range(2):
        thread = threading.Thread(target=lambda: seen.append(handle()))
        thread.start()
        thread.join()
    assert seen == [1, 2, 2]
    assert handle() == 1


def test_errors_of_cublas(bound):
    bound.multiply()
    bound.noted.status = 13
    with pytest.raises(cublas.CublasError, match=r"a product of 4 x 5 by 5 x 3 in float32 failed: execution failed"):
        bound.multiply()


def test_long_matrices_take_the_64_bit_call(bound):
    a = SimpleNamespace(shape=(2, 2**31), strides=(2**33, 4), dtype=np.dtype("float32"), data=SimpleNamespace(ptr=1))
    b = SimpleNamespace(shape=(2**31, 2), strides=(8, 4), dtype=np.dtype("float32"), data=SimpleNamespace(ptr=2))
    out = on_gpu(np.zeros((2, 2), np.float32), 3)
    bound.binding.multiply(cublas.product_of(a, b, out), b, a, out, ("float32",) * 2, "float32", 1.0, 0.0)
    assert bound.noted.names()[-1] == "cublasGemmEx_64"


def test_a_library_that_is_missing():
    with pytest.raises(OSError, match=r"cuBLAS of CUDA 99 cannot be loaded: .*libcublas\.so\.99.*nvidia-cublas"):
        cublas.load_library(99)
