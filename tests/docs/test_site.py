"""The documentation as a whole: links lead somewhere, commands exist, every name has its place, tables say what is."""

import contextlib
import importlib
import io
import json
import pkgutil
import re
import shlex
import sys
import types
from pathlib import Path

import pytest

import xpconv
from xpconv.cli import build_parser
from xpconv.cli.parser import UsageError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
if not DOCS.exists():
    pytest.skip("an installed package, without its pages", allow_module_level=True)

PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md"))
    if "_build" not in page.parts
)
_FENCE = re.compile(r"^(```+|:::+).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_SHELL = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def place_of(page):
    return page.relative_to(ROOT).as_posix()


def anchors(text):
    """Of the headings of a page, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=place_of)
def test_relative_links_lead_somewhere(page):
    dead = []
    for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = page if not path else (page.parent / path).resolve()
        if not other.exists() or (anchor and anchor not in anchors(other.read_text(encoding="utf-8"))):
            dead.append(target)
    assert not dead


def commands(page):
    """The lines of a page's shell blocks that call ``xpconv``, without continuations, comments and redirections."""
    lines = []
    for block in _SHELL.findall(page.read_text(encoding="utf-8")):
        typed = block.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in typed):  # the rest is what the commands print
            typed = [line.removeprefix("$ ") for line in typed if line.startswith("$ ")]
        for line in typed:
            words = shlex.split(line, comments=True)
            ends = [k for k, word in enumerate(words) if word in ("|", ">", ">>", "&&", ";", "&")]
            words = words[: ends[0]] if ends else words
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # settings in front of a command
                words = words[1:]
            if words[:1] == ["mpiexec"] and "xpconv" in words:
                words = words[words.index("xpconv") :]
            if words[:1] == ["xpconv"]:
                lines.append(words[1:])
    return lines


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=place_of)
def test_commands_are_ones_that_the_parser_takes(page):
    parser = build_parser()
    for words in commands(page):
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # --help and --version print and exit
                parser.parse_args(words)
        except (UsageError, SystemExit) as error:
            if getattr(error, "code", 2):
                pytest.fail(f"xpconv {shlex.join(words)}: {error}")


def test_the_readme_shows_commands():
    assert ["train"] in commands(ROOT / "README.md")


def listed_names():
    """Full names in the tables of the reference."""
    names = set()
    for page in (DOCS / "reference").glob("*.md"):
        module, inside = "", False
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith(".. currentmodule::"):
                module = line.split("::")[1].strip()
            elif line.startswith(".. autosummary::"):
                inside = True
            elif line.startswith("```"):
                inside = False
            elif inside and line.startswith("   ") and not line.strip().startswith(":") and line.strip():
                names.add(f"{module}.{line.strip()}")
    return names


def resolved(name):
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):  # the parent's attribute, which may hide a module of the name
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


def test_every_public_name_has_a_place_in_the_reference():
    things = {id(resolved(name)) for name in listed_names() if not name.startswith("xpconv.sklearn.")}
    missing = []
    for info in pkgutil.walk_packages(xpconv.__path__, "xpconv."):
        names = info.name.split(".")
        in_course = names[1] == "cs231n" and not info.ispkg
        if any(name.startswith("_") for name in names) or names[1] == "sklearn" or not (info.ispkg or in_course):
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if not isinstance(value, types.ModuleType) and id(value) not in things:
                missing.append(f"{info.name}.{name}")
    listed = listed_names()
    assert {"xpconv.sklearn.ConvNetClassifier", "xpconv.sklearn.ConvNetRegressor"} <= listed
    assert not missing


# ---- tables that are made when the site is built --------------------------------------------------------------------


@pytest.fixture
def extension(monkeypatch):
    """``extension(name)``: a module of docs/_ext."""
    pytest.importorskip("sphinx", reason="extensions of Sphinx")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    monkeypatch.syspath_prepend(str(ROOT))
    yield importlib.import_module
    for name in ("tables", "mathml"):
        sys.modules.pop(name, None)


@pytest.fixture
def tables(extension):
    return extension("tables")


def test_the_support_table_says_what_is_dispatched(tables):
    header, rows = tables.support_rows()
    cells = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
    convolution = next(row for label, row in cells.items() if "conv2d`" in label)
    bounded = next(row for label, row in cells.items() if "hardtanh`" in label)
    assert set(header[1:]) >= {"numpy", "cupy", "torch", "jax", "array_api_strict", "cuda-host"}
    assert convolution["cupy"] == convolution["cuda-host"] == "**kernel**"
    assert convolution["torch"] == convolution["jax"] == bounded["numpy"] == bounded["cupy"] == "generic"
    if xpconv.backends.load_backend("numpy").engines:
        assert convolution["numpy"] == "**kernel**"
    operators = xpconv._generic.__all__
    counted = sum(2 if "and backward" in row[0] else 1 for row in rows)
    assert counted == len(operators)


def test_the_newest_whole_run_is_shown_with_its_machine_date_versions_and_command(tables):
    text = tables.performance_markdown()
    runs = [
        result
        for _, result in tables.read_results()
        if "rows" in result and not tables._parts(result.get("command", "python -m benchmarks.cpu all"))
    ]
    environment = runs[0]["environment"]
    assert f"`{runs[0]['command']}`" in text
    for fact in (environment["date"], environment["cpu"], environment["python"], environment["torch"]):
        assert fact in text
    medians = [row for row in runs[0]["rows"] if row["benchmark"] == "convolution"]
    assert medians
    assert f"| {medians[0]['case']} |" in text


def test_results_are_in_order_of_their_dates(tables, tmp_path):
    for name, date in (
        ("a", "2026-01-02 10:00 +0000"),
        ("b", "2026-03-02 10:00 +0000"),
        ("c", "2025-12-01 10:00 +0000"),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps({"environment": {"date": date}}))
    assert [path.stem for path, _ in tables.read_results(tmp_path)] == ["b", "a", "c"]


def test_formulas_are_drawn_without_a_script(extension):
    to_mathml = extension("mathml").to_mathml
    formulas = []
    for page in PAGES:
        text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
        formulas += [
            source for pair in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", text, re.DOTALL) for source in pair if source
        ]
    assert len(formulas) > 50
    for source in formulas:
        assert to_mathml(source, as_block=True).startswith("<math ")
    assert "<munder" not in to_mathml(r"\hat x_i")
    assert 'html_math_renderer = "mathml"' in (DOCS / "conf.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("python -m benchmarks.cpu --quick --allocator warm", ()),
        ("python -m benchmarks.cpu convolution training --quick", ("convolution", "training")),
        ("python -m benchmarks.cpu --quick --only J", ("--only",)),
    ],
    ids=str,
)
def test_runs_of_a_part_are_told_from_whole_ones(tables, command, parts):
    assert tables._parts(command) == parts
