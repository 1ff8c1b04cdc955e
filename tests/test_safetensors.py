"""The safetensors format against the package safetensors, and files that are not what they say."""

import json

import numpy as np
import pytest

from xpconv import _safetensors

RNG = np.random.default_rng(3)
ARRAYS = {
    "b.int8": RNG.integers(-100, 100, size=(3,)).astype(np.int8),
    "turned": RNG.normal(size=(5, 4)).astype(np.float32).T,
    "steps": RNG.normal(size=(6, 7))[::2, ::-3],
    "half": RNG.normal(size=(2, 2)).astype(np.float16),
    "scalar": np.array(-7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False, True]),
    "unicode ü": np.arange(4, dtype=np.uint16),
    "foreign order": np.arange(3, dtype=">f8"),
}


def write(path, arrays, metadata=None, **options):
    path.write_bytes(b"".join(_safetensors.encode(arrays, metadata or {}, **options)))


def read(path):
    with _safetensors.Reader(path) as reader:
        return {name: reader.read(name) for name in reader.tensors}


def assert_same(found, arrays):
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype.newbyteorder("="), name
        assert found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_round_trip(tmp_path):
    write(tmp_path / "x", ARRAYS, {"a": "b"})
    assert_same(read(tmp_path / "x"), ARRAYS)
    with _safetensors.Reader(tmp_path / "x") as reader:
        assert reader.metadata == {"a": "b"}
        assert reader.tensors["turned"].dtype == "float32"
        starts = [tensor.start for tensor in reader.tensors.values()]
        assert starts == sorted(starts)
        for name, tensor in reader.tensors.items():  # aligned, for readers that map the file
            assert tensor.start % ARRAYS[name].dtype.itemsize == 0


def test_the_package_reads_what_we_write_and_we_what_it_writes(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    write(tmp_path / "ours", ARRAYS)
    assert_same(package.load_file(tmp_path / "ours"), ARRAYS)
    plain = {name: np.array(array, array.dtype.newbyteorder("="), order="C") for name, array in ARRAYS.items()}
    package.save_file(plain, tmp_path / "theirs", metadata={"format": "np"})
    assert_same(read(tmp_path / "theirs"), plain)


def test_bfloat16_is_that_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("safetensors.torch")
    tensor = torch.tensor([[1.0, -2.5, 3e38], [float("nan"), float("-inf"), 1e-40]], dtype=torch.bfloat16)
    package.save_file({"w": tensor}, tmp_path / "theirs")
    found = read(tmp_path / "theirs")["w"]
    np.testing.assert_array_equal(found, tensor.float().numpy())
    write(tmp_path / "ours", {"w": found}, bfloat16=frozenset(["w"]))
    back = package.load_file(tmp_path / "ours")["w"]
    assert back.dtype == torch.bfloat16
    assert torch.equal(back.view(torch.int16), tensor.view(torch.int16))


def test_refuses_to_write(tmp_path):
    for arrays, error, message in (
        ({"z": np.zeros(2, complex)}, TypeError, "z is of dtype complex128"),
        ({"__metadata__": np.zeros(2)}, ValueError, "'__metadata__' is reserved"),
    ):
        with pytest.raises(error, match=message):
            b"".join(_safetensors.encode(arrays, {}))
    with pytest.raises(ValueError, match="at most 16777216 are read again"):
        b"".join(_safetensors.encode({}, {"long": "x" * (17 << 20)}))


# ---- files that are not what they say ---------------------------------------------------------------------------


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def put(path, header, data=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def numbers(count):
    return b'{"w":' + b"[" * count


BAD = {
    "length beyond the file": (({"w": entry()}, b"\0" * 8, 1 << 20), "shorter than its header"),
    "length beyond all": (({"w": entry()}, b"\0" * 8, (1 << 64) - 1), "shorter than its header"),
    "not an object": ((b"[1, 2, 3]",), "does not begin with a header"),
    "white space first": ((b'  {"w": 1}',), "does not begin with a header"),
    "cut in the middle": ((b'{"w": {"dtype": "F',), "its header is not JSON"),
    "not UTF-8": ((b'{"\xff\xfe": 1}',), "its header is not JSON"),
    "something behind": ((b'{"a": 1} {}',), "its header is not JSON"),
    "nested without end": ((numbers(200_000),), "its header is not JSON"),
    "a number without end": ((b'{"w": ' + b"1" * 10_000 + b"}",), "its header is not JSON"),
    "duplicate names": (
        (b'{"w":' + json.dumps(entry()).encode() + b',"w":' + json.dumps(entry()).encode() + b"}",),
        "the header has 'w' twice",
    ),
    "duplicate keys": ((b'{"w":{"dtype":"F32","dtype":"F64","shape":[2],"data_offsets":[0,8]}}',), "'dtype' twice"),
    "no dtype": (({"w": {"shape": [2], "data_offsets": [0, 8]}},), "'w' is not described by"),
    "one key more": (({"w": entry(code="x")},), "'w' is not described by"),
    "a list for an array": (({"w": [1]},), "'w' is not described by"),
    "unknown dtype": (({"w": entry("F8_E4M3", (8,))},), "'w' is of dtype 'F8_E4M3'; known are F64"),
    "dtype no string": (({"w": entry(["F32"])},), r"is of dtype \['F32'\]"),
    "negative length": (({"w": entry(shape=(-2,))},), r"has the shape \[-2\]"),
    "shape of fractions": (({"w": entry(shape=(2.0,))},), r"has the shape \[2.0\]"),
    "shape of truth": (({"w": entry(shape=(True, 2))},), r"has the shape \[True, 2\]"),
    "shape of strings": (({"w": entry() | {"shape": "2"}},), "has the shape '2'"),
    "too many axes": (({"w": entry(shape=(1,) * 65)},), "has the shape"),
    "lengths beyond all": (({"w": entry(shape=(1 << 70,))},), "has the shape"),
    "product beyond all": (({"w": entry(shape=(1 << 40, 1 << 40))},), "bytes by dtype and shape, but 8 by its offsets"),
    "offsets beyond the file": (({"w": entry(shape=(1000,), offsets=(0, 4000))},), "take 4000 bytes, and it has 8"),
    "huge but consistent": (({"w": entry("U8", (1 << 50,), (0, 1 << 50))},), "bytes, and it has 8"),
    "offsets turned": (({"w": entry(offsets=(8, 0))},), "but -8 by its offsets"),
    "negative offsets": (({"w": entry(offsets=(-8, 0))},), r"has the offsets \[-8, 0\]"),
    "three offsets": (({"w": entry(offsets=(0, 8, 8))},), "has the offsets"),
    "another dtype than the offsets": (({"w": entry("F64")},), "takes 16 bytes by dtype and shape, but 8"),
    "overlap": (({"a": entry(), "b": entry()},), "'b' overlaps 'a'"),
    "partial overlap": (({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12), "'b' overlaps 'a'"),
    "gap": (({"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20), "'b' leaves a gap behind 'a'"),
    "gap at the beginning": (({"a": entry(offsets=(8, 16))}, b"\0" * 16), "'a' leaves a gap"),
    "rest at the end": (({"a": entry()}, b"\0" * 9), "take 8 bytes, and it has 9"),
    "cut data": (({"a": entry()}, b"\0" * 7), "take 8 bytes, and it has 7"),
    "metadata of numbers": (({"a": entry(), "__metadata__": {"x": 1}},), "__metadata__ are not strings"),
    "metadata no object": (({"a": entry(), "__metadata__": "x"},), "__metadata__ are not strings"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_headers(tmp_path, case):
    arguments, message = BAD[case]
    put(tmp_path / "x", *arguments)
    with pytest.raises(_safetensors.FormatError, match=message) as caught:
        _safetensors.Reader(tmp_path / "x")
    assert len(str(caught.value)) < 400


def test_a_header_too_long_to_be_one(tmp_path):
    with open(tmp_path / "x", "wb") as file:
        file.write((17 << 20).to_bytes(8, "little") + b"{")
        file.truncate(20 << 20)  # nothing but holes
    with pytest.raises(_safetensors.FormatError, match=f"its header has {17 << 20} bytes, at most"):
        _safetensors.Reader(tmp_path / "x")


def test_bad_values(tmp_path):
    put(tmp_path / "flags", {"w": entry("BOOL", (8,))}, b"\0\1\0\2\0\0\0\0")
    put(tmp_path / "axes", {"w": entry("U8", (0, 1 << 62, 1 << 62), (0, 0))}, b"")
    for name, message in (("flags", "truth values other than 0 and 1"), ("axes", "has the shape")):
        with (
            _safetensors.Reader(tmp_path / name) as reader,
            pytest.raises(_safetensors.FormatError, match=message),
        ):
            reader.read("w")


def test_cut_while_it_is_open(tmp_path):
    write(tmp_path / "x", {"w": np.ones(100_000)})
    with _safetensors.Reader(tmp_path / "x") as reader:
        with open(tmp_path / "x", "r+b") as file:
            file.truncate(5000)
        with pytest.raises(_safetensors.FormatError, match="the file was cut"):
            reader.read("w")


def test_any_cut_is_noticed(tmp_path):
    write(tmp_path / "x", ARRAYS)
    contents = (tmp_path / "x").read_bytes()
    for length in range(0, len(contents), 7):
        (tmp_path / "x").write_bytes(contents[:length])
        with pytest.raises(_safetensors.FormatError):
            _safetensors.Reader(tmp_path / "x")
