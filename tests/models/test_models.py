"""The networks: names and shapes, sizes, gradients, and residual nets against PyTorch."""

import math

import numpy as np
import pytest

from xpconv import layers, models
from xpconv.backends import use_backend
from xpconv.layers import BatchNorm1d, Conv2d, Dropout, LayerNorm, Linear
from xpconv.testing import check_layer


def shapes(network):
    return {name: tuple(array.shape) for name, array in network.state_dict().items()}


def count(network):
    return sum(parameter.size for parameter in network.parameters())


def batch_norm(name, channels):
    """What a batch normalisation has in a state_dict."""
    vectors = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {**vectors, f"{name}.num_batches_tracked": ()}


class TestBuild:
    def test_names(self):
        assert models.NAMES == (
            "small-cnn",
            "lenet",
            "three-layer-convnet",
            "fully-connected",
            "resnet20",
            "resnet32",
            "resnet56",
            "resnet18",
            "resnet34",
            "resnet50",
            "vgg11-bn",
            "vgg16-bn",
            "mobilenet-v2",
        )

    @pytest.mark.parametrize("name", models.NAMES)
    @pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (16, 20))])
    def test_trains_a_step(self, name, channels, size, rng):
        if name.startswith(("resnet", "mobilenet")):  # they take images of any size, and time
            size = (size[0] // 2, size[1] // 2)
        elif name.startswith("vgg"):
            size = (32, 36)
        network = models.build(name, in_channels=channels, image_size=size, num_classes=7, rng=0)
        x = rng.normal(size=(2, channels, *size)).astype(np.float32)
        y = network(x)
        assert y.shape == (2, 7)
        assert y.dtype == np.float32
        assert np.isfinite(y).all()
        assert network.backward(np.ones_like(y)) is None  # the images need no gradient
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert np.isfinite(parameter.grad).all(), parameter_name
        assert not any(layer._stack for _, layer in network.named_layers())

    def test_same_weights_on_every_backend(self, on):
        with use_backend("numpy"):
            reference = models.build("small-cnn", in_channels=1, image_size=12, num_classes=4, rng=3, dtype="float64")
        network = models.build("small-cnn", in_channels=1, image_size=12, num_classes=4, rng=3)
        for (name, array), other in zip(network.state_dict().items(), reference.state_dict().values(), strict=True):
            np.testing.assert_array_equal(on.to_numpy(array), other.astype(on.to_numpy(array).dtype), err_msg=name)
        assert network.dropout._seed == reference.dropout._seed

    def test_dtype(self):
        for name in ("lenet", "resnet20", "fully-connected"):
            network = models.build(name, in_channels=1, image_size=28, num_classes=10, rng=0, dtype="float64")
            assert all(parameter.data.dtype == np.float64 for parameter in network.parameters())

    def test_refuses(self):
        with pytest.raises(ValueError, match=r"name: expected one of small-cnn, lenet, .*, got 'alexnet'"):
            models.build("alexnet", in_channels=1, image_size=28, num_classes=10)
        with pytest.raises(ValueError, match="image_size: must be at least 8 x 8, got 7 x 30"):
            models.build("small-cnn", in_channels=1, image_size=(7, 30), num_classes=10)
        with pytest.raises(ValueError, match="image_size: must be at least 12 x 12, got 11 x 11"):
            models.build("lenet", in_channels=1, image_size=11, num_classes=10)
        with pytest.raises(ValueError, match="image_size: must be at least 2 x 2"):
            models.build("three-layer-convnet", in_channels=1, image_size=1, num_classes=10)
        for name in models.NAMES:
            with pytest.raises(ValueError, match="must be at least 1, got 0"):
                models.build(name, in_channels=1, image_size=32, num_classes=0)
            with pytest.raises(ValueError, match="must be at least 1, got 0"):
                models.build(name, in_channels=0, image_size=32, num_classes=10)
        with pytest.raises(ValueError, match="image_size: must be at least 32 x 32, got 28 x 28"):
            models.build("vgg11-bn", in_channels=1, image_size=28, num_classes=10)

    @pytest.mark.parametrize(("name", "size"), [("small-cnn", 8), ("lenet", 12), ("three-layer-convnet", 2)])
    def test_smallest_images(self, name, size):
        network = models.build(name, in_channels=2, image_size=size, num_classes=3, rng=0).eval()
        assert network(np.ones((1, 2, size, size), np.float32)).shape == (1, 3)


@pytest.mark.parametrize(
    "network",
    [
        lambda: models.FullyConnectedNet([5, 4], 12, 3, rng=0),
        lambda: models.FullyConnectedNet([5, 4], 12, 3, normalization="batchnorm", dropout=0.3, rng=0),
        lambda: models.FullyConnectedNet([5], 12, 3, normalization="layernorm", weight_scale=0.5, rng=0),
        lambda: models.ThreeLayerConvNet(2, (4, 6), 3, num_filters=3, filter_size=3, hidden_dim=5, rng=0),
        lambda: models.LeNet(2, 12, 3, rng=0),
        lambda: models.SmallConvNet(2, 8, 3, width=2, rng=0),
        lambda: models.CifarResNet(8, 2, 3, rng=0),
    ],
)
def test_gradients(network, rng):
    network = network().to(dtype="float64")
    size = {"ThreeLayerConvNet": (4, 6), "LeNet": (12, 12), "SmallConvNet": (8, 8), "CifarResNet": (8, 8)}
    x = rng.normal(size=(3, 2, *size.get(type(network).__name__, (2, 3))))
    # the step is small against the distance of most numbers from the kinks of ReLU and max pooling
    check_layer(network, x, eps=1e-7, rtol=1e-4)


class TestFullyConnectedNet:
    def test_layers(self):
        network = models.FullyConnectedNet([100, 50], 3 * 32 * 32, 10, normalization="layernorm", dropout=0.25)
        assert [name for name, _ in network.named_children()] == [
            "flatten",
            "linear1",
            "norm1",
            "relu1",
            "dropout1",
            "linear2",
            "norm2",
            "relu2",
            "dropout2",
            "linear3",
        ]
        assert isinstance(network.norm1, LayerNorm)
        assert network.dropout2.p == 0.25
        assert isinstance(models.FullyConnectedNet([3], normalization="batchnorm").norm1, BatchNorm1d)
        assert shapes(models.FullyConnectedNet([], 6, 2)) == {"linear1.weight": (2, 6), "linear1.bias": (2,)}

    def test_weight_scale(self, on):
        network = models.FullyConnectedNet([200], 300, weight_scale=1e-2, rng=0)
        weights = on.to_numpy(network.linear1.weight.data)
        assert weights.std() == pytest.approx(1e-2, rel=0.02)
        assert weights.dtype == np.float32
        assert not on.to_numpy(network.linear2.bias.data).any()

    def test_refuses(self):
        with pytest.raises(ValueError, match="normalization: expected None, 'batchnorm' or 'layernorm', got 'group'"):
            models.FullyConnectedNet([3], normalization="group")
        with pytest.raises(ValueError, match="weight_scale: expected a number above 0, got 0"):
            models.FullyConnectedNet([3], weight_scale=0)
        with pytest.raises(ValueError, match=r"dropout: expected a number between 0 and 1, got 1\.5"):
            models.FullyConnectedNet([3], dropout=1.5)
        with pytest.raises(ValueError, match="hidden_dims: must be at least 1, got 0"):
            models.FullyConnectedNet([0])
        for dims in (5, "12", None):
            with pytest.raises(TypeError, match=f"hidden_dims: expected a sequence of integers, got {dims!r}"):
                models.FullyConnectedNet(dims)


class TestConvNets:
    def test_three_layer_convnet(self):
        network = models.ThreeLayerConvNet(weight_scale=1e-3, rng=0)
        assert shapes(network) == {
            "conv1.weight": (32, 3, 7, 7),
            "conv1.bias": (32,),
            "linear1.weight": (100, 32 * 16 * 16),
            "linear1.bias": (100,),
            "linear2.weight": (10, 100),
            "linear2.bias": (10,),
        }
        assert network.conv1.weight.data.std() == pytest.approx(1e-3, rel=0.05)
        # with small weights all classes are equally likely, as the course checks: loss log(10)
        scores = network(np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32))
        losses = np.log(np.exp(scores).sum(axis=1)) - scores[:, 0]
        np.testing.assert_allclose(losses, math.log(10), rtol=1e-2)
        with pytest.raises(ValueError, match=r"filter_size: must be odd, .* got 4"):
            models.ThreeLayerConvNet(filter_size=4)
        with pytest.raises(TypeError, match="filter_size: expected an integer, got '3'"):
            models.ThreeLayerConvNet(filter_size="3")

    @pytest.mark.parametrize(("channels", "size", "features"), [(1, 28, 400), (1, 32, 400), (3, 40, 16 * 7 * 7)])
    def test_lenet(self, channels, size, features):
        assert shapes(models.LeNet(channels, size)) == {
            "conv1.weight": (6, channels, 5, 5),
            "conv1.bias": (6,),
            "conv2.weight": (16, 6, 5, 5),
            "conv2.bias": (16,),
            "fc1.weight": (120, features),
            "fc1.bias": (120,),
            "fc2.weight": (84, 120),
            "fc2.bias": (84,),
            "fc3.weight": (10, 84),
            "fc3.bias": (10,),
        }

    def test_small_convnet(self):
        assert shapes(models.SmallConvNet()) == {
            "conv1.weight": (16, 1, 3, 3),
            **batch_norm("bn1", 16),
            "conv2.weight": (32, 16, 3, 3),
            **batch_norm("bn2", 32),
            "conv3.weight": (64, 32, 3, 3),
            **batch_norm("bn3", 64),
            "fc.weight": (10, 576),
            "fc.bias": (10,),
        }
        assert any(isinstance(layer, Dropout) for layer in models.SmallConvNet())
        assert not any(isinstance(layer, Dropout) for layer in models.SmallConvNet(dropout=0))


RESNET18 = {
    "conv1.weight": (64, 3, 7, 7),
    **batch_norm("bn1", 64),
    "layer1.0.conv1.weight": (64, 64, 3, 3),
    **batch_norm("layer1.0.bn1", 64),
    "layer1.0.conv2.weight": (64, 64, 3, 3),
    **batch_norm("layer1.0.bn2", 64),
    "layer1.1.conv1.weight": (64, 64, 3, 3),
    **batch_norm("layer1.1.bn1", 64),
    "layer1.1.conv2.weight": (64, 64, 3, 3),
    **batch_norm("layer1.1.bn2", 64),
    "layer2.0.conv1.weight": (128, 64, 3, 3),
    **batch_norm("layer2.0.bn1", 128),
    "layer2.0.conv2.weight": (128, 128, 3, 3),
    **batch_norm("layer2.0.bn2", 128),
    "layer2.0.downsample.0.weight": (128, 64, 1, 1),
    **batch_norm("layer2.0.downsample.1", 128),
    "layer2.1.conv1.weight": (128, 128, 3, 3),
    **batch_norm("layer2.1.bn1", 128),
    "layer2.1.conv2.weight": (128, 128, 3, 3),
    **batch_norm("layer2.1.bn2", 128),
    "layer3.0.conv1.weight": (256, 128, 3, 3),
    **batch_norm("layer3.0.bn1", 256),
    "layer3.0.conv2.weight": (256, 256, 3, 3),
    **batch_norm("layer3.0.bn2", 256),
    "layer3.0.downsample.0.weight": (256, 128, 1, 1),
    **batch_norm("layer3.0.downsample.1", 256),
    "layer3.1.conv1.weight": (256, 256, 3, 3),
    **batch_norm("layer3.1.bn1", 256),
    "layer3.1.conv2.weight": (256, 256, 3, 3),
    **batch_norm("layer3.1.bn2", 256),
    "layer4.0.conv1.weight": (512, 256, 3, 3),
    **batch_norm("layer4.0.bn1", 512),
    "layer4.0.conv2.weight": (512, 512, 3, 3),
    **batch_norm("layer4.0.bn2", 512),
    "layer4.0.downsample.0.weight": (512, 256, 1, 1),
    **batch_norm("layer4.0.downsample.1", 512),
    "layer4.1.conv1.weight": (512, 512, 3, 3),
    **batch_norm("layer4.1.bn1", 512),
    "layer4.1.conv2.weight": (512, 512, 3, 3),
    **batch_norm("layer4.1.bn2", 512),
    "fc.weight": (1000, 512),
    "fc.bias": (1000,),
}

CIFAR_RESNET8 = {
    "conv1.weight": (16, 3, 3, 3),
    **batch_norm("bn1", 16),
    "layer1.0.conv1.weight": (16, 16, 3, 3),
    **batch_norm("layer1.0.bn1", 16),
    "layer1.0.conv2.weight": (16, 16, 3, 3),
    **batch_norm("layer1.0.bn2", 16),
    "layer2.0.conv1.weight": (32, 16, 3, 3),
    **batch_norm("layer2.0.bn1", 32),
    "layer2.0.conv2.weight": (32, 32, 3, 3),
    **batch_norm("layer2.0.bn2", 32),
    "layer2.0.shortcut.0.weight": (32, 16, 1, 1),
    **batch_norm("layer2.0.shortcut.1", 32),
    "layer3.0.conv1.weight": (64, 32, 3, 3),
    **batch_norm("layer3.0.bn1", 64),
    "layer3.0.conv2.weight": (64, 64, 3, 3),
    **batch_norm("layer3.0.bn2", 64),
    "layer3.0.shortcut.0.weight": (64, 32, 1, 1),
    **batch_norm("layer3.0.shortcut.1", 64),
    "linear.weight": (10, 64),
    "linear.bias": (10,),
}


def torch_resnet(torch, state, x, stages, shortcut, head, training):
    """A residual net of basic blocks written with torch.nn.functional alone, from its description in the paper."""
    F = torch.nn.functional

    def normalised_conv(x, conv, norm, stride, padding):
        y = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=padding)
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return F.batch_norm(y, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"], training)

    if head == "fc":
        x = F.max_pool2d(F.relu(normalised_conv(x, "conv1", "bn1", 2, 3)), 3, 2, 1)
    else:
        x = F.relu(normalised_conv(x, "conv1", "bn1", 1, 1))
    for stage, blocks in enumerate(stages, 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.relu(normalised_conv(x, f"{name}.conv1", f"{name}.bn1", stride, 1))
            y = normalised_conv(y, f"{name}.conv2", f"{name}.bn2", 1, 1)
            if f"{name}.{shortcut}.0.weight" in state:
                x = normalised_conv(x, f"{name}.{shortcut}.0", f"{name}.{shortcut}.1", stride, 0)
            x = F.relu(x + y)
    return F.linear(x.mean(dim=(2, 3)), state[f"{head}.weight"], state[f"{head}.bias"])


class TestResidualNets:
    def test_resnet18_has_the_names_of_torchvision(self):
        network = models.ResNet18()
        assert list(shapes(network).items()) == list(RESNET18.items())
        assert len(RESNET18) == 122
        assert count(network) == 11_689_512

    def test_cifar_resnets(self):
        assert list(shapes(models.CifarResNet(8)).items()) == list(CIFAR_RESNET8.items())
        # option B adds two 1x1 convolutions with batch normalisation to what the paper counts
        option_b = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
        for depth, option_a in ((20, 269_722), (32, 464_154), (56, 853_018)):
            network = models.CifarResNet(depth)
            assert count(network) == option_a + option_b
            weighted = [n for n, layer in network.named_layers() if isinstance(layer, (Conv2d, Linear))]
            assert len([name for name in weighted if "shortcut" not in name]) == depth
        for depth in (18, 2, 0, 21):
            with pytest.raises(ValueError, match=f"depth: must be 6 n . 2 .* got {depth}"):
                models.CifarResNet(depth)
        with pytest.raises(TypeError, match="depth: expected an integer, got '20'"):
            models.CifarResNet("20")

    @pytest.mark.parametrize("kind", ["cifar", "resnet18"])
    def test_equals_torch(self, kind, rng):
        torch = pytest.importorskip("torch")
        if kind == "cifar":
            network, stages, shortcut, head, size = models.CifarResNet(14, rng=0), (2, 2, 2), "shortcut", "linear", 9
        else:
            network, stages, shortcut, head = models.ResNet18(3, 5, rng=0), (2, 2, 2, 2), "downsample", "fc"
            size = 20
        network.to(dtype="float64")
        state = {
            name: torch.tensor(array, requires_grad="running" not in name and "num" not in name)
            for name, array in network.state_dict().items()
        }
        x, dy = rng.normal(size=(3, 3, size, size)), rng.normal(size=(3, network[-1].out_features))
        tensor = torch.tensor(x, requires_grad=True)
        result = torch_resnet(torch, state, tensor, stages, shortcut, head, True)
        result.backward(torch.tensor(dy))
        np.testing.assert_allclose(network(x), result.detach().numpy(), rtol=1e-9, atol=1e-9)
        dx = network.backward(dy)
        np.testing.assert_allclose(dx, tensor.grad.numpy(), rtol=1e-7, atol=1e-9)
        for name, parameter in network.named_parameters():
            scale = np.abs(parameter.grad).max()
            np.testing.assert_allclose(parameter.grad, state[name].grad.numpy(), rtol=1e-7, atol=1e-9 * scale)
        network.eval()
        with torch.no_grad():
            evaluated = torch_resnet(torch, state, tensor, stages, shortcut, head, False)
        np.testing.assert_allclose(network(x), evaluated.numpy(), rtol=1e-8, atol=1e-8)

    def test_initial_weights_are_he_normal_by_fan_out(self):
        network = models.ResNet18(rng=0)
        for name, layer in network.named_layers():
            if isinstance(layer, Conv2d):
                fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
                assert layer.weight.data.std() == pytest.approx(math.sqrt(2 / fan_out), rel=0.03), name

    @pytest.mark.parametrize(("out_channels", "stride"), [(4, 1), (8, 2)])
    def test_block_on_every_backend(self, on, out_channels, stride, rng):
        if on.id == "jax":
            pytest.skip("JAX compiles every operator for every shape, which takes long")
        x = rng.normal(size=(3, 4, 8, 8)).astype(np.float32)
        found = []
        for backend, asarray, to_numpy in (("numpy", np.asarray, np.asarray), (on.backend, on.asarray, on.to_numpy)):
            with use_backend(backend):
                block = models.BasicBlock(4, out_channels, stride, rng=0)
            y = block(asarray(x))
            dx = block.backward(asarray(np.cos(np.arange(math.prod(y.shape), dtype=np.float32)).reshape(y.shape)))
            gradients = [parameter.grad for parameter in block.parameters()]
            found.append([to_numpy(array) for array in (y, dx, *gradients, *block.state_dict().values())])
        for want, got in zip(*found, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * max(1, np.abs(want).max()))

    def test_block_names_its_shortcut(self):
        block = models.BasicBlock(4, 8, 2, shortcut="project", rng=0)
        assert "project.0.weight" in block.state_dict()
        plain = models.BasicBlock(4, 4, shortcut="project", rng=0)
        assert plain.project is None
        assert [name for name, _ in plain.named_children()] == ["conv1", "bn1", "conv2", "bn2"]
        assert isinstance(plain, layers.Layer)
