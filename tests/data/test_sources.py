import gzip
import hashlib
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from xpconv.data import DataError, data_sets, load, read_idx, sources

FASHION = "fashion-mnist"
SYSTEM_FOLDERS = sources._system_folders


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """No folder of this machine is looked at, and no server is asked."""
    monkeypatch.delenv("XPCONV_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "_system_folders", lambda: [tmp_path / "system1", tmp_path / "system2"])
    for name, source in sources._SOURCES.items():
        monkeypatch.setitem(sources._SOURCES, name, source._replace(url="http://127.0.0.1:9/"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def small(small_idx, monkeypatch):
    """Fashion-MNIST is the small set."""
    source = sources._SOURCES[FASHION]._replace(sha256=small_idx.sha256)
    monkeypatch.setitem(sources._SOURCES, FASHION, source)
    return small_idx


@pytest.fixture
def online(small, server, monkeypatch):
    monkeypatch.setitem(sources._SOURCES, FASHION, sources._SOURCES[FASHION]._replace(url=server.url))
    server.files = dict(small.packed)
    return server


# ---- where sets are found ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_data_dir(small, tmp_path, below, packed):
    small.write(tmp_path / "data" / below, packed)
    splits = load(FASHION, tmp_path / "data")
    small.check(splits)
    assert splits.train.name == splits.test.name == FASHION
    assert splits.train.classes[9] == "Ankle boot"


def test_names_with_dots(small, tmp_path):
    small.write(tmp_path)
    for path in list(tmp_path.glob("*.gz")):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    small.check(load(FASHION, tmp_path))


def test_the_order_of_the_search(small, tmp_path, monkeypatch):
    """Each place in turn holds files with a wrong last label, so that the message tells which was read."""
    monkeypatch.setenv("XPCONV_DATA", str(tmp_path / "env"))
    places = [
        tmp_path / "env" / FASHION,
        tmp_path / "env",
        tmp_path / "system1" / FASHION,
        tmp_path / "system2" / FASHION,
        tmp_path / "cache" / "xpconv" / "datasets" / FASHION,
    ]
    for place in places[::-1]:
        small.write(place, packed=False)
        labels = place / "t10k-labels-idx1-ubyte"
        labels.write_bytes(labels.read_bytes()[:-1] + b"\0")
        with pytest.raises(DataError, match=f"^{labels}: SHA-256 of the decompressed file: expected"):
            load(FASHION)
    small.write(tmp_path / "data")
    small.check(load(FASHION, tmp_path / "data"))


def test_an_incomplete_folder_is_passed_over(small, tmp_path, monkeypatch):
    monkeypatch.setenv("XPCONV_DATA", str(tmp_path / "env"))
    small.write(tmp_path / "env")
    (tmp_path / "env" / "t10k-labels-idx1-ubyte.gz").unlink()
    small.write(tmp_path / "system2" / FASHION)
    small.check(load(FASHION))


def test_a_folder_that_cannot_be_looked_into_is_passed_over(small, tmp_path, monkeypatch):
    monkeypatch.setenv("XPCONV_DATA", "x" * 300)  # a name too long is an error of every system call
    with pytest.raises(DataError, match=r"x{300}/fashion-mnist: no such folder"):
        load(FASHION, download=False)
    small.write(tmp_path / "system1" / FASHION)
    small.check(load(FASHION))


def test_the_home_folder_is_the_default_cache(small, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative is ignored")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    small.write(tmp_path / "home" / ".cache" / "xpconv" / "datasets" / FASHION)
    small.check(load(FASHION))


def test_without_a_home_there_is_no_cache(small, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_cache", lambda: None)
    with pytest.raises(DataError, match="fashion-mnist: not found"):
        load(FASHION)
    small.write(tmp_path / "system1" / FASHION)
    small.check(load(FASHION))


def test_the_system_folders():
    prefix = Path(sys.prefix, "share", "datasets")
    assert SYSTEM_FOLDERS() in (
        [Path("/usr/local/share/datasets"), Path("/usr/share/datasets"), prefix],
        [Path("/usr/local/share/datasets"), Path("/usr/share/datasets")],  # a Python of the system
    )
    assert prefix in SYSTEM_FOLDERS()


def test_data_dir_given_means_only_there(online, small, tmp_path, monkeypatch):
    small.write(tmp_path / "env")
    monkeypatch.setenv("XPCONV_DATA", str(tmp_path / "env"))
    data = small.write(tmp_path / "data")
    (data / "train-labels-idx1-ubyte.gz").rename(data / "labels.gz")
    with pytest.raises(DataError, match=r"fashion-mnist: not found. Expected train-images-idx3-ubyte\[.gz\]") as error:
        load(FASHION, data)
    assert f"{data}: has labels.gz, t10k-images-idx3-ubyte.gz" in str(error.value)
    assert "download=True" in str(error.value)
    assert online.requests == []


def test_data_dir_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match=f"cifar10: not found.*(\n.*)*{tmp_path}/typo: no such folder"):
        load("cifar10", tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


# ---- downloads --------------------------------------------------------------------------------------------------


def test_a_download_goes_to_the_cache_and_is_found_there_later(online, small, tmp_path, capsys):
    small.check(load(FASHION))
    cache = tmp_path / "cache" / "xpconv" / "datasets" / FASHION
    assert sorted(path.name for path in cache.iterdir()) == sorted(small.packed)
    assert len(online.requests) == 4
    assert capsys.readouterr().err.count("downloading http://127.0.0.1") == 4
    small.check(load(FASHION))
    assert len(online.requests) == 4


def test_a_download_fetches_only_what_is_missing(online, small, tmp_path):
    cache = small.write(tmp_path / "cache" / "xpconv" / "datasets" / FASHION)
    (cache / "train-images-idx3-ubyte.gz").unlink()
    small.check(load(FASHION, progress=False))
    assert online.requests == [("train-images-idx3-ubyte.gz", None)]


@pytest.mark.parametrize("folder", ["data", "data/fashion-mnist"])
def test_a_download_into_data_dir(online, small, tmp_path, folder):
    small.check(load(FASHION, tmp_path / folder, download=True, progress=False))
    assert len(list((tmp_path / "data" / "fashion-mnist").iterdir())) == 4
    small.check(load(FASHION, tmp_path / "data"))


def test_no_download_if_it_is_forbidden(online):
    with pytest.raises(DataError, match="fashion-mnist: not found"):
        load(FASHION, download=False)
    assert online.requests == []


def test_the_hash_is_of_what_was_packed(online, small):
    online.files["t10k-labels-idx1-ubyte.gz"] = gzip.compress(small.content["t10k-labels-idx1-ubyte"], 1, mtime=7)
    small.check(load(FASHION, progress=False))


@pytest.mark.parametrize(
    "wrong",
    [gzip.compress(b"other", mtime=0), b"<html>not found</html>", b"\x1f\x8b broken"],
    ids=["other content", "a page", "broken gzip"],
)
def test_a_wrong_file_is_not_kept(online, small, tmp_path, wrong):
    good, online.files["t10k-labels-idx1-ubyte.gz"] = online.files["t10k-labels-idx1-ubyte.gz"], wrong
    with pytest.raises(DataError, match=r"and the download failed: .*t10k-labels-idx1-ubyte"):
        load(FASHION, progress=False)
    cache = tmp_path / "cache" / "xpconv" / "datasets" / FASHION
    assert sorted(path.name for path in cache.iterdir()) == sorted(set(small.packed) - {"t10k-labels-idx1-ubyte.gz"})
    online.files["t10k-labels-idx1-ubyte.gz"] = good
    small.check(load(FASHION, progress=False))


def test_without_a_network_the_message_says_where_it_looked_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XPCONV_DATA", str(tmp_path / "env"))
    with pytest.raises(DataError, match=r"the download failed: http://127.0.0.1:9/train-images") as error:
        load(FASHION, progress=False)
    message = str(error.value)
    for place in ("env", "env/fashion-mnist", "system1/fashion-mnist", "cache/xpconv/datasets/fashion-mnist"):
        assert f"  {tmp_path}/{place}: " in message
    assert "XPCONV_DATA" in message
    assert "dataset-fashion-mnist" in message
    assert "'fashion-mnist-small' comes with xpconv" in message


def cifar_archive(path):
    with tarfile.open(path, "w:gz") as tar:
        for k, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
            (path.parent / name).write_bytes(bytes([k]) * 3073)
            tar.add(path.parent / name, f"cifar-10-batches-bin/{name}")
            (path.parent / name).unlink()
    return path


def test_cifar_is_downloaded_checked_and_read_from_the_archive(server, tmp_path, monkeypatch):
    content = cifar_archive(tmp_path / "a.tar.gz").read_bytes()
    source = sources._SOURCES["cifar10"]._replace(url=server.url)
    monkeypatch.setitem(sources._SOURCES, "cifar10", source)
    server.files["cifar-10-binary.tar.gz"] = content
    with pytest.raises(
        DataError, match=rf"got {len(content)} bytes that are not the published ones: SHA-256: expected"
    ):
        load("cifar10", progress=False)
    sha256 = {"cifar-10-binary.tar.gz": hashlib.sha256(content).hexdigest()}
    monkeypatch.setitem(sources._SOURCES, "cifar10", source._replace(sha256=sha256))
    splits = load("cifar10", progress=False)
    assert splits.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert splits.test.images.mean() == 5
    cache = tmp_path / "cache" / "xpconv" / "datasets" / "cifar10"
    assert [path.name for path in cache.iterdir()] == ["cifar-10-binary.tar.gz"]
    assert len(load("cifar10").train) == 5
    assert len(server.requests) == 2


def test_cifar_in_torchvisions_place(tmp_path):
    (tmp_path / "cifar-10-batches-bin").mkdir()
    with pytest.raises(DataError, match=r"missing are data_batch_1.bin"):
        load("cifar10", tmp_path)


# ---- paths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", ["t10k", "test"])
def test_a_folder_of_idx_files(small_idx, tmp_path, test):
    small_idx.write(tmp_path)
    for path in list(tmp_path.glob("t10k-*")):
        path.rename(path.with_name(path.name.replace("t10k", test)))
    splits = load(tmp_path)
    small_idx.check(splits)
    assert splits.train.name == ""
    assert splits.train.classes == splits.test.classes == tuple("0123456789")


def test_both_parts_of_a_folder_have_the_same_classes(small_idx, idx, tmp_path):
    small_idx.write(tmp_path, packed=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(20, np.uint8)))
    assert load(tmp_path).test.num_classes == 10


def test_colour_images_in_idx_files(small_idx, idx, tmp_path):
    small_idx.write(tmp_path, packed=False)
    for part, count in ("train", 50), ("t10k", 20):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(np.zeros((count, 3, 5, 4), np.uint8)))
    assert load(str(tmp_path)).test.image_shape == (3, 5, 4)


def test_counts_that_differ(small_idx, idx, tmp_path):
    small_idx.write(tmp_path, packed=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(49, np.uint8)))
    with pytest.raises(DataError, match="train-images-idx3-ubyte and train-labels-idx1-ubyte: labels: expected 50"):
        load(tmp_path)


def test_images_and_labels_exchanged(small_idx, idx, tmp_path):
    small_idx.write(tmp_path, packed=False)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(small_idx.content["train-labels-idx1-ubyte"])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte and .*: images: expected 4 dimensions"):
        load(tmp_path)


def test_labels_out_of_range(small, idx, tmp_path, monkeypatch):
    name, labels = "train-labels-idx1-ubyte", idx(np.arange(50, dtype=np.uint8))
    small.write(tmp_path, packed=False)
    (tmp_path / name).write_bytes(labels)
    sha256 = small.sha256 | {f"{name}.gz": hashlib.sha256(labels).hexdigest()}
    monkeypatch.setitem(sources._SOURCES, FASHION, sources._SOURCES[FASHION]._replace(sha256=sha256))
    with pytest.raises(DataError, match="labels: expected 0 to 9, got 49 for image 49"):
        load(FASHION, tmp_path)


def test_images_of_two_sizes(small_idx, idx, tmp_path):
    small_idx.write(tmp_path, packed=False)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((20, 4, 5), np.uint8)))
    with pytest.raises(DataError, match=r"images of \(1, 5, 4\) for training but of \(1, 4, 5\) for testing"):
        load(tmp_path)


def test_a_file(small_idx, tmp_path):
    np.savez(tmp_path / "set.npz", images=np.zeros((10, 5, 4), np.uint8), labels=np.arange(10))
    assert len(load(tmp_path / "set.npz").train) == 8
    (tmp_path / "readme").write_text("hello")
    with pytest.raises(DataError, match=r"readme: expected a .npz, .npy, .h5 or .csv file, an archive of CIFAR-10"):
        load(tmp_path / "readme")


def test_a_folder_with_something_else(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(
        DataError,
        match=r"data: expected a folder of images for each class, .* or CIFAR-10 .*; it has nothing",
    ):
        load(tmp_path / "data")
    (tmp_path / "data" / "cat.jpeg").touch()
    with pytest.raises(DataError, match=r"; it has cat.jpeg$"):
        load(tmp_path / "data")


def test_names_that_mean_nothing():
    with pytest.raises(ValueError, match="data set 'imagenet': no set, file or folder of that name"):
        load("imagenet")


def test_data_dir_where_it_has_no_meaning(tmp_path):
    with pytest.raises(ValueError, match="data_dir: is for the sets fashion-mnist, mnist, cifar10, not for the path"):
        load(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="data_dir: fashion-mnist-small is part of the package"):
        load("fashion-mnist-small", tmp_path)


def test_the_names_of_the_sets():
    assert data_sets() == ("fashion-mnist-small", "fashion-mnist", "mnist", "cifar10")


def test_read_idx_reads_what_load_reads(small, tmp_path):
    small.write(tmp_path)
    images = read_idx(tmp_path / "t10k-images-idx3-ubyte.gz")
    np.testing.assert_array_equal(load(FASHION, tmp_path).test.images[:, 0], images)
