"""The table of native operators: their signatures, and what they say about which calls they serve."""

import inspect

import numpy as np
import pytest

import xpconv.functional as F
from xpconv import _generic
from xpconv._cpu import ENGINES
from xpconv._geometry import conv_geometry, pool_window
from xpconv.backends import load_backend, serving, use_kernels

FUNCTIONS = [(operator, engine) for operator, engines in ENGINES.items() for engine in engines]


@pytest.mark.parametrize(("operator", "engine"), FUNCTIONS, ids=[f"{o}-{e[0]}" for o, e in FUNCTIONS])
def test_signatures_are_the_generic_ones(operator, engine):
    native, generic = (inspect.signature(f).parameters for f in (engine[1], getattr(_generic, operator)))
    assert [(p.name, p.kind, p.default) for p in native.values()] == [
        (p.name, p.kind, p.default) for p in generic.values()
    ]


def test_the_operators_that_matter_are_native():
    assert set(ENGINES) >= {
        *("im2col", "col2im", "conv2d", "conv2d_backward", "conv_transpose2d", "conv_transpose2d_backward"),
        *("max_pool2d", "max_pool2d_backward", "avg_pool2d", "avg_pool2d_backward", "adaptive_avg_pool2d"),
        "dropout_mask",
    }


@pytest.mark.parametrize("operator", ENGINES)
def test_single_and_double_precision_are_served_and_nothing_else(operator):
    backend = load_backend("numpy")
    geometry = {
        "conv2d": conv_geometry((2, 3, 5, 5), (4, 3, 3, 3), stride=1, padding=1, dilation=1, groups=1),
        "dropout_mask": None,
    }.get(operator.removesuffix("_backward"), pool_window((5, 5), 3, 1, 1, 1, False))
    for dtype in ("float32", "float64"):
        assert serving(backend, operator, dtype, geometry).name != "generic"
    for dtype in ("float16", "int32", "complex64", "longdouble"):
        assert serving(backend, operator, dtype, geometry).name == "generic"
    with use_kernels("generic"):
        assert serving(backend, operator, "float32", geometry).name == "generic"


def test_memory_maps_are_read_in_place_and_results_are_plain_arrays(tmp_path, rng):
    import xpconv.functional as F

    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(2, 3, 6, 5))
    x[...] = rng.standard_normal(x.shape)
    w = rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    y, cache = F.conv2d(x, w)
    pooled, pool_cache = F.max_pool2d(x, 2)
    results = [
        *(y, *F.conv2d_backward(y, cache)[:2], F.im2col(x, 2)),
        *(pooled, F.max_pool2d_backward(pooled, pool_cache)),
        *(F.avg_pool2d(x, 2)[0], F.dropout(x, 0.5, training=True, key=1)[0]),
    ]
    assert {type(result) for result in results} == {np.ndarray}
    assert np.array_equal(y, F.conv2d(np.array(x), w)[0])


@pytest.mark.parametrize("groups", [1, 2])
def test_a_stride_beyond_everything_is_one_of_many(groups, rng):
    x, w = (rng.integers(-4, 5, shape).astype("float32") for shape in ((2, 2, 5, 5), (4, 2 // groups, 3, 3)))
    results = []
    for stride in (11, 1 << 40, 1 << 62):
        y, cache = F.conv2d(x, w, stride=stride, padding=1, groups=groups)
        results.append([y, *F.conv2d_backward(y, cache)[:2], F.max_pool2d(x, 2, stride=stride)[0]])
    for other in results[1:]:
        for actual, expected in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(actual, expected)
