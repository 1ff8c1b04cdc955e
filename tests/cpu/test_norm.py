"""The kernels of batch normalisation: memory orders, margins, threads, offsets, and what cannot be computed with."""

import numpy as np
import pytest

import xpconv.functional as F
from xpconv import _generic
from xpconv._cpu import _kernels, norm
from xpconv.backends import load_backend

# axes of (N, C, L) in memory, or in a larger array
MEMORY = {
    "batch-major": lambda a: np.array(a),
    "channel-major": lambda a: np.array(a.transpose(1, 0, 2), order="C").transpose(1, 0, 2),
    "sliced": lambda a: np.array(np.repeat(np.repeat(a, 2, axis=0), 3, axis=1))[::2, ::3],
    "backwards": lambda a: np.array(a[::-1, ::-1])[::-1, ::-1],
}
ELSEWHERE = {
    "channels-last": lambda a: np.array(a.transpose(0, 2, 1), order="C").transpose(0, 2, 1),
    "every other pixel": lambda a: np.repeat(a, 2, axis=2)[:, :, ::2],
}
SHAPES = [(3, 5, 37), (1, 4, 8), (6, 2, 1), (2, 9, 300)]
UNTRACKED = (None, None, 0.1)  # no running statistics


@pytest.fixture
def backend():
    return load_backend("numpy")


def problem(rng, shape, dtype, offset=0.0):
    x, dy, residual = (rng.standard_normal(shape) for _ in range(3))
    weight, bias = rng.standard_normal((2, shape[1]))
    return [a.astype(dtype) for a in (x + offset, dy, residual, weight, bias)]


def everything(operators, backend, arrays, optional=True):
    """All results of the six operators, of ``_cpu.norm`` or of the generic ones."""
    x, dy, residual, weight, bias = arrays
    if not optional:
        residual = weight = bias = None
    running = (bias, weight, 0.2)
    _, mean, variance, inv_std, *_ = found = operators.batch_norm(backend, x, weight, bias, *running, 1e-5)
    fused = operators.batch_norm_relu(backend, x, weight, bias, residual, *running, 1e-5)
    results = [*found, *fused, *operators.batch_norm_inference(backend, x, weight, bias, mean, variance, 1e-3)]
    results += operators.batch_norm_relu_inference(backend, x, weight, bias, residual, mean, variance, 1e-3)
    for training in (True, False):
        results += operators.batch_norm_backward(backend, dy, x, weight, mean, inv_std, training)
        for need in (True, False):
            # not y: where that is nearly 0 its sign is an accident
            passed = x if residual is None else residual
            results += operators.batch_norm_relu_backward(backend, dy, passed, x, weight, mean, inv_std, training, need)
    return results


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("memory", [*MEMORY, *ELSEWHERE])
@pytest.mark.parametrize("optional", [True, False])
def test_equals_the_generic_operators_in_float64(isa, backend, dtype, memory, optional, rng):
    place = {**MEMORY, **ELSEWHERE}[memory]
    for shape in SHAPES:
        arrays = problem(rng, shape, dtype)
        expected = everything(_generic, backend, [a.astype("float64") for a in arrays], optional)
        results = everything(norm, backend, [*map(place, arrays[:3]), *arrays[3:]], optional)
        for got, want in zip(results, expected, strict=True):
            if want is None:
                assert got is None
                continue
            assert got.dtype == dtype
            tolerance = 2e-5 if dtype == "float32" else 1e-12
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


def test_results_are_in_the_memory_order_of_x(backend, rng):
    for place in (MEMORY["batch-major"], MEMORY["channel-major"]):
        x, dy, residual, weight, bias = problem(rng, (3, 4, 5), "float32")
        x = place(x)
        y, mean, _, inv_std, *_ = norm.batch_norm_relu(backend, x, weight, bias, residual, *UNTRACKED, 1e-5)
        dx, _, _, dresidual = norm.batch_norm_relu_backward(backend, dy, y, x, weight, mean, inv_std, True, True)
        assert y.strides == dx.strides == dresidual.strides == x.strides


def test_nothing_around_is_touched(rng):
    """Runs and rows inside of larger arrays, on the left and on the right of which something else lies."""
    for trial in range(40):
        rows, dtype = bool(trial % 2), ("float32", "float64")[trial // 2 % 2]
        shape = tuple(rng.integers(1, [4, 70, 4] if rows else [4, 4, 70]).tolist())
        axes = (0, 2, 1) if rows else (0, 1, 2)
        parents = [np.full([shape[axis] + 2 for axis in axes], -77.0, dtype) for _ in range(3)]
        inside = np.s_[1:-1, 1:-1, 1:-1]
        y, dx, dresidual = (parent[inside].transpose(axes) for parent in parents)
        x, dy, residual, weight, bias = problem(rng, shape, dtype)
        x, dy, residual = (norm._placed(a, rows) for a in (x, dy, residual))
        mean, variance, inv_std, dw, db = np.empty((5, shape[1]), dtype)
        vectors, running = (weight, bias, mean, variance, inv_std), (None, None, None, None, 0.0)
        _kernels.batch_norm(x, residual, y, *vectors, *running, 1e-5, rows, False, True)
        vectors = (weight, mean, inv_std, dw, db)
        _kernels.batch_norm_backward(dy, y, x, dx, dresidual, *vectors, rows, False)
        for parent in parents:
            assert not (parent[inside] == -77).any()
            parent[inside] = -77
            assert (parent == -77).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("memory", ["batch-major", "channel-major", "channels-last"])
def test_the_number_of_threads_changes_no_bit(backend, dtype, memory, rng):
    arrays = problem(rng, (9, 40, 500), dtype)
    arrays[:3] = map({**MEMORY, **ELSEWHERE}[memory], arrays[:3])
    before, found = _kernels.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            _kernels.set_num_threads(number)
            found.append(everything(norm, backend, arrays))
    finally:
        _kernels.set_num_threads(before)
    for results in found[1:]:
        for got, want in zip(results, found[0], strict=True):
            assert got is want is None or np.array_equal(got, want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "memory"),
    [
        ((64, 50, 256), "batch-major"),  # groups of channels, copied, written past the caches
        ((14, 7, 8191), "batch-major"),  # copied, runs that are no whole vectors
        ((2, 3, 140001), "batch-major"),  # too large to be copied
        ((13, 64, 1000), "channels-last"),  # written past the caches
        ((300, 41, 65), "channels-last"),  # rows that are no whole vectors
    ],
)
def test_large_arrays(isa, backend, dtype, shape, memory, rng):
    if dtype == "float64":
        shape = ((shape[0] + 1) // 2, *shape[1:])
    arrays = problem(rng, shape, dtype)

    def results(operators, x, dy, residual, weight, bias):
        running = (bias, weight, 0.2)
        _, mean, _, inv_std, *_ = found = operators.batch_norm_relu(backend, x, weight, bias, residual, *running, 1e-5)
        backward = operators.batch_norm_relu_backward(backend, dy, residual, x, weight, mean, inv_std, True, True)
        return [*found, *backward, *operators.batch_norm_backward(backend, dy, x, weight, mean, inv_std, False)]

    expected = results(_generic, *(a.astype("float64") for a in arrays))
    arrays[:3] = map({**MEMORY, **ELSEWHERE}[memory], arrays[:3])
    tolerance = 2e-5 if dtype == "float32" else 1e-12
    for got, want in zip(results(norm, *arrays), expected, strict=True):
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("memory", ["batch-major", "channels-last"])
@pytest.mark.parametrize("misleading", [False, True])
def test_an_offset_costs_no_accuracy(isa, backend, dtype, memory, misleading, rng):
    offset = 1e4 if dtype == "float32" else 1e8
    x, _, _, weight, bias = problem(rng, (8, 3, 1000), dtype, offset)
    if misleading:  # where the kernels look for a number near the mean there is another one
        x[:, :, :32] = 0
    x = {**MEMORY, **ELSEWHERE}[memory](x)
    y, mean, variance, *_ = norm.batch_norm(backend, x, weight, bias, *UNTRACKED, 1e-5)
    wide = x.astype("longdouble")
    centred = wide - wide.mean(axis=(0, 2), keepdims=True)
    moment = (centred**2).mean(axis=(0, 2))
    np.testing.assert_allclose(variance.astype("longdouble"), moment, rtol=1e-6 if dtype == "float32" else 1e-12)
    want = centred / np.sqrt(moment + 1e-5)[:, None] * weight[:, None] + bias[:, None]
    np.testing.assert_allclose(y.astype("longdouble"), want, rtol=0, atol=1e-5 if dtype == "float32" else 2e-7)
    np.testing.assert_allclose(mean, wide.mean(axis=(0, 2)).astype(dtype), rtol=1e-7)


@pytest.mark.parametrize("size", [1e-25, 1e25])
@pytest.mark.parametrize("memory", ["batch-major", "channels-last"])
def test_squares_that_float32_does_not_hold(isa, backend, size, memory, rng):
    x = (rng.standard_normal((4, 3, 100)) * size).astype("float32")
    want = _generic.batch_norm(backend, x.astype("float64"), None, None, *UNTRACKED, 0.0)[0]
    y, *_ = norm.batch_norm(backend, {**MEMORY, **ELSEWHERE}[memory](x), None, None, *UNTRACKED, 0.0)
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("memory", ["batch-major", "channels-last"])
def test_a_constant_channel_becomes_its_bias(isa, backend, dtype, memory):
    x = {**MEMORY, **ELSEWHERE}[memory](np.full((4, 2, 1001), 0.1, dtype))
    y, mean, variance, *_ = norm.batch_norm(backend, x, None, np.array([3, -0.25], dtype), *UNTRACKED, 1e-5)
    assert np.array_equal(mean, x[0, :, 0])
    assert not variance.any()
    assert np.array_equal(y, np.broadcast_to(np.array([3, -0.25], dtype)[:, None], x.shape))


def test_what_is_not_a_number_stays_in_its_channel(backend, rng):
    x, dy, residual, weight, bias = problem(rng, (3, 4, 50), "float32")
    x[1, 2, 30], residual[0, 0, 7] = np.nan, np.nan
    y, mean, variance, inv_std, *_ = norm.batch_norm_relu(backend, x, weight, bias, residual, *UNTRACKED, 1e-5)
    assert np.isnan(y[:, 2]).all()
    assert np.isnan(y[:, [0, 1, 3]]).sum() == np.isnan(y[0, 0, 7]) == 1
    assert np.isnan(mean).tolist() == np.isnan(variance).tolist() == [False, False, True, False]
    # a gradient counts where the result is positive, and nowhere else
    y = np.where(np.isnan(y), 0, y)
    dy[y <= 0] = np.nan
    mean[2], inv_std[2] = 0, 1
    dx, dw, db, dresidual = norm.batch_norm_relu_backward(
        backend, dy, y, np.nan_to_num(x), weight, mean, inv_std, True, True
    )
    assert all(np.isfinite(a).all() for a in (dx, dw, db, dresidual))
    # an infinite pixel spoils no gradient where the moments were given
    x = np.full((1, 1, 9), np.inf, "float32")
    dx, _, _ = norm.batch_norm_backward(backend, np.ones_like(x), x, None, np.zeros(1, "f4"), np.ones(1, "f4"), False)
    assert (dx == 1).all()


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1)])
def test_empty_batch(backend, axes):
    x, vector = np.empty((2, 3, 3), "float32")[:0].transpose(axes), np.ones(3, "float32")
    y, inv_std = norm.batch_norm_inference(backend, x, vector, vector, vector, vector, 0.0)
    assert y.shape == x.shape
    assert inv_std.tolist() == [1, 1, 1]
    dx, dw, db = norm.batch_norm_backward(backend, x, x, vector, vector, vector, False)
    assert dx.shape == x.shape
    assert not dw.any()
    assert not db.any()


def test_the_arguments_are_not_modified(rng):
    arrays = [rng.standard_normal((4, 3, 5, 6)), *rng.uniform(1, 2, (4, 3))]
    for array in arrays:
        array.flags.writeable = False
    for training in (True, False):
        y, cache = F.batch_norm(*arrays, training=training)
        F.batch_norm_backward(y, cache)
        y, cache = F.batch_norm_relu(*arrays, training=training, residual=arrays[0])
        y.flags.writeable = False
        F.batch_norm_relu_backward(y, cache)


X, V = np.ones((2, 3, 5)), np.ones(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.ones((2, 3, 4))}, "axis 2 has length 4, expected 5"),
        ({"residual": np.ones((1, 3, 5))}, "axis 0 has length 1, expected 2"),
        ({"x": np.ones((2, 3, 10))[:, :, ::2]}, "axis 2 is not contiguous"),
        ({"rows": True}, "axis 1 is not contiguous"),
        ({"new_mean": V.copy()}, "running statistics: expected an old and a new one, or neither"),
        ({"weight": np.ones(2)}, "weight: has 2 elements, expected 3"),
        ({"bias": np.ones(4)}, "bias: has 4 elements, expected 3"),
        ({"mean": np.ones(0)}, "mean: has 0 elements, expected 3"),
        ({"inv_std": np.ones(2)}, "inv_std: has 2 elements, expected 3"),
        ({"x": np.empty(X.nbytes + 1, "u1")[1:].view("f8").reshape(X.shape)}, "not aligned"),
    ],
)
def test_a_wrong_call_is_refused(change, message):
    arrays = {"x": X, "residual": X, "y": X.copy(), "weight": V, "bias": V}
    arrays |= {"mean": V.copy(), "variance": V.copy(), "inv_std": V.copy()}
    arrays |= {"old_mean": None, "old_variance": None, "new_mean": None, "new_variance": None}
    arrays |= {"momentum": 0.1, "eps": 0.0, "rows": False, "given": True, "relu": True, **change}
    with pytest.raises(ValueError, match=message):
        _kernels.batch_norm(*arrays.values())


# ---- layer norm and group norm ---------------------------------------------------------------------------------------


def rows_problem(rng, shape, weights, dtype, offset=0.0):
    x, dy = rng.standard_normal((2, *shape))
    return [a.astype(dtype) for a in (x + offset, dy, *rng.standard_normal((2, weights)))]


def all_of_layer(operators, backend, x, dy, weight, bias):
    results = []
    for w, b in ((weight, bias), (None, bias), (weight, None), (None, None)):
        y, mean, inv_std = operators.layer_norm(backend, x, w, b, 1e-5)
        results += [y, mean, inv_std, *operators.layer_norm_backward(backend, dy, x, w, mean, inv_std)]
    return results


def all_of_group(operators, backend, groups, x, dy, weight, bias):
    results = []
    for w, b in ((weight, bias), (None, bias), (weight, None), (None, None)):
        y, mean, inv_std = operators.group_norm(backend, x, w, b, groups, 1e-5)
        results += [y, mean, inv_std, *operators.group_norm_backward(backend, dy, x, w, mean, inv_std, groups)]
    return results


def assert_near(results, expected, dtype):
    tolerance = 2e-5 if dtype == "float32" else 1e-12
    for got, want in zip(results, expected, strict=True):
        assert got.dtype == dtype
        assert got.shape == want.shape
        assert np.abs(got - want).max(initial=0) <= tolerance * np.abs(want).max(initial=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (70, 33), (5, 1000), (2, 9001), (67, 2049), (2150, 3)])
@pytest.mark.parametrize("memory", ["contiguous", "sliced", "transposed"])
def test_layer_norm_equals_the_generic_operators(isa, backend, dtype, shape, memory, rng):
    arrays = rows_problem(rng, shape, shape[1], dtype)
    expected = all_of_layer(_generic, backend, *(a.astype("float64") for a in arrays))
    if memory == "sliced":
        arrays[:2] = (np.repeat(a, 2, axis=0)[::2] for a in arrays[:2])
    elif memory == "transposed":
        arrays[:2] = (np.array(a, order="F") for a in arrays[:2])
    assert_near(all_of_layer(norm, backend, *arrays), expected, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("memory", ["batch-major", "channel-major", "sliced", "channels-last"])
@pytest.mark.parametrize(("shape", "groups"), [((3, 6, 37), 2), ((2, 5, 9), 5), ((1, 4, 1100), 1), ((4, 6, 3), 3)])
def test_group_norm_equals_the_generic_operators(isa, backend, dtype, memory, shape, groups, rng):
    arrays = rows_problem(rng, shape, shape[1], dtype)
    expected = all_of_group(_generic, backend, groups, *(a.astype("float64") for a in arrays))
    arrays[:2] = map({**MEMORY, **ELSEWHERE}[memory], arrays[:2])
    assert_near(all_of_group(norm, backend, groups, *arrays), expected, dtype)


def test_large_rows(isa, backend, rng):
    """Results that are written past the caches, of runs that are whole vectors and of others."""
    for shape in ((6, 96, 1024), (6, 97, 1023)):
        x, dy, weight, bias = rows_problem(rng, shape, shape[1], "float32")
        for operators, dtype in ((_generic, "float64"), (norm, "float32")):
            y, mean, inv_std = operators.group_norm(backend, x.astype(dtype), weight, bias, 1, 1e-5)
            found = [y, *operators.group_norm_backward(backend, dy.astype(dtype), x, weight, mean, inv_std, 1)]
            layer = (x.astype(dtype).reshape(-1, shape[2]), np.resize(weight, shape[2]), np.resize(bias, shape[2]))
            y, mean, inv_std = operators.layer_norm(backend, *layer, 1e-5)
            back = (dy.astype(dtype).reshape(y.shape), *layer[:2], mean, inv_std)
            found += [y, *operators.layer_norm_backward(backend, *back)]
            if operators is _generic:
                expected = found
        assert_near(found, expected, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_whatever_the_threads(backend, dtype, rng):
    layer, group = rows_problem(rng, (300, 700), 700, dtype), rows_problem(rng, (9, 40, 500), 40, dtype)
    before, found = _kernels.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            _kernels.set_num_threads(number)
            found.append([*all_of_layer(norm, backend, *layer), *all_of_group(norm, backend, 8, *group)])
    finally:
        _kernels.set_num_threads(before)
    for results in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results, found[0], strict=True))


@pytest.mark.parametrize(("dtype", "offset"), [("float32", 1e4), ("float64", 1e8)])
@pytest.mark.parametrize("length", [3000, 10000])  # the mean is guessed from the first numbers, and from several places
def test_an_offset_of_rows_costs_no_accuracy(isa, backend, dtype, offset, length, rng):
    x = (rng.standard_normal((5, length)) + offset).astype(dtype)
    x[1:3, 0] = 0, np.float64(offset) * 2  # far from the others
    x[4] = 0.1
    wide = x.astype("longdouble")
    centred = wide - wide.mean(axis=1, keepdims=True)
    want = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    y, mean, _ = norm.layer_norm(backend, x, None, None, 1e-5)
    np.testing.assert_allclose(y.astype("longdouble"), want, rtol=1e-6, atol=1e-5 if dtype == "float32" else 2e-7)
    np.testing.assert_allclose(mean[:, 0], wide.mean(axis=1).astype(dtype), rtol=1e-7)
    assert not y[4].any()
    images, *_ = norm.group_norm(backend, x.reshape(5, 4, length // 4), None, None, 1, 1e-5)
    np.testing.assert_allclose(images.reshape(y.shape), y, rtol=0, atol=1e-5)


def test_rows_of_what_float32_does_not_hold_squared(isa, backend, rng):
    x = rng.standard_normal((3, 100)) * [[1e-25], [1], [1e25]]
    want, *_ = _generic.layer_norm(backend, x, None, None, 0.0)
    y, *_ = norm.layer_norm(backend, x.astype("float32"), None, None, 0.0)
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-5)


def test_what_is_not_a_number_stays_in_its_row(backend, rng):
    x, dy, weight, bias = rows_problem(rng, (4, 50), 50, "float32")
    x[2, 30], x[1, 0] = np.nan, np.inf
    y, mean, inv_std = norm.layer_norm(backend, x, weight, bias, 1e-5)
    dx, *_ = norm.layer_norm_backward(backend, dy, x, weight, mean, inv_std)
    for result in (y, dx):
        assert np.isnan(result).all(axis=1).tolist() == [False, True, True, False]
        assert np.isfinite(result[[0, 3]]).all()


def test_no_rows(backend):
    x, weight = np.empty((0, 9), "float32"), np.ones(9, "float32")
    y, mean, inv_std = norm.layer_norm(backend, x, weight, weight, 1e-5)
    assert (y.shape, mean.shape) == ((0, 9), (0, 1))
    dx, dw, db = norm.layer_norm_backward(backend, x, x, weight, mean, inv_std)
    assert dx.shape == x.shape
    assert not dw.any()
    assert not db.any()
    x, weight = np.empty((0, 4, 9), "float32"), np.ones(4, "float32")
    y, mean, inv_std = norm.group_norm(backend, x, weight, weight, 2, 1e-5)
    assert (y.shape, mean.shape) == (x.shape, (0, 1))
    dx, dw, db = norm.group_norm_backward(backend, x, x, weight, mean, inv_std, 2)
    assert dx.shape == x.shape
    assert not dw.any()
    assert not db.any()


def test_nothing_around_rows_is_touched(isa, rng):
    for trial in range(20):
        layer, dtype = bool(trial % 2), ("float32", "float64")[trial // 2 % 2]
        shape = tuple(rng.integers(1, [4, 2 if layer else 5, 70]).tolist())
        parents = [np.full([n + 2 for n in shape], -77.0, dtype) for _ in range(2)]
        y, dx = (parent[1:-1, 1:-1, 1:-1] for parent in parents)
        x, dy, weight, bias = rows_problem(rng, shape, shape[2 if layer else 1], dtype)
        mean, inv_std = np.empty((2, shape[0] * shape[1]), dtype)
        _kernels.norm_rows(x, y, weight, bias, mean, inv_std, shape[1], 1e-5, layer)
        dw, db = np.empty_like(weight), np.empty_like(bias)
        _kernels.norm_rows_backward(dy, x, dx, weight, mean, inv_std, dw, db, shape[1], layer)
        for parent in parents:
            assert not (parent[1:-1, 1:-1, 1:-1] == -77).any()
            parent[1:-1, 1:-1, 1:-1] = -77
            assert (parent == -77).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.ones((2, 3, 4))}, "axis 2 has length 4, expected 5"),
        ({"x": np.ones((2, 3, 10))[:, :, ::2]}, "axis 2 is not contiguous"),
        ({"groups": 2}, "groups: expected a divisor of 3, got 2"),
        ({"layer": True}, "groups: expected a divisor of 3, which is to be 1, got 3"),
        ({"weight": np.ones(2)}, "weight: has 2 elements, expected 3"),
        ({"mean": np.ones(2)}, "mean: has 2 elements, expected 6"),
        ({"x": np.ones((2, 3, 0)), "y": np.ones((2, 3, 0))}, "rows need at least one number"),
    ],
)
def test_a_wrong_call_for_rows_is_refused(change, message):
    arguments = {"x": X, "y": X.copy(), "weight": V, "bias": V, "mean": np.ones(6), "inv_std": np.ones(6)}
    arguments |= {"groups": 3, "eps": 0.0, "layer": False, **change}
    with pytest.raises(ValueError, match=message):
        _kernels.norm_rows(*arguments.values())
