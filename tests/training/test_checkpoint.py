import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import xpconv
from xpconv import _files
from xpconv.training import CheckpointError, checkpoint, read_checkpoint, write_checkpoint

ARRAYS = {
    "w": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "double": np.array([0.1, -0.0, np.pi]),
    "count": np.array(7, dtype=np.int64),
    "nothing": np.zeros((0, 3), dtype=np.float32),
}
STATE = {"step": 12, "sum": 0.1 + 0.2, "history": [{"loss": 1e-300}], "best": None}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "net.safetensors"
    write_checkpoint(path, ARRAYS, STATE)
    return path


def assert_is_whole(path):
    arrays, state = read_checkpoint(path)
    assert state == STATE
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()


def test_everything_comes_back_exactly(saved):
    assert_is_whole(saved)


def test_others_can_read_it(saved):
    np.testing.assert_array_equal(safetensors.numpy.load_file(saved)["w"], ARRAYS["w"])


def test_arrays_of_any_backend_and_any_strides(on, tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    array = on.asarray(values)
    xp = xpconv.get_backend().xp
    write_checkpoint(tmp_path / "c", {"plain": array, "turned": xp.permute_dims(array, (1, 0))}, {})
    arrays = read_checkpoint(tmp_path / "c").arrays
    np.testing.assert_array_equal(arrays["plain"], values)
    np.testing.assert_array_equal(arrays["turned"], values.T)


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_checkpoint(tmp_path / "c", ARRAYS, STATE)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path, saved):
    link = tmp_path / "link"
    link.symlink_to(saved)
    write_checkpoint(link, {"other": np.zeros(2)}, {"step": 13})
    assert link.is_symlink()
    assert read_checkpoint(saved).state == {"step": 13}


# ---- writing that fails -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "number", "match"),
    [
        ("write", errno.ENOSPC, "No space left"),
        ("fsync", errno.EIO, "Input/output"),
        ("replace", errno.EACCES, "Permission denied"),
        ("open", errno.EROFS, "Read-only"),
    ],
)
def test_a_failing_system_call_leaves_the_earlier_file(saved, monkeypatch, function, number, match):
    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(_files.os, function, fail)
        with pytest.raises(CheckpointError, match=match):
            write_checkpoint(saved, {"w": np.ones(1000)}, {"step": 99})
    assert_is_whole(saved)
    assert os.listdir(saved.parent) == [saved.name]


def test_space_that_ends_in_the_middle(saved, monkeypatch):
    written = []

    def write_some(descriptor, chunk, write=os.write):
        if sum(written) > 3000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(write(descriptor, chunk[:1500]))
        return written[-1]

    with monkeypatch.context() as patch:
        patch.setattr(_files.os, "write", write_some)
        with pytest.raises(CheckpointError, match="No space left"):
            write_checkpoint(saved, {"w": np.ones(1000)}, {"step": 99})
    assert sum(written) > 3000
    assert_is_whole(saved)
    assert os.listdir(saved.parent) == [saved.name]


def test_short_writes_are_completed(saved, monkeypatch):
    monkeypatch.setattr(_files.os, "write", lambda d, chunk, write=os.write: write(d, chunk[:100]))
    write_checkpoint(saved, ARRAYS, STATE)
    assert_is_whole(saved)


def test_a_limit_of_the_system_on_file_size(saved):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(CheckpointError, match="File too large") as caught:
            write_checkpoint(saved, {"w": np.ones(1000)}, {"step": 99})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert str(saved) in str(caught.value)
    assert_is_whole(saved)
    assert os.listdir(saved.parent) == [saved.name]


def test_an_interrupt_while_writing(saved, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_files.os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(saved, {"w": np.ones(1000)}, {"step": 99})
    assert_is_whole(saved)
    assert os.listdir(saved.parent) == [saved.name]


def test_killed_while_writing(saved):
    program = (
        "import os, signal, sys, numpy as np\n"
        "from xpconv.training import write_checkpoint\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_checkpoint(sys.argv[1], {'w': np.ones(1000)}, {'step': 99})\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(saved)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert_is_whole(saved)


def test_unwritable_folder():
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:  # not below pytest's own, which others may not enter
        path = Path(folder, "net")
        write_checkpoint(path, ARRAYS, STATE)
        os.chmod(folder, 0o555)
        if root:
            os.seteuid(65534)  # root may write everywhere
        try:
            with pytest.raises(CheckpointError, match=f"{path}: cannot write the checkpoint: Permission denied"):
                write_checkpoint(path, {"w": np.ones(1000)}, {"step": 99})
            assert_is_whole(path)
        finally:
            if root:
                os.seteuid(0)
            os.chmod(folder, 0o755)
        assert os.listdir(folder) == ["net"]


@pytest.mark.parametrize(
    ("target", "match"),
    [("missing/net", "No such file"), ("net.safetensors/net", "Not a directory"), ("folder", "Is a directory")],
)
def test_impossible_places(saved, tmp_path, target, match):
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=match) as caught:
        write_checkpoint(tmp_path / target, ARRAYS, STATE)
    assert target in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["folder", "net.safetensors"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_device_that_is_always_full():
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "wb", buffering=0) as full:
        _files._write_all(full.fileno(), b"x")


# ---- files that are not whole -----------------------------------------------------------------------------------


def test_truncated_at_any_length(saved):
    contents = saved.read_bytes()
    for length in (0, 1, 7, 8, 9, 40, 200, len(contents) // 2, len(contents) - 8, len(contents) - 1):
        saved.write_bytes(contents[:length])
        with pytest.raises(CheckpointError, match=saved.name):
            read_checkpoint(saved)


def test_longer_than_it_should_be(saved):
    saved.write_bytes(saved.read_bytes() + b"\0" * 8)
    with pytest.raises(CheckpointError, match=saved.name):
        read_checkpoint(saved)


def test_no_flipped_bit_goes_unnoticed(saved):
    """Every byte of the file, one bit each: an error, or exactly what was written (spaces that fill up the header)."""
    contents = bytearray(saved.read_bytes())
    unnoticed = 0
    for index in range(len(contents)):
        bit = 1 << index % 8
        contents[index] ^= bit
        saved.write_bytes(contents)
        contents[index] ^= bit
        try:
            read_checkpoint(saved)
        except CheckpointError:
            continue
        assert_is_whole(saved)
        unnoticed += 1
    assert unnoticed < 8


def test_missing(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere: cannot read the checkpoint: No such file"):
        read_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("contents", [b"", b"hello", b"\x80\x04K\x01.", os.urandom(300), b"PK\x03\x04" + b"\0" * 60])
def test_other_kinds_of_files(tmp_path, contents):
    (tmp_path / "c").write_bytes(contents)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_checkpoint(tmp_path / "c")


def test_safetensors_of_somebody_else(tmp_path):
    safetensors.numpy.save_file({"w": np.ones(3)}, tmp_path / "c", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not a checkpoint of xpconv"):
        read_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("text", ["[1]", '"kind"', "{", "[" * 100_000])
def test_a_state_that_is_no_mapping(saved, text):
    metadata = {"xpconv.version": "1", "xpconv.state": text, "xpconv.checksum": checkpoint._checksum(text, ARRAYS)}
    safetensors.numpy.save_file(ARRAYS, saved, metadata=metadata)
    with pytest.raises(CheckpointError, match="its training state"):
        read_checkpoint(saved)


def test_newer_format(saved):
    contents = saved.read_bytes()
    metadata = json.loads(contents[8 : 8 + int.from_bytes(contents[:8], "little")])["__metadata__"]
    safetensors.numpy.save_file(ARRAYS, saved, metadata={**metadata, "xpconv.version": "2"})
    with pytest.raises(CheckpointError, match=r"checkpoint format 2, .* reads format 1"):
        read_checkpoint(saved)
