"""Small data files in the published formats, and an HTTP server that misbehaves on demand."""

import gzip
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

IDX_CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx_bytes(array):
    """The array as an IDX file."""
    header = bytes([0, 0, IDX_CODES[array.dtype.str[1:]], array.ndim])
    sizes = np.asarray(array.shape, ">u4").tobytes()
    return header + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


class SmallIdx:
    """Four IDX files as of MNIST, 50 and 20 images of 5 x 4 in ten classes."""

    def __init__(self):
        rng = np.random.default_rng(3)
        self.arrays = {
            "train-images-idx3-ubyte": rng.integers(0, 256, (50, 5, 4), dtype=np.uint8),
            "train-labels-idx1-ubyte": np.arange(50, dtype=np.uint8) % 10,
            "t10k-images-idx3-ubyte": rng.integers(0, 256, (20, 5, 4), dtype=np.uint8),
            "t10k-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
        }
        self.content = {name: idx_bytes(array) for name, array in self.arrays.items()}
        self.packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in self.content.items()}
        self.sha256 = {f"{name}.gz": hashlib.sha256(content).hexdigest() for name, content in self.content.items()}

    def write(self, folder, packed=True):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (self.packed if packed else self.content).items():
            (folder / name).write_bytes(content)
        return folder

    def check(self, splits):
        """Assert that the set holds just these images."""
        for part, stem in (splits.train, "train"), (splits.test, "t10k"):
            assert part.images.dtype == np.uint8
            np.testing.assert_array_equal(part.images[:, 0], self.arrays[f"{stem}-images-idx3-ubyte"])
            np.testing.assert_array_equal(part.labels, self.arrays[f"{stem}-labels-idx1-ubyte"])


@pytest.fixture
def idx():
    return idx_bytes


@pytest.fixture
def small_idx():
    return SmallIdx()


class Server:
    """Serves `files`; `requests` are the (path, Range header) that came in.

    `cut` maps a path to the number of bytes after which each answer breaks off, `status` to an error to answer with;
    `ranges` False makes it ignore the Range header.
    """

    def __init__(self):
        self.files, self.cut, self.status, self.requests = {}, {}, {}, []
        self.ranges = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def answer(self, request):
        path, asked = request.path[1:], request.headers.get("Range")
        self.requests.append((path, asked))
        if path in self.status or path not in self.files:
            request.send_error(self.status.get(path, 404))
            return
        content, start = self.files[path], 0
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                request.send_error(416)
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        request.wfile.write(content[start : start + self.cut.get(path, len(content))])

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    yield running
    running.close()
