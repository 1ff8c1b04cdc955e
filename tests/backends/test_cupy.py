"""CuPy without a GPU: what it says where it cannot start, and its wiring, on the stand-in of ``fake_cupy.py``."""

import importlib.util
import re
import sys
from types import ModuleType

import numpy as np
import pytest

import xpconv
import xpconv.functional as F
from xpconv import layers, optim
from xpconv.backends import (
    DeviceMemoryError,
    KernelUnavailableError,
    backend_of,
    compute,
    load_backend,
    run,
    use_kernels,
)
from xpconv.testing.cuda_host import find_compiler

# ---- where it cannot start -------------------------------------------------------------------------------------------


def why_not(name="cupy"):
    with pytest.raises(xpconv.BackendUnavailableError) as caught:
        xpconv.set_backend(name)
    assert xpconv.get_backend().name == "numpy"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_not_installed(clean_registry, monkeypatch):
    clean_registry._loaded.pop("cupy", None)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert why_not().startswith('cupy is not installed: pip install "xpconv[cuda13]"')
    assert "cupy" not in xpconv.available_backends()


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (0, "cupy 14.0.0 is installed but there is no NVIDIA driver: install one for CUDA 13 (nvidia-smi shows it)"),
        (
            12040,
            "cupy 14.0.0 needs a driver of CUDA 13, and this NVIDIA driver supports CUDA up to 12.4: install a newer "
            'driver, or: pip uninstall cupy-cuda13x; pip install "xpconv[cuda12]"',
        ),
        (
            11080,
            "cupy 14.0.0 needs a driver of CUDA 13, and this NVIDIA driver supports CUDA up to 11.8: install a newer "
            "driver",
        ),
    ],
)
def test_no_driver_or_an_old_one(fake_cupy, driver, message):
    def count():
        raise fake_cupy.CUDARuntimeError(35, "cudaErrorInsufficientDriver: CUDA driver version is insufficient")

    fake_cupy.install(count, driver=driver)
    assert why_not() == message
    assert "cupy" not in xpconv.available_backends()
    with pytest.raises(xpconv.BackendUnavailableError), xpconv.use_backend("cupy"):
        pass


def test_a_driver_without_a_device(fake_cupy, monkeypatch):
    def count():
        raise fake_cupy.CUDARuntimeError(100, "cudaErrorNoDevice: no CUDA-capable device is detected")

    fake_cupy.install(count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert why_not() == (
        "cupy 14.0.0 finds no usable GPU (CUDA_VISIBLE_DEVICES is ''): cudaErrorNoDevice: no CUDA-capable device is "
        "detected; nvidia-smi should list one"
    )


def test_a_library_of_cuda_is_missing(clean_registry, monkeypatch):
    class Broken(ModuleType):
        def __getattr__(self, name):
            raise OSError("libcudart.so.13: cannot open shared object file")

    clean_registry._loaded.pop("cupy", None)
    broken = Broken("cupy")
    broken.__version__ = "14.0.0"
    monkeypatch.setitem(sys.modules, "cupy", broken)
    assert why_not().startswith("cupy 14.0.0 is installed but cannot use CUDA: libcudart.so.13: cannot open")


def test_an_installation_that_cannot_be_imported(clean_registry, monkeypatch, tmp_path):
    clean_registry._loaded.pop("cupy", None)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "cupy.py"
    module.write_text("raise ImportError('CuPy is not correctly\\ninstalled.')")
    assert why_not() == "cupy is installed but cannot be imported: CuPy is not correctly installed."
    module.write_text("import a_package_that_is_not_there")
    importlib.invalidate_caches()
    sys.modules.pop("cupy", None)
    assert why_not().startswith("cupy is installed but cannot be imported: No module named 'a_package_that")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cupy:2", "cupy has no device 2: it sees 2 (CUDA_VISIBLE_DEVICES is '4,5')"),
        ("cupy:x", "cupy devices are numbers, as in 'cupy:1', got 'x'"),
        ("cupy:-1", "cupy devices are numbers, as in 'cupy:1', got '-1'"),
    ],
)
def test_no_such_device(fake_cupy, monkeypatch, name, message):
    fake_cupy.install()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert why_not(name) == message


@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
def test_a_kernel_that_does_not_compile_is_named_with_the_log(fake_cupy, monkeypatch):
    fake_cupy.install()
    monkeypatch.setattr(fake_cupy.RawModule, "log", 'elementwise.cu(12): error: identifier "floot" is undefined')
    x = xpconv.asarray(np.ones(3, np.float32), backend="cupy")
    message = (
        "activate<float, int, Relu>: the kernels of elementwise.cu for float32 cannot be compiled; NVRTC says:\n"
        'elementwise.cu(12): error: identifier "floot" is undefined'
    )
    with pytest.raises(KernelUnavailableError, match=re.escape(message)):
        F.relu(x)


# ---- devices and streams ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cupy", "cupy:1"])
def test_everything_happens_on_the_device_of_the_arrays(two_gpus, name, rng):
    x, w, b = (rng.standard_normal(s) for s in ((3, 4, 6, 7), (4, 2, 3, 2), (4,)))
    arguments = {"padding": 1, "stride": 2, "groups": 2}
    expected, cache = F.conv2d(x, w, b, **arguments)
    gradients = F.conv2d_backward(expected, cache)
    with xpconv.use_backend(name) as backend:
        assert backend.describe() == f"cupy 14.0.0, GPU {name.partition(':')[2] or 0}"
        arrays = [xpconv.asarray(a) for a in (x, w, b)]
    assert two_gpus.current == [0]
    assert all(backend_of(a=a) is backend for a in arrays)
    y, cache = F.conv2d(*arrays, **arguments)
    for ours, reference in zip((y, *F.conv2d_backward(y, cache)), (expected, *gradients), strict=True):
        assert backend_of(a=ours) is backend
        np.testing.assert_allclose(xpconv.to_numpy(ours), reference, rtol=1e-12, atol=1e-12)
    for array in (
        backend.empty((2,), "float32"),
        backend.zeros((2,), "float32"),
        backend.full((2,), 1.0, "float32"),
        backend.arange(2, "int32"),
        backend.astype(backend.zeros((2,), "float32"), "float64"),
        backend.rng(0).normal((2,)),
    ):
        assert backend_of(a=array) is backend
    backend.synchronize()


def test_the_stand_in_is_as_strict_as_cupy(two_gpus, fake_cupy):
    x = xpconv.asarray(np.ones((2, 3)), backend="cupy:1")
    for operation in (
        lambda: x + x,
        lambda: x.__imul__(2.0),
        lambda: np.sum(x),
        lambda: np.concat([x, x]),
        lambda: np.reshape(x.T, (6,)),
        lambda: x[np.array([0, 1])],
        lambda: x.__setitem__(0, 1.0),
        lambda: fake_cupy.ascontiguousarray(x.T),
    ):
        with pytest.raises(AssertionError, match="array of device 1, current is 0"):
            operation()
        with fake_cupy.Device(1):
            operation()
    for view in (x[1:], x.T, np.reshape(x, (6,)), np.permute_dims(x, (1, 0)), x[:, None]):
        assert view.number == 1


def test_arrays_of_two_gpus_are_not_mixed(two_gpus):
    x = xpconv.asarray(np.ones((1, 1, 2, 2)), backend="cupy")
    w = xpconv.asarray(np.ones((1, 1, 2, 2)), backend="cupy:1")
    with pytest.raises(
        xpconv.BackendMismatchError, match="w is an array of cupy:1 but x is one of cupy; move one with"
    ):
        F.conv2d(x, w)
    moved = xpconv.asarray(w, backend="cupy")
    assert backend_of(a=moved).name == "cupy"
    with pytest.raises(xpconv.BackendMismatchError, match="w is an array of numpy but x is one of cupy"):
        F.conv2d(x, np.ones((1, 1, 2, 2)))


def small_net(rng):
    """Every layer that computes something of its own besides its operator."""
    return layers.Sequential(
        layers.Conv2d(2, 4, 3, padding=1, rng=rng, dtype="float64"),
        layers.BatchNorm2d(4, dtype="float64"),
        layers.ReLU(),
        layers.Residual(layers.Conv2d(4, 4, 1, rng=rng, dtype="float64")),
        layers.MaxPool2d(2),
        layers.Concat(layers.Identity(), layers.GroupNorm(2, 4, dtype="float64")),
        layers.AvgPool2d(2),
        layers.Dropout(0.3, rng=rng),
        layers.Flatten(),
        layers.LayerNorm(32, dtype="float64"),
        layers.Linear(32, 3, rng=rng, dtype="float64"),
    )


@pytest.mark.parametrize("kernels", ["auto", "generic"])
def test_steps_without_a_trainer_on_the_second_device(two_gpus, kernels, rng):
    """Nothing makes the second device current here but the library itself."""
    x, labels = rng.standard_normal((6, 2, 8, 8)), rng.integers(0, 3, 6)
    losses = {}
    for name in ("numpy", "cupy:1"):
        with xpconv.use_backend(name):
            net = small_net(np.random.default_rng(0))
            batch, targets = xpconv.asarray(x), xpconv.asarray(labels)
        optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        with use_kernels(kernels):
            losses[name] = []
            for step in range(2):
                net.begin_step(step, seed=5)
                for _ in range(2):  # gradients are added up
                    loss, dscores = F.softmax_cross_entropy(net(batch), targets)
                    net.backward(dscores)
                optim.clip_grad_norm(net.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
                losses[name].append(float(xpconv.to_numpy(loss)))
            net.load_state_dict(net.state_dict())
            losses[name].append(float(xpconv.to_numpy(F.softmax_cross_entropy(net.eval()(batch), targets)[0])))
        assert two_gpus.current == [0]
    assert losses["cupy:1"] == pytest.approx(losses["numpy"], rel=1e-9)


LAYERS = {
    "AdaptiveAvgPool2d": (lambda: layers.AdaptiveAvgPool2d((3, 2)), (2, 3, 7, 5)),
    "AvgPool2d of channels last": (lambda: layers.AvgPool2d(2, layout="NHWC"), (2, 4, 6, 3)),
    "BatchNorm1d of signals": (lambda: layers.BatchNorm1d(3, dtype="float64"), (2, 3, 5)),
    "BatchNorm1d of vectors": (lambda: layers.BatchNorm1d(3, momentum=None, dtype="float64"), (4, 3)),
    "Conv1d": (lambda: layers.Conv1d(3, 2, 3, rng=0, dtype="float64"), (2, 3, 7)),
    "Conv2d of channels last": (lambda: layers.Conv2d(3, 2, 3, layout="NHWC", rng=0, dtype="float64"), (2, 5, 6, 3)),
    "ConvTranspose2d": (lambda: layers.ConvTranspose2d(3, 2, 3, stride=2, rng=0, dtype="float64"), (2, 3, 4, 4)),
    "GELU": (layers.GELU, (3, 4)),
    "GlobalAvgPool2d": (layers.GlobalAvgPool2d, (2, 3, 4, 5)),
    "InstanceNorm2d": (lambda: layers.InstanceNorm2d(3, affine=True, dtype="float64"), (2, 3, 4, 5)),
    "LayerNorm over two axes": (lambda: layers.LayerNorm((3, 4), dtype="float64"), (2, 3, 4)),
    "LeakyReLU": (layers.LeakyReLU, (3, 4)),
    "Linear of many axes": (lambda: layers.Linear(4, 2, rng=0, dtype="float64"), (2, 3, 4)),
    "MaxPool2d": (lambda: layers.MaxPool2d(3, stride=2, padding=1), (2, 3, 7, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_finds_its_device(two_gpus, name, rng):
    """Also where its arrays are no contiguous memory, so that a reshape has to copy."""
    make, shape = LAYERS[name]
    x = rng.standard_normal(shape)
    results = []
    for backend in ("numpy", "cupy:1"):
        with xpconv.use_backend(backend):
            layer = make()
        batch = np.transpose(xpconv.asarray(np.array(x.T, order="C"), backend=backend))
        with use_kernels("generic"):
            y = layer(batch)
            dx = layer.backward(y)
        results.append([xpconv.to_numpy(a) for a in (y, dx, *(p.grad for p in layer.parameters()))])
    for want, have in zip(*results, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-9, atol=1e-12)


class Scale(layers.Layer):
    """A layer of a user's own, which computes with operators of Python."""

    def __init__(self):
        self.scale = layers.Parameter(xpconv.asarray(np.full(3, 1.5)))

    def forward(self, x):
        self.push(x)
        return x * self.scale.data

    def backward(self, dy):
        x = self.pop()
        self.scale.accumulate_grad(backend_of(dy=dy).xp.sum(dy * x, axis=0))
        return dy * self.scale.data


@pytest.mark.parametrize("kernels", ["auto", "generic"])
def test_a_run_on_the_second_device(two_gpus, kernels, rng, tmp_path):
    """Training, evaluation and checkpoints, all while the thread's current device is the first one."""
    x, labels = rng.standard_normal((6, 2, 8, 8)), rng.integers(0, 3, 6)
    trainers = {}
    for name in ("numpy", "cupy:1"):
        with xpconv.use_backend(name):
            net = layers.Sequential(small_net(np.random.default_rng(0)), Scale())
            optimizer = optim.Adam(net.parameters(), lr=0.01)
        trainers[name] = xpconv.Trainer(net, F.softmax_cross_entropy, optimizer, seed=3, clip_norm=0.5)
    for name, trainer in trainers.items():
        with use_kernels(kernels):
            trainer.fit((x, labels), epochs=2, batch_size=4, validation=(x, labels))
        trainer.save(tmp_path / f"{name}.safetensors")
        assert two_gpus.current == [0]
    reference, ours = trainers["numpy"], trainers["cupy:1"]
    for want, have in zip(reference.history, ours.history, strict=True):
        for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert have[key] == pytest.approx(want[key], rel=1e-9)
    want = reference.predict(x)
    with use_kernels(kernels):
        np.testing.assert_allclose(xpconv.to_numpy(ours.predict(x)), want, rtol=1e-8)
    assert bool(two_gpus.launches) == (kernels == "auto")
    assert {device for _, device, _ in two_gpus.launches} <= {1}
    # the model and the checkpoint move between backends, and go on there
    with xpconv.use_backend("numpy"):
        moved = layers.Sequential(small_net(np.random.default_rng(1)), Scale())
        optimizer = optim.Adam(moved.parameters(), lr=0.01)
        path = tmp_path / "cupy:1.safetensors"
        resumed = xpconv.Trainer.resume(path, moved, F.softmax_cross_entropy, optimizer, clip_norm=0.5)
    np.testing.assert_allclose(resumed.predict(x), want, rtol=1e-8)
    for trainer in (reference, ours, resumed):
        trainer.model.to("cupy")
        trainer.optimizer.to()
        with use_kernels(kernels):
            trainer.fit((x, labels), epochs=3, batch_size=4)
        trainer.model.to("numpy")
        trainer.optimizer.to()
        assert trainer.history[-1]["loss"] == pytest.approx(reference.history[-1]["loss"], rel=1e-8)


@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
def test_kernels_run_on_the_current_stream(two_gpus, fake_cupy):
    x = xpconv.asarray(np.ones((2, 3)), backend="cupy:1")
    with fake_cupy.Device(1), fake_cupy.Stream("mine"):
        F.relu(x)
    F.relu(x)
    with fake_cupy.Stream("of the first device"):
        F.relu(x)
    assert [(device, stream) for _, device, stream in two_gpus.launches] == [(1, "mine"), (1, "null"), (1, "null")]


def test_what_is_read_after_a_mark_waits_for_no_later_work(two_gpus, fake_cupy, monkeypatch):
    """The copy is started on a stream of its own, which waits for the mark alone."""
    events, cuda = [], sys.modules["cupy"].cuda

    def current():
        number = two_gpus.current[-1]
        return number, two_gpus.streams[number][-1]

    class Event:
        def __init__(self, disable_timing):
            assert disable_timing

        def record(self):
            events.append(("record", *current()))

    class Side(fake_cupy.Stream):
        def __init__(self, non_blocking):
            assert non_blocking  # the default stream would be waited for otherwise
            super().__init__("side")

        def wait_event(self, event):
            assert isinstance(event, Event)
            events.append(("wait", *current()))

    monkeypatch.setattr(cuda, "Event", Event, raising=False)
    monkeypatch.setattr(cuda, "Stream", Side)
    backend = load_backend("cupy:1")
    x = backend.asarray(np.arange(3.0))
    copy = backend._cupy.asnumpy
    monkeypatch.setattr(backend._cupy, "asnumpy", lambda array: events.append(("copy", *current())) or copy(array))
    read = backend.mark()
    assert read(x).tolist() == [0, 1, 2]
    assert events == [("record", 1, "null"), ("wait", 1, "side"), ("copy", 1, "side")]
    assert current() == (0, "null")


# ---- memory ----------------------------------------------------------------------------------------------------------


def scores_on(name):
    backend = load_backend(name)
    return backend, xpconv.asarray(np.ones((2, 3)), backend=backend)


def test_memory_that_the_pool_holds_back_is_freed_once(two_gpus):
    backend, x = scores_on("cupy:1")
    two_gpus.held[1] = 1000
    y = compute(backend, "double", lambda a: a + a, x)
    np.testing.assert_array_equal(xpconv.to_numpy(y), 2)
    assert two_gpus.held == {0: 0, 1: 0}
    two_gpus.held[1] = 1000
    with use_kernels("generic"):
        F.softmax_cross_entropy(x, xpconv.asarray([0, 1], backend=backend))
    assert two_gpus.held[1] == 0


def test_out_of_memory_says_who_asked_for_how_much_and_what_there_is(two_gpus):
    backend, x = scores_on("cupy:1")
    calls = []

    def double(array):
        calls.append(array)
        return array + array

    two_gpus.full.add(1)
    with pytest.raises(DeviceMemoryError) as caught:
        compute(backend, "double", double, x)
    assert len(calls) == 2
    assert str(caught.value) == (
        "double: cupy:1 is out of memory: asked for 0.0 MiB (48 bytes), and 100.0 MiB of 200.0 MiB are free. Smaller "
        "batches need less; the columns of a convolution are capped at 64 MiB (XPCONV_WORKSPACE_MB, "
        "xpconv.set_workspace_mb)"
    )
    assert isinstance(caught.value, MemoryError)
    assert xpconv.DeviceMemoryError is DeviceMemoryError
    # neither the attempts nor their arrays are held by the error
    assert caught.value.__context__ is None
    with use_kernels("generic"), pytest.raises(DeviceMemoryError, match=r"^conv2d: cupy:1 is out of memory: asked for"):
        F.conv2d(xpconv.backends.compute(backend, "view", lambda: x[None, None]), x[None, None])
    with pytest.raises(DeviceMemoryError, match=r"^asarray: cupy:1 is out of memory"):
        xpconv.asarray(np.ones(3), backend="cupy:1")
    two_gpus.full.clear()
    compute(backend, "double", double, x)


def test_steps_in_place_are_not_tried_again(two_gpus):
    backend, p = scores_on("cupy:1")
    g = xpconv.asarray(np.ones((2, 3)), backend=backend)
    two_gpus.held[1] = 1000
    with use_kernels("generic"), pytest.raises(DeviceMemoryError, match=r"^sgd_steps: "):
        run(backend, "sgd_steps", [p], [g], None, 0.1, 0.0, 0.0, False, 0.0)
    np.testing.assert_array_equal(xpconv.to_numpy(p), 1)


def test_nothing_is_freed_during_a_capture(two_gpus):
    backend, x = scores_on("cupy")
    two_gpus.held[0] = 1000
    two_gpus.capturing = True
    with pytest.raises(DeviceMemoryError, match=r"and 100\.0 MiB of 200\.0 MiB are free"):
        compute(backend, "double", lambda a: a + a, x)
    two_gpus.capturing = False


@pytest.mark.parametrize("status", [2, 700])
def test_errors_of_the_runtime(two_gpus, fake_cupy, status):
    """2 is cudaErrorMemoryAllocation; after 700, an illegal address, nothing more can be done."""
    backend, x = scores_on("cupy")

    def fail(array):
        raise fake_cupy.CUDARuntimeError(status, "cudaError: text")

    if status == 2:
        with pytest.raises(DeviceMemoryError, match=r"^fail: cupy is out of memory: cudaError: text, and 100"):
            compute(backend, "fail", fail, x)
    else:
        with pytest.raises(fake_cupy.CUDARuntimeError):
            compute(backend, "fail", fail, x)


def test_the_real_error_tells_how_much_was_asked_for(fake_cupy):
    memory = pytest.importorskip("cupy.cuda.memory", reason="CuPy is not installed", exc_type=ImportError)
    assert memory.OutOfMemoryError(1000, 20, 0)._size == 1000
    assert str(memory.OutOfMemoryError(1000, 20, 0)) == str(fake_cupy.OutOfMemoryError(1000, 20, 0))


def test_half_precision_and_dtypes(two_gpus):
    array = xpconv.asarray([1.0, 2.0], "float16", backend="cupy")
    assert array.dtype == np.float16
    with pytest.raises(TypeError, match="dtype: cupy has no 'float33'"):
        xpconv.asarray([1.0], "float33", backend="cupy")


def test_bfloat16_is_that_of_ml_dtypes(two_gpus):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    backend = load_backend("cupy")
    for name in ("bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16)):
        assert backend.dtype(name) == np.dtype(ml_dtypes.bfloat16)
    array = backend.asarray([1.0, 2.0], "bfloat16")
    assert backend.dtype_name(array) == "bfloat16"
    assert backend.accumulator(array) == np.float32
    # it stays where it can, and is float32 in NumPy, as of every library
    assert xpconv.asarray(array, backend="cupy:1").dtype == ml_dtypes.bfloat16
    assert xpconv.asarray(array, backend="numpy").dtype == np.float32
    assert xpconv.to_numpy(array).dtype == np.float32


def test_bfloat16_without_ml_dtypes_is_told(two_gpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(TypeError, match="only with the package ml_dtypes"):
        load_backend("cupy").dtype("bfloat16")
