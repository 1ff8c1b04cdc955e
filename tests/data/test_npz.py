import io
import zipfile

import numpy as np
import pytest

from xpconv.data import DataError, read_npz

RNG = np.random.default_rng(5)
X, X_TEST = RNG.integers(0, 256, (8, 6, 7), dtype=np.uint8), RNG.integers(0, 256, (4, 6, 7), dtype=np.uint8)
Y, Y_TEST = np.arange(8) % 3, np.arange(4)


def save(folder, **arrays):
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


@pytest.mark.parametrize(
    "keys",
    [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")],
)
def test_two_parts(tmp_path, keys):
    splits = read_npz(save(tmp_path, **dict(zip(keys, (X, Y, X_TEST, Y_TEST), strict=True))))
    np.testing.assert_array_equal(splits.train.images, X[:, None])
    np.testing.assert_array_equal(splits.train.labels, Y)
    np.testing.assert_array_equal(splits.test.images, X_TEST[:, None])
    np.testing.assert_array_equal(splits.test.labels, Y_TEST)
    # a class that only one of the parts has is a class of both
    assert splits.train.num_classes == splits.test.num_classes == 4


@pytest.mark.parametrize("keys", [("images", "labels"), ("x", "y")])
def test_one_set_gives_every_fifth_image_for_testing(tmp_path, keys):
    x, y = np.concatenate([X, X_TEST]), np.arange(12)
    splits = read_npz(save(tmp_path, **dict(zip(keys, (x, y), strict=True))))
    assert splits.train.labels.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]
    assert splits.test.labels.tolist() == [4, 9]
    np.testing.assert_array_equal(splits.test.images[:, 0], x[[4, 9]])
    assert splits.test.num_classes == 12


def test_compressed_and_other_arrays_beside(tmp_path):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=X, labels=Y, note=np.array(["kept"], dtype=object), allow_pickle=True)
    assert len(read_npz(path).train) == 7


def test_channels_last_become_first(tmp_path):
    x = RNG.integers(0, 256, (8, 6, 7, 3), dtype=np.uint8)
    images = read_npz(save(tmp_path, images=x, labels=Y[:, None])).train.images
    np.testing.assert_array_equal(images, x.transpose(0, 3, 1, 2)[[0, 1, 2, 3, 5, 6, 7]])
    assert images.flags.c_contiguous


def test_wide_integers_are_bytes_if_they_fit(tmp_path):
    splits = read_npz(save(tmp_path, images=X.astype(np.int64), labels=Y))
    assert splits.train.images.dtype == np.uint8
    np.testing.assert_array_equal(splits.test.images[:, 0], X[[4]])


def test_floating_point_images_stay(tmp_path):
    assert read_npz(save(tmp_path, images=X / 255.0, labels=Y)).train.images.dtype == np.float64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": X, "labels": Y}, "expected the keys x_train, y_train.*; got pictures, labels"),
        ({"x_train": X, "y_train": Y, "x_test": X_TEST}, "got x_train, y_train, x_test"),
        ({"images": X, "labels": Y[:5]}, "labels: expected 8, one for each image, got 5"),
        ({"images": X, "labels": Y / 1.0}, "labels: expected integers"),
        ({"images": X.astype(int) + 1, "labels": Y}, "images: expected pixels of 0 to 255, got int64 of . to 25"),
        ({"images": X[0], "labels": Y[:6]}, "images: expected 4 dimensions"),
        ({"images": np.zeros((8, 5, 6, 7), np.uint8), "labels": Y}, "cannot tell which axis of .8, 5, 6, 7. is"),
        ({"images": np.zeros((8, 3, 6, 3), np.uint8), "labels": Y}, "cannot tell which axis of .8, 3, 6, 3. is"),
        ({"images": X[:3], "labels": Y[:3]}, "expected at least 5 images"),
        (
            {"x_train": X, "y_train": Y, "x_test": X_TEST[:, 1:], "y_test": Y_TEST},
            r"images of \(1, 6, 7\) for training but of",
        ),
    ],
)
def test_bad_contents(tmp_path, arrays, message):
    path = save(tmp_path, **arrays)
    with pytest.raises(DataError, match=message) as error:
        read_npz(path)
    assert str(path) in str(error.value)


def test_object_arrays_are_not_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    path = save(tmp_path, images=X, labels=np.array([Trap()] * 8, dtype=object))
    with pytest.raises(DataError, match="not made of plain arrays: Object arrays cannot be loaded"):
        read_npz(path)
    assert not (tmp_path / "sprung").exists()


def test_not_a_zip_file(tmp_path):
    np.save(tmp_path / "x.npy", X)
    for content in (b"", b"hello", (tmp_path / "x.npy").read_bytes()):
        (tmp_path / "set.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"set.npz: expected a .npz file"):
            read_npz(tmp_path / "set.npz")


def test_truncated_and_damaged_files(tmp_path):
    path = save(tmp_path, images=X, labels=Y)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"set.npz: damaged"):
        read_npz(path)
    flipped = bytearray(whole)
    flipped[200] ^= 1  # a pixel: the checksum of the archive tells
    path.write_bytes(flipped)
    with pytest.raises(DataError, match=r"set.npz: damaged.*CRC"):
        read_npz(path)


def test_a_header_that_promises_more_than_the_file(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**11, 100, 100)})
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", header.getvalue())
        file.writestr("y.npy", header.getvalue())
    with pytest.raises(
        DataError, match=rf"{path}: x: truncated, expected {10**15} bytes .*got {len(header.getvalue())}"
    ):
        read_npz(path)


def test_members_that_are_no_arrays(tmp_path):
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x", b"text")
        file.writestr("y", b"text")
    with pytest.raises(DataError, match=rf"{path}: damaged"):
        read_npz(path)
