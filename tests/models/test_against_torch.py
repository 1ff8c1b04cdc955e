"""The networks against their twins in PyTorch, written here from torchvision's structure: names, results, gradients."""

import numpy as np
import pytest

from xpconv import layers, models

torch = pytest.importorskip("torch", reason="the networks are compared with PyTorch's")
nn = torch.nn


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, before, width, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut_name = shortcut
        if stride != 1 or before != width:
            setattr(self, shortcut, projection(before, width, stride))

    def forward(self, x):
        straight = getattr(self, self.shortcut_name)(x) if hasattr(self, self.shortcut_name) else x
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + straight)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, before, width, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        assert shortcut == "downsample"
        self.downsample = projection(before, 4 * width, stride) if stride != 1 or before != 4 * width else None

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


def projection(before, after, stride):
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


def stage(block, before, width, count, stride, shortcut):
    rest = [block(width * block.expansion, width, 1, shortcut) for _ in range(count - 1)]
    return nn.Sequential(block(before, width, stride, shortcut), *rest)


class ResNet(nn.Module):
    def __init__(self, block, counts, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        e = block.expansion
        self.layer1 = stage(block, 64, 64, counts[0], 1, "downsample")
        self.layer2 = stage(block, 64 * e, 128, counts[1], 2, "downsample")
        self.layer3 = stage(block, 128 * e, 256, counts[2], 2, "downsample")
        self.layer4 = stage(block, 256 * e, 512, counts[3], 2, "downsample")
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512 * e, classes)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class CifarResNet(nn.Module):
    def __init__(self, count, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(BasicBlock, 16, 16, count, 1, "shortcut")
        self.layer2 = stage(BasicBlock, 16, 32, count, 2, "shortcut")
        self.layer3 = stage(BasicBlock, 32, 64, count, 2, "shortcut")
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean(dim=(2, 3)))


class LeNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x):
        for conv in (self.conv1, self.conv2):
            x = torch.max_pool2d(torch.relu(conv(x)), 2)
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1))))))


class VGG(nn.Module):
    def __init__(self, widths, batch_norm, classes, hidden, pooled):
        super().__init__()
        features, before = [], 3
        for width in widths:
            if width == "M":
                features.append(nn.MaxPool2d(2, 2))
                continue
            features.append(nn.Conv2d(before, width, 3, padding=1))
            features += [nn.BatchNorm2d(width)] if batch_norm else []
            features.append(nn.ReLU(inplace=True))
            before = width
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d((pooled, pooled))
        self.classifier = nn.Sequential(
            nn.Linear(512 * pooled * pooled, hidden),
            nn.ReLU(True),
            nn.Dropout(0.0),
            nn.Linear(hidden, hidden),
            nn.ReLU(True),
            nn.Dropout(0.0),
            nn.Linear(hidden, classes),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


VGG11 = [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]
VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


def conv_norm_relu(before, after, size=3, stride=1, groups=1):
    conv = nn.Conv2d(before, after, size, stride, (size - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    def __init__(self, before, after, stride, expansion):
        super().__init__()
        width = before * expansion
        parts = [conv_norm_relu(before, width, 1)] if expansion != 1 else []
        parts.append(conv_norm_relu(width, width, 3, stride, width))
        self.conv = nn.Sequential(*parts, nn.Conv2d(width, after, 1, bias=False), nn.BatchNorm2d(after))
        self.adds = stride == 1 and before == after

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, stem, widths, last, strides, classes):
        super().__init__()
        features, before = [conv_norm_relu(3, stem, 3, strides[0])], stem
        counts = (1, 2, 3, 4, 3, 3, 1)
        for i, (width, count, stride) in enumerate(zip(widths, counts, strides[1:], strict=True)):
            for j in range(count):
                features.append(InvertedResidual(before, width, 1 if j else stride, 6 if i else 1))
                before = width
        features.append(conv_norm_relu(before, last, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(last, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean(dim=(2, 3)))


MOBILE = (32, (16, 24, 32, 64, 96, 160, 320), 1280, (2, 1, 2, 2, 2, 1, 2, 1))
NARROW = (16, (8, 16, 16, 32, 48, 80, 160), 1280, (1, 1, 1, 2, 2, 1, 2, 1))
SMALL = {"hidden_features": 24, "pooled_size": 1, "dropout": 0.0}

# ours, PyTorch's, image size
NETWORKS = {
    "resnet18": (lambda **k: models.resnet18(5, **k), lambda: ResNet(BasicBlock, (2, 2, 2, 2), 5), 33),
    "resnet34": (lambda **k: models.resnet34(5, **k), lambda: ResNet(BasicBlock, (3, 4, 6, 3), 5), 33),
    "resnet50": (lambda **k: models.resnet50(5, **k), lambda: ResNet(Bottleneck, (3, 4, 6, 3), 5), 33),
    "resnet20": (lambda **k: models.resnet20(7, **k), lambda: CifarResNet(3, 7), 9),
    "resnet32": (lambda **k: models.resnet32(7, **k), lambda: CifarResNet(5, 7), 9),
    "resnet56": (lambda **k: models.resnet56(7, **k), lambda: CifarResNet(9, 7), 9),
    "lenet": (lambda **k: models.lenet(6, **k), lambda: LeNet(6), 28),
    "vgg11": (lambda **k: models.vgg11(6, **SMALL, **k), lambda: VGG(VGG11, False, 6, 24, 1), 32),
    "vgg11_bn": (
        lambda **k: models.vgg11_bn(6, **SMALL | {"pooled_size": 3}, **k),
        lambda: VGG(VGG11, True, 6, 24, 3),
        32,
    ),
    "vgg16_bn": (lambda **k: models.vgg16_bn(6, **SMALL, **k), lambda: VGG(VGG16, True, 6, 24, 1), 32),
    "mobilenet_v2": (lambda **k: models.mobilenet_v2(6, dropout=0.0, **k), lambda: MobileNetV2(*MOBILE, 6), 33),
    "mobilenet_v2-narrow": (
        lambda **k: models.mobilenet_v2(6, width_mult=0.5, output_stride=8, dropout=0.0, **k),
        lambda: MobileNetV2(*NARROW, 6),
        18,
    ),
}


def close(ours, theirs, message=""):
    """To 1e-9 of the largest; what a batch normalisation takes out is 0 but for rounding."""
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape, message
    assert np.abs(ours - theirs).max() <= 1e-9 * max(np.abs(theirs).max(), 1e-3), message


def shake(network, rng):
    """Other scales, shifts and statistics than those they start with; some activations reach beyond the 6 of ReLU6."""
    for _, layer in network.named_layers():
        if isinstance(layer, layers.BatchNorm2d):
            shape = layer.weight.shape
            layer.weight.data = rng.uniform(0.8, 2.5, shape)
            layer.bias.data = rng.normal(size=shape)
            layer.running_mean, layer.running_var = rng.normal(size=shape), rng.uniform(0.5, 2, shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_torch(name, rng):
    """Both get the same weights, by the names that both have; then results, gradients and statistics agree."""
    ours, theirs, size = NETWORKS[name]
    network, twin = ours(rng=0, dtype="float64"), theirs().double()
    shake(network, rng)
    if "resnet" in name or "mobilenet" in name:  # blocks do not grow what passes through them
        for _, layer in network.named_layers():
            if isinstance(layer, (models.BasicBlock, models.Bottleneck)):
                last = layer.bn2 if isinstance(layer, models.BasicBlock) else layer.bn3
                last.weight.data = 0.5 * last.weight.data
    state = network.state_dict()
    result = twin.load_state_dict({key: torch.tensor(value) for key, value in state.items()})
    assert not result.missing_keys
    assert list(state) == list(twin.state_dict())  # the same order, too
    channels = 1 if name == "lenet" else 3
    x = rng.normal(size=(3, channels, size, size))
    twin.eval()
    close(network.eval()(x), twin(torch.tensor(x)), "in evaluation")
    network.train()
    twin.train()
    tensor = torch.tensor(x, requires_grad=True)
    y = twin(tensor)
    close(network(x), y, "in training")
    dy = rng.normal(size=tuple(y.shape))
    y.backward(torch.tensor(dy))
    close(network.backward(dy), tensor.grad, "gradient to the images")
    for (key, parameter), other in zip(network.named_parameters(), twin.parameters(), strict=True):
        close(parameter.grad, other.grad, key)
    for (key, buffer), (_, other) in zip(network.named_buffers(), twin.named_buffers(), strict=True):
        close(buffer, other.double(), key)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "vgg11_bn"])
def test_equals_torch_in_single_precision(name, rng):
    """To 1e-5 of the largest score."""
    ours, theirs, size = NETWORKS[name]
    network, twin = ours(rng=0).eval(), theirs().eval()
    twin.load_state_dict({key: torch.tensor(value) for key, value in network.state_dict().items()})
    x = rng.normal(size=(2, 3, size, size)).astype("float32")
    want = twin(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(network(x), want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "mobilenet_v2"])
def test_parameters_of_the_published_networks(name):
    """The numbers that torchvision's documentation gives."""
    known = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "mobilenet_v2": 3_504_872}
    network = getattr(models, name)(rng=0)
    assert sum(parameter.size for parameter in network.parameters()) == known[name]


@pytest.mark.parametrize(
    ("name", "known"),
    [("vgg11", 132_863_336), ("vgg11_bn", 132_868_840), ("vgg16", 138_357_544), ("vgg16_bn", 138_365_992)],
)
def test_parameters_of_the_published_vgg(name, known):
    """torchvision's numbers, less what the hidden layers of 4096 would have, which take a while to draw."""
    hidden = 8
    network = getattr(models, name)(hidden_features=hidden, rng=0)

    def linear(n):
        return (512 * 49 + 1) * n + (n + 1) * n + (n + 1) * 1000

    assert sum(parameter.size for parameter in network.parameters()) == known - linear(4096) + linear(hidden)
    assert network.classifier[0].in_features == 512 * 49
