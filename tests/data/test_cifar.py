import io
import os
import pickle
import pickletools
import tarfile
import tracemalloc

import numpy as np
import pytest

from xpconv.data import DataError, load, read_cifar10_binary, read_cifar10_python

RNG = np.random.default_rng(8)
BINARY = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
PYTHON = [name.removesuffix(".bin") for name in BINARY]
PIXELS = [RNG.integers(0, 256, (4, 3072), dtype=np.uint8) for _ in BINARY]
LABELS = [RNG.integers(0, 10, 4).tolist() for _ in BINARY]


def binary_file(k):
    return np.concatenate([np.array(LABELS[k], np.uint8)[:, None], PIXELS[k]], axis=1).tobytes()


def python_file(k, protocol=2):
    batch = {b"data": PIXELS[k], b"labels": LABELS[k], b"batch_label": b"batch", b"filenames": [b"a.png"] * 4}
    return pickle.dumps(batch, protocol=protocol)


def python2_file(k):
    """The pickle as Python 2 and NumPy 1 wrote the published files: short strings, old module names."""
    pixels = PIXELS[k].tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
        b"(I1\n(I4\nI3072\ntcnumpy\ndtype\n(U\x02u1I0\nI1\ntR(I3\nU\x01|NNNI-1\nI-1\nI0\ntb"
        b"I00\nT" + len(pixels).to_bytes(4, "little") + pixels + b"tb"
    )
    labels = b"(l" + b"".join(b"I%d\na" % label for label in LABELS[k])
    return b"\x80\x02}U\x04data" + array + b"sU\x06labels" + labels + b"s."


def write(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def archive(path, contents, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def check(splits):
    for part, chosen in (splits.train, range(5)), (splits.test, [5]):
        expected = np.concatenate([PIXELS[k] for k in chosen]).reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(part.images, expected)
        assert part.labels.tolist() == [label for k in chosen for label in LABELS[k]]
        assert part.images.dtype == np.uint8
        assert part.num_classes == 10
        assert part.classes[3] == "cat"
        assert part.name == "cifar10"


BIN_FILES = {name: binary_file(k) for k, name in enumerate(BINARY)}
PY_FILES = {name: python_file(k) for k, name in enumerate(PYTHON)}


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_binary_folder(tmp_path, below):
    write(tmp_path / below, BIN_FILES)
    check(read_cifar10_binary(tmp_path))
    check(load(tmp_path))


@pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
@pytest.mark.parametrize("make", [python_file, python2_file, lambda k: python_file(k, 5), lambda k: python_file(k, 0)])
def test_python_folder(tmp_path, below, make):
    write(tmp_path / below, {name: make(k) for k, name in enumerate(PYTHON)})
    check(read_cifar10_python(tmp_path))
    check(load(tmp_path))


def test_text_keys_and_columns_first(tmp_path):
    files = {
        name: pickle.dumps({"data": np.asfortranarray(PIXELS[k]), "labels": LABELS[k]}) for k, name in enumerate(PYTHON)
    }
    check(read_cifar10_python(write(tmp_path, files)))


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_archives(tmp_path, mode):
    path = archive(
        tmp_path / "cifar-10-binary.tar.gz", {f"cifar-10-batches-bin/{n}": c for n, c in BIN_FILES.items()}, mode
    )
    check(read_cifar10_binary(path))
    check(load(path))
    path = archive(
        tmp_path / "cifar-10-python.tar.gz", {f"./cifar-10-batches-py/{n}": c for n, c in PY_FILES.items()}, mode
    )
    check(read_cifar10_python(path))
    check(load(path))
    assert sorted(os.listdir(tmp_path)) == ["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"]


@pytest.mark.parametrize("name", [BINARY[2], BINARY[5]])
def test_missing_file(tmp_path, name):
    write(tmp_path, BIN_FILES)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"missing are {name}$"):
        read_cifar10_binary(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected records of 3073 bytes .* got 0 bytes"),
        (binary_file(0)[:-1], "expected records of 3073 bytes .* got 12291 bytes"),
        (binary_file(0)[: 3073 * 2] + b"\x0a" + bytes(3072), "image 2: expected a label of 0 to 9, got 10"),
    ],
)
def test_bad_binary_files(tmp_path, content, message):
    write(tmp_path, {**BIN_FILES, BINARY[3]: content})
    with pytest.raises(DataError, match=rf"{BINARY[3]}: {message}"):
        read_cifar10_binary(tmp_path)


def batch(**changes):
    return pickle.dumps({b"data": PIXELS[0], b"labels": LABELS[0], **{k.encode(): v for k, v in changes.items()}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged pickle: EOFError"),
        (b"not a pickle", "damaged pickle"),
        (python_file(0)[:5000], "damaged pickle"),
        (pickle.dumps([1, 2]), "expected a pickled dictionary, got list"),
        (pickle.dumps({b"data": PIXELS[0]}), "expected the keys data and labels, missing are labels"),
        (batch(labels=LABELS[0][:3]), "labels: expected 4, one for each image, got 3"),
        (batch(labels=[0, 1, 2, 10]), "image 3: expected a label of 0 to 9, got 10"),
        (batch(labels=[0, 1, 2, -1]), "image 3: expected a label of 0 to 9, got -1"),
        (batch(labels=[0, 1, 2, 0.5]), "labels: expected a list of integers"),
        (batch(data=PIXELS[0][:, :-1]), r"data: expected a uint8 array .* got shape \(4, 3071\)"),
        (batch(data=PIXELS[0][0]), r"data: expected a uint8 array .* got shape \(3072,\)"),
        (batch(data=b"pixels"), "data: expected a uint8 array .* got no array"),
        (batch(data=PIXELS[0].astype(float)), "expected pixels of dtype uint8, got 'f8'"),
        (batch(data=np.array([None])), "expected pixels of dtype uint8, got 'O8'"),
    ],
)
def test_bad_python_files(tmp_path, content, message):
    write(tmp_path, {**PY_FILES, PYTHON[1]: content})
    with pytest.raises(DataError, match=rf"{PYTHON[1]}: {message}"):
        read_cifar10_python(tmp_path)


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "refused"),
    [
        (os.system, ("touch sprung",), "system"),
        (eval, ("open('sprung', 'w')",), "builtins.eval"),
        (getattr, (os, "getcwd"), "builtins.getattr"),
        (np.fromfile, ("sprung",), "numpy.fromfile"),
        (np.load, ("sprung",), "numpy.load"),
        (bytearray, (10**12,), "builtins.bytearray"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_by_name_and_not_run(
    tmp_path, monkeypatch, function, arguments, refused, protocol
):
    monkeypatch.chdir(tmp_path)
    if function is getattr:
        arguments = ("text", "upper")
    evil = pickle.dumps({b"data": PIXELS[0], b"labels": LABELS[0], b"x": Call(function, *arguments)}, protocol=protocol)
    assert any(op.name == "REDUCE" for op, _, _ in pickletools.genops(evil))
    write(tmp_path, {**PY_FILES, PYTHON[0]: evil})
    name = refused.replace("builtins", "(builtins|__builtin__)")
    with pytest.raises(DataError, match=f"data_batch_1: refused [a-z_.]*{name}: "):
        read_cifar10_python(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_cannot_change_the_reader(tmp_path):
    """BUILD sets attributes on what a name stands for; that must not last."""
    evil = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x0c__defaults__(K\x01K\x02K\x03ts\x86b."
    write(tmp_path, {**PY_FILES, PYTHON[0]: evil})
    with pytest.raises(DataError, match="data_batch_1"):
        read_cifar10_python(tmp_path)
    evil = b"\x80\x02cnumpy\nndarray\nN}U\x05arrayK\x01s\x86b."
    write(tmp_path, {PYTHON[0]: evil})
    with pytest.raises(DataError, match="data_batch_1: damaged"):
        read_cifar10_python(tmp_path)
    check(read_cifar10_python(write(tmp_path, PY_FILES)))


def test_members_outside_the_folder_are_ignored(tmp_path):
    contents = {f"../cifar-10-batches-bin/{n}": c for n, c in BIN_FILES.items()}
    contents |= {f"/cifar-10-batches-bin/{n}": c for n, c in BIN_FILES.items()}
    contents |= {f"cifar-10-batches-bin/../{n}": c for n, c in BIN_FILES.items()}
    inner = tmp_path / "inner"
    inner.mkdir()
    path = archive(inner / "a.tar.gz", contents)
    with pytest.raises(DataError, match=r"missing are data_batch_1.bin, data_batch_2.bin"):
        read_cifar10_binary(path)
    assert os.listdir(tmp_path) == ["inner"]
    assert os.listdir(inner) == ["a.tar.gz"]


def test_links_in_an_archive_are_not_followed(tmp_path):
    write(tmp_path, {"secret": binary_file(0)})
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for k, name in enumerate(BINARY):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            if k == 0:
                member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
                tar.addfile(member)
            else:
                member.size = len(binary_file(k))
                tar.addfile(member, io.BytesIO(binary_file(k)))
    with pytest.raises(DataError, match=r"missing are data_batch_1.bin$"):
        read_cifar10_binary(path)


def test_a_member_too_large_is_not_read(tmp_path):
    member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    member.size = 10**12
    (tmp_path / "a.tar").write_bytes(member.tobuf() + bytes(10240))
    with pytest.raises(DataError, match="at most 67108864 bytes, got 1000000000000"):
        read_cifar10_binary(tmp_path / "a.tar")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_truncated_archives(tmp_path, mode, share):
    path = archive(tmp_path / "a.tar.gz", {f"cifar-10-batches-bin/{n}": c for n, c in BIN_FILES.items()}, mode)
    whole = path.read_bytes()
    if mode == "w":
        whole = whole.rstrip(b"\0")
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"a.tar.gz: "):
        read_cifar10_binary(path)


def test_not_an_archive(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"<html>" * 1000)
    with pytest.raises(DataError, match=r"a.tar.gz: expected a tar archive with cifar-10-batches-bin/data_batch_1.bin"):
        read_cifar10_binary(tmp_path / "a.tar.gz")


# ---- files that would take more memory than they have bytes ------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr\x00\x00\x00\x08.",  # a memo of 2**27 places
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",  # a bytearray of a terabyte
        pickle.dumps({"\udc80": 1}, protocol=2),
        pickle.dumps({b"data": 1, b"labels": [1 << 40_000]}, protocol=2),
    ],
    ids=["memo", "bytearray", "surrogate", "long"],
)
def test_pickles_that_promise_much(tmp_path, content):
    write(tmp_path, dict.fromkeys(PYTHON, content))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"data_batch_1: "):
        read_cifar10_python(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


def test_labels_of_any_length_are_refused(tmp_path):
    batch = {b"data": PIXELS[0], b"labels": [1 << 40_000] * len(PIXELS[0])}
    write(tmp_path, {name: pickle.dumps(batch, protocol=2) for name in PYTHON})
    with pytest.raises(DataError, match=r"data_batch_1: labels: expected a list of integers"):
        read_cifar10_python(tmp_path)


def test_files_too_large_for_a_batch(tmp_path):
    write(tmp_path, dict.fromkeys(BINARY, b""))
    os.truncate(tmp_path / BINARY[0], 1 << 30)  # sparse
    with pytest.raises(DataError, match=r"data_batch_1\.bin: expected a CIFAR-10 file of at most 67108864 bytes, got"):
        read_cifar10_binary(tmp_path)


def test_headers_too_large_for_an_archive(tmp_path):
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 33
    path = tmp_path / "cifar-10-binary.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match=r"tar: expected headers of at most 1048576 bytes, got 8589934592"):
        read_cifar10_binary(path)
