import io
import resource
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from xpconv.data import DataError, download
from xpconv.data.download import fetch

CONTENT = np.random.default_rng(2).bytes(300_000)


def whole(path):
    if path.read_bytes() != CONTENT:
        raise DataError("wrong content")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new" / "folder" / "file"


def part_of(target, content=b""):
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name("file.part")
    if content:
        part.write_bytes(content)
    return part


def test_a_download(server, target):
    server.files["file"] = CONTENT
    fetch(server.url + "file", target, check=whole, progress=False)
    assert target.read_bytes() == CONTENT
    assert server.requests == [("file", None)]
    assert [p.name for p in target.parent.iterdir()] == ["file"]


def test_it_continues_what_is_there(server, target):
    server.files["file"] = CONTENT
    part_of(target, CONTENT[:1000])
    fetch(server.url + "file", target, check=whole, progress=False)
    assert target.read_bytes() == CONTENT
    assert server.requests == [("file", "bytes=1000-")]


def test_a_server_without_ranges_sends_it_all(server, target):
    server.files["file"], server.ranges = CONTENT, False
    part_of(target, CONTENT[:1000])
    fetch(server.url + "file", target, check=whole, progress=False)
    assert target.read_bytes() == CONTENT


def test_a_complete_part_needs_no_more_bytes(server, target):
    server.files["file"] = CONTENT
    part_of(target, CONTENT)
    fetch(server.url + "file", target, check=whole, progress=False)
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 1


@pytest.mark.parametrize("old", [b"an older version", b"longer than the file" * 50_000])
def test_a_part_of_another_file_is_thrown_away(server, target, old):
    server.files["file"] = CONTENT
    part_of(target, old)
    fetch(server.url + "file", target, check=whole, progress=False)
    assert target.read_bytes() == CONTENT
    assert server.requests[-1] == ("file", None)


def test_connections_that_break_off_are_taken_up_again(server, target):
    server.files["file"], server.cut["file"] = CONTENT, 70_000
    fetch(server.url + "file", target, check=whole, progress=False)
    assert target.read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, *(f"bytes={70_000 * i}-" for i in range(1, 5))]


def test_what_keeps_breaking_off_is_kept_for_the_next_call(server, target):
    server.files["file"], server.cut["file"] = CONTENT, 10_000
    with pytest.raises(DataError, match=r"file: the transfer broke off after 50000 of 300000 bytes .*run again"):
        fetch(server.url + "file", target, check=whole, progress=False)
    assert not target.exists()
    assert part_of(target).read_bytes() == CONTENT[:50_000]
    del server.cut["file"]
    fetch(server.url + "file", target, check=whole, progress=False)
    assert server.requests[-1] == ("file", "bytes=50000-")
    assert target.read_bytes() == CONTENT


def test_no_endless_attempts_without_a_byte(server, target):
    server.files["file"], server.cut["file"] = CONTENT, 0
    with pytest.raises(DataError, match="broke off after 0 of 300000 bytes"):
        fetch(server.url + "file", target, check=whole, progress=False)
    assert len(server.requests) == 1
    assert list(target.parent.iterdir()) == []


def test_wrong_content_is_not_kept(server, target):
    server.files["file"] = CONTENT[:-1] + b"?"
    with pytest.raises(DataError, match="wrong content"):
        fetch(server.url + "file", target, check=whole, progress=False)
    assert list(target.parent.iterdir()) == []
    # from a part too: the whole file is asked for before giving up
    part_of(target, CONTENT[:10])
    with pytest.raises(DataError, match="wrong content"):
        fetch(server.url + "file", target, check=whole, progress=False)
    assert [asked for _, asked in server.requests] == [None, "bytes=10-", None]
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_an_error_of_the_server(server, target, status):
    server.status["file"] = status
    with pytest.raises(DataError, match=rf"http://127.0.0.1:\d+/file: the server answered {status} "):
        fetch(server.url + "file", target, check=whole, progress=False)
    assert list(target.parent.iterdir()) == []


def test_no_connection(target, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/file"
    with pytest.raises(DataError, match=r"http://127.0.0.1:\d+/file: cannot connect: .*refused"):
        fetch(url, target, check=whole, progress=False)
    assert list(target.parent.iterdir()) == []


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write .*file/x/y.part: .*; name another folder with data_dir"):
        fetch(server.url + "file", tmp_path / "file" / "x" / "y", check=whole, progress=False)
    assert server.requests == []


def test_a_full_disk(server, target):
    server.files["file"] = CONTENT
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DataError, match=r"cannot write .*file.part: File too large"):
            fetch(server.url + "file", target, check=whole, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not target.exists()
    fetch(server.url + "file", target, check=whole, progress=False)
    assert target.read_bytes() == CONTENT


def test_two_at_once_download_it_once(server, target):
    server.files["file"] = CONTENT
    arguments = (server.url + "file", target)
    threads = [
        threading.Thread(target=fetch, args=arguments, kwargs={"check": whole, "progress": False}) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert [p.name for p in target.parent.iterdir()] == ["file"]


def test_two_at_once_of_a_wrong_file_both_say_so(server, target):
    server.files["file"] = b"wrong" * 50_000
    errors = []

    def attempt():
        try:
            fetch(server.url + "file", target, check=whole, progress=False)
        except DataError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == ["wrong content"] * 3
    assert list(target.parent.iterdir()) == []


def test_two_at_once_continue_what_the_other_has_left(server, target):
    server.files["file"], server.cut["file"] = CONTENT, 40_000
    errors = []

    def attempt():
        try:
            fetch(server.url + "file", target, check=whole, progress=False)
        except DataError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # the first one gives up after five pieces, the second one needs three more
    assert ["after 200000 of 300000 bytes" in error for error in errors] == [True]
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 8


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_one_line_where_there_is_no_terminal(server, target, capsys):
    server.files["file"] = CONTENT
    fetch(server.url + "file", target, check=whole)
    assert capsys.readouterr().err == f"downloading {server.url}file (0.3 MB, to {target.parent})\n"


def test_a_plain_meter_without_rich(server, target, monkeypatch):
    server.files["file"] = CONTENT
    part_of(target, CONTENT[:150_000])
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    fetch(server.url + "file", target, check=whole)
    shown = sys.stderr.getvalue().split("\r")
    assert shown[-1] == "file: 0.3 of 0.3 MB, 100 % \n"
    assert len(shown) > 2


def test_a_bar_with_rich(server, target, monkeypatch):
    pytest.importorskip("rich")
    server.files["file"] = CONTENT
    monkeypatch.setattr(sys, "stderr", Terminal())
    fetch(server.url + "file", target, check=whole)
    assert "300.0/300.0 kB" in sys.stderr.getvalue()


def test_a_silent_download(server, target, monkeypatch):
    server.files["file"] = CONTENT
    monkeypatch.setattr(sys, "stderr", Terminal())
    fetch(server.url + "file", target, check=whole, progress=False)
    assert sys.stderr.getvalue() == ""


def test_a_silent_server_is_not_waited_for_forever(target, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", 0.1)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/file"
        with pytest.raises(DataError, match="cannot connect: timed out"):
            fetch(url, target, check=whole, progress=False)


def test_importing_the_package_imports_nothing_for_the_network():
    code = "import sys, xpconv.data; print(*sorted({'urllib.request', 'rich', 'gzip', 'tarfile'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "\n"
