"""Run reports: a page, one file, that shows what a run did; several runs side by side; a run as it goes on.

`read_run` reads a run folder, `build_page` makes a page of one run or more, `write_report` puts the page of a run into
its folder. ``xpconv train`` does so by itself, ``xpconv report`` does it again or compares runs.
"""

from .collect import Run, read_run
from .page import build_page, write_report

__all__ = ["Run", "build_page", "read_run", "write_report"]
