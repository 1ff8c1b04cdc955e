"""Batch normalisation with an activation: the chain of single layers, and what it refuses."""

import numpy as np
import pytest

from xpconv import layers


def steps(on, rng, dtype, fused, residual):
    """Two training steps and an evaluation by one layer, or by a chain of two; results by name."""
    x, beside, dy = (on.asarray(a, dtype) for a in rng.normal(size=(3, 4, 3, 5, 2)))
    norm = layers.BatchNorm2d(3, activation="relu" if fused else None, dtype=dtype)
    norm.weight.data, norm.bias.data = (on.asarray(v, dtype) for v in rng.normal(size=(2, 3)))
    relu = layers.ReLU()
    found = {}
    for step in range(2):
        if fused:
            found[f"y{step}"] = norm(x, beside) if residual else norm(x)
            back = norm.backward(dy)
            found[f"dx{step}"], found[f"dresidual{step}"] = back if residual else (back, None)
        else:
            y = norm(x)
            found[f"y{step}"] = relu(y + beside if residual else y)
            masked = relu.backward(dy)
            found[f"dx{step}"], found[f"dresidual{step}"] = norm.backward(masked), masked if residual else None
    found |= {name: parameter.grad for name, parameter in norm.named_parameters()}
    found |= {f"state {name}": array for name, array in norm.state_dict().items()}
    norm.eval(), relu.eval()
    y = norm(x, beside) if fused and residual else norm(x)
    found["evaluated"] = y if fused else relu(y + beside if residual else y)
    return {name: None if array is None else on.to_numpy(array) for name, array in found.items()}


@pytest.mark.parametrize("residual", [True, False])
def test_relu_layer_is_the_chain(on, residual):
    if on.id == "jax" and not residual:
        pytest.skip("JAX compiles every call of a new shape, which takes long: one is enough")
    for dtype in on.dtypes:
        fused, chain = (steps(on, np.random.default_rng(7), dtype, fused, residual) for fused in (True, False))
        assert list(fused) == list(chain)
        tolerance = {"float32": 1e-6, "float64": 1e-14}[dtype]
        for name, want in chain.items():
            if want is None:
                assert fused[name] is None
                continue
            scale = np.abs(want).max(initial=1)
            np.testing.assert_allclose(fused[name], want, rtol=0, atol=20 * tolerance * scale, err_msg=name)


def test_a_layer_used_twice_goes_back_in_reverse():
    norm = layers.BatchNorm2d(2, activation="relu")
    x = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
    y = norm(norm(x), x)
    dy, straight = norm.backward(np.ones_like(y))
    assert isinstance(norm.backward(dy), np.ndarray)  # this forward had no residual
    assert straight.shape == x.shape
    assert norm._stack == []


def test_refuses():
    x = np.ones((2, 3, 4, 4), np.float32)
    with pytest.raises(ValueError, match="activation: expected None or 'relu', got 'gelu'"):
        layers.BatchNorm2d(3, activation="gelu")
    with pytest.raises(ValueError, match="residual: only a layer with activation='relu' adds one, this has activation"):
        layers.BatchNorm2d(3)(x, x)
    norm = layers.BatchNorm2d(3, activation="relu")
    with pytest.raises(ValueError, match=r"residual: expected shape \(2, 3, 4, 4\) like x, got \(1, 3, 4, 4\)"):
        norm(x, x[:1])
    assert not norm._stack
    assert "activation='relu'" in repr(norm)
    assert "activation" not in repr(layers.BatchNorm2d(3))
