"""The guide to the command line tells all of it: commands, events and their fields, statuses, environment variables."""

import json
import re
from pathlib import Path

import pytest

import xpconv
from xpconv.cli import build_parser, status
from xpconv.cli.completion import _subparsers

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "command-line.md"
PACKAGE = Path(xpconv.__file__).parent

pytestmark = pytest.mark.skipif(not GUIDE.exists(), reason="an installed package, without its pages")

# names of macros, which are no variables of the environment
MACROS = {"XPCONV_HALF", "XPCONV_BFLOAT16", "XPCONV_ON_HOST"}


@pytest.fixture(scope="module")
def guide():
    return GUIDE.read_text(encoding="utf-8")


def rows(guide, title):
    """The first cells of the table under a title, in code marks or not."""
    part = guide.split(f"\n## {title}\n", 1)[1].split("\n## ")[0]
    return [line.split("|")[1].strip(" `") for line in part.splitlines() if line.startswith("|")][2:]


def test_commands(guide):
    for name, _, parser in _subparsers(build_parser()):
        if name == "report":
            continue  # it has a page of its own
        part = guide.split(f"\n## xpconv {name}\n", 1)[1].split("\n## ")[0]
        assert f"xpconv {name}" in part.split("```")[1]
        for arguments in re.findall(rf"^\$ xpconv {name} ([^\n]*)$", part, re.MULTILINE):
            parser.parse_args(arguments.split())


def test_statuses(guide):
    part = guide.split("\n## Exit status\n", 1)[1]
    for number, meaning in status.MEANINGS.items():
        assert f"| {number} | {meaning} |" in part


def test_environment_variables(guide):
    sources = [PACKAGE, ROOT / "kernels", ROOT / "setup.py"]
    files = [file for source in sources for file in ([source] if source.is_file() else source.rglob("*"))]
    found = set()
    for file in files:
        if file.suffix in (".py", ".c", ".h", ".pyx", ".cu", ".cuh"):
            found |= set(re.findall(r"XPCONV_[A-Z0-9_]*[A-Z0-9]", file.read_text(encoding="utf-8")))
    assert len(found - MACROS) >= 9
    assert found - MACROS == {name for name in rows(guide, "Environment variables") if name.startswith("XPCONV_")}


def test_events(guide):
    known = rows(guide, "For people, quietly, or for machines")
    sources = "".join(file.read_text(encoding="utf-8") for file in (PACKAGE / "cli").glob("*.py"))
    emitted = set(re.findall(r"\bemit\(\s*\"([a-z_]+)\"", sources)) | {"error"}
    assert emitted == set(known)


def test_fields(guide, run, npz):
    part = guide.split("\n| event | of | fields |\n", 1)[1].split("\n\n")[0]
    told = {line.split("|")[1].strip(" `"): set(re.findall(r"`(\w+)`", line)) for line in part.splitlines()}
    run("train", "--data", npz, "--epochs", 1, "--out", "r", "--json", "--profile")
    for arguments in (
        ("train", "--resume", "r", "--epochs", 2),
        ("evaluate", "r", "--report"),
        ("info", "--conv", "1,1,8,8", "1,1,3,3"),
        ("info",),
        ("parity", "--backend", "numpy", "--only", "im2col, 1x1"),
        ("evaluate", "missing"),
    ):
        for line in run(*arguments, "--json")[1].splitlines():
            event = json.loads(line)
            assert event.keys() - {"schema", "event"} <= told[event["event"]], event["event"]
