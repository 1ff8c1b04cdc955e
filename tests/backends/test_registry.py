"""Which backend is the default one, how new ones become known, and whose an array is."""

import asyncio
import re
import sys
import threading

import numpy as np
import pytest

import xpconv
from xpconv.backends import Backend, backend_of, load_backend, registered_backends
from xpconv.backends.numpy import NumpyBackend


@pytest.fixture(autouse=True)
def _registry(clean_registry):
    return


class Tagged(np.ndarray):
    """Somebody's array type, a subclass of another library's."""


class TaggedBackend(NumpyBackend):
    """A backend for it."""

    name = "tagged"

    def owns(self, array):
        return type(array) is Tagged

    def asarray(self, obj, dtype=None):
        return super().asarray(obj, dtype).view(Tagged)

    def to_numpy(self, array):
        return np.asarray(array).view(np.ndarray)


def tagged(values=(1.0, 2.0)):
    return np.asarray(values).view(Tagged)


def strict():
    pytest.importorskip("array_api_strict")
    return "array_api_strict"


# ---- the default ---------------------------------------------------------------------------------------------------


def test_numpy_is_the_default():
    assert xpconv.get_backend().name == "numpy"
    assert type(xpconv.asarray([1.0])) is np.ndarray


def test_set_backend_holds_for_all_threads():
    xpconv.set_backend(strict())
    seen = []
    thread = threading.Thread(target=lambda: seen.append(xpconv.get_backend().name))
    thread.start()
    thread.join()
    assert seen == ["array_api_strict"]
    assert xpconv.get_backend().name == "array_api_strict"


def test_use_backend_is_undone_also_by_exceptions_and_nests():
    with xpconv.use_backend(strict()) as backend:
        assert xpconv.get_backend() is backend
        assert backend.name == "array_api_strict"
        with xpconv.use_backend("array_api_strict:device1"):
            assert xpconv.get_backend().name == "array_api_strict:device1"
            with xpconv.use_backend("numpy"):
                assert xpconv.get_backend().name == "numpy"
            assert xpconv.get_backend().name == "array_api_strict:device1"
        assert xpconv.get_backend() is backend

        def fail():
            with xpconv.use_backend("numpy"):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert xpconv.get_backend() is backend
    assert xpconv.get_backend().name == "numpy"


def test_use_backend_wins_over_set_backend():
    with xpconv.use_backend("numpy"):
        xpconv.set_backend(strict())
        assert xpconv.get_backend().name == "numpy"
    assert xpconv.get_backend().name == "array_api_strict"


def test_use_backend_does_not_reach_into_other_threads():
    inside, done = threading.Event(), threading.Event()
    seen = {}

    def worker():
        with xpconv.use_backend(strict()):
            seen["worker"] = xpconv.get_backend().name
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=worker)
    thread.start()
    assert inside.wait(10)
    seen["main"] = xpconv.get_backend().name
    done.set()
    thread.join()
    assert seen == {"worker": "array_api_strict", "main": "numpy"}


def test_use_backend_does_not_leak_between_asyncio_tasks():
    async def task(name, steps):
        with xpconv.use_backend(name):
            for _ in range(steps):
                await asyncio.sleep(0)
                assert xpconv.get_backend().name == name
        return xpconv.get_backend().name

    async def main():
        return await asyncio.gather(task(strict(), 3), task("array_api_strict:device1", 5), task("numpy", 2))

    assert asyncio.run(main()) == ["numpy"] * 3


def test_use_backend_as_a_decorator():
    @xpconv.use_backend(strict())
    def made():
        return xpconv.asarray([1.0])

    for _ in range(2):
        assert backend_of(x=made()).name == "array_api_strict"
    assert xpconv.get_backend().name == "numpy"


def test_a_backend_itself_is_taken_for_its_name():
    before = xpconv.get_backend()
    xpconv.set_backend(load_backend(strict()))
    assert xpconv.get_backend().name == "array_api_strict"
    xpconv.set_backend(before)
    assert xpconv.get_backend() is before
    with xpconv.use_backend(load_backend("array_api_strict:device1")) as backend:
        assert xpconv.get_backend() is backend
    assert backend_of(x=xpconv.asarray([1.0], backend=backend)) is backend


@pytest.mark.parametrize("function", [xpconv.set_backend, lambda name: xpconv.use_backend(name).__enter__()])
def test_a_backend_that_cannot_be_had_leaves_the_default(function):
    xpconv.set_backend(strict())
    with pytest.raises(
        ValueError, match="backend: unknown 'nunpy'; known are numpy, cupy, torch, jax, array_api_strict"
    ):
        function("nunpy")
    with pytest.raises(xpconv.BackendUnavailableError, match="numpy has no device 'gpu'"):
        function("numpy:gpu")
    with pytest.raises(TypeError, match="backend: expected a name such as 'numpy', got None"):
        function(None)
    with pytest.raises(ValueError, match="backend: unknown ''"):
        function("")
    assert xpconv.get_backend().name == "array_api_strict"


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("numpy", "numpy:cpu"),
        ("array_api_strict", "array_api_strict:cpu"),
        ("torch", "torch:cpu"),
        ("jax", "jax:cpu"),
        ("jax", "jax:cpu:0"),
    ],
)
def test_two_names_of_one_device_are_one_backend(name, alias):
    """Arrays are told apart by their backend's identity."""
    if name != "numpy":
        pytest.importorskip(name)
    assert load_backend(alias) is load_backend(name)
    with xpconv.use_backend(alias):
        a = xpconv.asarray([1.0], dtype="float32")
    assert backend_of(a=a, b=xpconv.asarray([1.0], dtype="float32", backend=name)).name == name


# ---- from outside --------------------------------------------------------------------------------------------------

SHOW = "import xpconv; print(xpconv.get_backend().name)"


def test_environment_variable(python):
    strict()
    assert python(SHOW, XPCONV_BACKEND="array_api_strict:device1")[:2] == (0, "array_api_strict:device1")
    assert python(SHOW + "\nxpconv.set_backend('numpy')\nprint(xpconv.get_backend().name)")[1].split("\n")[1] == "numpy"
    assert python(SHOW, XPCONV_BACKEND="")[:2] == (0, "numpy")


def test_wrong_environment_variable(python):
    status, _, stderr = python(SHOW, XPCONV_BACKEND="nunpy")
    assert status == 1
    assert stderr.endswith(
        "ValueError: XPCONV_BACKEND is 'nunpy': backend: unknown 'nunpy'; known are numpy, cupy, torch, jax, "
        "array_api_strict, cuda-host"
    )
    status, _, stderr = python(SHOW, XPCONV_BACKEND="numpy:gpu")
    assert status == 1
    assert "BackendUnavailableError: XPCONV_BACKEND is 'numpy:gpu': numpy has no device 'gpu'" in stderr


def test_wrong_environment_variable_does_not_matter_where_the_backend_is_chosen(python):
    code = "import xpconv; xpconv.set_backend('numpy'); print(xpconv.get_backend().name)"
    assert python(code, XPCONV_BACKEND="nunpy")[:2] == (0, "numpy")


# ---- new backends --------------------------------------------------------------------------------------------------


def test_a_registered_backend_works_everywhere():
    devices = []

    def factory(device):
        devices.append(device)
        return TaggedBackend()

    xpconv.register_backend("tagged", factory, packages=(Tagged.__module__,))
    assert devices == []  # lazily
    assert "tagged" in registered_backends()
    assert "tagged" in xpconv.available_backends()
    with xpconv.use_backend("tagged"):
        x = xpconv.asarray(np.ones((1, 1, 3, 3)))
        assert type(x) is Tagged
        y, cache = xpconv.functional.conv2d(x, x)
        assert float(y[0, 0, 0, 0]) == 9
        assert xpconv.functional.conv2d_backward(xpconv.asarray(y), cache)[0].shape == x.shape
    assert type(xpconv.to_numpy(x)) is np.ndarray
    assert backend_of(x=x) is load_backend("tagged")
    assert devices == [None]


def test_the_device_part_goes_to_the_factory():
    class Here(TaggedBackend):
        def __init__(self, device):
            super().__init__()
            self.name = f"tagged:{device}"

    xpconv.register_backend("tagged", Here)
    assert load_backend("tagged:a:1").name == "tagged:a:1"
    assert load_backend("tagged:b").name == "tagged:b"


@pytest.mark.parametrize("packages", [(Tagged.__module__,), ()], ids=["its package", "no package"])
def test_a_newer_backend_claims_subclasses_of_known_arrays(packages):
    with pytest.raises(TypeError, match=rf"x: expected an array, got {re.escape(Tagged.__module__)}.Tagged"):
        backend_of(x=tagged())
    xpconv.register_backend("tagged", lambda device: TaggedBackend(), packages=packages)
    assert backend_of(x=tagged()).name == "tagged"
    assert backend_of(x=np.ones(2)).name == "numpy"


def test_a_newer_backend_claims_subclasses_that_an_older_one_took():
    torch = pytest.importorskip("torch")

    class Mine(torch.Tensor):
        pass

    mine = torch.zeros(2).as_subclass(Mine)
    assert backend_of(x=mine).name == "torch"

    class MineBackend(type(load_backend("torch"))):
        def __init__(self):
            super().__init__("cpu")
            self.name = "mine"

        def owns(self, array):
            return type(array) is Mine

    xpconv.register_backend("mine", lambda device: MineBackend(), packages=(Mine.__module__,))
    assert backend_of(x=mine).name == "mine"
    assert backend_of(x=torch.zeros(2)).name == "torch"
    with pytest.raises(xpconv.BackendMismatchError, match="w is an array of torch but x is one of mine"):
        backend_of(x=mine, w=torch.zeros(2))


def test_of_two_backends_for_one_type_the_newer_gets_it():
    def named(name):
        backend = TaggedBackend()
        backend.name = name
        return backend

    for packages in ((__name__,), ()):
        for name in (f"older{len(packages)}", f"newer{len(packages)}"):
            xpconv.register_backend(name, lambda device, name=name: named(name), packages=packages)
            assert backend_of(x=tagged()).name == name


def test_registering_a_name_again_replaces_it():
    xpconv.register_backend("tagged", lambda device: TaggedBackend(), packages=(Tagged.__module__,))
    xpconv.set_backend("tagged")
    first = backend_of(x=tagged())
    xpconv.register_backend("tagged", lambda device: TaggedBackend(), packages=(Tagged.__module__,))
    assert backend_of(x=tagged()) is not first
    assert xpconv.get_backend().name == "numpy"  # the one that was set is gone


@pytest.mark.parametrize(
    ("name", "factory", "packages", "error", "message"),
    [
        ("", TaggedBackend, (), ValueError, "name: must be non-empty and without ':', got ''"),
        (3, TaggedBackend, (), TypeError, "name: expected a string, got 3"),
        (["a"], TaggedBackend, (), TypeError, r"name: expected a string, got \['a'\]"),
        ("a:b", TaggedBackend, (), ValueError, "name: must be non-empty and without ':', got 'a:b'"),
        ("a", "numpy", (), TypeError, "factory: expected a callable that takes a device, got 'numpy'"),
        ("a", TaggedBackend, "torch", TypeError, "packages: expected a tuple of names, got 'torch'"),
    ],
)
def test_wrong_registrations(name, factory, packages, error, message):
    with pytest.raises(error, match=message):
        xpconv.register_backend(name, factory, packages=packages)
    assert "a" not in registered_backends()


def broken(device):
    raise OSError("libfoo.so: cannot open shared object file")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (broken, "broken cannot start: OSError: libfoo.so: cannot open"),
        (
            lambda device: None,
            "broken cannot start: its factory returned None instead of a Backend whose name is 'broken'",
        ),
        (lambda device: NumpyBackend(), "returned <xpconv backend numpy> instead of a Backend whose name is 'broken'"),
    ],
)
def test_a_broken_backend_does_not_stop_the_others(factory, message):
    xpconv.register_backend("broken", factory)
    assert "broken" in registered_backends()
    assert "broken" not in xpconv.available_backends()
    assert backend_of(x=np.ones(2)).name == "numpy"
    with pytest.raises(TypeError, match=r"x: expected an array, got builtins\.list"):
        backend_of(x=[1])
    with pytest.raises(xpconv.BackendUnavailableError, match=re.escape(message)):
        xpconv.set_backend("broken")
    assert xpconv.get_backend().name == "numpy"


PLUGIN = """
import numpy as np
from xpconv.backends import Backend
from xpconv.backends.numpy import NumpyBackend

class Plugged(np.ndarray):
    pass

class PluginBackend(NumpyBackend):
    name = "plugged"

    def owns(self, array):
        return type(array) is Plugged

    def asarray(self, obj, dtype=None):
        return super().asarray(obj, dtype).view(Plugged)

def load(device):
    return PluginBackend()
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Another package's backend, installed beside xpconv."""
    (tmp_path / "xpconv_plugged.py").write_text(PLUGIN)
    info = tmp_path / "xpconv_plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: xpconv-plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[xpconv.backends]\nplugged = xpconv_plugged:load\nabsent = xpconv_absent:load\nnumpy = xpconv_plugged:load\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("xpconv_plugged", None)


def test_a_backend_of_another_package_is_found(plugin, clean_registry):
    clean_registry._entry_points_read = False
    assert registered_backends()[-2:] == ["plugged", "absent"]
    assert "xpconv_plugged" not in sys.modules
    with xpconv.use_backend("plugged"):
        x = xpconv.asarray([1.0])
    assert type(x).__name__ == "Plugged"
    assert backend_of(x=x).name == "plugged"
    assert type(xpconv.get_backend()) is NumpyBackend  # a known name is not taken over
    with pytest.raises(
        xpconv.BackendUnavailableError, match="absent cannot start: ModuleNotFoundError: No module named"
    ):
        xpconv.set_backend("absent")


def test_arrays_of_another_package_are_found_without_naming_it(plugin, python, tmp_path):
    code = "import xpconv_plugged, numpy as np, xpconv.backends as b\n"
    code += "print(b.backend_of(x=np.zeros(2).view(xpconv_plugged.Plugged)).name, b.backend_of(x=np.zeros(2)).name)"
    path = ":".join([str(tmp_path), *filter(None, sys.path)])
    assert python(code, PYTHONPATH=path)[:2] == (0, "plugged numpy")


def test_a_plug_in_is_not_started_for_arrays_that_others_own(plugin, clean_registry):
    clean_registry._by_type.clear()
    clean_registry._entry_points_read = False
    assert backend_of(x=np.ones(2)).name == "numpy"
    assert not clean_registry._entry_points_read  # not even looked for
    strict_array = xpconv.asarray([1.0], backend=strict())
    assert backend_of(x=strict_array).name == "array_api_strict"
    registered_backends()
    clean_registry._by_type.clear()
    for array in (np.ones(2), strict_array, [1.0], 2, np.float32(3)):
        xpconv.asarray(array)
    assert "xpconv_plugged" not in sys.modules
    with pytest.raises(TypeError, match="x: expected an array, got"):
        backend_of(x=tagged())
    assert "xpconv_plugged" in sys.modules  # it might have been its


# ---- whose an array is ---------------------------------------------------------------------------------------------


def test_the_array_decides_not_the_default(on):
    x = on.asarray(np.ones((1, 1, 2, 2)), "float32")
    with xpconv.use_backend("numpy"):
        y, _ = xpconv.functional.conv2d(x, x)
    assert on.to_numpy(y).tolist() == [[[[4.0]]]]
    assert backend_of(y=y).name == on.backend


@pytest.mark.parametrize("make", [np.memmap, np.ndarray], ids=["memmap", "ndarray"])
def test_numpy_owns_arrays_and_memory_maps(make, tmp_path):
    x = make((2, 2)) if make is np.ndarray else np.memmap(tmp_path / "x", np.float32, "w+", shape=(2, 2))
    assert backend_of(x=x).name == "numpy"


@pytest.mark.parametrize(
    ("what", "name", "advice"),
    [
        (np.ma.array([1.0], mask=[True]), "numpy.ma.MaskedArray", r"fill what is masked first, as in x.filled\(0\)"),
        (np.ones((1, 1)).view(np.matrix), "numpy.matrix", r"xpconv.asarray\(x\) makes one"),
        (tagged(), "Tagged", r"xpconv.asarray\(x\) makes one"),
        ([1.0], "builtins.list", r"xpconv.asarray\(x\) makes one"),
        ((1.0,), "builtins.tuple", r"xpconv.asarray\(x\) makes one"),
        (1.0, "builtins.float", r"xpconv.asarray\(x\) makes one"),
        (np.float32(1), "numpy.float32", r"xpconv.asarray\(x\) makes one"),
        ("abc", "builtins.str", r"xpconv.asarray\(x\) makes one"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_no_array_is_refused_with_advice(what, name, advice):
    with pytest.raises(
        TypeError, match=rf"x: expected an array, got .*{re.escape(name)}; {advice} \(known backends: numpy"
    ):
        backend_of(x=what)


def test_arrays_of_two_backends_are_never_mixed(on):
    if on.backend == "numpy":
        pytest.skip("numpy and numpy")
    x, w = on.asarray(np.ones(2), "float32"), np.ones(2, dtype="float32")
    text = f"w is an array of numpy but x is one of {on.backend}; move one with xpconv.asarray(x, backend='numpy')"
    with pytest.raises(xpconv.BackendMismatchError, match=re.escape(text)):
        backend_of(x=x, w=w)
    with pytest.raises(xpconv.BackendMismatchError, match=f"w is an array of {on.backend} but x is one of numpy"):
        backend_of(x=w, b=None, w=x)


def test_arrays_of_two_devices_are_never_mixed():
    strict()
    x = xpconv.asarray([1.0], backend="array_api_strict:device1")
    w = xpconv.asarray([1.0], backend="array_api_strict:device2")
    with pytest.raises(xpconv.BackendMismatchError, match="w is an array of array_api_strict:device2 but x is one of"):
        backend_of(x=x, w=w)
    assert backend_of(x=x).name == "array_api_strict:device1"
    assert backend_of(x=xpconv.asarray([1.0], backend="array_api_strict")).name == "array_api_strict"


def test_no_array_at_all():
    with pytest.raises(TypeError, match="expected at least one array among x, w"):
        backend_of(x=None, w=None)


def test_threads_can_start_a_backend_at_once():
    started = []

    def factory(device):
        started.append(device)
        return TaggedBackend()

    xpconv.register_backend("tagged", factory)
    found = []
    threads = [threading.Thread(target=lambda: found.append(load_backend("tagged"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1
    assert len({id(backend) for backend in found}) == 1


def test_a_new_backend_must_define_three_methods():
    class Empty(Backend):
        name = "empty"
        xp = np

    backend = Empty()
    assert repr(backend) == "<xpconv backend empty>"
    for call in (lambda: backend.owns(1), lambda: backend.asarray(1), lambda: backend.to_numpy(1)):
        with pytest.raises(NotImplementedError):
            call()
