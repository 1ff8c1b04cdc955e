import numpy as np
import pytest

from xpconv.data import ArrayDataset, DataError


def images(n=6, c=2, h=4, w=5, dtype=np.uint8):
    return np.arange(n * c * h * w).reshape(n, c, h, w).astype(dtype)


def test_it_keeps_the_images_without_a_copy():
    x = images()
    dataset = ArrayDataset(x, [0, 1, 2, 0, 1, 2], name="six")
    assert np.shares_memory(dataset.images, x)
    assert len(dataset) == 6
    assert dataset.image_shape == (2, 4, 5)
    assert (dataset.num_classes, dataset.classes) == (3, ("0", "1", "2"))
    assert dataset.labels.dtype == np.int64
    assert repr(dataset) == "<ArrayDataset six: 6 images 2x4x5, 3 classes>"


def test_labels_are_a_copy():
    labels = np.array([0, 1])
    dataset = ArrayDataset(images(2), labels)
    labels[0] = 9
    assert dataset.labels.tolist() == [0, 1]


def test_one_image_and_slices():
    x = images()
    dataset = ArrayDataset(x, [0, 1, 2, 0, 1, 2], classes=("a", "b", "c", "d"), name="six")
    image, label = dataset[4]
    np.testing.assert_array_equal(image, x[4])
    assert label == 1
    part = dataset[1:3]
    assert np.shares_memory(part.images, x)
    assert (len(part), part.labels.tolist(), part.classes, part.name) == (2, [1, 2], ("a", "b", "c", "d"), "six")


@pytest.mark.parametrize("chosen", [[4, 0], np.array([4, 0])])
def test_subset_by_numbers(chosen):
    dataset = ArrayDataset(images(), [0, 1, 2, 0, 1, 2])
    part = dataset.subset(chosen)
    np.testing.assert_array_equal(part.images, dataset.images[[4, 0]])
    assert part.labels.tolist() == [1, 0]
    assert part.num_classes == 3


def test_subset_by_booleans():
    dataset = ArrayDataset(images(), [0, 1, 2, 0, 1, 2])
    assert dataset.subset(dataset.labels == 2).labels.tolist() == [2, 2]


@pytest.mark.parametrize("chosen", [slice(3, 3), [], 2, np.zeros(6, bool)])
def test_a_subset_has_at_least_one_image(chosen):
    with pytest.raises((ValueError, IndexError), match=r"indices|integer"):
        ArrayDataset(images(), [0, 1, 2, 0, 1, 2]).subset(chosen)


def test_foreign_byte_order_becomes_native():
    dataset = ArrayDataset(images(dtype=">f4"), range(6))
    assert dataset.images.dtype.isnative
    np.testing.assert_array_equal(dataset.images, images())


def test_a_memory_map_stays_on_disk(tmp_path):
    np.save(tmp_path / "x.npy", images())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    dataset = ArrayDataset(mapped, range(6))
    assert np.shares_memory(dataset.images, mapped)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (images()[0], ValueError, r"images: expected 4 dimensions \(N, C, H, W\), got 3 .*images\[:, None\]"),
        (images().ravel(), ValueError, r"images: expected 4 dimensions .* got 1 with shape \(240,\)"),
        (images()[:0], ValueError, r"images: the set is empty, shape \(0, 2, 4, 5\)"),
        (images(c=0), ValueError, "images: the set is empty"),
        (images(dtype=np.int64), TypeError, "images: expected uint8 or floating-point, got int64"),
        (images(dtype=bool), TypeError, "images: expected uint8 or floating-point, got bool"),
        (images().tolist(), TypeError, "images: expected a numpy.ndarray, got list"),
        (np.ma.masked_equal(images(), 0), TypeError, "images: expected a numpy.ndarray, got MaskedArray"),
        (np.where(images() == 90, np.nan, 1.0), ValueError, "images: image 2 has a NaN or an infinite value"),
        (np.where(images() == 90, -np.inf, 1.0), ValueError, "images: image 2 has a NaN or an infinite value"),
    ],
)
def test_bad_images(x, error, message):
    with pytest.raises(error, match=message):
        ArrayDataset(x, [0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 1, 2], ValueError, "labels: expected 6, one for each image, got 3"),
        (np.zeros((6, 1), int), ValueError, r"labels: expected 1 dimension \(N,\), got 2 with shape \(6, 1\)"),
        (np.array([0, 1, np.nan, 0, 1, 2]), TypeError, "labels: expected integers .* got float64, NaN for image 2"),
        (np.arange(6.0), TypeError, "labels: expected integers .* got float64$"),
        (["cat"] * 6, TypeError, "labels: expected integers"),
        (np.ones(6, bool), TypeError, "labels: expected integers .* got bool"),
        ([0, 1, -1, 0, 1, 2], ValueError, "labels: expected 0 .. K - 1, got -1 for image 2"),
        ([0, 1, 4, 0, 1, 2], ValueError, "labels: expected 0 to 2, got 4 for image 2"),
        (np.array([0, 1, 2**63, 0, 1, 2], np.uint64), ValueError, f"expected 0 .. K - 1, got {2**63} for image 2"),
        (iter([0]), TypeError, "labels: expected a numpy.ndarray or a sequence"),
    ],
)
def test_bad_labels(labels, error, message):
    with pytest.raises(error, match=message):
        ArrayDataset(images(), labels, classes=("a", "b", "c"))


def test_bad_classes():
    with pytest.raises(TypeError, match="classes: expected a sequence of names"):
        ArrayDataset(images(1), [0], classes="abc")


def test_a_stray_label_makes_no_million_classes():
    with pytest.raises(DataError, match=r"labels: .*got 1000000000 for image 1, .*make 1000000001 classes"):
        ArrayDataset(images(3), [0, 10**9, 1])
    assert ArrayDataset(images(2), [0, 65535]).num_classes == 65536
    with pytest.raises(ValueError, match=r"labels: expected 0 to 1, got 1000000000 for image 1"):
        ArrayDataset(images(3), [0, 10**9, 1], classes=("a", "b"))
