"""The pictures of the documentation come out of their modules."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
if not (DOCS / "figures").is_dir():
    pytest.skip("an installed package, without its documentation", allow_module_level=True)
pytest.importorskip("matplotlib", reason="figures are drawn with it")


def _runner():
    spec = importlib.util.spec_from_file_location("docs_figures_draw", DOCS / "figures" / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUNNER = _runner()


@pytest.mark.parametrize("name", RUNNER.names())
def test_a_figure_draws_what_it_says(name, tmp_path):
    figure = RUNNER.load(name)
    assert all((RUNNER.IMAGES / picture).is_file() for picture in figure.PICTURES), "draw it, and commit the picture"
    if getattr(figure, "SLOW", False):
        pytest.skip("takes more than a few seconds")
    figure.draw(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(figure.PICTURES)
    for picture in figure.PICTURES:
        begin = (tmp_path / picture).read_bytes()[:200]
        assert begin.startswith(b"\x89PNG") if picture.endswith(".png") else b"<?xml" in begin


def test_no_two_figures_make_the_same_picture():
    pictures = [picture for name in RUNNER.names() for picture in RUNNER.load(name).PICTURES]
    assert len(set(pictures)) == len(pictures)


def test_every_picture_that_is_shown_comes_from_a_figure():
    made = {picture for name in RUNNER.names() for picture in RUNNER.load(name).PICTURES}
    pages = [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
    shown = {
        (page.parent / path).resolve()
        for page in pages
        for path in re.findall(
            r"(?:!\[[^\]]*\]\(|\{(?:figure|image)\} |src=\")([^)\s\"]+)", page.read_text(encoding="utf-8")
        )
        if "://" not in path
    }
    assert (RUNNER.IMAGES / "filters.png") in shown
    assert not {path.name for path in shown if path.parent == RUNNER.IMAGES} - made
    assert not [path for path in shown if path.parent != RUNNER.IMAGES]


def test_the_command_draws_what_is_named_and_refuses_the_rest(tmp_path, capsys):
    assert RUNNER.main(["im2col", "--out", str(tmp_path / "new")]) == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["im2col.svg"]
    assert "im2col.svg: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        RUNNER.main(["im2col", "no-such-figure"])
    assert "no such figure: no-such-figure" in capsys.readouterr().err
