"""Optimizers against torch.optim, their groups, checks, state and moves between backends."""

import json

import numpy as np
import pytest

from xpconv.backends import BackendMismatchError, backend_of, use_backend
from xpconv.layers import Linear, Parameter
from xpconv.optim import SGD, Adam, AdamW, RMSprop

VARIANTS = {
    "sgd": (SGD, {"lr": 0.1}),
    "sgd-decay": (SGD, {"lr": 0.1, "weight_decay": 0.05}),
    "sgd-momentum": (SGD, {"lr": 0.1, "momentum": 0.9}),
    "sgd-dampening": (SGD, {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01}),
    "sgd-nesterov": (SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "rmsprop": (RMSprop, {"lr": 0.01}),
    "rmsprop-all": (RMSprop, {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.02, "momentum": 0.7}),
    "adam": (Adam, {"lr": 0.01}),
    "adam-all": (Adam, {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.02}),
    "adamw": (AdamW, {"lr": 0.01}),
    "adamw-all": (AdamW, {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2}),
    "adamw-no-decay": (AdamW, {"lr": 0.02, "weight_decay": 0.0}),
}
SHAPES = ((3, 2), (4,), ())


def parameters_and_gradients(rng, steps=10):
    values = [np.asarray(rng.normal(size=shape)) for shape in SHAPES]
    return values, [[np.asarray(rng.normal(size=shape)) for shape in SHAPES] for _ in range(steps)]


def take_steps(optimizer, parameters, gradients, asarray=np.array, dtype="float64"):
    for step in gradients:
        optimizer.zero_grad()
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.accumulate_grad(asarray(gradient, dtype))
        optimizer.step()


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_torch(variant, rng):
    torch = pytest.importorskip("torch")
    kind, options = VARIANTS[variant]
    values, gradients = parameters_and_gradients(rng)
    ours = [Parameter(v) for v in values]
    theirs = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    take_steps(kind(ours, **options), ours, gradients)
    optimizer = getattr(torch.optim, kind.__name__)(theirs, **options)
    for step in gradients:
        for tensor, gradient in zip(theirs, step, strict=True):
            tensor.grad = torch.tensor(gradient)
        optimizer.step()
    for parameter, tensor in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(parameter.data, tensor.detach().numpy(), rtol=1e-12, atol=1e-13)


def test_defaults_are_those_of_torch():
    torch = pytest.importorskip("torch")
    for kind in (SGD, RMSprop, Adam, AdamW):
        mine = kind([Parameter(np.ones(2))]).param_groups[0]
        theirs = getattr(torch.optim, kind.__name__)([torch.nn.Parameter(torch.ones(2))]).param_groups[0]
        for name, value in mine.items():
            if name != "params":
                assert value == theirs[name], (kind, name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_numpy_in_float64(on, variant, rng):
    kind, options = VARIANTS[variant]
    values, gradients = parameters_and_gradients(rng)
    reference = [Parameter(v) for v in values]
    take_steps(kind(reference, **options), reference, gradients)
    for dtype in on.dtypes:
        parameters = [Parameter(on.asarray(v, dtype)) for v in values]
        take_steps(kind(parameters, **options), parameters, gradients, on.asarray, dtype)
        tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]
        for parameter, other in zip(parameters, reference, strict=True):
            got = on.to_numpy(parameter.data)
            assert got.dtype.name == dtype
            np.testing.assert_allclose(got, other.data, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_resume_is_bit_exact(on, variant, rng):
    kind, options = VARIANTS[variant]
    values, gradients = parameters_and_gradients(rng, 6)
    straight = [Parameter(on.asarray(v, "float32")) for v in values]
    take_steps(kind(straight, **options), straight, gradients, on.asarray, "float32")

    first = [Parameter(on.asarray(v, "float32")) for v in values]
    optimizer = kind(first, **options)
    take_steps(optimizer, first, gradients[:3], on.asarray, "float32")
    state = optimizer.state_dict()
    assert all(type(array) is np.ndarray for array in state["arrays"].values())
    kept = {name: array.copy() for name, array in state["arrays"].items()}
    saved = {"arrays": kept, "settings": json.loads(json.dumps(state["settings"]))}
    second = [Parameter(parameter.data) for parameter in first]
    take_steps(optimizer, first, gradients[3:], on.asarray, "float32")
    for name, array in state["arrays"].items():
        np.testing.assert_array_equal(array, kept[name])  # a snapshot: steps do not change it

    resumed = kind(second)  # settings come with the state
    resumed.load_state_dict(saved)
    take_steps(resumed, second, gradients[3:], on.asarray, "float32")
    for name, array in saved["arrays"].items():
        np.testing.assert_array_equal(array, state["arrays"][name])
    for a, b, c in zip(straight, first, second, strict=True):
        np.testing.assert_array_equal(on.to_numpy(a.data), on.to_numpy(b.data))
        np.testing.assert_array_equal(on.to_numpy(a.data), on.to_numpy(c.data))


def test_state_survives_safetensors_and_json(tmp_path, rng):
    safetensors = pytest.importorskip("safetensors.numpy")
    layer = Linear(3, 2)
    optimizer = Adam(layer.parameters(), betas=(0.8, 0.9))
    y = layer(rng.normal(size=(4, 3)).astype(np.float32))
    layer.backward(y)
    optimizer.step()
    state = optimizer.state_dict()
    assert list(state["arrays"]) == ["0.m", "0.v", "1.m", "1.v"]
    assert state["settings"] == {
        "kind": "Adam",
        "groups": [{"count": 2, "lr": 1e-3, "betas": [0.8, 0.9], "eps": 1e-8, "weight_decay": 0.0}],
        "parameters": [{"step": 1, "arrays": ["m", "v"]}, {"step": 1, "arrays": ["m", "v"]}],
    }
    safetensors.save_file(state["arrays"], tmp_path / "state.safetensors")
    (tmp_path / "state.json").write_text(json.dumps(state["settings"]))
    other = Adam(layer.parameters())
    other.load_state_dict(
        {
            "arrays": safetensors.load_file(tmp_path / "state.safetensors"),
            "settings": json.loads((tmp_path / "state.json").read_text()),
        }
    )
    assert other.param_groups[0]["betas"] == (0.8, 0.9)
    for name, array in other.state_dict()["arrays"].items():
        np.testing.assert_array_equal(array, state["arrays"][name])


class TestGroups:
    def test_each_has_its_settings(self, rng):
        torch = pytest.importorskip("torch")
        values, gradients = parameters_and_gradients(rng)
        ours = [Parameter(v) for v in values]
        theirs = [torch.nn.Parameter(torch.tensor(v)) for v in values]

        def groups(p):
            return [{"params": p[:1], "lr": 0.2, "weight_decay": 0.1}, {"params": p[1:], "momentum": 0.0}]

        optimizer = SGD(groups(ours), lr=0.05, momentum=0.9)
        other = torch.optim.SGD(groups(theirs), lr=0.05, momentum=0.9)
        take_steps(optimizer, ours, gradients)
        for step in gradients:
            for tensor, gradient in zip(theirs, step, strict=True):
                tensor.grad = torch.tensor(gradient)
            other.step()
        for parameter, tensor in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(parameter.data, tensor.detach().numpy(), rtol=1e-12)
        assert list(optimizer.state_dict()["arrays"]) == ["0.velocity"]
        assert [group["count"] for group in optimizer.state_dict()["settings"]["groups"]] == [1, 2]

    def test_lr_sets_all(self):
        a, b = Parameter(np.ones(1)), Parameter(np.ones(1))
        optimizer = SGD([{"params": [a], "lr": 0.5}, {"params": b}], lr=0.1)
        assert optimizer.lr == 0.5
        optimizer.lr = np.float32(0.25)
        assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
        assert type(optimizer.lr) is float
        with pytest.raises(ValueError, match="lr: expected a finite number of at least 0, got -1"):
            optimizer.lr = -1
        assert optimizer.lr == 0.25

    def test_repr(self):
        optimizer = SGD([{"params": [Parameter(np.ones(1))]}, {"params": [Parameter(np.ones(1))], "lr": 0.5}], lr=0.1)
        assert repr(optimizer) == (
            "SGD(\n"
            "  group 0: 1 parameters, lr=0.1, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False\n"
            "  group 1: 1 parameters, lr=0.5, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False\n"
            ")"
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_without_gradient_are_skipped(variant, rng):
    torch = pytest.importorskip("torch")
    kind, options = VARIANTS[variant]
    values, gradients = parameters_and_gradients(rng, 4)
    ours = [Parameter(v) for v in values]
    theirs = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    optimizer, other = kind(ours, **options), getattr(torch.optim, kind.__name__)(theirs, **options)
    for number, step in enumerate(gradients):
        optimizer.zero_grad()
        other.zero_grad()
        for index, gradient in enumerate(step):
            if number % (index + 1) == 0:
                ours[index].accumulate_grad(gradient)
                theirs[index].grad = torch.tensor(gradient)
        before = [parameter.data.copy() for parameter in ours]
        optimizer.step()
        other.step()
        for index, parameter in enumerate(ours):
            assert np.array_equal(before[index], parameter.data) == (number % (index + 1) != 0)
    for parameter, tensor in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(parameter.data, tensor.detach().numpy(), rtol=1e-12)
    assert [entry["step"] for entry in optimizer.state_dict()["settings"]["parameters"]] == [4, 2, 2]


def test_gradients_are_not_modified(rng):
    for kind, options in VARIANTS.values():
        parameter = Parameter(rng.normal(size=3))
        gradient = rng.normal(size=3)
        gradient.flags.writeable = False
        optimizer = kind([parameter], **options)
        for _ in range(3):
            parameter.grad = gradient
            optimizer.step()


def test_numpy_settings_keep_float32():
    for kind in (SGD, RMSprop, Adam, AdamW):
        parameter = Parameter(np.ones(3, np.float32))
        optimizer = kind([parameter], lr=np.float64(0.1), weight_decay=np.float64(0.1))
        optimizer.param_groups[0]["lr"] = np.float64(0.05)
        parameter.grad = np.ones(3, np.float32)
        optimizer.step()
        assert parameter.data.dtype == np.float32
        assert all(array.dtype == np.float32 for array in optimizer.state_dict()["arrays"].values())


P = Parameter(np.ones(2))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SGD([]), ValueError, "params: expected at least one Parameter, got none"),
        (lambda: SGD(P), TypeError, "params: expected an iterable of Parameters or of dicts, got Parameter"),
        (lambda: SGD([P.data]), TypeError, "params: expected Parameters, got ndarray"),
        (lambda: SGD([P, P]), ValueError, "comes twice"),
        (lambda: SGD([{"params": [P]}, {"params": [P]}]), ValueError, "comes twice"),
        (lambda: SGD([P, {"params": [P]}]), TypeError, "params: expected Parameters, got dict"),
        (lambda: SGD([{"params": [P]}, P]), TypeError, "either Parameters, or dicts"),
        (lambda: SGD([{"lr": 0.1}]), TypeError, "dicts that have a key 'params'"),
        (lambda: SGD([{"params": [P], "rate": 0.1}]), TypeError, "rate: SGD has no such setting; it has lr, momentum"),
        (
            lambda: SGD([{"params": [P], "lr": -0.1}]),
            ValueError,
            "lr: expected a finite number of at least 0, got -0.1",
        ),
        (lambda: SGD([P], lr=float("nan")), ValueError, "lr"),
        (lambda: SGD([P], lr=float("inf")), ValueError, "lr"),
        (lambda: SGD([P], lr="fast"), TypeError, "lr: .* got 'fast'"),
        (lambda: SGD([P], lr=True), TypeError, "lr: .* got True"),
        (lambda: SGD([P], momentum=-0.1), ValueError, "momentum"),
        (lambda: SGD([P], weight_decay=-0.1), ValueError, "weight_decay"),
        (lambda: SGD([P], nesterov=1), ValueError, "nesterov: expected True or False, got 1"),
        (lambda: SGD([P], nesterov=True), ValueError, "nesterov: needs a momentum above 0"),
        (lambda: SGD([P], nesterov=True, momentum=0.9, dampening=0.1), ValueError, "no dampening"),
        (lambda: RMSprop([P], alpha=1.0), ValueError, "alpha: expected a number of at least 0 and below 1, got 1.0"),
        (lambda: RMSprop([P], eps=-1), ValueError, "eps"),
        (lambda: Adam([P], betas=(0.9, 1.0)), ValueError, "betas: expected two numbers of at least 0 and below 1"),
        (lambda: Adam([P], betas=0.9), ValueError, "betas"),
        (lambda: Adam([P], betas=(0.9, 0.99, 0.999)), ValueError, "betas"),
        (lambda: AdamW([P], eps=-1e-8), ValueError, "eps"),
    ],
)
def test_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_wrong_gradient_changes_nothing():
    first, second = Parameter(np.ones(2)), Parameter(np.ones(3))
    optimizer = Adam([first, second])
    first.grad = np.ones(2)
    for wrong, error in ((np.ones(2), ValueError), (np.ones(3, np.float32), TypeError)):
        second.grad = wrong
        with pytest.raises(error, match="the gradient of parameter 1"):
            optimizer.step()
    second.grad = np.ones(3)
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr"):
        optimizer.step()
    optimizer.lr = 0.1
    assert first.data.tolist() == [1, 1]
    assert optimizer.state_dict()["arrays"] == {}


def test_a_read_only_parameter_is_named_and_nothing_changes():
    first, second = Parameter(np.ones(2)), Parameter(np.ones(3))
    second.data = np.broadcast_to(1.0, (3,))
    first.grad, second.grad = np.ones(2), np.ones(3)
    with pytest.raises(ValueError, match=r"parameter 1 of shape \(3,\) is read-only, and a step updates it in place"):
        SGD([first, second], lr=0.1).step()
    assert first.data.tolist() == [1, 1]


class TestChangesBetweenSteps:
    """A step that finds all as the one before left it skips checks; whatever has changed is seen nevertheless."""

    @staticmethod
    def run(change, forgetful):
        rng = np.random.default_rng(3)
        parameters = [Parameter(rng.normal(size=shape)) for shape in ((3, 2), (4,), (5,))]
        optimizer = SGD([{"params": parameters[:2]}, {"params": parameters[2:]}], lr=0.1, momentum=0.9)
        late = Parameter(rng.normal(size=2))
        for step in range(8):
            for number, parameter in enumerate(parameters):
                parameter.grad = rng.normal(size=parameter.shape) if number != 1 else None
            if step == 4:
                assert forgetful or optimizer._seen is not None
                change(parameters, optimizer, late)
            if late.grad is not None:
                late.grad = rng.normal(size=2)
            if forgetful:
                optimizer._seen = None
            optimizer.step()
        return [p.data for p in (*parameters, late)], optimizer.state_dict()

    @staticmethod
    def append(parameters, optimizer, late):
        late.grad = np.ones(2)
        optimizer.param_groups[1]["params"].append(late)

    @staticmethod
    def load(parameters, optimizer, late):
        state = optimizer.state_dict()
        state["settings"]["groups"][1]["momentum"] = 0.2
        optimizer.load_state_dict(state)

    CHANGES = (
        lambda parameters, optimizer, late: None,
        lambda parameters, optimizer, late: setattr(optimizer, "lr", 0.5),
        lambda parameters, optimizer, late: optimizer.param_groups[0].update(lr=0.7),
        lambda parameters, optimizer, late: optimizer.param_groups[1].update(momentum=0.1),
        lambda parameters, optimizer, late: optimizer.param_groups[1].update(nesterov=True),
        lambda parameters, optimizer, late: setattr(parameters[2], "grad", None),
        lambda parameters, optimizer, late: setattr(parameters[1], "grad", np.ones(4)),
        lambda parameters, optimizer, late: setattr(parameters[0], "data", np.ones((3, 2))),
        lambda parameters, optimizer, late: optimizer.param_groups.reverse(),
        append,
        load,
    )

    @pytest.mark.parametrize("number", range(len(CHANGES)))
    def test_give_what_a_step_that_remembers_nothing_gives(self, number):
        change = getattr(self.CHANGES[number], "__func__", self.CHANGES[number])
        if number == 8:  # the state belongs to numbers, which now are those of other parameters
            with pytest.raises(ValueError, match="has shape"):
                self.run(change, False)
            return
        (arrays, state), (want, expected) = (self.run(change, forgetful) for forgetful in (False, True))
        for one, other in zip(arrays, want, strict=True):
            np.testing.assert_array_equal(one, other)
        assert state["settings"] == expected["settings"]
        assert state["arrays"].keys() == expected["arrays"].keys()
        plain, _ = self.run(lambda *_: None, True)
        assert number == 0 or any(not np.array_equal(a, b) for a, b in zip(arrays, plain, strict=True))

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (lambda p, o: o.param_groups[0].update(lr=-1.0), ValueError, "lr: expected a finite number"),
            (lambda p, o: o.param_groups[0].update(lr="fast"), TypeError, "lr: expected a finite number"),
            (lambda p, o: o.param_groups[0].update(lr=np.ones(2)), TypeError, "lr: expected a finite number"),
            (lambda p, o: o.param_groups[0].pop("lr"), ValueError, "lacks the settings lr"),
            (lambda p, o: o.param_groups[0].update(momentum=-1.0), ValueError, "momentum"),
            (lambda p, o: o.param_groups[0].update(nesterov=1), ValueError, "nesterov"),
            (lambda p, o: setattr(p, "grad", np.ones(3)), ValueError, "has shape"),
            (lambda p, o: setattr(p, "grad", np.ones(4, np.float32)), TypeError, "float32"),
            (lambda p, o: p.data.setflags(write=False), ValueError, "read-only"),
        ],
    )
    def test_that_are_wrong_raise_and_change_nothing(self, change, error, message):
        parameter = Parameter(np.ones(4))
        optimizer = SGD([parameter], momentum=0.9)
        for _ in range(3):
            parameter.grad = np.ones(4)
            optimizer.step()
        before = parameter.data.copy()
        change(parameter, optimizer)
        with pytest.raises(error, match=message):
            optimizer.step()
        np.testing.assert_array_equal(parameter.data, before)


class TestLoading:
    def prepared(self):
        parameters = [Parameter(np.ones((2, 3))), Parameter(np.ones(4))]
        optimizer = RMSprop(parameters, momentum=0.5)
        for parameter in parameters:
            parameter.grad = np.full(parameter.shape, 0.5)
        optimizer.step()
        return optimizer

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s.pop("arrays"), "state: has no 'arrays'"),
            (lambda s: s["settings"].pop("kind"), "state: has no 'kind'"),
            (lambda s: s["settings"].update(kind="Adam"), "state: is that of 'Adam', this is RMSprop"),
            (lambda s: s["settings"]["groups"].append({"count": 0}), r"state: has groups of \[2, 0\] parameters"),
            (lambda s: s["settings"]["groups"][0].update(count=3), r"state: has groups of \[3\] parameters .* \[2\]"),
            (lambda s: s["settings"]["groups"][0].update(lr=-1), "lr: expected"),
            (lambda s: s["settings"]["groups"][0].pop("alpha"), "lacks the settings alpha"),
            (lambda s: s["settings"]["parameters"].pop(), "entries for 1"),
            (lambda s: s["settings"]["parameters"][1].update(step=-1), "what parameter 1 has kept"),
            (lambda s: s["settings"]["parameters"][1].update(step="1"), "what parameter 1 has kept"),
            (lambda s: s["settings"]["parameters"][1].update(step=0), "what parameter 1 has kept"),
            (lambda s: s["settings"]["parameters"][1].update(arrays=["m"]), "what parameter 1 has kept"),
            (lambda s: s["settings"]["parameters"][1].update(arrays=[]), "what parameter 1 has kept"),
            (lambda s: s["arrays"].pop("1.square_avg"), "state: has no array '1.square_avg'"),
            (lambda s: s["arrays"].update({"2.square_avg": np.ones(1)}), "arrays of no parameter: 2.square_avg"),
            (lambda s: s["arrays"].update({"0.square_avg": np.ones(6)}), r"0.square_avg has shape \(6,\)"),
            (
                lambda s: s["arrays"].update({"0.square_avg": np.ones((2, 3), "f4")}),
                "is float32, its parameter float64",
            ),
        ],
    )
    def test_if_anything_is_wrong_nothing_changes(self, change, message):
        optimizer = self.prepared()
        before, state = optimizer.state_dict(), self.prepared().state_dict()
        state["settings"]["groups"][0]["lr"] = 0.125
        for name in state["arrays"]:
            state["arrays"][name] += 1
        change(state)
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
        after = optimizer.state_dict()
        assert after["settings"] == before["settings"]
        for name, array in before["arrays"].items():
            np.testing.assert_array_equal(after["arrays"][name], array)


class TestMovedModels:
    @pytest.mark.parametrize("variant", ["sgd-momentum", "rmsprop-all", "adam"])
    def test_to_follows_the_model(self, on, variant, rng):
        kind, options = VARIANTS[variant]
        x = rng.normal(size=(4, 3)).astype(np.float32)
        with use_backend("numpy"):
            stays, moves = Linear(3, 2, rng=0), Linear(3, 2, rng=0)
        optimizers = [kind(layer.parameters(), **options) for layer in (stays, moves)]
        for layer, optimizer in zip((stays, moves), optimizers, strict=True):
            layer.backward(layer(x))
            optimizer.step()
            layer.zero_grad()
        moves.to(on.backend)
        optimizers[1].to()
        stays.backward(stays(x))
        optimizers[0].step()
        moves.backward(moves(on.asarray(x)))
        optimizers[1].step()
        for a, b in zip(stays.parameters(), moves.parameters(), strict=True):
            np.testing.assert_allclose(on.to_numpy(b.data), a.data, rtol=1e-4, atol=1e-6)
        for name, array in optimizers[1].state_dict()["arrays"].items():
            np.testing.assert_allclose(array, optimizers[0].state_dict()["arrays"][name], rtol=1e-4, atol=1e-6)

    def test_forgotten_to_is_an_error(self, rng):
        pytest.importorskip("array_api_strict")
        layer = Linear(3, 2)
        optimizer = Adam(layer.parameters())
        x = rng.normal(size=(4, 3)).astype(np.float32)
        layer.backward(layer(x))
        optimizer.step()
        layer.to("array_api_strict")
        with pytest.raises(
            BackendMismatchError, match=r"m of parameter 0 is float32 on numpy, .* call optimizer.to\(\)"
        ):
            optimizer.step()
        optimizer.to("array_api_strict")
        optimizer.step()
        layer.to("numpy", "float64")
        optimizer.to()
        optimizer.step()
        assert layer.weight.data.dtype == np.float64
        layer.to(dtype="float32")
        with pytest.raises(TypeError, match="m of parameter 0 is float64 on numpy, the parameter itself float32"):
            optimizer.step()

    def test_loading_puts_the_state_where_the_parameters_are(self, on, rng):
        with use_backend("numpy"):
            layer = Linear(3, 2, rng=0)
        optimizer = Adam(layer.parameters())
        layer.backward(layer(rng.normal(size=(4, 3)).astype(np.float32)))
        optimizer.step()
        state = optimizer.state_dict()
        other = Adam(Linear(3, 2, rng=0).parameters())
        other.load_state_dict(state)
        for name, array in other.state_dict()["arrays"].items():
            np.testing.assert_array_equal(array, state["arrays"][name])
        for parameter in other.param_groups[0]["params"]:
            parameter.grad = backend_of(p=parameter.data).xp.zeros_like(parameter.data)
        other.step()
