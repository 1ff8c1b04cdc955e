"""Sets that stay in their files: only the rows of a batch are read."""

import os
import subprocess
import sys

import numpy as np
import pytest

from xpconv.data import Batches, DataError, LazyDataset, load, read_hdf5, read_npy

RNG = np.random.default_rng(4)
X = RNG.integers(0, 256, (23, 3, 6, 5), dtype=np.uint8)
Y = np.arange(23) % 4


class Rows:
    """An array that notes which rows are read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, []

    def __getitem__(self, rows):
        assert (np.diff(rows) > 0).all()
        self.read += rows.tolist()
        return self.array[rows]


def test_only_the_rows_of_a_batch_are_read():
    rows = Rows(X)
    dataset = LazyDataset(rows, Y)
    assert rows.read == []
    part = dataset.subset(np.arange(23) % 2 == 0).subset(slice(2, 8))
    epoch = Batches(part, 3, shuffle=False).epoch(0)
    x, y = next(epoch)
    assert rows.read == [4, 6, 8]
    np.testing.assert_array_equal(x, X[[4, 6, 8]] * np.float32(1 / 255))
    np.testing.assert_array_equal(y, Y[[4, 6, 8]])


def test_rows_in_any_order_and_twice():
    got = LazyDataset(Rows(X), Y).read(np.array([7, 2, 7, 22, 0]))
    np.testing.assert_array_equal(got, X[[7, 2, 7, 22, 0]])
    got[:] = 0
    assert X[7].any()


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (X[:, 0], X[:, :1]),
        (np.moveaxis(X, 1, 3), X),
        (X.astype(np.int64), X),
        (X.astype(">u2"), X),
        (X.astype(">f8"), X.astype(float)),
        (X.astype(np.float16), X.astype(np.float16)),
    ],
)
def test_kinds_of_arrays(array, expected):
    dataset = LazyDataset(array, Y)
    assert dataset.image_shape == expected.shape[1:]
    got = dataset.read(np.array([3, 1]))
    assert got.dtype == expected.dtype
    assert got.dtype.isnative
    np.testing.assert_array_equal(got, expected[[3, 1]])
    image, label = dataset[-1]
    np.testing.assert_array_equal(image, expected[-1])
    assert label == Y[-1]
    assert len(list(dataset)) == 23


def test_batches_are_those_of_arrays(on):
    from xpconv.data import ArrayDataset, Normalize

    for array in (X, X / 255):
        options = {"seed": 2, "transform": Normalize(0.3, 0.4), "drop_last": True, "placement": "host"}
        expected = list(Batches(ArrayDataset(array, Y), 8, **options))
        for (x, y), (u, v) in zip(Batches(LazyDataset(array, Y), 8, workers=2, **options), expected, strict=True):
            np.testing.assert_array_equal(on.to_numpy(x), on.to_numpy(u))
            np.testing.assert_array_equal(on.to_numpy(y), on.to_numpy(v))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.__setitem__(5, np.nan), "images: image 5 has a NaN or an infinite value"),
        (lambda x: x.__setitem__((9, 0, 0, 0), -np.inf), "images: image 9 has a NaN"),
    ],
)
def test_numbers_that_are_not_finite_are_named_when_they_are_read(change, message):
    array = X / 255
    change(array)
    epoch = Batches(LazyDataset(array, Y), 5, shuffle=False, workers=2).epoch(0)
    next(epoch)
    with pytest.raises(DataError, match=message):
        next(epoch)


def test_pixels_out_of_range():
    array = X.astype(int)
    array[7, 0, 0, 0] = 256
    with pytest.raises(DataError, match="images: image 7: expected pixels of 0 to 255, got 11 to 256"):
        LazyDataset(array, Y).read(np.arange(10))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LazyDataset([1], Y), TypeError, "images: expected an array with shape, dtype and rows, got list"),
        (lambda: LazyDataset(X[0, 0], Y), DataError, r"images: expected images \(N, H, W\), .* got shape \(6, 5\)"),
        (lambda: LazyDataset(X[:, :2], Y), DataError, "cannot tell which axis"),
        (lambda: LazyDataset(X[:, :2], Y, axes="NHW"), ValueError, "axes: expected NHW, NCHW or NHWC for shape"),
        (lambda: LazyDataset(X[:0], []), ValueError, "images: the set is empty"),
        (lambda: LazyDataset(X.astype(complex), Y), TypeError, "images: expected integers .* got complex128"),
        (lambda: LazyDataset(X, Y[:-1]), ValueError, "labels: expected 23, one for each image, got 22"),
        (lambda: LazyDataset(X, Y / 1), TypeError, "labels: expected integers 0 .. K - 1, got float64"),
        (lambda: LazyDataset(X, ["a"] * 23), TypeError, "labels: expected integers 0 .. K - 1, got <U1"),
        (lambda: LazyDataset(X, Y, classes=["a"]), ValueError, "labels: expected 0 to 0, got 3"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
    assert LazyDataset(X[:, :2], Y, axes="NCHW").image_shape == (2, 6, 5)


# ---- .npy -------------------------------------------------------------------------------------------------------


def save(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_npy_with_every_fifth_image_for_testing(tmp_path):
    save(tmp_path, images=X, labels=Y)
    splits = load(tmp_path / "images.npy")
    assert isinstance(splits.train.images, np.memmap)
    held = np.arange(23) % 5 == 4
    np.testing.assert_array_equal(splits.test.read(np.arange(4)), X[held])
    np.testing.assert_array_equal(splits.train.labels, Y[~held])
    assert splits.train.num_classes == splits.test.num_classes == 4


def test_npy_in_two_parts(tmp_path):
    save(tmp_path, train_images=X, train_labels=Y[:, None], test_images=X[:3], test_labels=Y[:3])
    splits = read_npy(tmp_path / "train_images.npy")
    assert [len(part) for part in splits] == [23, 3]
    assert splits.test.num_classes == 4
    save(tmp_path, x_train=X, y_train=Y)
    assert [len(part) for part in read_npy(tmp_path / "x_train.npy")] == [19, 4]
    save(tmp_path, things=X, other=Y)
    assert len(load(tmp_path / "things.npy", labels=tmp_path / "other.npy").train) == 19
    with pytest.raises(
        DataError, match=r"things.npy: labels not found; looked for .*things_labels.npy; .* \(--labels\)"
    ):
        read_npy(tmp_path / "things.npy")


class Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a .npy file of plain numbers"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': '|u1', ", "expected a .npy file of plain numbers"),
        (b"text", "expected a .npy file of plain numbers"),
    ],
)
def test_damaged_npy(tmp_path, content, message):
    save(tmp_path, images=X, labels=Y)
    (tmp_path / "images.npy").write_bytes(content)
    with pytest.raises(DataError, match=f"images.npy: {message}"):
        read_npy(tmp_path / "images.npy")


def test_hostile_npy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, images=X, labels=Y)
    content = (tmp_path / "images.npy").read_bytes()
    (tmp_path / "images.npy").write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"images.npy: expected a .npy file"):
        read_npy(tmp_path / "images.npy")
    (tmp_path / "images.npy").write_bytes(content.replace(b"(23, 3, 6, 5)", b"(2**60,3,6,5)"))
    with pytest.raises(DataError, match=r"images.npy: expected a .npy file"):
        read_npy(tmp_path / "images.npy")
    with open(tmp_path / "images.npy", "wb") as file:  # lengths of int64 whose product is none
        header = {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**40, 5, 5)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DataError, match=r"images.npy: its header tells a shape of more numbers than a file can have"):
        read_npy(tmp_path / "images.npy")
    np.save(tmp_path / "images.npy", np.array([Runs()] * 23), allow_pickle=True)
    with pytest.raises(DataError, match=r"images.npy: expected a .npy file"):
        read_npy(tmp_path / "images.npy")
    save(tmp_path, images=X)
    np.save(tmp_path / "labels.npy", np.array([Runs()] * 23), allow_pickle=True)
    with pytest.raises(DataError, match=r"labels.npy: expected a .npy file"):
        read_npy(tmp_path / "images.npy")
    assert not (tmp_path / "ran").exists()
    save(tmp_path, labels=np.where(Y == 2, np.nan, Y))
    with pytest.raises(
        DataError, match=r"labels.npy: labels: expected integers 0 .. K - 1, got float64, NaN for image 2"
    ):
        read_npy(tmp_path / "images.npy")


# ---- HDF5 -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hdf5(tmp_path):
    """A function that writes an HDF5 file of these keys and opens it."""
    h5py = pytest.importorskip("h5py", reason="needs h5py")

    def make(**keys):
        path = tmp_path / "set.h5"
        with h5py.File(path, "w") as file:
            for key, value in keys.items():
                if callable(value):
                    value(file, key)
                elif isinstance(value, np.ndarray) and value.ndim > 1:
                    file.create_dataset(key, data=value, chunks=(2, *value.shape[1:]), compression="gzip")
                else:
                    file[key] = value
        return path

    return make


def test_hdf5(hdf5):
    splits = load(hdf5(images=np.moveaxis(X, 1, 3), labels=Y, classes=["a", "b", "c", "d", "e"], more=1))
    held = np.arange(23) % 5 == 4
    assert splits.train.classes == ("a", "b", "c", "d", "e")
    np.testing.assert_array_equal(splits.train.read(np.arange(19)), X[~held])
    chosen = np.array([5, 4, 9, 6, 1])
    np.testing.assert_array_equal(splits.train.read(chosen), X[~held][chosen])
    expected = list(Batches(splits.train, 4, seed=1))
    for (x, y), (u, v) in zip(Batches(splits.train, 4, seed=1, workers=3), expected, strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)


def test_hdf5_in_two_parts(hdf5):
    splits = read_hdf5(hdf5(x_train=X / 255, y_train=Y, x_test=X[:2] / 255, y_test=Y[:2]))
    assert [len(part) for part in splits] == [23, 2]
    assert not splits.train.is_bytes
    assert splits.test.num_classes == 4


def test_hdf5_after_a_fork(hdf5):
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from xpconv.data import Batches, load
train = load(sys.argv[1]).train
expected = [x.tobytes() for x, _ in Batches(train, 4, workers=2)]
child = os.fork()
got = [x.tobytes() for x, _ in Batches(train, 4, workers=2)]
if child == 0:
    os._exit(0 if got == expected else 7)
assert got == expected
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script, str(hdf5(images=X, labels=Y))], check=True, timeout=60)


def external(file, key):
    file.create_dataset(key, (23, 6, 5), "u1", external=[("/etc/hostname", 0, 690)])


def link(file, key):
    import h5py

    file[key] = h5py.ExternalLink("other.h5", "images")


def soft(file, key):
    import h5py

    file[key] = h5py.SoftLink("/elsewhere")


def virtual(file, key):
    import h5py

    layout = h5py.VirtualLayout((23, 6, 5), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "images", (23, 6, 5))
    file.create_virtual_dataset(key, layout)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"pixels": X}, "expected the keys images, labels; or .* got pixels"),
        ({"images": external, "labels": Y}, "the numbers of images are in other files; refused"),
        ({"images": virtual, "labels": Y}, "the numbers of images are in other files; refused"),
        ({"images": link, "labels": Y}, "images is a link; refused"),
        ({"images": X, "labels": soft}, "labels is a link; refused"),
        ({"images": lambda f, key: f.create_group(key), "labels": Y}, "images: expected an array, got Group"),
        (
            {"images": lambda f, key: f.create_dataset(key, (10**12, 8, 8), "u1", chunks=(1, 8, 8)), "labels": Y},
            r"images: expected 64000000000000 bytes for shape \(1000000000000, 8, 8\), in a file of",
        ),
        ({"images": X, "labels": Y[:-1]}, "labels: labels: expected 23, one for each image, got 22"),
        ({"images": X, "labels": ["cat"] * 23}, "labels: labels: expected integers 0 .. K - 1, got object"),
        ({"images": X, "labels": Y / 2}, "labels: labels: expected integers 0 .. K - 1, got float64"),
        ({"images": X, "labels": Y, "classes": ["a"]}, "labels: labels: expected 0 to 0, got 3"),
        ({"images": X, "labels": Y, "classes": np.arange(9)}, "expected an HDF5 file of images and labels"),
    ],
)
def test_bad_hdf5(hdf5, keys, message):
    with pytest.raises(DataError, match=f"set.h5: {message}"):
        read_hdf5(hdf5(**keys))


def test_damaged_hdf5(hdf5, tmp_path):
    path = hdf5(images=X, labels=Y)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", content[:8], b"text"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"set.h5: expected an HDF5 file"):
            read_hdf5(path)
    with pytest.raises(DataError, match=r"gone.h5: no such file"):
        read_hdf5(tmp_path / "gone.h5")


@pytest.mark.parametrize("name", ["x_images.npy", "x_labels.npy"])
def test_pipes_are_not_waited_for(tmp_path, name):
    np.save(tmp_path / "x_images.npy", np.zeros((10, 1, 4, 4), np.uint8))
    np.save(tmp_path / "x_labels.npy", np.arange(10) % 2)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}: expected .* or a pipe"):
        load(tmp_path / "x_images.npy", labels=tmp_path / "x_labels.npy")
