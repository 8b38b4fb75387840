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
from markovae.likelihood.estimators import Estimator, measuring
from markovae.likelihood.statistics import LevelStatistics, collect_level_statistics
from markovae.log import log, track
from markovae.system.files import make_folder, write_file

FORMAT, SURVEY_FORMAT = 2, 3
PART = 20  # images a file: what an interruption costs at most


@dataclass(frozen=True)
class Table:
    """R draws of every level of every image, each with noise of its own.

    Args:
        nats: of levels 2…L, (R, n, L−1).   first: of the reconstruction, (R, n).   prior: closed form, (n,).
    """

    nats: Tensor
    first: Tensor
    prior: Tensor

    def draw(self, number: int = 0) -> NatsTable:
        """One of the R."""
        return NatsTable(self.nats[number], self.prior + self.first[number])


def table_of(
    model: Diffusion,
    name: str,
    images: Any,
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
    parts, missing = [], 0
    starts = range(0, len(images), PART)
    for begin in track(starts, f"levels 1 to {model.num_levels} of {len(images)} images, {PART} at a time"):
        some = np.asarray(images[begin : begin + PART])
        given = None if labels is None else labels[begin : begin + len(some)]
        # Each part has a seed of its own: images of two parts share no noise.
        path = cache / f"nats-{_key(model, f'{name} {begin} {depth}', some)}.safetensors"
        if not path.exists():
            missing += 1
            write_file(path, save(_drawn(model, some, given, depth, seed=begin, batch=batch)))
        parts.append(load_file(path))
    log(f"{missing} of {len(starts)} parts were drawn now")
    columns = {name: torch.cat([part[name] for part in parts], 0 if name == "prior" else 1) for name in parts[0]}
    return Table(**columns)


def survey_of(
    model: Diffusion,
    name: str,
    images: Any,
    cache: Path,
    *,
    labels: Any = None,
    knots: int = 129,
    batch: int = 64,
) -> LevelStatistics:
    """One pass over other images, from the cache where it lies there; 16 network calls an image."""
    make_folder(cache)
    path = cache / f"survey-{_key(model, f'{name} {knots} {SURVEY_FORMAT}', images)}.safetensors"
    if not path.exists():
        found = vars(collect_level_statistics(model, images, labels, knots=knots, batch=batch))
        tensors = {part: torch.as_tensor(value).contiguous() for part, value in found.items()}
        write_file(path, save(tensors))
    stored = load_file(path)
    return LevelStatistics(**{part: float(value) if part == "prior" else value for part, value in stored.items()})


def _drawn(model: Diffusion, images: Any, labels: Any, depth: int, *, seed: int, batch: int) -> dict[str, Tensor]:
    estimator = Estimator(None, replicates=depth)
    drawn = list(measuring(model, images, labels, estimator=estimator, seed=seed, batch=batch))
    level, nats = torch.cat([d.task.level for d in drawn]), torch.cat([d.nats for d in drawn])
    return {
        "nats": nats[level > 1].reshape(depth, len(images), -1),  # the order of `full_sum`
        "first": nats[level == 1].reshape(depth, -1),
        "prior": torch.cat([d.prior for d in drawn]),
    }


def _key(model: Diffusion, name: str, images: Any) -> str:
    made = hashlib.sha256(f"{FORMAT} {name} {model.precision} {type(model.reverse).__name__}".encode())
    made.update(model.schedule.logsnr.detach().numpy().tobytes())
    for buffer in model.reverse.buffers():
        made.update(buffer.numpy().tobytes())
    made.update(np.ascontiguousarray(images).tobytes())
    return made.hexdigest()[:24]
