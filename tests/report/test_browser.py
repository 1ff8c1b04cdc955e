"""The page in a real browser: drawn, quiet, and harmless."""

import json
import shutil

import pytest

from xpconv.report import build_page, read_run
from xpconv.report.serve import LiveReport

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="a browser test takes chromium and chromedriver")

EVIL = "</script><script>window.hurt=1</script><img src=x onerror=window.hurt=1>"
# canvases of a page, and how many pixels of each are drawn
DRAWN = """
return [...document.querySelectorAll("figure.chart:not([hidden]) canvas")].map((canvas) => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const pixels = copy.getImageData(0, 0, canvas.width, canvas.height).data;
  let drawn = 0;
  for (let k = 3; k < pixels.length; k += 4) if (pixels[k]) drawn++;
  return drawn;
});
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A browser with an empty profile."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="a browser test takes selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('profile')}"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(30)
    yield driver
    driver.quit()


@pytest.fixture
def show(chromium, tmp_path):
    """``show(page, width=..., scheme=...)``: a page from a file; at the end there must have been no complaint."""

    def call(page, *, width=1200, scheme="light"):
        file = tmp_path / "page #1.html"
        file.write_text(page, encoding="utf-8", errors="replace")
        look(chromium, width=width, scheme=scheme)
        chromium.get_log("performance")
        chromium.get(file.as_uri())
        return chromium

    yield call
    assert chromium.get_log("browser") == []


def look(driver, *, width=1200, scheme="light"):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def requests(driver):
    """Addresses that were asked for since the log was last read, but for those inside of the page."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith("data:")]


def press(driver, key, selector=None):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    if selector is not None:
        driver.execute_script("document.querySelector(arguments[0]).focus()", selector)
    ActionChains(driver).send_keys(getattr(Keys, key)).perform()


def ground(driver):
    return driver.execute_script("return getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_it_is_drawn(show, make_run, width, scheme):
    driver = show(build_page([read_run(make_run().path)]), width=width, scheme=scheme)
    assert (ground(driver) == "rgb(244, 246, 248)") == (scheme == "light")
    drawn = driver.execute_script(DRAWN)
    assert len(drawn) == 3
    assert min(drawn) > 500
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    sizes = driver.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert sizes == [4, 4, 4]
    assert [url.partition(":")[0] for url in requests(driver)] == ["file"]


def test_charts_follow_the_window(show, make_run):
    from selenium.webdriver.support.wait import WebDriverWait

    fits = """return [...document.querySelectorAll(".chart:not([hidden])")].every((chart) =>
        Math.abs(chart.querySelector("canvas").getBoundingClientRect().width - chart.clientWidth) < 2)"""
    driver = show(build_page([read_run(make_run().path)]))
    for width in (1200, 500, 900):
        look(driver, width=width)
        WebDriverWait(driver, 10, 0.1).until(lambda driver: driver.execute_script(fits))
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_runs_side_by_side(show, make_run, make):
    runs = [make_run("a"), make_run("b", config={"lr": 2}, log=[make.epoch(1)]), make_run("c", log=[])]
    driver = show(build_page([read_run(run.path) for run in runs]))
    assert len(driver.execute_script(DRAWN)) == 5
    assert min(driver.execute_script(DRAWN)) > 500


@pytest.mark.parametrize("log", [[], None, "one"])
def test_any_length(show, make_run, make, log):
    log = [make.epoch(1)] if log == "one" else log
    driver = show(build_page([read_run(make_run(log=log).path)]))
    assert len(driver.execute_script(DRAWN)) == (0 if log == [] else 3)


def test_html_in_names_does_not_run(show, make_run, make):
    values = make.measured(status="failed", message=EVIL, environment={EVIL: EVIL})
    values["predictions"]["mistakes"][0]["file"] = EVIL
    values["filters"]["layer"] = EVIL
    name = EVIL.replace("/", "\N{DIVISION SLASH}")
    log = [make.epoch(1, **{f"val_{EVIL}": 1.0})]
    run = read_run(make_run(name, classes=(EVIL, "\u2028", "'\""), config={EVIL: EVIL}, values=values, log=log).path)
    for page in (build_page([run]), build_page([run, read_run(make_run(f"{name} 2").path)])):
        driver = show(page)
        assert min(driver.execute_script(DRAWN)) > 500
        assert driver.execute_script("return [window.hurt === undefined, document.scripts.length]") == [True, 3]
        assert EVIL[:30] in driver.execute_script("return document.body.innerText")


def test_keyboard(show, make_run):
    """From the first Tab on: the skip link, the button for the colours, then the page; a chart with arrows."""
    driver = show(build_page([read_run(make_run().path)]))
    press(driver, "TAB")
    assert driver.switch_to.active_element.text == "Skip to the results"
    press(driver, "TAB")
    theme = driver.switch_to.active_element
    assert theme.accessible_name == "Dark colours"
    outline = driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    before = ground(driver)
    press(driver, "SPACE")
    assert theme.get_attribute("aria-pressed") == "true"
    dark = ground(driver)
    assert dark != before
    driver.refresh()  # it is remembered
    assert ground(driver) == dark
    press(driver, "SPACE", "#theme")
    assert ground(driver) == before
    press(driver, "HOME", "#c-accuracy .plot")
    press(driver, "ARROW_RIGHT")
    text = driver.execute_script("return document.getElementById('readout').textContent")
    assert text == "epoch 2: training 0.7500, validation 0.7000"


def test_a_curve_can_be_hidden(show, make_run):
    driver = show(build_page([read_run(make_run().path)]))
    before = driver.execute_script(DRAWN)
    press(driver, "SPACE", "#c-accuracy .legend button")
    assert driver.execute_script("return document.activeElement.getAttribute('aria-pressed')") == "false"
    after = driver.execute_script(DRAWN)
    assert after[1] < before[1]
    assert after[0] == before[0]


def test_a_live_page_follows_the_run(chromium, make_run, make):
    """Curves and texts come by themselves; what is opened stays open, and the focus stays where it is."""
    from selenium.webdriver.support.wait import WebDriverWait

    folder = make_run(log=[make.epoch(1)], values={"version": 1, "status": "running"})
    look(chromium)
    with LiveReport(0) as report:
        report.start(folder)
        chromium.get(report.address)
        chromium.execute_script("document.querySelector('[data-name=numbers]').open = true")
        chromium.execute_script("document.querySelector('#c-loss .legend button').focus()")
        folder.append(make.epoch(2))
        folder.append(make.test)
        folder.measured.write_text(json.dumps(make.measured()))
        wait = WebDriverWait(chromium, 20, 0.1)
        wait.until(lambda driver: "0.7000" in driver.find_element("id", "result").text)
        assert "finished" in chromium.find_element("tag name", "h1").text
        assert "Confusion matrix" in chromium.find_element("id", "classes").text
        assert len(chromium.find_elements("css selector", "[data-name=numbers][open] tbody tr")) == 2
        assert chromium.switch_to.active_element.text.startswith("one batch")
        assert min(chromium.execute_script(DRAWN)) > 500
        assert chromium.get_log("browser") == []
    wait.until(lambda driver: "The run has ended" in driver.find_element("id", "connection").text)
    chromium.get("about:blank")
    chromium.get_log("browser")  # that the server is gone
