"""A denoiser in somebody else's convention in the place of a network of the prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from markovae.diffusion.conventions import Convention, Number
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.gaussian import expand
from markovae.diffusion.target import DATA, Target
from markovae.errors import UserError
from markovae.networks.conditioning import Condition
from markovae.networks.ddpm import GridStep

Denoiser = Callable[..., Any]


@final
class ForeignNetwork(nn.Module):
    """A denoiser f(c z, t), f(c z, t, label) or f(…, x̂) in the place of a network of the prior.

    Args:
        denoiser: gives a tensor, or an object with one in `sample`, or a tuple that begins with one.
        convention: what it is given and gives.
        grid: λ_1…λ_L on our scale, (L,), of which a convention may count the steps.
        time: log-SNR, (B,), float64 -> its own time, (B,), where that is not the convention's.
        num_classes: labels taken, which the denoiser is then given as its third argument; 0 is none.
        data_range: what black and white are for it.
        channels_last: it takes and gives (B, H, W, C).
        self_conditioning: its last argument is x̂ of a first call, in which that is 0: two calls an evaluation.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        convention: Convention,
        grid: Tensor,
        time: Number | None = None,
        num_classes: int = 0,
        data_range: tuple[float, float] = (-1.0, 1.0),
        channels_last: bool = False,
        self_conditioning: bool = False,
    ) -> None:
        super().__init__()
        low, high = data_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UserError(f"data_range=({low:g}, {high:g}) must be what black and white are: (0, 1) or (-1, 1)")
        if (data_range != (-1.0, 1.0) or self_conditioning) and convention.target.needs_neighbour:
            raise UserError(f"predicts={convention.name!r} is taken on [-1, 1] and without self-conditioning alone")
        self.denoiser, self.convention, self.num_classes = denoiser, convention, num_classes
        self.data_range, self.channels_last, self.self_conditioning = data_range, channels_last, self_conditioning
        self._half, self._middle = (high - low) / 2, (high + low) / 2
        self.time = time or convention.time or GridStep(grid.detach() - 2 * math.log(self._half))

    @property
    def rescaled(self) -> bool:
        """Whether its data lie elsewhere than on [−1, 1]: what `forward` gives is x̂ then, on our scale."""
        return self.data_range != (-1.0, 1.0)

    @property
    def target(self) -> Target:
        """What `forward` gives."""
        return DATA if self.rescaled else self.convention.target

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
        known: tuple[Tensor, ...] = ()
        if label is not None:
            known = (nn.functional.one_hot(label, self.num_classes).to(z) if self.convention.one_hot else label,)
        theirs, u = self._their_latent(z, logsnr)
        if self.self_conditioning:
            first = self._call(u, theirs, (*known, torch.zeros_like(u)))[:, : z.shape[1]]
            known = (*known, self.convention.target.to_x(first, u, theirs).detach())
        out = self._call(u, theirs, known)
        if not self.rescaled:
            return out
        x_hat = self.convention.target.to_x(out[:, : z.shape[1]], u, theirs)
        return torch.cat([(x_hat - self._middle) / self._half, out[:, z.shape[1] :]], 1)

    def _their_latent(self, z: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
        """(λ', u) of data m + h x: u = a' (m + h x) + s' ε = a' m + √(a'²h² + s'²) z with λ' = λ − 2 ln h."""
        if not self.rescaled:
            return logsnr, z
        theirs = logsnr - 2 * math.log(self._half)
        a, s = signal_scale(theirs), noise_scale(theirs)
        return theirs, _scaled(z, (a**2 * self._half**2 + s**2).sqrt()) + expand(a * self._middle, z).to(z)

    def _call(self, u: Tensor, logsnr: Tensor, known: tuple[Tensor, ...]) -> Tensor:
        """The value of the convention's target, and the head where there is one, (B, C_out, *rest of D)."""
        convention = self.convention
        given = u if convention.scale is None else _scaled(u, convention.scale(logsnr))
        given = given.movedim(1, -1) if self.channels_last else given
        kind = self._type(u.dtype)
        known = tuple(part.to(kind) if part.is_floating_point() else part for part in known)
        out = self.denoiser(given.to(kind), self.time(logsnr).to(u.dtype), *known)
        out = getattr(out, "sample", out) if not isinstance(out, Tensor) else out
        out = out[0] if isinstance(out, tuple) else out
        if self.channels_last and isinstance(out, Tensor) and out.ndim == u.ndim:
            out = out.movedim(-1, 1)
        shapes = (tuple(u.shape), (u.shape[0], 2 * u.shape[1], *u.shape[2:]))
        if not isinstance(out, Tensor) or tuple(out.shape) not in shapes:
            shown = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"the denoiser gave {shown} for a latent {shapes[0]}: it must give a tensor of that shape")
        if u.requires_grad and torch.is_grad_enabled() and not out.requires_grad:
            raise ValueError("the denoiser gives no derivatives, which this needs: take torch.no_grad off it")
        out = out.to(torch.float64 if out.dtype == torch.float64 else torch.float32)
        if convention.gain is None:
            return out
        value, head = out[:, : u.shape[1]], out[:, u.shape[1] :]
        value = _scaled(value, convention.gain(logsnr))
        value = value if convention.skip is None else value + _scaled(u, convention.skip(logsnr))
        return torch.cat([value, head], 1) if head.shape[1] else value

    def _type(self, given: torch.dtype) -> torch.dtype:
        """What the denoiser computes in: float16 or bfloat16 where its weights are kept so, else what it is given."""
        weights = self.denoiser.parameters() if isinstance(self.denoiser, nn.Module) else iter(())
        kept = next((weight.dtype for weight in weights), given)
        return kept if kept in (torch.float16, torch.bfloat16) else given


def _scaled(value: Tensor, factor: Tensor) -> Tensor:
    return value * expand(factor, value).to(value)
