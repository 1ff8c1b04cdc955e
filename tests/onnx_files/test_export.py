"""Exported files: the full check of onnx, and the numbers of onnxruntime, for every layer and network."""

import os
import subprocess
import sys

import numpy as np
import pytest

import xpconv.onnx
from xpconv import layers as nn
from xpconv import models, to_numpy
from xpconv.onnx import OnnxError

onnx = pytest.importorskip("onnx", reason="the package of the format")

# id -> (makes the layer, shape of one example)
LAYERS = {
    "conv2d": (lambda: nn.Conv2d(3, 4, 3), (3, 7, 6)),
    "conv2d-asymmetric": (lambda: nn.Conv2d(3, 4, (3, 2), (2, 1), ((0, 2), (1, 3)), bias=False), (3, 7, 6)),
    "conv2d-same": (lambda: nn.Conv2d(2, 3, (2, 5), 2, padding="same", dilation=(3, 1)), (2, 8, 7)),
    "conv2d-groups": (lambda: nn.Conv2d(4, 6, 3, dilation=(1, 2), groups=2), (4, 8, 9)),
    "conv2d-depthwise": (lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4), (4, 5, 5)),
    "conv2d-channels-last": (lambda: nn.Conv2d(4, 6, (3, 2), padding="same", groups=2, layout="NHWC"), (5, 6, 4)),
    "convtranspose2d": (lambda: nn.ConvTranspose2d(3, 4, 3), (3, 4, 3)),
    "convtranspose2d-all": (
        lambda: nn.ConvTranspose2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 0), groups=2, bias=False, dilation=(1, 2)),
        (4, 4, 3),
    ),
    "convtranspose2d-asymmetric": (lambda: nn.ConvTranspose2d(2, 3, 4, 2, ((1, 0), (0, 2)), 1), (2, 4, 3)),
    "convtranspose2d-same": (lambda: nn.ConvTranspose2d(2, 3, 3, 2, "same"), (2, 4, 3)),
    "convtranspose2d-same-gaps": (lambda: nn.ConvTranspose2d(2, 3, 2, 3, "same"), (2, 4, 3)),
    "convtranspose2d-channels-last": (lambda: nn.ConvTranspose2d(2, 3, 3, 2, layout="NHWC"), (3, 4, 2)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3), (3, 9)),
    "conv1d-all": (lambda: nn.Conv1d(4, 6, 3, 2, (3, 1), 2, 2, bias=False), (4, 11)),
    "conv1d-same": (lambda: nn.Conv1d(4, 6, 4, 2, "same"), (4, 11)),
    "binaryconv2d": (lambda: nn.BinaryConv2d(3, 4, 3, padding=1), (3, 5, 6)),
    "linear": (lambda: nn.Linear(5, 4), (5,)),
    "linear-no-bias": (lambda: nn.Linear(5, 4, bias=False), (5,)),
    "linear-axes": (lambda: nn.Linear(5, 4), (2, 3, 5)),
    "batchnorm1d": (lambda: nn.BatchNorm1d(4), (4,)),
    "batchnorm1d-signal": (lambda: nn.BatchNorm1d(4, eps=1e-3), (4, 5)),
    "batchnorm2d": (lambda: nn.BatchNorm2d(3), (3, 5, 2)),
    "batchnorm2d-plain": (lambda: nn.BatchNorm2d(3, affine=False), (3, 5, 2)),
    "batchnorm2d-of-the-batch": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (3, 5, 2)),
    "batchnorm1d-of-the-batch": (lambda: nn.BatchNorm1d(3, affine=False, track_running_stats=False), (3,)),
    "batchnorm2d-relu": (lambda: nn.BatchNorm2d(3, activation="relu"), (3, 5, 2)),
    "batchnorm2d-channels-last": (lambda: nn.BatchNorm2d(4, activation="relu", layout="NHWC"), (4, 5, 4)),
    "layernorm": (lambda: nn.LayerNorm(6), (6,)),
    "layernorm-axes": (lambda: nn.LayerNorm((3, 4), eps=1e-3, bias=False), (2, 3, 4)),
    "layernorm-plain": (lambda: nn.LayerNorm([4], elementwise_affine=False), (3, 4)),
    "groupnorm": (lambda: nn.GroupNorm(2, 6), (6, 3, 4)),
    "groupnorm-signal": (lambda: nn.GroupNorm(3, 6, eps=1e-2), (6, 5)),
    "groupnorm-features": (lambda: nn.GroupNorm(2, 6), (6,)),
    "groupnorm-plain": (lambda: nn.GroupNorm(3, 6, affine=False), (6, 5, 2)),
    "instancenorm2d": (lambda: nn.InstanceNorm2d(3), (3, 4, 5)),
    "instancenorm2d-affine": (lambda: nn.InstanceNorm2d(3, eps=1e-3, affine=True), (3, 4, 5)),
    "relu": (lambda: nn.ReLU(), (4, 5)),
    "leakyrelu": (lambda: nn.LeakyReLU(0.2), (4, 5)),
    "hardtanh": (lambda: nn.Hardtanh(-0.5, 0.7), (4, 5)),
    "hardtanh-above": (lambda: nn.Hardtanh(-0.5, np.inf), (4, 5)),
    "relu6": (lambda: nn.Sequential(nn.Linear(5, 5), nn.ReLU6()), (5,)),
    "gelu": (lambda: nn.GELU(), (40, 5)),
    "silu": (lambda: nn.SiLU(), (4, 5)),
    "sigmoid": (lambda: nn.Sigmoid(), (4, 5)),
    "tanh": (lambda: nn.Tanh(), (4, 5)),
    "maxpool": (lambda: nn.MaxPool2d(2), (3, 6, 5)),
    "maxpool-ceil": (lambda: nn.MaxPool2d((3, 2), (2, 3), (1, 0), ceil_mode=True), (3, 8, 6)),
    "maxpool-ceil-dropped": (lambda: nn.MaxPool2d(2, 3, 1, ceil_mode=True), (3, 3, 6)),
    "maxpool-dilation": (lambda: nn.MaxPool2d((3, 2), (2, 1), (1, 0), 2, ceil_mode=True), (3, 8, 7)),
    "maxpool-wide-padding": (lambda: nn.MaxPool2d(2, 1, 3, 4), (3, 8, 7)),
    "maxpool-asymmetric": (lambda: nn.MaxPool2d(3, 2, ((1, 0), (0, 2))), (3, 7, 6)),
    "maxpool-same": (lambda: nn.MaxPool2d(3, 2, "same"), (3, 6, 7)),
    "maxpool-channels-last": (lambda: nn.MaxPool2d((3, 2), 2, padding="same", layout="NHWC"), (5, 6, 3)),
    "avgpool": (lambda: nn.AvgPool2d(2), (3, 6, 5)),
    "avgpool-padding": (lambda: nn.AvgPool2d(3, 2, 1), (3, 6, 5)),
    "avgpool-padding-out": (lambda: nn.AvgPool2d(3, 2, ((1, 0), (0, 2)), count_include_pad=False), (3, 6, 5)),
    "avgpool-ceil": (lambda: nn.AvgPool2d((3, 2), (2, 3), (1, 0), ceil_mode=True), (3, 8, 6)),
    "avgpool-ceil-out": (
        lambda: nn.AvgPool2d((3, 2), (2, 3), (1, 0), ceil_mode=True, count_include_pad=False),
        (3, 8, 6),
    ),
    "avgpool-same": (lambda: nn.AvgPool2d(3, 2, "same"), (3, 6, 7)),
    "avgpool-channels-last": (lambda: nn.AvgPool2d(3, 2, "same", layout="NHWC"), (5, 6, 3)),
    "globalavgpool": (lambda: nn.GlobalAvgPool2d(), (3, 4, 5)),
    "globalavgpool-channels-last": (lambda: nn.GlobalAvgPool2d(layout="NHWC"), (4, 5, 3)),
    "adaptiveavgpool-one": (lambda: nn.AdaptiveAvgPool2d(1), (3, 7, 5)),
    "adaptiveavgpool-even": (lambda: nn.AdaptiveAvgPool2d((4, 3)), (3, 8, 6)),
    "adaptiveavgpool": (lambda: nn.AdaptiveAvgPool2d((3, 2)), (3, 7, 5)),
    "adaptiveavgpool-larger": (lambda: nn.AdaptiveAvgPool2d(5, layout="NHWC"), (3, 4, 2)),
    "dropout": (lambda: nn.Dropout(0.5), (5,)),
    "flatten": (lambda: nn.Flatten(), (3, 4, 2)),
    "identity": (lambda: nn.Identity(), (3,)),
    "residual": (lambda: nn.Residual(nn.Conv2d(3, 3, 3, padding=1)), (3, 4, 4)),
    "residual-shortcut": (lambda: nn.Residual(nn.Linear(4, 4), nn.Linear(4, 4, bias=False)), (4,)),
    "concat": (lambda: nn.Concat(nn.Linear(4, 2), nn.Identity(), nn.Linear(4, 3)), (4,)),
    "concat-axis": (lambda: nn.Concat(nn.ReLU(), nn.Tanh(), axis=-1), (3, 4)),
}


def test_every_layer_is_here():
    kinds = {
        name for name in nn.__all__ if isinstance(getattr(nn, name), type) and issubclass(getattr(nn, name), nn.Layer)
    }
    made = {type(part).__name__ for make, _ in LAYERS.values() for _, part in make().named_layers()}
    assert kinds - {"Layer", "RandomLayer"} == made


def check(model, path, shape, run_file, rng, batch=3, tolerance=1e-5, **options):
    """Export ``model`` and compare its results with onnxruntime's."""
    xpconv.onnx.export(model, path, shape, **options)
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded, full_check=True)
    assert [(opset.domain, opset.version) for opset in loaded.opset_import] == [("", 17)]
    assert loaded.ir_version == 8
    x = rng.normal(size=(batch, *shape)).astype(np.float32)
    want = to_numpy(model.eval().forward(x))
    got = run_file(path, x)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * max(1, np.abs(want).max()))
    return loaded


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, tmp_path, run_file, rng, randomised):
    make, shape = LAYERS[name]
    check(randomised(make()), tmp_path / "layer.onnx", shape, run_file, rng)


MODELS = {
    "lenet": (lambda: models.LeNet(rng=0), (1, 28, 28)),
    "three-layer": (lambda: models.ThreeLayerConvNet(image_size=16, rng=0), (3, 16, 16)),
    "fully-connected": (lambda: models.FullyConnectedNet([20], 12, normalization="layernorm", dropout=0.2), (3, 2, 2)),
    "small-cnn": (lambda: models.SmallConvNet(rng=0), (1, 28, 28)),
    "resnet20": (lambda: models.CifarResNet(20, rng=0), (3, 32, 32)),
    "resnet18": (lambda: models.ResNet18(num_classes=7, rng=0), (3, 64, 64)),
    "resnet34": (lambda: models.resnet34(num_classes=3, rng=0), (3, 32, 32)),
    "resnet50": (lambda: models.resnet50(num_classes=3, rng=0), (3, 32, 32)),
    "vgg11": (lambda: models.vgg11_bn(3, hidden_features=32, pooled_size=2, rng=0), (3, 32, 32)),
    "mobilenet": (lambda: models.mobilenet_v2(num_classes=3, rng=0), (3, 64, 64)),
}


CASES = [(name, fold) for name in MODELS for fold in (False, True) if (name, fold) != ("resnet34", True)]


@pytest.mark.parametrize(("name", "fold"), CASES, ids=lambda value: {False: "plain", True: "folded"}.get(value, value))
def test_model(name, fold, tmp_path, run_file, rng, randomised):
    make, shape = MODELS[name]
    model = randomised(make())
    file = check(model, tmp_path / "model.onnx", shape, run_file, rng, 2, fold_batch_norm=fold)
    kinds = [node.op_type for node in file.graph.node]
    assert "BatchNormalization" not in kinds or not fold
    if not fold:  # weights can be found again by their names
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
        for key, parameter in model.named_parameters():
            np.testing.assert_array_equal(constants[key], to_numpy(parameter.data))


FOLDED = {
    "conv2d": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "conv2d-no-bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "convtranspose2d": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
}


@pytest.mark.parametrize("name", FOLDED)
def test_folding(name, tmp_path, run_file, rng, randomised):
    model = randomised(nn.Sequential(FOLDED[name](), nn.BatchNorm2d(6), nn.ReLU()))
    file = check(model, tmp_path / "a.onnx", (4, 5, 5), run_file, rng, fold_batch_norm=True)
    assert [node.op_type for node in file.graph.node] == [file.graph.node[0].op_type, "Relu"]


def test_folding_leaves_what_has_other_uses(tmp_path, run_file, rng, randomised):
    shared = nn.Conv2d(3, 3, 1)

    class Twice(nn.Layer):
        def __init__(self):
            self.conv, self.bn, self.bn2 = shared, nn.BatchNorm2d(3), nn.BatchNorm2d(3, activation="relu")

        def forward(self, x):
            y = self.conv(x)
            return self.bn2(self.bn(y), y)  # y goes elsewhere too

    file = check(randomised(Twice()), tmp_path / "a.onnx", (3, 4, 4), run_file, rng, fold_batch_norm=True)
    assert [node.op_type for node in file.graph.node].count("BatchNormalization") == 2

    class Again(Twice):
        def forward(self, x):
            return self.conv(self.bn(self.conv(x)))

    file = check(randomised(Again()), tmp_path / "b.onnx", (3, 4, 4), run_file, rng, fold_batch_norm=True)
    assert [node.op_type for node in file.graph.node] == ["Conv", "BatchNormalization", "Conv"]
    assert [tensor.name for tensor in file.graph.initializer].count("conv.weight") == 1


@pytest.mark.parametrize("batch", [1, 5])
def test_the_batch_is_free(batch, tmp_path, run_file, rng):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.GlobalAvgPool2d(), nn.Linear(4, 3))
    file = check(model, tmp_path / "a.onnx", (2, 6, 6), run_file, rng, batch)
    (given,), (result,) = file.graph.input, file.graph.output
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == ["batch", 2, 6, 6]
    assert [d.dim_param or d.dim_value for d in result.type.tensor_type.shape.dim] == ["batch", 3]


def test_layers_of_the_user(tmp_path, run_file, rng, randomised):
    class Block(nn.Layer):
        def __init__(self):
            self.first = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
            self.second = nn.BatchNorm2d(3, activation="relu")
            self.end = nn.Dropout(0.3)

        def forward(self, x):
            return self.end(self.second(self.first[0](self.first(x)), x))

    class Filters(nn.Conv2d):
        def filters(self):
            return self.weight.data * 3

    class Pooled(nn.MaxPool2d):
        def __init__(self):
            super().__init__(2)

    model = nn.Sequential(Block(), Filters(3, 2, 3), Pooled())
    check(randomised(model), tmp_path / "a.onnx", (3, 8, 8), run_file, rng)


def test_channels_last_all_through_needs_few_transpositions(tmp_path, run_file, rng, randomised):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, layout="NHWC"), nn.BatchNorm2d(4, layout="NHWC"), nn.MaxPool2d(2, layout="NHWC")
    )
    file = check(randomised(model), tmp_path / "a.onnx", (7, 7, 3), run_file, rng)
    assert [node.op_type for node in file.graph.node].count("Transpose") == 2


def test_the_model_stays_as_it_was(tmp_path, rng):
    model = models.SmallConvNet(rng=0)
    x = rng.normal(size=(2, 1, 28, 28)).astype(np.float32)
    model.conv1.eval()
    y = model.forward(x)
    before, modes = model.state_dict(), [layer.training for _, layer in model.named_layers()]
    xpconv.onnx.export(model, tmp_path / "a.onnx", (1, 28, 28))
    assert [layer.training for _, layer in model.named_layers()] == modes
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name])
    model.conv1.train()
    model.clear_cache()
    y = model.forward(x)
    xpconv.onnx.export(model, tmp_path / "a.onnx", (1, 28, 28))
    model.backward(np.ones_like(y))  # its caches are still there
    with pytest.raises(RuntimeError, match="no forward"):
        model.backward(np.ones_like(y))


def test_dtype(tmp_path, run_file, rng):
    model = nn.Sequential(nn.Linear(4, 3, dtype="float64"), nn.ReLU())
    x = rng.normal(size=(2, 4))
    want = to_numpy(model.eval().forward(x))
    xpconv.onnx.export(model, tmp_path / "a.onnx", (4,))
    np.testing.assert_allclose(run_file(tmp_path / "a.onnx", x), want, rtol=1e-12)
    xpconv.onnx.export(model, tmp_path / "a.onnx", (4,), dtype="float32")
    np.testing.assert_allclose(run_file(tmp_path / "a.onnx", x.astype(np.float32)), want, rtol=1e-5, atol=1e-6)
    xpconv.onnx.export(model, tmp_path / "a.onnx", (4,), dtype="float16")
    np.testing.assert_allclose(run_file(tmp_path / "a.onnx", x.astype(np.float16)), want, rtol=1e-2, atol=1e-2)


def test_names_and_metadata(tmp_path, run_file, rng):
    model = nn.Sequential(nn.Linear(4, 3))
    xpconv.onnx.export(
        model, tmp_path / "a.onnx", [4], input_name="x", output_name="y", metadata={"classes": '["a", "b"]'}
    )
    file = onnx.load(tmp_path / "a.onnx")
    assert [file.graph.input[0].name, file.graph.output[0].name] == ["x", "y"]
    assert [(p.key, p.value) for p in file.metadata_props] == [("classes", '["a", "b"]')]
    assert file.producer_name == "xpconv"


def test_every_backend(on, sparing, tmp_path, run_file, rng):
    sparing(representative=False)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, rng=1), nn.BatchNorm2d(3, activation="relu"), nn.Flatten(), nn.Linear(12, 2)
    )
    xpconv.onnx.export(model, tmp_path / "a.onnx", (2, 4, 4))
    x = rng.normal(size=(3, 2, 4, 4)).astype(np.float32)
    want = to_numpy(model.eval().forward(xpconv.asarray(x)))
    np.testing.assert_allclose(run_file(tmp_path / "a.onnx", x), want, rtol=1e-5, atol=1e-5)


def test_what_is_no_layer_is_named(tmp_path, foreign_layer):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"earlier")
    for model, message in (
        (
            nn.Sequential(nn.ReLU(), nn.Sequential({"gate": foreign_layer})),
            r"layer '1\.gate' \(Gate\) cannot be written",
        ),
        (foreign_layer, r"the model \(Gate\) cannot be written"),
    ):
        with pytest.raises(OnnxError, match=message):
            xpconv.onnx.export(model, path, (4,))

    class Before(type(foreign_layer)):
        def forward(self, x):
            return self.inner(x * 2)

    with pytest.raises(OnnxError, match=r"computes the input of its layer 'inner' itself"):
        xpconv.onnx.export(Before(), path, (4,))

    class InPlace(type(foreign_layer)):
        def forward(self, x):
            y = self.inner(x)
            y += x
            return y

    with pytest.raises(OnnxError, match="read-only"):
        xpconv.onnx.export(InPlace(), path, (4,))

    class Odd(nn.ReLU):
        _function = staticmethod(lambda x: (x * 2, None))

    with pytest.raises(OnnxError, match=r"layer '0' \(Odd\) cannot be written"):
        xpconv.onnx.export(nn.Sequential(Odd()), path, (4,))
    patched = nn.Sequential({"act": nn.ReLU()})
    patched.act.forward = lambda x: x * 3
    with pytest.raises(OnnxError, match=r"layer 'act' \(ReLU\) cannot be written"):
        xpconv.onnx.export(patched, path, (4,))
    assert path.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["a.onnx"]


def test_wrong_arguments(tmp_path):
    path, model = tmp_path / "a.onnx", nn.Sequential({"fc": nn.Linear(4, 2)})
    with pytest.raises(
        OnnxError, match=r"layer 'fc' \(Linear\) does not take what comes to it: x: expected 4 features"
    ):
        xpconv.onnx.export(model, path, (3,))
    with pytest.raises(TypeError, match="model: expected a Layer, got str"):
        xpconv.onnx.export("model", path, (4,))
    with pytest.raises(TypeError, match="input_shape: expected a sequence"):
        xpconv.onnx.export(model, path, 4)
    with pytest.raises(ValueError, match="input_shape: must be at least 1, got 0"):
        xpconv.onnx.export(model, path, (0,))
    with pytest.raises(ValueError, match="dtype: expected one of float16, float32, float64, got 'int8'"):
        xpconv.onnx.export(model, path, (4,), dtype="int8")
    with pytest.raises(ValueError, match="output_name: must differ"):
        xpconv.onnx.export(model, path, (4,), input_name="a", output_name="a")
    with pytest.raises(ValueError, match=r"output_name: 'fc\.weight' is the name of something else"):
        xpconv.onnx.export(model, path, (4,), output_name="fc.weight")
    with pytest.raises(TypeError, match="metadata: expected"):
        xpconv.onnx.export(model, path, (4,), metadata={"a": 1})
    with pytest.raises(FileNotFoundError):
        xpconv.onnx.export(model, tmp_path / "missing" / "a.onnx", (4,))
    with pytest.raises(OnnxError, match=r"layer '' |results need a batch axis|the body gives shape"):
        xpconv.onnx.export(nn.Residual(nn.Linear(4, 3)), path, (4,))
    assert not list(tmp_path.iterdir())


def test_without_the_package(tmp_path):
    program = (
        "import sys; sys.modules['onnx'] = None\n"
        "import xpconv.onnx\n"
        "try: xpconv.onnx.export(xpconv.layers.ReLU(), 'a.onnx', (1,))\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == 'ONNX files need the package onnx, which is not installed: pip install "xpconv[onnx]"\n'
    lazy = "import sys, xpconv.onnx; print('onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", lazy], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "False\n"
