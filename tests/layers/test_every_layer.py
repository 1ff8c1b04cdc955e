"""Every layer: against torch.nn, by differences of its forward, and on every backend against NumPy in float64."""

import numpy as np
import pytest

from xpconv import layers, to_numpy, use_backend
from xpconv.backends import BackendMismatchError
from xpconv.testing import check_layer

# id -> (what makes the layer from xpconv.layers or from torch.nn, which share names and arguments; shape of the input)
SHARED = {
    "conv2d": (lambda nn: nn.Conv2d(3, 4, 3), (2, 3, 7, 6)),
    "conv2d-all": (
        lambda nn: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, bias=False),
        (2, 4, 8, 7),
    ),
    "conv2d-same": (lambda nn: nn.Conv2d(2, 3, (3, 5), padding="same"), (2, 2, 6, 7)),
    "convtranspose2d": (lambda nn: nn.ConvTranspose2d(3, 4, 3), (2, 3, 4, 3)),
    "convtranspose2d-all": (
        lambda nn: nn.ConvTranspose2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 0), groups=2, bias=False, dilation=(1, 2)),
        (2, 4, 4, 3),
    ),
    "conv1d": (lambda nn: nn.Conv1d(3, 4, 3), (2, 3, 9)),
    "conv1d-all": (lambda nn: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, bias=False), (2, 4, 11)),
    "linear": (lambda nn: nn.Linear(5, 4), (3, 5)),
    "linear-no-bias": (lambda nn: nn.Linear(5, 4, bias=False), (2, 3, 5)),
    "batchnorm1d": (lambda nn: nn.BatchNorm1d(4), (5, 4)),
    "batchnorm1d-signal": (lambda nn: nn.BatchNorm1d(4, eps=1e-3, momentum=0.3), (3, 4, 5)),
    "batchnorm2d": (lambda nn: nn.BatchNorm2d(3), (4, 3, 5, 2)),
    "batchnorm2d-plain": (lambda nn: nn.BatchNorm2d(3, affine=False, track_running_stats=False), (4, 3, 5, 2)),
    "batchnorm2d-average": (lambda nn: nn.BatchNorm2d(3, momentum=None), (4, 3, 5, 2)),
    "layernorm": (lambda nn: nn.LayerNorm(6), (4, 6)),
    "layernorm-axes": (lambda nn: nn.LayerNorm((3, 4), eps=1e-3, bias=False), (2, 2, 3, 4)),
    "layernorm-plain": (lambda nn: nn.LayerNorm([4], elementwise_affine=False), (2, 3, 4)),
    "groupnorm": (lambda nn: nn.GroupNorm(2, 6), (2, 6, 3, 4)),
    "groupnorm-plain": (lambda nn: nn.GroupNorm(3, 6, affine=False), (2, 6, 5)),
    "instancenorm2d": (lambda nn: nn.InstanceNorm2d(3), (2, 3, 4, 5)),
    "instancenorm2d-affine": (lambda nn: nn.InstanceNorm2d(3, eps=1e-3, affine=True), (2, 3, 4, 5)),
    "relu": (lambda nn: nn.ReLU(), (4, 5)),
    "leakyrelu": (lambda nn: nn.LeakyReLU(0.2), (4, 5)),
    "gelu": (lambda nn: nn.GELU(), (4, 5)),
    "hardtanh": (lambda nn: nn.Hardtanh(-0.5, 0.7), (4, 5)),
    "relu6": (lambda nn: nn.ReLU6(), (4, 5)),
    "silu": (lambda nn: nn.SiLU(), (4, 5)),
    "sigmoid": (lambda nn: nn.Sigmoid(), (4, 5)),
    "tanh": (lambda nn: nn.Tanh(), (4, 5)),
    "maxpool": (lambda nn: nn.MaxPool2d(2), (2, 3, 6, 5)),
    "maxpool-all": (lambda nn: nn.MaxPool2d((3, 2), (2, 1), (1, 0), 2, ceil_mode=True), (2, 3, 8, 7)),
    "avgpool": (lambda nn: nn.AvgPool2d(2), (2, 3, 6, 5)),
    "avgpool-all": (
        lambda nn: nn.AvgPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True, count_include_pad=False),
        (2, 3, 8, 7),
    ),
    "adaptiveavgpool": (lambda nn: nn.AdaptiveAvgPool2d((3, 2)), (2, 3, 7, 5)),
    "flatten": (lambda nn: nn.Flatten(), (2, 3, 4, 2)),
    "identity": (lambda nn: nn.Identity(), (2, 3)),
    "sequential": (
        lambda nn: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)),
        (3, 2, 4, 4),
    ),
}
ALL = {
    **SHARED,
    "conv2d-channels-last": (lambda nn: nn.Conv2d(4, 6, (3, 2), padding="same", groups=2, layout="NHWC"), (2, 5, 6, 4)),
    "convtranspose2d-channels-last": (lambda nn: nn.ConvTranspose2d(2, 3, 3, 2, layout="NHWC"), (2, 3, 4, 2)),
    "batchnorm2d-channels-last": (lambda nn: nn.BatchNorm2d(4, layout="NHWC"), (3, 4, 5, 4)),
    "maxpool-channels-last": (lambda nn: nn.MaxPool2d((3, 2), 2, padding="same", layout="NHWC"), (2, 5, 6, 3)),
    "avgpool-channels-last": (lambda nn: nn.AvgPool2d(3, 2, padding="same", layout="NHWC"), (2, 5, 6, 3)),
    "globalavgpool-channels-last": (lambda nn: nn.GlobalAvgPool2d(layout="NHWC"), (2, 4, 5, 3)),
    "adaptiveavgpool-channels-last": (lambda nn: nn.AdaptiveAvgPool2d((3, 2), layout="NHWC"), (2, 7, 5, 3)),
    "globalavgpool": (lambda nn: nn.GlobalAvgPool2d(), (2, 3, 4, 5)),
    "dropout": (lambda nn: nn.Dropout(0.4, rng=5), (3, 7)),
    "batchnorm2d-relu": (lambda nn: nn.BatchNorm2d(3, activation="relu"), (4, 3, 5, 2)),
    "residual": (lambda nn: nn.Residual(nn.Linear(4, 4), nn.Linear(4, 4, bias=False)), (3, 4)),
    "concat": (lambda nn: nn.Concat(nn.Linear(4, 2), nn.Identity(), nn.Linear(4, 3)), (3, 4)),
}

# what JAX's constant arrays could break: parameters, buffers and masks; its operators have tests of their own
ON_JAX = ("linear", "batchnorm1d", "groupnorm", "relu", "dropout", "flatten", "residual")


def random_state(layer, rng):
    """Values for everything in the state, none of them the initial one."""
    state = {}
    for name, array in layer.state_dict().items():
        values = to_numpy(array)
        if values.dtype.kind == "i":
            state[name] = np.array(3, values.dtype)
        else:
            state[name] = (np.abs(rng.normal(size=values.shape)) + 0.5).astype(values.dtype)
    return state


def assert_close(got, want, dtype, what):
    tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * (1 + np.abs(want).max()), err_msg=what)


@pytest.mark.parametrize("kind", SHARED)
def test_equals_torch(kind, rng):
    torch = pytest.importorskip("torch")
    make, shape = SHARED[kind]
    theirs, ours = make(torch.nn).double(), make(layers).to(dtype="float64")
    state = random_state(ours, rng)
    assert [(name, tuple(array.shape), array.dtype.name) for name, array in ours.state_dict().items()] == [
        (name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in theirs.state_dict().items()
    ]
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert [name for name, _ in ours.named_buffers()] == [name for name, _ in theirs.named_buffers()]
    theirs.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    ours.load_state_dict(state)
    for _ in range(2):  # twice: gradients add up, running statistics move on
        x = rng.normal(size=shape)
        tensor = torch.tensor(x, requires_grad=True)
        result = theirs(tensor)
        dy = rng.normal(size=tuple(result.shape))
        result.backward(torch.tensor(dy))
        assert_close(ours(x), result.detach().numpy(), "float64", "y")
        assert_close(ours.backward(dy), tensor.grad.numpy(), "float64", "dx")
    for (name, parameter), tensor in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_close(parameter.grad, tensor.grad.numpy(), "float64", name)
    for (name, array), tensor in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert_close(array, tensor.numpy(), "float64", name)
    theirs.eval(), ours.eval()
    x = rng.normal(size=shape)
    assert_close(ours(x), theirs(torch.tensor(x)).detach().numpy(), "float64", "y in evaluation")


def run_twice(layer, x, dy, asarray=np.asarray, dtype="float64"):
    """Results of two training steps and an evaluation, as host arrays by name."""
    layer.begin_step(3, seed=17)
    found = {}
    for i in range(2):
        found[f"y{i}"] = layer(asarray(x, dtype))
        found[f"dx{i}"] = layer.backward(asarray(dy, dtype))
    for name, parameter in layer.named_parameters():
        found[f"grad {name}"] = parameter.grad
    found.update(layer.state_dict())
    layer.eval()
    found["evaluated"] = layer(asarray(x, dtype))
    assert not any(part._stack for _, part in layer.named_layers())
    return found


@pytest.mark.parametrize("kind", ALL)
def test_agrees_with_numpy_in_float64(on, kind, rng):
    if on.id == "jax" and kind not in ON_JAX:
        pytest.skip("JAX compiles every operator for every shape, which takes long")
    make, shape = ALL[kind]
    with use_backend("numpy"):
        reference = make(layers).to(dtype="float64")
    state = random_state(reference, rng)
    reference.load_state_dict(state)
    x = rng.normal(size=shape)
    with use_backend("numpy"):
        dy = rng.normal(size=reference(x).shape)
        reference.clear_cache()
        reference.load_state_dict(state)
        want = run_twice(reference, x, dy)
    for dtype in on.dtypes:
        layer = make(layers).to(dtype=dtype)
        layer.load_state_dict({k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in state.items()})
        got = run_twice(layer, x, dy, on.asarray, dtype)
        assert list(got) == list(want)
        for name, array in got.items():
            values = on.to_numpy(array)
            assert values.dtype.name == dtype or values.dtype.kind == want[name].dtype.kind == "i", name
            assert_close(values, want[name], dtype, name)


@pytest.mark.parametrize("kind", ALL)
def test_gradients(kind, rng):
    make, shape = ALL[kind]
    layer = make(layers).to(dtype="float64")
    layer.load_state_dict(random_state(layer, rng))
    x = rng.normal(size=shape)
    x += np.sign(x) * 0.01  # away from the kink at zero
    check_layer(layer, x)


@pytest.mark.parametrize("kind", ALL)
def test_empty_batch(kind):
    make, shape = ALL[kind]
    layer = make(layers)
    x = np.zeros((0, *shape[1:]), np.float32)
    if "batchnorm" in kind or kind == "sequential":
        layer.eval()
        if kind == "batchnorm2d-plain":
            pytest.skip("without running statistics an empty batch has none")
        assert layer(x).shape[0] == 0
        return
    y = layer(x)
    assert y.shape[0] == 0
    assert layer.backward(np.zeros_like(y)).shape == x.shape
    for name, parameter in layer.named_parameters():
        assert not parameter.grad.any(), name


@pytest.mark.parametrize("kind", ALL)
def test_backward_without_forward(kind):
    make, shape = ALL[kind]
    layer = make(layers)
    with pytest.raises(RuntimeError, match="no forward to go back through"):
        layer.backward(np.ones(shape, np.float32))
    layer.eval()
    y = layer(np.ones(shape, np.float32))
    with pytest.raises(RuntimeError, match="no forward to go back through"):
        layer.backward(np.ones_like(y))


@pytest.mark.parametrize("kind", [k for k in ALL if next(ALL[k][0](layers).parameters(), None) is not None])
def test_input_on_another_backend(kind, rng):
    strict = pytest.importorskip("array_api_strict")
    make, shape = ALL[kind]
    layer = make(layers)
    with pytest.raises(BackendMismatchError, match="numpy"):
        layer(strict.zeros(shape, dtype=strict.float32))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: layers.Conv2d(0, 4, 3), ValueError, "in_channels: must be at least 1, got 0"),
        (lambda: layers.Conv2d(4, 4.0, 3), TypeError, "out_channels: expected an integer, got 4.0"),
        (lambda: layers.Conv2d(4, 6, 3, groups=4), ValueError, "groups: 4 must divide .* 4 and 6"),
        (lambda: layers.Conv2d(4, 6, (3, 0)), ValueError, "kernel_size: must be at least 1, got 0"),
        (lambda: layers.Conv2d(4, 6, 3, stride=0), ValueError, "stride"),
        (lambda: layers.Conv2d(4, 6, 3, padding="full"), ValueError, "padding"),
        (lambda: layers.Conv2d(4, 6, 3, padding=-1), ValueError, "padding"),
        (lambda: layers.Conv2d(4, 6, 3, layout="CHWN"), ValueError, "layout: expected one of NCHW, NHWC, got 'CHWN'"),
        (lambda: layers.MaxPool2d(2, layout="HWC"), ValueError, "layout"),
        (lambda: layers.BatchNorm2d(2, layout="HWC"), ValueError, "layout"),
        (lambda: layers.ConvTranspose2d(4, 6, 3, output_padding=1), ValueError, "output_padding: must be smaller"),
        (lambda: layers.ConvTranspose2d(4, 6, 3, 2, "SAME", 1), ValueError, "output_padding: padding='same' gives"),
        (lambda: layers.ConvTranspose2d(4, 6, 3, groups=4), ValueError, "groups: 4 must divide .* 4 and 6"),
        (lambda: layers.ConvTranspose2d(4, 6, 3, padding=-1), ValueError, "padding"),
        (lambda: layers.Conv1d(4, 6, (3, 3)), TypeError, "kernel_size: expected an integer"),
        (lambda: layers.Conv1d(4, 6, 3, padding="full"), ValueError, "padding"),
        (lambda: layers.Conv2d(4, 6, 3, dtype="float33"), TypeError, "float33"),
        (lambda: layers.Conv2d(4, 6, 3, dtype="int32"), TypeError, "floating-point, got int32"),
        (lambda: layers.Conv2d(4, 6, 3, rng="seed"), TypeError, "rng: expected a numpy.random.Generator"),
        (lambda: layers.Conv2d(4, 6, 3, rng=-1), ValueError, "rng: must be at least 0, got -1"),
        (lambda: layers.Linear(True, 4), TypeError, "in_features"),
        (lambda: layers.BatchNorm2d(-3), ValueError, "num_features"),
        (lambda: layers.BatchNorm2d(3, momentum=1.5), ValueError, "momentum"),
        (lambda: layers.BatchNorm2d(3, eps=-1e-5), ValueError, "eps"),
        (lambda: layers.GroupNorm(4, 6), ValueError, "num_groups: 4 must divide num_channels, got 6"),
        (lambda: layers.LayerNorm(()), ValueError, "normalized_shape"),
        (lambda: layers.MaxPool2d(0), ValueError, "kernel_size"),
        (lambda: layers.MaxPool2d(2, stride=0), ValueError, "stride"),
        (lambda: layers.MaxPool2d(2, dilation=0), ValueError, "dilation"),
        (lambda: layers.AvgPool2d((2, 2, 2)), ValueError, "kernel_size"),
        (lambda: layers.AvgPool2d(2, 0), ValueError, "stride"),
        (lambda: layers.AvgPool2d(2, padding=-1), ValueError, "padding"),
        (lambda: layers.AdaptiveAvgPool2d(0), ValueError, "output_size"),
        (lambda: layers.Dropout(1.5), ValueError, "p: expected a number between 0 and 1"),
        (lambda: layers.LeakyReLU("steep"), TypeError, "negative_slope"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("conv2d", (2, 3, 7), "x: expected 4 dimensions"),
        ("conv2d", (2, 4, 7, 6), "4"),
        ("conv1d", (2, 3, 7, 6), "x: expected 3 dimensions"),
        ("linear", (3, 6), "x: expected 5 features"),
        ("batchnorm1d", (2, 4, 3, 3), r"x: expected 2 or 3 dimensions"),
        ("batchnorm2d", (5, 3), r"x: expected 4 dimensions"),
        ("batchnorm2d-plain", (4, 5, 3, 3), "x: expected 3 channels"),
        ("layernorm", (4, 5), "x: the last axes must be"),
        ("groupnorm-plain", (2, 12, 5), "x: expected 6 channels"),
        ("instancenorm2d", (2, 6, 4, 4), r"x: expected shape \(any, 3, any, any\)"),
        ("instancenorm2d", (2, 3, 4), "x: expected 4 dimensions"),
        ("flatten", (), "x: expected at least 1 dimension"),
    ],
)
def test_bad_input(kind, shape, message):
    layer = ALL[kind][0](layers)
    before = layer.state_dict()
    with pytest.raises(ValueError, match=message):
        layer(np.zeros(shape, np.float32))
    assert all(np.array_equal(before[name], array) for name, array in layer.state_dict().items())


@pytest.mark.parametrize("kind", ALL)
def test_bad_gradient(kind):
    make, shape = ALL[kind]
    layer = make(layers)
    y = layer(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    if kind == "identity":
        pytest.skip("it does not look at what it passes on")
    with pytest.raises(ValueError, match="dy: expected shape"):
        layer.backward(np.zeros((*y.shape[:-1], y.shape[-1] + 1), np.float32))


@pytest.mark.parametrize("kind", ["conv2d", "convtranspose2d", "conv1d", "linear"])
def test_need_dx(kind, rng):
    make, shape = ALL[kind]
    layer = make(layers).to(dtype="float64")
    x = rng.normal(size=shape)
    y = layer(x)
    layer.backward(y)
    want = layer.weight.grad
    layer.zero_grad()
    layer.need_dx = False
    layer(x)
    assert layer.backward(y) is None
    np.testing.assert_array_equal(layer.weight.grad, want)


def test_no_input_is_modified(rng):
    for make, shape in ALL.values():
        layer = make(layers)
        x = rng.normal(size=shape).astype(np.float32)
        x.flags.writeable = False
        y = layer(x)
        dy = rng.normal(size=y.shape).astype(np.float32)
        dy.flags.writeable = False
        layer.backward(dy)


@pytest.mark.parametrize(
    ("layer", "bound"),
    [
        (lambda **kw: layers.Conv2d(8, 60, (3, 5), groups=2, **kw), 1 / np.sqrt(60)),
        (lambda **kw: layers.Conv1d(8, 60, 5, **kw), 1 / np.sqrt(40)),
        (lambda **kw: layers.ConvTranspose2d(60, 80, (3, 5), groups=2, **kw), 1 / np.sqrt(600)),
        (lambda **kw: layers.Linear(40, 60, **kw), 1 / np.sqrt(40)),
    ],
)
def test_initial_weights(layer, bound, on):
    first = layer(rng=3)
    for parameter in first.parameters():
        values = on.to_numpy(parameter.data)
        assert values.dtype == np.float32
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.9 * bound
        assert abs(values.mean()) < 0.25 * bound
    # the same numbers on every backend and in every dtype
    with use_backend("numpy"):
        reference = layer(rng=np.random.default_rng(3), dtype="float64")
    for dtype in on.dtypes:
        for parameter, other in zip(layer(rng=3, dtype=dtype).parameters(), reference.parameters(), strict=True):
            np.testing.assert_array_equal(on.to_numpy(parameter.data), other.data.astype(dtype))


def test_normalisation_starts_as_identity(on):
    for layer in (layers.BatchNorm2d(3), layers.LayerNorm((3, 2)), layers.GroupNorm(1, 3)):
        assert (on.to_numpy(layer.weight.data) == 1).all()
        assert (on.to_numpy(layer.bias.data) == 0).all()
    buffers = {name: on.to_numpy(array) for name, array in layers.BatchNorm1d(2).named_buffers()}
    np.testing.assert_array_equal(buffers["running_mean"], [0, 0])
    np.testing.assert_array_equal(buffers["running_var"], [1, 1])
    assert buffers["num_batches_tracked"].shape == ()
    assert buffers["num_batches_tracked"].dtype == (np.int32 if on.id == "jax" else np.int64)
