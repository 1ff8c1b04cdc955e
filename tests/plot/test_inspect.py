"""Gradients to images and Grad-CAM, against PyTorch's autograd and by hand; networks are left as they were."""

import numpy as np
import pytest

import xpconv
from xpconv import layers as L
from xpconv import models, to_numpy
from xpconv.plot import grad_cam, input_gradient, layer_output


def small_net(rng, layout="NCHW", dtype="float64"):
    """Convolution, normalisation with statistics of its own, a shared ReLU, pooling, dropout and a linear layer."""
    relu = L.ReLU()
    net = L.Sequential(
        {
            "conv1": L.Conv2d(3, 4, 3, padding=1, rng=0, dtype=dtype, layout=layout),
            "bn": L.BatchNorm2d(4, dtype=dtype, layout=layout),
            "relu1": relu,
            "pool": L.MaxPool2d(2, layout=layout),
            "conv2": L.Conv2d(4, 5, 3, padding=1, rng=1, dtype=dtype, layout=layout),
            "relu2": relu,
            "average": L.GlobalAvgPool2d(layout=layout),
            "drop": L.Dropout(0.5, rng=2),
            "linear": L.Linear(5, 6, rng=3, dtype=dtype),
        }
    )
    net.bn.running_mean = xpconv.asarray(rng.normal(size=4), dtype)
    net.bn.running_var = xpconv.asarray(rng.uniform(0.5, 2, size=4), dtype)
    return net


def by_torch(net, images, target):
    """Gradient to the images, and maps and gradients after both ReLUs, by PyTorch."""
    torch = pytest.importorskip("torch", reason="the oracle")
    F = torch.nn.functional
    state = {name: torch.from_numpy(np.array(to_numpy(array))) for name, array in net.state_dict().items()}
    x = torch.from_numpy(images).requires_grad_()
    y = F.conv2d(x, state["conv1.weight"], state["conv1.bias"], padding=1)
    y = F.batch_norm(y, state["bn.running_mean"], state["bn.running_var"], state["bn.weight"], state["bn.bias"])
    first = F.relu(y)
    y = F.conv2d(F.max_pool2d(first, 2), state["conv2.weight"], state["conv2.bias"], padding=1)
    last = F.relu(y)
    for maps in (first, last):
        maps.retain_grad()
    scores = F.linear(last.mean((2, 3)), state["linear.weight"], state["linear.bias"])
    chosen = scores.argmax(1) if target is None else torch.as_tensor(np.broadcast_to(target, len(images)).copy())
    scores[torch.arange(len(images)), chosen].sum().backward()
    cams = [F.relu((maps.grad.mean((2, 3), keepdim=True) * maps).sum(1)).detach().numpy() for maps in (first, last)]
    return x.grad.numpy(), *cams


@pytest.mark.parametrize("target", [None, 4, [5, 0, 3]], ids=["predicted", "one", "each"])
def test_gradients_and_maps_are_those_of_autograd(rng, target):
    net = small_net(rng)
    images = rng.normal(size=(3, 3, 8, 6))
    gradient, first, last = by_torch(net, images, target)
    np.testing.assert_allclose(input_gradient(net, images, target), gradient, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(grad_cam(net, images, target=target), last, rtol=1e-10, atol=1e-14)
    # the last use of the layer that is used twice, under either name
    np.testing.assert_allclose(grad_cam(net, images, "relu1", target=target), last, rtol=1e-10, atol=1e-14)
    # once, by a ReLU of its own: the first one's maps
    net.relu1 = L.ReLU()
    np.testing.assert_allclose(grad_cam(net, images, "relu1", target=target), first, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(grad_cam(net, images, net.relu1, target=target), first, rtol=1e-10, atol=1e-14)


def test_a_resnet_has_the_maps_of_autograd(rng):
    torch = pytest.importorskip("torch", reason="the oracle")
    F = torch.nn.functional
    net = models.CifarResNet(8, rng=0)
    for name, array in net.named_buffers():  # statistics that are not those of the start
        if name.endswith(("running_mean", "running_var")):
            array[...] = rng.uniform(0.5, 1.5, size=array.shape)
    images = rng.normal(size=(2, 3, 16, 16)).astype(np.float32)
    state = {name: torch.from_numpy(array) for name, array in net.state_dict().items()}

    def norm(y, name):
        return F.batch_norm(y, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    x = torch.from_numpy(images).requires_grad_()
    y = F.relu(norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1"))
    maps = {}
    for block in ("layer1.0", "layer2.0", "layer3.0"):
        stride = 1 if block == "layer1.0" else 2
        inner = F.conv2d(y, state[f"{block}.conv1.weight"], stride=stride, padding=1)
        inner = F.relu(norm(inner, f"{block}.bn1"))
        inner = norm(F.conv2d(inner, state[f"{block}.conv2.weight"], padding=1), f"{block}.bn2")
        if f"{block}.shortcut.0.weight" in state:
            y = norm(F.conv2d(y, state[f"{block}.shortcut.0.weight"], stride=stride), f"{block}.shortcut.1")
        y = F.relu(inner + y)
        y.retain_grad()
        maps[block] = y
    scores = F.linear(y.mean((2, 3)), state["linear.weight"], state["linear.bias"])
    scores.max(1).values.sum().backward()
    np.testing.assert_allclose(input_gradient(net, images), x.grad, rtol=1e-3, atol=1e-6 * float(x.grad.abs().max()))
    for block, result in maps.items():
        want = F.relu((result.grad.mean((2, 3), keepdim=True) * result).sum(1)).detach().numpy()
        np.testing.assert_allclose(grad_cam(net, images, block), want, rtol=1e-3, atol=1e-5 * want.max())
    np.testing.assert_array_equal(grad_cam(net, images), grad_cam(net, images, "layer3.0"))


def test_it_is_the_class_activation_map_of_a_net_with_global_pooling(rng):
    net = small_net(rng)
    images = rng.normal(size=(2, 3, 8, 8))
    maps = layer_output(net, images, "relu2")
    weights = to_numpy(net.linear.weight.data)
    want = np.einsum("k,nkhw->nhw", weights[2], maps) / (4 * 4)
    np.testing.assert_allclose(grad_cam(net, images, "relu2", target=2, relu=False), want, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(grad_cam(net, images, target=2), np.maximum(want, 0), rtol=1e-10, atol=1e-14)
    assert want.min() < 0 < want.max()


def test_channels_last_give_the_same(rng):
    images = rng.normal(size=(2, 3, 8, 6))
    first = small_net(np.random.default_rng(1))
    last = small_net(np.random.default_rng(1), "NHWC")
    turned = np.ascontiguousarray(np.moveaxis(images, 1, 3))
    gradient = np.moveaxis(input_gradient(last, turned, 1), 3, 1)
    np.testing.assert_allclose(gradient, input_gradient(first, images, 1), rtol=1e-10, atol=1e-14)
    for layer in (None, "conv1", "bn"):
        got = grad_cam(last, turned, layer, target=1)
        np.testing.assert_allclose(got, grad_cam(first, images, layer, target=1), rtol=1e-10, atol=1e-14)


def test_on_every_backend(on, rng, sparing):
    sparing(False)
    net = small_net(np.random.default_rng(1), dtype="float32")
    images = rng.normal(size=(2, 3, 8, 6)).astype(np.float32)
    with xpconv.use_backend("numpy"):
        host = small_net(np.random.default_rng(1), dtype="float32")
        want = input_gradient(host, images, 1), grad_cam(host, images, target=1), layer_output(host, images, "bn")
    x = on.asarray(images)
    got = input_gradient(net, x, 1), grad_cam(net, x, target=1), layer_output(net, x, "bn")
    for array, expected in zip(got, want, strict=True):
        np.testing.assert_allclose(on.to_numpy(array), expected, rtol=1e-4, atol=1e-6)
    # host images are moved to the network
    np.testing.assert_allclose(on.to_numpy(grad_cam(net, images, target=1)), want[1], rtol=1e-4, atol=1e-6)


# ---- what is left behind ----------------------------------------------------------------------------------------


def everything(net):
    """All attributes of all layers, and the gradients."""
    layers = [{**layer.__dict__, "_stack": list(layer._stack)} for _, layer in net.named_layers()]
    stacks = [layer._stack for _, layer in net.named_layers()]
    return layers, stacks, [parameter.grad for parameter in net.parameters()]


def assert_same(before, after):
    for old, new in zip(before[0], after[0], strict=True):
        assert old.keys() == new.keys()
        for name in old:
            if name == "_stack":
                assert list(map(id, old[name])) == list(map(id, new[name]))
            else:
                assert old[name] is new[name], name
    assert all(old is new for old, new in zip(before[1] + before[2], after[1] + after[2], strict=True))


@pytest.mark.parametrize("mode", ["training", "evaluation", "mixed", "before backward", "without need_dx"])
def test_the_network_is_left_as_it_was(rng, mode):
    net = small_net(rng)
    images = rng.normal(size=(2, 3, 8, 6))
    net.backward(rng.normal(size=(2, 6)) + 0 * net(images))
    if mode == "before backward":
        net(images)
    elif mode == "without need_dx":
        net.conv1.need_dx = False
    elif mode != "training":
        net.eval()
        net.conv2.training = mode == "mixed"
    before = everything(net)
    input_gradient(net, images)
    grad_cam(net, images)
    layer_output(net, images, "bn")
    assert_same(before, everything(net))
    for wrong in (
        lambda: input_gradient(net, images, 77),
        lambda: grad_cam(net, images, "linear"),
        lambda: layer_output(net, images[:, :2], "linear"),
    ):
        with pytest.raises(ValueError, match=r"^(target|layer|w): "):
            wrong()
        assert_same(before, everything(net))
    if mode == "before backward":
        net.backward(np.ones((2, 6)))


def test_dropout_and_batch_statistics_have_no_part_in_it(rng):
    net = small_net(rng)
    images = rng.normal(size=(2, 3, 8, 6))
    alone = input_gradient(net, images[:1], 0)
    np.testing.assert_allclose(input_gradient(net, images, 0)[:1], alone, rtol=1e-12)
    np.testing.assert_array_equal(input_gradient(net.eval(), images[:1], 0), alone)


# ---- bad input --------------------------------------------------------------------------------------------------

X = np.zeros((2, 3, 8, 6))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X, "bn", {"target": 6}), ValueError, r"target: must be between 0 and 5, got 6"),
        ((X, "bn", {"target": 1.5}), TypeError, r"target: expected a class or one for each image, got 1\.5"),
        ((X, "bn", {"target": "cat"}), TypeError, r"target: expected a class or one for each image, got .*cat"),
        ((X, "bn", {"target": [1, 2, 3]}), ValueError, r"target: .* for each of 2 images, got shape \(3,\)"),
        ((X, "bn", {"target": [1, -1]}), ValueError, r"target: must be between 0 and 5, got -1"),
        ((X, "bn", {"layout": "CHWN"}), ValueError, r"layout: expected one of NCHW, NHWC, got 'CHWN'"),
        ((X[0], "bn", {}), ValueError, r"images: expected a batch .* got shape \(3, 8, 6\)"),
        ((X[:0], "bn", {}), ValueError, r"images: expected at least one image with pixels, got shape \(0, 3, 8, 6\)"),
        (([1, 2], "bn", {}), TypeError, r"images"),
        ((X, "nothing", {}), ValueError, r"layer: the model has no layer 'nothing'; it has 'conv1', 'bn'"),
        ((X, 3, {}), TypeError, r"layer: expected the path of a layer, such as 'conv1', or a Layer, got 3"),
        ((X, L.ReLU(), {}), ValueError, r"layer: ReLU is not a layer of the model"),
        ((X, "linear", {}), ValueError, r"layer: expected one that gives maps of 4 dimensions, not 'linear'"),
        ((np.full_like(X, np.nan), None, {}), ValueError, r"images: the scores of image 0 have a NaN; name the class"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(rng, arguments, error, message):
    images, layer, more = arguments
    with pytest.raises(error, match=message):
        grad_cam(small_net(rng), images, layer, **more)


def test_nan_goes_where_it_belongs(rng):
    images = rng.normal(size=(2, 3, 8, 6))
    images[1] = np.nan
    maps = grad_cam(small_net(rng), images, target=0)
    assert np.isfinite(maps[0]).all()
    assert np.isnan(maps[1]).any()


def test_models_that_it_is_not_for(rng):
    x = rng.normal(size=(2, 3, 6, 6)).astype(np.float32)
    with pytest.raises(TypeError, match=r"model: expected a Layer, got 3"):
        input_gradient(3, x)
    with pytest.raises(ValueError, match=r"model: expected scores \(N, classes\), its result has shape \(2, 4, 6, 6\)"):
        input_gradient(L.Conv2d(3, 4, 1), x)
    with pytest.raises(ValueError, match="layer: the model uses no Conv2d"):
        grad_cam(L.Sequential(L.Flatten(), L.Linear(108, 3)), x)
    mixed = L.Sequential(L.Conv2d(3, 4, 1), L.ReLU(), L.MaxPool2d(1, layout="NHWC"))
    with pytest.raises(ValueError, match="layout: the model has layers of NCHW and of NHWC"):
        grad_cam(mixed, x)

    class Unused(L.Layer):
        def __init__(self):
            self.used, self.spare = L.Flatten(), L.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.used(x)

        def backward(self, dy):
            return self.used.backward(dy)

    assert input_gradient(Unused(), x).shape == x.shape
    for look in (layer_output, grad_cam):
        with pytest.raises(ValueError, match="layer: the forward of the model does not use 'spare'"):
            look(Unused(), x, "spare")


def test_maps_of_one_pixel_are_not_the_last_ones(rng):
    class Excited(L.Layer):  # squeeze and excitation behind the last convolution
        def __init__(self):
            self.conv, self.squeeze, self.scale = L.Conv2d(3, 4, 3), L.AdaptiveAvgPool2d(1), L.Conv2d(4, 4, 1)
            self.head = L.Sequential(L.GlobalAvgPool2d(), L.Linear(4, 2))

        def forward(self, x):
            y = self.conv(x)
            s = self.scale(self.squeeze(y))
            self.push((y, s))
            return self.head(y * s)

        def backward(self, dy):
            y, s = self.pop()
            dy = self.head.backward(dy)
            squeezed = self.squeeze.backward(self.scale.backward((dy * y).sum((2, 3), keepdims=True)))
            return self.conv.backward(dy * s + squeezed)

    net, x = Excited(), rng.normal(size=(2, 3, 6, 6)).astype(np.float32)
    np.testing.assert_array_equal(grad_cam(net, x), grad_cam(net, x, "conv"))
