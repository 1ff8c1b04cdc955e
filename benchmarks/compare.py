"""What a change made slower and what faster: two commits of xpconv, measured in turn by the sections of this checkout.

::

    python -m benchmarks.compare main~5 main                        # convolution, layers, training; some minutes
    python -m benchmarks.compare v0.1 HEAD convolution --only "k3" --threads 1 2 --rounds 9
    python -m benchmarks.compare ../before . layers                 # folders in which xpconv is built already

Each commit is checked out into a temporary worktree and built there with the compiler and the packages of this
interpreter. Then processes of the two run in turn, each with the named sections, xpconv alone and no peers. A row has
changed if the median over rounds of the ratio within a round is beyond the threshold, if three quarters of the rounds
agree on the direction, and if the best round of one side is beyond the threshold from the best of the other: a machine
that does something else beside misleads one of these, seldom all.

The exit status is 1 if a row got slower, or if a section failed on one side.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from .command import add_options
from .cpu.script import SECTIONS, environment_of, run_section, variants
from .report import Row
from .timing import Ratio, ratio

__all__ = ["Change", "changes", "main", "tree", "verdict"]

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ("convolution", "layers", "training")

Key = tuple[str, str, str, int]


class Change(NamedTuple):
    """One row on both sides: the best rounds, in its unit, and first / second, above 1 where the second is better."""

    key: Key
    unit: str
    first: float
    second: float
    ratio: Ratio

    def __str__(self) -> str:
        benchmark, case, operation, threads = self.key
        value, low, high = self.ratio
        unit = f" {self.unit}".rstrip()
        return (
            f"{benchmark}: {case}, {operation}, threads {threads}: {self.first:.3g} -> {self.second:.3g}{unit}, "
            f"{value:.2f} ({low:.2f}-{high:.2f})"
        )


# ---- the two sides ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def tree(what: str, folder: Path, root: Path = ROOT) -> Iterator[Path]:
    """A folder with xpconv built in it.

    Parameters
    ----------
    what
        A folder that has it, or what git knows as a commit.
    folder
        Where a worktree may go.

    Raises
    ------
    ValueError
        Neither; or the build fails, with what it said last.
    """
    if Path(what, "xpconv", "__init__.py").exists():
        yield Path(what).resolve()
        return
    git = ["git", "-C", str(root)]
    found = subprocess.run(
        [*git, "rev-parse", "--verify", "--quiet", f"{what}^{{commit}}"], capture_output=True, text=True
    )
    if found.returncode:
        raise ValueError(f"{what}: neither a commit nor a folder with xpconv in it")
    subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(folder), found.stdout.strip()], check=True)
    try:
        print(f"building {what} ({found.stdout.strip()[:10]}) ...", file=sys.stderr, flush=True)
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if built.returncode:
            said = (built.stderr or built.stdout).strip().splitlines() or ["no message"]
            raise ValueError(f"{what}: does not build: {said[-1]}")
        yield folder
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(folder)], check=True)


# ---- what they say ------------------------------------------------------------------------------------------------


def _key(row: Row) -> Key:
    return row.benchmark, row.case, row.operation, row.threads


def changes(first: Sequence[Sequence[Row]], second: Sequence[Sequence[Row]]) -> list[Change]:
    """Rows that both sides have in every round.

    Parameters
    ----------
    first, second
        Rows of each round.
    """

    def by_key(rounds: Sequence[Sequence[Row]]) -> Mapping[Key, list[Row]]:
        found: dict[Key, list[Row]] = {}
        for rows in rounds:
            for row in rows:
                if row.values.get(row.subject):
                    found.setdefault(_key(row), []).append(row)
        return {key: rows for key, rows in found.items() if len(rows) == len(rounds)}

    before, after = by_key(first), by_key(second)
    result = []
    for key, rows in before.items():
        if key in after:
            a, b = ([row.values[row.subject] for row in side[key]] for side in (before, after))
            result.append(Change(key, rows[0].unit, min(a), min(b), ratio(a, b)))
    return result


def verdict(change: Change, threshold: float) -> Literal["slower", "faster", "same"]:
    """Whether a row has changed: by the median of its ratios, in three of four rounds, and by its best rounds."""
    value, low, high = change.ratio
    best = change.first / change.second
    if max(value, best) * (1 + threshold) < 1 and high < 1:
        return "slower"
    if min(value, best) > 1 + threshold and low > 1:
        return "faster"
    return "same"


def report(found: Sequence[Change], threshold: float) -> list[str]:
    """Lines: the slower ones first, the worst on top; then the faster ones; then how many stayed."""
    lines = []
    for name, reverse in (("slower", False), ("faster", True)):
        some = [change for change in found if verdict(change, threshold) == name]
        if some:
            lines.append(f"{name} ({len(some)}):")
            ordered = sorted(some, key=lambda change: change.ratio.value, reverse=reverse)
            lines += [f"  {change}" for change in ordered]
    same = sum(verdict(change, threshold) == "same" for change in found)
    return [*lines, f"no change beyond {threshold:.0%}: {same} of {len(found)} rows"]


# ---- the command --------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", metavar="BEFORE", help="a commit, or a folder with xpconv built in it")
    parser.add_argument("second", metavar="AFTER", help="likewise")
    names = [name for name in SECTIONS if name != "ceilings"]
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(names)} (default: {' '.join(DEFAULT)})"
    )
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="processes of each side (default: 7)")
    parser.add_argument(
        "--threshold", type=float, default=0.05, metavar="PART", help="what counts as a change (default: 0.05)"
    )
    parser.add_argument("--full", dest="size", action="store_const", const="full", help="all operations, more rounds")
    add_options(parser)
    parser.set_defaults(size="quick", peers=False, threads=[1])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    names = arguments.sections or DEFAULT
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown section {', '.join(unknown)}; known are {', '.join(SECTIONS)}")
    if arguments.rounds < 1 or min(arguments.threads) < 1:
        parser.error("--rounds, --threads: take whole numbers from 1 on")
    todo = [
        variant for name in names for variant in variants(name, arguments.size, arguments.threads)
        if variant.allocator == SECTIONS[name].allocators[0]
    ]  # fmt: skip
    sides: list[list[list[Row]]] = [[], []]
    failed: dict[str, None] = {}
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        # a folder from which this checkout's benchmarks are imported, but not its xpconv
        here = Path(temporary, "here")
        here.mkdir()
        (here / "benchmarks").symlink_to(ROOT / "benchmarks", target_is_directory=True)
        try:
            trees = [
                stack.enter_context(tree(what, Path(temporary, name)))
                for name, what in (("first", arguments.first), ("second", arguments.second))
            ]
        except ValueError as error:
            parser.error(str(error))
        start = time.monotonic()
        for k in range(arguments.rounds):
            print(f"[round {k + 1}/{arguments.rounds}, {time.monotonic() - start:.0f} s]", file=sys.stderr, flush=True)
            rows: list[list[Row]] = [[], []]
            for variant in todo:
                for side in (0, 1) if k % 2 == 0 else (1, 0):
                    environ = {**environment_of(variant), "PYTHONPATH": str(trees[side])}
                    got, wrong = run_section(variant, arguments, folder=here, environ=environ)
                    rows[side] += got
                    if wrong is not None:
                        failed[f"{(arguments.first, arguments.second)[side]}: {wrong}"] = None
            for side in (0, 1):
                sides[side].append(rows[side])
    found = changes(*sides)
    print(f"{arguments.first} -> {arguments.second}, {arguments.rounds} rounds; above 1 the second is faster")
    print("\n".join(report(found, arguments.threshold)))
    for line in failed:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if failed or any(verdict(change, arguments.threshold) == "slower" for change in found) else 0


if __name__ == "__main__":
    sys.exit(main())
