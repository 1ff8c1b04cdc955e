"""Training: the loop, what watches it, metrics, checkpoints, and the folder of a run.

`Trainer` is the loop; `Callback` the base of what watches it; `RunFolder` and `RunRecorder` keep a run on disk.
"""

from .average import WeightAverage
from .callbacks import Callback, EarlyStopping
from .checkpoint import Checkpoint, CheckpointError, read_checkpoint, write_checkpoint
from .interrupt import Preempted
from .lr_finder import LearningRates
from .metrics import (
    ClassReport,
    Metrics,
    class_report,
    confusion_matrix,
    mean_absolute_error,
    r2,
    top_k_accuracy,
)
from .mixed import LossScale
from .profile import LayerTime, Profile
from .run_folder import RunFolder, RunFolderError, RunRecorder
from .state import load_trained
from .sums import TrainingError
from .trainer import Trainer

__all__ = [
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "ClassReport",
    "EarlyStopping",
    "LayerTime",
    "LearningRates",
    "LossScale",
    "Metrics",
    "Preempted",
    "Profile",
    "RunFolder",
    "RunFolderError",
    "RunRecorder",
    "Trainer",
    "TrainingError",
    "WeightAverage",
    "class_report",
    "confusion_matrix",
    "load_trained",
    "mean_absolute_error",
    "r2",
    "read_checkpoint",
    "top_k_accuracy",
    "write_checkpoint",
]
