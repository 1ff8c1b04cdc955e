"""The picture of the table: that it is drawn from the rows that it is about."""

import json
from xml.etree import ElementTree

import pytest

pytest.importorskip("threadpoolctl", reason="the benchmarks need the extra 'bench'")
pytest.importorskip("matplotlib", reason="the picture needs Matplotlib")
pytest.importorskip("benchmarks", reason="the benchmarks are in the repository, not in the package")

from benchmarks.cpu import plot, training
from benchmarks.peers import BOTH
from benchmarks.report import Row, row_of_samples

ABOUT = {"torch": "2.13.0+cpu", "cpu": "Some CPU", "cores": 2, "date": "2024-02-29 10:00 +0000", "commit": "abc"}


def row(case, ratio, threads=1, benchmark="convolution", operation=BOTH, allocator="warm"):
    samples = {"torch": [ratio * 1e-3, ratio * 1.1e-3], "xpconv": [1e-3, 1e-3]}
    made = row_of_samples(benchmark, case, operation, threads, samples, baseline="torch")
    return Row.from_dict({**made.as_dict(), "allocator": allocator})


ROWS = [
    *(row(case, ratio, threads) for case, ratio in (("A", 3.0), ("J", 0.8)) for threads in (1, 2)),
    row("A", 9.0, allocator="default"),
    row("lenet, 128 of 1x28x28, Adam", 2.0, benchmark="training", operation=training.STEP),
]


def test_warm_rows_are_taken_where_there_are_any():
    found = plot._chosen(ROWS, plot.PANELS[0])
    assert list(found) == [1, 2]
    assert found[1]["A"].allocator == "warm"
    only = plot._chosen([row("A", 9.0, allocator="default")], plot.PANELS[0])
    assert only[1]["A"].allocator == "default"


def test_the_axis_holds_every_ratio():
    low, high = plot._limits([plot._chosen(ROWS, panel) for panel in plot.PANELS])
    assert low < 0.8
    assert high > 3.3


def test_png_and_svg(tmp_path, capsys):
    result = tmp_path / "result.json"
    result.write_text(json.dumps({"environment": ABOUT, "rows": [found.as_dict() for found in ROWS]}))
    assert plot.main([str(result), "--out", str(tmp_path / "new" / "picture")]) == 0
    png, svg = tmp_path / "new" / "picture.png", tmp_path / "new" / "picture.svg"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    first = svg.read_bytes()
    plot.draw(ROWS, ABOUT, svg.with_suffix(""))
    assert svg.read_bytes() == first  # no dates and no random names: a picture changes with its numbers only


@pytest.mark.parametrize("text", ["{", "{}", '{"rows": [], "environment": {}}', '{"rows": [{}], "environment": {}}'])
def test_a_file_without_ratios_is_status_2(text, tmp_path, capsys):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(SystemExit) as ended:
        plot.main([str(tmp_path / "bad.json"), "--out", str(tmp_path / "picture")])
    assert ended.value.code == 2
    assert "bad.json" in capsys.readouterr().err
    assert not list(tmp_path.glob("picture*"))
