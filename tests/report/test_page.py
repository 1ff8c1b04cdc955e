"""The page as text: whole, well built, and harmless whatever the run is called."""

import base64
import gzip
import hashlib
import itertools
import json
import re
import shlex
from html.parser import HTMLParser
from importlib import resources

import pytest

import xpconv
from xpconv.report import build_page, read_run, write_report
from xpconv.report.page import charts_of

EVIL = "</script><script>window.hurt=1</script><img src=x onerror=window.hurt=1>'\"&\u2028\x00"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Tree(HTMLParser):
    """Tags with their attributes, texts by tag, and whether every tag is closed in order."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.stack = [], [], []
        self.feed(page)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute of {tag} is given twice"
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, text):
        self.texts.append((self.stack[-1] if self.stack else "", text))

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag):
        return [text for name, text in self.texts if name == tag]


def page_of(folder):
    return build_page([read_run(folder.path)])


def chart_data(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL).group(1))


def test_everything_is_in_it(make_run):
    page = page_of(make_run("a run"))
    tree = Tree(page)
    assert tree.text("title") == ["a run | xpconv report"]
    assert tree.text("h2") == [
        "Result", "Learning curves", "Classes and mistakes", "First layer", "Time by layer", "Configuration",
        "Environment",
    ]  # fmt: skip
    for text in ("0.7000", "0.9000", "1,234", "3.0 s", "finished", "conv1", "small-cnn on pets", "2026-01-02 03:04:05"):
        assert any(text in found for _, found in tree.texts), text
    assert not any(found in ("None", "nan") for _, found in tree.texts)


def test_a_page_is_built_as_it_should_be(make_run):
    """Landmarks, headings in order, names of everything, tables with headers, no id twice."""
    for runs in ([make_run("a")], [make_run("b"), make_run("c", config={"lr": 2})]):
        tree = Tree(build_page([read_run(run.path) for run in runs]))
        assert tree.of("html") == [{"lang": "en"}]
        assert [len(tree.of(tag)) for tag in ("header", "nav", "main", "footer", "h1", "title")] == [1] * 6
        ids = [attributes["id"] for _, attributes in tree.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        levels = [int(tag[1]) for tag, _ in tree.tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
        assert all("alt" in attributes for attributes in tree.of("img"))
        assert all(attributes["scope"] in ("row", "col") for attributes in tree.of("th"))
        assert len(tree.of("table")) == len(tree.of("caption"))
        for _, attributes in tree.tags:
            for reference in (attributes.get("aria-labelledby"), (attributes.get("href") or "")[1:] or None):
                assert reference is None or reference in (*ids, "ata:,"), reference
            if attributes.get("role") in ("img", "group"):
                assert attributes["aria-label"]


def test_it_asks_for_nothing(make_run):
    page = page_of(make_run())
    tree = Tree(page)
    for tag, attributes in tree.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "action", "data"):
                assert value.startswith(("data:", "#")), (tag, name, value)
    styles = "".join(tree.text("style"))
    assert "@import" not in styles
    assert "url(" not in styles
    policy = next(m["content"] for m in tree.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
    hashes = re.findall(r"'sha256-([^']+)'", policy)
    scripts = [text for tag, text in tree.texts if tag == "script"][1:]
    assert hashes == [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert len(page) < 250_000


def test_a_served_page_may_ask_its_server(make_run):
    run = read_run(make_run().path)
    page = build_page([run], live=True)
    assert "connect-src 'self'" in page
    assert chart_data(page)["live"] is True
    with pytest.raises(ValueError, match="runs: expected one run, got 2"):
        build_page([run, run], live=True)
    with pytest.raises(ValueError, match="runs: expected at least one run, got 0"):
        build_page([])


def test_names_with_html_are_texts(make_run, make):
    values = make.measured(
        status="failed", message=EVIL, started=EVIL, environment={EVIL: EVIL},
    )  # fmt: skip
    values["predictions"]["weights"] = EVIL
    values["predictions"]["mistakes"][0]["file"] = EVIL
    values["filters"]["layer"] = values["filters"]["kind"] = EVIL
    values["layers"]["rows"][0][:2] = [EVIL, EVIL]
    log = [make.epoch(1, **{f"val_{EVIL}": 1.0}), make.test]
    name = EVIL.replace("/", "\N{DIVISION SLASH}").replace("\x00", "")
    folder = make_run(name, classes=(EVIL, "dog", EVIL), log=log, values=values, config={EVIL: EVIL, "data": EVIL})
    run = read_run(folder.path)
    for page in (build_page([run]), build_page([run, read_run(make_run("other").path)]), build_page([run], live=True)):
        tree = Tree(page)
        assert len(tree.of("script")) == 3
        assert all(attributes["src"].startswith("data:image/png") for attributes in tree.of("img"))
        assert "\u2028" not in page[page.index('id="data">') :]
        assert any(EVIL[:20] in text for tag, text in tree.texts if tag in ("th", "td"))


def test_paths_with_html_in_the_data_of_the_charts(make_run):
    """Runs of one name are called by their paths, in which a script element can end."""
    runs = [read_run(make_run(f"{parent}</script><script>window.hurt=1<").path) for parent in "ab"]
    page = build_page(runs)
    assert len(Tree(page).of("script")) == 3
    labels = [series["label"] for series in chart_data(page)["charts"][0]["series"]]
    assert labels == [str(run.path) for run in runs]
    assert "</script><script>" in labels[0]


def test_names_that_are_no_text(make_run, make):
    """Bytes of file names that are not UTF-8."""
    values = make.measured()
    values["predictions"]["mistakes"][0]["file"] = "b\udcff.png"
    folder = make_run("r\udcff", values=values)
    write_report(folder)
    assert "b?.png" in folder.report.read_text(encoding="utf-8")


def test_precision_and_recall(make_run):
    """Of the three classes of the confusion matrix in conftest, by hand."""
    tree = Tree(page_of(make_run()))
    texts = [text for _, text in tree.texts]
    start = texts.index("F1") + 2
    rows = [t for t in texts[start:] if t.strip()][:15]
    assert rows == [
        "cat", "0.6667", "0.5000", "0.5714", "4",
        "dog", "0.6000", "1.0000", "0.7500", "3",
        "eel", "1.0000", "0.6667", "0.8000", "3",
    ]  # fmt: skip


def test_the_confusion_matrix(make_run):
    page = page_of(make_run())
    matrix = page[page.index('<table class="matrix">') :]
    cells = re.findall(r'<td class="([de]\d)">(\d+)</td>', matrix[: matrix.index("</table>")])
    assert [int(count) for _, count in cells] == [2, 2, 0, 0, 3, 0, 1, 0, 2]
    assert [kind for kind, _ in cells] == ["d4", "e6", "e0", "e0", "d6", "e0", "e4", "e0", "d5"]


def test_a_thousand_classes(make_run, make):
    """The page stays readable: a part of the matrix, the worst classes, and all of them on demand."""
    values = make.measured()
    pairs = [[k, k, 9] for k in range(1000)] + [[k, k + 1, 1 + k % 7] for k in range(0, 999, 3)]
    values["predictions"] |= {"confusion": pairs, "images": 10000, "total": 10000}
    page = page_of(make_run(classes=[f"class {k}" for k in range(1000)], values=values))
    tree = Tree(page)
    assert "Confusion matrix: the 15 classes of 1,000 with most mistakes" in tree.text("h3")
    matrix = page[page.index('<table class="matrix">') :]
    matrix = matrix[: matrix.index("</table>")]
    assert matrix.count("<tr>") == 16
    # what is not shown is counted: each row adds up to the images of its class
    for row in matrix.split("<tr>")[2:]:
        label = int(re.search(r"class (\d+)</th>", row).group(1))
        total = 9 + (1 + label % 7 if label % 3 == 0 and label < 999 else 0)
        assert sum(map(int, re.findall(r"<td[^>]*>(\d+)</td>", row))) == total
    assert "All 1,000 classes" in tree.text("summary")
    assert len(page) < 700_000


def test_class_numbers_beyond_all_bounds(make_run, make):
    values = make.measured()
    values["predictions"]["confusion"] = [[2**50, 3, 1]]
    assert str(2**50) in page_of(make_run(values=values))


def test_a_long_run_is_thinned(make_run, make):
    log = [make.step(k / 20) for k in range(8000)] + [make.epoch(k) for k in range(1, 401)]
    page = page_of(make_run(log=log))
    charts = {chart["name"]: chart for chart in chart_data(page)["charts"]}
    assert len(charts["loss"]["x"]) <= 600 + 400
    assert charts["accuracy"]["x"] == list(range(1, 401))
    assert len(page) < 500_000
    assert page.count("<tr>") > 400  # all of them in the table


def test_curves_with_gaps(make_run, make):
    """A loss that was not finite leaves a gap, a run without class labels has no accuracy."""
    log = [make.epoch(k, loss=None if k == 2 else 1.0, accuracy=None, val_accuracy=None) for k in (1, 2, 3)]
    run = read_run(make_run(log=log).path)
    charts = {chart.name: chart.as_json() for chart in charts_of(run)}
    training = next(series for series in charts["loss"]["series"] if series["label"] == "training")
    assert training["y"] == [1.0, None, 1.0]
    assert charts["accuracy"]["x"] == []
    page = build_page([run])
    assert re.search(r'id="c-accuracy" hidden', page)
    assert not re.search(r'id="c-loss" hidden', page)


@pytest.mark.parametrize(
    ("log", "values"),
    [([], False), ([], None), (None, False)],
)
def test_a_run_that_is_half_there(make_run, log, values):
    page = page_of(make_run(log=log, values=values))
    tree = Tree(page)
    assert ("No epoch is finished yet." in tree.text("p")) == (log == [])
    assert ("The time of each layer is not in this run folder." in tree.text("p")) == (values is False)


def test_how_runs_end(make_run, make):
    folder = make_run("my run", values=make.measured(status="interrupted"))
    note = next(text for text in Tree(page_of(folder)).text("p") if "To go on: " in text)
    words = shlex.split(note.partition("To go on: ")[2])  # as a shell takes it, blanks in the path or not
    assert words == ["xpconv", "train", "--resume", str(folder.path)]
    assert "The run failed: too hot" in page_of(make_run("f", values=make.measured(status="failed", message="too hot")))
    values = {"version": 1, "status": "running"}
    assert "The time of each layer comes when the run ends." in page_of(make_run("u", values=values))


def test_runs_side_by_side(make_run, make):
    first = make_run("a", config={"lr": 0.5, "model": "lenet"})
    log = [make.epoch(1, val_accuracy=0.95), {**make.test, "accuracy": 0.9, "loss": 1.5}]
    second = make_run("b", log=log, values=make.measured(environment={"NumPy": "2.5", "threads": "2"}))
    page = build_page([read_run(first.path), read_run(second.path)])
    tree = Tree(page)
    assert tree.text("h1")[0].strip() == "2 runs side by side"
    differs = page[page.index('id="config"') : page.index('id="environment"')]
    assert re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', differs) == [
        ("model", "lenet", "small-cnn"), ("lr", "0.5", "0.01"),
    ]  # fmt: skip
    machine = page[page.index('id="environment"') :]
    assert re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', machine) == [("NumPy", "2.4", "2.5")]
    results = page[page.index('id="result"') : page.index('id="curves"')]
    assert '<th scope="row">test accuracy</th><td>0.7000</td><td class="best">0.9000' in results
    assert '<th scope="row">test loss</th><td class="best">0.9000<small> best</small></td><td>1.5000</td>' in results
    charts = {chart["name"]: chart for chart in chart_data(page)["charts"]}
    assert [series["label"] for series in charts["val-accuracy"]["series"]] == ["a", "b"]
    assert charts["val-accuracy"]["series"][1]["y"] == [0.95, None]


def test_runs_of_one_name(make_run, tmp_path):
    runs = [read_run(make_run(name).path) for name in ("x/run", "y/run")]
    assert f"{tmp_path}/x/run" in Tree(build_page(runs)).text("th")


def test_many_runs(make_run):
    runs = [read_run(make_run(f"run {k}").path) for k in range(20)]
    charts = chart_data(build_page(runs))["charts"]
    looks = [(series["colour"], series["style"]) for series in charts[0]["series"]]
    assert len(set(looks)) == 20


# ---- colours ------------------------------------------------------------------------------------------------------


def luminance(colour):
    """Relative luminance of #rrggbb, WCAG 2.2."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_chart_library_is_whole(make_run):
    """uPlot lies compressed in the package, and is in the page as its author published it."""
    packed = resources.files(xpconv).joinpath("report", "static", "uPlot.iife.min.js.gz").read_bytes()
    code = gzip.decompress(packed)
    assert hashlib.sha256(code).hexdigest() == "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"
    assert code.decode().strip() in page_of(make_run())


STYLE = resources.files(xpconv).joinpath("report", "static", "page.css").read_text(encoding="utf-8")
PAIR = r"light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)"
COLOURS = {name: pair for name, *pair in re.findall(rf"--([a-z0-9-]+): {PAIR}", STYLE)}


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast(theme):
    """4.5 for texts, 3 for curves: level AA."""
    colour = {name: pair[theme] for name, pair in COLOURS.items()}
    for ground in ("ground", "card"):
        for text in ("ink", "dim", "accent"):
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
        for name in colour:
            if re.fullmatch(r"[rs]\d", name):
                assert contrast(colour[name], colour[ground]) >= 3, name
    assert contrast(colour["warn"], colour["warn-ground"]) >= 4.5
    levels = re.findall(rf"\.([de]\d) \{{ color: {PAIR}; background: {PAIR}; \}}", STYLE)
    assert len(levels) == 12
    for name, *four in levels:
        assert contrast(four[theme], four[2 + theme]) >= 4.5, name
    none = re.search(rf"\.d0, \.e0 \{{ color: var\(--dim\); background: {PAIR}; \}}", STYLE).group(1 + theme)
    assert contrast(colour["dim"], none) >= 4.5
    for name in ("s1", "s2"):
        text = re.search(rf"\.{'f' if name == 's1' else 'b'} \{{ .*?color: {PAIR}", STYLE).group(1 + theme)
        assert contrast(text, colour[name]) >= 4.5
