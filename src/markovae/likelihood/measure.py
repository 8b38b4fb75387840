r"""The bound E6 of many images, by stratified draws of the level or by all levels; unbiased either way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.likelihood.record import Measurement, level_table
from markovae.networks.condition import Condition
from markovae.randomness import Streams


@dataclass(frozen=True)
class Task:
    """One batch of single draws: which image, which level.

    Args:
        image: place of the image in the data, (B,).   level: 2…L, (B,); 1 stands for the reconstruction.
    """

    image: Tensor
    level: Tensor


def stratified_levels(num_levels: int, draws: int, images: Tensor, seed: int) -> Tensor:
    """`draws` levels an image in 2…L, evenly spread from a random start of its own, (n, draws), int64.

    u_m = (m + U)/M with U uniform and keyed by (seed, image): each level is as likely as any other, so
    (L−1)/M times the sum of the draws is unbiased, and images are independent of each other.
    """
    start = Streams(seed, "measure levels", images.tolist()).uniform((1,))
    u = (torch.arange(draws, dtype=torch.float64) + start) / draws
    return 2 + (u * (num_levels - 1)).long().clamp(max=num_levels - 2)


def measure(
    model: Diffusion,
    images: np.ndarray | Tensor,
    labels: np.ndarray | Tensor | None = None,
    *,
    draws: int | None = 16,
    levels: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 64,
) -> Measurement:
    """Measure the bound on −ln P of integer images; every image counts exactly once.

    Args:
        images: digits, (n, C, H, W), as the data hold them; never augmented, scaled or dropped.
        labels: classes, (n,), for a model that was trained with them.
        draws: levels drawn an image (cost: draws + 1 network calls); None takes every level (L calls).
        levels: measure on the sub-grid of so many levels; None is the model's own grid.
        limit: the first so many images only.
        seed: of the draws; noise is keyed by (seed, image, level).
        batch: draws a network call; no figure depends on it beyond rounding.
    Raises:
        UserError: for no images, draws or limit below 1, or more levels than the grid has.
    """
    return finish(model, list(measuring(model, images, labels, draws, levels, limit, seed, batch)), seed)


@dataclass(frozen=True)
class Drawn:
    """The outcome of one batch of draws.

    Args:
        task: image and level of each draw.   nats: of each draw, (B,), float64.
        share: how often its term is counted: (L−1)/draws for a drawn level, 1 for all levels and level 1.
        prior: closed-form prior term of those images that this batch opens, by place.
        num_levels, total: L of the grid, and the number of draws to come in all (for a progress bar).
    """

    task: Task
    nats: Tensor
    share: Tensor
    prior: Tensor
    num_levels: int
    total: int


def measuring(
    model: Diffusion,
    images: np.ndarray | Tensor,
    labels: np.ndarray | Tensor | None,
    draws: int | None,
    levels: int | None,
    limit: int | None,
    seed: int,
    batch: int,
) -> Iterator[Drawn]:
    """The work of `measure`, batch by batch, for those who show progress; `finish` sums it up."""
    model = _on_levels(model, levels)
    images, labels = _checked(model, images, labels, draws, limit, batch)
    task = _all_draws(model.num_levels, len(images), draws, seed)
    per_level = 1.0 if draws is None or draws >= model.num_levels - 1 else (model.num_levels - 1) / draws
    training, total = model.training, len(task.image)
    model.eval()
    with torch.no_grad():
        for begin in range(0, total, batch):
            image, level = task.image[begin : begin + batch], task.level[begin : begin + batch]
            x = model.to_x(images[image])
            nats = _nats(model, x, image, level, None if labels is None else labels[image], seed)
            first = level == 1
            share = torch.where(first, 1.0, torch.tensor(per_level, dtype=torch.float64))
            yield Drawn(Task(image, level), nats, share, model.prior_nats(x[first]).cpu(), model.num_levels, total)
    model.train(training)


def finish(model: Diffusion, drawn: list[Drawn], seed: int) -> Measurement:
    """Sum the draws of every image into a Measurement."""
    image, level = (torch.cat([getattr(d.task, name) for d in drawn]) for name in ("image", "level"))
    nats, share = torch.cat([d.nats for d in drawn]), torch.cat([d.share for d in drawn])
    n, first = int(image.max()) + 1, level == 1
    assert torch.equal(image[first], torch.arange(n)), "every image exactly once"
    levels = torch.zeros(n, dtype=torch.float64).index_add_(0, image[~first], (nats * share)[~first])
    logsnr = _on_levels(model, drawn[0].num_levels).schedule.logsnr
    return Measurement(
        prior=torch.cat([d.prior for d in drawn]),
        levels=levels,
        reconstruction=nats[first],
        per_level=level_table(level[~first], nats[~first], logsnr),
        dims=model.dims,
        num_levels=drawn[0].num_levels,
        network_calls_per_example=len(image) // n,
        seed=seed,
    )


def _all_draws(num_levels: int, n: int, draws: int | None, seed: int) -> Task:
    """Every draw of every image: the reconstructions first, then the levels image by image."""
    if draws is None or draws >= num_levels - 1:
        chosen = torch.arange(2, num_levels + 1).expand(n, -1)
    else:
        chosen = stratified_levels(num_levels, draws, torch.arange(n), seed)
    images = torch.arange(n)
    repeated = images[:, None].expand_as(chosen).flatten()
    ones = torch.ones(n, dtype=torch.int64)
    return Task(torch.cat([images, repeated]), torch.cat([ones, chosen.flatten()]))


def _nats(model: Diffusion, x: Tensor, image: Tensor, level: Tensor, labels: Tensor | None, seed: int) -> Tensor:
    """One draw each, (B,), float64, on the CPU; noise keyed by (seed, image, level)."""
    nats = torch.zeros(len(x), dtype=torch.float64)
    for first in (True, False):
        chosen = ((level == 1) == first).nonzero().flatten()
        if not len(chosen):
            continue
        source = _streams(seed, image[chosen], level[chosen])
        condition = None if labels is None else Condition(label=labels[chosen].to(model.device))
        part = x[chosen.to(x.device)]
        if first:
            nats[chosen] = model.reconstruction_nats(part, source, condition).cpu()
        else:
            nats[chosen] = model.level_nats(part, level[chosen], source, condition).cpu()
    return nats


def _streams(seed: int, image: Tensor, level: Tensor) -> Streams:
    # One integer names the pair: a schedule has at most a million levels, which is below 2^20.
    return Streams(seed, "measure noise", (image * 2**20 + level).tolist())


def _on_levels(model: Diffusion, levels: int | None) -> Diffusion:
    if levels is None or levels == model.num_levels:
        return model
    if not 1 <= levels <= model.num_levels:
        raise UserError(f"levels={levels} must lie in 1…{model.num_levels}, the levels of this model's grid")
    return model.on_grid(model.schedule.subgrid(levels))


def _checked(
    model: Diffusion,
    images: np.ndarray | Tensor,
    labels: np.ndarray | Tensor | None,
    draws: int | None,
    limit: int | None,
    batch: int,
) -> tuple[Tensor, Tensor | None]:
    for name, value in (("draws", draws), ("limit", limit), ("batch", batch)):
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be at least 1")
    images = torch.as_tensor(np.asarray(images[:limit]) if isinstance(images, np.ndarray) else images[:limit])
    if not len(images):
        raise UserError("no images to measure: the data are empty")
    if tuple(images.shape[1:]) != model.shape:
        raise UserError(f"images of shape {tuple(images.shape[1:])} do not fit the model, which takes {model.shape}")
    if images.is_floating_point():
        raise UserError(f"images must be integers 0…{model.pixels.bins - 1}, not {images.dtype}: pass them unscaled")
    labels = None if labels is None else torch.as_tensor(labels[:limit]).long()
    if labels is not None and len(labels) != len(images):
        raise UserError(f"{len(labels)} labels for {len(images)} images: give one each")
    return images, labels
