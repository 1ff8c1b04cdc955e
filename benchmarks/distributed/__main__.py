"""ResNet-20 on several ranks against one, and a model that says what more of them would do.

    python -m benchmarks.distributed [--ranks 2 4] [--rounds 3] [--out STEM]

Each rank has one core, one thread and 128 images; jobs with one and with several ranks take turns. The efficiency is
the throughput of N ranks by N times that of one. `alone` is the same number of ranks that train each for itself: what
cores cost each other through caches and memory, without a message. The model has three measured numbers: the computing
of a rank, and the latency and bandwidth of all-reduces between two ranks. It is compared with the runs, and then asked
about up to 1,024 ranks, here and on a network as clusters have.
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
from .model import Network, fit_network, stops_paying, strong_scaling, weak_scaling

IMAGES = 128
# 1.5 us and 12.5 GB/s: InfiniBand or Ethernet of 100 Gbit/s with remote direct memory access, by its makers' numbers
CLUSTER = Network(1.5e-6, 12.5e9)
DOUBLINGS = [2**k for k in range(11)]


def launcher() -> str | None:
    """The mpiexec beside this Python, which is that of its mpi4py, or else the system's."""
    return shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")


def run_job(ranks: int, *arguments: object) -> dict[str, Any]:
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
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def measure(ranks: Sequence[int], rounds: int, steps: int) -> dict[str, Any]:
    """Medians over rounds, in which jobs take turns."""
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(rounds):
        for size in (1, *ranks):
            kinds = ("train",) if size == 1 else ("train", "alone")
            for kind in kinds:
                print(f"round {number + 1}: {size} ranks, {kind} ...", file=sys.stderr, flush=True)
                result = run_job(size, kind, "--images", IMAGES, "--steps", steps)
                found.setdefault(f"{kind} {size}", []).append(result)
    medians = {
        name: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for name, results in found.items()
    }
    one = [result["step_s"] for result in found["train 1"]]
    efficiency = {
        str(size): statistics.median(a / b["step_s"] for a, b in zip(one, found[f"train {size}"], strict=True))
        for size in ranks
    }
    return {"runs": medians, "efficiency": efficiency, "allreduce_s": run_job(2, "messages")}


def predict(measured: dict[str, Any], ranks: Sequence[int]) -> dict[str, Any]:
    """What the model says of the runs, and of more ranks."""
    runs = measured["runs"]
    network, cores = fit_network(measured["allreduce_s"], 2), os.cpu_count() or 1
    largest = runs[f"train {max(ranks)}"]
    gradient, small = largest["gradient_bytes"], largest["messages"] - 1
    compute = runs["train 1"]["step_s"]
    checks = {}
    for size in ranks:
        # ranks that share a core compute one after the other, which `alone` has measured
        said = weak_scaling(network, size, runs[f"alone {size}"]["step_s"], gradient, small)
        checks[str(size)] = {"predicted_s": said, "measured_s": runs[f"train {size}"]["step_s"]}
    whole = compute * 8192 / IMAGES
    tables = {}
    for name, net in (("this machine", network), ("a cluster", CLUSTER)):
        weak = {n: weak_scaling(net, n, compute, gradient, small) for n in DOUBLINGS}
        strong = {n: strong_scaling(net, n, whole, gradient, small) for n in DOUBLINGS}
        tables[name] = {
            "weak_efficiency": {n: compute / t for n, t in weak.items()},
            "strong_speedup": {n: whole / t for n, t in strong.items()},
            "strong_stops_paying": stops_paying(strong),
        }
    return {"network": network._asdict(), "cores": cores, "checks": checks, "tables": tables}


def table(measured: dict[str, Any], said: dict[str, Any]) -> str:
    """Markdown."""
    runs, lines = measured["runs"], ["# ResNet-20 on several ranks", "", environment_line(environment("full")), ""]
    lines += ["128 images and one core a rank; medians.", ""]
    lines += [
        "| ranks | step | throughput by that of one rank | in messages | bytes a step | each for itself | model |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    one = runs["train 1"]["step_s"]
    lines += [f"| 1 | {1e3 * one:.0f} ms | 1 | | | | |"]
    for size, efficiency in measured["efficiency"].items():
        run, alone = runs[f"train {size}"], runs[f"alone {size}"]["step_s"]
        check = said["checks"][size]
        lines += [
            f"| {size} | {1e3 * run['step_s']:.0f} ms | {int(size) * efficiency:.2f} "
            f"| {run['wait_s'] / run['step_s']:.1%} "
            f"| {run['bytes'] / 1e6:.2f} MB in {run['messages']:.0f} messages | {1e3 * alone:.0f} ms "
            f"| {1e3 * check['predicted_s']:.0f} ms ({check['predicted_s'] / check['measured_s'] - 1:+.1%}) |"
        ]
    network = said["network"]
    lines += ["", f"All-reduces between two ranks here: latency {1e6 * network['latency']:.1f} us, ", ""]
    lines[-2] += f"{network['bandwidth'] / 1e9:.1f} GB/s. The machine has {said['cores']} cores."
    for name, entry in said["tables"].items():
        lines += [f"What the model says of {name}, every rank with a core of its own:", ""]
        lines += ["| ranks | 128 images a rank: efficiency | 8,192 images in all: speed-up |", "|---|---|---|"]
        for n in DOUBLINGS:
            lines += [f"| {n} | {entry['weak_efficiency'][n]:.1%} | {entry['strong_speedup'][n]:.1f} |"]
        last = entry["strong_stops_paying"]
        lines += ["", "With 8,192 images in all, "]
        if last == DOUBLINGS[-1]:
            lines[-1] += f"every doubling up to {last} ranks gains at least 1.25 times."
        else:
            lines[-1] += f"more than {last} ranks do not pay: twice as many gain less than 1.25 times."
        lines += [""]
    return "\n".join(lines)


def main() -> None:
    """Measure, predict, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", metavar="STEM", help="writes STEM.json and STEM.md")
    options = parser.parse_args()
    measured = measure(options.ranks, options.rounds, options.steps)
    said = predict(measured, options.ranks)
    text = table(measured, said)
    print(text)
    if options.out:
        everything = {"environment": environment("full"), "measured": measured, "model": said}
        Path(options.out + ".json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
        Path(options.out + ".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
