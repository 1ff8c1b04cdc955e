"""``python -m xpconv`` is the command ``xpconv``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
