"""``xpconv parity``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..backends import BackendUnavailableError, load_backend
from .run import say

__all__ = ["add_command"]

_OUT_OF_TOLERANCE = 1


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "parity",
        help="does a backend compute what NumPy computes?",
        description="Run every operator, forward and backward, the optimizers, dropout, augmentation, and a short "
        "training run on two backends, and print how far the results are apart: absolutely, relative to the largest "
        "value, and as part of what rounding explains. The exit status is 1 if anything is out of tolerance, 2 if a "
        "backend cannot start.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--backend", metavar="NAME", help="backend to judge (default: cupy, or cuda-host where cupy cannot start)"
    )
    parser.add_argument("--against", metavar="NAME", default="numpy", help="backend to compare with (default: numpy)")
    parser.add_argument(
        "--kernels",
        choices=("auto", "generic", "native"),
        default="auto",
        help="kernels of the backend to judge, as XPCONV_KERNELS (default: auto)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64", "float16", "bfloat16"),
        default="float32",
        help="float32 (default), float64, or float16 or bfloat16, which are compared with float32 of the same inputs",
    )
    parser.add_argument("--only", nargs="+", metavar="TEXT", default=[], help="cases whose name contains one of these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every result to a JSON file")
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
    findings = [finding for case in cases for finding in parity.compare(case, subject, reference, options.dtype)]
    ok = parity.is_ok(findings, options.dtype)
    print(f"\n{parity.table(findings, options.dtype)}", flush=True)  # first: the file may not be writable
    if options.json is not None:
        document = {
            "xpconv": __version__,
            "backend": subject.backend,
            "describe": judged,
            "kernels": options.kernels,
            "against": reference.backend,
            "dtype": options.dtype,
            "ok": ok,
            # infinities are no JSON
            "findings": [
                {k: str(v) if isinstance(v, float) and not np.isfinite(v) else v for k, v in f._asdict().items()}
                for f in findings
            ],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if ok else _OUT_OF_TOLERANCE
