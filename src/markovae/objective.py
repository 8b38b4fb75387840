r"""What training minimises: Σ_ℓ p_ℓ w_ℓ E‖target − out‖²/d, with the law p of levels and the weights w as tables.

"Simple" (Ho et al.) is p uniform, w = 1; the bound is p uniform, w the factor that turns a level's error to nats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from markovae.forward import noise_scale, noised, signal_scale
from markovae.gaussian import expand
from markovae.networks.condition import Condition
from markovae.randomness import Streams
from markovae.reverse import LearnedVariance
from markovae.schedule import NoiseSchedule
from markovae.target import Target, noise_ratio


@dataclass(frozen=True)
class Objective:
    """A law of levels and a weight for each.

    Args:
        probability: p_1…p_L, summing to 1, (L,), float64.
        weight: w_1…w_L ≥ 0, (L,), float64.
    """

    probability: Tensor
    weight: Tensor

    def __post_init__(self) -> None:
        if self.probability.shape != self.weight.shape:
            raise ValueError(f"{len(self.probability)} probabilities for {len(self.weight)} weights: one each a level")
        total = float(self.probability.double().sum())
        if not abs(total - 1) <= 1e-9 or bool((self.probability < 0).any()):
            raise ValueError(f"the levels' probabilities sum to {total:.12g}: they must be >= 0 and sum to 1")
        if not bool(((self.weight >= 0) & self.weight.isfinite()).all()):
            raise ValueError("the levels' weights must be finite and >= 0: a loss is no smaller for a larger error")

    def draw(self, u: Tensor) -> Tensor:
        """Levels 1…L at the quantiles u ∈ [0, 1) of the law, (B,), int64."""
        edges = self.probability.double().cumsum(0)
        return 1 + torch.searchsorted(edges, u.double() * edges[-1], right=True).clamp(max=len(edges) - 1)


def uniform_law(schedule: NoiseSchedule) -> Tensor:
    """Every level alike, (L,)."""
    return torch.full((schedule.num_levels,), 1 / schedule.num_levels, dtype=torch.float64)


def as_error_of(target: Target, other: Target, schedule: NoiseSchedule) -> Tensor:
    """Weights that turn the squared error of `target` into that of `other`, level by level, (L,), float64.

    Both errors are multiples of ‖x − x̂‖²: out* − out = (D/s)(x̂ − x) up to sign, D = a t_ε − s t_x.
    """
    logsnr = schedule.logsnr
    prev, levels = logsnr[:-1], logsnr[1:]
    scales = []
    for each in (target, other):
        t_x, t_noise = each.pair(prev, levels)
        scales.append(signal_scale(levels) * t_noise - noise_scale(levels) * t_x)
    return (scales[1] / scales[0]) ** 2


def scatter(target: Target, schedule: NoiseSchedule) -> Tensor:
    """t_ξ², (L,), float64: what a raw draw adds to the target's expected squared error per dim, whatever the network.

    0 for the targets that are not of one step.
    """
    logsnr = schedule.logsnr
    return target.residual(logsnr[:-1], logsnr[1:])[1] ** 2


def nats_weight(target: Target, schedule: NoiseSchedule) -> Tensor:
    """½(γ_{ℓ−1} − γ_ℓ) as a weight on `target`'s squared error, (L,), float64; level 1 takes level 2's.

    With it and w/p as the weight, the objective is the bound with variance β̃, in nats (a constant factor apart).
    """
    logsnr = schedule.logsnr
    snr = logsnr[1:].exp()
    difference = 0.5 * (snr[:-1] - snr[1:])
    difference = torch.cat([difference[:1], difference]) if len(difference) else torch.ones_like(snr)
    logsnr_prev, levels = logsnr[:-1], logsnr[1:]
    t_x, t_noise = target.pair(logsnr_prev, levels)
    determinant = signal_scale(levels) * t_noise - noise_scale(levels) * t_x
    return difference * (noise_scale(levels) / determinant) ** 2


@dataclass(frozen=True)
class Draw:
    """What one training step needs besides the images.

    Args:
        level: 1…L, (B,), int64.   noise: ε̄, (B, *D).
        fresh: ξ, (B, *D), to regress onto the raw sample of one step; None regresses onto its conditional mean.
    """

    level: Tensor
    noise: Tensor
    fresh: Tensor | None = None

    def part(self, start: int, stop: int) -> Draw:
        """Of examples start…stop−1 of the batch."""
        cut = slice(start, stop)
        return Draw(self.level[cut], self.noise[cut], None if self.fresh is None else self.fresh[cut])

    def to(self, device: torch.device) -> Draw:
        """The same draw on another device."""
        fresh = None if self.fresh is None else self.fresh.to(device)
        return Draw(self.level.to(device), self.noise.to(device), fresh)


def literal_draw(level: Tensor, noise_prev: Tensor, step_noise: Tensor, schedule: NoiseSchedule) -> Draw:
    """The lecture's draw (z_0, ℓ, z_{ℓ−1}, ε): z_{ℓ−1} = a_{ℓ−1} z_0 + s_{ℓ−1} ε', then z_ℓ = α z_{ℓ−1} + σ ε.

    (ε̄, ξ) are (ε', ε) turned by one angle, sin = ρ: ε̄ = √(1−ρ²) ε' + ρ ε, ξ = √(1−ρ²) ε − ρ ε'; so
    ρ ε̄ + √(1−ρ²) ξ is ε again, and the regression is onto the very noise that was drawn.

    Args:
        level: 1…L, (B,), int64.   noise_prev: ε', (B, *D).   step_noise: ε, (B, *D).
    Source: lecture, "Training".
    """
    logsnr = schedule.logsnr.to(noise_prev.device)
    level = level.to(noise_prev.device)
    rho, rest = (expand(v, noise_prev).to(noise_prev) for v in noise_ratio(logsnr[level - 1], logsnr[level]))
    return Draw(level, rest * noise_prev + rho * step_noise, rest * step_noise - rho * noise_prev)


class Draws(ABC):
    """How the noise of a training step is drawn, its levels given."""

    @abstractmethod
    def at(self, level: Tensor, streams: Streams, shape: Sequence[int]) -> Draw:
        """The draw of a batch, float32, on the CPU.

        Args:
            level: 1…L, (B,), int64.   streams: one an example.   shape: of one example, D.
        """


@final
class MeanDraws(Draws):
    """ε̄ alone: regression onto the target's mean given (z_0, z_ℓ), Rao–Blackwellised."""

    def at(self, level: Tensor, streams: Streams, shape: Sequence[int]) -> Draw:
        """(ℓ, ε̄)."""
        return Draw(level, streams.normal(shape, torch.float32))


@final
class RawDraws(Draws):
    """(ε̄, ξ): regression onto the sample of one step, ε_ℓ = ρ ε̄ + √(1−ρ²) ξ or z_{ℓ−1}."""

    def at(self, level: Tensor, streams: Streams, shape: Sequence[int]) -> Draw:
        """(ℓ, ε̄, ξ); ε̄ is that of `MeanDraws`."""
        noise = streams.normal(shape, torch.float32)
        return Draw(level, noise, streams.normal(shape, torch.float32))


@final
class LiteralDraws(Draws):
    """The lecture's (z_0, ℓ, z_{ℓ−1}, ε) as it stands; the law is that of `RawDraws`.

    Args:
        schedule: the grid of levels.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def at(self, level: Tensor, streams: Streams, shape: Sequence[int]) -> Draw:
        """ε' of z_{ℓ−1} first, then ε of the step; see `literal_draw`."""
        before = streams.normal(shape, torch.float32)
        return literal_draw(level, before, streams.normal(shape, torch.float32), self.schedule)


def loss(
    network: torch.nn.Module,
    x: Tensor,
    draw: Draw,
    condition: Condition | None,
    objective: Objective,
    target: Target,
    schedule: NoiseSchedule,
    reverse: LearnedVariance | None = None,
) -> tuple[Tensor, Tensor]:
    """(weighted, plain) mean squared errors per dim of the target, each (B,), float32.

    Args:
        x: data on the model's scale, (B, *D), float32.
        reverse: a learned variance, whose head is the second half of the network's output: the weighted error gains
            L/1000 of the level's KL per dim, which teaches the head alone (see `LearnedVariance.head_loss`).
    """
    logsnr = schedule.logsnr.to(x.device)
    level = draw.level.to(x.device)
    now, before = logsnr[level], logsnr[level - 1]
    z = noised(x, draw.noise, now)
    out = network(z, now, condition).float()
    head = None
    if reverse is not None:
        out, head = out.chunk(2, dim=1)
    if draw.fresh is None:
        wanted = target.of(x, draw.noise, now, before)
    else:
        wanted = target.of_sample(x, draw.noise, draw.fresh, now, before)
    error = ((out - wanted) ** 2).flatten(1).mean(1)
    weight = objective.weight.to(x.device)[level - 1]
    weighted = expand(weight, error).float() * error
    if reverse is not None and head is not None:
        weighted = weighted + schedule.num_levels / 1000 * _head_nats(
            reverse, x, target.to_x(out, z, now, before), before, now, head
        )
    return weighted, error


def _head_nats(reverse: LearnedVariance, x: Tensor, x_hat: Tensor, before: Tensor, now: Tensor, head: Tensor) -> Tensor:
    """The levels' KL per dim, 0 at level 1, whose step is the decoder's; (B,), float32."""
    nats = torch.zeros(len(x), device=x.device)
    later = before.isfinite().nonzero().flatten()
    if len(later):
        kl = reverse.head_loss(x[later], x_hat[later], before[later], now[later], head[later])
        nats = nats.index_add(0, later, kl.float() / x[0].numel())
    return nats
