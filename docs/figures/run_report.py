"""The page that `xpconv train` leaves, as a browser shows it; takes chromium, chromedriver and selenium."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURES = ("run-report.png",)
SLOW = True  # it trains a network

_WIDTH, _HEIGHT = 1200, 1560
_FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
    *("disable-component-update", "disable-sync", "hide-scrollbars"),
)


def draw(folder: Path) -> None:
    """Train, open the page, and take its upper part: light on the left, dark on the right."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "xpconv", "train", "--epochs", "8", "--quiet", "--out", "fashion"]
        subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        light, dark = (Image.open(io.BytesIO(shot)).convert("RGB") for shot in _shots(Path(scratch)))
    right = (_WIDTH // 2, 0, _WIDTH, _HEIGHT)
    light.paste(dark.crop(right), right)
    # flat colours: a palette takes a fifth of the bytes
    light.resize((_WIDTH * 4 // 5, _HEIGHT * 4 // 5), Image.Resampling.LANCZOS).quantize(128).save(
        folder / PICTURES[0], optimize=True
    )


def _shots(scratch: Path) -> list[bytes]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in (*_FLAGS, f"user-data-dir={scratch / 'profile'}"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        size = {"width": _WIDTH, "height": _HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        shots = []
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            driver.get((scratch / "fashion" / "report.html").as_uri())
            shots.append(base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]))
    finally:
        driver.quit()
    return shots
