"""Kill a training run at random moments, again and again, and count what is lost: it must never be a checkpoint.

::

    python -m benchmarks.kill_training --kills 100

A process trains a small net that takes little time for its steps and much for its checkpoints, so that many kills hit a
file that is being written. It notes every step and every checkpoint that was saved. After each kill (SIGKILL) the
checkpoints must be whole, and not older than the last one noted; the next process goes on from there. A run that comes
to its end must be, bit for bit, the run that nobody has killed.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["Count", "kill_often"]

SAVE_EVERY = 3
EPOCHS = 5


# ---- the process that is killed -------------------------------------------------------------------------------------


def _train(path: str) -> None:
    """Begin the run in the folder, or go on with it."""
    import numpy as np

    from xpconv import layers, optim
    from xpconv.functional import softmax_cross_entropy
    from xpconv.training import Callback, EarlyStopping, RunFolder, RunRecorder, Trainer

    exists = (Path(path) / "config.json").exists()
    folder = RunFolder.open(path) if exists else RunFolder.create(path, {})
    notes = os.open(f"{path}.notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(text: str) -> None:
        os.write(notes, f"{text}\n".encode())

    class NotingTrainer(Trainer):
        def save(self, path: str | os.PathLike[str]) -> None:
            super().save(path)
            note(f"saved {Path(path).name} {self.step}")

    class Note(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            note(f"step {trainer.step}")

    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(80, 16)).astype(np.float32), rng.integers(0, 4, 80)
    net = layers.Sequential(
        layers.Linear(16, 512, rng=1), layers.BatchNorm1d(512), layers.ReLU(), layers.Dropout(0.2, rng=2),
        layers.Linear(512, 512, rng=3), layers.ReLU(), layers.Linear(512, 4, rng=4),
    )  # fmt: skip
    options: dict[str, Any] = {
        "schedule": optim.OneCycleSchedule(1e-2, 10 * EPOCHS),
        "callbacks": [EarlyStopping(EPOCHS + 1), Note(), RunRecorder(folder, log_every=2, save_every=SAVE_EVERY)],
        "ema": 0.9,
        "accumulate": 2,
    }
    optimizer = optim.AdamW(net.parameters())
    print("begins", flush=True)
    if folder.last.exists():
        trainer = NotingTrainer.resume(folder.last, net, softmax_cross_entropy, optimizer, **options)
    else:
        trainer = NotingTrainer(net, softmax_cross_entropy, optimizer, **options)
    trainer.fit((x, labels), epochs=EPOCHS, validation=(x[:20], labels[:20]), batch_size=8)


# ---- who kills it ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Count:
    """What came of it.

    Attributes
    ----------
    kills
        Processes killed.
    while_saving
        Those of them that were writing a checkpoint, of which an unfinished file is left.
    before_any
        Those that had no checkpoint yet.
    steps
        Steps that the killed processes had done.
    lost
        Steps that were done again.
    most_lost
        The most that one kill has cost.
    checkpoints_lost
        Checkpoints that were saved, and after a kill missing, damaged or older.
    finished
        Runs that came to their end.
    other_results
        Those whose end is not that of the run that nobody has killed.
    """

    kills: int = 0
    while_saving: int = 0
    before_any: int = 0
    steps: int = 0
    lost: int = 0
    most_lost: int = 0
    checkpoints_lost: int = 0
    finished: int = 0
    other_results: int = 0

    def is_good(self) -> bool:
        """Whether nothing was lost but the steps since the last checkpoint."""
        return not self.checkpoints_lost and not self.other_results and self.most_lost <= SAVE_EVERY


def _start(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "benchmarks.kill_training", "--train", str(path)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "XPCONV_NUM_THREADS": "1"}
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=root
    )


def _result(path: Path) -> tuple[str, list[dict[str, object]]]:
    """Digest of the last checkpoint's arrays, and its history but for times."""
    from xpconv.training import read_checkpoint

    checkpoint = read_checkpoint(path / "last.safetensors")
    digest = hashlib.sha256()
    for name in sorted(checkpoint.arrays):
        digest.update(name.encode() + checkpoint.arrays[name].tobytes())
    history = [{k: v for k, v in record.items() if k != "seconds"} for record in checkpoint.state["history"]]
    return digest.hexdigest(), history


def _look(path: Path, count: Count) -> bool:
    """What the kill has done to the run in the folder; whether it can go on."""
    from xpconv.training import CheckpointError, read_checkpoint

    notes = Path(f"{path}.notes")
    lines = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
    noted = {words[1]: int(words[2]) for words in lines if words[0] == "saved"}
    step = next((int(words[1]) for words in reversed(lines) if words[0] == "step"), 0)
    found = {}
    for name in ("last.safetensors", "best.safetensors"):
        file = path / name
        try:
            found[name] = read_checkpoint(file).state["step"] if file.exists() else 0
        except CheckpointError as error:
            print(f"after kill {count.kills}: {error}", file=sys.stderr)
            found[name] = -1
        if found[name] < noted.get(name, 0):
            count.checkpoints_lost += 1
    lost = max(0, step - max(0, found["last.safetensors"]))
    count.lost += lost
    count.most_lost = max(count.most_lost, lost)
    count.before_any += found["last.safetensors"] == 0
    count.while_saving += any(".safetensors." in file.name for file in path.glob(".*.tmp"))
    # of the notes only what the next process adds counts for the next kill, but for what was saved
    notes.write_text("".join(f"saved {name} {number}\n" for name, number in noted.items()))
    return min(found.values()) >= 0


def kill_often(kills: int, folder: Path, *, seed: int = 0, longest: float = 0.6) -> Count:
    """Kill runs in ``folder`` so many times.

    Parameters
    ----------
    longest
        Seconds after which a process is killed at the latest, from when it begins to read its checkpoint.
    """
    moments = random.Random(seed)
    process = _start(folder / "whole")
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the run that is not killed has failed: {errors}")
    expected = _result(folder / "whole")
    count, number = Count(), 0
    while count.kills < kills:
        path = folder / f"killed-{number}"
        process = _start(path)
        assert process.stdout is not None
        process.stdout.readline()
        before = time.monotonic()
        delay = moments.uniform(0, longest)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            count.kills += 1
            count.steps += _steps(Path(f"{path}.notes"))
            number += not _look(path, count)
            continue
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"a run has failed after {time.monotonic() - before:.2f} s: {errors}")
        count.finished += 1
        count.other_results += _result(path) != expected
        number += 1
    return count


def _steps(notes: Path) -> int:
    return sum(line.startswith("step") for line in notes.read_text().splitlines()) if notes.exists() else 0


def main() -> int:
    """Run the command line; 0 if nothing was lost but steps since the last checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="how many processes to kill (default: 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (default: 0)")
    parser.add_argument("--train", metavar="FOLDER", help="be the process that is killed")
    options = parser.parse_args()
    if options.train:
        _train(options.train)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        count = kill_often(options.kills, Path(folder), seed=options.seed)
    for name, value in dataclasses.asdict(count).items():
        print(f"{name.replace('_', ' '):<18}{value:>6}")
    print("nothing lost but steps since the last checkpoint" if count.is_good() else "SOMETHING WAS LOST")
    return 0 if count.is_good() else 1


if __name__ == "__main__":
    sys.exit(main())
