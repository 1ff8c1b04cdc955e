"""What more ranks would gain, by the model of benchmarks/distributed, from committed results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from _style import INK, STRONG, save
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PICTURES = ("scaling.svg",)

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
NETS = (("resnet20", "ResNet-20, 1.1 MB of gradients"), ("wide", "linear layers, 17 MB of gradients"))
NETWORKS = ("messages as on the machine measured", "10 Gbit/s", "100 Gbit/s, beside the computing")
COLOURS, DASHES = ("blue", "orange", "green"), ("-", "--", ":")


def draw(folder: Path) -> None:
    """For each network the speed-up of a batch of one size, and what was measured."""
    figure = Figure(figsize=(7.6, 3.7))
    FigureCanvasAgg(figure)
    for place, (net, title) in enumerate(NETS):
        result = json.loads(newest(net).read_text(encoding="utf-8"))
        axes = figure.add_axes((0.095 + 0.5 * place, 0.27, 0.39, 0.62))
        _panel(axes, title, result)
        if place == 0:
            axes.set_ylabel("times as fast as one rank", color=INK, fontsize=9)
            handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=8, labelcolor=INK, bbox_to_anchor=(0.5, 0)
    )
    save(figure, folder / PICTURES[0])


def newest(net: str) -> Path:
    """The latest result of a network."""
    return max(RESULTS.glob(f"*-distributed-{net}.json"))


def _panel(axes: Axes, title: str, result: dict[str, Any]) -> None:
    tables = result["model"]["tables"]
    ranks = [int(n) for n in next(iter(tables.values()))["strong_s"]]
    axes.loglog(ranks, ranks, color=INK, linewidth=0.7, label="as many as there are ranks")
    for name, entry, colour, dashes in zip(NETWORKS, tables.values(), COLOURS, DASHES, strict=True):
        seconds = [float(value) for value in entry["strong_s"].values()]
        gains = [seconds[0] / value for value in seconds]
        axes.loglog(ranks, gains, color=STRONG[colour], linestyle=dashes, linewidth=1.6, label=name)
        last = ranks.index(entry["strong_stops_paying"])
        if last + 1 < len(ranks):
            axes.plot(ranks[last], gains[last], "o", color=STRONG[colour], markersize=5)
    axes.set_title(title, color=INK, fontsize=9.5)
    axes.set_xlabel("ranks", color=INK, fontsize=9)
    ticks = ranks[::2]
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.set_yticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()
    axes.tick_params(colors=INK, labelsize=8)
    axes.patch.set_alpha(0)
    for side in axes.spines.values():
        side.set_color(INK)
        side.set_linewidth(0.6)
    axes.grid(color=INK, linewidth=0.3, alpha=0.5)
