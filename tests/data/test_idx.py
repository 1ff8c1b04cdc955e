import gzip
import hashlib
import tracemalloc

import numpy as np
import pytest

from xpconv.data import DataError, read_idx

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def write(folder, content, packed=False):
    path = folder / "file"
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_round_trip(tmp_path, idx, dtype, packed):
    array = (ARRAY * 5 - 60.0).astype(np.int8).astype(dtype)
    got = read_idx(write(tmp_path, idx(array), packed))
    assert got.dtype == np.dtype(dtype)
    assert got.dtype.isnative
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("shape", [(5,), (0,), (0, 28, 28), (2, 3, 4, 5)])
def test_ranks_and_empty_arrays(tmp_path, idx, shape):
    array = np.ones(shape, np.uint8)
    assert read_idx(write(tmp_path, idx(array))).shape == shape


@pytest.mark.parametrize("packed", [False, True])
def test_the_hash_is_of_the_decompressed_file(tmp_path, idx, packed):
    content = idx(ARRAY)
    path = write(tmp_path, content, packed)
    digest = hashlib.sha256(content).hexdigest()
    np.testing.assert_array_equal(read_idx(path, sha256=digest), ARRAY)
    with pytest.raises(DataError, match=rf"file: SHA-256 of the decompressed file: expected {'0' * 64}, got {digest}"):
        read_idx(path, sha256="0" * 64)


def test_the_result_can_be_written(tmp_path, idx):
    read_idx(write(tmp_path, idx(ARRAY)))[0] = 1


@pytest.mark.parametrize("packed", [False, True])
def test_memory_is_little_more_than_the_data(tmp_path, idx, packed):
    array = np.zeros((1000, 100, 100), np.uint8)
    path = write(tmp_path, idx(array), packed)
    tracemalloc.start()
    try:
        read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < array.nbytes + 2_000_000
    finally:
        tracemalloc.stop()


HEADER = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated, expected an IDX header of at least 4 bytes, got 0"),
        (b"\0\0", "truncated, expected an IDX header of at least 4 bytes, got 2"),
        (b"<htm" + HEADER, "not an IDX file, expected the bytes 00 00, .* got 3c 68 74 6d"),
        (b"\0\0\x07\x03" + HEADER, "not an IDX file"),
        (b"\0\0\x08\x00" + HEADER, "not an IDX file"),
        (HEADER[:10], "truncated, expected 3 sizes of 4 bytes in the header, got 6 bytes"),
        (HEADER + bytes(23), r"truncated, expected 24 bytes of data for shape \(2, 3, 4\)"),
        (HEADER, r"truncated, expected 24 bytes of data for shape \(2, 3, 4\)"),
        (HEADER + bytes(25), r"has bytes behind the 24 of data that shape \(2, 3, 4\) takes"),
        # sizes that would take 2**96 bytes are refused before memory is asked for
        (HEADER[:4] + b"\xff" * 12 + bytes(24), "truncated, expected 79228162458924105385300197375 bytes"),
    ],
)
def test_bad_files(tmp_path, content, message, packed):
    path = write(tmp_path, content, packed)
    with pytest.raises(DataError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)


def test_truncated_gzip(tmp_path, idx):
    packed = gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8)))
    for length in (5, len(packed) // 2, len(packed) - 4):
        (tmp_path / "file").write_bytes(packed[:length])
        with pytest.raises(DataError, match="truncated, the compressed data end too early"):
            read_idx(tmp_path / "file")


def test_gzip_with_a_wrong_checksum(tmp_path, idx):
    packed = bytearray(gzip.compress(idx(ARRAY)))
    packed[-8] ^= 1
    (tmp_path / "file").write_bytes(packed)
    with pytest.raises(DataError, match="damaged compressed data: CRC"):
        read_idx(tmp_path / "file")


def test_gzip_with_a_flipped_bit(tmp_path, idx):
    packed = bytearray(gzip.compress(idx(np.random.default_rng(0).integers(0, 9, (50, 28, 28), dtype=np.uint8))))
    packed[len(packed) // 2] ^= 16
    (tmp_path / "file").write_bytes(packed)
    with pytest.raises(DataError, match="file: "):
        read_idx(tmp_path / "file")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx(tmp_path / "nowhere")


@pytest.mark.parametrize("shape", [(1,) * 65, (1,) * 255, (2**32 - 1, 2**32 - 1, 2**32 - 1, 0)])
def test_shapes_beyond_numpy(tmp_path, shape):
    content = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + b"\x07"
    path = write(tmp_path, content[: None if 0 not in shape else -1])
    with pytest.raises(DataError, match=rf"{path}: expected a shape that NumPy can hold, got (65|255|\(4294967295)"):
        read_idx(path)
