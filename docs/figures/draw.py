"""Draw the pictures of the documentation: ``python docs/figures/draw.py [NAME ...] [--out FOLDER]``.

Every other module in this folder whose name does not begin with an underscore is a figure. It has

- ``PICTURES``, the names of the files that it makes, such as ``("im2col.svg",)``;
- ``draw(folder)``, which makes them in ``folder``, a `pathlib.Path` that exists;
- and, where drawing takes more than some three seconds, ``SLOW = True``, which keeps it out of the tests.

``_style`` has the colours, and ``save``, which writes the same bytes for the same figure. The pictures are committed in
``docs/images``.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

__all__ = ["FIGURES", "IMAGES", "load", "main", "names"]

FIGURES = Path(__file__).resolve().parent
IMAGES = FIGURES.parent / "images"


def names() -> list[str]:
    """The names of all figures, sorted."""
    found = (path.stem for path in FIGURES.glob("*.py"))
    return sorted(name for name in found if not name.startswith("_") and name != "draw")


def load(name: str) -> ModuleType:
    """The module of the figure ``name``.

    Raises
    ------
    ValueError
        There is none.
    """
    if name not in names():
        raise ValueError(f"{name}: no such figure; there are {', '.join(names())}")
    spec = importlib.util.spec_from_file_location(f"docs_figures_{name}", FIGURES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(FIGURES))  # for `import _style`
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FIGURES))
    return module


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the figures that are named, or all; the exit status."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the documentation.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"figures to draw, all if none: {', '.join(names())}")
    parser.add_argument("--out", type=Path, default=IMAGES, metavar="FOLDER", help="default: docs/images")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in names()]
    if unknown:
        parser.error(f"no such figure: {', '.join(unknown)}; there are {', '.join(names())}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or names():
        figure = load(name)
        figure.draw(options.out)
        missing = [picture for picture in figure.PICTURES if not (options.out / picture).is_file()]
        if missing:
            print(f"{name}: did not draw {', '.join(missing)}", file=sys.stderr)
            return 1
        for picture in figure.PICTURES:
            print(f"{options.out / picture}: {(options.out / picture).stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
