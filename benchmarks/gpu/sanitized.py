"""``xpconv parity`` with an allocation of its own for every array: what compute-sanitizer is run on."""

from __future__ import annotations

import sys

from xpconv.cli import main

if __name__ == "__main__":
    import cupy

    cupy.cuda.set_allocator(None)
    sys.exit(main(["parity", *sys.argv[1:]]))
