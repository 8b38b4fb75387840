"""Somebody else's denoiser as a `Diffusion`, so that it can be measured and sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from markovae.diffusion.decoder import HoSmallDecoder
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import PosteriorVariance, ReverseVariance
from markovae.diffusion.schedule import NoiseSchedule
from markovae.diffusion.target import TARGETS, target_named
from markovae.networks.conditioning import Condition
from markovae.networks.ddpm import GridStep

Denoiser = Callable[..., Any]
Time = Callable[[Tensor], Tensor]


@final
class ForeignNetwork(nn.Module):
    """A denoiser f(z, t) or f(z, t, label) in the place of a network of the prior.

    Args:
        denoiser: gives a tensor, or an object with one in `sample`, or a tuple that begins with one.
        time: log-SNR, (B,), float64 -> the denoiser's own time, (B,).
        num_classes: labels taken, which the denoiser is then given as its third argument; 0 is none.
    """

    def __init__(self, denoiser: Denoiser, time: Time, num_classes: int = 0) -> None:
        super().__init__()
        self.denoiser, self.time, self.num_classes = denoiser, time, num_classes

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        """(B, *D), (B,) -> (B, C_out, *rest of D).

        Raises:
            ValueError: for a label missing or too much, an output that is no tensor of the latent's shape, or one
                without derivatives where they are asked for.
        """
        label = None if condition is None else condition.label
        if (label is None) == bool(self.num_classes):
            raise ValueError(
                f"this denoiser takes labels 0…{self.num_classes - 1} of every image: give them"
                if self.num_classes
                else "this denoiser takes no labels: wrap it with num_classes, or leave them out"
            )
        out = self.denoiser(z, self.time(logsnr).to(z.dtype), *(() if label is None else (label,)))
        out = getattr(out, "sample", out) if not isinstance(out, Tensor) else out
        out = out[0] if isinstance(out, tuple) else out
        shapes = (tuple(z.shape), (z.shape[0], 2 * z.shape[1], *z.shape[2:]))
        if not isinstance(out, Tensor) or tuple(out.shape) not in shapes:
            shown = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"the denoiser gave {shown} for a latent {shapes[0]}: it must give a tensor of that shape")
        if z.requires_grad and torch.is_grad_enabled() and not out.requires_grad:
            raise ValueError("the denoiser gives no derivatives, which this needs: take torch.no_grad off it")
        return out.to(torch.float64 if out.dtype == torch.float64 else torch.float32)


def wrap(
    denoiser: Denoiser,
    shape: Sequence[int],
    schedule: NoiseSchedule,
    predicts: str = "noise",
    *,
    time: Time | None = None,
    num_classes: int = 0,
    reverse: ReverseVariance | None = None,
    clip: float | None = None,
) -> Diffusion:
    """Any denoiser as a `Diffusion`: `mv.measure` and `mv.sample` take it like one of ours.

        unet = diffusers.UNet2DModel.from_pretrained(...)
        model = mv.wrap(unet, (3, 32, 32), markovae.schedule.linear())
        mv.measure(model, images)

    Args:
        denoiser: f(z, t), or f(z, t, label) with `num_classes`; a module is moved and switched with the model.
        shape: of one image, (C, H, W).   schedule: the grid it was trained on.
        predicts: noise, data, velocity, flow, score, step_noise or mean; with twice the channels the second half is the
            head of a learned variance.
        time: log-SNR, (B,), float64 -> the second argument; None is the step t = ℓ − 1 of the grid, linear in log-SNR
            between its levels. A denoiser D(x; σ) that is given x = z/a: wrap
            `lambda z, s: D(z * (1 + s**2).sqrt().view(-1, 1, 1, 1), s)` with predicts="data" and
            `time=lambda logsnr: (-logsnr / 2).exp()`.
        reverse: variance of the prior's steps; None is β̃.   clip: x̂ is held to [−clip, clip].
    Level 1 has the decoder of Ho et al.'s code for 256 grey values; another one is set as `model.decoder`.
    Raises:
        ValueError: for another word in `predicts`.
    """
    names = [target.name for target in TARGETS]
    if predicts not in names:
        raise ValueError(f"predicts={predicts!r} must be one of {', '.join(names)}")
    network = ForeignNetwork(denoiser, GridStep(schedule.logsnr.detach()[1:]) if time is None else time, num_classes)
    variance, decoder = reverse or PosteriorVariance(), HoSmallDecoder(Pixels())
    return Diffusion(network, schedule, target_named(predicts), variance, decoder, shape, clip=clip).eval()
