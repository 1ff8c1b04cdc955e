"""What xpconv costs beside its kernels: the Python around a call, the import, the space on the disk.

`conv2d`: one small convolution, (1, 1, 4, 4) with one filter 3x3: what is timed is the way to the kernel. `kernel` is
the compiled function with the arguments that it gets, `engine` the same call below checks and dispatch; PyTorch's is
its functional form without gradients. `import`: the statement in a fresh interpreter, which times it itself, in turn
with the others; the files are in the page cache. `installed`: the files of a package, and with all that it needs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import xpconv
import xpconv.functional as F

from ..command import Options
from ..peers import optional_torch
from ..report import Row, row_of_samples
from ..timing import allocator, assert_same, interleave, threads_set

__all__ = ["CALL", "IMPORT", "INSTALLED", "import_seconds", "installed_bytes", "measure"]

CALL, IMPORT, INSTALLED = "conv2d of (1, 1, 4, 4)", "import", "installed"
ROUNDS = {"full": 15, "quick": 5, "tiny": 1}


def _kernel_of(engine: ModuleType, run: Callable[[], Any]) -> Callable[[], Any]:
    """The one compiled function that ``run`` comes to, with its arguments; it returns what ``run`` has returned."""
    calls: list[Callable[[], Any]] = []
    compiled = engine._kernels

    class Recorder:
        def __getattr__(self, name: str) -> Callable[..., None]:
            def record(*arguments: Any) -> None:
                calls.append(partial(getattr(compiled, name), *arguments))
                calls[-1]()

            return record

    engine._kernels = Recorder()
    try:
        result = run()
    finally:
        engine._kernels = compiled
    (call,) = calls
    return lambda: call() or result  # a kernel writes into its arguments and returns None


def _calls(options: Options) -> Iterator[Row]:
    from xpconv._cpu.conv.choice import engine_for

    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape, dtype=np.float32) for shape in ((1, 1, 4, 4), (1, 1, 3, 3), (1,)))
    y, cache = F.conv2d(x, w, b, padding=1)
    dy = np.ones_like(y)
    engines = [engine_for(name, "float32", cache.geometry) for name in ("forward", "input_gradient", "weight_gradient")]

    def engine_backward() -> Any:
        dx = engines[1].input_gradient(dy, w, cache.geometry)
        return (dx, *engines[2].weight_gradient(dy, x, cache.geometry, True))

    def engine_forward() -> Any:
        return engines[0].forward(x, w, b, cache.geometry, False)

    operations: dict[str, dict[str, Any]] = {
        "forward": {
            "kernel": _kernel_of(engines[0], engine_forward),
            "engine": engine_forward,
            "xpconv": lambda: F.conv2d(x, w, b, padding=1)[0],
        },
        "backward": {"engine": engine_backward, "xpconv": lambda: F.conv2d_backward(dy, cache)},
    }
    torch = optional_torch() if options.peers else None
    if torch:
        tx, tw, tb, tdy = (torch.from_numpy(array) for array in (x, w, b, dy))

        def theirs() -> Any:
            with torch.no_grad():
                return torch.nn.functional.conv2d(tx, tw, tb, 1, 1)

        operations["forward"] = {"torch": theirs, **operations["forward"]}
        settings = ([1], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, True])
        back = torch.ops.aten.convolution_backward
        operations["backward"] = {"torch": lambda: back(tdy, tx, tw, *settings), **operations["backward"]}
    for operation, contenders in operations.items():
        results = {name: run() for name, run in contenders.items()}
        arrays = {name: [np.asarray(a) for a in (r if isinstance(r, tuple) else (r,))] for name, r in results.items()}
        assert_same(f"{CALL}, {operation}", arrays, 1e-5)
        for threads in options.threads:
            with threads_set(threads):
                samples = interleave(contenders, options.budget)
            yield row_of_samples("overhead", CALL, operation, threads, samples, baseline="torch")


def import_seconds(module: str) -> float:
    """Time of the statement ``import module`` in a new interpreter."""
    code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def _imports(options: Options) -> Iterator[Row]:
    names = ["numpy", "xpconv"]
    if options.peers and options.size != "tiny" and optional_torch():
        names.insert(0, "torch")
    samples: dict[str, list[float]] = {name: [] for name in names}
    for k in range(ROUNDS[options.size] + 1):
        for name in names:
            # the first brings the files into the page cache and is dropped; a slow peer is no part of the ratio
            if name != "torch" or k <= 3:
                samples[name].append(import_seconds(name))
        names.reverse()
    samples = {name: times[1:] for name, times in samples.items()}
    yield row_of_samples("overhead", IMPORT, "import", 1, samples, baseline="numpy")


# ---- the space on the disk ----------------------------------------------------------------------------------------


def _tree_bytes(folder: Path) -> int:
    """All files of a source tree's package but compiled caches."""
    skipped = {"__pycache__"}
    return sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file() and not skipped & set(path.parts)
    )  # fmt: skip


def _own_bytes(found: Distribution) -> int:
    name = found.metadata["Name"]
    files = [file for file in found.files or () if "__pycache__" not in file.parts]
    sizes = [path.stat().st_size for path in (Path(str(file.locate())) for file in files) if path.is_file()]
    if name == "xpconv" and not any(file.parts[0] == "xpconv" for file in files):
        # installed in editable form: the package is where its sources are
        package = Path(xpconv.__file__).parent
        cuda = package.parent / "kernels" / "cuda"
        return _tree_bytes(package) + (_tree_bytes(cuda) if cuda.exists() else 0)
    return sum(sizes)


def _requirements(found: Distribution) -> Iterator[str]:
    """Names of what a package needs, extras and other systems left out."""
    for line in found.requires or ():
        needed, _, marker = line.partition(";")
        if "extra ==" not in marker:
            yield re.split(r"[ <>=!~\[(]", needed.strip(), maxsplit=1)[0]


def installed_bytes(name: str) -> tuple[int, int] | None:
    """Bytes of the files of a package, and of it with all packages that it needs; None where it is not installed."""
    seen: dict[str, int] = {}
    waiting = [name]
    while waiting:
        key = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if key in seen:
            continue
        try:
            found = distribution(key)
        except PackageNotFoundError:  # of another system, or of a feature that is not installed
            seen[key] = 0
            continue
        seen[key] = _own_bytes(found)
        waiting += _requirements(found)
    own = seen[re.sub(r"[-_.]+", "-", name).lower()]
    return (own, sum(seen.values())) if own else None


def _sizes() -> Iterator[Row]:
    found = {name: installed_bytes(name) for name in ("torch", "jax", "numpy", "xpconv")}
    for k, operation in enumerate(("own files", "with what it needs")):
        values = {name: sizes[k] / 1e6 for name, sizes in found.items() if sizes}
        yield Row("overhead", INSTALLED, operation, 1, allocator(), "MB", values, "", "xpconv", None)


def measure(options: Options) -> Iterator[Row]:
    """Rows of calls, of imports and of sizes."""
    if options.wants(CALL):
        yield from _calls(options)
    if options.wants(IMPORT):
        yield from _imports(options)
    if options.wants(INSTALLED) and options.peers:
        yield from _sizes()
