"""Rate against distortion, with its pictures: what can be shown of an image when so many of its bits have come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from markovae.diffusion import Diffusion
from markovae.forward import step
from markovae.likelihood import RatePoint, finite, levels_each, rate_distortion, survey
from markovae.networks.condition import Condition
from markovae.networks.given import Givens
from markovae.randomness import Streams
from markovae.report.pictures import Images, viewable
from markovae.sampling import to_images

KNOTS, LEAST_PER_IMAGE = 33, 8
COLUMNS = 9


@dataclass(frozen=True)
class Progress:
    """The curve, and images on their way along it.

    Args:
        points: from level L to the exact image.
        shown: some of them.   pictures: the network's guesses there, then the images themselves, (n, H, W, C) each.
    """

    points: tuple[RatePoint, ...]
    shown: tuple[RatePoint, ...]
    pictures: tuple[Images, ...]

    def curve(self) -> list[dict[str, Any]]:
        """The points, JSON-able."""
        return [
            {
                "level": point.level,
                "logsnr": finite(point.logsnr),
                "bits_per_dim": point.rate_bits_per_dim,
                "rmse": point.rmse,
            }
            for point in self.points
        ]


def progress(model: Diffusion, images: Images, labels: Any, pictured: int, seed: int = 0) -> Progress:
    """Survey images that were never trained on, and picture the first few.

    Args:
        images: digits, (n, C, H, W).   labels: theirs, where the model takes them.   pictured: how many.
    """
    knots = min(KNOTS, model.num_levels)
    per_image = levels_each(knots, len(images), LEAST_PER_IMAGE)
    found = survey(model, np.asarray(images), labels, per_image=per_image, knots=knots, seed=seed)
    points = rate_distortion(model, found)
    shown = spread(points)
    some, given = np.asarray(images[:pictured]), None if labels is None else labels[:pictured]
    pictures = guesses(model, some, given, [point.level for point in shown[:-1]], seed)
    return Progress(points, shown, (*pictures, viewable(some, model.pixels.bins)))


def spread(points: tuple[RatePoint, ...]) -> tuple[RatePoint, ...]:
    """Up to COLUMNS points evenly apart in the logarithm of the distortion, the exact image last."""
    inner = points[:-1]
    distortion = np.log([max(point.rmse, 1e-9) for point in inner])
    wanted = np.linspace(distortion[0], distortion.min(), COLUMNS - 1)
    places = sorted({int(np.abs(distortion - at).argmin()) for at in wanted})
    return (*(inner[i] for i in places), points[-1])


@torch.no_grad()
def guesses(model: Diffusion, digits: Images, labels: Any, levels: Sequence[int], seed: int) -> list[Images]:
    """x̂ of each image at falling levels of one draw of its encoder's chain, as pictures."""
    grid, x = model.schedule.logsnr.detach(), model.to_x(torch.as_tensor(digits)).cpu()
    condition = None
    if labels is not None:
        known = labels if isinstance(labels, Givens) else Condition(label=torch.as_tensor(labels).long())
        condition = known.condition().to(model.device)
    z, previous, found = x, 0, []
    for level in reversed(levels):
        source = Streams(seed, "report progress", range(len(x)), level)
        z, previous = step(z, grid[previous], grid[level]).sample(source), level
        logsnr = grid[level].to(model.device).expand(len(x))
        x_hat = model.denoise(z.to(model.device), logsnr, condition)
        found.append(viewable(to_images(model, x_hat), model.pixels.bins))
    return found[::-1]
