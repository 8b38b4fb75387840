"""Whether a wrapped denoiser is what its convention says: its denoising error on its own data, against guessing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from markovae.diffusion.forward import noised
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.networks.conditioning import Condition, class_numbers
from markovae.randomness import Streams

LOGSNRS = (-3.0, 0.0, 3.0, 6.0)
MOST_IMAGES = 8  # each is seen at every log-SNR in every convention
BETTER = 0.7  # of the error: another convention that is said to be the right one
BELIEVED = 1.5  # times guessing: what is above is no denoiser of these images


@torch.no_grad()
def denoising_error(model: Diffusion, images: Any, labels: Any = None) -> float:
    """E‖x − x̂‖² over that of the best guess which knows the mean and the variance of a pixel, v s²/(a² v + s²).

    The geometric mean over a few log-SNRs that the grid reaches; 1 is guessing, and the exact denoiser of white noise.

    Args:
        images: pixel values, (N, C, H, W).
        labels: (N,), where the denoiser takes them.
    """
    x = model.to_x(images[:MOST_IMAGES])
    condition = None if labels is None else Condition(label=class_numbers(labels[:MOST_IMAGES]).to(x.device))
    variance = float((x - x.mean()).square().mean())
    levels, logs = model.schedule.logsnr.detach()[1:], []
    with evaluating(model):
        # A denoiser that counts steps may know none between them.
        for place, logsnr in enumerate(float(levels[(levels - each).abs().argmin()]) for each in LOGSNRS):
            level = torch.full((len(x),), logsnr, dtype=torch.float64, device=x.device)
            noise = Streams(0, "convention", range(len(x)), place).normal(x.shape[1:], x.dtype).to(x.device)
            error = float((x - model.denoise(noised(x, noise, level), level, condition)).square().mean())
            a2, s2 = 1 / (1 + math.exp(-logsnr)), 1 / (1 + math.exp(logsnr))
            logs.append(math.log(max(error, 1e-30) * (a2 * variance + s2) / (variance * s2 + 1e-30)))
    mean = sum(logs) / len(logs)
    return math.exp(min(mean, 700.0)) if math.isfinite(mean) else math.inf


def require_convention(
    model: Diffusion, name: str, others: Mapping[str, Diffusion], images: Any, labels: Any = None
) -> None:
    """Refuse a denoiser whose error says that its convention is another.

    Args:
        model: as it was wrapped.
        name: of its convention.
        others: the same denoiser in other conventions, by name.
        images, labels: some that it was trained on, as for `denoising_error`.
    Raises:
        UserError: naming the convention that fits much better, or that none does.
    """
    own = denoising_error(model, images, labels)
    errors = {other: denoising_error(each, images, labels) for other, each in others.items()}
    best = min(errors, key=errors.__getitem__, default=name)
    if errors.get(best, math.inf) < min(BETTER * own, BELIEVED):
        raise UserError(
            f"{name} gives {own:.2g} times the error of the best linear guess on these images, and {best} "
            f"{errors[best]:.2g} times: wrap it with {best}"
        )
    if own > BELIEVED:
        raise UserError(
            f"{name} gives {own:.2g} times the error of the best linear guess on these images, and no other named "
            "convention fits better: check the schedule, the channel order and the time that the denoiser takes, "
            "and that it was trained on such images"
        )
