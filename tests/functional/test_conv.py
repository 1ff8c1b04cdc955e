"""conv2d and its gradients against plain loops, PyTorch's autograd and differences, on every backend."""

import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xpconv
from xpconv._workspace import images_per_slice
from xpconv.backends import KernelUnavailableError, backend_of, use_kernels
from xpconv.functional import conv2d, conv2d_backward
from xpconv.testing import LAYOUTS, check_gradients, naive, strategies

# name: x shape, w shape, stride, padding, dilation, groups
CASES = {
    "3x3": ((2, 3, 5, 5), (4, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "1x1": ((2, 3, 4, 5), (2, 3, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "1x1 strided": ((2, 3, 4, 5), (2, 3, 1, 1), (2, 3), ((0, 0), (0, 0)), (1, 1), 1),
    "not square": ((3, 2, 5, 9), (3, 2, 2, 4), (2, 1), ((1, 1), (0, 0)), (1, 1), 1),
    "stride > kernel": ((2, 1, 9, 8), (1, 1, 2, 1), (3, 5), ((0, 0), (0, 0)), (1, 1), 1),
    "left-over pixels": ((1, 2, 8, 7), (2, 2, 3, 2), (4, 3), ((0, 0), (0, 0)), (1, 1), 1),
    "four paddings": ((1, 2, 3, 4), (2, 2, 2, 2), (1, 2), ((0, 3), (2, 1)), (1, 1), 1),
    "padding > kernel": ((1, 1, 2, 2), (2, 1, 1, 2), (1, 1), ((3, 2), (4, 0)), (1, 1), 1),
    "dilation": ((2, 2, 8, 7), (3, 2, 3, 2), (1, 2), ((1, 1), (2, 2)), (2, 3), 1),
    "groups": ((2, 4, 4, 5), (6, 2, 2, 3), (1, 1), ((1, 0), (0, 1)), (1, 1), 2),
    "depthwise": ((2, 3, 5, 4), (6, 1, 3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1), 3),
    "kernel is the image": ((3, 2, 4, 3), (5, 2, 4, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "one pixel": ((1, 1, 1, 1), (1, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "huge stride": ((2, 1, 7, 5), (1, 1, 2, 2), (1000, 10**9), ((0, 0), (0, 0)), (1, 1), 1),
    "empty batch": ((0, 4, 5, 5), (6, 2, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
}
ON_JAX = ("1x1 strided", "groups", "four paddings", "empty batch")  # it compiles each shape anew

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def arguments_of(name):
    return dict(zip(("stride", "padding", "dilation", "groups"), CASES[name][2:], strict=True))


def draw(rng, dtype, x_shape, w_shape):
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape, w_shape[:1]))


def assert_close(actual, expected, tolerance):
    """The largest error is small compared with the largest value."""
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max(initial=0)
    assert error <= tolerance * np.abs(expected).max(initial=0), error


@pytest.fixture(params=CASES)
def name(request, on):
    if on.backend == "jax" and request.param not in ON_JAX:
        pytest.skip("the other cases show it")
    return request.param


# ---- three oracles --------------------------------------------------------------------------------------------------


def test_result_and_gradients_are_the_definition(on, name, rng):
    arguments = arguments_of(name)
    for dtype in on.dtypes:
        x, w, b = draw(rng, dtype, *CASES[name][:2])
        y, cache = conv2d(*(on.asarray(a) for a in (x, w, b)), **arguments)
        expected = naive.conv2d(x, w, b, **arguments)
        dy = rng.standard_normal(expected.shape).astype(dtype)
        gradients = conv2d_backward(on.asarray(dy), cache)
        references = naive.conv2d_backward(dy, x, w, **arguments)
        for actual, reference in zip((y, *gradients), (expected, *references), strict=True):
            host = on.to_numpy(actual)
            assert host.dtype == dtype
            assert_close(host, reference, TOLERANCE[dtype])


@pytest.mark.parametrize("kernels", ["auto", "generic"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "arguments"),
    [
        ((4, 8, 17, 13), (16, 8, 3, 3), {"padding": 1}),
        ((4, 8, 17, 13), (16, 4, 5, 2), {"padding": (2, 1), "stride": (2, 1), "groups": 2}),
        ((2, 6, 20, 11), (6, 1, 3, 3), {"padding": 2, "dilation": 2, "groups": 6}),
        ((2, 3, 33, 34), (7, 3, 7, 7), {"padding": 3, "stride": 2}),
        ((3, 40, 6, 5), (30, 40, 1, 1), {}),
    ],
    ids=["3x3", "groups", "depthwise, dilated", "7x7, stride 2", "1x1"],
)
def test_result_and_gradients_are_pytorchs(kernels, dtype, x_shape, w_shape, arguments, rng):
    torch = pytest.importorskip("torch")
    x, w, b = draw(rng, dtype, x_shape, w_shape)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    theirs = torch.nn.functional.conv2d(*leaves, **arguments)
    dy = rng.standard_normal(theirs.shape).astype(dtype)
    theirs.backward(torch.tensor(dy))
    with use_kernels(kernels):
        y, cache = conv2d(x, w, b, **arguments)
        gradients = conv2d_backward(dy, cache)
    references = [theirs.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]
    for actual, reference in zip((y, *gradients), references, strict=True):
        assert actual.dtype == dtype
        assert_close(actual, reference, TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["four paddings", "dilation", "groups", "stride > kernel", "empty batch"])
def test_gradients_are_differences(on, name, rng):
    if "float64" not in on.dtypes:
        pytest.skip("no float64")
    arrays = [on.asarray(a) for a in draw(rng, "float64", *CASES[name][:2])]
    arguments = arguments_of(name)
    check_gradients(lambda *a: conv2d(*a, **arguments), conv2d_backward, arrays, names=["x", "w", "b"])
    check_gradients(lambda *a: conv2d(*a, **arguments), conv2d_backward, [*arrays[:2], None])


@pytest.mark.parametrize(
    ("backend", "kernels"), [("numpy", "auto"), ("numpy", "generic"), ("array_api_strict", "auto")]
)
@given(
    case=strategies.convolutions(),
    layouts=st.tuples(*[strategies.layouts()] * 4),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_geometry_in_any_memory(backend, kernels, case, layouts, dtype, seed):
    """Small integers make every sum exact, in whatever order it is formed."""
    if backend != "numpy":
        pytest.importorskip(backend)
    rng = np.random.default_rng(seed)
    shapes = (case.x_shape, case.w_shape, case.w_shape[:1])
    x, w, b = values = [rng.integers(-4, 5, shape).astype(dtype) for shape in shapes]
    expected = naive.conv2d(x, w, b, **case.arguments)
    dy = rng.integers(-4, 5, expected.shape).astype(dtype)
    placed = [LAYOUTS[layout](a) for layout, a in zip(layouts, (*values, dy), strict=True)]
    with xpconv.use_backend(backend), use_kernels(kernels):
        y, cache = conv2d(*(xpconv.asarray(a) for a in placed[:3]), **case.arguments)
        gradients = conv2d_backward(xpconv.asarray(placed[3]), cache)
    references = naive.conv2d_backward(dy, x, w, **case.arguments)
    for actual, reference in zip((y, *gradients), (expected, *references), strict=True):
        host = xpconv.to_numpy(actual)
        assert host.dtype == dtype
        assert host.dtype.isnative
        assert np.array_equal(host, reference)
    for before, after in zip((*values, dy), placed, strict=True):
        assert np.array_equal(before, after)


# ---- arguments ------------------------------------------------------------------------------------------------------


def test_without_a_bias_and_without_dx(on, rng):
    x, w, b = (on.asarray(a) for a in draw(rng, "float32", (2, 2, 4, 5), (3, 2, 2, 1)))
    y, cache = conv2d(x, w)
    _, dw, db = conv2d_backward(y, cache)
    assert db is None
    no_dx, same_dw, db = conv2d_backward(y, cache, need_dx=False)
    assert no_dx is None
    assert db is None
    assert np.array_equal(on.to_numpy(same_dw), on.to_numpy(dw))
    no_dx, same_dw, db = conv2d_backward(y, conv2d(x, w, b)[1], need_dx=False)
    assert no_dx is None
    assert np.array_equal(on.to_numpy(same_dw), on.to_numpy(dw))
    assert_close(on.to_numpy(db), on.to_numpy(y).sum(axis=(0, 2, 3)), 1e-5)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("weight_layout", ["OIHW", "HWIO"])
def test_layouts(on, layout, weight_layout, rng):
    if on.backend == "jax" and (layout, weight_layout) != ("NHWC", "HWIO"):
        pytest.skip("the other cases show it")
    x, w, b = draw(rng, "float32", (2, 4, 5, 3), (6, 2, 2, 3))
    arguments = {"stride": (1, 2), "padding": ((1, 0), (0, 2)), "groups": 2}
    expected = naive.conv2d(x, w, b, **{**arguments, "dilation": (1, 1)})
    dy = rng.standard_normal(expected.shape).astype("float32")
    references = naive.conv2d_backward(dy, x, w, **arguments)

    def images(a):
        return a.transpose(0, 2, 3, 1) if layout == "NHWC" else a

    def filters(a):
        return a.transpose(2, 3, 1, 0) if weight_layout == "HWIO" else a

    y, cache = conv2d(
        on.asarray(images(x)),
        on.asarray(filters(w)),
        on.asarray(b),
        **arguments,
        layout=layout,
        weight_layout=weight_layout,
    )
    dx, dw, db = conv2d_backward(on.asarray(images(dy)), cache)
    assert_close(on.to_numpy(y), images(expected), 1e-5)
    assert_close(on.to_numpy(dx), images(references[0]), 1e-5)
    assert_close(on.to_numpy(dw), filters(references[1]), 1e-5)
    assert_close(on.to_numpy(db), references[2], 1e-5)


# TensorFlow's SAME by hand: (size, kernel, stride, dilation) -> padding
SAME = {
    (5, 3, 1, 1): (1, 1),
    (6, 3, 2, 1): (0, 1),
    (5, 2, 1, 1): (0, 1),
    (8, 3, 2, 2): (1, 2),
    (13, 6, 5, 1): (1, 2),
    (5, 1, 2, 1): (0, 0),
    (2, 5, 1, 1): (2, 2),
}


@pytest.mark.parametrize("vertical", SAME)
@pytest.mark.parametrize("horizontal", [(6, 3, 2, 1), (5, 2, 1, 1)])
def test_same_padding(vertical, horizontal, rng):
    size, kernel, stride, dilation = zip(vertical, horizontal, strict=True)
    x, w, b = draw(rng, "float64", (2, 2, *size), (3, 2, *kernel))
    arguments = {"stride": stride, "dilation": dilation}
    y, cache = conv2d(x, w, b, padding="same", **arguments)
    assert y.shape[2:] == tuple(-(-n // s) for n, s in zip(size, stride, strict=True))
    padding = (SAME[vertical], SAME[horizontal])
    assert_close(y, naive.conv2d(x, w, b, padding=padding, **arguments), 1e-12)
    dx, _, _ = conv2d_backward(y, cache)
    assert_close(dx, naive.conv2d_backward(y, x, w, padding=padding, **arguments)[0], 1e-12)


def test_valid_padding(rng):
    x, w, b = draw(rng, "float64", (2, 2, 5, 6), (3, 2, 2, 3))
    assert np.array_equal(conv2d(x, w, b, padding="valid")[0], conv2d(x, w, b)[0])


@pytest.mark.parametrize(
    "kind", [list, np.array, lambda pair: tuple(np.int32(n) for n in pair)], ids=["list", "array", "int32"]
)
def test_numbers_of_any_kind(kind, rng):
    x, w, b = draw(rng, "float64", (1, 4, 7, 8), (2, 2, 2, 3))
    y, _ = conv2d(x, w, b, stride=kind((2, 1)), padding=kind((1, 2)), dilation=kind((1, 2)), groups=np.int64(2))
    expected, _ = conv2d(x, w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)
    assert np.array_equal(y, expected)


def test_the_cache_keeps_the_images_and_no_columns(rng):
    x, w, b = draw(rng, "float64", (2, 2, 5, 6), (3, 2, 2, 3))
    _, cache = conv2d(x, w, b)
    assert cache.x is x
    assert cache.w is w
    assert sum(a.nbytes for a in cache if isinstance(a, np.ndarray)) == x.nbytes + w.nbytes


def test_a_cache_can_be_used_twice(on, rng):
    y, cache = conv2d(*(on.asarray(a) for a in draw(rng, "float32", (2, 2, 4, 5), (3, 2, 2, 1))))
    first, second = conv2d_backward(y, cache), conv2d_backward(y, cache)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(on.to_numpy(a), on.to_numpy(b))


@pytest.mark.parametrize("kernels", ["auto", "generic"])
def test_results_are_fresh(kernels, rng):
    x, w, b = draw(rng, "float64", (1, 1, 3, 3), (1, 1, 1, 1))
    with use_kernels(kernels):
        y, cache = conv2d(x, w, b)
        gradients = conv2d_backward(y, cache)
    for result in (y, *gradients):
        for other in (x, w, b):
            assert not np.shares_memory(result, other)
    assert not np.shares_memory(gradients[0], y)


@pytest.mark.parametrize("kernels", ["auto", "generic"])
def test_a_nan_reaches_the_pixels_that_see_it_and_no_other(kernels, rng):
    x, w, b = draw(rng, "float64", (2, 2, 5, 5), (2, 2, 3, 3))
    x[1, 0, 2, 4] = np.nan
    with use_kernels(kernels):
        y, _ = conv2d(x, w, b, padding=1)
    assert np.isnan(y).sum() == 2 * 3 * 2
    assert np.array_equal(np.isnan(y), np.isnan(naive.conv2d(x, w, b, padding=((1, 1), (1, 1)))))


@pytest.mark.parametrize("kernels", ["auto", "generic"])
def test_arrays_that_repeat_themselves_in_memory(kernels, rng):
    x = np.broadcast_to(rng.standard_normal((1, 2, 1, 6)), (3, 2, 5, 6))
    w = np.broadcast_to(rng.standard_normal((1, 2, 2, 1)), (4, 2, 2, 3))
    with use_kernels(kernels):
        y, cache = conv2d(x, w)
        dy = np.broadcast_to(np.float64(1), y.shape)  # as from a sum
        gradients = conv2d_backward(dy, cache)
    assert_close(y, naive.conv2d(x, w), 1e-12)
    for actual, reference in zip(gradients[:2], naive.conv2d_backward(dy, x, w), strict=False):
        assert_close(actual, reference, 1e-12)


def test_threads_do_not_disturb_each_other(rng):
    x, w, b = draw(rng, "float32", (4, 8, 20, 20), (8, 8, 3, 3))
    expected, cache = conv2d(x, w, b, padding=1)
    gradients = conv2d_backward(expected, cache)
    wrong = []

    def work():
        for _ in range(5):
            y, cache = conv2d(x, w, b, padding=1)
            results = (y, *conv2d_backward(y, cache))
            wrong.extend(1 for a, e in zip(results, (expected, *gradients), strict=True) if np.abs(a - e).max() > 1e-3)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- half precision -------------------------------------------------------------------------------------------------

HALF = [("numpy", "float16"), ("torch", "float16"), ("torch", "bfloat16"), ("jax", "bfloat16")]


@pytest.mark.parametrize(("backend", "dtype"), HALF)
def test_half_precision_is_rounded_once(backend, dtype, rng):
    if backend != "numpy":
        pytest.importorskip(backend)
    step = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    with xpconv.use_backend(backend):
        arrays = [xpconv.asarray(a, dtype) for a in draw(rng, "float32", (2, 4, 5, 6), (4, 2, 1, 2))]
        x, w, b = (xpconv.to_numpy(a).astype("float64") for a in arrays)
        y, cache = conv2d(*arrays, groups=2)
        dy = xpconv.asarray(rng.standard_normal(tuple(y.shape)), dtype)
        results = (y, *conv2d_backward(dy, cache))
    references = (naive.conv2d(x, w, b, groups=2), *naive.conv2d_backward(xpconv.to_numpy(dy), x, w, groups=2))
    for actual, reference in zip(results, references, strict=True):
        assert backend_of(a=actual).dtype_name(actual) == dtype
        error = np.abs(xpconv.to_numpy(actual).astype("float64") - reference)
        assert np.all(error <= 1.01 * step * np.abs(reference) + 1e-5)


@pytest.mark.parametrize(("backend", "dtype"), HALF[:3])
def test_half_precision_adds_up_in_float32(backend, dtype):
    """In half precision itself a sum of ones would stop at 2048 or 256."""
    if backend != "numpy":
        pytest.importorskip(backend)
    with xpconv.use_backend(backend):
        x, w = (xpconv.asarray(np.ones((1, 4096, 1, 1)), dtype) for _ in range(2))
        y, cache = conv2d(x, w)
        assert xpconv.to_numpy(y).ravel().tolist() == [4096]
        x, w = xpconv.asarray(np.ones((1, 1, 64, 64)), dtype), xpconv.asarray(np.ones((4096, 1, 1, 1)), dtype)
        y, cache = conv2d(x, w, xpconv.asarray(np.zeros(4096), dtype))
        dx, dw, db = conv2d_backward(xpconv.asarray(np.ones((1, 4096, 64, 64)), dtype), cache)
    assert set(xpconv.to_numpy(dx).ravel()) == {4096}
    assert set(xpconv.to_numpy(dw).ravel()) == {4096}
    assert set(xpconv.to_numpy(db).ravel()) == {4096}


def test_what_float16_cannot_hold_is_infinite():
    x = np.full((1, 4, 1, 1), 200, dtype="float16")
    with np.errstate(over="ignore"):
        y, _ = conv2d(x, x)
    assert y.ravel().tolist() == [np.inf]
    # sums on the way may be larger than that
    y, _ = conv2d(x, np.array([200, 200, -200, -200], dtype="float16").reshape(1, 4, 1, 1))
    assert y.ravel().tolist() == [0]


# ---- workspace ------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_mebibyte():
    before = xpconv.get_workspace_mb()
    xpconv.set_workspace_mb(1)
    yield
    xpconv.set_workspace_mb(before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_that_is_cut_gives_the_same(on, dtype, rng, request):
    if dtype not in on.dtypes:
        pytest.skip(f"no {dtype}")
    if on.backend == "jax":
        pytest.skip("it compiles each slice anew")
    arrays = [on.asarray(a) for a in draw(rng, dtype, (5, 4, 96, 96), (2, 2, 2, 1))]
    y, cache = conv2d(*arrays, padding=1, groups=2)
    whole = (y, *conv2d_backward(y, cache))
    request.getfixturevalue("one_mebibyte")
    per_slice = images_per_slice(cache.geometry, np.dtype(dtype))
    assert per_slice in (1, 3)  # in slices of one, or of three and two
    cut_y, cache = conv2d(*arrays, padding=1, groups=2)
    for actual, reference in zip((cut_y, *conv2d_backward(y, cache)), whole, strict=True):
        assert_close(on.to_numpy(actual), on.to_numpy(reference), TOLERANCE[dtype])


@pytest.mark.parametrize("kernels", ["auto", "generic"])
def test_the_cap_holds(kernels, one_mebibyte):
    """Uncut, the columns alone would be 18 MiB."""
    x, w = np.ones((32, 4, 64, 32), dtype="float32"), np.ones((4, 4, 3, 3), dtype="float32")
    with use_kernels(kernels):
        y, cache = conv2d(x, w, padding=1)
        tracemalloc.start()
        try:
            conv2d(x, w, padding=1)
            forward = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            conv2d_backward(y, cache)
            backward = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert images_per_slice(cache.geometry, np.dtype("float32")) == 3
    assert forward <= 2 * y.nbytes + (2 << 20)
    assert backward <= 2 * x.nbytes + (3 << 20)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_channels_last_needs_no_copy_of_the_images(padding):
    """Views of the images go straight into im2col; besides results there is one slice's workspace."""
    x, w = np.ones((8, 64, 64, 32), dtype="float32"), np.ones((2, 2, 32, 4), dtype="float32")
    arguments = {"padding": padding, "layout": "NHWC", "weight_layout": "HWIO"}
    for _ in range(2):  # the first call makes the workspace
        tracemalloc.start()
        try:
            y, cache = conv2d(x, w, stride=2, **arguments)
            forward = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            conv2d_backward(y, cache)
            backward = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert y.shape == (8, 32, 32, 4)
    assert forward < y.nbytes + x.nbytes / 8
    assert backward < y.nbytes + x.nbytes * 1.5  # dx, partial sums of dw, the workspace of a thread that comes late


def test_the_last_slice_may_be_shorter(on, one_mebibyte):
    """The array API knows no slice beyond the end of an array."""
    x, w = on.asarray(np.ones((4, 1, 96, 96), dtype="float32")), on.asarray(np.ones((1, 1, 3, 3), dtype="float32"))
    y, cache = conv2d(x, w, padding=1)
    assert images_per_slice(cache.geometry, np.dtype("float32")) == 3
    dx, dw, _ = conv2d_backward(y, cache)
    values = on.to_numpy(y)
    assert values[:, 0, 0, 0].tolist() == [4, 4, 4, 4]
    assert on.to_numpy(dw)[0, 0, 1, 1] == values.sum()
    assert on.to_numpy(dx)[:, 0, 50, 50].tolist() == [81, 81, 81, 81]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": 10**12}, "padding: too large, the padded image would have 2000000000004 x 2000000000004 pixels"),
        ({"padding": 10**30}, r"padding: too large, must be at most 2\*\*62"),
        ({"stride": 10**30}, r"stride: too large, must be at most 2\*\*62"),
        ({"dilation": (1, 10**30)}, r"dilation: too large, must be at most 2\*\*62"),
        ({"dilation": 10**13, "padding": "same"}, "padding: too large"),
    ],
)
def test_sizes_beyond_64_bits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        conv2d(np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3)), **arguments)


def test_one_image_is_taken_whatever_its_size(one_mebibyte):
    x, w = np.ones((2, 4, 100, 100)), np.ones((1, 4, 3, 3))
    y, cache = conv2d(x, w)
    assert images_per_slice(cache.geometry, np.dtype("float64")) == 1
    assert y.min() == y.max() == 36


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "megabytes: must be between 1 and [0-9]+, got 0"),
        (-5, ValueError, "megabytes: must be between 1 and [0-9]+, got -5"),
        (1.5, TypeError, r"megabytes: expected a whole number of MiB, got 1\.5"),
        ("64", TypeError, "megabytes: expected a whole number of MiB, got '64'"),
        (True, TypeError, "megabytes: expected a whole number of MiB, got True"),
    ],
)
def test_wrong_caps(value, error, message):
    before = xpconv.get_workspace_mb()
    with pytest.raises(error, match=message):
        xpconv.set_workspace_mb(value)
    assert xpconv.get_workspace_mb() == before


# ---- what is wrong is said ------------------------------------------------------------------------------------------

X, W, B = np.ones((2, 4, 5, 6)), np.ones((6, 4, 3, 2)), np.ones(6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X[0]}, ValueError, r"x: expected 4 dimensions \(N, C, H, W\), got 3 with shape \(4, 5, 6\)"),
        ({"x": X[0], "layout": "NHWC"}, ValueError, r"x: expected 4 dimensions \(N, H, W, C\), got 3"),
        ({"w": W[0]}, ValueError, r"w: expected 4 dimensions \(F, C/groups, kh, kw\), got 3 with shape \(4, 3, 2\)"),
        ({"w": W[0], "weight_layout": "HWIO"}, ValueError, r"w: expected 4 dimensions \(kh, kw, C/groups, F\), got 3"),
        ({"b": B[:5]}, ValueError, r"b: expected shape \(6\) \(F,\), got \(5,\)"),
        ({"b": np.ones((6, 1))}, ValueError, r"b: expected 1 dimensions \(F,\), got 2"),
        (
            {"w": W[:, :3]},
            ValueError,
            "w: has 3 channels a filter and groups is 1, which takes 3 input channels, but x has 4",
        ),
        ({"layout": "NHWC"}, ValueError, "w: has 4 channels a filter and groups is 1, .* but x has 6"),
        ({"groups": 3}, ValueError, "groups: 3 must divide the input channels and the filters, got 4 and 6"),
        ({"groups": 2}, ValueError, "w: has 4 channels a filter and groups is 2, which takes 8 input channels"),
        ({"groups": 0}, ValueError, "groups: must be at least 1, got 0"),
        ({"groups": -1}, ValueError, "groups: must be at least 1, got -1"),
        ({"groups": 1.0}, TypeError, r"groups: expected an integer, got 1\.0"),
        ({"x": X[:, :, :2]}, ValueError, r"w: kernel height 3 is larger than the padded input's, 2 \+ padding 0 \+ 0"),
        ({"dilation": (1, 6)}, ValueError, r"w: kernel width 2 \(spread to 7 by dilation 6\) is larger than"),
        ({"stride": 0}, ValueError, "stride: must be at least 1, got 0"),
        ({"stride": (1, -1)}, ValueError, "stride: must be at least 1, got -1"),
        ({"dilation": 0}, ValueError, "dilation: must be at least 1, got 0"),
        ({"padding": -1}, ValueError, "padding: must be at least 0, got -1"),
        ({"padding": "full"}, ValueError, "padding: expected 'valid', 'same', .* got 'full'"),
        ({"layout": "CHWN"}, ValueError, "layout: expected one of NCHW, NHWC, got 'CHWN'"),
        ({"weight_layout": "NHWC"}, ValueError, "weight_layout: expected one of OIHW, HWIO, got 'NHWC'"),
        (
            {"x": X.astype("uint8")},
            TypeError,
            "x: expected float32 or float64, got uint8; convert it first: .* / 255, for images",
        ),
        ({"x": X.astype("int64"), "w": W.astype("int64")}, TypeError, "x: expected float32 or float64, got int64"),
        ({"w": W.astype("int32")}, TypeError, "w: expected float64 like x, got int32"),
        ({"w": W.astype("float32")}, TypeError, "w: expected float64 like x, got float32"),
        ({"b": B.astype("float32")}, TypeError, "b: expected float64 like x, got float32"),
        ({"x": X.astype("complex64")}, TypeError, "x: expected float32 or float64, got complex64"),
        ({"x": X.tolist()}, TypeError, r"x: expected an array, got builtins.list; xpconv.asarray\(x\) makes one"),
        ({"w": np.ma.array(W)}, TypeError, r"w: expected an array, got numpy.ma.*; fill .* as in w.filled\(0\)"),
        ({"b": 0.5}, TypeError, r"b: expected an array, got builtins.float; xpconv.asarray\(b\) makes one"),
        ({"x": None}, TypeError, r"x: expected an array \(N, C, H, W\), got None"),
        ({"w": None}, TypeError, r"w: expected an array \(F, C/groups, kh, kw\), got None"),
        ({"w": W[:0], "b": B[:0]}, ValueError, r"w: needs at least one filter, .* got shape \(0, 4, 3, 2\)"),
        ({"w": W[:, :, :0]}, ValueError, r"w: needs at least one filter, .* got shape \(6, 4, 0, 2\)"),
        ({"x": X[:, :, :, :0]}, ValueError, "x: images need at least one pixel, got height 5 and width 0"),
    ],
)
def test_wrong_arguments(change, error, message):
    arguments = {"x": X, "w": W, "b": B, **change}
    with pytest.raises(error, match=message):
        conv2d(arguments.pop("x"), arguments.pop("w"), arguments.pop("b"), **arguments)


def test_mixed_backends(on):
    if on.backend == "numpy":
        pytest.skip("numpy and numpy")
    x, w = on.asarray(X, "float32"), W.astype("float32")
    with pytest.raises(xpconv.BackendMismatchError, match=f"w is an array of numpy but x is one of {on.backend}; move"):
        conv2d(x, w)
    with pytest.raises(xpconv.BackendMismatchError, match=f"b is an array of {on.backend} but x is one of numpy"):
        conv2d(X.astype("float32"), w, on.asarray(B, "float32"))


def test_wrong_dy(on):
    _, cache = conv2d(on.asarray(X, "float32"), on.asarray(W, "float32"))
    with pytest.raises(
        ValueError, match=r"dy: expected shape \(2, 6, 3, 5\), that of the forward result, got \(2, 6, 3, 4\)"
    ):
        conv2d_backward(on.asarray(np.ones((2, 6, 3, 4)), "float32"), cache)
    with pytest.raises(TypeError, match=r"dy: expected .*float32.*, got int32"):
        conv2d_backward(on.asarray(np.ones((2, 6, 3, 5)), "int32"), cache)
    with pytest.raises(TypeError, match=r"dy: expected an array of shape \(2, 6, 3, 5\).*, got None"):
        conv2d_backward(None, cache)
    if "float64" in on.dtypes:
        with pytest.raises(TypeError, match="dy: expected float32, the dtype of the forward result, got float64"):
            conv2d_backward(on.asarray(np.ones((2, 6, 3, 5)), "float64"), cache)
    if on.backend != "numpy":
        with pytest.raises(xpconv.BackendMismatchError, match="dy is an array of numpy but"):
            conv2d_backward(np.ones((2, 6, 3, 5), dtype="float32"), cache)


def test_wrong_dy_with_the_channels_last():
    y, cache = conv2d(np.ones((2, 5, 6, 4)), W, layout="NHWC")
    assert y.shape == (2, 3, 5, 6)
    with pytest.raises(ValueError, match=r"dy: expected shape \(2, 3, 5, 6\), .* got \(2, 6, 3, 5\)"):
        conv2d_backward(np.ones((2, 6, 3, 5)), cache)


def test_native_kernels_only():
    if not xpconv.get_backend().engines:
        pytest.skip("xpconv was built without kernels")
    with use_kernels("native"):
        conv2d(X, W)
        with pytest.raises(KernelUnavailableError, match=r"conv2d: no native kernel of numpy .* supports float16"):
            conv2d(X.astype("float16"), W.astype("float16"))
