"""``xpconv lr-find``."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from ..training import Trainer, TrainingError
from ..training.mixed import check_half_type
from .config import TrainConfig, add_options, collect, flags_of
from .output import emit, result, say
from .run import build_model, machine
from .status import DONE
from .train import load_data, make_batches, make_loss, make_optimizer

__all__ = ["add_command"]

# What a range test has no use for.
_WITHOUT = ("epochs", "lr", "schedule", "ema", "capture", "early_stopping", "save_every")


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "lr-find",
        usage="xpconv lr-find [OPTION ...]",
        help="find a learning rate for xpconv train",
        description="Train a few steps with a learning rate that grows until the loss does, and suggest one: a tenth "
        'of that at which the smoothed loss was smallest. The last line is "suggested learning rate X". Give the other '
        "options of the run that it is for.",
        epilog="  example: xpconv lr-find --optimizer sgd --batch-size 128 --picture lr.png",
    )
    group = parser.add_argument_group("range of learning rates")
    group.add_argument("--start", type=float, default=1e-6, metavar="RATE", help="of the first step (default: 1e-6)")
    group.add_argument("--end", type=float, default=10.0, metavar="RATE", help="of the last step (default: 10)")
    group.add_argument("--steps", type=int, default=100, metavar="N", help="at least 10 (default: 100)")
    group.add_argument(
        "--picture", metavar="FILE", help="draw the loss over the learning rate, as a PNG (default: none)"
    )
    add_options(parser, only=[f.name for f in dataclasses.fields(TrainConfig) if f.name not in _WITHOUT])
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status."""
    config = collect(flags_of(options))
    with machine(config):
        parts, transform, info = load_data(config)
        model = build_model(config, info)
        check_half_type(model, config.mixed_precision)
        batches = make_batches(config, parts.train, transform)
        trainer = Trainer(
            model,
            make_loss(config, parts.train),
            make_optimizer(config, model),
            seed=config.seed,
            clip_norm=config.clip_norm,
            accumulate=config.accumulate,
            mixed_precision=config.mixed_precision,
        )
        found = trainer.find_lr(batches, start=options.start, end=options.end, steps=options.steps)
    say("steps", f"{len(found.rates)}, learning rates from {found.rates[0]:.2g} to {found.rates[-1]:.2g}")
    lowest = found.smoothed.argmin()
    say("loss", f"smoothed, lowest at a learning rate of {found.rates[lowest]:.2g}: {found.smoothed[lowest]:.4f}")
    if options.picture is not None:
        found.draw(options.picture)
    if found.suggestion is None:
        raise TrainingError(
            "no learning rate has made the loss smaller; look at the data and the network, or at --start"
        )
    result(f"suggested learning rate {found.suggestion:.2g}")
    emit("learning_rate", suggestion=found.suggestion, rates=found.rates, smoothed_loss=found.smoothed)
    return DONE
