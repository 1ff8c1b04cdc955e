"""Training: the loop, what watches it, checkpoints, and the folder of a run.

`Trainer` is the loop; `Callback` the base of what watches it; `RunFolder` and `RunRecorder` keep a run on disk.
"""

from .callbacks import Callback
from .checkpoint import Checkpoint, CheckpointError, read_checkpoint, write_checkpoint
from .run_folder import RunFolder, RunFolderError, RunRecorder
from .trainer import Metrics, Trainer, TrainingError, load_weights

__all__ = [
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "Metrics",
    "RunFolder",
    "RunFolderError",
    "RunRecorder",
    "Trainer",
    "TrainingError",
    "load_weights",
    "read_checkpoint",
    "write_checkpoint",
]
