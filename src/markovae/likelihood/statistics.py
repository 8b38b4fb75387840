r"""What levels cost on average: errors and nats against log-SNR, smoothed, and the rate-distortion curve they make."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from markovae.diffusion.fitted_variance import KNOTS
from markovae.diffusion.forward import noised
from markovae.diffusion.gaussian import expand
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import (
    ErrorTable,
    ReverseVariance,
)
from markovae.diffusion.schedule import NoiseSchedule
from markovae.errors import UserError
from markovae.likelihood.estimators import LevelDistribution
from markovae.likelihood.inputs import (
    Array,
    Labels,
    checked_images,
    checked_labels,
    checked_model,
    conditions,
)
from markovae.randomness import Streams
from markovae.tables import at_least_one


def smoothed(logsnr: Tensor, error: Tensor, count: Tensor, width: float) -> Tensor:
    """Errors smoothed along log-SNR: at each a parabola in ln error, fitted under a Gaussian window, (K, *D).

    Where the log-SNRs lie further apart than the window, an error stays what it is.

    Args:
        logsnr: (K,).
        error: (K, *D), ≥ 0.
        count: draws behind each, (K,).
        width: of the window, > 0.
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


PER_IMAGE, DRAWS_PER_KNOT = 16, 16


@dataclass(frozen=True)
class LevelStatistics:
    """Moments at K of the levels, each over the draws that fell on it.

    Args:
        level: 1…L, increasing, (K,), int64.
        logsnr: the whole grid λ_0…λ_L, (L+1,).
        count: draws, (K,).
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

    @property
    def calls(self) -> int:
        """Network evaluations behind them."""
        return int(self.count.sum())

    def errors_at(self, logsnr: Tensor, per_coordinate: bool = False, width: float = 0.7) -> Tensor:
        """E(x − x̂)² at any log-SNRs (N,): the mean over coordinates, (N,), or each, (N, *D).

        The means are smoothed first: a search that picks levels would pick those that chance made look good.

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
        """Mean nats of levels 2…L, (L−1,): between those the nats for one unit of SNR are interpolated."""
        return self._spread(self.nats, half_snr_steps(self.logsnr))

    def distribution(self, even: float = 0.05) -> LevelDistribution:
        """The importance distribution of levels, p ∝ √E[nats²] (see `LevelDistribution.importance`)."""
        return LevelDistribution.importance(self.nats_squares(), even)

    def nats_squares(self) -> Tensor:
        """E[nats²] of levels 2…L, (L−1,), interpolated as `nats_of_levels`."""
        return self._spread(self.nats_square, half_snr_steps(self.logsnr) ** 2)

    def _spread(self, values: Tensor, weight: Tensor) -> Tensor:
        """Values of the levels ≥ 2 to all, (L−1,), ln-interpolated after division by the weight."""
        later = self.level > 1
        ratio = values[later] / weight[self.level[later] - 2]
        table = ErrorTable(max(len(ratio), 2))
        if len(ratio) == 1:
            return ratio * weight
        return table.fit(self.logsnr[self.level[later]], ratio).at(self.logsnr[2:]) * weight


def half_snr_steps(logsnr: Tensor) -> Tensor:
    """½(γ_{ℓ−1} − γ_ℓ) of levels 2…L, (L−1,), from λ_0…λ_L."""
    return -0.5 * logsnr[1:-1].exp() * torch.expm1(logsnr[2:] - logsnr[1:-1])


def collect_level_statistics(
    model: Diffusion,
    images: Array,
    labels: Labels | None = None,
    *,
    per_image: int | None = None,
    least: int = PER_IMAGE,
    knots: int | None = KNOTS,
    reverse: ReverseVariance | None = None,
    seed: int = 0,
    batch: int = 64,
) -> LevelStatistics:
    """One pass over images, each at `per_image` levels evenly spread from a random start: per_image NFE.

    Args:
        images: pixel values as in `measure`; never those to be measured, where something is fitted.
        per_image: None is `least`, or as many as give each level 16 draws.
        knots: of so many of the L levels, evenly spread in log-SNR; None takes all.
        reverse: count the nats with this variance; None is the model's own.
    Raises:
        UserError: as `measure`; or where a level was never drawn: too few images.
    """
    at_least_one(per_image=per_image, knots=knots, batch=batch)
    checked_model(model)
    images = checked_images(model, images)
    labels = checked_labels(labels, len(images))
    levels = surveyed_levels(model.schedule, knots)
    if per_image is None:
        per_image = min(len(levels), max(least, -(-len(levels) * DRAWS_PER_KNOT // len(images))))
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
        # A stream of its own: a distribution that knew the starts it will be drawn with would be biased.
        starts = Streams(seed, "survey levels", range(n)).uniform(())
        quantile = (torch.arange(per_image, dtype=torch.float64) + starts[:, None]) / per_image
        place = (quantile * count).long().clamp(max=count - 1)
    return torch.arange(n)[:, None].expand_as(place).flatten(), place.flatten()


def _errors_and_nats(
    model: Diffusion, x: Tensor, noise: Tensor, level: Tensor, condition: Any, reverse: ReverseVariance | None
) -> tuple[Tensor, Tensor]:
    """(x − x̂)², (B, *D), and nats, (B,), of one draw each, from one network call."""
    grid = model.schedule.on(x.device)
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
        part = None if head is None else head[first]
        nats[first] = -model.decoder.distribution(x_hat[first], grid, z[first], part).log_prob(x[first])
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
                f"level {int(levels[int((self.count == 0).nonzero()[0])])} was never drawn: measure more images, "
                "more levels per image, or fewer knots"
            )
        if not bool(self.error.isfinite().all()):
            raise UserError("the model's outputs are not finite: this model cannot be measured")
        error = self.error / expand(self.count, self.error)
        nats, square = self.nats / self.count, self.square / self.count
        return LevelStatistics(levels, logsnr, self.count.long(), error, nats, square, prior)


@dataclass(frozen=True)
class RatePoint:
    """One level of the curve.

    Args:
        level: ℓ; 0 is the image itself.
        logsnr: λ_ℓ, infinite at level 0.
        rate_bits_per_dim: bits/dim sent by then.
        rmse: root mean squared error of x̂, in grey levels.
    """

    level: int
    logsnr: float
    rate_bits_per_dim: float
    rmse: float


def nats_above(nats: Tensor, prior: float) -> Tensor:
    """Σ_{k>ℓ} KL_k and the prior's, for ℓ = 1…L, (L,); nats: of the levels 2…L."""
    return torch.cat([nats.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)]) + prior


def rate_distortion(model: Diffusion, statistics: LevelStatistics) -> tuple[RatePoint, ...]:
    """What an image costs when it is sent level by level, and how good it is by then, from level L to the exact image.

    Whoever holds z_ℓ has been sent KL(q(z_L|x)‖P) + Σ_{k>ℓ} KL_k nats and can show x̂(z_ℓ). With level 0 come the
    decoder's nats, and the image is exact.

    Args:
        statistics: of this model, on images it was not trained on.
    Raises:
        UserError: for a model of continuous data, or statistics without level 1.
    Source: Ho et al. 2020, section 4.3 (progressive lossy compression).
    """
    bin_width = 2 * model.pixels.half_width
    if int(statistics.level[0]) != 1:
        raise UserError("the statistics lack level 1: the curve's last step is the decoder's")
    nats = statistics.nats_of_levels() if len(statistics.logsnr) > 2 else torch.zeros(0, dtype=torch.float64)
    after = nats_above(nats, statistics.prior)
    bits = 1 / (model.dims * math.log(2))
    rmse = statistics.error.flatten(1).mean(1).sqrt() / bin_width
    points = [
        RatePoint(level, float(statistics.logsnr[level]), float(after[level - 1]) * bits, float(rmse[k]))
        for k, level in enumerate(statistics.level.tolist())
    ]
    exact = RatePoint(0, math.inf, float(after[0] + statistics.nats[0]) * bits, 0.0)
    return (*reversed(points), exact)
