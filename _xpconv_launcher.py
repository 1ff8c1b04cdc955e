"""What the console script ``xpconv`` starts: the command itself, or nothing but a line if Ctrl-C comes while it loads.

A module of its own beside the package: importing one inside would import xpconv, and with it NumPy, before the first
line that could take the interrupt.
"""

import sys


def main() -> int:
    """Run the command; returns the exit status, see ``xpconv.cli.status``."""
    try:
        from xpconv import cli

        return cli.main()
    except KeyboardInterrupt:
        print("xpconv: interrupted", file=sys.stderr)
        return 130
