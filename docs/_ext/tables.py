"""Tables that are made when the site is built: what was measured, and which kernels there are.

``performance-tables``
    The newest results of the CPU in benchmarks/results, and the curves on CIFAR-10, each with its machine, date,
    versions and command.
``support-table``
    Which backend has a compiled kernel for which operator, asked of the dispatch table that calls go by.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import xpconv
from xpconv import _config, _generic
from xpconv._gpu import ENGINES as GPU_ENGINES
from xpconv._gpu import GpuBackend
from xpconv.backends import Backend, Engine, load_backend, registered_backends, serving, use_kernels

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


class _Markdown(SphinxDirective, ABC):
    """A directive whose content is made as Markdown."""

    @abstractmethod
    def markdown(self) -> str:
        """The content."""

    def run(self) -> list[nodes.Node]:
        source = f"<{self.name}>"
        section = nodes.section()
        section.document = document = self.state.document
        before = {id(found) for found in document.findall(nodes.table)}
        self.state.nested_parse(
            StringList(self.markdown().splitlines(), source), self.content_offset, section, match_titles=True
        )
        # what follows a heading is put below the document, and not below our section
        for found in (*document.findall(nodes.table), *section.findall(nodes.table)):
            if id(found) not in before:
                found["classes"].append(self.name)
        return section.children


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


# ---- what was measured ----------------------------------------------------------------------------------------------


def read_results(folder: Path = RESULTS) -> list[tuple[Path, dict[str, Any]]]:
    """The files of results, newest first, by the date of the run."""
    found = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("*.json")]
    return sorted(found, key=lambda pair: (pair[1]["environment"]["date"], pair[0].name), reverse=True)


def _facts(path: Path, environment: dict[str, Any], command: str) -> str:
    """Machine, date, versions and command of a run, as a list."""
    versions = [f"{name} {environment[name]}" for name in ("xpconv", "numpy", "torch", "jax") if environment.get(name)]
    commit = f" (commit {environment['commit']})" if environment.get("commit") else ""
    isa = f", kernels for {environment['instruction_set']}" if environment.get("instruction_set") else ""
    return "\n".join(
        (
            f"- Machine: {environment['cpu']}, {environment['cores']} cores ({', '.join(environment['instructions'])})"
            f"{isa}; {environment['system']}; load {environment['load']} at the start",
            f"- Date: {environment['date']}",
            f"- Versions: Python {environment['python']}, {', '.join(versions)}{commit}",
            f"- Command: `{command}`",
            f"- All numbers: `benchmarks/results/{path.name}`",
        )
    )


_TITLES = {
    "ceilings": "What the machine can do",
    "convolution": "Convolutions",
    "layers": "Layers and optimizer steps",
    "training": "Training steps",
    "overhead": "Small calls",
    "accuracy": "Rounding errors",
    "memory": "Memory",
}


def _measurements(result: dict[str, Any]) -> list[str]:
    """The tables of one run of ``benchmarks.cpu``."""
    from benchmarks.report import Row, markdown

    rows = [Row.from_dict(fields) for fields in result["rows"]]
    blocks = []
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        body = markdown([row for row in rows if row.benchmark == benchmark])
        lines = _without_constant(line for line in body.splitlines() if not line.startswith("## "))
        blocks += [f"### {_TITLES.get(benchmark, benchmark)}", "\n".join(lines).strip()]
    return blocks


def _without_constant(lines: Iterable[str], column: str = "allocator") -> list[str]:
    """The lines of tables without that column where it is the same in every row; the command names it."""
    lines = list(lines)
    rows = [(k, line.strip("| ").split(" | ")) for k, line in enumerate(lines) if line.startswith("|")]
    places = [cells.index(column) for _, cells in rows if column in cells]
    values = {cells[places[0]] for _, cells in rows if places and column not in cells and set(cells) != {"---"}}
    if len(set(places)) == 1 and len(values) == 1:
        for k, cells in rows:
            kept = cells[: places[0]] + cells[places[0] + 1 :]
            lines[k] = "| " + " | ".join(kept) + " |"
    return lines


def _curves(result: dict[str, Any]) -> list[str]:
    """Loss and accuracy by epoch of the contenders."""
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result["settings"].items())
    names = list(result["curves"])
    columns = [f"{name}: {what}" for name in names for what in ("loss", "test accuracy", "seconds")]
    rows = []
    for records in zip(*result["curves"].values(), strict=False):
        row = [str(records[0]["epoch"])]
        for record in records:
            row += [f"{record['loss']:.3f}", f"{record['test_accuracy']:.4f}", f"{record['seconds']:.0f}"]
        rows.append(row)
    return [f"Settings: {settings}.", table(["epoch", *columns], rows)]


def performance_markdown() -> str:
    """The newest whole run of ``benchmarks.cpu``, later runs of a part, and the newest curves."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    results = read_results()
    cpu = [(path, result) for path, result in results if "rows" in result and "command" in result]
    whole = next((pair for pair in cpu if not _parts(pair[1]["command"])), None)  # a run of a part names it
    blocks = []
    if whole is not None:
        path, result = whole
        blocks += ["## On the CPU", _facts(path, result["environment"], result["command"]), *_measurements(result)]
        for later, part in cpu:
            when = part["environment"]["date"]
            if when > result["environment"]["date"]:
                title = f"## A part, measured again on {when[:16]}"
                blocks += [title, _facts(later, part["environment"], part["command"]), *_measurements(part)]
    for path, result in results:
        if "curves" in result:
            command = result.get("command", "python -m benchmarks.cifar10_curves")
            title = "## ResNet on CIFAR-10, in xpconv and in PyTorch"
            blocks += [title, _facts(path, result["environment"], command), *_curves(result)]
            break
    return "\n\n".join(blocks)


class PerformanceTables(_Markdown):
    """``performance-tables``: see the module."""

    def markdown(self) -> str:
        """What `performance_markdown` gives; the page is made anew when a result changes."""
        for path in RESULTS.glob("*.json"):
            self.env.note_dependency(str(path))
        return performance_markdown()


def _parts(command: str) -> tuple[str, ...]:
    """The benchmarks that a command names: none for all of them."""
    words = command.partition("benchmarks.cpu")[2].split()
    parts = []
    for word in words:
        if word.startswith("-"):
            break
        parts.append(word)
    return tuple(parts) if "--only" not in words else (*parts, "--only")


# ---- which kernels there are ----------------------------------------------------------------------------------------


def _backend_class(name: str) -> type[Backend]:
    """The class of a backend of ours, which need not be able to start here."""
    try:
        module = importlib.import_module(f"xpconv.backends.{name}")
    except ImportError:
        module = importlib.import_module("xpconv.testing.cuda_host.backend")
    mine = [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Backend) and cls.__module__ == module.__name__
    ]
    return mine[0]


def dispatch_table() -> dict[str, Any]:
    """Backends by name, each with the engines that `xpconv.backends.serving` chooses from."""
    found: dict[str, Any] = {}
    for name in registered_backends():
        if name == "numpy":
            found[name] = load_backend(name)
            continue
        cls = _backend_class(name)
        engines: Any = cls.engines
        if issubclass(cls, GpuBackend):
            engines = {
                operator: tuple(Engine(*entry) for entry in entries) for operator, entries in GPU_ENGINES.items()
            }
        found[name] = SimpleNamespace(name=name, engines=engines)
    return found


def support(backend: Any, operator: str, dtype: str) -> str:
    """``"kernel"`` where an engine serves all calls that are asked about, ``"generic"``, or both."""
    kinds = []
    with use_kernels("auto"):
        for geometry in _config._geometries(operator):
            engine = serving(backend, operator, dtype, geometry)
            kinds.append("generic" if engine.name == "generic" else "kernel")
    return " and ".join(dict.fromkeys(kinds))


_SIGNS = {"kernel": "**kernel**", "generic": "generic", "kernel and generic": "**kernel** and generic"}


def support_rows() -> tuple[list[str], list[list[str]]]:
    """Header and rows: operators by backends; operator and backward share a row where they are served alike."""
    backends = dispatch_table()
    cells = {
        operator: [_SIGNS[support(backend, operator, "float32")] for backend in backends.values()]
        for operator in _generic.__all__
    }
    rows = []
    for operator, row in cells.items():
        forward = operator.removesuffix("_backward")
        if forward != operator and cells.get(forward) == row:
            continue
        label = (
            f"{{py:obj}}`~xpconv.functional.{operator}`" if hasattr(xpconv.functional, operator) else f"`{operator}`"
        )
        if cells.get(f"{operator}_backward") == row:
            label += " and backward"
        rows.append([label, *row])
    return ["operator", *backends], rows


class SupportTable(_Markdown):
    """``support-table``: see the module."""

    def markdown(self) -> str:
        """The table of operators, and that of dtypes."""
        header, rows = support_rows()
        backends = dispatch_table()
        dtypes = []
        for dtype in ("float16", "bfloat16", "float32", "float64"):
            row = [f"`{dtype}`"]
            for backend in backends.values():
                count = sum("kernel" in support(backend, operator, dtype) for operator in _generic.__all__)
                row.append(f"{count} of {len(_generic.__all__)}")
            dtypes.append(row)
        return "\n\n".join(
            (
                "## Operators, in float32",
                table(header, rows),
                "## Compiled kernels, by dtype",
                table(["dtype", *backends], dtypes),
            )
        )


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("performance-tables", PerformanceTables)
    app.add_directive("support-table", SupportTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
