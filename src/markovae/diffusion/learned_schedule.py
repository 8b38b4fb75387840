r"""A learned log-SNR: its ends by the bound's gradient, its shape by least variance.

In continuous time the bound depends on the ends λ(0) and λ(1) alone; between them the shape changes only how much a
draw of the level says about the whole. So the ends follow the gradient of the mean nats, the shape that of their mean
square (the variance, the mean being fixed).
Source: Kingma et al. 2021, section 4 and appendix I.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.diffusion.schedule import NO_SIGNAL, NoiseSchedule, require_falling


@final
class LearnedLogSNR(NoiseSchedule):
    r"""λ(u) = start − e^{span} (g(u) − g(0))/(g(1) − g(0)), g(u) = w_0 u + Σ_k w_k sigmoid(c_k u + b_k), w, c > 0.

    It begins close to even steps in log-SNR. Parameters: `start` and `log_span` (the ends), and the shape's.

    Args:
        num_levels: L of its grid.
        start, end: log-SNR of levels 1 and L to begin with.
        hidden: sigmoids in g.
    """

    def __init__(self, num_levels: int = 1000, start: float = 13.3, end: float = -10.0, hidden: int = 32) -> None:
        super().__init__(num_levels)
        require_falling(start, end)
        if hidden < 1:
            raise ValueError(f"hidden={hidden} must be at least 1: the sigmoids give the schedule its shape")
        self.start = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.log_span = nn.Parameter(torch.tensor(math.log(start - end), dtype=torch.float64))
        self.slope = nn.Parameter(_inverse_softplus(torch.ones((), dtype=torch.float64)))
        self.weight = nn.Parameter(_inverse_softplus(torch.full((hidden,), 0.2 / hidden, dtype=torch.float64)))
        # Sigmoids a few of their widths apart, so that together they can bend the line anywhere.
        self.steepness = nn.Parameter(_inverse_softplus(torch.full((hidden,), 2.0 * hidden, dtype=torch.float64)))
        self.centre = nn.Parameter((torch.arange(hidden, dtype=torch.float64) + 0.5) / hidden)

    def at(self, u: Tensor) -> Tensor:
        """λ(u), with gradients to all parameters."""
        ends = self._bend(torch.tensor([0.0, 1.0], dtype=torch.float64, device=self.start.device))
        share = (self._bend(u.to(self.start.device, torch.float64)) - ends[0]) / (ends[1] - ends[0])
        return self.start.double() - self.log_span.double().exp() * share

    def level_positions(self) -> Tensor:
        """u = (ℓ−1)/(L−1)."""
        if self.num_levels == 1:
            return torch.ones(1, dtype=torch.float64, device=self.start.device)
        return torch.linspace(0, 1, self.num_levels, dtype=torch.float64, device=self.start.device)

    def require_usable(self) -> None:
        """Check what training made of it.

        Raises:
            ValueError: where its log-SNR does not fall, or leaves ±100, where nothing of noise or signal is left.
        """
        logsnr = self.logsnr.detach()[1:]
        if not bool((logsnr.abs() <= -NO_SIGNAL).all()):
            raise ValueError(
                f"its learned schedule runs from log-SNR {float(logsnr[0]):.4g} to {float(logsnr[-1]):.4g}: beyond "
                f"±{-NO_SIGNAL:g} nothing of the noise, or of the signal, is left"
            )

    def shape_parameters(self) -> Iterator[nn.Parameter]:
        """What bends the schedule between its ends."""
        yield from (self.slope, self.weight, self.steepness, self.centre)

    def _bend(self, u: Tensor) -> Tensor:
        steepness = F.softplus(self.steepness.double())
        steps = torch.sigmoid(steepness * (u[..., None] - self.centre.double()))
        return F.softplus(self.slope.double()) * u + steps @ F.softplus(self.weight.double())


def slope(schedule: NoiseSchedule, u: Tensor) -> tuple[Tensor, Tensor]:
    """(λ(u), dλ/du), float64; with gradients to the schedule's parameters, if it has any."""
    with torch.enable_grad():
        at = u.detach().double().requires_grad_()
        logsnr = schedule.at(at)
        (rate,) = torch.autograd.grad(
            logsnr.sum(), at, create_graph=any(p.requires_grad for p in schedule.parameters())
        )
    return (logsnr, rate) if torch.is_grad_enabled() else (logsnr.detach(), rate.detach())


def backward(nats: Tensor, schedule: LearnedLogSNR, weight: float = 1.0) -> None:
    """Gradients of a training step with a learned schedule: of the mean nats for the network and the ends of the
    schedule, of the mean squared nats for its shape; added to `.grad` as `Tensor.backward` does.

    Args:
        nats: single draws of the continuous bound, (B,), with their graph (see `continuous_draws`).
        weight: on both means, where these draws are a part of a batch.
    """
    shape = list(schedule.shape_parameters())
    grads = torch.autograd.grad(weight * (nats**2).mean(), shape, retain_graph=True)
    before = [None if p.grad is None else p.grad.clone() for p in shape]
    (weight * nats.mean()).backward()
    for parameter, old, new in zip(shape, before, grads, strict=True):
        parameter.grad = new if old is None else old + new


def _inverse_softplus(value: Tensor) -> Tensor:
    return value + torch.log(-torch.expm1(-value))
