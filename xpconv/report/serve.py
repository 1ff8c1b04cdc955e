"""The page of a run while it goes on, for browsers on this machine."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socketserver
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

from ..training import RunFolder
from .collect import read_run
from .page import build_page, payload

__all__ = ["LiveReport"]

_HOST = "127.0.0.1"
_LINGER = 4.0  # seconds that a page which is looked at has to fetch the end


class _Answer:
    """A body and its kind."""

    def __init__(self, kind: str, body: str) -> None:
        self.kind, self.body = kind, body.encode(errors="replace")


class _Server(ThreadingHTTPServer):
    """Knows the run; its threads end with the process."""

    daemon_threads = True
    # elsewhere (Windows) it would let two servers have one port
    allow_reuse_address = os.name == "posix"

    folder: RunFolder | None = None
    asked_at = 0.0  # time of the last request for news
    tag_sent = ""  # of the last news that were sent or known to the page

    def server_bind(self) -> None:
        """Bind, without asking a name server for this machine's name as `http.server.HTTPServer` does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = _HOST, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Browsers hang up; that is nothing to print."""

    def hosts(self) -> set[str]:
        """What a request may call this machine: another name would be that of a page elsewhere, led here by its DNS."""
        names = (_HOST, "localhost")
        return {f"{name}:{self.server_port}" for name in names} | (set(names) if self.server_port == 80 else set())


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "xpconv", ""
    protocol_version = "HTTP/1.0"  # no connection outlives its answer, and so none the server
    timeout = 30  # of a connection that says nothing

    def do_GET(self) -> None:
        """The page, or the news."""
        self._answer(send_body=True)

    def do_HEAD(self) -> None:
        """The same without its body."""
        self._answer(send_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal shows the run."""

    def _answer(self, *, send_body: bool) -> None:
        if self.headers.get("Host", "").lower() not in self.server.hosts():
            self._refuse(HTTPStatus.FORBIDDEN, "This server answers to 127.0.0.1 and localhost alone.")
            return
        url = urlsplit(self.path)
        try:
            if url.path == "/":
                self._send(self._page(), send_body)
            elif url.path == "/run.json":
                news = self._news(parse_qs(url.query).get("after", [""])[0])
                if news is None:
                    self.send_response(HTTPStatus.NO_CONTENT)
                    self.end_headers()
                else:
                    self._send(news, send_body)
            else:
                self._refuse(HTTPStatus.NOT_FOUND, "There is the page / and nothing else.")
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:  # a file that is just being written, or gone: the page asks again
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"The run folder cannot be read: {error}")

    def _folder(self) -> RunFolder:
        if self.server.folder is None:
            raise RuntimeError("the run has not begun")
        return self.server.folder

    def _page(self) -> _Answer:
        return _Answer("text/html", build_page([read_run(self._folder().path)], live=True))

    def _news(self, after: str) -> _Answer | None:
        """What has come since ``after``; None if that is nothing."""
        folder, server = self._folder(), self.server
        server.asked_at = time.monotonic()
        tag = tag_of(folder)
        server.tag_sent = tag
        if tag == after:
            return None
        return _Answer("application/json", json.dumps({"tag": tag, **payload(read_run(folder.path))}))

    def _send(self, answer: _Answer, send_body: bool) -> None:
        self.send_response(HTTPStatus.OK)
        self._headers(answer)
        if send_body:
            self.wfile.write(answer.body)

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        answer = _Answer("text/plain", text + "\n")
        self.send_response(status)
        self._headers(answer)
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _headers(self, answer: _Answer) -> None:
        self.send_header("Content-Type", f"{answer.kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()


def tag_of(folder: RunFolder) -> str:
    """Changes whenever a file that the page is made of does."""
    parts = []
    for path in (folder.config, folder.log, folder.measured):
        try:
            found = os.stat(path)
            parts.append(f"{found.st_mtime_ns} {found.st_size}")
        except FileNotFoundError:
            parts.append("none")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class LiveReport:
    """Serves the page of a run on this machine alone, from a thread of its own.

    Parameters
    ----------
    port : int
        0 to 65535; 0 takes a free one.

    Attributes
    ----------
    address : str
        Where the page is.

    Raises
    ------
    OSError
        The port is taken, or may not be had; the message says what to do.
    ValueError
        The port is out of range.
    """

    def __init__(self, port: int = 0) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"--watch: expected a port from 0 to 65535, got {port}")
        try:
            self._server = _Server((_HOST, port), _Handler)
        except OSError as error:
            self._explain(port, error)
        self.address = f"http://{_HOST}:{self._server.server_port}/"
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.1,), daemon=True, name="xpconv-watch")

    @staticmethod
    def _explain(port: int, error: OSError) -> NoReturn:
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} is taken, perhaps by another run that is watched"
        else:
            reason = f"port {port} cannot be had: {error.strerror or error}"
        raise OSError(f"--watch: {reason}; give another one, or 0 for any that is free: --watch 0") from error

    def start(self, folder: RunFolder | str | Path) -> None:
        """Serve the run in this folder."""
        self._server.folder = folder if isinstance(folder, RunFolder) else RunFolder(folder)
        self._thread.start()

    def close(self) -> None:
        """Let a page that is being looked at fetch the end, and stop."""
        server = self._server
        if self._thread.is_alive():
            until = time.monotonic() + _LINGER
            while time.monotonic() < min(until, server.asked_at + _LINGER):
                if server.folder is None or server.tag_sent == tag_of(server.folder):
                    break
                time.sleep(0.05)
            server.shutdown()
            self._thread.join()
        server.server_close()

    def __enter__(self) -> LiveReport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
