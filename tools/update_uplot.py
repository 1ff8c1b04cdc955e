"""Fetch the chart library of the run reports with npm, check it, and put it into the package.

python tools/update_uplot.py

For another version change VERSION; the script then prints the sums that it has found and stops, for a look at what
came, and to be entered here.
"""

import gzip
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "1.6.32"
# path in npm's package -> name in ours, SHA-256 of theirs; the package keeps the code, which is large, compressed
FILES = {
    "dist/uPlot.iife.min.js": (
        "uPlot.iife.min.js.gz",
        "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    ),
    "dist/uPlot.min.css": ("uPlot.min.css", "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"),
    "LICENSE": ("LICENSE-uPlot", "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd"),
}
PLACE = Path(__file__).parents[1] / "xpconv" / "report" / "static"


def fetch() -> dict[str, bytes]:
    """The files, by their path in npm's package."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["npm", "pack", "--silent", f"uplot@{VERSION}"], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as package:
            found = {}
            for path in FILES:
                file = package.extractfile(f"package/{path}")
                assert file is not None
                found[path] = file.read()
            return found


def main() -> int:
    """Write the files if all sums are right; the exit status is 1 if one is not."""
    found = fetch()
    sums = {path: hashlib.sha256(data).hexdigest() for path, data in found.items()}
    if any(sums[path] != expected for path, (_, expected) in FILES.items()):
        for path, value in sums.items():
            print(f"{path}: {value}{'' if value == FILES[path][1] else ', expected ' + FILES[path][1]}")
        return 1
    for path, (name, _) in FILES.items():
        data = gzip.compress(found[path], mtime=0) if name.endswith(".gz") else found[path]
        (PLACE / name).write_bytes(data)
    print(f"uPlot {VERSION} is in {PLACE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
