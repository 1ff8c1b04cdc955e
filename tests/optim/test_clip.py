"""clip_grad_norm against torch.nn.utils.clip_grad_norm_."""

import numpy as np
import pytest

from xpconv.backends import load_backend, to_numpy
from xpconv.layers import Parameter
from xpconv.optim import check_norm, clip_grad_norm

SHAPES = ((3, 2), (4,), (2, 1, 2), ())


def read(on, norm, dtype):
    """The norm, which is a number on the host and an array on a device."""
    if load_backend(on.backend).on_host:
        assert type(norm) is float
        return norm
    assert load_backend(on.backend).dtype_name(norm) == dtype
    assert tuple(norm.shape) == ()
    return float(on.to_numpy(norm))


@pytest.mark.parametrize("max_norm", [0.1, 2.0, 1000.0])
def test_equals_torch(on, max_norm, rng):
    torch = pytest.importorskip("torch")
    gradients = [rng.normal(size=shape) for shape in SHAPES]
    for dtype in on.dtypes:
        ours = [Parameter(on.asarray(np.zeros(shape), dtype)) for shape in SHAPES]
        theirs = [torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in SHAPES]
        arrays = [on.asarray(gradient, dtype) for gradient in gradients]
        for parameter, tensor, array, gradient in zip(ours, theirs, arrays, gradients, strict=True):
            parameter.grad, tensor.grad = array, torch.tensor(gradient)
        without = Parameter(on.asarray([1.0], dtype))
        norm = read(on, clip_grad_norm([*ours, without], max_norm), dtype)
        want = float(torch.nn.utils.clip_grad_norm_(theirs, max_norm))
        assert norm == pytest.approx(want, rel=1e-5)
        assert without.grad is None
        for parameter, tensor, array, gradient in zip(ours, theirs, arrays, gradients, strict=True):
            got = on.to_numpy(parameter.grad)
            assert got.dtype.name == dtype
            np.testing.assert_allclose(got, tensor.grad.numpy(), rtol=2e-5)
            np.testing.assert_array_equal(on.to_numpy(array), gradient.astype(dtype))  # replaced, not modified


def test_one_parameter_generators_and_none():
    parameter = Parameter(np.zeros(2))
    assert clip_grad_norm(parameter, 1.0) == 0.0
    assert clip_grad_norm(iter([]), 1.0) == 0.0
    parameter.grad = np.array([3.0, 4.0])
    assert clip_grad_norm((p for p in [parameter]), 1.0) == 5.0
    np.testing.assert_allclose(parameter.grad, [0.6, 0.8], rtol=1e-6)


def test_several_dtypes_and_backends():
    strict = pytest.importorskip("array_api_strict")
    parameters = [
        Parameter(np.zeros(1, np.float32)),
        Parameter(np.zeros(1)),
        Parameter(strict.zeros(1, dtype=strict.float32)),
    ]
    parameters[0].grad = np.array([2.0], np.float32)
    parameters[1].grad = np.array([3.0])
    parameters[2].grad = strict.asarray([6.0], dtype=strict.float32)
    assert clip_grad_norm(parameters, 3.5) == pytest.approx(7.0)
    assert [float(p.grad[0]) for p in parameters] == pytest.approx([1.0, 1.5, 3.0], rel=1e-6)
    assert parameters[0].grad.dtype == np.float32


def test_half_precision_does_not_overflow():
    parameter = Parameter(np.zeros(4, np.float16))
    parameter.grad = np.full(4, 1000.0, np.float16)
    assert clip_grad_norm(parameter, 1.0) == pytest.approx(2000.0)
    np.testing.assert_allclose(parameter.grad, 0.5, rtol=1e-3)
    assert parameter.grad.dtype == np.float16


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_norm_that_is_not_finite(on, bad):
    good, broken = Parameter(on.asarray([1.0], "float32")), Parameter(on.asarray([1.0], "float32"))
    good.grad, broken.grad = on.asarray([3.0], "float32"), on.asarray([bad], "float32")
    with pytest.raises(FloatingPointError, match=f"norm of the gradients is {bad}"):
        # on a device it is not looked at before it is read
        check_norm(read(on, clip_grad_norm([good, broken], 1.0), "float32"))
    norm = read(on, clip_grad_norm([good, broken], 1.0, error_if_nonfinite=False), "float32")
    assert norm == pytest.approx(bad, nan_ok=True)
    assert on.to_numpy(good.grad).tolist() == [3.0]


def test_several_dtypes_on_one_backend(on, rng):
    backend = load_backend(on.backend)
    gradients = [(name, rng.normal(size=5)) for name in (*on.dtypes, "float32", on.dtypes[-1])]
    parameters = []
    for dtype, values in gradients:
        parameters.append(Parameter(on.asarray(np.zeros(5), dtype)))
        parameters[-1].grad = on.asarray(values, dtype)
    before = np.concatenate([values for _, values in gradients])
    norm = read(on, clip_grad_norm(parameters, 0.5), on.dtypes[-1])
    assert norm == pytest.approx(np.linalg.norm(before), rel=1e-6)
    after = np.concatenate([np.asarray(to_numpy(p.grad), np.float64) for p in parameters])
    np.testing.assert_allclose(after, before * 0.5 / np.linalg.norm(before), rtol=2e-5)
    for (dtype, _), parameter in zip(gradients, parameters, strict=True):
        assert backend.dtype_name(parameter.grad) == dtype


def test_an_infinite_max_norm_measures_only(on):
    parameter = Parameter(on.asarray(np.zeros(2), "float32"))
    parameter.grad = on.asarray([3.0, 4.0], "float32")
    assert read(on, clip_grad_norm(parameter, float("inf")), "float32") == 5.0
    assert on.to_numpy(parameter.grad).tolist() == [3.0, 4.0]


@pytest.mark.parametrize("max_norm", [0, -1.0, float("nan")])
def test_refuses(max_norm):
    with pytest.raises(ValueError, match="max_norm: must be above 0"):
        clip_grad_norm([], max_norm)


@pytest.mark.parametrize("max_norm", ["a", None, True, [1.0]])
def test_refuses_what_is_no_number(max_norm):
    with pytest.raises(TypeError, match="max_norm: must be a number above 0, got"):
        clip_grad_norm([], max_norm)
