"""`distill`: a run's student, which samples in one, two or four network evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from markovae.checkpoints.reading import LoadedRun, load_run, open_checkpoint
from markovae.config import Config
from markovae.errors import UserError
from markovae.run.loggers import Logger
from markovae.run.start import train_run
from markovae.run.surroundings import Surroundings
from markovae.system.device import device_named
from markovae.system.lock import Lock
from markovae.training.distillation_config import DistillConfig


def distill(
    run: str | Path,
    out: str | Path,
    calls: int = 4,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    guidance: float = 1.0,
    settings: Sequence[str] = (),
    trust: Sequence[str] = (),
    loggers: Iterable[Logger | str] = (),
    progress: bool = True,
    device: str | torch.device = "auto",
    held: Lock | None = None,
) -> LoadedRun:
    """Train a student of a run, from its averaged weights and on its images: a run like any other.

        student = mv.distill("runs/photos", "runs/photos-2", 2, minutes=10)
        images = mv.sample(student.model, 16)       # two network evaluations each

    The run in `out` holds its teacher's weights, so that `mv.resume(out)` needs nothing else.

    Args:
        run: the teacher's run, or one of its checkpoints.
        out: the student's folder, new or empty.
        calls: 1, 2 or 4 network evaluations a sample.
        minutes, steps: the budget; None is 15 minutes.
        guidance: of the teacher, built into the student; 1 is none.
        settings: "section.name=value" each, applied last.
        trust, loggers, progress, device, held: as for `train`.
    Raises:
        UserError: before anything is written, for a teacher that is a student itself, has no images of its own, or is
            not defined between its levels; or another number of calls.
        StoppedRun, SystemExit: as `train`.
    """
    if minutes is not None and steps is not None:
        raise UserError(f"steps={steps} and minutes={minutes:g} are both given: name one")
    config = _student_config(run, DistillConfig(calls, guidance), trust)
    budget = f"train.steps={steps}" if steps is not None else f"train.minutes={15 if minutes is None else minutes}"
    config = config.with_settings([budget, *settings])
    own = config.network.own
    trust = trust if own is None else (*trust, own.name)
    around = Surroundings(trust, loggers, progress, device_named(device), held)
    return load_run(train_run(config, out, around, init=run), device=around.device, trust=trust)


def _student_config(run: str | Path, distill: DistillConfig, trust: Sequence[str]) -> Config:
    """The teacher's configuration with the section [distill].

    Raises:
        UserError: for a teacher that is imported; see `require_teacher` for the others.
    """
    checkpoint = open_checkpoint(run, trust)
    if checkpoint.imported:
        raise UserError(
            f"{run} was imported and has no images of its own: train on some first (markovae train DATA --init {run}), "
            "or name them with markovae train DATA --init … --set distill.calls=…"
        )
    train = checkpoint.config.train
    train = replace(
        train,
        objective="weighted",
        level_sampling="auto",
        weighting="own",
        draw="rao_blackwell",
        level_logsnr=(),
        level_density=(),
        preset="none",  # for a small budget it would be another network
    )
    return replace(checkpoint.config, train=train, distill=distill)
