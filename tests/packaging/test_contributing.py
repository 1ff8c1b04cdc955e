"""What the pages for contributors name exists: files, functions, commands; and the version has one home."""

import ast
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import xpconv

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "contributing"

needs_source = pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="the pages are part of the source tree only")


def paths_in(text):
    """Every path of the repository that stands in code marks."""
    folders = "xpconv|kernels|tests|tools|benchmarks|docs|examples"
    found = set(re.findall(rf"`((?:{folders})/[\w./*-]*)`", text))
    return sorted(name for name in found if not name.startswith("docs/_build"))  # which `make docs` makes


def names_in(path):
    """What a file defines: functions, classes and ``Class.method`` of Python, names of functions in Cython and C."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return set(re.findall(r"\b(\w+)\(", text))
    found = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        if isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@needs_source
@pytest.mark.parametrize(
    "page", ["architecture", "add-an-operator", "releasing", "deprecation", "index", "CONTRIBUTING"]
)
def test_the_files_that_a_page_names_exist(page):
    path = ROOT / "CONTRIBUTING.md" if page == "CONTRIBUTING" else PAGES / f"{page}.md"
    text = path.read_text(encoding="utf-8")
    missing = [name for name in paths_in(text) if not list(ROOT.glob(name.rstrip("/")))]
    assert missing == []
    linked = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in linked if not (path.parent / link).exists()] == []


@needs_source
def test_the_way_of_a_call_names_what_there_is():
    text = (PAGES / "architecture.md").read_text(encoding="utf-8")
    way = text[text.index("## The way of one call") : text.index("## Rules")]
    mentioned = re.findall(r"`(xpconv/[\w./]+\.py|kernels/[\w./]+)`,\s+`([\w.]+)`", way)
    mentioned += [(path, name) for name, path in re.findall(r"`([\w.]+)`\s+in\s+`((?:xpconv|kernels)/[\w./]+)`", way)]
    assert len(mentioned) >= 14
    assert [(path, name) for path, name in mentioned if name not in names_in(ROOT / path)] == []
    steps = re.findall(r"^(\d)\. `", way, re.MULTILINE)
    assert steps == list("1234567")


@needs_source
def test_the_table_of_commands_is_that_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(phony.split()) == targets
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([a-z]+)", page))
    assert {"setup", "test", "lint", "bench", "docs"} <= named <= targets


@needs_source
def test_the_version_has_one_home():
    """``__version__``; the metadata read it, and what has to repeat it says the same."""
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?(\.dev\d+)?", xpconv.__version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "xpconv.__version__"}
    (cited,) = re.findall(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited == xpconv.__version__
    elsewhere = [
        path.relative_to(ROOT).as_posix()
        for folder in ("xpconv", "docs", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if f'"{xpconv.__version__}"' in path.read_text(encoding="utf-8")
    ]
    assert elsewhere == ["xpconv/__init__.py"]


def test_the_metadata_have_the_version_of_the_package():
    try:
        installed = metadata.distribution("xpconv")
    except metadata.PackageNotFoundError:
        pytest.skip("xpconv is not installed, only on the path")
    if Path(str(installed.locate_file("xpconv"))).resolve() != Path(xpconv.__file__).parent:
        pytest.skip("another xpconv is installed")
    assert installed.version == xpconv.__version__


@needs_source
def test_the_changelog_is_in_the_form_of_keep_a_changelog():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", heading) for heading in headings[1:])
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert kinds


@needs_source
def test_wheels_are_for_every_python_that_the_metadata_name():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["project"]["classifiers"]))
    built = project["tool"]["cibuildwheel"]["build"]
    assert [f"cp{version.replace('.', '')}-*" for version in named] == [tag for tag in built if not tag.endswith("t-*")]
    assert "cp314t-*" in built
