"""Images of one sampler at one number of calls, kept part by part: a long table can be broken off and gone on with."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from markovae.diffusion.model import Diffusion
from markovae.log import track
from markovae.networks.conditioning import Condition
from markovae.sampling.generation import final_latents, sample_trajectory
from markovae.sampling.guidance import Guidance, guided
from markovae.sampling.plans import Plan
from markovae.system.files import write_file

NoiseSample = Callable[[range, Tensor | None], Tensor]
"""draw(sample numbers, their labels) -> z_0 on the model's scale, (B, *D)."""


@dataclass(frozen=True)
class Cell:
    """What a sampler drew.

    Args:
        x: z_0 on the model's scale, (n, *D), float32.
        seconds: an image, the median part's: a long table is drawn beside other work, and some of it waits.
    """

    x: Tensor
    seconds: float

    def digits(self, model: Diffusion) -> Tensor:
        """The images, (n, *D), integers."""
        return model.pixels.to_pixel_values(self.x)


def by_plan(model: Diffusion, plan: Plan, seed: int, guidance: Guidance | None = None) -> NoiseSample:
    """Samples as `markovae sample` draws them."""

    def draw(numbers: range, labels: Tensor | None) -> Tensor:
        condition = None if labels is None else Condition(label=labels)
        condition = None if condition is None else condition.to(model.device)
        denoiser = guided(model, condition, guidance or Guidance())
        return final_latents(sample_trajectory(model, numbers, plan, seed, condition, denoiser))

    return draw


def grid_key(chosen: Plan) -> str:
    """What tells the grid of a plan from others: images of one name are not those of another spacing."""
    return hashlib.sha256(chosen.grid.numpy().tobytes()).hexdigest()[:8]


def cell(folder: Path, draw: NoiseSample, n: int, batch: int, labels: Tensor | None = None) -> Cell:
    """Samples 0…n−1 of these classes, from `folder` as far as they lie there."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = list(_parts(folder, draw, n, batch, labels))
    return Cell(torch.cat([x for x, _ in parts]), statistics.median(seconds / len(x) for x, seconds in parts))


def _parts(
    folder: Path, draw: NoiseSample, n: int, batch: int, labels: Tensor | None
) -> Iterator[tuple[Tensor, float]]:
    parts = [range(start, min(start + batch, n)) for start in range(0, n, batch)]
    done = all(_file(folder, numbers).is_file() for numbers in parts)
    for numbers in parts if done else track(parts, folder.name):
        path = _file(folder, numbers)
        if not path.is_file():
            began = time.perf_counter()
            x = draw(numbers, None if labels is None else labels[numbers.start : numbers.stop]).float().cpu()
            seconds = torch.tensor(time.perf_counter() - began, dtype=torch.float64)
            write_file(path, safetensors.torch.save({"x": x.contiguous(), "seconds": seconds}))
        stored = safetensors.torch.load(path.read_bytes())
        yield stored["x"], float(stored["seconds"])


def _file(folder: Path, numbers: range) -> Path:
    return folder / f"{numbers.start:06d}-{numbers.stop:06d}.safetensors"
