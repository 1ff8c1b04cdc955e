"""The pictures of docs/guides/plotting.md, by the code that the page shows."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from pathlib import Path

PICTURES = (
    "class-activation-map.png",
    "confusion-matrix.png",
    "feature-maps.png",
    "filters.png",
    "learning-curves.png",
    "saliency.png",
    "side-by-side.png",
)
SLOW = True  # it trains a network; the tests run the page itself

PAGE = Path(__file__).resolve().parents[1] / "guides" / "plotting.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def draw(folder: Path) -> None:
    """Run the page in a temporary folder, and take the pictures that it saves."""
    code = "\n".join(_BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory() as scratch:
        with contextlib.chdir(scratch):
            exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})
        for picture in PICTURES:
            shutil.copyfile(Path(scratch) / picture, folder / picture)
