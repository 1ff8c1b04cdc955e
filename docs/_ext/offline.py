"""Pages that are read without a network: one that would load something from elsewhere is a warning of the build."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

_logger = logging.getLogger(__name__)

_ELSEWHERE = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_IN_CSS = re.compile(r"""(?:@import\s+|url\(\s*)["']?((?:[a-z]+:)?//[^"')\s]+)""", re.IGNORECASE)
_NOT_LOADED = {"canonical", "alternate", "author", "help", "license", "next", "prev", "search"}  # kinds of <link>


class _Loads(HTMLParser):
    """Collects what a browser fetches by itself; links that a reader has to click are not of it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at the attributes."""
        values = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        loaded = [values.get(name, "") for name in ("src", "srcset", "poster", "data")]
        if tag == "link" and not set(values.get("rel", "").lower().split()) & _NOT_LOADED:
            loaded.append(values.get("href", ""))
        if tag in ("image", "use"):
            loaded += [values.get("href", ""), values.get("xlink:href", "")]
        self.found += [address for address in loaded if _ELSEWHERE.match(address)]
        self.found += _IN_CSS.findall(values.get("style", ""))

    def handle_data(self, data: str) -> None:
        """Look into style sheets."""
        if self._in_style:
            self.found += _IN_CSS.findall(data)

    def handle_endtag(self, tag: str) -> None:
        """A style sheet ends."""
        self._in_style = False


def loads_from_elsewhere(page: str) -> list[str]:
    """Addresses on other hosts that a page in HTML makes a browser load."""
    reader = _Loads()
    reader.feed(page)
    return reader.found


def find_loads(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files of a site, each with an address on another host that it loads."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".html", ".css"):
            text = path.read_text(encoding="utf-8")
            for address in loads_from_elsewhere(text) if path.suffix == ".html" else _IN_CSS.findall(text):
                yield path, address


def check(app: Sphinx, error: Exception | None) -> None:
    """Look at all pages when they are written."""
    if error is None and app.builder.format == "html":
        for path, address in find_loads(Path(app.outdir)):
            _logger.warning("%s loads %s: pages must not need a network", path.relative_to(app.outdir), address)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
