"""Parameters and layers: registration, names, state, moving, modes and caches."""

import copy
import pickle

import numpy as np
import pytest

import xpconv
from xpconv import layers
from xpconv.backends import BackendMismatchError, backend_of
from xpconv.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Layer, Linear, Parameter, ReLU, Sequential


def small_net(**options):
    return Sequential(
        {
            "conv": Conv2d(2, 3, 3, **options),
            "bn": BatchNorm2d(3, dtype=options.get("dtype", "float32")),
            "relu": ReLU(),
            "flatten": Flatten(),
            "head": Sequential(Linear(12, 4, **options), Dropout(0.5), Linear(4, 2, bias=False, **options)),
        }
    )


NAMES = [
    "conv.weight",
    "conv.bias",
    "bn.weight",
    "bn.bias",
    "bn.running_mean",
    "bn.running_var",
    "bn.num_batches_tracked",
    "head.0.weight",
    "head.0.bias",
    "head.2.weight",
]


class Scale(Layer):
    """A layer as a user writes it, without a call of super().__init__()."""

    def __init__(self, features):
        self.scale = Parameter(np.full(features, 2.0, np.float32))

    def forward(self, x):
        self.push(x)
        return x * self.scale.data

    def backward(self, dy):
        x = self.pop()
        self.scale.accumulate_grad(backend_of(dy=dy).xp.sum(dy * x, axis=0))
        return dy * self.scale.data


class TestParameter:
    def test_owns_its_values(self, on):
        values = on.asarray([1.0, 2.0], "float32")
        parameter = Parameter(values)
        assert parameter.shape == (2,)
        assert parameter.size == 2
        assert parameter.grad is None
        assert parameter.data is not values
        parameter.data *= 3.0
        np.testing.assert_array_equal(on.to_numpy(values), [1, 2])
        np.testing.assert_array_equal(on.to_numpy(parameter.data), [3, 6])

    def test_gradients_add_up_and_arrays_stay(self, on):
        parameter = Parameter(on.asarray([1.0, 2.0], "float32"))
        first, second = on.asarray([1.0, 0.0], "float32"), on.asarray([0.5, 1.0], "float32")
        parameter.accumulate_grad(first)
        parameter.accumulate_grad(second)
        np.testing.assert_array_equal(on.to_numpy(parameter.grad), [1.5, 1])
        np.testing.assert_array_equal(on.to_numpy(first), [1, 0])

    def test_refuses_to_take_over_what_is_no_parameter(self):
        parameter = Parameter(np.ones(2))
        for values, got in (
            (np.ones(2, np.int32), "a parameter must be floating-point, got int32"),
            (None, "expected an array, got None"),
            ([1.0, 2.0], "expected an array, got builtins.list"),
        ):
            for assign in (Parameter, lambda data: setattr(parameter, "data", data)):
                with pytest.raises(TypeError, match=f"^data: {got}"):
                    assign(values)

    def test_refuses_what_is_no_gradient(self):
        parameter = Parameter(np.ones((2, 3), np.float32))
        with pytest.raises(ValueError, match=r"g: expected shape \(2, 3\) like data, got \(3,\)"):
            parameter.accumulate_grad(np.ones(3, np.float32))
        with pytest.raises(TypeError, match="g: expected float32 like data, got float64"):
            parameter.accumulate_grad(np.ones((2, 3)))
        with pytest.raises(TypeError, match="g: expected an array"):
            parameter.accumulate_grad(1.0)
        strict = pytest.importorskip("array_api_strict")
        with pytest.raises(BackendMismatchError):
            parameter.accumulate_grad(strict.ones((2, 3), dtype=strict.float32))
        assert parameter.grad is None

    def test_refuses_what_is_no_parameter(self):
        with pytest.raises(TypeError, match="floating-point, got int64"):
            Parameter(np.arange(3))
        with pytest.raises(TypeError, match="data: expected an array"):
            Parameter([1.0, 2.0])

    def test_without_axes(self, on):
        parameter = Parameter(on.asarray(2.0, "float32"))
        for _ in range(2):
            parameter.accumulate_grad(backend_of(p=parameter.data).xp.sum(on.asarray([1.0, 2.0], "float32")))
        assert on.to_numpy(parameter.grad).shape == ()
        assert float(parameter.grad) == 6

    def test_repr(self):
        assert repr(Parameter(np.ones((2, 3)))) == "Parameter(float64, shape=(2, 3), backend='numpy')"

    def test_torch_parameter_is_cut_off_from_autograd(self):
        torch = pytest.importorskip("torch")
        theirs = torch.nn.Parameter(torch.ones(2))
        parameter = Parameter(theirs)
        assert not parameter.data.requires_grad
        parameter.data *= 2
        assert theirs.tolist() == [1, 1]


class TestRegistration:
    def test_names_in_order(self):
        net = small_net()
        assert list(net.state_dict()) == NAMES
        assert [name for name, _ in net.named_parameters()] == [
            n for n in NAMES if "running" not in n and "num" not in n
        ]
        assert [name for name, _ in net.named_buffers()] == NAMES[4:7]
        assert len(list(net.parameters())) == 7
        assert [name for name, _ in net.named_layers()] == [
            "",
            "conv",
            "bn",
            "relu",
            "flatten",
            "head",
            "head.0",
            "head.1",
            "head.2",
        ]
        assert [name for name, _ in net.named_children()] == ["conv", "bn", "relu", "flatten", "head"]
        assert next(net.children()) is net.conv

    def test_own_parameters_come_before_those_of_children(self):
        layer = Layer()
        layer.child = Linear(2, 2)
        layer.own = Parameter(np.ones(1))
        layer.register_buffer("seen", np.zeros(1))
        assert list(layer.state_dict()) == ["own", "seen", "child.weight", "child.bias"]

    def test_shared_parts_come_once_but_are_saved_under_each_name(self):
        shared = Linear(2, 2)
        net = Sequential(shared, ReLU(), shared)
        assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias"]
        assert [name for name, _ in net.named_layers()] == ["", "0", "1"]
        assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        net[1].weight = shared.weight
        assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias"]

    def test_reassigning(self):
        layer = Linear(2, 2)
        layer.weight = Parameter(np.zeros((2, 2), np.float32))
        assert list(layer.state_dict()) == ["weight", "bias"]
        layer.bias = None
        assert list(layer.state_dict()) == ["weight"]
        assert layer(np.ones((1, 2), np.float32)).tolist() == [[0, 0]]
        layer.bias = Parameter(np.ones(2, np.float32))
        assert list(layer.state_dict()) == ["weight", "bias"]
        del layer.weight
        assert list(layer.state_dict()) == ["bias"]
        layer.bias = ReLU()
        assert list(layer.state_dict()) == []
        assert [name for name, _ in layer.named_children()] == ["bias"]

    def test_refuses_what_would_get_lost(self):
        layer = Linear(2, 2)
        with pytest.raises(TypeError, match=r"weight: expected a Parameter or None, got ndarray; .* weight.data"):
            layer.weight = np.zeros((2, 2))
        net = Sequential(layer)
        with pytest.raises(TypeError, match="0: expected a Layer or None, got function"):
            setattr(net, "0", lambda x: x)
        for parts in ([ReLU()], (ReLU(),), {"a": Parameter(np.ones(1))}):
            with pytest.raises(TypeError, match="not found by parameters"):
                net.parts = parts
        with pytest.raises(ValueError, match=r"name: must be non-empty and without '.'"):
            setattr(net, "a.b", ReLU())
        with pytest.raises(ValueError, match="name: must be a new attribute"):
            layer.register_buffer("weight", np.ones(1))
        with pytest.raises(TypeError, match="array: expected an array"):
            layer.register_buffer("seen", [1.0])

    def test_base_class_does_nothing(self):
        with pytest.raises(NotImplementedError, match="Layer defines no forward"):
            Layer()(np.ones(1))
        with pytest.raises(NotImplementedError, match="Layer defines no backward"):
            Layer().backward(np.ones(1))

    def test_layer_of_a_user(self, on, rng):
        scale = Scale(3).to(on.backend)
        net = Sequential(scale, Linear(3, 2))
        assert list(net.state_dict()) == ["0.scale", "1.weight", "1.bias"]
        x = rng.normal(size=(4, 3)).astype(np.float32)
        y = net(on.asarray(x))
        dx = net.backward(y)
        weight = on.to_numpy(net[1].weight.data)
        np.testing.assert_allclose(on.to_numpy(dx), on.to_numpy(y) @ weight * 2, rtol=1e-5)
        np.testing.assert_allclose(on.to_numpy(scale.scale.grad), (on.to_numpy(y) @ weight * x).sum(axis=0), rtol=1e-4)

    def test_repr(self):
        assert repr(small_net()) == (
            "Sequential(\n"
            "  (conv): Conv2d(2, 3, kernel_size=(3, 3), stride=(1, 1))\n"
            "  (bn): BatchNorm2d(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)\n"
            "  (relu): ReLU()\n"
            "  (flatten): Flatten()\n"
            "  (head): Sequential(\n"
            "    (0): Linear(in_features=12, out_features=4, bias=True)\n"
            "    (1): Dropout(p=0.5)\n"
            "    (2): Linear(in_features=4, out_features=2, bias=False)\n"
            "  )\n"
            ")"
        )
        assert repr(Conv2d(4, 6, (3, 2), 2, 1, 2, 2, False)) == (
            "Conv2d(4, 6, kernel_size=(3, 2), stride=(2, 2), padding=(1, 1), dilation=(2, 2), groups=2, bias=False)"
        )
        assert repr(layers.Conv1d(4, 6, 3, 2, "same", 1, 2, False)) == (
            "Conv1d(4, 6, kernel_size=3, stride=2, padding='same', groups=2, bias=False)"
        )
        assert repr(layers.MaxPool2d(2)) == "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)"
        assert repr(layers.GroupNorm(2, 4)) == "GroupNorm(2, 4, eps=1e-05, affine=True)"


class TestState:
    def test_round_trip(self, on, rng):
        source, target = small_net(), small_net()
        source(on.asarray(rng.normal(size=(3, 2, 4, 4)), "float32"))
        state = source.state_dict()
        assert all(backend_of(array=array).name == on.backend for array in state.values())
        assert target.load_state_dict(state) == ([], [])
        for (name, array), other in zip(source.state_dict().items(), target.state_dict().values(), strict=True):
            np.testing.assert_array_equal(on.to_numpy(array), on.to_numpy(other), err_msg=name)
        host = {name: xpconv.to_numpy(array) for name, array in state.items()}
        third = small_net()
        third.load_state_dict(host)
        assert int(third.bn.num_batches_tracked) == 1
        for (name, array), values in zip(third.state_dict().items(), host.values(), strict=True):
            np.testing.assert_array_equal(on.to_numpy(array), values, err_msg=name)
            assert on.to_numpy(array).dtype == values.dtype

    def test_state_is_a_copy_both_ways(self, on):
        net = Linear(2, 2)
        state = net.state_dict()
        before = on.to_numpy(state["weight"]).copy()
        net.weight.data += 1.0
        np.testing.assert_array_equal(on.to_numpy(state["weight"]), before)
        host = {name: xpconv.to_numpy(array).copy() for name, array in state.items()}
        for given in (state, host):
            net.load_state_dict(given)
            net.weight.data += 1.0
            np.testing.assert_array_equal(xpconv.to_numpy(given["weight"]), before)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s.pop("bn.running_var"), "missing: bn.running_var"),
            (lambda s: s.update(extra=np.zeros(1), more=np.zeros(1)), "unexpected: extra, more"),
            (
                lambda s: s.update({"head.0.bias": np.zeros(5, np.float32)}),
                r"head.0.bias: expected shape \(4,\), got \(5,\)",
            ),
            (lambda s: s.update({"head.2.weight": np.zeros((2, 4))}), "head.2.weight: expected float32, got float64"),
            (lambda s: s.update({"bn.num_batches_tracked": np.array(1.0)}), "expected int64, got float64"),
            (lambda s: s.update({"conv.bias": np.zeros(3, np.int64)}), "conv.bias: expected float32, got int64"),
            (lambda s: s.update({"head.2.weight": [[0.0] * 4] * 2}), "head.2.weight: expected an array, got list"),
        ],
    )
    def test_if_anything_is_wrong_nothing_changes(self, change, message):
        net = small_net()
        before = net.state_dict()
        state = {name: array + 1 for name, array in before.items()}
        change(state)
        with pytest.raises(ValueError, match=f"state: does not fit Sequential:\n.*{message}"):
            net.load_state_dict(state)
        for name, array in net.state_dict().items():
            np.testing.assert_array_equal(array, before[name], err_msg=name)

    def test_all_problems_in_one_message(self):
        net = small_net()
        state = net.state_dict()
        del state["conv.bias"]
        state["head.0.weight"] = np.zeros((1, 1), np.float32)
        state["surplus"] = np.zeros(1)
        with pytest.raises(
            ValueError, match=r"(?s)missing: conv.bias.*unexpected: surplus.*head.0.weight: expected shape"
        ):
            net.load_state_dict(state)

    def test_not_strict(self):
        net = small_net()
        state = {"conv.bias": np.ones(3, np.float32), "surplus": np.zeros(1)}
        result = net.load_state_dict(state, strict=False)
        assert result.missing == [name for name in NAMES if name != "conv.bias"]
        assert result.unexpected == ["surplus"]
        assert net.conv.bias.data.tolist() == [1, 1, 1]
        with pytest.raises(ValueError, match=r"conv.bias: expected shape"):
            net.load_state_dict({"conv.bias": np.ones(4, np.float32)}, strict=False)

    def test_third_backend(self):
        pytest.importorskip("array_api_strict")
        net = small_net()
        before = net.state_dict()
        state = small_net().to("array_api_strict").state_dict()
        with pytest.raises(BackendMismatchError, match=r"conv.weight is an array of array_api_strict, .* on numpy"):
            net.load_state_dict(state)
        assert all(np.array_equal(before[name], array) for name, array in net.state_dict().items())

    def test_bfloat16(self):
        pytest.importorskip("torch")
        with xpconv.use_backend("torch"):
            net = Linear(3, 2, dtype="bfloat16")
            host = {name: xpconv.to_numpy(array).copy() for name, array in net.state_dict().items()}
            assert host["weight"].dtype == np.float32  # NumPy has no bfloat16
            other = Linear(3, 2, dtype="bfloat16")
            other.load_state_dict(host)
            assert (other.weight.data == net.weight.data).all()
            assert backend_of(w=other.weight.data).dtype_name(other.weight.data) == "bfloat16"

    def test_deepcopy_and_pickle(self, rng):
        net = small_net().eval()
        x = rng.normal(size=(2, 2, 4, 4)).astype(np.float32)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            np.testing.assert_array_equal(other(x), net(x))
            other.conv.weight.data += 1.0
            assert not np.array_equal(other.conv.weight.data, net.conv.weight.data)


class TestMoving:
    def test_to_backend_and_dtype(self, on, rng):
        with xpconv.use_backend("numpy"):
            net = small_net()
        x = rng.normal(size=(3, 2, 4, 4)).astype(np.float32)
        net.backward(net(x))
        grads = [parameter.grad for parameter in net.parameters()]
        net(x)
        state = net.state_dict()
        assert net.to(on.backend) is net
        assert not net.conv._stack
        for parameter, grad in zip(net.parameters(), grads, strict=True):
            np.testing.assert_array_equal(on.to_numpy(parameter.grad), grad)
        for name, array in net.state_dict().items():
            np.testing.assert_array_equal(on.to_numpy(array), state[name], err_msg=name)
            assert backend_of(array=array).name == on.backend
        for dtype in on.dtypes:
            net.to(dtype=dtype)
            kinds = {name: on.to_numpy(array).dtype.name for name, array in net.state_dict().items()}
            assert kinds.pop("bn.num_batches_tracked").startswith("int")
            assert set(kinds.values()) == {dtype}
            assert all(on.to_numpy(parameter.grad).dtype.name == dtype for parameter in net.parameters())
        net.to("numpy", "float32")
        for name, array in net.state_dict().items():
            assert type(array) is np.ndarray
            np.testing.assert_array_equal(array, state[name], err_msg=name)

    def test_shared_parameters_stay_shared(self):
        pytest.importorskip("array_api_strict")
        net = Sequential(Linear(2, 2), Linear(2, 2))
        net[1].weight = net[0].weight
        net.to("array_api_strict")
        assert net[1].weight is net[0].weight
        assert backend_of(w=net[1].weight.data).name == "array_api_strict"

    def test_if_it_fails_nothing_changes(self):
        net = small_net()
        before = net.state_dict()
        with pytest.raises(ValueError, match="backend: unknown 'nowhere'"):
            net.to("nowhere")
        for dtype in ("float33", "int32", "numpy"):
            with pytest.raises(TypeError, match=f"dtype: expected the name of a floating-point dtype.* got {dtype!r}"):
                net.to(dtype=dtype)
        with pytest.raises(TypeError, match="backend: expected a name such as 'numpy', got 5"):
            net.to(5)
        pytest.importorskip("jax")
        net.head.append(Linear(2, 2, dtype="float64"))  # the last part is what fails
        with pytest.raises(TypeError, match="dtype: JAX has no float64"):
            net.to("jax")
        assert all(isinstance(parameter.data, np.ndarray) for parameter in net.parameters())
        state = net.state_dict()
        assert all(np.array_equal(before[name], state[name]) for name in before)


class TestModesAndCaches:
    def test_train_and_eval(self):
        net = small_net()
        assert net.training
        assert net.eval() is net
        assert not any(layer.training for _, layer in net.named_layers())
        assert net.train() is net
        assert all(layer.training for _, layer in net.named_layers())
        net.train(False)
        assert not net.head[0].training

    def test_nothing_is_kept_in_evaluation(self, on, rng):
        net = small_net().eval()
        before = {name: on.to_numpy(array) for name, array in net.state_dict().items()}
        net(on.asarray(rng.normal(size=(3, 2, 4, 4)), "float32"))
        assert not any(layer._stack for _, layer in net.named_layers())
        for name, array in net.state_dict().items():
            np.testing.assert_array_equal(on.to_numpy(array), before[name])

    def test_backward_leaves_nothing(self, rng):
        net = small_net()
        net.backward(net(rng.normal(size=(3, 2, 4, 4)).astype(np.float32)))
        assert not any(layer._stack for _, layer in net.named_layers())

    def test_clear_cache_and_zero_grad(self, rng):
        net = small_net()
        x = rng.normal(size=(3, 2, 4, 4)).astype(np.float32)
        net.backward(net(x))
        assert all(parameter.grad is not None for parameter in net.parameters())
        net.zero_grad()
        assert all(parameter.grad is None for parameter in net.parameters())
        for forget in (net.clear_cache, lambda: net.begin_step(0)):
            net(x)
            assert net.conv._stack
            forget()
            assert not any(layer._stack for _, layer in net.named_layers())
            with pytest.raises(RuntimeError, match=r"Linear.backward: no forward to go back through"):
                net.backward(np.ones((3, 2), np.float32))

    def test_batches_of_two_steps_go_back_last_first(self, rng):
        layer = Linear(3, 2)
        a, b = rng.normal(size=(2, 4, 3)).astype(np.float32)
        one = np.ones((4, 2), np.float32)
        layer(a), layer(b)
        layer.backward(one)
        np.testing.assert_allclose(layer.weight.grad, one.T @ b, rtol=1e-5)
        layer.backward(one)
        np.testing.assert_allclose(layer.weight.grad, one.T @ (a + b), rtol=1e-5)
