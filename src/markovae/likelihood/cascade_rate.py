"""Rate against distortion along the whole chain of a cascade, from the top of its base to the exact image."""

from __future__ import annotations

import math
from typing import Any

import torch

from markovae.diffusion.cascade import Cascade
from markovae.diffusion.markovian_vae import evaluating
from markovae.likelihood.fitting import stage_examples
from markovae.likelihood.inputs import Array, Labels, checked_images, checked_labels, conditions
from markovae.likelihood.statistics import RatePoint, collect_level_statistics, nats_above
from markovae.randomness import Streams


@torch.no_grad()
def cascade_rate_distortion(
    model: Cascade,
    images: Array,
    labels: Labels | None = None,
    *,
    seed: int = 0,
    batch: int = 64,
    **options: Any,
) -> tuple[RatePoint, ...]:
    """`rate_distortion` of a cascade: the base is sent first, then each band of details.

    Whoever holds the latent of a band at its level ℓ holds the coarser bands at λ_1, and has been sent their levels and
    the tops of all these bands. x̂ has no finer details: the error counts all of theirs.

    Args:
        images: pixel values that nothing was trained on, (n, C, H, W).
        labels: theirs, where the model takes them.
        options: of `collect_level_statistics`, for every stage.
    """
    images = checked_images(model, images)
    known = checked_labels(labels, len(images))
    found, powers = [], []
    for (stage, data, given), unit in zip(stage_examples(model, images, known, seed), model.units, strict=True):
        found.append(collect_level_statistics(stage, data, given, seed=seed, batch=batch, **options))
        powers.append(math.exp(unit) * float(torch.as_tensor(data).double().square().sum()) / len(data))
    bits, bin_width = 1 / (model.dims * math.log(2)), 2 * model.pixels.half_width
    grid, sent, left = model.level_logsnr, 0.0, 0.0
    below, points = model.num_levels - 1, []
    for b, (each, unit) in enumerate(zip(found, model.units, strict=True)):
        nats, finer = each.nats_of_levels(), sum(powers[b + 1 :])
        below -= len(nats)
        after = nats_above(nats, each.prior)
        squares = math.exp(unit) * each.error.flatten(1).sum(1)
        for k, own in reversed(list(enumerate(each.level.tolist()))):
            if own > 1 or b == model.octaves:  # level 1 of a band is the next one's top
                rmse = math.sqrt((left + float(squares[k]) + finer) / model.dims) / bin_width
                level = below + own
                points.append(RatePoint(level, float(grid[level]), (sent + float(after[own - 1])) * bits, rmse))
        sent, left = sent + float(after[0]), left + float(squares[0])
    total = 0.0
    with evaluating(model):
        for part in torch.arange(len(images)).split(batch):
            source, condition = (
                Streams(seed, "rate", part.tolist()),
                conditions(model, None if known is None else known[part]),
            )
            total += float(model.reconstruction_nats(model.to_x(images[part]), source, condition).sum())
    return (*points, RatePoint(0, math.inf, (sent + total / len(images)) * bits, 0.0))
