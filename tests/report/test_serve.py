"""The server of a page: on this machine alone, one page and its news, nothing else."""

import http.client
import json
import socket
import threading
import time

import pytest

from xpconv.report.serve import LiveReport


@pytest.fixture
def live(make_run):
    """A server, and the folder that it serves."""
    with LiveReport(0) as report:
        folder = make_run()
        report.start(folder)
        yield report, folder


def ask(report, path, *, host=None, method="GET"):
    """Status, headers and body of an answer."""
    port = int(report.address.rsplit(":", 1)[1].strip("/"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True)
        for value in [f"127.0.0.1:{port}"] if host is None else [host.format(port=port)] if host else []:
            connection.putheader("Host", value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def test_the_page(live):
    report, _ = live
    assert report.address.startswith("http://127.0.0.1:")
    status, headers, body = ask(report, "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "connect-src 'self'" in body
    assert ask(report, "/", host="localhost:{port}")[0] == 200
    status, headers, body = ask(report, "/", method="HEAD")
    assert (status, body) == (200, "")
    assert int(headers["Content-Length"]) > 50_000


def test_the_news(live, make):
    report, folder = live
    status, headers, body = ask(report, "/run.json?after=")
    assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    first = json.loads(body)
    assert first["charts"][0]["series"][1]["y"].count(None) == 2
    assert ask(report, f"/run.json?after={first['tag']}")[0] == 204
    folder.append(make.epoch(3))
    second = json.loads(ask(report, f"/run.json?after={first['tag']}")[2])
    assert second["tag"] != first["tag"]
    assert second["charts"][0]["x"] == [0.5, 1, 1.5, 2, 3]
    assert "<dd>3" in second["parts"]["result"]


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}"]
)
def test_another_name_for_this_machine_is_refused(live, host):
    """As a page elsewhere would use, whose name its DNS has led here."""
    status, _, body = ask(live[0], "/run.json", host=host)
    assert status == 403
    assert "cat" not in body


@pytest.mark.parametrize(
    "path",
    [
        "/config.json", "/log.jsonl", "/../config.json", "/..%2fconfig.json", "//etc/passwd",
        "/run.json/../config.json", "/%2e%2e/%2e%2e/etc/passwd", "/report.html", "/favicon.ico", "*",
    ],
)  # fmt: skip
def test_there_is_nothing_else(live, path):
    status, _, body = ask(live[0], path)
    assert status == 404
    assert body == "There is the page / and nothing else.\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(live, method):
    assert ask(live[0], "/", method=method)[0] == 501


def test_it_listens_on_the_loopback_address_only(live):
    port = live[0]._server.server_port
    assert live[0]._server.server_address == ("127.0.0.1", port)
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", port), timeout=2):
        pass


def test_a_port_that_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"--watch: port {port} is taken.*--watch 0"):
            LiveReport(port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none(port):
    with pytest.raises(ValueError, match=f"--watch: expected a port from 0 to 65535, got {port}"):
        LiveReport(port)


def test_a_folder_that_goes_away(live):
    """The server says so and goes on."""
    report, folder = live
    text = folder.config.read_text()
    folder.config.write_text("{")
    status, _, body = ask(report, "/")
    assert status == 503
    assert body.startswith("The run folder cannot be read: ")
    folder.config.write_text(text)
    assert ask(report, "/")[0] == 200


def test_nonsense_and_hanging_up_end_nothing(live, capfd):
    report, _ = live
    port = report._server.server_port
    for text in (b"\x00\xff\x00\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n", b""):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(text)
    assert ask(report, "/")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_page_that_looks_gets_the_end(make_run, make):
    """The server waits for the next question of a page, and not for one that nobody looks at."""
    report, folder = LiveReport(0), make_run()
    report.start(folder)
    tag = json.loads(ask(report, "/run.json")[2])["tag"]
    folder.append(make.epoch(3))
    found = []

    def look():
        time.sleep(0.3)
        found.append(json.loads(ask(report, f"/run.json?after={tag}")[2]))

    page = threading.Thread(target=look)
    page.start()
    report.close()
    page.join()
    assert found[0]["charts"][0]["x"][-1] == 3
    assert not report._thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        ask(report, "/")


def test_a_server_that_was_never_started_closes():
    report = LiveReport(0)
    report.close()
    with pytest.raises(ConnectionRefusedError):
        ask(report, "/")
