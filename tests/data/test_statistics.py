import json

import numpy as np
import pytest

from xpconv.data import ArrayDataset, DataError, LazyDataset, class_weights, compute_statistics, standard_transform

X = np.random.default_rng(4).integers(0, 256, (2300, 3, 4, 5), dtype=np.uint8)  # more than two chunks
X[:, 1] //= 3
Y = np.arange(len(X)) % 4


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_of_all_pixels(dtype, workers):
    x = X.astype(dtype)
    found = compute_statistics(LazyDataset(x, Y), workers=workers)
    exact = x.astype(np.float64) / (255 if dtype == np.uint8 else 1)
    np.testing.assert_allclose(found.mean, exact.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.std, exact.std(axis=(0, 2, 3)), rtol=1e-12)
    assert (found.low, found.high) == (exact.min(), exact.max())
    assert found == compute_statistics(ArrayDataset(x, Y))


def test_a_large_mean_does_not_cancel():
    x = np.random.default_rng(0).normal(1e6, 1e-2, (1500, 1, 2, 2))
    np.testing.assert_allclose(compute_statistics(ArrayDataset(x, Y[:1500])).std, x.std(), rtol=1e-6)


def test_kept_in_a_file(tmp_path, monkeypatch):
    save = tmp_path / "images.npy"
    np.save(save, X)
    path = tmp_path / "kept.json"
    dataset = LazyDataset(np.load(save, mmap_mode="r"), Y)
    first = compute_statistics(dataset, keep_in=path)
    part = compute_statistics(dataset.subset(slice(0, 10)), keep_in=path)
    assert part != first
    with monkeypatch.context() as patched:
        patched.setattr(LazyDataset, "read", None)
        assert compute_statistics(dataset, keep_in=path) == first
        assert compute_statistics(dataset.subset(slice(0, 10)), keep_in=path) == part
    np.save(save, X[::-1] // 2)  # another file of that name
    changed = compute_statistics(LazyDataset(np.load(save, mmap_mode="r"), Y), keep_in=path)
    assert changed.mean[0] == pytest.approx(first.mean[0] / 2, rel=0.02)
    assert len(json.loads(path.read_text())["sets"]) == 3
    known = ArrayDataset(X, Y)
    kept = compute_statistics(known, keep_in=path)
    assert compute_statistics(ArrayDataset(X, Y), keep_in=path) == kept == first
    assert standard_transform(known, False, statistics=part).transforms[0].mean == part.mean


def test_parts_of_one_memory_map_are_kept_apart(tmp_path):
    np.save(tmp_path / "images.npy", X)
    whole, path = np.load(tmp_path / "images.npy", mmap_mode="r"), tmp_path / "kept.json"
    for part in (whole[:10], whole[10:20], whole[:20:2], whole[20:][:10]):
        found = compute_statistics(LazyDataset(part, Y[:10]), keep_in=path)
        assert found == compute_statistics(ArrayDataset(part, Y[:10]))
    assert len(json.loads(path.read_text())["sets"]) == 4


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff", b'{"format": "other"}', b'{"format": "xpconv statistics 1", "sets": {"a": 1}}'],
)
def test_a_file_of_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"mine.json: expected a file of xpconv statistics 1"):
        compute_statistics(ArrayDataset(X, Y), keep_in=path)
    assert path.read_bytes() == content


def test_class_weights_are_those_of_scikit_learn():
    labels = np.array([0] * 6 + [1] * 3 + [2])
    got = class_weights(labels)
    np.testing.assert_allclose(got, [10 / 18, 10 / 9, 10 / 3])
    np.testing.assert_allclose(got[labels].mean(), 1)
    weight = pytest.importorskip("sklearn.utils.class_weight", reason="needs scikit-learn")
    expected = weight.compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(got, expected)
    np.testing.assert_array_equal(class_weights(ArrayDataset(X[:10], labels)), got)
    with pytest.raises(ValueError, match="labels: class 1 has no images"):
        class_weights([0, 2])
    with pytest.raises(ValueError, match="labels: class 3 has no images"):
        class_weights(labels, 4)
    with pytest.raises(ValueError, match="labels: expected 0 to 1, got 2"):
        class_weights(labels, 2)
