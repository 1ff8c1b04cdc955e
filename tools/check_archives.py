"""Look into a built wheel and sdist: the wheel holds only the package and no sources of kernels, the sdist all of them.

A wheel may take up to 5 MB (of 10**6 bytes) when it is installed, before Python adds its byte code.

python tools/check_archives.py dist/*
"""

import sys
import tarfile
import zipfile
from pathlib import Path

REQUIRED_IN_WHEEL = (
    "_xpconv_launcher.py",
    "xpconv/py.typed",
    "xpconv/_cuda/common.cuh",
    "xpconv/data/bundled/",
    "xpconv/report/static/page.js",
)
ITS_OWN = ("xpconv/", "xpconv-", "_xpconv_launcher.py")
FORBIDDEN_IN_WHEEL = (".c", ".h", ".pyx", ".pxi", ".pxd", ".cpp")
REQUIRED_IN_SDIST = ("setup.py", "pyproject.toml", "kernels/cpu/", "kernels/cuda/", "tests/", "xpconv/data/bundled/")
INSTALLED_LIMIT = 5_000_000  # bytes


def installed_size(path: Path) -> int:
    """Bytes that the files of a wheel take when they are unpacked."""
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def wheel_faults(path: Path) -> list[str]:
    """What is wrong with a wheel."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    faults = [f"holds {n}" for n in names if n.endswith(FORBIDDEN_IN_WHEEL)]
    faults += [f"holds {n} outside the package" for n in names if not n.startswith(ITS_OWN)]
    faults += [f"lacks {want}" for want in REQUIRED_IN_WHEEL if not any(n.startswith(want) for n in names)]
    if not any(n.startswith("xpconv/_cpu/") and n.endswith((".so", ".pyd")) for n in names):
        faults.append("lacks compiled kernels")
    if installed_size(path) > INSTALLED_LIMIT:
        with zipfile.ZipFile(path) as archive:
            largest = sorted(archive.infolist(), key=lambda entry: -entry.file_size)[:5]
        sizes = ", ".join(f"{entry.filename} {entry.file_size / 1e6:.2f}" for entry in largest)
        faults.append(f"takes more than {INSTALLED_LIMIT / 1e6} MB installed (the largest: {sizes})")
    return faults


def sdist_faults(path: Path) -> list[str]:
    """What is wrong with a source archive."""
    with tarfile.open(path) as archive:
        names = [n.partition("/")[2] for n in archive.getnames()]
    faults = [f"lacks {want}" for want in REQUIRED_IN_SDIST if not any(n.startswith(want) for n in names)]
    return faults + [f"holds {n}" for n in names if n.endswith((".so", ".pyc"))]


def main(paths: list[str]) -> int:
    """Check each archive, print what is wrong; the exit status is 1 if anything is."""
    status = 0
    for path in map(Path, paths):
        faults = wheel_faults(path) if path.suffix == ".whl" else sdist_faults(path)
        size = f"{path.stat().st_size / 1e6:.2f} MB"
        if path.suffix == ".whl":
            size += f", {installed_size(path) / 1e6:.2f} MB installed"
        print(f"{path.name}: {size}, {'as it should be' if not faults else '; '.join(faults)}")
        status |= bool(faults)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
