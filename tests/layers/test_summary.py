"""`Layer.summary`: shapes, known networks, counts by hand; and the network is as before."""

import io
import math

import numpy as np
import pytest

import xpconv
from xpconv import layers as L
from xpconv import models
from xpconv.layers import Operations, count_operations


def rows_of(network, shape, **options):
    return network.summary(shape, file=io.StringIO(), **options).rows


def weighted(rows):
    """Multiply-accumulates of convolutions and linear layers alone: what most published figures count."""
    return sum(row.operations.macs for row in rows if row.kind in ("Conv2d", "Linear"))


# parameters; multiply-accumulates of convolutions and linear layers as torchvision's documentation gives them, in 1e9
PUBLISHED = {
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "mobilenet_v2": (3_504_872, 0.301),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name):
    summary = getattr(models, name)(rng=0).summary((3, 224, 224), file=io.StringIO())
    parameters, billions = PUBLISHED[name]
    assert summary.parameters == parameters
    assert round(weighted(summary.rows) / 1e9, 3) == billions
    assert weighted(summary.rows) < summary.macs < 1.03 * weighted(summary.rows)  # and batch normalisation
    assert 2 * summary.macs < summary.flops < 2.1 * summary.macs
    assert summary.rows[0].shape == (1000,)


def test_resnet18_to_the_last_operation():
    summary = models.resnet18(rng=0).summary((3, 224, 224), file=io.StringIO())
    assert weighted(summary.rows) == 1_814_073_344
    # numbers that come out of batch normalisations, and of those that add a residual
    sizes = [64 * 112**2, *[64 * 56**2] * 4, *[128 * 28**2] * 5, *[256 * 14**2] * 5, *[512 * 7**2] * 5]
    assert summary.macs == 1_814_073_344 + sum(sizes)
    relus = sum(sizes) - 128 * 28**2 - 256 * 14**2 - 512 * 7**2  # none in the shortcuts
    sums = 2 * (64 * 56**2 + 128 * 28**2 + 256 * 14**2 + 512 * 7**2)
    pooling, average, bias = 64 * 56**2 * 9, 512 * 7**2, 1000
    assert summary.flops == 2 * summary.macs + relus + sums + pooling + average + bias
    assert f"{summary.macs / 1e9:.2f}" == "1.82"
    assert "parameters    11,689,512; with buffers 46.8 MB\noperations    1.82 GMACs, 3.64 GFLOPs" in summary.table()
    layer = {row.name: row for row in summary.rows}["layer2.0.downsample.0"]
    assert layer[:6] == ("layer2.0.downsample.0", "Conv2d", 4, (128, 28, 28), 8192, Operations(128 * 28**2 * 64, 0))
    assert layer.memory == 128 * 28**2 * 4


# layer, input shape, result's shape, operations by hand
CASES = {
    "conv": (lambda: L.Conv2d(3, 8, 3, padding=1), (3, 10, 12), (8, 10, 12), (8 * 120 * 27, 8 * 120)),
    "conv, stride": (lambda: L.Conv2d(3, 8, (3, 5), 2, bias=False), (3, 11, 11), (8, 5, 4), (8 * 20 * 45, 0)),
    "grouped": (lambda: L.Conv2d(6, 4, 3, groups=2, bias=False), (6, 5, 5), (4, 3, 3), (4 * 9 * 27, 0)),
    "depthwise": (lambda: L.Conv2d(6, 6, 3, groups=6, padding=1, bias=False), (6, 5, 5), (6, 5, 5), (6 * 25 * 9, 0)),
    "dilated": (lambda: L.Conv2d(2, 2, 3, dilation=2, bias=False), (2, 7, 7), (2, 3, 3), (2 * 9 * 18, 0)),
    "channels last": (lambda: L.Conv2d(3, 4, 3, layout="NHWC", bias=False), (6, 6, 3), (4, 4, 4), (64 * 27, 0)),
    "transposed": (lambda: L.ConvTranspose2d(4, 6, 2, 2, groups=2), (4, 5, 5), (6, 10, 10), (100 * 12, 600)),
    "conv1d": (lambda: L.Conv1d(3, 5, 4), (3, 11), (5, 8), (40 * 12, 40)),
    "binary": (lambda: L.BinaryConv2d(2, 3, 3), (2, 5, 5), (3, 3, 3), (27 * 18, 27)),
    "linear": (lambda: L.Linear(20, 7), (20,), (7,), (140, 7)),
    "linear of axes": (lambda: L.Linear(20, 7, bias=False), (3, 20), (3, 7), (420, 0)),
    "batch norm": (lambda: L.BatchNorm2d(3), (3, 4, 5), (3, 4, 5), (60, 0)),
    "batch norm and ReLU": (lambda: L.BatchNorm2d(3, activation="relu"), (3, 4, 5), (3, 4, 5), (60, 60)),
    "batch norm of vectors": (lambda: L.BatchNorm1d(9), (9,), (9,), (9, 0)),
    "of its own statistics": (lambda: L.BatchNorm1d(9, track_running_stats=False), (9,), (9,), (9, 0)),
    "layer norm": (lambda: L.LayerNorm(8), (4, 8), (4, 8), (64, 64)),
    "group norm": (lambda: L.GroupNorm(2, 4), (4, 3, 3), (4, 3, 3), (72, 72)),
    "instance norm": (lambda: L.InstanceNorm2d(4), (4, 3, 3), (4, 3, 3), (72, 72)),
    "activation": (L.GELU, (5, 6), (5, 6), (0, 30)),
    "ReLU6": (L.ReLU6, (5, 6), (5, 6), (0, 30)),
    "max pooling": (lambda: L.MaxPool2d(3, 2, padding=1), (2, 7, 7), (2, 4, 4), (0, 32 * 9)),
    "average pooling": (lambda: L.AvgPool2d((2, 3)), (2, 6, 6), (2, 3, 2), (0, 12 * 6)),
    "global average": (L.GlobalAvgPool2d, (5, 4, 6), (5,), (0, 120)),
    "adaptive average": (lambda: L.AdaptiveAvgPool2d((2, 3)), (5, 4, 6), (5, 2, 3), (0, 120)),
    "overlapping": (lambda: L.AdaptiveAvgPool2d(2), (1, 3, 3), (1, 2, 2), (0, 16)),
    "enlarging": (lambda: L.AdaptiveAvgPool2d(7), (5, 1, 1), (5, 7, 7), (0, 5 * 49)),
    "adaptive, last": (lambda: L.AdaptiveAvgPool2d((2, 3), layout="NHWC"), (4, 6, 5), (2, 3, 5), (0, 120)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rules(name):
    make, shape, result, operations = CASES[name]
    layer = make()
    (row,) = rows_of(layer, shape)
    assert row.shape == result
    assert row.operations == operations
    assert row.operations.flops == 2 * operations[0] + operations[1]
    assert row.parameters == sum(parameter.size for parameter in layer.parameters())
    assert row.memory == 4 * math.prod(result)


@pytest.mark.parametrize("make", [L.Flatten, L.Identity, lambda: L.Dropout(0.5)])
def test_layers_that_compute_nothing(make):
    (row,) = rows_of(make(), (2, 3, 4))
    assert row.operations == (0, 0)
    assert row.memory == 0


def test_every_network_and_layer_has_rules():
    """A sum of residuals in a block of one's own counts, too."""
    for name in models.NAMES:
        if name in ("resnet18", "resnet34", "resnet50", "resnet56"):
            continue  # of the same layers as others, and large
        network = models.build(name, in_channels=3, image_size=32, num_classes=10, rng=0)
        summary = network.summary((3, 32, 32), file=io.StringIO())
        assert not summary.not_counted, name
        assert summary.parameters == sum(parameter.size for parameter in network.parameters())
    for block, adds in ((models.InvertedResidual(8, 8, 1, 2), 8 * 36), (models.InvertedResidual(8, 8, 2, 2), 0)):
        assert rows_of(block, (8, 6, 6))[0].operations == (0, adds)
        assert rows_of(block, (8, 6, 6))[0].memory == 4 * adds


# ---- containers -------------------------------------------------------------------------------------------------


def nested():
    body = L.Sequential(L.Conv2d(4, 4, 3, padding=1, bias=False), L.BatchNorm2d(4))
    return L.Sequential(
        {
            "stem": L.Conv2d(1, 4, 3, padding=1),
            "block": L.Residual(body, L.Conv2d(4, 4, 1, bias=False)),
            "relu": L.ReLU(),
            "wide": L.Concat(L.MaxPool2d(2), L.AvgPool2d(2)),
            "flatten": L.Flatten(),
            "dropout": L.Dropout(0.5),
            "fc": L.Linear(8 * 9, 5),
        }
    )


TABLE = """\
layer                result      parameters    MACs   FLOPs   memory
--------------------------------------------------------------------
Sequential           (5,)
  stem (Conv2d)      (4, 6, 6)           40  1.30 k  2.74 k    576 B
  block (Residual)   (4, 6, 6)                          144    576 B
    body (Sequential)  (4, 6, 6)
"""


def test_nested():
    network = nested()
    rows = rows_of(network, (1, 6, 6))
    found = [(row.name, row.kind, row.depth, row.shape, row.parameters, row.operations, row.memory) for row in rows]
    size = 4 * 36  # numbers in an image of 4 channels
    assert found == [
        ("", "Sequential", 0, (5,), 0, (0, 0), 0),
        ("stem", "Conv2d", 1, (4, 6, 6), 40, (size * 9, size), 4 * size),
        ("block", "Residual", 1, (4, 6, 6), 0, (0, size), 4 * size),
        ("block.body", "Sequential", 2, (4, 6, 6), 0, (0, 0), 0),
        ("block.body.0", "Conv2d", 3, (4, 6, 6), 144, (size * 36, 0), 4 * size),
        ("block.body.1", "BatchNorm2d", 3, (4, 6, 6), 8, (size, 0), 4 * size),
        ("block.shortcut", "Conv2d", 2, (4, 6, 6), 16, (size * 4, 0), 4 * size),
        ("relu", "ReLU", 1, (4, 6, 6), 0, (0, size), 4 * size),
        ("wide", "Concat", 1, (8, 3, 3), 0, (0, 0), 4 * 72),
        ("wide.0", "MaxPool2d", 2, (4, 3, 3), 0, (0, 36 * 4), 4 * 36),
        ("wide.1", "AvgPool2d", 2, (4, 3, 3), 0, (0, 36 * 4), 4 * 36),
        ("flatten", "Flatten", 1, (72,), 0, (0, 0), 0),
        ("dropout", "Dropout", 1, (72,), 0, (0, 0), 0),
        ("fc", "Linear", 1, (5,), 365, (360, 5), 20),
    ]
    summary = network.summary((1, 6, 6), batch_size=10, file=io.StringIO())
    assert summary.parameters == 40 + 144 + 8 + 16 + 365
    assert summary.parameter_memory == 4 * summary.parameters + 4 * 8 + 8  # running statistics, an int64
    assert summary.macs == size * 50 + 360
    assert summary.flops == 2 * summary.macs + 3 * size + 2 * 144 + 5
    assert summary.activation_memory == 10 * 4 * (6 * size + 72 + 72 + 5)


def test_printed(capsys):
    summary = nested().summary((1, 6, 6), depth=1)
    text = summary.table(depth=1)
    assert capsys.readouterr().out == f"{text}\n"
    assert text.startswith("""\
layer                result     parameters    MACs   FLOPs   memory
-------------------------------------------------------------------
Sequential           (5,)
  stem (Conv2d)      (4, 6, 6)          40  1.30 k  2.74 k    576 B
  block (Residual)   (4, 6, 6)         168  5.90 k  12.0 k  2.30 kB
  relu (ReLU)        (4, 6, 6)           0       0     144    576 B
  wide (Concat)      (8, 3, 3)           0       0     288    576 B
  flatten (Flatten)  (72,)               0       0       0      0 B
  dropout (Dropout)  (72,)               0       0       0      0 B
  fc (Linear)        (5,)              365     360     725     20 B
-------------------------------------------------------------------
""")
    lines = [" ".join(line.split()) for line in summary.table().split("\n")]
    assert "0 (Conv2d) (4, 6, 6) 144 5.18 k 10.4 k 576 B" in lines
    assert "block (Residual) (4, 6, 6) 144 576 B" in lines  # around others: what it does itself
    assert text.endswith(
        "input         (1, 6, 6), float32 on numpy\n"
        "parameters    573; with buffers 2.33 kB\n"
        "operations    7.56 kMACs, 15.8 kFLOPs for an image, forward\n"
        "activations   4.05 kB for an image"
    )
    whole = summary.table(depth=0).split("\n")
    assert whole[2].split() == ["Sequential", "(5,)", "573", "7.56", "k", "15.8", "k", "4.05", "kB"]
    # print(net.summary(...)) has one table: that which the method prints
    assert str(summary) == repr(summary) == "Summary(parameters=573, macs=7560, flops=15845)"


def test_prints_where_it_is_told(capsys):
    file = io.StringIO()
    summary = nested().summary((1, 6, 6), batch_size=3, file=file)
    assert file.getvalue() == f"{summary.table()}\n"
    assert "for a batch of 3" in file.getvalue()
    assert capsys.readouterr().out == ""


def test_a_layer_that_is_used_twice_and_one_that_is_not():
    class Twice(L.Layer):
        def __init__(self):
            self.fc = L.Linear(4, 4)
            self.tied = L.Linear(4, 4)
            self.tied.weight = self.fc.weight
            self.spare = L.Linear(4, 9)

        def forward(self, x):
            return self.tied(self.fc(self.fc(x)))

    network = Twice()
    rows = rows_of(network, (4,))
    assert [(row.name, row.shape, row.parameters, row.operations.macs) for row in rows] == [
        ("", (4,), 0, 0),
        ("fc", (4,), 20, 16),
        ("fc", (4,), 0, 16),
        ("tied", (4,), 4, 16),
        ("spare", None, 45, 0),
    ]
    summary = network.summary((4,), file=io.StringIO())
    assert summary.parameters == sum(parameter.size for parameter in network.parameters()) == 69
    assert "spare (Linear)  (not used)" in summary.table()


def test_layers_that_others_call_are_named_by_their_path():
    """And a layer may have several results."""

    class Halves(L.Layer):
        def forward(self, x):
            return x[:, :2] * 2, x[:, 2:] * 2

    class Graph(L.Layer):
        def __init__(self):
            self.split = Halves()
            self.scope = L.Sequential(L.Sequential(L.Linear(2, 3)), L.Linear(2, 3))

        def forward(self, x):
            a, b = self.split(x)
            return self.scope[0][0](a) + self.scope[1](b)

    summary = Graph().summary((4,), file=io.StringIO())
    assert [(row.name, row.depth, row.memory) for row in summary.rows] == [
        ("", 0, 12),
        ("split", 1, 16),
        ("scope.0.0", 1, 12),
        ("scope.1", 1, 12),
    ]
    names = [line.split("  (")[0] for line in summary.table().split("\n")[2:6]]
    assert [name.rstrip() for name in names] == [
        "Graph",
        "  split (Halves)",
        "  scope.0.0 (Linear)",
        "  scope.1 (Linear)",
    ]


def test_models_from_onnx_files_cost_what_those_written_did(tmp_path):
    pytest.importorskip("onnx", reason="writes and reads ONNX files")
    network = models.resnet18(5, rng=0).eval()
    xpconv.onnx.export(network, tmp_path / "net.onnx", (3, 40, 40))
    loaded = xpconv.onnx.load(tmp_path / "net.onnx")
    ours, theirs = (net.summary((3, 40, 40), file=io.StringIO()) for net in (network, loaded))
    assert theirs.macs == ours.macs
    assert theirs.parameters == ours.parameters


class Scale(L.Layer):
    def __init__(self, features):
        self.scale = L.Parameter(xpconv.asarray(np.ones(features, np.float32)))

    def forward(self, x):
        self.push(x)
        return x * self.scale.data


class KnownScale(Scale):
    pass


@count_operations.register
def _(layer: KnownScale, inputs, output):
    return Operations(0, math.prod(output))


def test_layers_of_ones_own():
    network = L.Sequential(Scale(5), L.Linear(5, 2))
    summary = network.summary((5,), file=io.StringIO())
    assert summary.not_counted == ["Scale"]
    assert summary.rows[1].operations is None
    assert summary.rows[1].parameters == 5
    assert summary.macs == 10
    assert summary.table().endswith("not counted   operations of Scale")
    assert L.Sequential(KnownScale(5)).summary((5,), file=io.StringIO()).flops == 5


# ---- nothing changes --------------------------------------------------------------------------------------------


def state_of(network):
    return [
        (name, layer.training, layer._keeps, len(layer._stack), sorted(layer.__dict__))
        for name, layer in network.named_layers()
    ]


def test_the_network_is_as_before(on):
    network = nested()
    if on.id == "jax":  # which compiles every operator for every shape
        network = L.Sequential({"block": L.Residual(L.BatchNorm2d(1)), "dropout": L.Dropout(0.5)})
    network.block.eval()  # one that is frozen
    x = on.asarray(np.random.default_rng(0).normal(size=(2, 1, 6, 6)), "float32")
    network(x)  # its caches wait for a backward
    before, arrays = state_of(network), {k: on.to_numpy(v) for k, v in network.state_dict().items()}
    uses = network.dropout._uses
    summary = network.summary((1, 6, 6), file=io.StringIO())
    assert state_of(network) == before
    assert network.dropout._uses == uses
    for name, array in network.state_dict().items():
        np.testing.assert_array_equal(on.to_numpy(array), arrays[name])
    assert summary.rows[0].shape == tuple(network.eval()(x).shape[1:])
    assert summary.table().split("input ")[1].strip().startswith(f"(1, 6, 6), float32 on {xpconv.get_backend().name}")


def test_backward_after_a_summary():
    network, other = nested(), nested()
    other.load_state_dict(network.state_dict())
    x, dy = np.ones((2, 1, 6, 6), np.float32), np.ones((2, 5), np.float32)
    for net in (network, other):
        net.dropout.p = 0.0
        net(x)
        if net is network:
            net.summary((1, 6, 6), file=io.StringIO())
        net.backward(dy)
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(a.grad, b.grad)


def test_an_instance_with_a_forward_of_its_own_keeps_it():
    layer = L.ReLU()
    layer.forward = lambda x: x[:, :2]
    mine = layer.forward
    (row,) = rows_of(layer, (4,))
    assert row.shape == (2,)
    assert layer.forward is mine


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        (None, TypeError, "input_shape: expected the lengths of the axes of one image, got None"),
        (28, TypeError, "input_shape: expected the lengths of the axes of one image, got 28"),
        ("28", TypeError, "input_shape: expected the lengths"),
        ((1, 6.0, 6), TypeError, "input_shape: expected an integer, got 6.0"),
        ((1, 0, 6), ValueError, "input_shape: must be at least 1, got 0"),
        ((3, 6, 6), ValueError, "channels"),
        ((1, 5, 5), ValueError, ""),
    ],
)
def test_bad_shapes(shape, error, message):
    network = nested()
    before = state_of(network)
    with pytest.raises(error) as caught:
        network.summary(shape)
    assert message in str(caught.value)
    assert state_of(network) == before


def test_bad_arguments():
    with pytest.raises(ValueError, match="batch_size: must be at least 1, got 0"):
        nested().summary((1, 6, 6), batch_size=0)
    with pytest.raises(TypeError, match="depth: expected an integer, got '1'"):
        nested().summary((1, 6, 6), depth="1")


def test_double_precision():
    summary = nested().to(dtype="float64").summary((1, 6, 6), file=io.StringIO())
    assert summary.rows[1].memory == 8 * 4 * 36
    assert "float64 on numpy" in summary.table()
