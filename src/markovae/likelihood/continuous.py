r"""The bound in the limit of ever more levels between the same ends.

    Σ_ℓ KL → ½ ∫ e^λ E‖x − x̂(z_λ)‖² dλ = ½ E_u[ (1 − u_1) (−λ'(u)) e^λ ‖x − x̂‖² ],   u uniform on (u_1, 1)
from level L to level 1, with the prior term and the reconstruction as before. The integral over λ does not know the
schedule: its shape changes the variance of the draws, never their mean.
Source: Kingma et al. 2021, eq. 18.
"""

from __future__ import annotations

import torch
from torch import Tensor

from markovae.diffusion.cascade import Model, one_stage
from markovae.diffusion.forward import noised
from markovae.diffusion.gaussian import sum_dims
from markovae.diffusion.learned_schedule import slope
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.diffusion.schedule import NoiseSchedule
from markovae.errors import UserError
from markovae.likelihood.estimators import level_starts
from markovae.likelihood.inputs import (
    Array,
    Labels,
    checked_images,
    checked_labels,
    checked_model,
    conditions,
    require_condition,
    require_finite,
)
from markovae.likelihood.measurement import Measurement
from markovae.likelihood.ode import refuse_steps
from markovae.networks.conditioning import Condition, Conditioning
from markovae.randomness import Streams
from markovae.tables import at_least_one


def continuous_draws(
    model: Diffusion,
    x: Tensor,
    noise: Tensor,
    quantile: Tensor,
    condition: Condition | None = None,
    schedule: NoiseSchedule | None = None,
) -> Tensor:
    """One draw each of the levels' sum in the limit, (B,), nats, float64; differentiable in network and schedule.

    Args:
        x, noise: (B, *D).
        quantile: of u between level 1 and L, in [0, 1), (B,).
        schedule: of the draws; None is the model's own.
    """
    schedule = model.schedule if schedule is None else schedule
    first = schedule.level_positions()[0].detach().to(quantile.device)
    logsnr, rate = slope(schedule, first + (1 - first) * quantile.double())
    logsnr, rate = logsnr.to(x.device), rate.to(x.device)
    x_hat = model.denoise(noised(x, noise, logsnr), logsnr, condition)
    error = sum_dims((x.double() - x_hat.double()) ** 2)
    return -0.5 * (1 - float(first)) * rate * logsnr.exp() * error


def continuous_bound(
    model: Model,
    images: Array,
    labels: Labels | None = None,
    *,
    draws: int = 16,
    schedule: NoiseSchedule | None = None,
    seed: int = 0,
    batch: int = 64,
) -> Measurement:
    """The continuous bound of many images, evenly spread draws of u from a random start an image; unbiased.

        mv.continuous_bound(model, images[:4], labels[:4]).bits_per_dim

    Args:
        images, labels, seed, batch: as for `measure`.
        draws: of u per image (cost: draws + 1 network calls).
        schedule: for the draws of u between the model's own ends; None is the model's own.
    Returns: a Measurement whose `num_levels` is 0: the limit.
    Raises:
        UserError: as `measure`; for a target that is defined by one step of a grid; for a schedule with other ends.
    """
    model = one_stage(model, "the continuous bound")
    at_least_one(draws=draws, batch=batch)
    refuse_steps(model)
    checked_model(model)
    require_condition(model, labels)
    if schedule is not None:
        _check_ends(schedule, model.schedule)
    images = checked_images(model, images)
    labels = checked_labels(labels, len(images))
    columns = []
    with torch.no_grad(), evaluating(model):
        for part in torch.arange(len(images)).split(max(1, batch // draws)):
            x = model.to_x(images[part])
            given = None if labels is None else labels[part]
            levels = _levels(model, x, part, given, draws, schedule, seed)
            source = Streams(seed, "measure noise", (part * 2**20 + 1).tolist())
            reconstruction = model.reconstruction_nats(x, source, conditions(model, given))
            columns.append(torch.stack([model.prior_nats(x).cpu(), levels, reconstruction.cpu()]))
            require_finite(columns[-1], part)
    prior, levels, reconstruction = torch.cat(columns, 1)
    return Measurement(
        prior,
        levels,
        reconstruction,
        per_level=(),
        dims=model.dims,
        num_levels=0,
        network_calls_per_example=draws + 1,
        seed=seed,
        discrete=model.decoder.discrete,
        estimator="continuous time",
    )


def _check_ends(schedule: NoiseSchedule, own: NoiseSchedule) -> None:
    """The bound is one between the model's own levels 1 and L, whatever lies between them."""
    ends, wanted = ([float(s.logsnr[1].detach()), float(s.logsnr[-1].detach())] for s in (schedule, own))
    if max(abs(end - at) for end, at in zip(ends, wanted, strict=True)) > 1e-6:
        raise UserError(
            f"a schedule from log-SNR {ends[0]:g} to {ends[1]:g} bounds nothing of a model from {wanted[0]:g} to "
            f"{wanted[1]:g}: give it the model's ends"
        )


def _levels(
    model: Diffusion,
    x: Tensor,
    part: Tensor,
    labels: Conditioning | None,
    draws: int,
    schedule: NoiseSchedule | None,
    seed: int,
) -> Tensor:
    """The mean of each image's draws, (B,), on the CPU."""
    starts = level_starts(part, seed)
    quantile = ((torch.arange(draws, dtype=torch.float64) + starts[:, None]) / draws).flatten()
    number = torch.arange(draws).repeat(len(part))
    image = part.repeat_interleave(draws)
    names = [(i << 20) + k for i, k in zip(image.tolist(), number.tolist(), strict=True)]
    noise = Streams(seed, "continuous noise", names).normal(model.shape, x.dtype).to(x.device)
    condition = conditions(
        model, None if labels is None else labels[torch.arange(len(labels)).repeat_interleave(draws)]
    )
    each = continuous_draws(model, x.repeat_interleave(draws, 0), noise, quantile, condition, schedule)
    return each.cpu().reshape(len(part), draws).mean(1)
