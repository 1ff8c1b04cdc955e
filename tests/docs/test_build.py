"""A site of three pages, built with the configuration of the documentation: what every page of it has, or must not."""

import importlib
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urljoin

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
if not DOCS.exists():
    pytest.skip("an installed package, without its pages", allow_module_level=True)
for name in ("sphinx", "furo", "myst_parser", "numpydoc", "sphinx_copybutton"):
    pytest.importorskip(name, reason="the documentation")

START = """# Start

```{toctree}
reference/names
other
```
"""
NAMES = """# Names

```{support-table}
```

```{eval-rst}
.. currentmodule:: xpconv.layers

.. autosummary::
   :toctree: api

   Flatten
   Identity
```
"""
OTHER = """# Other

A formula, $x^2$, [a link](https://example.org/page), and code:

```python
x = 1
```
"""


def build(source, out):
    """What the build of the pages in ``source`` complains about."""
    for name in ("_templates", "_static"):
        shutil.copytree(DOCS / name, source / name)
    command = [sys.executable, "-m", "sphinx", "-q", "-D", "nitpicky=0", "-c", str(DOCS), str(source), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the pages."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "reference").mkdir()
    for name, text in (("index", START), ("reference/names", NAMES), ("other", OTHER)):
        (source / f"{name}.md").write_text(text, encoding="utf-8")
    assert build(source, out) == ""
    return out


class _Links(HTMLParser):
    """Where the links of the sidebar lead, by their texts."""

    def __init__(self, page):
        super().__init__()
        self.targets, self.current, self._depth, self._link = {}, [], 0, None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        classes = (values.get("class") or "").split()
        if tag == "div" and (self._depth or "sidebar-tree" in classes):
            self._depth += 1
        self._link = (values["href"], "current" in classes) if self._depth and tag == "a" else None

    def handle_endtag(self, tag):
        self._depth -= tag == "div" and self._depth > 0
        self._link = None

    def handle_data(self, text):
        if self._link is not None:
            self.targets[text] = self._link[0]
            self.current += [text] * self._link[1]


@pytest.mark.parametrize(
    ("page", "names", "current"),
    [
        ("other", [], ["Other"]),
        ("reference/names", ["Flatten", "Identity"], ["Names"]),
        ("reference/api/xpconv.layers.Identity", ["Flatten", "Identity"], ["Names", "Identity"]),
    ],
    ids=str,
)
def test_the_sidebar_has_the_names_of_the_module_that_is_read(site, page, names, current):
    links = _Links((site / f"{page}.html").read_text(encoding="utf-8"))
    assert list(links.targets) == ["Names", *names, "Other"]
    assert links.current == current
    want = {"Names": "reference/names", "Other": "other"}
    want |= {name: f"reference/api/xpconv.layers.{name}" for name in names}
    for name, target in links.targets.items():
        place = urldefrag(urljoin(f"{page}.html", target)).url
        assert place == f"{want[name]}.html"
        assert (site / place).exists()


def test_no_page_loads_anything_from_a_network(site):
    pages = [path.read_text(encoding="utf-8") for path in site.rglob("*.html")]
    assert len(pages) >= 5
    for page in pages:
        assert not re.search(r'\b(?:src|srcset|poster|data)="(?:[a-z]+:)?//', page)
        assert not re.search(r'<link\b[^>]*href="(?:[a-z]+:)?//', page)
        assert "mathjax" not in page.lower()
    assert "<math " in (site / "other.html").read_text(encoding="utf-8")
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*['\"]?(?:[a-z]+:)?//", style.read_text(encoding="utf-8"))


def test_a_page_that_would_is_a_warning_of_the_build(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "index.md").write_text("# Start\n\n<img src='https://example.org/a.png'>\n", encoding="utf-8")
    assert "index.html loads https://example.org/a.png" in build(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("page", "loaded"),
    [
        ("<script src='https://a.b/c.js'></script>", ["https://a.b/c.js"]),
        ("<link rel=stylesheet href=//a.b/c.css>", ["//a.b/c.css"]),
        ("<style>@import 'http://a.b/c.css'; p { background: url(http://a.b/d.png) }</style>", 2),
        ("<p style='background: url(//a.b/c.png)'>", ["//a.b/c.png"]),
        ("<a href='https://a.b'>x</a><link rel=canonical href='https://a.b'><img src='data:,'><code>//a.b</code>", []),
    ],
    ids=["script", "style sheet", "in a style sheet", "in an attribute", "nothing"],
)
def test_what_counts_as_loading(monkeypatch, page, loaded):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    found = importlib.import_module("offline").loads_from_elsewhere(page)
    assert (len(found) == loaded) if isinstance(loaded, int) else (found == loaded)


def test_tables_that_are_made_have_their_style(site):
    page = (site / "reference" / "names.html").read_text(encoding="utf-8")
    assert re.findall(r'<table class="([\w-]+)', page) == ["support-table", "support-table", "autosummary"]
    assert "table.support-table" in (site / "_static" / "tables.css").read_text(encoding="utf-8")
