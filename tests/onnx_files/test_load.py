"""Loaded files: the numbers of onnxruntime, gradients by differences, training."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest

import xpconv.onnx
from xpconv import layers as nn
from xpconv import models, optim, to_numpy
from xpconv.functional import softmax_cross_entropy
from xpconv.onnx import Graph, OnnxError
from xpconv.testing import check_layer

onnx = pytest.importorskip("onnx", reason="the package of the format")
helper, numpy_helper = onnx.helper, pytest.importorskip("onnx.numpy_helper")


def save(path, nodes, shape, constants=(), opset=17, batch="batch", dtype=np.float32):
    """An ONNX file of these nodes, from "x" to "y"."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [
            helper.make_node(*node[:3], name=f"node{i}", **(node[3] if len(node) > 3 else {}))
            for i, node in enumerate(nodes)
        ],
        "test",
        [helper.make_tensor_value_info("x", element, [batch, *shape])],
        [helper.make_tensor_value_info("y", element, None)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in dict(constants).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


def weights(*shape, seed=0, dtype=np.float32):
    return (np.random.default_rng(seed).normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(dtype)


def ints(*values):
    return np.array(values, np.int64)


F = np.float32
BN = {"s": weights(3) + 1, "b": weights(3, seed=1), "m": weights(3, seed=2), "v": np.abs(weights(3, seed=3)) + 0.5}
# id -> (nodes, shape of one example, constants, versions of the operator set)
GRAPHS = {
    "conv": ([("Conv", ["x", "w"], ["y"])], (3, 6, 5), {"w": weights(4, 3, 3, 2)}, (11, 17, 22)),
    "conv-all": (
        [("Conv", ["x", "w", "b"], ["y"], {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2], "group": 2})],
        (4, 6, 7),
        {"w": weights(6, 2, 3, 2), "b": weights(6)},
        (11,),
    ),
    "conv-same-upper": (
        [("Conv", ["x", "w"], ["y"], {"strides": [2, 2], "auto_pad": "SAME_UPPER"})],
        (3, 7, 6),
        {"w": weights(4, 3, 2, 3)},
        (17,),
    ),
    "conv-same-lower": (
        [("Conv", ["x", "w"], ["y"], {"strides": [2, 2], "auto_pad": "SAME_LOWER"})],
        (3, 7, 6),
        {"w": weights(4, 3, 2, 3)},
        (17,),
    ),
    "conv1d": (
        [("Conv", ["x", "w"], ["y"], {"strides": [2], "pads": [1, 2], "dilations": [2]})],
        (3, 9),
        {"w": weights(4, 3, 3)},
        (17,),
    ),
    "convtranspose": (
        [
            (
                "ConvTranspose",
                ["x", "w", "b"],
                ["y"],
                {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 2], "group": 2},
            )
        ],
        (4, 4, 3),
        {"w": weights(4, 3, 3, 4), "b": weights(6)},
        (11, 17),
    ),
    "gemm": ([("Gemm", ["x", "w", "b"], ["y"], {"transB": 1})], (5,), {"w": weights(4, 5), "b": weights(4)}, (11, 17)),
    "gemm-factors": (
        [("Gemm", ["x", "w", "b"], ["y"], {"alpha": 0.5, "beta": 2.0})],
        (5,),
        {"w": weights(5, 4), "b": weights(1, 4)},
        (13,),
    ),
    "gemm-no-bias": ([("Gemm", ["x", "w"], ["y"])], (5,), {"w": weights(5, 4)}, (13,)),
    "matmul-add": (
        [("MatMul", ["x", "w"], ["t"]), ("Add", ["b", "t"], ["y"])],
        (2, 5),
        {"w": weights(5, 4), "b": weights(4)},
        (11, 17),
    ),
    "matmul-alone": ([("MatMul", ["x", "w"], ["y"])], (5,), {"w": weights(5, 4)}, (17,)),
    "matmul-left": ([("MatMul", ["w", "x"], ["y"])], (3, 5, 2), {"w": weights(4, 5)}, (17,)),
    "matmul-both": (
        [("Transpose", ["x"], ["t"], {"perm": [0, 2, 1]}), ("MatMul", ["x", "t"], ["y"])],
        (3, 4),
        {},
        (17,),
    ),
    "transposed-weight": (
        [("Transpose", ["w"], ["t"], {"perm": [1, 0]}), ("MatMul", ["x", "t"], ["y"])],
        (5,),
        {"w": weights(4, 5)},
        (17,),
    ),
    "batchnorm": (
        [("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], {"epsilon": 1e-3, "momentum": 0.8})],
        (3, 4, 5),
        BN,
        (9, 14, 17),
    ),
    "batchnorm-features": ([("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])], (3,), BN, (15,)),
    "instancenorm": (
        [("InstanceNormalization", ["x", "s", "b"], ["y"])],
        (3, 4, 5),
        {"s": weights(3), "b": weights(3)},
        (17,),
    ),
    "instancenorm-signal": (
        [("InstanceNormalization", ["x", "s", "b"], ["y"])],
        (3, 5),
        {"s": weights(3), "b": weights(3)},
        (17,),
    ),
    "layernorm": (
        [("LayerNormalization", ["x", "s", "b"], ["y"], {"axis": 2})],
        (2, 4, 3),
        {"s": weights(4, 3), "b": weights(4, 3)},
        (17,),
    ),
    "layernorm-one-scale": (
        [("LayerNormalization", ["x", "s", "b"], ["y"], {"axis": -1})],
        (2, 4),
        {"s": weights(1), "b": weights(4)},
        (17,),
    ),
    "layernorm-one-bias": (
        [("LayerNormalization", ["x", "s", "b"], ["y"], {"axis": 1})],
        (2, 4),
        {"s": weights(2, 4), "b": weights(2, 1)},
        (17,),
    ),
    "groupnorm": (
        [("GroupNormalization", ["x", "s", "b"], ["y"], {"num_groups": 2})],
        (6, 3, 3),
        {"s": weights(6), "b": weights(6)},
        (21,),
    ),
    "relu": ([("Relu", ["x"], ["y"])], (4, 5), {}, (11, 17)),
    "leakyrelu": ([("LeakyRelu", ["x"], ["y"], {"alpha": 0.3})], (4, 5), {}, (17,)),
    "prelu": ([("PRelu", ["x", "s"], ["y"])], (3, 4, 4), {"s": weights(3, 1, 1)}, (17,)),
    "elu": ([("Elu", ["x"], ["y"], {"alpha": 0.7})], (4, 5), {}, (17,)),
    "sigmoid": ([("Sigmoid", ["x"], ["y"])], (4, 5), {}, (17,)),
    "tanh": ([("Tanh", ["x"], ["y"])], (4, 5), {}, (17,)),
    "hardsigmoid": ([("HardSigmoid", ["x"], ["y"], {"alpha": 1 / 6})], (40, 5), {}, (17,)),
    "hardswish": ([("HardSwish", ["x"], ["y"])], (40, 5), {}, (17,)),
    "softplus": ([("Softplus", ["x"], ["y"])], (4, 5), {}, (17,)),
    "gelu": ([("Gelu", ["x"], ["y"])], (40, 5), {}, (20,)),
    "gelu-tanh": ([("Gelu", ["x"], ["y"], {"approximate": "tanh"})], (40, 5), {}, (20,)),
    "erf": ([("Erf", ["x"], ["y"])], (40, 5), {}, (17,)),
    "exp-log": ([("Exp", ["x"], ["t"]), ("Log", ["t"], ["y"])], (4, 5), {}, (17,)),
    "abs-sqrt": ([("Abs", ["x"], ["t"]), ("Sqrt", ["t"], ["u"]), ("Neg", ["u"], ["y"])], (4, 5), {}, (17,)),
    "pow-reciprocal": (
        [
            ("Pow", ["x", "two"], ["t"]),
            ("Add", ["t", "one"], ["u"]),
            ("Reciprocal", ["u"], ["v"]),
            ("Pow", ["v", "h"], ["y"]),
        ],
        (4, 5),
        {"two": F(2), "one": F(1), "h": F(1.5)},
        (17,),
    ),
    "relu6": ([("Clip", ["x"], ["y"], {"min": 0.0, "max": 0.6})], (4, 5), {}, (7,)),
    "clip": ([("Clip", ["x", "low", "high"], ["y"])], (4, 5), {"low": F(-0.5), "high": F(0.5)}, (11, 17)),
    "relu6-input": ([("Clip", ["x", "low", "high"], ["y"])], (4, 5), {"low": F(0), "high": F(6)}, (13,)),
    "clip-below": ([("Clip", ["x", "", "high"], ["y"])], (4, 5), {"high": F(0.5)}, (13,)),
    "softmax": ([("Softmax", ["x"], ["y"], {"axis": 1})], (5,), {}, (11, 17)),
    "softmax-channels": ([("Softmax", ["x"], ["y"], {"axis": 1})], (5, 2, 3), {}, (17,)),
    "logsoftmax": ([("LogSoftmax", ["x"], ["y"])], (5,), {}, (13,)),
    "maxpool": (
        [("MaxPool", ["x"], ["y"], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]})],
        (3, 7, 6),
        {},
        (8, 12),
    ),
    "maxpool-ceil": (
        [("MaxPool", ["x"], ["y"], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "dilations": [1, 2]})],
        (3, 8, 8),
        {},
        (11,),
    ),
    "maxpool-same-lower": (
        [("MaxPool", ["x"], ["y"], {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"})],
        (3, 5, 4),
        {},
        (12,),
    ),
    "maxpool-signal": (
        [("MaxPool", ["x"], ["y"], {"kernel_shape": [3], "strides": [2], "pads": [1, 0]})],
        (3, 9),
        {},
        (12,),
    ),
    "avgpool": (
        [("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]})],
        (3, 7, 6),
        {},
        (7, 11, 19),
    ),
    "avgpool-counted": (
        [("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1})],
        (3, 7, 6),
        {},
        (11,),
    ),
    "avgpool-same": (
        [("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"})],
        (3, 7, 6),
        {},
        (17,),
    ),
    "globalavgpool": ([("GlobalAveragePool", ["x"], ["t"]), ("Flatten", ["t"], ["y"])], (3, 4, 5), {}, (11, 17)),
    "globalavgpool-signal": ([("GlobalAveragePool", ["x"], ["y"])], (3, 5), {}, (17,)),
    "reducemean": ([("ReduceMean", ["x"], ["y"], {"axes": [2, 3], "keepdims": 0})], (3, 4, 5), {}, (11, 17)),
    "reducemean-keep": ([("ReduceMean", ["x", "a"], ["y"])], (3, 4, 5), {"a": ints(-1, -2)}, (18,)),
    "reducemean-channels": ([("ReduceMean", ["x"], ["y"], {"axes": [1], "keepdims": 0})], (3, 4), {}, (13,)),
    "reducesum": ([("ReduceSum", ["x", "a"], ["y"], {"keepdims": 1})], (3, 4, 5), {"a": ints(2)}, (13,)),
    "flatten-axis": ([("Flatten", ["x"], ["y"], {"axis": 2})], (3, 4, 5), {}, (17,)),
    "reshape": ([("Reshape", ["x", "s"], ["y"])], (6, 4), {"s": ints(0, 2, -1, 4)}, (13,)),
    "reshape-by-shape": (
        [
            ("Shape", ["x"], ["a"]),
            ("Gather", ["a", "zero"], ["b"], {"axis": 0}),
            ("Unsqueeze", ["b", "axes"], ["c"]),
            ("Concat", ["c", "rest"], ["d"], {"axis": 0}),
            ("Reshape", ["x", "d"], ["y"]),
        ],
        (3, 4),
        {"zero": np.array(0, np.int64), "axes": ints(0), "rest": ints(-1)},
        (13,),
    ),
    "squeeze-unsqueeze": (
        [
            ("Unsqueeze", ["x"], ["t"], {"axes": [1, -1]}),
            ("Relu", ["t"], ["u"]),
            ("Squeeze", ["u"], ["y"], {"axes": [-1]}),
        ],
        (3, 4),
        {},
        (11,),
    ),
    "squeeze-13": ([("Unsqueeze", ["x", "a"], ["t"]), ("Squeeze", ["t", "a"], ["y"])], (3, 4), {"a": ints(2)}, (13,)),
    "transpose": ([("Transpose", ["x"], ["y"], {"perm": [0, 3, 1, 2]})], (3, 4, 5), {}, (17,)),
    "split-equal": (
        [("Split", ["x"], ["a", "b", "c"], {"axis": 1}), ("Add", ["c", "a"], ["y"])],
        (6, 3),
        {},
        (13,),
    ),
    "concat-split": (
        [
            ("Split", ["x"], ["a", "b"], {"axis": 1}),
            ("Relu", ["b"], ["c"]),
            ("Concat", ["c", "a", "c"], ["y"], {"axis": 1}),
        ],
        (4, 3),
        {},
        (13,),
    ),
    "split-part-used": (
        [("Split", ["x", "s"], ["a", "b"], {"axis": 1}), ("Tanh", ["b"], ["y"])],
        (5, 3),
        {"s": ints(2, 3)},
        (13,),
    ),
    "split-attribute": (
        [("Split", ["x"], ["a", "b"], {"axis": 2, "split": [1, 2]}), ("Concat", ["b", "a"], ["y"], {"axis": -1})],
        (5, 3),
        {},
        (11,),
    ),
    "slice": (
        [("Slice", ["x", "s", "e", "a"], ["y"])],
        (5, 6),
        {"s": ints(1, -3), "e": ints(2**62, -1), "a": ints(1, 2)},
        (13,),
    ),
    "slice-attributes": ([("Slice", ["x"], ["y"], {"starts": [1], "ends": [4], "axes": [1]})], (5, 6), {}, (9,)),
    "pad": ([("Pad", ["x", "p", "v"], ["y"])], (2, 3, 3), {"p": ints(0, 0, 1, 0, 0, 1, 2, -1), "v": F(0.5)}, (13,)),
    "pad-attributes": ([("Pad", ["x"], ["y"], {"pads": [0, 0, 1, 2, 0, 0, 1, 0]})], (2, 3, 3), {}, (7,)),
    "add-constant": ([("Add", ["x", "c"], ["y"])], (3, 2, 2), {"c": weights(3, 1, 1)}, (17,)),
    "arithmetic-constants": (
        [("Sub", ["c", "x"], ["t"]), ("Mul", ["t", "h"], ["u"]), ("Div", ["u", "c"], ["y"])],
        (3, 2),
        {"c": weights(3, 2) + 3, "h": F(0.5)},
        (13,),
    ),
    "gate": (
        [
            ("GlobalAveragePool", ["x"], ["a"]),
            ("Conv", ["a", "w"], ["b"]),
            ("Sigmoid", ["b"], ["c"]),
            ("Mul", ["x", "c"], ["d"]),
            ("Sub", ["d", "c"], ["e"]),
            ("Add", ["a", "x"], ["f"]),
            ("Add", ["f", "one"], ["f1"]),
            ("Exp", ["f1"], ["f2"]),
            ("Div", ["e", "f2"], ["y"]),
        ],
        (3, 4, 4),
        {"w": weights(3, 3, 1, 1), "one": F(1)},
        (17,),
    ),
    "square": ([("Mul", ["x", "x"], ["y"])], (3,), {}, (17,)),
    "sum": ([("Relu", ["x"], ["a"]), ("Sum", ["x", "a", "a"], ["y"])], (3, 4), {}, (13,)),
    "dropout": ([("Dropout", ["x"], ["y"], {"ratio": 0.4})], (3, 4), {}, (11,)),
    "dropout-input": ([("Dropout", ["x", "r", "t"], ["y"])], (3, 4), {"r": F(0.3), "t": np.array(False)}, (13,)),
    "identity-cast": ([("Identity", ["x"], ["t"]), ("Cast", ["t"], ["y"], {"to": 1})], (3, 4), {}, (13,)),
    "computed-constants": (
        [
            ("Constant", [], ["two"], {"value": numpy_helper.from_array(F(2))}),
            ("Constant", [], ["s"], {"value_ints": [2]}),
            ("ConstantOfShape", ["s"], ["zeros"]),
            ("Concat", ["zeros", "c"], ["c2"], {"axis": 0}),
            ("Mul", ["c2", "two"], ["c3"]),
            ("Add", ["x", "c3"], ["y"]),
        ],
        (3,),
        {"c": weights(1)},
        (13,),
    ),
    "out-of-order": ([("Relu", ["t"], ["y"]), ("Tanh", ["x"], ["t"])], (3,), {}, (17,)),
}

# layers with several results; a result without a batch axis
NOT_WRITTEN = {"split-equal", "concat-split", "flatten-axis"}
CASES = [(name, opset) for name, (*_, opsets) in GRAPHS.items() for opset in opsets]


@pytest.mark.parametrize(("name", "opset"), CASES, ids=lambda value: str(value))
def test_operator(name, opset, tmp_path, run_file, rng):
    nodes, shape, constants, _ = GRAPHS[name]
    path = save(tmp_path / "a.onnx", nodes, shape, constants, opset)
    model = xpconv.onnx.load(path)
    assert isinstance(model, Graph)
    x = rng.normal(size=(3, *shape)).astype(np.float32)
    want = run_file(path, x)
    got = model.eval().forward(x)
    assert got.dtype == np.float32
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    if name in NOT_WRITTEN:
        return
    xpconv.onnx.export(model, path, shape)
    np.testing.assert_allclose(run_file(path, x), want, rtol=1e-5, atol=1e-5)


SKIPPED = {"dropout", "dropout-input"}  # random; the layer has tests of its own


@pytest.mark.parametrize("name", sorted(set(GRAPHS) - SKIPPED))
def test_gradients(name, tmp_path, rng):
    nodes, shape, constants, opsets = GRAPHS[name]
    path = save(tmp_path / "a.onnx", nodes, shape, constants, opsets[-1])
    model = xpconv.onnx.load(path).to(dtype="float64")
    check_layer(model, rng.normal(size=(3, *shape)))
    assert not any(layer._stack for _, layer in model.named_layers())


@pytest.mark.parametrize("name", ["gate", "concat-split", "reshape-by-shape", "pad", "prelu", "erf", "clip", "softmax"])
def test_every_backend(name, on, sparing, tmp_path, rng):
    sparing(representative=False)
    nodes, shape, constants, opsets = GRAPHS[name]
    path = save(tmp_path / "a.onnx", nodes, shape, constants, opsets[-1])
    x = rng.normal(size=(3, *shape)).astype(np.float32)
    model = xpconv.onnx.load(path)
    y = model.forward(xpconv.asarray(x))
    dx = model.backward(y)
    with xpconv.use_backend("numpy"):
        same = xpconv.onnx.load(path)
        want = same.forward(x)
        np.testing.assert_allclose(to_numpy(y), want, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(to_numpy(dx), same.backward(want), rtol=1e-4, atol=1e-5)


NETWORKS = ["lenet", "three-layer-convnet", "fully-connected", "small-cnn", "resnet20", "resnet18", "mobilenet-v2"]


@pytest.mark.parametrize("name", NETWORKS)
def test_models_come_back_with_their_names(name, tmp_path, rng, randomised):
    model = models.build(name, in_channels=3, image_size=32, num_classes=4, rng=0)
    xpconv.onnx.export(randomised(model), tmp_path / "a.onnx", (3, 32, 32))
    loaded = xpconv.onnx.load(tmp_path / "a.onnx")
    assert loaded.input_shape == [None, 3, 32, 32]
    states = [{k: v for k, v in m.state_dict().items() if not k.endswith("tracked")} for m in (model, loaded)]
    assert set(states[0]) == set(states[1])
    x = rng.normal(size=(2, 3, 32, 32)).astype(np.float32)
    np.testing.assert_allclose(loaded.eval().forward(x), model.eval().forward(x), rtol=1e-5, atol=1e-5)
    if name != "resnet18":
        return
    # the same gradients, and names that take the weights of the other
    model.to(dtype="float64").train()
    loaded.to(dtype="float64").train()
    loaded.load_state_dict(model.state_dict())
    y, z = model.forward(x.astype(np.float64)), loaded.forward(x.astype(np.float64))
    np.testing.assert_allclose(z, y, rtol=1e-9)
    loaded.backward(y)
    model.backward(y)
    gradients = {key: parameter.grad for key, parameter in loaded.named_parameters()}
    for key, parameter in model.named_parameters():
        scale = np.abs(parameter.grad).max()
        np.testing.assert_allclose(gradients[key], parameter.grad, rtol=1e-6, atol=1e-9 * scale, err_msg=key)


def test_resnet18_out_and_in_and_on(tmp_path, run_file, rng, randomised):
    """Exported, run by onnxruntime, loaded: equal numbers; then trained on."""
    model = models.ResNet18(num_classes=3, rng=0)
    x = rng.normal(size=(8, 3, 32, 32)).astype(np.float32)
    labels = np.arange(8) % 3
    model.forward(x)  # statistics that are not the initial ones
    model.clear_cache()
    xpconv.onnx.export(model, tmp_path / "a.onnx", (3, 32, 32))
    want = model.eval().forward(x)
    loaded = xpconv.onnx.load(tmp_path / "a.onnx")
    scale = np.abs(want).max()
    np.testing.assert_allclose(run_file(tmp_path / "a.onnx", x), want, rtol=1e-5, atol=1e-5 * scale)
    np.testing.assert_allclose(loaded.eval().forward(x), want, rtol=1e-5, atol=1e-5 * scale)
    loaded.train()
    optimizer = optim.SGD(list(loaded.parameters()), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(6):
        loss, dy = softmax_cross_entropy(loaded.forward(x), labels)
        loaded.zero_grad()
        loaded.backward(dy)
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    # and out again, with what it has learned
    xpconv.onnx.export(loaded, tmp_path / "b.onnx", (3, 32, 32))
    want = loaded.eval().forward(x)
    np.testing.assert_allclose(run_file(tmp_path / "b.onnx", x), want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.GroupNorm(2, 6, eps=1e-3), (6, 3, 4)),
        (lambda: nn.GroupNorm(3, 6), (6, 5)),
        (lambda: nn.GroupNorm(3, 6), (6,)),
        (lambda: nn.GELU(), (4, 5)),
        (lambda: nn.SiLU(), (4, 5)),
    ],
)
def test_layers_that_are_taken_apart_come_back_whole(make, shape, tmp_path, rng, randomised):
    model = randomised(nn.Sequential({"before": nn.Tanh(), "whole": make(), "behind": nn.Sigmoid()}))
    xpconv.onnx.export(model, tmp_path / "a.onnx", shape)
    loaded = xpconv.onnx.load(tmp_path / "a.onnx")
    assert [(name, type(layer)) for name, layer in loaded.named_children()] == [
        ("before", nn.Tanh),
        ("behind", nn.Sigmoid),
        ("whole", type(model.whole)),
    ]
    assert list(loaded.state_dict()) == list(model.state_dict())
    x = rng.normal(size=(3, *shape)).astype(np.float32)
    np.testing.assert_allclose(loaded.forward(x), model.forward(x), rtol=1e-5, atol=1e-6)


NEARLY = {
    "another-root": [("Div", ["x", "c"], ["a"]), ("Erf", ["a"], ["b"])],
    "used-twice": [("Div", ["x", "r"], ["a"]), ("Erf", ["a"], ["b0"]), ("Mul", ["b0", "a"], ["b"])],
    "sigmoid-of-another": [("Tanh", ["x"], ["a"]), ("Sigmoid", ["a"], ["b"])],
}


@pytest.mark.parametrize("name", NEARLY)
def test_what_is_nearly_such_a_layer_stays_apart(name, tmp_path, run_file, rng):
    nodes = [*NEARLY[name], ("Add", ["b", "one"], ["d"]), ("Mul", ["x", "d"], ["e"]), ("Mul", ["e", "half"], ["y"])]
    if name == "sigmoid-of-another":
        nodes[2:] = [("Mul", ["x", "b"], ["y"])]
    constants = {"c": F(1.5), "r": F(np.sqrt(2)), "one": F(1), "half": F(0.5)}
    path = save(tmp_path / "a.onnx", nodes, (4,), constants)
    x = rng.normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(xpconv.onnx.load(path).forward(x), run_file(path, x), rtol=1e-5, atol=1e-6)


def test_groups_whose_numbers_belong_to_another_axis(tmp_path, run_file, rng):
    """(4, 1) is the height of an image of four axes, and the channels of a signal of three."""
    nodes = [
        ("Reshape", ["x", "apart"], ["a"]),
        ("InstanceNormalization", ["a", "ones", "zeros"], ["b"]),
        ("Shape", ["x"], ["s"]),
        ("Reshape", ["b", "s"], ["c"]),
        ("Mul", ["c", "w"], ["d"]),
        ("Add", ["d", "v"], ["y"]),
    ]
    constants = {
        "apart": ints(0, 2, -1),
        "ones": np.ones(2, F),
        "zeros": np.zeros(2, F),
        "w": weights(4, 1),
        "v": weights(4, 1),
    }
    for shape in ((4, 4, 3), (4, 3)):
        path = save(tmp_path / "a.onnx", nodes, shape, constants)
        x = rng.normal(size=(3, *shape)).astype(np.float32)
        model = xpconv.onnx.load(path)
        assert len(list(model.children())) == (1 if len(shape) == 2 else 5)
        np.testing.assert_allclose(model.forward(x), run_file(path, x), rtol=1e-5, atol=1e-5)


def test_summary(tmp_path):
    model = models.mobilenet_v2(3, rng=0)
    xpconv.onnx.export(model, tmp_path / "a.onnx", (3, 32, 32))
    loaded, own = xpconv.onnx.load(tmp_path / "a.onnx").summary((3, 32, 32)), model.summary((3, 32, 32))
    assert str(loaded).splitlines()[-3:] == str(own).splitlines()[-3:]
    nodes = [
        ("MatMul", ["w", "x"], ["a"]),
        ("Transpose", ["a"], ["b"], {"perm": [0, 2, 1]}),
        ("MatMul", ["b", "a"], ["y"]),
    ]
    path = save(tmp_path / "b.onnx", nodes, (5, 2), {"w": weights(4, 5)})
    # (4, 5) @ (5, 2), then (2, 4) @ (4, 2)
    assert "56 MACs, 112 FLOPs" in xpconv.onnx.load(path).summary((5, 2)).table()


def test_a_last_layer_may_be_replaced(tmp_path, rng):
    model = models.SmallConvNet(num_classes=10, rng=0)
    xpconv.onnx.export(model, tmp_path / "a.onnx", (1, 28, 28))
    loaded = xpconv.onnx.load(tmp_path / "a.onnx")
    loaded.fc = nn.Linear(loaded.fc.in_features, 3, rng=0)
    x = rng.normal(size=(2, 1, 28, 28)).astype(np.float32)
    y = loaded.forward(x)
    assert y.shape == (2, 3)
    loaded.backward(y)
    assert loaded.fc.weight.grad is not None
    assert all(p.grad is not None for p in loaded.parameters())
    for twin in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        np.testing.assert_array_equal(twin.eval().forward(x), loaded.eval().forward(x))


def test_first_layers_without_a_gradient_to_the_input(tmp_path, rng):
    nodes = [("Sub", ["x", "c"], ["t"]), ("Conv", ["t", "w"], ["u"]), ("Conv", ["u", "v"], ["y"])]
    constants = {"c": F(0.5), "w": weights(3, 2, 1, 1), "v": weights(2, 3, 1, 1)}
    model = xpconv.onnx.load(save(tmp_path / "a.onnx", nodes, (2, 3, 3), constants))
    x = rng.normal(size=(2, 2, 3, 3)).astype(np.float32)
    model.node1.need_dx = False
    assert model.backward(model.forward(x)) is None
    assert model.node1.weight.grad is not None
    model.node1.need_dx, model.node2.need_dx = True, False
    y = model.forward(x)
    with pytest.raises(RuntimeError, match="need_dx is False"):
        model.backward(y)


def test_constants_that_are_trained(tmp_path):
    nodes = [
        ("Constant", [], ["k"], {"value": numpy_helper.from_array(weights(3))}),
        ("Mul", ["x", "k"], ["t"]),
        ("Add", ["t", "b"], ["u"]),
        ("Mul", ["u", "one"], ["y"]),
    ]
    model = xpconv.onnx.load(save(tmp_path / "a.onnx", nodes, (3,), {"b": weights(3), "one": F(2)}))
    assert [name for name, _ in model.named_parameters()] == ["node2.value"]
    assert len(model.state_dict()) == 3


def test_a_weight_of_two_nodes_is_one_parameter(tmp_path):
    nodes = [("Gemm", ["x", "w"], ["t"]), ("Gemm", ["t", "w"], ["y"])]
    model = xpconv.onnx.load(save(tmp_path / "a.onnx", nodes, (3,), {"w": weights(3, 3)}))
    assert len(list(model.parameters())) == 1


@pytest.mark.parametrize(
    ("first", "second", "parameters"),
    [
        (("Gemm", {"transB": 1}), ("Gemm", {}), 2),
        (("MatMul", {}), ("Gemm", {"transB": 1}), 2),
        (("Gemm", {"alpha": 2.0}), ("Gemm", {}), 2),
        (("MatMul", {}), ("Gemm", {}), 1),
    ],
)
def test_one_square_matrix_in_several_forms(first, second, parameters, tmp_path, run_file, rng):
    nodes = [(first[0], ["x", "w"], ["t"], first[1]), (second[0], ["t", "w"], ["y"], second[1])]
    path = save(tmp_path / "a.onnx", nodes, (3,), {"w": weights(3, 3)})
    model = xpconv.onnx.load(path)
    x = rng.normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_allclose(model.forward(x), run_file(path, x), rtol=1e-5, atol=1e-6)
    assert len(list(model.parameters())) == parameters


def test_what_follows_a_group_normalisation_knows_its_axes(tmp_path, rng, randomised):
    # which is written with a Reshape to the shape of its input
    model = randomised(nn.Sequential(nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.ReLU())).eval()
    xpconv.onnx.export(model, tmp_path / "a.onnx", (4, 5, 3))
    x = rng.normal(size=(2, 4, 5, 3)).astype(np.float32)
    loaded = xpconv.onnx.load(tmp_path / "a.onnx").eval()
    np.testing.assert_allclose(loaded.forward(x), model.forward(x), rtol=1e-4, atol=1e-5)


def test_products_of_vectors_are_listed(tmp_path):
    path = save(tmp_path / "a.onnx", [("MatMul", ["x", "v"], ["y"])], (3,), {"v": weights(3)})
    with pytest.raises(OnnxError, match="operators that xpconv lacks: MatMul of a vector"):
        xpconv.onnx.load(path)


def test_a_result_in_the_middle(tmp_path, rng):
    nodes = [("Gemm", ["x", "w"], ["scores"]), ("Softmax", ["scores"], ["y"])]
    path = save(tmp_path / "a.onnx", nodes, (3,), {"w": weights(3, 4)})
    x = rng.normal(size=(2, 3)).astype(np.float32)
    scores = xpconv.onnx.load(path, output="scores").forward(x)
    np.testing.assert_allclose(scores, x @ weights(3, 4), rtol=1e-5)
    with pytest.raises(OnnxError, match="output: the file has no value 'nothing'; its results: y"):
        xpconv.onnx.load(path, output="nothing")


@pytest.mark.parametrize("allow_zero", [0, 1])
def test_a_file_for_one_size_of_batch(allow_zero, tmp_path, run_file, rng):
    reshape = ("Reshape", ["t", "s"], ["u"], {"allowzero": allow_zero})
    nodes = [("Relu", ["x"], ["t"]), reshape, ("Gemm", ["u", "w"], ["y"])]
    path = save(tmp_path / "a.onnx", nodes, (2, 3), {"s": ints(1, 6), "w": weights(6, 4)}, batch=1)
    model = xpconv.onnx.load(path)
    x = rng.normal(size=(5, 2, 3)).astype(np.float32)
    want = np.maximum(x, 0).reshape(5, 6) @ weights(6, 4)
    np.testing.assert_allclose(model.forward(x), want, rtol=1e-5, atol=1e-6)
    assert model.backward(want).shape == x.shape
    xpconv.onnx.export(model, tmp_path / "b.onnx", (2, 3))  # for any size
    np.testing.assert_allclose(run_file(tmp_path / "b.onnx", x), want, rtol=1e-5, atol=1e-6)


def test_dtypes(tmp_path, rng):
    path = save(tmp_path / "a.onnx", [("Gemm", ["x", "w"], ["y"])], (3,), {"w": weights(3, 4, dtype="f8")}, dtype="f8")
    assert xpconv.onnx.load(path).forward(rng.normal(size=(2, 3))).dtype == np.float64
    # numbers that are not raw, and bfloat16
    values = [1.5, -2.0, 0.25]
    for element, stored in (
        (onnx.TensorProto.FLOAT, F),
        (onnx.TensorProto.BFLOAT16, F),
        (onnx.TensorProto.FLOAT16, np.float16),
    ):
        tensor = helper.make_tensor("w", element, [3, 1], values)
        graph = helper.make_graph(
            [helper.make_node("Gemm", ["x", "w"], ["y"])],
            "test",
            [helper.make_tensor_value_info("x", element, [None, 3])],
            [helper.make_tensor_value_info("y", element, None)],
            [tensor],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        model = xpconv.onnx.load(path)
        assert next(model.parameters()).data.dtype == stored
        np.testing.assert_array_equal(model.forward(np.eye(3, dtype=stored))[:, 0], values)


# ---- what PyTorch writes ------------------------------------------------------------------------------------


def torch_network(torch):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.bn = torch.nn.BatchNorm2d(8)
            self.act = torch.nn.ReLU6()
            self.block = torch.nn.Sequential(
                torch.nn.Conv2d(8, 8, 3, groups=8, bias=False), torch.nn.GroupNorm(2, 8), torch.nn.GELU()
            )
            self.pool = torch.nn.MaxPool2d(2, ceil_mode=True)
            self.fc, self.norm = torch.nn.Linear(8, 5), torch.nn.LayerNorm(5)

        def forward(self, x):
            y = self.act(self.bn(self.conv(x)))
            y = self.pool(self.block(y + self.conv(x)))
            y = torch.cat([y, torch.nn.functional.hardswish(y)], 1)[:, 2:10]
            y = y.mean([2, 3])
            y = torch.nn.functional.dropout(y.view(y.size(0), -1), 0.2, self.training)
            return torch.softmax(self.norm(self.fc(y)), 1)

    torch.manual_seed(0)
    net = Net()
    net(torch.randn(4, 3, 16, 16))
    return net.eval()


@pytest.mark.parametrize("free", [False, True], ids=["one-batch", "free-batch"])
@pytest.mark.parametrize("opset", [11, 13, 17])
def test_what_pytorch_writes(opset, free, tmp_path, rng):
    torch = pytest.importorskip("torch", reason="it writes the file")
    net = torch_network(torch)
    file = io.BytesIO()
    axes = {"dynamic_axes": {"x": {0: "batch"}}} if free else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, torch.zeros(1, 3, 16, 16), file, dynamo=False, opset_version=opset, input_names=["x"], **axes
        )
    path = tmp_path / "a.onnx"
    path.write_bytes(file.getvalue())
    model = xpconv.onnx.load(path)
    x = rng.normal(size=(6, 3, 16, 16)).astype(np.float32)
    want = net(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(model.eval().forward(x), want, rtol=1e-5, atol=1e-6)
    assert {"fc.weight", "fc.bias", "block.0.weight"} <= set(model.state_dict())
    # gradients, in evaluation mode on their side, for which nothing here is random or of the batch but the norms
    given = torch.tensor(x, requires_grad=True)
    net(given).square().sum().backward()
    model.train()
    for _, layer in model.named_layers():
        if isinstance(layer, (nn.Dropout, nn.BatchNorm2d)):
            layer.training, layer._keeps = False, True
    y = model.forward(x)
    dx = model.backward(2 * y)
    np.testing.assert_allclose(dx, given.grad.numpy(), rtol=1e-3, atol=1e-4 * float(given.grad.abs().max()))


def test_patterns_that_share_a_node(tmp_path, run_file, rng):
    """A part of one is not looked at again for another."""
    nodes = [
        ("Sigmoid", ["x"], ["a"]),
        ("Mul", ["x", "a"], ["b"]),
        ("Sigmoid", ["b"], ["c"]),
        ("Mul", ["c", "b"], ["d"]),
        ("Div", ["d", "r"], ["e"]),
        ("Erf", ["e"], ["f"]),
        ("Add", ["f", "one"], ["g"]),
        ("Mul", ["d", "g"], ["h"]),
        ("Mul", ["half", "h"], ["i"]),
        ("Sigmoid", ["i"], ["j"]),
        ("Mul", ["i", "j"], ["y"]),
    ]
    constants = {"r": F(np.sqrt(2)), "one": F(1), "half": F(0.5)}
    path = save(tmp_path / "a.onnx", nodes, (4,), constants)
    model = xpconv.onnx.load(path)
    assert [type(layer) for layer in model.children()] == [nn.SiLU, nn.SiLU, nn.GELU, nn.SiLU]
    x = rng.normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(model.forward(x), run_file(path, x), rtol=1e-5, atol=1e-6)


def test_equal_parts_are_not_written_and_it_says_why(tmp_path):
    nodes = [("Split", ["x"], ["a", "b"], {"axis": 1}), ("Add", ["a", "b"], ["y"])]
    model = xpconv.onnx.load(save(tmp_path / "a.onnx", nodes, (4,)))
    with pytest.raises(OnnxError, match=r"layer 'node0' \(Split\) cannot be written: it gives 2 arrays"):
        xpconv.onnx.export(model, tmp_path / "b.onnx", (4,))


def test_scale_and_bias_that_do_not_fit(tmp_path):
    nodes = [("LayerNormalization", ["x", "s", "b"], ["y"], {"axis": -1})]
    path = save(tmp_path / "a.onnx", nodes, (4,), {"s": weights(4), "b": weights(3)})
    with pytest.raises(OnnxError, match=r"its bias has shape \(3,\), its scale \(4,\)"):
        xpconv.onnx.load(path)


def test_gradients_that_are_left_out_behind_a_fork(tmp_path, rng):
    nodes = [
        ("Mul", ["x", "x"], ["a"]),
        ("Conv", ["a", "w"], ["b"]),
        ("Mul", ["b", "b"], ["c"]),
        ("Conv", ["c", "v"], ["y"]),
    ]
    constants = {"w": weights(3, 2, 1, 1), "v": weights(2, 3, 1, 1)}
    model = xpconv.onnx.load(save(tmp_path / "a.onnx", nodes, (2, 3, 3), constants))
    x = rng.normal(size=(2, 2, 3, 3)).astype(np.float32)
    model.node1.need_dx = False  # nothing before it has parameters
    assert model.backward(model.forward(x)) is None
    assert not any(layer._stack for _, layer in model.named_layers())
    model.node3.need_dx = False
    y = model.forward(x)
    with pytest.raises(RuntimeError, match="a layer behind 'node1' gave no gradient to its input"):
        model.backward(y)


def test_a_fork_of_which_one_side_gives_no_gradient(tmp_path, rng):
    """What the other side gives is a part of the gradient, and no result."""
    sides = [("Conv", ["a", "v"], ["b"]), ("Conv", ["a", "u"], ["c"]), ("Add", ["b", "c"], ["y"])]
    constants = {"w": weights(3, 2, 1, 1), "v": weights(2, 3, 1, 1), "u": weights(2, 3, 1, 1, seed=1)}
    path = save(tmp_path / "a.onnx", [("Conv", ["x", "w"], ["a"]), *sides], (2, 3, 3), constants)
    model = xpconv.onnx.load(path)
    model.node1.need_dx = False
    y = model.forward(rng.normal(size=(2, 2, 3, 3)).astype(np.float32))
    with pytest.raises(RuntimeError, match="a layer behind 'node0' gave no gradient to its input"):
        model.backward(y)
    del constants["w"]
    model = xpconv.onnx.load(save(path, [("Relu", ["x"], ["a"]), *sides], (3, 3, 3), constants))
    model.node1.need_dx = False
    assert model.backward(model.forward(rng.normal(size=(2, 3, 3, 3)).astype(np.float32))) is None
    assert all(parameter.grad is not None for parameter in model.parameters())
