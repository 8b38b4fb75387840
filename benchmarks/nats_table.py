"""nats[image, level] of a model: every level of every image, kept by content so that it is drawn once only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from markovae.diffusion.model import Diffusion
from markovae.likelihood.comparison import NatsTable
from markovae.likelihood.control import Wiener, WienerControl
from markovae.likelihood.estimators import Estimator, measuring
from markovae.likelihood.statistics import LevelStatistics, level_statistics
from markovae.log import log, track
from markovae.system.files import make_folder, write_file

FORMAT, SURVEY_FORMAT = 1, 2
PART = 20  # images a file: what an interruption costs at most


@dataclass(frozen=True)
class Table:
    """R draws of every level of every image, each with noise of its own.

    Args:
        nats: of levels 2…L, (R, n, L−1).   first: of the reconstruction, (R, n).   prior: closed form, (n,).
        wiener: what a Wiener denoiser's error at the same latent costs with the variance β̃, (R, n, L−1), nats.
    """

    nats: Tensor
    first: Tensor
    prior: Tensor
    wiener: Tensor

    def plain(self, draw: int = 0) -> NatsTable:
        """One of the R, for estimators without a control variate."""
        return NatsTable(self.nats[draw], self.prior + self.first[draw])

    def controlled(self, control: WienerControl, x: Tensor, draw: int = 0) -> NatsTable:
        """One of the R, for those with one, on the same images, x (n, *D)."""
        rest = self.prior + self.first[draw] + control.total(x)
        return NatsTable(self.nats[draw] - control.coefficient * self.wiener[draw] - control.offset, rest)


def table_of(
    model: Diffusion,
    name: str,
    images: Any,
    wiener: Wiener,
    cache: Path,
    *,
    labels: Any = None,
    depth: int = 1,
    batch: int = 64,
) -> Table:
    """The table of these images, from the cache as far as it lies there; R L network calls for each that does not.

    Args:
        name: what tells this model from others: its checkpoint's digest.   cache: a folder.   depth: R.
    """
    make_folder(cache)
    grid = model.schedule.logsnr.detach()
    unit = WienerControl(wiener, grid, torch.ones(len(grid) - 2, dtype=torch.float64), torch.zeros(len(grid) - 2))
    parts, missing = [], 0
    starts = range(0, len(images), PART)
    for begin in track(starts, f"levels 1 to {model.num_levels} of {len(images)} images, {PART} at a time"):
        some = np.asarray(images[begin : begin + PART])
        given = None if labels is None else labels[begin : begin + len(some)]
        # Each part has a seed of its own: images of two parts share no noise.
        path = cache / f"nats-{_key(model, f'{name} {begin} {depth}', some, wiener)}.safetensors"
        if not path.exists():
            missing += 1
            write_file(path, save(_drawn(model, some, given, unit, depth, seed=begin, batch=batch)))
        parts.append(load_file(path))
    log(f"{missing} of {len(starts)} parts were drawn now")
    columns = {name: torch.cat([part[name] for part in parts], 0 if name == "prior" else 1) for name in parts[0]}
    return Table(**columns)


def survey_of(
    model: Diffusion,
    name: str,
    images: Any,
    wiener: Wiener,
    cache: Path,
    *,
    labels: Any = None,
    knots: int = 129,
    batch: int = 64,
) -> LevelStatistics:
    """One pass over other images, from the cache where it lies there; 16 network calls an image."""
    make_folder(cache)
    path = cache / f"survey-{_key(model, f'{name} {knots} {SURVEY_FORMAT}', images, wiener)}.safetensors"
    if not path.exists():
        found = vars(level_statistics(model, images, labels, knots=knots, wiener=wiener, batch=batch))
        tensors = {part: torch.as_tensor(value).contiguous() for part, value in found.items()}
        write_file(path, save(tensors))
    stored = load_file(path)
    return LevelStatistics(**{part: float(value) if part == "prior" else value for part, value in stored.items()})


def _drawn(
    model: Diffusion, images: Any, labels: Any, unit: WienerControl, depth: int, *, seed: int, batch: int
) -> dict[str, Tensor]:
    estimator = Estimator(None, replicates=depth, control=unit)
    drawn = list(measuring(model, images, labels, estimator=estimator, seed=seed, batch=batch))
    level, nats, counted = (
        torch.cat(columns) for columns in zip(*((d.task.level, d.nats, d.counted) for d in drawn), strict=True)
    )
    later, shape = level > 1, (depth, len(images), -1)  # the order of `full_sum`
    return {
        "nats": nats[later].reshape(shape),
        "wiener": (nats - counted)[later].reshape(shape),
        "first": nats[~later].reshape(depth, -1),
        "prior": torch.cat([d.prior for d in drawn]),
    }


def _key(model: Diffusion, name: str, images: Any, wiener: Wiener) -> str:
    made = hashlib.sha256(f"{FORMAT} {name} {model.precision} {type(model.reverse).__name__}".encode())
    for part in (model.schedule.logsnr.detach(), wiener.mean, wiener.spectrum):
        made.update(part.numpy().tobytes())
    for buffer in model.reverse.buffers():
        made.update(buffer.numpy().tobytes())
    made.update(np.ascontiguousarray(images).tobytes())
    return made.hexdigest()[:24]
