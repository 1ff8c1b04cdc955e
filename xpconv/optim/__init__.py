"""Optimizers, learning-rate schedules and gradient clipping."""

from .algorithms import SGD, Adam, AdamW, RMSprop
from .clip import check_norm, clip_grad_norm
from .optimizers import Optimizer
from .recorded import RecordedStep
from .schedules import (
    ConstantSchedule,
    CosineSchedule,
    OneCycleSchedule,
    Schedule,
    StepSchedule,
    WarmupSchedule,
)

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "ConstantSchedule",
    "CosineSchedule",
    "OneCycleSchedule",
    "Optimizer",
    "RMSprop",
    "RecordedStep",
    "Schedule",
    "StepSchedule",
    "WarmupSchedule",
    "check_norm",
    "clip_grad_norm",
]
