"""Fetching one file over HTTP: resumed where it stopped, checked, and put in place in one step."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .dataset import DataError

__all__ = ["fetch"]

_ATTEMPTS = 5
_TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 1 << 16

Advance = Callable[[int], None]


def fetch(url: str, path: Path, *, check: Callable[[Path], None], progress: bool = True) -> None:
    """Download ``url`` to ``path``, which exists afterwards only if ``check`` was content with it.

    What has arrived is kept in ``path`` + ``.part`` and continued by the next call. Processes that want the same file
    wait for each other.

    Parameters
    ----------
    url
        http or https.
    path
        The file to make; missing folders are made too.
    check
        Raises DataError if the downloaded file is not what it should be; that file is deleted then.
    progress
        Show on standard error what is going on: a bar on a terminal, one line otherwise.

    Raises
    ------
    DataError
        No connection, an error of the server, a transfer that keeps breaking off, a file that fails the check, or a
        folder that cannot be written to.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _attempt(url, path, part, check, progress):
            pass
    except OSError as error:
        raise DataError(
            f"cannot write {part}: {error.strerror or error}; name another folder with data_dir or XPCONV_DATA"
        ) from error


def _attempt(url: str, path: Path, part: Path, check: Callable[[Path], None], progress: bool) -> bool:
    """Whether ``path`` is there now; False if another process has deleted the part while this one waited for it."""
    with open(part, "ab") as file:
        _lock(file)
        if path.exists():  # another process was faster
            part.unlink(missing_ok=True)
            return True
        if not part.exists() or not os.path.samestat(os.fstat(file.fileno()), part.stat()):
            return False
        file.seek(0, os.SEEK_END)  # it may have grown since it was opened
        try:
            _fill(url, file, part, check, progress)
        finally:
            if file.tell() == 0:
                part.unlink(missing_ok=True)
        os.fsync(file.fileno())
        os.replace(part, path)
        return True


def _fill(url: str, file: BinaryIO, part: Path, check: Callable[[Path], None], progress: bool) -> None:
    """Download until ``check`` is content; a file that fails it is emptied."""
    while True:
        resumed = file.tell() > 0
        _transfer(url, file, progress)
        try:
            return check(part)
        except DataError:
            _empty(file)
            if not resumed:
                raise
            # else the beginning may be of another version of the file: once more, all of it


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _lock(file: BinaryIO) -> None:
    with suppress(ImportError, OSError):  # not every system and file system has locks; the check catches the rest
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def _transfer(url: str, file: BinaryIO, progress: bool) -> None:
    """Append what is missing of ``url``, asking again where the connection breaks as long as bytes arrive."""
    problem, total, done = None, None, 0
    for _ in range(_ATTEMPTS):
        start = file.tell()
        response = _request(url, start)
        if response is None:  # nothing lies behind what is here: it is whole, or of another file
            return
        with response:
            if start and not _continues(response, start):
                _empty(file)
                start = 0
                if response.status == 206:  # another range than the one asked for
                    continue
            total = _total(response, start)
            with _meter(url, file.name, start, total, progress) as advance:
                problem = _copy(response, file, advance)
        file.flush()
        done = file.tell()
        if problem is None and (total is None or done == total):
            return
        if done == start:
            break  # nothing arrived: asking again would not help
    of = "" if total is None else f" of {total}"
    kept = f"; they are kept in {file.name}, run again to continue" if done else ""
    raise DataError(f"{url}: the transfer broke off after {done}{of} bytes ({problem or 'connection closed'}){kept}")


def _request(url: str, start: int) -> Any:
    """The open response; None if the server has nothing from byte ``start`` on."""
    import http.client
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    headers = {"User-Agent": "xpconv", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        return urlopen(Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:
            return None
        raise DataError(f"{url}: the server answered {error.code} {error.reason}") from error
    except URLError as error:
        raise DataError(f"{url}: cannot connect: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{url}: cannot connect: {error}") from error


def _continues(response: Any, start: int) -> bool:
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _total(response: Any, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdecimal() else None


def _copy(response: Any, file: BinaryIO, advance: Advance) -> str | None:
    """Copy to the end; returns what broke the transfer, None if nothing did. Errors of the disk are raised."""
    import http.client

    while True:
        try:
            block = response.read(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            return str(error) or type(error).__name__
        if not block:
            return None
        file.write(block)
        advance(len(block))


@contextmanager
def _meter(url: str, part: str, start: int, total: int | None, progress: bool) -> Iterator[Advance]:
    """Tells of the transfer on standard error; yields what is called with the number of each block's bytes."""
    size = "" if total is None else f"{total / 1e6:.1f} MB, "
    if not progress:
        yield lambda count: None
        return
    if not sys.stderr.isatty():
        print(f"downloading {url} ({size}to {os.path.dirname(part)})", file=sys.stderr, flush=True)
        yield lambda count: None
        return
    label = url.rpartition("/")[2]
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
    except ImportError:
        done = start

        def advance(count: int) -> None:
            nonlocal done
            done += count
            share = "" if total is None else f" of {total / 1e6:.1f} MB, {100 * done / max(total, 1):.0f} %"
            print(f"\r{label}: {done / 1e6:.1f}{share} ", end="", file=sys.stderr, flush=True)

        try:
            yield advance
        finally:
            print(file=sys.stderr)
        return
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=start)
        yield lambda count: bar.advance(task, count)
