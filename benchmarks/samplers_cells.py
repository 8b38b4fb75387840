"""Images of one sampler at one number of calls, kept part by part so that a long table can be broken off and gone on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from markovae.console import track
from markovae.diffusion import Diffusion
from markovae.files import write_file
from markovae.sampling import Plan, condition_for, walk
from markovae.sampling.draw import finished

Draw = Callable[[range, Tensor | None], Tensor]
"""draw(sample numbers, their labels) -> z_0 on the model's scale, (B, *D)."""


@dataclass(frozen=True)
class Cell:
    """What a sampler drew.

    Args:
        x: z_0 on the model's scale, (n, *D), float32.   seconds: spent on all n.
    """

    x: Tensor
    seconds: float

    def digits(self, model: Diffusion) -> Tensor:
        """The images, (n, *D), integers."""
        return model.pixels.to_digits(self.x)


def labels_of(model: Diffusion, numbers: range) -> Tensor | None:
    """Every class in turn, or None."""
    classes = int(getattr(model.network, "num_classes", 0))
    return torch.tensor(numbers) % classes if classes else None


def by_plan(model: Diffusion, plan: Plan, seed: int) -> Draw:
    """Samples as `markovae sample` draws them."""

    def draw(numbers: range, labels: Tensor | None) -> Tensor:
        condition = condition_for(model, labels)
        return finished(walk(model, numbers, plan, seed, None if condition is None else condition.to(model.device)))

    return draw


def cell(folder: Path, model: Diffusion, draw: Draw, n: int, batch: int) -> Cell:
    """Samples 0…n−1, from `folder` as far as they lie there."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = list(_parts(folder, model, draw, n, batch))
    return Cell(torch.cat([x for x, _ in parts]), sum(seconds for _, seconds in parts))


def _parts(folder: Path, model: Diffusion, draw: Draw, n: int, batch: int) -> Iterator[tuple[Tensor, float]]:
    starts = range(0, n, batch)
    missing = sum(not _file(folder, start, batch).is_file() for start in starts)
    for start in track(starts, folder.name, len(starts)) if missing else starts:
        path = _file(folder, start, batch)
        if not path.is_file():
            numbers = range(start, start + batch)
            began = time.perf_counter()
            x = draw(numbers, labels_of(model, numbers)).float().cpu()
            seconds = torch.tensor(time.perf_counter() - began, dtype=torch.float64)
            write_file(path, safetensors.torch.save({"x": x.contiguous(), "seconds": seconds}))
        stored = safetensors.torch.load(path.read_bytes())
        kept = min(batch, n - start)
        yield stored["x"][:kept], float(stored["seconds"]) * kept / batch


def _file(folder: Path, start: int, batch: int) -> Path:
    return folder / f"{start:06d}-{start + batch:06d}.safetensors"
