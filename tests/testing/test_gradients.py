"""The gradient check must pass right gradients and fail wrong ones, and say which."""

import numpy as np
import pytest

import xpconv
from xpconv import layers
from xpconv.backends import backend_of
from xpconv.testing import check_gradients, check_layer


def bilinear(x, w):
    return x**2 * w, (x, w)


def bilinear_backward(dy, cache):
    x, w = cache
    return 2 * x * w * dy, x**2 * dy


@pytest.fixture
def inputs(rng):
    return [rng.standard_normal((3, 4)), rng.standard_normal((3, 4))]


def test_right_gradients_pass_on_every_backend(on, inputs):
    if "float64" not in on.dtypes:
        pytest.skip("no float64")
    check_gradients(bilinear, bilinear_backward, [on.asarray(a) for a in inputs])


def test_one_gradient_alone_and_a_function_that_gives_a_number(inputs):
    check_gradients(lambda x: (float((x**3).sum()), x), lambda dy, x: dy * 3 * x**2, inputs[:1])


def test_an_argument_left_out(inputs):
    check_gradients(lambda x, b: (x**2, (x, b)), lambda dy, cache: (2 * cache[0] * dy, None), [inputs[0], None])
    with pytest.raises(AssertionError, match="b: is None, but has a gradient"):
        check_gradients(lambda x, b: (x**2, x), lambda dy, x: (2 * x * dy, x), [inputs[0], None], names=["x", "b"])


def test_empty_inputs_pass():
    check_gradients(bilinear, bilinear_backward, [np.zeros((0, 3)), np.zeros((0, 3))])


def test_a_gradient_that_is_zero_but_for_rounding_passes(inputs):
    """A bias before a normalisation, for example: neither side is exactly zero."""

    def centred(x, b):
        shifted = x + b
        return shifted - shifted.mean(), None

    def backward(dy, cache):
        dx = dy - dy.mean()
        return dx, np.array([dx.sum()])

    check_gradients(centred, backward, [inputs[0], np.array([1.0])])


def wrong_by(change):
    """`bilinear_backward`, with the gradients changed."""

    def backward(dy, cache):
        return change(*bilinear_backward(dy, cache))

    return backward


def nudged(dx, dw):
    dw = dw.copy()
    dw[1, 2] *= 1.001
    return dx, dw


@pytest.mark.parametrize(
    ("backward", "message"),
    [
        (wrong_by(lambda dx, dw: (1.00001 * dx, dw)), "input 0: backward gives"),
        (wrong_by(nudged), "input 1: backward gives"),
        (wrong_by(lambda dx, dw: (dx, 0 * dw)), "input 1: backward gives 0 along"),
        (wrong_by(lambda dx, dw: (-dx, dw)), "input 0: backward gives"),
        (wrong_by(lambda dx, dw: (dx.T, dw)), r"input 0: has shape \(3, 4\), but its gradient has \(4, 3\)"),
        (wrong_by(lambda dx, dw: (dx, dw.astype("float32"))), "input 1: is float64, but its gradient is float32"),
        (wrong_by(lambda dx, dw: (dx, None)), "input 1: backward gave no gradient"),
        (wrong_by(lambda dx, dw: dx), "backward gave 1 gradients for 2 inputs"),
        (wrong_by(lambda dx, dw: (dx, dw, dw)), "backward gave 3 gradients for 2 inputs"),
        (wrong_by(lambda dx, dw: (dx, dw * np.nan)), "input 1: the gradient is not finite"),
    ],
)
def test_wrong_gradients_fail(inputs, backward, message):
    with pytest.raises(AssertionError, match=message):
        check_gradients(bilinear, backward, inputs)


def test_a_gradient_of_another_backend_fails(inputs):
    pytest.importorskip("array_api_strict")
    backward = wrong_by(lambda dx, dw: (xpconv.asarray(dx, backend="array_api_strict"), dw))
    with pytest.raises(AssertionError, match="input 0: the gradient is an array of another backend"):
        check_gradients(bilinear, backward, inputs)


def test_names_are_used_and_counted(inputs):
    with pytest.raises(AssertionError, match=r"^filters: "):
        check_gradients(bilinear, wrong_by(nudged), inputs, names=["images", "filters"])
    with pytest.raises(ValueError, match="names: expected 2"):
        check_gradients(bilinear, bilinear_backward, inputs, names=["images"])


def test_functions_that_modify_their_arguments_fail(inputs):
    def greedy(x, w):
        x += 1
        return x**2 * w, (x, w)

    with pytest.raises(AssertionError, match="input 0: was modified"):
        check_gradients(greedy, bilinear_backward, inputs)

    def greedy_backward(dy, cache):
        dy *= 2
        return bilinear_backward(dy, cache)

    with pytest.raises(AssertionError, match="dy: was modified"):
        check_gradients(bilinear, greedy_backward, inputs)


def test_functions_that_change_from_call_to_call_fail(inputs):
    calls = []

    def restless(x, w):
        calls.append(1)
        return x**2 * w * len(calls), (x, w)

    with pytest.raises(AssertionError, match="two results for the same inputs"):
        check_gradients(restless, bilinear_backward, inputs)


def test_float32_is_refused(inputs):
    with pytest.raises(TypeError, match="input 1: gradients are checked in float64 only, got float32"):
        check_gradients(bilinear, bilinear_backward, [inputs[0], inputs[1].astype("float32")])


# ---- layers ------------------------------------------------------------------------------------------------------


class Scale(layers.Layer):
    """y = x * scale + shift, with switches for what may be wrong."""

    def __init__(self, features, wrong=""):
        self.scale = layers.Parameter(np.linspace(1.0, 2.0, features))
        self.shift = layers.Parameter(np.linspace(0.0, 1.0, features))
        self.register_buffer("calls", np.zeros(1))
        self.wrong = wrong

    def forward(self, x):
        self.push(x)
        self.calls = self.calls + 1
        return x * self.scale.data + self.shift.data

    def backward(self, dy):
        x = self.pop()
        xp = backend_of(dy=dy).xp
        self.scale.accumulate_grad(xp.sum(dy * x, axis=0) * (2 if self.wrong == "scale" else 1))
        if self.wrong != "shift":
            self.shift.accumulate_grad(xp.sum(dy, axis=0))
        return None if self.wrong == "no dx" else dy * self.scale.data * (1.01 if self.wrong == "x" else 1)


def test_a_right_layer_passes_on_every_backend(on, rng):
    if "float64" not in on.dtypes:
        pytest.skip("no float64")
    layer = Scale(4)
    layer.to(on.backend)
    check_layer(layer, on.asarray(rng.standard_normal((3, 4))))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("x", "^x: backward gives"), ("scale", "^scale: backward gives"), ("shift", "^shift: backward gave no gradient")],
)
def test_a_wrong_layer_fails(wrong, message, rng):
    with pytest.raises(AssertionError, match=message):
        check_layer(Scale(4, wrong), rng.standard_normal((3, 4)))


def test_a_layer_may_withhold_the_gradient_to_x(rng):
    check_layer(Scale(4, "no dx"), rng.standard_normal((3, 4)))


def test_a_layer_is_left_as_it_was(rng):
    layer = Scale(4).eval()
    grad = rng.standard_normal(4)
    layer.scale.grad = grad
    before = {name: xpconv.to_numpy(array).copy() for name, array in layer.state_dict().items()}
    check_layer(layer, rng.standard_normal((3, 4)))
    after = layer.state_dict()
    assert list(after) == list(before)
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert layer.scale.grad is grad
    assert layer.shift.grad is None
    assert not layer.training
    layer.train()
    with pytest.raises(RuntimeError, match="no forward to go back through"):
        layer.backward(np.zeros((3, 4)))


def test_parameters_must_be_float64(rng):
    layer = Scale(4).to(dtype="float32")
    with pytest.raises(TypeError, match="scale: gradients are checked in float64 only, got float32"):
        check_layer(layer, rng.standard_normal((3, 4)))


def test_the_layers_of_xpconv_pass(rng):
    net = layers.Sequential(
        layers.Conv2d(2, 4, 3, padding=1, rng=rng, dtype="float64"),
        layers.BatchNorm2d(4, dtype="float64"),
        layers.Tanh(),
        layers.Dropout(0.3, rng=rng),
        layers.AvgPool2d(2),
        layers.Flatten(),
        layers.Linear(4 * 3 * 3, 5, rng=rng, dtype="float64"),
    )
    check_layer(net, rng.standard_normal((4, 2, 6, 6)))
