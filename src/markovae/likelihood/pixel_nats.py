"""Where the bits of an image are: the bound's terms pixel by pixel, from levels drawn evenly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from markovae.diffusion import forward
from markovae.diffusion.decoder import DiscretisedGaussian, SoftmaxBins
from markovae.diffusion.gaussian import Gaussian, sum_dims
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.networks.conditioning import Condition
from markovae.randomness import generator


@dataclass(frozen=True)
class PixelNats:
    """One estimate of an image's bound, pixel by pixel.

    Args:
        nats: of each number of the image, (*D), float64; their sum is unbiased for the bound.
        levels: the levels drawn, in order, (M,).
        level_nats: what each stands for, (M,): its cost times the number of levels it represents.
    """

    nats: Tensor
    levels: Tensor
    level_nats: Tensor


def pixel_nats(model: Diffusion, x: Tensor, draws: int = 32, condition: Condition | None = None) -> Iterator[PixelNats]:
    """Estimates of one image's bound, each from `draws` levels with a new random start; endless.

    Args:
        x: the image on the model's scale, (1, *D).
        draws: levels an estimate, at most those of the model.
        condition: of one example, or None.
    Raises:
        UserError: for a model whose steps are no independent Gaussians, or that has no decoder for pixels.
    """
    if model.reverse.needs_jacobian:
        raise UserError("a full covariance has no nats of single pixels: refit the variance, diagonal say")
    model.pixels  # noqa: B018 - a model without pixels is told here
    first, count = 2, model.num_levels - 1
    draws = min(draws, count)
    schedule = model.schedule.logsnr.to(model.device)
    replicate = 0
    while True:
        source = generator(0, "pixel_nats", replicate)
        start = torch.rand((), generator=source, dtype=torch.float64)
        levels = first + ((torch.arange(draws) + start) * count / draws).long().clamp(max=count - 1)
        with evaluating(model), torch.no_grad():
            nats = _top(model, x) + _reconstruction(model, x, source, condition)
            costs = []
            for level in levels.tolist():
                noise = torch.randn(x.shape, generator=source, dtype=x.dtype).to(x.device)
                z = forward.noised(x, noise, schedule[level])
                encoder = forward.posterior(x, z, schedule[level - 1], schedule[level])
                prior = model.prior_step(z, level, condition)
                assert isinstance(prior, Gaussian)
                cost = _kl(encoder, prior) * (count / draws)
                costs.append(sum_dims(cost))
                nats = nats + cost
        yield PixelNats(nats[0], levels, torch.cat(costs))
        replicate += 1


def _top(model: Diffusion, x: Tensor) -> Tensor:
    top = forward.marginal(x, model.schedule.logsnr[-1].to(x.device))
    return _kl(top, Gaussian(torch.zeros_like(x), torch.ones((), dtype=torch.float64, device=x.device)))


def _reconstruction(model: Diffusion, x: Tensor, source: torch.Generator, condition: Condition | None) -> Tensor:
    logsnr = model.schedule.logsnr[1].to(x.device)
    noise = torch.randn(x.shape, generator=source, dtype=x.dtype).to(x.device)
    decoder = model.prior_step(forward.noised(x, noise, logsnr), 1, condition)
    assert isinstance(decoder, DiscretisedGaussian | SoftmaxBins)
    return -decoder.log_probs(x)


def _kl(first: Gaussian, second: Gaussian) -> Tensor:
    """KL of each number, nats, float64, (B, *D)."""
    mean = first.mean.double() - second.mean.double()
    ratio = first.variance.double() / second.variance.double()
    return 0.5 * (ratio - 1 - ratio.log() + mean**2 / second.variance.double())
