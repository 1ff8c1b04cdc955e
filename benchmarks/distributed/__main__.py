"""A network on several ranks against one, and a model that says what more of them would do.

    python -m benchmarks.distributed [--net resnet20] [--ranks 2 4] [--rounds 3] [--out STEM]

Each rank has one thread, and a core as long as there are enough. A round measures one rank while the others sleep, all
of them each for itself (`alone`: what cores cost each other through caches and memory), and all of them together,
within seconds: so what is compared has been measured on the same state of the machine. The efficiency is the throughput
of N ranks by N times that of one. Rounds in which other programs took a core away are not counted.

The model (see `model`) has measured numbers only: each layer's time, of one rank alone; the latency and bandwidth of
all-reduces between two ranks; what ranks on two cores cost each other; how far the steps of a rank vary. What it says
of each job is compared with the job. Where there are more ranks than cores, each has a part of a core, and computing,
messages and all take as many times longer: no number of such a job goes into the model. Then the model is asked about
up to 1,024 ranks with a core each, here and on two networks as clusters have.

The net ``wide`` has many parameters and little to compute: most of its steps are messages, which is what it is there to
check.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..report import environment_line
from ..timing import environment
from .model import Net, Network, Step, buckets, fit_network, net_of, step, stops_paying

IMAGES = {"resnet20": 128, "wide": 8}  # of a rank
PROFILED = {"resnet20": (8, 32, 128), "wide": (2, 8, 32)}
WHOLE = 8192  # images of a batch that is shared by all ranks
UNDISTURBED = 0.97  # part of its cores that a round must have had to count
MESSAGES = 2  # ranks between which messages are measured
# Networks of clusters, by what their makers say of them.
NETWORKS = {
    "10 Gbit/s (TCP: 30 us, messages need the core)": Network(30e-6, 1.25e9),
    "100 Gbit/s (remote direct memory access: 1.5 us, messages run beside)": Network(1.5e-6, 12.5e9, True),
}
DOUBLINGS = [2**k for k in range(11)]


def launcher() -> str | None:
    """The mpiexec beside this Python, which is that of its mpi4py, or else the system's."""
    return shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")


def run_job(ranks: int, *arguments: object) -> list[dict[str, Any]]:
    """What rank 0 of a job prints."""
    mpiexec = launcher()
    if mpiexec is None:
        raise SystemExit('no mpiexec on this machine: pip install "xpconv[mpi]"')
    allowed = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "PRTE_ALLOW_RUN_AS_ROOT")
    variables = dict.fromkeys((*allowed, "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM"), "1")
    variables |= {
        "XPCONV_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    command = [mpiexec, "-n", str(ranks), sys.executable, "-m", "benchmarks.distributed.worker", *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    result: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


Results = dict[str, list[dict[str, Any]]]


def measure(net: str, ranks: Sequence[int], rounds: int, steps: int, found: Results | None = None) -> Results:
    """Rounds of what the ranks of jobs have printed, by their number; added to what is ``found`` already."""
    found = {} if found is None else found
    for size in ranks:
        print(f"{size} ranks ...", file=sys.stderr, flush=True)
        more = ["--profile", *PROFILED[net]] if size == MESSAGES else []
        arguments = ["--net", net, "--images", IMAGES[net], "--steps", steps, "--rounds", rounds, *more]
        found.setdefault(str(size), []).extend(run_job(size, *arguments))
    return found


def summary(net: str, found: Results) -> dict[str, Any]:
    """Medians over the rounds that count, times of computing brought to one speed of the machine, the median one."""
    counted = {size: _undisturbed(int(size), entries) for size, entries in found.items()}
    one = statistics.median(entry["one"]["step_s"] for entries in counted.values() for entry in entries)
    whole = counted[str(MESSAGES)]
    runs = {"train 1": {**_medians([entry["one"] for entry in whole]), "step_s": one}}
    for size, entries in counted.items():
        ratio = statistics.median(entry["train"]["step_s"] / entry["one"]["step_s"] for entry in entries)
        shares = statistics.median(entry["train"]["wait_s"] / entry["train"]["step_s"] for entry in entries)
        runs[f"train {size}"] = {
            **_medians([entry["train"] for entry in entries]),
            "step_s": ratio * one,
            "wait_s": shares * ratio * one,
        }
    return {
        "net": net,
        "images": IMAGES[net],
        "rounds": {size: [len(entries), len(found[size])] for size, entries in counted.items()},
        "runs": runs,
        "profiles": _median_profile([(entry["profile"], one / entry["one"]["step_s"]) for entry in whole]),
        "messages": _medians([entry["messages"] for entry in whole]),
        "handling": statistics.median(entry["handling"]["s_per_byte"] for entry in whole),
        "spread": statistics.median(entry["alone"]["spread"] for entry in whole),
        "efficiency": {size: one / runs[f"train {size}"]["step_s"] for size in counted},
        "sharing": max(1.0, statistics.median(e["alone"]["step_s"] / e["one"]["step_s"] for e in whole)),
    }


def _undisturbed(size: int, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rounds in which every rank had its core, or its part of one; all of them if there is none."""
    part = min(1.0, _cores() / size)
    wanted = {"one": UNDISTURBED, "alone": part * UNDISTURBED, "train": part * UNDISTURBED}
    good = [e for e in entries if all(e[kind]["core"] >= least for kind, least in wanted.items() if kind in e)]
    return good or entries


def _medians(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


def _median_profile(results: Sequence[tuple[dict[str, Any], float]]) -> dict[str, Any]:
    """Of each layer's times, multiplied by the factor of their round, the medians."""
    merged: dict[str, Any] = {}
    for count, first in results[0][0].items():
        layers = []
        for k, (name, _, _) in enumerate(first["layers"]):
            rows = [(profile[count]["layers"][k], factor) for profile, factor in results]
            layers.append((name, *(statistics.median(row[j] * factor for row, factor in rows) for j in (1, 2))))
        merged[count] = {**first, "layers": layers}
    return merged


def model_of(measured: dict[str, Any]) -> tuple[Net, Network, float]:
    """The net, the network of this machine, and what two ranks on two cores cost each other: 1 is nothing."""
    runs = measured["runs"]
    several = runs[f"train {MESSAGES}"]
    network = fit_network(measured["messages"], MESSAGES)
    profiles = {int(count): profile for count, profile in measured["profiles"].items()}
    net = net_of(profiles, handling=measured["handling"], spread=measured["spread"])
    # of the messages of a step, all but those of the gradients are small; together they have the other bytes
    count = max(0, round(several["messages"]) - _buckets(net))
    small = (max(0.0, several["bytes"] - net.gradient_bytes) / count,) * count if count else ()
    return net._replace(small=small), network, measured["sharing"]


def _buckets(net: Net) -> int:
    return len(buckets(net.layers, 1))


def predict(measured: dict[str, Any]) -> dict[str, Any]:
    """What the model says of the runs, and of more ranks."""
    net, network, sharing = model_of(measured)
    cores, images = _cores(), measured["images"]
    checks = {}
    for size in (1, *map(int, measured["efficiency"])):
        a_core = max(1.0, size / cores)  # ranks on each core
        said = step(net, network, size, images, sharing=1.0 if size == 1 else sharing * a_core)
        seconds = measured["runs"][f"train {size}"]["step_s"]
        checks[str(size)] = {**said._asdict(), "predicted_s": said.seconds, "measured_s": seconds}
    tables = {}
    for name, fabric in {"this machine's messages": network, **NETWORKS}.items():
        weak = {n: step(net, fabric, n, images) for n in DOUBLINGS}
        strong = {n: step(net, fabric, n, WHOLE / n) for n in DOUBLINGS}
        tables[name] = {
            "weak_s": {n: said.seconds for n, said in weak.items()},
            "strong_s": {n: said.seconds for n, said in strong.items()},
            "weak_share": {n: _share(said) for n, said in weak.items()},
            "strong_share": {n: _share(said) for n, said in strong.items()},
            "strong_stops_paying": stops_paying({n: said.seconds for n, said in strong.items()}),
        }
    errors = {size: network.allreduce(MESSAGES, float(size)) / s - 1 for size, s in measured["messages"].items()}
    return {
        "network": network._asdict(),
        "network_errors": errors,
        "sharing": sharing,
        "spread": net.spread,
        "handling_s_per_byte": net.handling,
        "gradient_bytes": net.gradient_bytes,
        "buckets": _buckets(net),
        "small": list(net.small),
        "fixed_s": net.around.fixed + sum(layer.forward.fixed + layer.backward.fixed for layer in net.layers),
        "cores": cores,
        "checks": checks,
        "tables": tables,
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _share(said: Step) -> float:
    """Of the step that is messages."""
    return said.messages / said.seconds


def table(measured: dict[str, Any], said: dict[str, Any]) -> str:
    """Markdown."""
    runs, images, net, cores = measured["runs"], measured["images"], measured["net"], said["cores"]
    counted = " and ".join(f"{good} of {of} with {size} ranks" for size, (good, of) in measured["rounds"].items())
    lines = [f"# {net} on several ranks", "", environment_line(environment("full")), ""]
    lines += [f"`python -m benchmarks.distributed --net {net}`. {images} images and one thread a rank; medians of the "]
    lines[-1] += f"rounds, {counted}, in which no other program took a core away. "
    lines[-1] += "Messages: the share of a step that a rank is in the communicator, its waiting for others included."
    lines += [""]
    lines += [
        "| ranks | step | throughput by that of one rank | messages | moved a step | model |",
        "|---|---|---|---|---|---|",
    ]
    for size, check in said["checks"].items():
        run = runs[f"train {size}"]
        off = check["predicted_s"] / check["measured_s"] - 1
        row = f"| {size} | {1e3 * run['step_s']:.1f} ms | {int(size) * measured['efficiency'].get(size, 1.0):.2f} "
        row += f"| {run['wait_s'] / run['step_s']:.1%} | {run['bytes'] / 1e6:.2f} MB in {run['messages']:.0f} "
        row += f"| {1e3 * check['predicted_s']:.1f} ms ({off:+.1%}) |"
        lines += [row if size != "1" else row.replace(f"{run['wait_s'] / run['step_s']:.1%} | 0.00 MB in 0", "| ")]
    crowded = [size for size in said["checks"] if int(size) > cores]
    if crowded:
        lines += [
            "",
            f"There are {cores} cores: with {' and '.join(crowded)} ranks each has a part of one, so that the ",
        ]
        lines[-1] += (
            "throughput cannot grow; that row is a check of the model, into which no number of such a job goes."
        )
    lines += ["", "What the model is made of, all measured on one or two ranks:", "", "| | |", "|---|---|"]
    network, count = said["network"], said["buckets"]
    worst = max(map(abs, said["network_errors"].values()))
    lines += [
        f"| all-reduce between two ranks | {1e6 * network['latency']:.1f} us, {network['bandwidth'] / 1e9:.2f} GB/s; "
        f"of the sizes measured the worst is off by {worst:.0%} |",
        f"| gradients | {said['gradient_bytes'] / 1e6:.2f} MB in {count} bucket{'s' * (count != 1)} |",
        f"| small messages | {len(said['small'])} of {sum(said['small']) / 1e3:.1f} kB together |",
        f"| computing that does not shrink with the images | {1e3 * said['fixed_s']:.1f} ms |",
        f"| handling of gradients | {1e3 * said['handling_s_per_byte'] * said['gradient_bytes']:.2f} ms |",
        f"| two ranks on two cores slow each other down | {said['sharing'] - 1:.1%} |",
        f"| deviation of a rank's steps | {said['spread']:.1%} |",
        "",
        "The parts of the model's steps, in ms:",
        "",
        "| ranks | computing | handling | messages | waiting for the slowest |",
        "|---|---|---|---|---|",
    ]
    for size, check in said["checks"].items():
        parts = (f"{1e3 * check[part]:.2f}" for part in ("compute", "handling", "messages", "waiting"))
        lines += [f"| {size} | {' | '.join(parts)} |"]
    lines += ["", "## More ranks, each with a core of its own", ""]
    names = list(said["tables"])
    for kind, title in (
        ("weak", f"{images} images a rank: efficiency, and the share of messages"),
        ("strong", f"{WHOLE:,} images in all: speed-up, and the share of messages"),
    ):
        lines += [f"{title}.", "", f"| ranks | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for n in DOUBLINGS:
            cells = []
            for name in names:
                seconds, share = said["tables"][name][f"{kind}_s"], said["tables"][name][f"{kind}_share"][n]
                gain = seconds[1] / seconds[n]
                cells += [f"{gain:.1%}, {share:.1%}" if kind == "weak" else f"{gain:.1f}, {share:.1%}"]
            lines += [f"| {n} | {' | '.join(cells)} |"]
        lines += [""]
    for name, entry in said["tables"].items():
        last = entry["strong_stops_paying"]
        verdict = f"every doubling up to {last} ranks gains at least 1.25 times"
        if last != DOUBLINGS[-1]:
            verdict = f"more than {last} ranks do not pay: twice as many gain less than 1.25 times"
        lines += [f"- {WHOLE:,} images in all, {name}: {verdict}."]
    return "\n".join(lines) + "\n"


def _rounded(value: Any) -> Any:
    """With numbers of four digits: no more of them have been measured."""
    if isinstance(value, dict):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Measure, predict, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=list(IMAGES), default="resnet20")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", metavar="STEM", help="writes STEM.json and STEM.md")
    parser.add_argument("--add", action="store_true", help="to the rounds that STEM.json has already")
    options = parser.parse_args()
    if options.add and not options.out:
        parser.error("--add needs --out")
    before = json.loads(Path(options.out + ".json").read_text(encoding="utf-8")) if options.add else {}
    if MESSAGES not in options.ranks and not options.add:
        parser.error(f"--ranks: the model needs {MESSAGES} of them")
    found = measure(options.net, options.ranks, options.rounds, options.steps, before.get("results"))
    measured = summary(options.net, found)
    said = predict(measured)
    text = table(measured, said)
    print(text)
    if options.out:
        everything = {"environment": environment("full"), "results": found, "summary": measured, "model": said}
        numbers = json.dumps(_rounded(everything), separators=(",", ":"))
        Path(options.out + ".json").write_text(numbers + "\n", encoding="utf-8")
        Path(options.out + ".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
