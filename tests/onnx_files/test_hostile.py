"""Files that are damaged, unsafe or beyond what xpconv knows: an error that says what is wrong, and nothing else."""

import os
import re

import numpy as np
import pytest

import xpconv.onnx
from xpconv import layers as nn
from xpconv.onnx import OnnxError

onnx = pytest.importorskip("onnx", reason="the package of the format")
helper, numpy_helper = onnx.helper, pytest.importorskip("onnx.numpy_helper")
FLOAT = onnx.TensorProto.FLOAT


def model_of(nodes, constants=(), inputs=("x",), outputs=("y",), opset=17):
    """A file with these parts, as a protocol buffer that can be spoiled."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, FLOAT, ["n", 3]) for name in inputs],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        list(constants),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def tensor(name="w", shape=(3, 2)):
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def gemm():
    return model_of([helper.make_node("Gemm", ["x", "w"], ["y"], name="fc")], [tensor()])


@pytest.fixture
def refuses(tmp_path):
    """``refuses(model or bytes, message)``: loading raises an OnnxError of that message and writes nothing."""

    def check(model, message, **options):
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        path = folder / "a.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        before = sorted(os.listdir(folder)), sorted(os.listdir(tmp_path))
        with pytest.raises(OnnxError, match=message) as caught:
            xpconv.onnx.load(path, **options)
        assert str(caught.value).startswith(str(path))
        assert (sorted(os.listdir(folder)), sorted(os.listdir(tmp_path))) == before

    return check


def test_no_onnx_at_all(refuses, tmp_path):
    for contents in (b"", b"\x89PNG\r\n\x1a\n" + bytes(100), b"no such thing", bytes(50), b"\x80\x04cos\nsystem\n."):
        refuses(contents, "not an ONNX file, truncated or damaged")
    with pytest.raises(FileNotFoundError):
        xpconv.onnx.load(tmp_path / "missing.onnx")
    with pytest.raises(OSError, match=r".*"):
        xpconv.onnx.load(tmp_path)


def test_every_truncation_and_many_flipped_bits(tmp_path, rng):
    """Whatever is cut off or changed: a model, or one clear error."""
    path = tmp_path / "a.onnx"
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, rng=0), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 2, rng=0)
    )
    xpconv.onnx.export(model, path, (1, 4, 4))
    contents = path.read_bytes()
    errors = 0
    for length in range(0, len(contents), 7):
        path.write_bytes(contents[:length])
        with pytest.raises(OnnxError):
            xpconv.onnx.load(path)
    for _ in range(400):
        spoiled = bytearray(contents)
        spoiled[rng.integers(len(spoiled))] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(spoiled))
        try:
            xpconv.onnx.load(path)
        except OnnxError:
            errors += 1
    assert errors > 50


def test_operators_that_are_lacking_are_listed_all_at_once(refuses):
    nodes = [
        helper.make_node("LRN", ["x"], ["a"], size=3),
        helper.make_node("FusedConv", ["a", "w"], ["b"], domain="com.microsoft"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("LRN", ["c"], ["d"], size=3),
        helper.make_node("Resize", ["d"], ["e"]),
        helper.make_node("Pad", ["e", "p"], ["f"], mode="reflect"),
        helper.make_node("_op_Relu", ["f"], ["g"]),
        helper.make_node("__class__", ["g"], ["y"]),
    ]
    model = model_of(nodes, [tensor(), numpy_helper.from_array(np.zeros(4, np.int64), "p")])
    refuses(model, r"xpconv lacks: LRN \(2 nodes\); Resize; __class__; _op_Relu; com\.microsoft\.FusedConv$")
    # forms of operators, and attributes that are not known
    nodes = [
        helper.make_node("Pad", ["x", "p"], ["a"], mode="reflect"),
        helper.make_node("Relu", ["x"], ["b"], surprise=1),
        helper.make_node("MaxPool", ["x"], ["c"], kernel_shape=[2, 2, 2]),
        helper.make_node("Sum", ["a", "b", "c"], ["y"]),
    ]
    model = model_of(nodes, [numpy_helper.from_array(np.zeros(4, np.int64), "p")])
    refuses(model, "lacks: MaxPool of 3 dimensions; Pad with mode reflect; Relu with the attribute surprise$")


def test_graphs_inside_of_nodes(refuses):
    inner = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "inner", [], [])
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    refuses(model_of([node]), "lacks: If with a graph inside")
    refuses(model_of([helper.make_node("Relu", ["x"], ["y"], body=inner)]), "lacks: Relu with a graph inside")


def test_external_data(refuses, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(np.ones(6, np.float32).tobytes())

    def outside(location, offset=None, length=None):
        model = gemm()
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            if value is not None:
                entry = weight.external_data.add()
                entry.key, entry.value = key, str(value)
        return model

    refuses(outside("w.bin"), "constant 'w' lies in another file, 'w.bin'; external_data=True reads")
    allowed = {"external_data": True}
    for location in ("../secret", str(secret), "sub/../../secret", "", "..", ".", "a\\..\\secret", "x\0y"):
        refuses(outside(location), "is not inside of the folder|does not have|cannot read", **allowed)
    folder = tmp_path / "model"
    (folder / "link").symlink_to(secret)
    refuses(outside("link"), "is not inside of the folder", **allowed)
    (folder / "w.bin").write_bytes(bytes(8) + np.ones(6, np.float32).tobytes())
    refuses(outside("missing"), "cannot read 'missing': No such file", **allowed)
    refuses(outside("w.bin", 12), "does not have 24 bytes from 12 on", **allowed)
    refuses(outside("w.bin", -1), "damaged: constant 'w' has 24 bytes from -1 on", **allowed)
    refuses(outside("w.bin", 0, 10**15), "damaged: constant 'w' has 1000000000000000 bytes", **allowed)
    refuses(outside("w.bin", "many"), "an offset or a length that is no number", **allowed)
    os.mkfifo(folder / "pipe") if hasattr(os, "mkfifo") else None
    (folder / "a.onnx").write_bytes(outside("w.bin", 8, 24).SerializeToString())
    model = xpconv.onnx.load(folder / "a.onnx", external_data=True)
    np.testing.assert_array_equal(next(model.parameters()).data, np.ones((2, 3)))


def test_cycles(refuses):
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    nodes.append(helper.make_node("Relu", ["b"], ["y"]))
    refuses(model_of(nodes), "its nodes form a cycle")
    refuses(model_of([helper.make_node("Add", ["x", "y"], ["y"])]), "its nodes form a cycle")


def test_names(refuses):
    relu = helper.make_node("Relu", ["x"], ["y"])
    refuses(model_of([helper.make_node("Relu", ["z"], ["y"])]), r"nothing gives what nodes take: 'z' \(Relu node")
    refuses(model_of([helper.make_node("Relu", ["x"], ["a"])]), "nothing gives the result 'y'")
    refuses(model_of([relu], outputs=()), r"nothing gives the result \(none is named\)")
    refuses(model_of([relu, relu]), "'y' is given by Relu node that gives 'y' and by something else too")
    refuses(model_of([helper.make_node("Relu", ["x"], ["x"])]), "'x' is given by .* something else too")
    refuses(model_of([relu], [tensor(), tensor()]), "two constants, or none, have the name 'w'")
    refuses(model_of([relu], [tensor("")]), "two constants, or none, have the name ''")
    refuses(model_of([relu], inputs=("x", "z")), "graphs of one input, this has 2: 'x', 'z'")
    refuses(model_of([helper.make_node("Relu", ["w"], ["y"])], [tensor()], inputs=()), "graphs of one input")
    refuses(model_of([relu], outputs=("y", "x")), "has 2 results; choose one with output=: 'y', 'x'")
    refuses(model_of([helper.make_node("", ["x"], ["y"])]), "has no operator or no result")
    refuses(model_of([helper.make_node("Relu", ["x"], [])]), "has no operator or no result")
    refuses(model_of([helper.make_node("Identity", ["w"], ["y"])], [tensor()]), "does not depend on the input")


def test_names_that_are_attributes_of_layers_do_no_harm(tmp_path, rng):
    names = [
        "forward",
        "__class__",
        "training",
        "_stack",
        "0.forward",
        "a..b",
        "a b",
        ".",
        "x" * 5000,
        "a.b",
        "a",
        "a.b.c",
    ]
    nodes, constants, value = [], [], "x"
    for i, name in enumerate(names):
        nodes.append(helper.make_node("Gemm", [value, f"{name}.weight"], [f"v{i}"], name=f"{name}/Gemm"))
        constants.append(tensor(f"{name}.weight", (3, 3)))
        value = f"v{i}"
    path = tmp_path / "a.onnx"
    path.write_bytes(model_of(nodes, constants, outputs=(value,)).SerializeToString())
    model = xpconv.onnx.load(path)
    assert len(list(model.parameters())) == len(names)
    assert type(model).forward is xpconv.onnx.Graph.forward
    assert "forward" not in vars(model)
    x = rng.normal(size=(2, 3)).astype(np.float32)
    np.testing.assert_allclose(model.backward(model.forward(x)).shape, x.shape)
    assert all(len(name) < 200 for name in model.state_dict())


def test_tensors_that_are_not_what_they_say(refuses):
    def spoiled(change):
        model = gemm()
        change(model.graph.initializer[0])
        return model

    def dims(*lengths):
        return lambda weight: (weight.ClearField("dims"), weight.dims.extend(lengths))

    refuses(spoiled(dims(2**40, 2**40)), "constant 'w' of shape .* in float32 has 24 bytes")
    refuses(spoiled(dims(2**62, 0)), "constant 'w'")
    empty = tensor("w", (0, 2))
    empty.dims[1] = 2**62
    refuses(model_of([helper.make_node("Gemm", ["x", "w"], ["y"])], [empty]), "constant 'w' has the shape")
    refuses(spoiled(dims(-3, -2)), r"constant 'w' has the shape \(-3, -2\)")
    refuses(spoiled(dims(*[1] * 40)), "constant 'w' has the shape")
    refuses(spoiled(dims(6)), "Gemm node 'fc': its second matrix has shape")
    refuses(spoiled(lambda weight: setattr(weight, "data_type", 8)), "tensors of type 8 are not read")
    refuses(spoiled(lambda weight: setattr(weight, "data_type", 99)), "tensors of type 99 are not read")
    refuses(spoiled(lambda weight: setattr(weight, "data_type", 7)), "in int64 has 24 bytes")
    refuses(spoiled(lambda weight: setattr(weight, "data_type", 6)), "second matrix is missing or not floating-point")
    refuses(spoiled(lambda weight: weight.ClearField("raw_data")), r"constant 'w' of shape \(3, 2\) has 0 numbers")
    refuses(spoiled(lambda weight: weight.segment.__setattr__("begin", 1)), "constant 'w' has the shape")
    huge = numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "s")
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])]
    refuses(model_of(nodes, [huge]), "a constant of 1099511627776 numbers is larger than xpconv makes one")
    nodes[0] = helper.make_node("Expand", ["w", "s"], ["c"])
    refuses(model_of(nodes, [huge, tensor("w", (1, 1))]), "a constant of 1099511627776 numbers")
    nodes[0] = helper.make_node("Mul", ["a", "b"], ["c"])
    wide = [tensor("a", (10000, 1)), tensor("b", (1, 10000))]
    refuses(model_of(nodes, wide), "a constant of 100000000 numbers")
    bounds = [numpy_helper.from_array(np.array(n, np.int64), name) for n, name in ((0, "a"), (2**60, "b"), (1, "c"))]
    nodes = [helper.make_node("Range", ["a", "b", "c"], ["s"]), helper.make_node("Reshape", ["x", "s"], ["y"])]
    refuses(model_of(nodes, bounds), "a constant of .* numbers is larger")


def test_an_input_that_is_declared_huge_costs_nothing(tmp_path):
    model = gemm()
    shape = model.graph.input[0].type.tensor_type.shape
    shape.dim[0].dim_value, shape.dim[1].dim_value = 2**40, 2**40
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    assert xpconv.onnx.load(path).input_shape == [2**40, 2**40]


CONV = [tensor("w", (2, 3, 1, 1))]


@pytest.mark.parametrize(
    ("node", "constants", "message"),
    [
        (("Conv", {"pads": [10**9] * 4}), CONV, "pads: expected 0 to 65536"),
        (("Conv", {"strides": [0, 1]}), CONV, "strides: expected 1 to 65536"),
        (("Conv", {"strides": [1]}), CONV, "strides: expected 2 integers"),
        (("Conv", {"kernel_shape": [3, 3]}), CONV, r"kernel_shape: \[3, 3\] does not fit the weight's \[1, 1\]"),
        (("Conv", {"kernel_shape": 3}), CONV, "kernel_shape: expected 2 integers"),
        (("Conv", {"group": 0}), CONV, "group: must be at least 1, got 0"),
        (("Conv", {"group": 5}), CONV, "Conv node 'n': groups: 5 must divide"),
        (("Conv", {"group": 1.5}), CONV, "group: expected an integer"),
        (("Conv", {"auto_pad": "SOME"}), CONV, "auto_pad: 'SOME' is not known"),
        (("Conv", {}), [tensor("w", (0, 3, 1, 1))], "its weight is empty"),
        (("Conv", {}), [tensor("w", (2, 3, 1, 1, 1))], "lacks: Conv of 3 dimensions"),
        (("MaxPool", {"kernel_shape": [10**12, 1]}), [], "kernel_shape: expected 1 to 65536"),
        (("MaxPool", {}), [], "has no kernel_shape"),
        (("AveragePool", {"kernel_shape": "ab"}), [], "kernel_shape: expected 2 integers"),
        (
            ("Pad", {}),
            [numpy_helper.from_array(np.array([10**15, 0], np.int64), "w")],
            "pads: expected pairs of at most",
        ),
        (("LeakyRelu", {"alpha": float("nan")}), [], "LeakyRelu node 'n': negative_slope"),
        (("Dropout", {"ratio": 7.0}), [], "Dropout node 'n': p: expected"),
        (("BatchNormalization", {"training_mode": 1}), [tensor("w", (3,))], "BatchNormalization in training mode"),
        (("Flatten", {"axis": "one"}), [], "axis: expected an integer"),
        (("Constant", {"value_string": "a"}), [], "lacks: Constant with the attribute value_string"),
        (("Cast", {"to": 7}), [], "lacks: Cast to integers"),
        (("Transpose", {"perm": 3}), [], "Transpose node 'n': perm: expected integers, got 3"),
        (("Transpose", {"perm": [0, 0]}), [], "perm: expected different integers"),
        (("Elu", {"alpha": "a"}), [], "Elu node 'n': alpha: expected a number, got 'a'"),
        (("ReduceMean", {"axes": [0.5]}), [], "axes: expected integers"),
        (("Softmax", {"axis": 0.5}), [], "axis: expected an integer"),
    ],
)
def test_attributes(node, constants, message, refuses):
    kind, attributes = node
    inputs = ["x"] + ["w"] * len(constants)
    refuses(model_of([helper.make_node(kind, inputs, ["y"], name="n", **attributes)], constants), message)


def test_versions(refuses):
    refuses(model_of([helper.make_node("Relu", ["x"], ["y"])], opset=6), "reads 7 to 25, the file has 6")
    refuses(model_of([helper.make_node("Relu", ["x"], ["y"])], opset=99), "reads 7 to 25, the file has 99")
    model = gemm()
    del model.opset_import[:]
    refuses(model, "the file has none")
    model = gemm()
    model.ir_version = 77
    refuses(model, "IR version 77, this xpconv reads 3 to 13")


def test_missing_inputs_of_nodes(refuses):
    for node in (
        helper.make_node("Conv", ["x"], ["y"]),
        helper.make_node("Gemm", ["x"], ["y"]),
        helper.make_node("MatMul", ["x"], ["y"]),
        helper.make_node("Add", ["x"], ["y"]),
        helper.make_node("Reshape", ["x"], ["y"]),
        helper.make_node("BatchNormalization", ["x", "w"], ["y"]),
        helper.make_node("Slice", ["x"], ["y"]),
        helper.make_node("Relu", [], ["y"]),
        helper.make_node("Relu", [""], ["y"]),
        helper.make_node("Concat", [], ["y"], axis=1),
    ):
        refuses(model_of([node], [tensor("w", (3,))]), re.escape(node.op_type))


def test_a_very_long_chain(tmp_path):
    """In reverse order, so that each node waits for the next: no recursion."""
    nodes = [helper.make_node("Relu", [f"v{i}" if i else "x"], [f"v{i + 1}"], name=f"n{i}") for i in range(3000)]
    model = model_of(nodes[::-1], outputs=("v3000",))
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    x = np.array([[1.0, -1.0, 2.0]], np.float32)
    np.testing.assert_array_equal(xpconv.onnx.load(path).eval().forward(x), [[1, 0, 2]])
