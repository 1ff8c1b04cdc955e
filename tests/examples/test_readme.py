"""The table of the examples, and what each says of itself."""

import ast
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path for path in EXAMPLES.glob("**/*.py") if not path.name.startswith("test_"))


@pytest.mark.skipif(not SCRIPTS, reason="the examples are in the repository, not in the package")
def test_the_table_has_all():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for script in SCRIPTS:
        place = script.relative_to(EXAMPLES)
        assert f"({place.parts[0]})" in text, place


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_it_says_how_to_run_it_small_and_what_it_has_printed(script):
    docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    command = f"python examples/{script.relative_to(EXAMPLES).as_posix()}"
    assert command in docstring
    assert f"{command} --small" in docstring
    assert "has printed" in docstring
