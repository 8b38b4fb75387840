"""The draws of a measurement, one network call each: image, level, noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.likelihood.level_sampling import LevelDistribution, level_starts
from markovae.networks.conditioning import Condition
from markovae.randomness import Streams


@dataclass(frozen=True)
class Task:
    """Single draws: of which image, at which level, for which of the independent randomisations.

    Args:
        image: place of the image in the data, (B,).   level: 2…L, (B,); 1 stands for the reconstruction.
        share: how often the draw's nats are counted in its image's sum, (B,), float64.
        replicate: number of the randomisation, (B,).
        visit: how often this image was at this level before, (B,): a further visit takes other noise.
    """

    image: Tensor
    level: Tensor
    share: Tensor
    replicate: Tensor
    visit: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def part(self, begin: int, end: int) -> Task:
        """The draws begin…end−1."""
        fields = (self.image, self.level, self.share, self.replicate, self.visit)
        return Task(*(field[begin:end] for field in fields))

    def streams(self, seed: int, chosen: Tensor) -> Streams:
        """The noise of the chosen draws, keyed by (seed, image, level) and the visit."""
        # One integer names the draw: a schedule has at most a million levels, which is below 2^20.
        columns = (field[chosen].tolist() for field in (self.visit, self.image, self.level))
        names = [((visit << 40) + image) * 2**20 + level for visit, image, level in zip(*columns, strict=True)]
        return Streams(seed, "measure noise", names)


def full_sum(num_levels: int, n: int, replicates: int = 1) -> Task:
    """Every level of every image, 1…L, once a replicate: the reconstructions first."""
    levels = torch.arange(2, num_levels + 1).expand(replicates, n, -1)
    return _assembled(levels, torch.ones(levels.shape, dtype=torch.float64))


def sampled(distribution: LevelDistribution, draws: int, n: int, seed: int, replicates: int = 1) -> Task:
    """`draws` levels an image and replicate by the law, and one reconstruction each: the reconstructions first."""
    images = torch.arange(n)
    pairs = [distribution.draw(level_starts(images, seed, r), draws) for r in range(replicates)]
    return _assembled(torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs]))


def _assembled(levels: Tensor, shares: Tensor) -> Task:
    """The draws of levels (R, n, M), after a reconstruction for each image and replicate."""
    replicates, n, draws = levels.shape
    image = torch.arange(n).expand(replicates, n)
    number = torch.arange(replicates)[:, None].expand(replicates, n)
    image, number = (torch.cat([v.flatten(), v[..., None].expand(-1, -1, draws).flatten()]) for v in (image, number))
    level = torch.cat([torch.ones(replicates * n, dtype=torch.int64), levels.flatten()])
    share = torch.cat([torch.ones(replicates * n, dtype=torch.float64), shares.flatten()])
    return Task(image, level, share, number, _visits(image * 2**20 + level))


def _visits(name: Tensor) -> Tensor:
    """How many equal names stand before each, (B,)."""
    ordered, order = name.sort(stable=True)
    place = torch.arange(len(name))
    fresh = torch.cat([torch.ones(1, dtype=torch.bool), ordered[1:] != ordered[:-1]])
    first = torch.cummax(torch.where(fresh, place, torch.zeros_like(place)), 0).values
    return torch.empty_like(place).index_copy_(0, order, place - first)


def task_nats(model: Diffusion, x: Tensor, task: Task, condition: Condition | None, seed: int) -> Tensor:
    """Nats of each draw, (B,), float64, on the CPU.

    Args:
        x: data of the draws on the model's scale, (B, *D).   condition: theirs.
    Raises:
        UserError: where a draw is NaN or Inf.
    """
    nats = torch.zeros(len(task), dtype=torch.float64)
    for first in (True, False):
        chosen = ((task.level == 1) == first).nonzero().flatten()
        if not len(chosen):
            continue
        source = task.streams(seed, chosen)
        part, at = x[chosen.to(x.device)], None if condition is None else condition.take(chosen)
        if first:
            nats[chosen] = model.reconstruction_nats(part, source, at).cpu()
        else:
            nats[chosen] = model.level_nats(part, task.level[chosen], source, at).cpu()
    if not bool(nats.isfinite().all()):
        bad = int((~nats.isfinite()).nonzero()[0])
        raise UserError(
            f"image {int(task.image[bad])} at level {int(task.level[bad])} gave {float(nats[bad])} nats: the model's "
            "weights or outputs are not finite"
        )
    return nats
