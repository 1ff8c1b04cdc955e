"""Into a backend and back: values and dtypes survive, whatever they come from; what is no number is refused."""

import numpy as np
import pytest

import xpconv
from xpconv.backends import load_backend
from xpconv.testing import LAYOUTS

DTYPES = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")


def dtype_name(array):
    return xpconv.backends.backend_of(array=array).dtype_name(array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip_of_every_dtype(on, dtype):
    values = np.array([[0, 1, 2], [3, 100, 1]]).astype(dtype)
    if on.backend == "jax" and dtype == "float64":
        pytest.skip("no float64")
    array = xpconv.asarray(values)
    narrowed = {"int64": "int32", "uint64": "uint32"} if on.backend == "jax" else {}
    assert dtype_name(array) == narrowed.get(dtype, dtype)
    back = xpconv.to_numpy(array)
    assert type(back) is np.ndarray
    assert back.dtype == narrowed.get(dtype, dtype)
    assert np.array_equal(back, values)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip_of_every_memory_layout(on, layout, rng):
    values = rng.standard_normal((2, 3, 4)).astype("float32")
    array = xpconv.asarray(LAYOUTS[layout](values))
    assert dtype_name(array) == "float32"
    back = xpconv.to_numpy(array)
    assert back.dtype.isnative
    assert np.array_equal(back, values)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1, 1, 1, 1, 1)], ids=str)
def test_round_trip_of_odd_shapes(on, shape):
    array = xpconv.asarray(np.ones(shape, dtype="float32"))
    assert tuple(array.shape) == shape
    assert xpconv.to_numpy(array).shape == shape


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        ([1, 2.5], [1, 2.5]),
        ((1, 2), [1, 2]),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ([np.float32(1), np.ones(())], [1, 1]),
        (2.5, 2.5),
        (7, 7),
        (True, 1),
        (np.float64(2.5), 2.5),
        (range(3), [0, 1, 2]),
        ([], []),
        (np.ones((1, 2)).view(np.matrix), [[1, 1]]),
    ],
    ids=repr,
)
def test_sequences_and_numbers(on, obj, expected):
    array = xpconv.asarray(obj, dtype="float32")
    assert dtype_name(array) == "float32"
    assert xpconv.to_numpy(array).tolist() == expected
    assert xpconv.to_numpy(obj).tolist() == expected


def test_without_a_dtype_sequences_get_numpys(on):
    assert dtype_name(xpconv.asarray([1, 2])) == ("int32" if on.backend == "jax" else "int64")
    if on.backend == "jax":
        with pytest.raises(TypeError, match=r"dtype: JAX has no float64 unless .* dtype='float32' works without"):
            xpconv.asarray([1.0])
    else:
        assert dtype_name(xpconv.asarray([1.0])) == "float64"


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32"), np.dtype(">f4")], ids=repr)
def test_a_dtype_may_be_a_name_or_numpys(on, dtype):
    array = xpconv.asarray(np.array([1, 2]), dtype)
    assert dtype_name(array) == "float32"
    assert dtype_name(xpconv.asarray(array, dtype)) == "float32"
    assert xpconv.to_numpy(array).dtype.isnative


def test_a_dtype_may_be_the_librarys(on):
    backend = xpconv.get_backend()
    assert dtype_name(xpconv.asarray([1, 2], backend.xp.int16)) == "int16"
    assert dtype_name(xpconv.asarray(xpconv.asarray([1, 2]), backend.xp.int16)) == "int16"


@pytest.mark.parametrize("dtype", ["float23", "exp", "asarray", ""])
def test_wrong_dtypes(on, dtype):
    with pytest.raises(TypeError, match=f"dtype: {on.backend} has no '{dtype}'"):
        xpconv.asarray([1.0], dtype)


def test_a_dtype_of_another_library_is_refused_by_numpy():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"dtype: numpy has no torch\.float32"):
        xpconv.asarray([1.0], torch.float32, backend="numpy")


def test_arrays_move_from_each_backend_to_each(on):
    values = np.array([[1.5, -2.0]], dtype="float32")
    array = on.asarray(values)
    for name in ("numpy", "array_api_strict", "array_api_strict:device1", "torch", "jax"):
        if name != "numpy":
            pytest.importorskip(name.partition(":")[0])
        moved = xpconv.asarray(array, backend=name)
        assert xpconv.backends.backend_of(moved=moved).name == name
        assert dtype_name(moved) == "float32"
        assert np.array_equal(xpconv.to_numpy(moved), values)
        assert dtype_name(xpconv.asarray(array, "int32", backend=name)) == "int32"


def test_an_array_that_is_there_already_is_not_copied():
    for name in ("numpy", "torch", "jax"):
        if name != "numpy":
            pytest.importorskip(name)
        array = xpconv.asarray([1.0, 2.0], "float32", backend=name)
        again = xpconv.asarray(array, backend=name)
        if name == "torch":
            assert again.data_ptr() == array.data_ptr()
        else:
            assert again is array


def test_memory_maps_are_taken(on, tmp_path):
    values = np.memmap(tmp_path / "x", np.float32, "w+", shape=(2, 3))
    values[...] = 7
    array = xpconv.asarray(values)
    assert np.array_equal(on.to_numpy(array), np.full((2, 3), 7))


class Interfaced:
    """What many libraries give NumPy to read."""

    def __array__(self, dtype=None, copy=None):
        return np.array([1.0, 2.0], dtype=dtype)


def test_objects_with_an_array_interface(on):
    assert xpconv.to_numpy(xpconv.asarray(Interfaced(), "float32")).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("obj", "got"),
    [
        (None, "NoneType None"),
        ("abc", "str 'abc'"),
        (b"abc", "bytes b'abc'"),
        ([1, None], r"list \[1, None\]"),
        ({"a": 1}, r"dict \{'a': 1\}"),
        pytest.param(object(), "object <object object", id="object"),
        (np.array([1, None]), "an array of object"),
        (np.array(["a"]), "an array of <U1"),
        (np.zeros(2, dtype=[("a", "f4")]), "an array of "),
        (np.zeros(2, dtype="datetime64[s]"), "an array of datetime64"),
    ],
    ids=repr,
)
def test_what_is_no_number_is_refused(on, obj, got):
    with pytest.raises(TypeError, match=f"obj: expected an array, a sequence of numbers or a number, got {got}"):
        xpconv.asarray(obj)
    if not isinstance(obj, np.ndarray):
        with pytest.raises(TypeError, match=f"array: expected an array, a sequence of numbers or a number, got {got}"):
            xpconv.to_numpy(obj)


def test_masked_arrays_are_refused_as_their_hidden_values_would_come_out(on):
    masked = np.ma.array([1.0, 2.0], mask=[True, False], dtype="float32")
    with pytest.raises(TypeError, match=r"obj: is a masked array; fill what is masked first, as in obj.filled\(0\)"):
        xpconv.asarray(masked)
    with pytest.raises(TypeError, match="array: is a masked array"):
        xpconv.to_numpy(masked)
    assert xpconv.to_numpy(xpconv.asarray(masked.filled(0))).tolist() == [0, 2]


def test_ragged_lists_are_refused(on):
    with pytest.raises(ValueError, match=r"^obj: expected .* inhomogeneous"):
        xpconv.asarray([[1], [1, 2]])


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_float16(name):
    if name != "numpy":
        pytest.importorskip(name)
    values = np.array([1.5, 65504], dtype="float16")
    array = xpconv.asarray(values, backend=name)
    assert dtype_name(array) == "float16"
    assert xpconv.to_numpy(array).dtype == "float16"
    assert np.array_equal(xpconv.to_numpy(array), values)


def test_bfloat16_is_float32_in_numpy_and_kept_between_libraries():
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    values = np.array([1.0, -1.9921875, 2.0**127], dtype="float32")  # exact in bfloat16
    for here, there in (("torch", "jax"), ("jax", "torch")):
        array = xpconv.asarray(values, "bfloat16", backend=here)
        assert dtype_name(array) == "bfloat16"
        host = xpconv.to_numpy(array)
        assert host.dtype == "float32"
        assert np.array_equal(host, values)
        moved = xpconv.asarray(array, backend=there)
        assert dtype_name(moved) == "bfloat16"
        assert np.array_equal(xpconv.to_numpy(moved), values)
        assert xpconv.asarray(array, backend="numpy").dtype == "float32"


def test_bfloat16_of_a_numpy_extension():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.array([1.0, 2.5], dtype=ml_dtypes.bfloat16)
    for name in ("torch", "jax"):
        pytest.importorskip(name)
        array = xpconv.asarray(values, backend=name)
        assert dtype_name(array) == "bfloat16"
        assert xpconv.to_numpy(array).tolist() == [1, 2.5]


def test_array_api_strict_has_no_half_precision():
    pytest.importorskip("array_api_strict")
    for dtype in ("float16", "bfloat16"):
        with pytest.raises(TypeError, match=f"dtype: array_api_strict has no '{dtype}'"):
            xpconv.asarray([1.0], dtype, backend="array_api_strict")


def test_the_device_of_a_backend_is_where_arrays_go():
    strict = pytest.importorskip("array_api_strict")
    for device in ("device1", "device2"):
        backend = load_backend(f"array_api_strict:{device}")
        for array in (
            backend.asarray([1.0]),
            backend.asarray(strict.asarray([1.0])),
            backend.empty((2,), "float32"),
            backend.zeros((2,), "float32"),
            backend.full((2,), 1.0, "float32"),
            backend.arange(3, "int64"),
            backend.rng(0).normal((2,)),
            backend.rng(0).uniform(0, 1, (2,)),
        ):
            assert array.device == strict.Device(device)
            assert backend.for_array(array) is backend


def test_new_arrays(on):
    backend = xpconv.get_backend()
    assert on.to_numpy(backend.zeros((2, 3), "float32")).tolist() == [[0] * 3] * 2
    assert on.to_numpy(backend.full((2,), 1.5, "float32")).tolist() == [1.5, 1.5]
    assert on.to_numpy(backend.arange(3, "int32")).tolist() == [0, 1, 2]
    assert tuple(backend.empty((2, 0), "float32").shape) == (2, 0)
    for array in (backend.zeros((1,), "float32"), backend.rng(0).normal((1,))):
        assert backend.dtype_name(array) == "float32"
        assert backend.is_floating(array)
    assert not backend.is_floating(backend.arange(3, "int32"))
    assert backend.astype(array, "float32") is array
    assert backend.dtype_name(backend.astype(array, "int32")) == "int32"


def test_random_numbers_are_the_same_everywhere(on):
    mine, reference = xpconv.get_backend().rng(7), load_backend("numpy").rng(7)
    for draw in (lambda r: r.normal((3, 4), scale=2.0), lambda r: r.uniform(-1, 1, (5,))):
        assert np.array_equal(on.to_numpy(draw(mine)), draw(reference))
    generator = np.random.default_rng(7)
    assert on.to_numpy(xpconv.get_backend().rng(generator).normal((1,)))[0] == np.float32(
        np.random.default_rng(7).standard_normal()
    )


def test_synchronize_and_describe(on):
    backend = xpconv.get_backend()
    backend.synchronize()
    assert backend.describe().startswith(on.backend.partition(":")[0])
    assert "\n" not in backend.describe()


def test_readonly_and_shared_memory_is_never_written_through_a_jax_array():
    """JAX takes it for granted that its arrays do not change."""
    pytest.importorskip("jax")
    values = np.zeros(1024, dtype="float32")
    array = xpconv.asarray(values, backend="jax")
    values[...] = 1
    assert xpconv.to_numpy(array).max() == 0
