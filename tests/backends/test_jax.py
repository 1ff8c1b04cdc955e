"""JAX: traced arrays, its 64-bit mode, devices."""

import numpy as np
import pytest

import xpconv
import xpconv.functional as F
from xpconv.backends import backend_of
from xpconv.testing import check_gradients, naive

jax = pytest.importorskip("jax")
jnp = jax.numpy


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.standard_normal((2, 2, 4, 5)).astype("float32"))


@pytest.fixture
def filters(rng):
    return jnp.asarray(rng.standard_normal((3, 2, 2, 1)).astype("float32"))


def both_ways(x, w):
    y, cache = F.conv2d(x, w, stride=2, padding=1)
    return y, *F.conv2d_backward(y, cache)[:2]


def test_functions_can_be_compiled_and_the_backward_pass_is_that_of_jax(images, filters):
    def loss(x, w):
        return jnp.sum(F.conv2d(x, w, stride=2, padding=1)[0] ** 2) / 2

    y, *gradients = jax.jit(both_ways)(images, filters)
    expected = naive.conv2d(np.asarray(images), np.asarray(filters), stride=(2, 2), padding=((1, 1), (1, 1)))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(gradients, jax.jit(jax.grad(loss, argnums=(0, 1)))(images, filters), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_functions_can_be_vectorised(images, filters):
    stacked = jax.jit(jax.vmap(lambda x: F.conv2d(x, filters)[0]))(jnp.stack([images, 2 * images]))
    expected = naive.conv2d(np.asarray(images), np.asarray(filters))
    np.testing.assert_allclose(stacked[1], 2 * expected, rtol=1e-4, atol=1e-4)


def test_traced_arrays_are_jaxs_in_every_function():
    seen = []

    @jax.jit
    def function(x):
        seen.append(backend_of(x=x).name)
        seen.append(backend_of(x=xpconv.asarray(x, "float16", backend="jax")).dtype_name(x))
        return x

    function(jnp.ones(3))
    assert seen == ["jax", "float32"]


def test_float64_in_the_64_bit_mode(rng):
    x, w, b = (rng.standard_normal(s) for s in ((2, 2, 3, 4), (3, 2, 2, 1), (3,)))
    with jax.enable_x64(True):
        arrays = [xpconv.asarray(a, backend="jax") for a in (x, w, b)]
        y, _ = F.conv2d(*arrays, padding=1)
        assert y.dtype == "float64"
        assert xpconv.asarray([2**40], backend="jax").dtype == "int64"
        expected = naive.conv2d(x, w, b, padding=((1, 1), (1, 1)))
        np.testing.assert_allclose(xpconv.to_numpy(y), expected, rtol=1e-12, atol=1e-12)
        check_gradients(lambda *a: F.conv2d(*a, padding=1), F.conv2d_backward, arrays)


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint64", "complex128"])
def test_a_dtype_that_jax_would_narrow_silently_is_refused(dtype):
    message = f"dtype: JAX has no {dtype} unless jax.config.update\\('jax_enable_x64', True\\) is called first"
    with pytest.raises(TypeError, match=message):
        xpconv.asarray([1], dtype, backend="jax")
    with pytest.raises(TypeError, match=message):
        xpconv.asarray(jnp.ones(2), dtype, backend="jax")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([2**31 - 1, -(2**31)], "int32"), (np.array([2**32 - 1], dtype="uint64"), "uint32"), ([], "float32")],
)
def test_integers_that_fit_are_narrowed(values, dtype):
    array = xpconv.asarray(values, dtype if dtype == "float32" else None, backend="jax")
    assert array.dtype == dtype
    assert xpconv.to_numpy(array).tolist() == list(values)


@pytest.mark.parametrize("values", [[2**31], [-(2**31) - 1], np.array([2**32], dtype="uint64")])
def test_integers_that_do_not_fit_are_refused(values):
    with pytest.raises(ValueError, match=r"obj: holds integers beyond u?int32, JAX's widest unless"):
        xpconv.asarray(values, backend="jax")


def test_synchronize_waits_for_what_was_started():
    x = jnp.ones((600, 600))
    multiply = jax.jit(lambda a: a @ a @ a @ a @ a @ a)
    multiply(x).block_until_ready()
    y = multiply(x)
    xpconv.backends.load_backend("jax").synchronize()
    assert y.is_ready()


def test_unknown_devices():
    for name in ("jax:cpu:99", "jax:quantum", "jax:cpu:x"):
        with pytest.raises(xpconv.BackendUnavailableError, match=f"jax cannot use device '{name[4:]}'"):
            xpconv.set_backend(name)


TWO_DEVICES = """
import numpy as np, jax, xpconv
from xpconv.backends import backend_of
import xpconv.functional as F
x = np.arange(12, dtype=np.float32).reshape(1, 1, 2, 6)
first, second = xpconv.asarray(x, backend="jax"), xpconv.asarray(x, backend="jax:cpu:1")
print(backend_of(x=first).name, backend_of(x=second).name)
y, cache = F.conv2d(second, second[..., :1], padding=1)
dx, dw, _ = F.conv2d_backward(y, cache)
print({d.device.id for d in (y, dx, dw)})
with jax.default_device(jax.devices()[1]):
    print(backend_of(x=xpconv.asarray(x, backend="jax")).name, F.conv2d(first, first[..., :1])[0].device.id)
for call in (lambda: F.conv2d(first, second), lambda: F.conv2d(second, first)):
    try:
        call()
    except xpconv.BackendMismatchError as error:
        print(error)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("d",))
sharded = jax.device_put(np.ones((2, 1, 2, 2), np.float32), jax.NamedSharding(mesh, jax.P("d")))
try:
    F.conv2d(sharded, sharded)
except TypeError as error:
    print(error)
"""


def test_two_devices(python):
    status, stdout, stderr = python(TWO_DEVICES, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert status == 0, stderr
    assert stdout.split("\n") == [
        "jax jax:cpu:1",
        "{1}",
        "jax 0",
        "w is an array of jax:cpu:1 but x is one of jax; move one with xpconv.asarray(x, backend='jax:cpu:1')",
        "w is an array of jax but x is one of jax:cpu:1; move one with xpconv.asarray(x, backend='jax')",
        stdout.split("\n")[-1],
    ]
    assert "sharded over several JAX devices" in stdout.split("\n")[-1]


def test_not_installed(python):
    code = "import sys; sys.modules['jax'] = None\nimport xpconv; xpconv.set_backend('jax')"
    assert python(code)[2].endswith("BackendUnavailableError: jax is not installed: pip install jax")
