"""Optimizers and clipping on CUDA kernels that take many tensors in one launch, and steps that a graph replays."""

import numpy as np
import pytest

from xpconv._gpu import optim as gpu_optim
from xpconv.backends import BackendUnavailableError, load_backend, use_kernels
from xpconv.layers import Parameter
from xpconv.optim import SGD, Adam, AdamW, RMSprop, clip_grad_norm
from xpconv.testing.cuda_host import HostArray, thread_schedule

VARIANTS = {
    "sgd": (SGD, {"lr": 0.1, "weight_decay": 0.05}),
    "sgd-momentum": (SGD, {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    "sgd-nesterov": (SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "rmsprop": (RMSprop, {"lr": 0.01}),
    "rmsprop-momentum": (RMSprop, {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.02, "momentum": 0.7}),
    "adam": (Adam, {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.02}),
    "adamw": (AdamW, {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.2}),
}
# of the largest number, after two steps
TOLERANCE = {"float64": 1e-13, "float32": 2e-6, "float16": 4e-3, "bfloat16": 3e-2}
MANY = 2 * 88 + 5  # tensors, of which a launch takes 88


def dtype_of(name):
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


@pytest.fixture(scope="module")
def host():
    """The CUDA kernels on the host."""
    try:
        return load_backend("cuda-host")
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def launched(host, monkeypatch):
    """The names of the kernels that were asked for, in order."""
    names = []
    get = host.kernels.get
    monkeypatch.setattr(host.kernels, "get", lambda *key: names.append(key[1]) or get(*key))
    return names


def laid_out(values, number):
    """``values`` on the device: every fourth one off the start of its memory, or every second element of it."""
    if number % 4 == 1:
        memory = np.zeros(values.size + 1, values.dtype).view(HostArray)
        array = memory[1:].reshape(values.shape)
    elif number % 4 == 3:
        array = np.zeros((*values.shape, 2), values.dtype).view(HostArray)[..., 0]
    else:
        array = np.zeros(values.shape, values.dtype).view(HostArray)
    array[...] = values
    return array


def values_of_many(rng, dtype, steps, count=MANY):
    """Values and, for each step, gradients of tensors of odd sizes, some without elements; away from zero."""
    shapes = [[(1,), (), (0,), (3, 5), (7, 1, 11), (2, 0, 3), (257,), (4, 8)][i % 8] for i in range(count)]

    def draw():
        return [np.asarray(rng.choice([-1, 1], shape) * rng.uniform(0.5, 2, shape)).astype(dtype) for shape in shapes]

    return draw(), [draw() for _ in range(steps)]


def take_steps(kind, options, values, gradients, make):
    """Parameters after a step for each list of gradients; ``make(values, number)`` gives arrays."""
    parameters = [Parameter(make(v, 0)) for v in values]
    for number, (parameter, v) in enumerate(zip(parameters, values, strict=True)):
        parameter.data = make(v, number)
    optimizer = kind(parameters, **options)
    for step in gradients:
        for number, (parameter, gradient) in enumerate(zip(parameters, step, strict=True)):
            parameter.grad = make(gradient, number + 1)
        optimizer.step()
    return parameters, optimizer


def wide(dtype):
    return np.dtype("float64" if dtype == np.float64 else "float32")


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [(variant, "float32") for variant in VARIANTS]
    + [(v, d) for v in ("sgd-momentum", "rmsprop-momentum", "adam") for d in ("float64", "float16", "bfloat16")],
)
def test_equals_the_generic_optimizer(host, launched, rng, variant, dtype):
    name, dtype = dtype, dtype_of(dtype)
    kind, options = VARIANTS[variant]
    # half precision forgets in its state what the reference, in float32, still knows: one step
    values, gradients = values_of_many(rng, dtype, 2 if dtype == wide(dtype) else 1)
    before = [[g.copy() for g in step] for step in gradients]
    got, _ = take_steps(kind, options, values, gradients, laid_out)
    want, _ = take_steps(kind, options, values, gradients, lambda v, _: np.array(v, wide(dtype)))
    assert launched.count(kind([Parameter(np.ones(1))])._operator) == 2 * len(gradients)  # not one for each tensor
    for ours, theirs, start in zip(got, want, values, strict=True):
        assert ours.data.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(ours.data, np.float64), theirs.data, rtol=TOLERANCE[name], atol=TOLERANCE[name]
        )
        assert not ours.size or not np.array_equal(np.asarray(ours.data), start)
    for step, kept in zip(gradients, before, strict=True):
        for gradient, copy in zip(step, kept, strict=True):
            np.testing.assert_array_equal(gradient, copy)


def test_memory_around_the_tensors_is_left_alone(host, rng):
    memory = np.full(40, 7, np.float32).view(HostArray)
    views = [memory[1:4], memory[5:22], memory[23:40:2]]
    parameters = [Parameter(view) for view in views]
    for parameter, view in zip(parameters, views, strict=True):
        parameter.data = view
        parameter.grad = np.ones(view.shape, np.float32).view(HostArray)
    optimizer = SGD(parameters, lr=1.0)
    optimizer.step()
    for parameter, view in zip(parameters, views, strict=True):
        assert parameter.data is view  # updated in place, whatever the strides
    expected = np.full(40, 7, np.float32)
    for part in (slice(1, 4), slice(5, 22), slice(23, 40, 2)):
        expected[part] = 6
    np.testing.assert_array_equal(np.asarray(memory), expected)


@pytest.mark.parametrize("schedule", [1, 5])
def test_any_order_of_threads_and_many_chunks(host, rng, schedule):
    """A tensor of several of the largest chunks among small ones; clipping gives the same bits in any order."""
    shapes = [(5,), (70_001,), (0,), (3, 3)]
    values, gradients = ([np.asarray(rng.normal(size=s), np.float32) for s in shapes] for _ in range(2))

    def run():
        parameters = [Parameter(v.view(HostArray)) for v in values]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view(HostArray)
        norm = clip_grad_norm(parameters, 2.0)
        AdamW(parameters, lr=0.1).step()
        return [norm, *(p.grad for p in parameters), *(p.data for p in parameters)]

    with thread_schedule(schedule):
        results = run()
    for one, other in zip(results, run(), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    norm = np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in gradients))
    assert float(results[0]) == pytest.approx(norm, rel=1e-6)
    for gradient, clipped in zip(gradients, results[1:5], strict=True):
        np.testing.assert_allclose(np.asarray(clipped), gradient * (2 / norm), rtol=2e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_clipping_in_half_precision(host, rng, dtype):
    dtype = dtype_of(dtype)
    _, (gradients,) = values_of_many(rng, dtype, 1)
    parameters = [Parameter(np.zeros(g.shape, dtype).view(HostArray)) for g in gradients]
    for number, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        parameter.grad = laid_out(gradient * dtype.type(200), number)  # the squares overflow in float16
    norm = clip_grad_norm(parameters, 1.0)
    want = 200 * np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in gradients))
    assert norm.dtype == np.float32
    assert float(norm) == pytest.approx(want, rel=1e-2)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert parameter.grad.dtype == dtype
        got = np.asarray(parameter.grad, np.float64)
        np.testing.assert_allclose(got, np.float64(gradient) * 200 / want, rtol=2e-2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_on_the_device(host, rng, dtype):
    """Learning rate and step through a pointer give what they give by value; the step is counted there."""
    p, g, m = (np.asarray(a, dtype).view(HostArray) for a in rng.normal(size=(3, 50)))
    v, lr, step = m * m, np.asarray([0.1], dtype).view(HostArray), np.asarray([6], np.int64).view(HostArray)
    for operator, state, numbers in [
        (gpu_optim.sgd_steps, (m,), lambda n, a: (a, 0.9, 0.0, True, 0.1)),
        (gpu_optim.rmsprop_steps, (v, m), lambda n, a: (a, 0.9, 1e-8, 0.9, 0.0)),
        (gpu_optim.adam_steps, (m, v), lambda n, a: (n, a, 0.9, 0.99, 1e-8, 0.1, True)),
    ]:
        results = [
            operator(host, *([a.copy()] for a in (p, g, *state)), *numbers(*pair)) for pair in ((7, 0.1), (step, lr))
        ]
        assert not np.array_equal(np.asarray(results[0][0][0]), np.asarray(p))
        for (one,), (other,) in zip(*results, strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert np.asarray(step).tolist() == [7]


@pytest.mark.parametrize(
    "change", [lambda a: a[:-1], lambda a: a.astype(np.float64), lambda a: np.repeat(a, 2)[::2].view(HostArray)]
)
def test_a_table_refuses_arrays_that_do_not_match(host, change):
    arrays = [np.ones(4, np.float32).view(HostArray) for _ in range(2)]
    with pytest.raises(ValueError, match="tensor 0"):
        list(gpu_optim._tables(host, ([arrays[0]], [change(arrays[1])])))


def test_read_only_parameters_are_refused(host):
    p = np.ones(4, np.float32).view(HostArray)
    g = p.copy()
    p.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        gpu_optim.sgd_steps(host, [p], [g], None, 0.1, 0.0, 0.0, False, 0.0)


class TestRecordedSteps:
    """A step that a graph replays does what ordinary steps do, bit for bit."""

    @staticmethod
    def prepared(kind, options, dtype="float32"):
        """Parameters with gradients after one ordinary step; the optimizer, of two groups."""
        rng = np.random.default_rng(5)
        values = [rng.normal(size=s).astype(dtype) for s in ((3, 4), (0,), (17,), (5, 1))]
        parameters = [Parameter(v.view(HostArray)) for v in values]
        optimizer = kind([{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.3}], **options)
        for parameter in parameters:
            parameter.grad = np.asarray(rng.normal(size=parameter.shape), dtype).view(HostArray)
        optimizer.step()
        return parameters, optimizer

    @staticmethod
    def new_gradients(parameters, number):
        """Other gradients in the same memory, as a graph makes them."""
        for parameter in parameters:
            rng = np.random.default_rng((number, parameter.size))
            parameter.grad[...] = np.asarray(rng.normal(size=parameter.shape), parameter.grad.dtype).view(HostArray)

    @pytest.mark.parametrize(
        ("variant", "dtype"),
        [("sgd-nesterov", "float32"), ("rmsprop-momentum", "float32"), ("adam", "float64"), ("adamw", "float32")],
    )
    def test_equal_ordinary_ones(self, host, variant, dtype):
        results = []
        for recording in (False, True):
            parameters, optimizer = self.prepared(*VARIANTS[variant], dtype)
            if recording:
                before = optimizer.state_dict()
                with optimizer.recording() as recorded:
                    graph = host.capture(optimizer.step)
                after = optimizer.state_dict()
                assert after["settings"] == before["settings"]
                for name, array in before["arrays"].items():
                    np.testing.assert_array_equal(after["arrays"][name], array)
            for number in range(6):
                self.new_gradients(parameters, number)
                optimizer.lr = 0.1 if number < 2 else 0.1 / number
                if recording and number != 3:  # an ordinary step comes in between
                    assert recorded.is_current()
                    recorded.prepare_replay()
                    graph.replay()
                else:
                    optimizer.step()
            results.append((parameters, optimizer.state_dict()))
        (ordinary, state), (replayed, other) = results
        for a, b in zip(ordinary, replayed, strict=True):
            np.testing.assert_array_equal(np.asarray(a.data), np.asarray(b.data))
        assert other["settings"] == state["settings"]
        assert [entry["step"] for entry in other["settings"]["parameters"]] == [7] * 4
        for name, array in state["arrays"].items():
            np.testing.assert_array_equal(other["arrays"][name], array)

    @pytest.mark.parametrize("variant", ["sgd-momentum", "rmsprop", "adam"])
    def test_launch_nothing_for_the_first_time(self, host, monkeypatch, variant):
        """What a first launch loads cannot be loaded while a graph is recorded."""
        launched, launch = [], gpu_optim.launch
        monkeypatch.setattr(gpu_optim, "launch", lambda *a: launched.append(a[2:5]) or launch(*a))
        _, optimizer = self.prepared(*VARIANTS[variant])
        with optimizer.recording():
            before = set(launched)
            launched.clear()
            host.capture(optimizer.step)
        assert before >= set(launched) != set()

    def test_with_clipping(self, host):
        parameters, optimizer = self.prepared(SGD, {"lr": 0.1})
        gradients = [p.grad for p in parameters]

        def step():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            norm = clip_grad_norm(parameters, 0.5)
            optimizer.step()
            return norm

        with optimizer.recording() as recorded:
            graph = host.capture(step)
        for scale in (1.0, 3.0):
            for gradient in gradients:
                gradient *= scale
            want = np.sqrt(sum(np.sum(np.float64(np.asarray(g)) ** 2) for g in gradients))
            before = [np.array(p.data) for p in parameters]
            recorded.prepare_replay()
            graph.replay()
            assert float(graph.result) == pytest.approx(want, rel=1e-6)
            moves = [np.array(p.data) - b for p, b in zip(parameters[:2], before[:2], strict=True)]  # no weight decay
            expected = [-0.1 * 0.5 / want * np.asarray(g) for g in gradients[:2]]
            for move, expect in zip(moves, expected, strict=True):
                np.testing.assert_allclose(move, expect, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        "change",
        [
            lambda parameters, optimizer: optimizer.load_state_dict(optimizer.state_dict()),
            lambda parameters, optimizer: optimizer.param_groups[0].update(momentum=0.5),
            lambda parameters, optimizer: setattr(parameters[2], "data", parameters[2].data.copy()),
            lambda parameters, optimizer: (setattr(parameters[0], "grad", None), optimizer.step()),
        ],
        ids=["loaded", "setting", "moved", "unequal-steps"],
    )
    def test_are_not_replayed_after_a_change(self, host, change):
        parameters, optimizer = self.prepared(SGD, {"lr": 0.1, "momentum": 0.9})
        with optimizer.recording() as recorded:
            host.capture(optimizer.step)
        assert recorded.is_current()
        change(parameters, optimizer)
        assert not recorded.is_current()
        with pytest.raises(RuntimeError, match="changed since the step was recorded"):
            recorded.prepare_replay()

    def test_reasons_not_to_record(self, host):
        parameters, optimizer = self.prepared(SGD, {"lr": 0.1, "momentum": 0.9})
        fresh = SGD(parameters, lr=0.1)
        with pytest.raises(RuntimeError, match="only after an ordinary one"), fresh.recording():
            pass
        with (
            use_kernels("generic"),
            pytest.raises(RuntimeError, match="cannot read its numbers"),
            optimizer.recording(),
        ):
            pass
        plain = Parameter(np.ones(2))
        plain.grad = np.ones(2)
        other = SGD([plain], lr=0.1)
        other.step()
        with pytest.raises(RuntimeError, match="kernels of numpy for float64"), other.recording():
            pass
        parameters[0].grad = None
        with optimizer.recording() as recorded, pytest.raises(RuntimeError, match="other parameters than the last"):
            optimizer.step()
        assert not recorded.is_current()  # it has recorded nothing
        optimizer.step()  # an ordinary one again
        with optimizer.recording():
            optimizer.step()
            with pytest.raises(RuntimeError, match="its step already"):
                optimizer.step()
        without = SGD(parameters[2:], lr=0.1)
        without.step()
        without.param_groups[0]["momentum"] = 0.9
        with without.recording(), pytest.raises(RuntimeError, match="makes new state"):
            without.step()
