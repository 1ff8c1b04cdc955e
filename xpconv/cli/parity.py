"""``xpconv parity``."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from ..backends import BackendUnavailableError, load_backend
from .output import emit, result, say, show, transient
from .status import DONE, FAILED

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "parity",
        help="does a backend compute what NumPy computes?",
        description="Run every operator, forward and backward, the optimizers, dropout, augmentation, and a short "
        "training run on two backends, and print how far the results are apart: absolutely, relative to the largest "
        "value, and as part of what rounding explains. The exit status is 1 if anything is out of tolerance, 2 if a "
        "backend cannot start.",
        epilog="  example: xpconv parity --backend torch --only conv2d batch_norm",
    )
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--backend", metavar="NAME", help="backend to judge (default: cupy, or cuda-host where cupy cannot start)"
    )
    group.add_argument("--against", metavar="NAME", default="numpy", help="backend to compare with (default: numpy)")
    group.add_argument(
        "--kernels",
        choices=("auto", "generic", "native"),
        default="auto",
        help="kernels of the backend to judge, as XPCONV_KERNELS (default: auto)",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "float64", "float16", "bfloat16"),
        default="float32",
        help="float16 and bfloat16 are compared with float32 of the same inputs (default: float32)",
    )
    group.add_argument(
        "--only",
        nargs="+",
        metavar="TEXT",
        default=[],
        help="cases whose name contains one of these (default: all)",
    )
    parser.set_defaults(run=run)


def _chosen(name: str | None) -> str:
    """The backend to judge; says so where it is not the one that a machine with a GPU would take."""
    if name is not None:
        return name
    try:
        load_backend("cupy")
    except BackendUnavailableError as error:
        say("cupy", f"cannot start: {' '.join(str(error).split())}")
        say("instead", "cuda-host, the same CUDA kernels run on the CPU: no GPU is judged")
        return "cuda-host"
    return "cupy"


def _described(name: str) -> str:
    text = load_backend(name).describe()
    return text if text.startswith(name) else f"{name}, {text}"


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status."""
    from ..testing import Case, parity

    subject = Case("subject", _chosen(options.backend), options.kernels)
    reference = Case("reference", options.against)
    computed = parity.accumulator(options.dtype)
    for side, dtype in ((subject, options.dtype), (reference, computed)):
        load_backend(side.backend).asarray(np.zeros(1), dtype)  # JAX's default has no float64: an error now
    wanted = [text.lower() for text in options.only]
    cases = [
        case
        for case in parity.cases()
        if (case.in_half or computed == options.dtype)
        and (not wanted or any(text in case.name.lower() for text in wanted))
    ]
    if not cases:
        raise ValueError(f"--only: no case contains {' or '.join(options.only)}")
    judged, by = _described(subject.backend), _described(reference.backend)
    say("judged", judged)
    say("against", by)
    against = "" if computed == options.dtype else f" against {computed}"
    say("dtype", f"{options.dtype}{against}, kernels {options.kernels}")
    findings = []
    for number, case in enumerate(cases, 1):
        transient(f"case {number} of {len(cases)}: {case.name}")
        for finding in parity.compare(case, subject, reference, options.dtype):
            findings.append(finding)
            emit("finding", **finding._asdict())
    ok = parity.is_ok(findings, options.dtype)
    *lines, verdict = parity.table(findings, options.dtype).split("\n")
    show("\n".join(["", *lines]))
    result(verdict)
    emit(
        "parity",
        ok=ok,
        backend=subject.backend,
        describe=judged,
        kernels=options.kernels,
        against=reference.backend,
        dtype=options.dtype,
        cases=len({finding.case for finding in findings}),
        findings=len(findings),
    )
    return DONE if ok else FAILED
