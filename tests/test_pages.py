"""The Python code that the README and the documentation show runs as it stands."""

import re
from pathlib import Path

import pytest

import xpconv
from xpconv.backends import BackendUnavailableError, dispatch, load_backend, registry

ROOT = Path(__file__).parents[1]
PAGES = [page for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))) if page.exists()]
# optional packages by page, named by its place in docs/
NEEDED = {
    "guides/data": ("PIL",),
    "guides/from-pytorch": ("torch",),
    "guides/plotting": ("matplotlib",),
    "guides/onnx": ("onnx", "onnxruntime"),
    "guides/scikit-learn": ("sklearn",),
    "guides/training": ("matplotlib",),
}
# backends that a page cannot do without
BACKENDS = {"extending/kernel": "cuda-host"}
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page):
    """A page's place in docs/, without its ending: "guides/data"."""
    relative = page.relative_to(ROOT).with_suffix("").as_posix()
    return relative.removeprefix("docs/")


def blocks(page):
    """The Python blocks of a page, each with the line it begins at."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, match.start(1)), match.group(1)) for match in _BLOCK.finditer(text)]


def available(name):
    try:
        load_backend(name)
    except BackendUnavailableError:
        return False
    return True


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """What a page registers ends with it."""
    for module, name in (
        *((registry, table) for table in ("_entries", "_loaded", "_by_type")),
        *((dispatch, table) for table in ("_operators", "_kernels")),
    ):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))


@pytest.mark.skipif(not PAGES, reason="an installed package, without its pages")
def test_there_are_pages_with_code():
    assert [page.name for page in PAGES if blocks(page)][:1] == ["README.md"]


def test_optional_packages_are_of_pages_that_exist():
    assert {*NEEDED, *BACKENDS} <= {name_of(page) for page in PAGES} or not PAGES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    for package in NEEDED.get(name_of(page), ()):
        pytest.importorskip(package, reason="the page is about it")
    if not available(BACKENDS.get(name_of(page), "numpy")):
        pytest.skip(f"no {BACKENDS[name_of(page)]}, which the page is about")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem.replace("-", "_")}
    try:
        for line, code in blocks(page):
            for missing in ("cupy", "torch", "jax"):
                if f'"{missing}"' in code and not available(missing):
                    code = code.replace(f'"{missing}"', '"numpy"')
            # empty lines in front keep the page's line numbers in a traceback
            exec(compile("\n" * line + code, str(page), "exec"), names)
    finally:
        xpconv.set_backend("numpy")
