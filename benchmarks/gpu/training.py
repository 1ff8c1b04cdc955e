"""Whole training steps, eager and recorded as one graph, against PyTorch in the same precision.

LeNet and the three-layer ConvNet with Adam on batches of 128, ResNet-20 with SGD and momentum on 128 and 512; the
batch lies on the device. Times are of the clock, as a user sees them: steps are started one after the other, and the
device is waited for at the end. PyTorch runs eagerly as it is by default, with channels last and ``cudnn.benchmark``,
and the latter captured in a CUDA graph. All start from the same weights, and the losses of the first steps must agree
before anything is timed. ``bf16`` is the network and its images in bfloat16, on both sides.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import xpconv
import xpconv.functional as F
from xpconv import layers, models
from xpconv._bench.networks import NETWORKS, Network, torch_twin
from xpconv.backends import CaptureError, load_backend, to_numpy, use_backend

from .ceilings import PRECISIONS
from .section import Options, Row, Rows
from .torch_peer import cuda_torch, graph_of, precision_set

SECONDS = 110
NEEDS_GPU = False
TARGET = 2.0  # recorded ResNet-20, batch 128, against PyTorch's default

_CASES = (("lenet", 128), ("three-layer-convnet", 128), ("resnet20", 128), ("resnet20", 512))
_FIRST = 4  # steps whose losses are compared; the third is the first that is recorded
# of the loss: what rounding makes of it in that many steps of a small network
_TOLERANCE = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 1e-1}
_SECONDS = 0.4
_ROUNDS = 5


class Step(NamedTuple):
    """A training step, how to wait for the device, and the losses of so many steps from where it stands."""

    step: Callable[[], object]
    wait: Callable[[], object]
    losses: Callable[[int], list[float]]


class Case(NamedTuple):
    """A network, its images, and how it is trained."""

    network: Network
    batch: int
    size: int

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Images in float32 and labels."""
        rng = np.random.default_rng(0)
        shape = (self.batch, self.network.channels, self.size, self.size)
        return rng.standard_normal(shape, dtype=np.float32), rng.integers(0, 10, self.batch)

    def model(self, dtype: str) -> layers.Layer:
        """On the default backend, always with the same weights."""
        return models.build(
            self.network.name,
            in_channels=self.network.channels,
            image_size=self.size,
            num_classes=10,
            rng=0,
            dtype=dtype,
        )


# ---- xpconv -------------------------------------------------------------------------------------------------------


def _xpconv(options: Options, case: Case, dtype: str, *, recorded: bool) -> Step:
    """A step of `xpconv.Trainer`, in the current backend and precision; recorded from the third one on."""
    backend = load_backend(options.backend)
    images, targets = case.arrays()
    x, labels = backend.astype(backend.asarray(images), dtype), backend.asarray(targets)
    model = case.model(dtype)
    optimizer = getattr(xpconv.optim, case.network.optimizer)(model.parameters(), **case.network.settings)
    trainer = xpconv.Trainer(model, F.softmax_cross_entropy, optimizer, capture=recorded)

    def step() -> None:
        with backend.running():
            trainer._train_step(x, labels)

    def losses(count: int) -> list[float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # why a step is not recorded is raised below
            for _ in range(count):
                step()
        if recorded and trainer.capture_reason is not None:
            raise CaptureError(trainer.capture_reason)
        return trainer.losses[-count:]

    return Step(step, backend.synchronize, losses)


# ---- PyTorch ------------------------------------------------------------------------------------------------------


def _torch(
    torch: Any, case: Case, precision: str, weights: dict[str, np.ndarray], how: str, device: str = "cuda"
) -> Step:
    """A step of PyTorch, ``"default"``, ``"channels last"`` or ``"graph"``; the precision is set by the caller."""
    with use_backend("numpy"):
        twin = torch_twin(torch, case.model("float32"))
    twin.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()}, strict=True)
    memory = torch.contiguous_format if how == "default" else torch.channels_last
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    twin = twin.to(device, dtype).to(memory_format=memory)
    images, targets = case.arrays()
    x = torch.from_numpy(images).to(device, dtype).contiguous(memory_format=memory)
    labels = torch.from_numpy(targets).to(device)
    settings = dict(case.network.settings)
    if how == "graph" and case.network.optimizer.startswith("Adam"):
        settings["capturable"] = True
    optimizer = getattr(torch.optim, case.network.optimizer)(twin.parameters(), **settings)

    def step() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(x), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    if how != "graph":
        return Step(step, torch.cuda.synchronize, lambda count: [float(step()) for _ in range(count)])
    found: list[Any] = []
    graph = graph_of(torch, lambda: found.append(step()))

    def replay() -> Any:
        graph.replay()
        return found[-1]

    return Step(replay, torch.cuda.synchronize, lambda count: [float(replay()) for _ in range(count)])


# ---- measuring ----------------------------------------------------------------------------------------------------


def _check_losses(name: str, got: list[float], want: list[float], precision: str) -> None:
    apart = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(got, want, strict=True))
    if not apart <= _TOLERANCE[precision]:
        raise AssertionError(f"{name}: losses {got} instead of {want}; not timed")


def _milliseconds(step: Step, tiny: bool) -> float:
    """Median over rounds of the time of a step."""

    def elapsed(times: int) -> float:
        step.wait()
        start = time.perf_counter()
        for _ in range(times):
            step.step()
        step.wait()
        return (time.perf_counter() - start) / times

    if tiny:
        return elapsed(1) * 1e3
    elapsed(5)
    times = max(5, math.ceil(_SECONDS / _ROUNDS / elapsed(5)))
    return statistics.median(elapsed(times) for _ in range(_ROUNDS)) * 1e3


@contextlib.contextmanager
def _xpconv_precision(options: Options, precision: str) -> Iterator[str]:
    dtype, matmul, _ = PRECISIONS[precision]
    with use_backend(options.backend), xpconv.use_matmul_precision(matmul):
        yield dtype


def run(options: Options, rows: Rows) -> None:
    """A row for each precision, network, and contender."""
    torch = cuda_torch() if options.is_gpu else None
    known = {network.name: network for network in NETWORKS}
    cases = [Case(known[name], batch, known[name].size) for name, batch in _CASES]
    if options.tiny:
        cases = [Case(known["lenet"], 2, 12)]
    for precision in ("fp32",) if options.tiny else PRECISIONS:
        # the networks that matter most first, should the time run out
        for case in sorted(cases, key=lambda c: c.network.name != "resnet20"):
            _compare(options, rows, torch, case, precision)


def _compare(options: Options, rows: Rows, torch: Any, case: Case, precision: str) -> None:
    about = {"network": case.network.name, "batch": case.batch, "precision": precision}
    with use_backend("numpy"):
        weights = {name: np.array(to_numpy(a)) for name, a in case.model("float32").state_dict().items()}
    want: list[float] = []

    def measured(name: str, make: Callable[[], Step], *, from_first: bool = True) -> Row:
        step = make()
        losses = step.losses(_FIRST)
        if not all(map(math.isfinite, losses)):
            raise AssertionError(f"{name}: losses {losses}; not timed")
        if from_first:
            _check_losses(name, losses, want or losses, precision)
            want[:] = want or losses
        ms = _milliseconds(step, options.tiny)
        return {"ms": ms, "images_per_s": case.batch / ms * 1e3, "first_losses": losses}

    with _xpconv_precision(options, precision) as dtype:
        for how in ("eager", "recorded"):
            rows.attempt(
                options,
                lambda h=how: measured(h, lambda: _xpconv(options, case, dtype, recorded=h == "recorded")),
                contender=f"xpconv {how}",
                **about,
            )
    if torch is None:
        return
    for how in ("default", "channels last", "graph"):
        with precision_set(torch, precision, benchmark=how != "default"):
            # warming a graph up takes steps, so that its losses are later ones
            rows.attempt(
                options,
                lambda h=how: measured(
                    f"torch {h}", lambda: _torch(torch, case, precision, weights, h), from_first=h != "graph"
                ),
                contender=f"torch {how}",
                **about,
            )


def lines(rows: list[Row]) -> list[str]:
    """For the table."""
    found, groups = [], {}
    for row in rows:
        if "ms" in row:
            groups.setdefault((row["precision"], row["network"], row["batch"]), {})[row["contender"]] = row["ms"]
    for (precision, network, batch), times in groups.items():
        text = ", ".join(f"{name} {ms:.3g}" for name, ms in times.items())
        found.append(f"{precision} {network} batch {batch}, ms: {text}")
        ours = times.get("xpconv recorded", times.get("xpconv eager"))
        if ours is not None and "torch default" in times:
            ratio = times["torch default"] / ours
            target = f" (target {TARGET:g})" if (network, batch) == ("resnet20", 128) else ""
            found.append(f"  torch default / xpconv: {ratio:.2f}{target}")
    return found
