"""Which kernel serves a call, and what it is given."""

import inspect
import re

import numpy as np
import pytest

import xpconv
from xpconv import _generic
from xpconv._setting import Setting
from xpconv.backends import (
    DeviceMemoryError,
    Engine,
    KernelUnavailableError,
    compute,
    dispatch,
    get_kernels,
    load_backend,
    run,
    serving,
    set_kernels,
    use_kernels,
)
from xpconv.backends.numpy import NumpyBackend


class Recording(NumpyBackend):
    """NumPy with two engines of its own that say what they were called with."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.engines = {
            "im2col": (
                Engine("fast", self.engine("fast"), lambda dtype, geometry: dtype == "float32" and geometry is None),
                Engine("sure", self.engine("sure"), lambda dtype, geometry: dtype in ("float32", "float64")),
            )
        }

    def engine(self, name):
        def call(backend, *arguments):
            assert backend is self
            self.calls.append((name, arguments))
            return name

        return call


@pytest.fixture
def backend():
    return Recording()


@pytest.fixture(autouse=True)
def _auto():
    with use_kernels("auto"):
        yield


def array(dtype="float32"):
    return np.arange(6, dtype=dtype).reshape(2, 3)


def test_the_first_engine_that_supports_the_call_runs(backend):
    assert run(backend, "im2col", array()) == "fast"
    assert run(backend, "im2col", array(), geometry="window") == "sure"
    assert run(backend, "im2col", array("float64")) == "sure"
    assert serving(backend, "im2col", "float32").name == "fast"
    assert serving(backend, "im2col", "float16").name == "generic"
    assert serving(backend, "im2col", "float16").function is _generic.im2col
    assert serving(backend, "col2im", "float32").name == "generic"


def test_arguments_arrive_in_order_with_the_geometry_last(backend):
    x, other = array(), array()
    run(backend, "im2col", x, other, None, 2.5, "text", geometry="window")
    ((_, arguments),) = backend.calls
    assert arguments[0] is x
    assert arguments[1] is other
    assert arguments[2:] == (None, 2.5, "text", "window")
    run(backend, "im2col", x)
    assert len(backend.calls[1][1]) == 1


@pytest.mark.parametrize("layout", ["byteswapped", "misaligned"])
@pytest.mark.parametrize("kernels", ["auto", "generic"])
def test_every_operator_gets_memory_that_it_can_read(backend, layout, kernels, monkeypatch):
    seen = []
    monkeypatch.setattr(_generic, "im2col", lambda backend, *arguments: seen.extend(arguments))
    x = xpconv.testing.LAYOUTS[layout](array())
    with use_kernels(kernels):
        run(backend, "im2col", x, x)
    for got in seen or backend.calls[0][1]:
        assert got is not x
        assert got.flags.aligned
        assert got.dtype.isnative
        assert np.array_equal(got, x)


def test_memory_maps_arrive_as_plain_arrays(backend, tmp_path):
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(2, 3))
    run(backend, "im2col", x)
    ((_, (got,)),) = backend.calls
    assert type(got) is np.ndarray
    assert np.shares_memory(got, x)


def test_modes(backend):
    assert get_kernels() == "auto"
    with use_kernels("generic"):
        assert get_kernels() == "generic"
        assert serving(backend, "im2col", "float32").name == "generic"
        with use_kernels("native"):
            assert serving(backend, "im2col", "float64").name == "sure"
        assert get_kernels() == "generic"
    assert get_kernels() == "auto"


def test_native_raises_instead_of_falling_back(backend):
    with use_kernels("native"):
        message = (
            "im2col: no native kernel of numpy (fast, sure) supports float16 with None, and XPCONV_KERNELS is 'native'"
        )
        with pytest.raises(KernelUnavailableError, match=re.escape(message)):
            run(backend, "im2col", array("float16"))
        # nothing to fall back from
        assert serving(backend, "col2im", "float16").name == "generic"
        assert serving(load_backend("numpy"), "sgd_steps", "float32") is not None


def test_use_kernels_is_undone_by_exceptions():
    def fail():
        with use_kernels("generic"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert get_kernels() == "auto"


def test_set_kernels_holds_until_set_again(monkeypatch):
    monkeypatch.setattr(dispatch, "_setting", Setting("mode", "XPCONV_KERNELS", ("auto", "generic", "native")))
    set_kernels("generic")
    assert get_kernels() == "generic"
    with use_kernels("native"):
        assert get_kernels() == "native"
    assert get_kernels() == "generic"
    with pytest.raises(ValueError, match="mode: expected one of auto, generic, native, got 'fast'"):
        set_kernels("fast")
    assert get_kernels() == "generic"


@pytest.mark.parametrize("kernels", ["auto", "generic"])
def test_out_of_memory_on_the_host_names_the_operator(backend, kernels, monkeypatch):
    def fail(backend, x):
        raise np.exceptions.AxisError("no") if x.ndim == 1 else MemoryError("Unable to allocate 8. TiB")

    monkeypatch.setattr(_generic, "im2col", fail)
    backend.engines = {"im2col": (Engine("failing", fail, lambda dtype, geometry: True),)}
    with use_kernels(kernels), pytest.raises(MemoryError, match=r"^im2col: Unable to allocate 8\. TiB$") as caught:
        run(backend, "im2col", array())
    assert not isinstance(caught.value, DeviceMemoryError)
    with use_kernels(kernels), pytest.raises(np.exceptions.AxisError):
        run(backend, "im2col", array()[0])


def test_compute_passes_everything_on(backend):
    x = array()
    assert compute(backend, "joined", np.concat, [x, x], axis=1).shape == (2, 6)
    with pytest.raises(MemoryError, match=r"^failing: not enough memory$"):
        compute(backend, "failing", lambda: (_ for _ in ()).throw(MemoryError))


def test_memory_is_freed_once_and_not_for_what_works_in_place(monkeypatch):
    class Device(Recording):
        on_host = False
        attempts = 0

        def free_memory(self):
            self.attempts += 10
            return True

    def fail(backend, x):
        backend.attempts += 1
        raise MemoryError("full")

    for operator, attempts in (("im2col", 12), ("sgd_steps", 1)):
        backend = Device()
        monkeypatch.setattr(_generic, operator, fail)
        message = rf"^{operator}: numpy is out of memory: full\. Smaller batches .* 64 MiB \(XPCONV_WORKSPACE_MB, "
        with use_kernels("generic"), pytest.raises(DeviceMemoryError, match=message):
            run(backend, operator, array())
        assert backend.attempts == attempts


def test_wrong_modes():
    with pytest.raises(ValueError, match="mode: expected one of auto, generic, native, got None"), use_kernels(None):
        pass


CODE = "import xpconv.backends as b; print(b.get_kernels())"


@pytest.mark.parametrize(
    ("value", "mode"), [("generic", "generic"), ("native", "native"), ("auto", "auto"), ("", "auto")]
)
def test_environment_variable(python, value, mode):
    assert python(CODE, XPCONV_KERNELS=value)[:2] == (0, mode)


def test_wrong_environment_variable(python):
    status, _, stderr = python(CODE, XPCONV_KERNELS="fast")
    assert status == 1
    assert stderr.endswith("ValueError: XPCONV_KERNELS: expected one of auto, generic, native, got 'fast'")


def test_native_from_the_environment_raises_for_what_has_no_kernel(python):
    code = """
import numpy as np, xpconv
from xpconv.functional import im2col
assert xpconv.backends.load_backend("numpy").engines, "no kernels"
print(im2col(np.ones((1, 1, 2, 2), np.float32), 2).shape)
im2col(np.ones((1, 1, 2, 2), np.float16), 2)
"""
    if not load_backend("numpy").engines:
        pytest.skip("xpconv was built without kernels")
    status, stdout, stderr = python(code, XPCONV_KERNELS="native")
    assert status == 1
    assert stdout == "(1, 4, 1)"
    assert "KernelUnavailableError: im2col: no native kernel of numpy" in stderr
    assert "supports float16 with Window(height=2, width=2" in stderr


def test_native_and_generic_operators_have_the_same_signature():
    """They are called in the same way, by position."""

    def shape(function):
        return [
            (p.name, p.kind, p.default is inspect.Parameter.empty)
            for p in inspect.signature(function).parameters.values()
        ]

    engines = load_backend("numpy").engines
    if not engines:
        pytest.skip("xpconv was built without kernels")
    for operator, candidates in engines.items():
        for engine in candidates:
            assert shape(engine.function) == shape(getattr(_generic, operator)), f"{operator}: {engine.name}"


def test_every_generic_operator_takes_the_backend_first():
    for operator in _generic.__all__:
        first = next(iter(inspect.signature(getattr(_generic, operator)).parameters))
        assert first == "backend", operator


def test_without_compiled_kernels_numpy_warns_and_works(python):
    code = """
import sys, warnings
sys.modules["xpconv._cpu"] = None
import numpy as np, xpconv.functional as F
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y, _ = F.conv2d(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2)))
print(y.ravel(), [str(w.message) for w in caught])
"""
    status, stdout, stderr = python(code)
    assert (status, stderr) == (0, "")
    assert stdout.startswith("[4.] ['xpconv: the compiled CPU kernels are missing (")
    assert stdout.endswith("NumPy runs the slower generic operators']")
