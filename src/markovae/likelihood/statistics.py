"""Noisy means along the log-SNR made a smooth curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from markovae.diffusion.forward import noised
from markovae.diffusion.gaussian import expand
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import (
    DiagonalVariance,
    ErrorTable,
    IsotropicVariance,
    PosteriorVariance,
    ReverseVariance,
)
from markovae.diffusion.schedule import NoiseSchedule
from markovae.errors import UserError
from markovae.likelihood.inputs import (
    Array,
    Labels,
    at_least_one,
    checked_images,
    checked_labels,
    checked_model,
    conditions,
)
from markovae.likelihood.level_sampling import LevelDistribution
from markovae.randomness import Streams


def smoothed(logsnr: Tensor, error: Tensor, count: Tensor, width: float) -> Tensor:
    """Errors smoothed along log-SNR: at each a parabola in ln error, fitted under a Gaussian window, (K, *D).

    Where the log-SNRs lie further apart than the window, an error stays what it is.

    Args:
        logsnr: (K,).   error: (K, *D), ≥ 0.   count: draws behind each, (K,).   width: of the window, > 0.
    Source: Fan & Gijbels 1996, section 3.2 (local polynomial regression).
    """
    offset = (logsnr - logsnr[:, None]).double() / width
    powers = torch.stack([offset**0, offset, offset**2], 2)
    weighted = powers * (torch.exp(-0.5 * offset**2) * count)[..., None]
    # The error itself holds the fit where the window holds no neighbour.
    normal = weighted.mT @ powers + 1e-9 * count.double()[:, None, None] * torch.eye(3, dtype=torch.float64)
    # An error of 0 (a pixel that never changes) has no logarithm; this is 0 beside any variance.
    values = error.reshape(len(error), -1).clamp(min=1e-30).log()
    fitted = torch.linalg.solve(normal, weighted.mT @ values)[:, 0]
    return fitted.exp().reshape(error.shape)


KNOTS = 65  # log-SNRs of a table of errors
PER_IMAGE, DRAWS_PER_KNOT = 16, 16


@dataclass(frozen=True)
class LevelStatistics:
    """Moments at K of the levels, each over the draws that fell on it.

    Args:
        level: 1…L, increasing, (K,), int64.   logsnr: the whole grid λ_0…λ_L, (L+1,).   count: draws, (K,).
        error: E(x − x̂)² of each coordinate, (K, *D).
        nats, nats_square: first and second moment of the level's nats, (K,); level 1's are the reconstruction's.
        prior: mean closed-form prior term, nats.
    """

    level: Tensor
    logsnr: Tensor
    count: Tensor
    error: Tensor
    nats: Tensor
    nats_square: Tensor
    prior: float

    def errors_at(self, logsnr: Tensor, per_coordinate: bool = False, width: float = 0.7) -> Tensor:
        """E(x − x̂)² at any log-SNRs (N,): the mean over coordinates, (N,), or each, (N, *D).

        The surveyed means are smoothed first: a search that picks levels would pick those that chance made look good.

        Args:
            width: of the smoothing in log-SNR; 0 takes the means as they are (see `smoothed`).
        """
        error = self.error if per_coordinate else self.error.flatten(1).mean(1)
        if len(self.level) == 1:
            return error.expand(len(logsnr), *error.shape[1:])
        knots = self.logsnr[self.level]
        error = smoothed(knots, error, self.count, width) if width else error
        return ErrorTable(len(self.level), error.shape[1:]).fit(knots, error).at(logsnr)

    def nats_of_levels(self) -> Tensor:
        """Mean nats of levels 2…L, (L−1,): between surveyed levels the nats for one unit of SNR are interpolated."""
        return self._spread(self.nats, half_snr_steps(self.logsnr))

    def distribution(self, even: float = 0.05) -> LevelDistribution:
        """The importance distribution of levels, p ∝ √E[nats²] (see `LevelDistribution.importance`)."""
        return LevelDistribution.importance(self._spread(self.nats_square, half_snr_steps(self.logsnr) ** 2), even)

    def _spread(self, values: Tensor, weight: Tensor) -> Tensor:
        """Values of the surveyed levels ≥ 2 to all, (L−1,), ln-interpolated after division by the weight."""
        later = self.level > 1
        ratio = values[later] / weight[self.level[later] - 2]
        table = ErrorTable(max(len(ratio), 2))
        if len(ratio) == 1:
            return ratio * weight
        return table.fit(self.logsnr[self.level[later]], ratio).at(self.logsnr[2:]) * weight


def half_snr_steps(logsnr: Tensor) -> Tensor:
    """½(γ_{ℓ−1} − γ_ℓ) of levels 2…L, (L−1,), from λ_0…λ_L."""
    return -0.5 * logsnr[1:-1].exp() * torch.expm1(logsnr[2:] - logsnr[1:-1])


def levels_each(knots: int, images: int, least: int = PER_IMAGE) -> int:
    """Of how many of the `knots` levels to survey each image: `least`, or what gives each level 16 draws."""
    return min(knots, max(least, -(-knots * DRAWS_PER_KNOT // max(1, images))))


def collect_level_statistics(
    model: Diffusion,
    images: Array,
    labels: Labels | None = None,
    *,
    per_image: int = PER_IMAGE,
    knots: int | None = KNOTS,
    reverse: ReverseVariance | None = None,
    seed: int = 0,
    batch: int = 64,
) -> LevelStatistics:
    """One pass over images, each at `per_image` levels evenly spread from a random start: per_image network calls.

    Args:
        images: digits as in `measure`; never those to be measured, where something is fitted.
        knots: survey so many of the L levels, evenly spread in log-SNR; None takes all.
        reverse: count the nats with this variance; None is the model's own.
    Raises:
        UserError: as `measure`; or where a surveyed level was never drawn: too few images.
    """
    at_least_one(per_image=per_image, knots=knots, batch=batch)
    checked_model(model)
    images = checked_images(model, images)
    labels = checked_labels(labels, len(images))
    levels = surveyed_levels(model.schedule, knots)
    image, place = _assignments(len(images), len(levels), per_image, seed)
    totals = _Totals(len(levels), model)
    with torch.no_grad(), evaluating(model):
        for begin in range(0, len(image), batch):
            i, p = image[begin : begin + batch], place[begin : begin + batch]
            x = model.to_x(images[i])
            noise = Streams(seed, "survey noise", (i * 2**20 + levels[p]).tolist()).normal(model.shape, x.dtype)
            condition = conditions(model, None if labels is None else labels[i])
            error, nats = _errors_and_nats(model, x, noise.to(x.device), levels[p], condition, reverse)
            totals.add(p, error.cpu(), nats.cpu())
        prior = torch.cat([model.prior_nats(model.to_x(part)).cpu() for part in images.split(batch)])
    return totals.level_statistics(levels, model.schedule.logsnr.detach().cpu(), float(prior.mean()))


def fit_reverse(
    model: Diffusion,
    images: Array,
    labels: Labels | None = None,
    **options: Any,
) -> LevelStatistics:
    """Fit the model's isotropic or diagonal reverse variance on training images, in place, in one pass.

    The table holds errors by log-SNR, so every sub-grid is served by the same fit.

    Args:
        options: as for `collect_level_statistics`.
    Raises:
        UserError: for a model whose reverse variance has nothing to fit.
    """
    variance = model.reverse
    if not isinstance(variance, IsotropicVariance | DiagonalVariance):
        raise UserError("this model's reverse variance is not fitted to images: choose isotropic or diagonal")
    found = collect_level_statistics(model, images, labels, reverse=PosteriorVariance(), **options)
    ends = model.schedule.logsnr[1], model.schedule.logsnr[-1]
    share = torch.linspace(0, 1, len(variance.errors.logsnr), dtype=torch.float64)
    grid = ends[0] + share * (ends[1] - ends[0])
    variance.errors.fit(grid, found.errors_at(grid, isinstance(variance, DiagonalVariance)))
    return found


def surveyed_levels(schedule: NoiseSchedule, knots: int | None) -> Tensor:
    """The levels nearest to `knots` log-SNRs evenly spread from level 1 to L, without repeats, (≤ knots,), int64."""
    logsnr = schedule.logsnr[1:]
    if knots is None or knots >= len(logsnr):
        return torch.arange(1, len(logsnr) + 1)
    share = torch.linspace(0, 1, knots, dtype=torch.float64)
    wanted = logsnr[0] + share * (logsnr[-1] - logsnr[0])
    return 1 + (logsnr - wanted[:, None]).abs().argmin(1).unique()


def _assignments(n: int, count: int, per_image: int, seed: int) -> tuple[Tensor, Tensor]:
    """Every draw's image and place among the surveyed levels, two (N,) int64."""
    if per_image >= count:
        place = torch.arange(count).expand(n, -1)
    else:
        # A stream of its own: a law that knew the starts it will be drawn with would be biased.
        starts = Streams(seed, "survey levels", range(n)).uniform(())
        quantile = (torch.arange(per_image, dtype=torch.float64) + starts[:, None]) / per_image
        place = (quantile * count).long().clamp(max=count - 1)
    return torch.arange(n)[:, None].expand_as(place).flatten(), place.flatten()


def _errors_and_nats(
    model: Diffusion, x: Tensor, noise: Tensor, level: Tensor, condition: Any, reverse: ReverseVariance | None
) -> tuple[Tensor, Tensor]:
    """(x − x̂)², (B, *D), and nats, (B,), of one draw each, from one network call."""
    grid = model.schedule.logsnr.to(x.device)
    level = level.to(x.device)
    reverse = model.reverse if reverse is None else reverse
    z = noised(x, noise, grid[level])
    x_hat, head = model.predict(z, grid[level], condition)
    nats = x.new_zeros(len(x), dtype=torch.float64)
    first, later = (level == 1).nonzero().flatten(), (level > 1).nonzero().flatten()
    if len(later):
        part = None if head is None else head[later]
        at = level[later]
        nats[later] = reverse.kl(x[later], x_hat[later], grid[at - 1], grid[at], part)
    if len(first):
        nats[first] = -model.decoder.distribution(x_hat[first], grid, z[first]).log_prob(x[first])
    return (x.double() - x_hat.double()) ** 2, nats


class _Totals:
    """Sums by level."""

    def __init__(self, count: int, model: Diffusion) -> None:
        self.count, self.nats, self.square = (torch.zeros(count, dtype=torch.float64) for _ in range(3))
        self.error = torch.zeros(count, *model.shape, dtype=torch.float64)

    def add(self, place: Tensor, error: Tensor, nats: Tensor) -> None:
        self.count.index_add_(0, place, torch.ones_like(nats))
        self.error.index_add_(0, place, error)
        self.nats.index_add_(0, place, nats)
        self.square.index_add_(0, place, nats**2)

    def level_statistics(self, levels: Tensor, logsnr: Tensor, prior: float) -> LevelStatistics:
        if not bool((self.count > 0).all()):
            raise UserError(
                f"level {int(levels[int((self.count == 0).nonzero()[0])])} was never drawn: survey more images, "
                "more levels an image, or fewer knots"
            )
        if not bool(self.error.isfinite().all()):
            raise UserError("the model's outputs are not finite: this model cannot be surveyed")
        error = self.error / expand(self.count, self.error)
        nats, square = self.nats / self.count, self.square / self.count
        return LevelStatistics(levels, logsnr, self.count.long(), error, nats, square, prior)
