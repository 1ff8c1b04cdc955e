"""Optimizers, learning-rate schedules and gradient clipping."""

from .clip import clip_grad_norm
from .optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
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
    "Schedule",
    "StepSchedule",
    "WarmupSchedule",
    "clip_grad_norm",
]
