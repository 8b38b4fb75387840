r"""What training minimizes: Σ_ℓ p_ℓ w_ℓ E‖target − out‖²/d, with p and w of the levels as tables.

"Simple" (Ho et al.) is p uniform, w = 1; the bound is w = (the factor that turns a level's error to nats)/p, whatever
p, which is then an importance distribution: it changes the variance of a step's gradient and not its mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from markovae.diffusion.forward import noise_scale, noised, posterior_variance, signal_scale, step_variance
from markovae.diffusion.gaussian import expand, factor
from markovae.diffusion.reverse import LearnedVariance, ReverseVariance, StepVariance
from markovae.diffusion.schedule import NoiseSchedule
from markovae.diffusion.target import Target, noise_ratio
from markovae.networks.conditioning import Condition
from markovae.randomness import Streams
from markovae.system.device import Constants

if TYPE_CHECKING:
    from markovae.diffusion.model import Diffusion


@dataclass(frozen=True)
class Objective:
    """What is minimized: a distribution over levels and a weight for each, as tables or as functions of log-SNR.

        flat = mv.Objective.of(model.schedule, weight=lambda logsnr: (-logsnr / 2).sigmoid())
        for step in mv.fit(model, data, objective=flat, steps=2): ...

    Args:
        probability: p_1…p_L, summing to 1, (L,), float64.
        weight: w_1…w_L ≥ 0, (L,), float64.
        nats: what the mean loss is multiplied by to give nats per dim, for an objective that is the bound.
    """

    probability: Tensor
    weight: Tensor
    nats: float | None = None
    _placed: Constants = field(default_factory=Constants, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.probability.shape != self.weight.shape:
            raise ValueError(f"{len(self.probability)} probabilities for {len(self.weight)} weights: one each a level")
        total = float(self.probability.double().sum())
        if not abs(total - 1) <= 1e-9 or bool((self.probability < 0).any()):
            raise ValueError(f"the levels' probabilities sum to {total:.12g}: they must be >= 0 and sum to 1")
        if not bool(((self.weight >= 0) & self.weight.isfinite()).all()):
            raise ValueError("the levels' weights must be finite and >= 0: a loss is no smaller for a larger error")

    @classmethod
    def of(
        cls,
        schedule: NoiseSchedule,
        weight: Callable[[Tensor], Tensor] | None = None,
        density: Callable[[Tensor], Tensor] | None = None,
    ) -> Objective:
        """Tables from functions of the log-SNR λ, (L,), float64.

        Args:
            schedule: the model's grid.
            weight: w(λ) ≥ 0; None is 1.
            density: of log-SNR, ≥ 0, of any scale; None draws every level alike.
        Raises:
            ValueError: for weights or densities that are negative, NaN or Inf, or a density that is 0 at every level.
        """
        logsnr = schedule.logsnr.detach()[1:]
        probability = uniform_levels(schedule) if density is None else levels_by(schedule, density)
        weights = torch.ones_like(logsnr) if weight is None else weight(logsnr).detach().double().expand(logsnr.shape)
        return cls(probability, weights)

    def require_levels(self, num_levels: int) -> None:
        """Refuse, with a ValueError, a schedule of another number of levels."""
        if len(self.weight) != num_levels:
            raise ValueError(f"an objective over {len(self.weight)} levels for a schedule of {num_levels}: one each")

    def weight_at(self, level: Tensor) -> Tensor:
        """w of these levels 1…L, (B,), float64, on their device."""
        return self._placed.get("weight", level.device, make=lambda: self.weight.to(level.device))[level - 1]

    def probability_at(self, level: Tensor) -> Tensor:
        """p of these levels 1…L, (B,), float64, on their device."""
        return self._placed.get("probability", level.device, make=lambda: self.probability.to(level.device))[level - 1]

    def drawn_by(self, probability: Tensor) -> Objective:
        """The same objective with its levels drawn by another distribution, p' > 0 where p > 0: w' = w p/p'."""
        return Objective(probability, self.weight * self.probability / probability, self.nats)

    def draw(self, u: Tensor) -> Tensor:
        """Levels 1…L at the quantiles u ∈ [0, 1) of the distribution, (B,), int64."""
        edges = self.probability.double().cumsum(0)
        return 1 + torch.searchsorted(edges, u.double() * edges[-1], right=True).clamp(max=len(edges) - 1)


def uniform_levels(schedule: NoiseSchedule) -> Tensor:
    """Every level alike, (L,)."""
    return torch.full((schedule.num_levels,), 1 / schedule.num_levels, dtype=torch.float64)


def levels_by(schedule: NoiseSchedule, density: Callable[[Tensor], Tensor]) -> Tensor:
    """p_ℓ ∝ density(λ_ℓ) times the width of the level's cell between its neighbours' midpoints, (L,), float64.

    Raises:
        ValueError: for a density that is 0 on the whole schedule.
    """
    logsnr = schedule.logsnr.detach()[1:]
    edges = torch.cat([logsnr[:1], (logsnr[1:] + logsnr[:-1]) / 2, logsnr[-1:]])
    mass = density(logsnr) * (edges[:-1] - edges[1:])
    total = float(mass.sum())
    if not total > 1e-6:
        raise ValueError(
            f"its density misses the schedule, whose log-SNR runs from {float(logsnr[0]):.1f} to "
            f"{float(logsnr[-1]):.1f}: move it there"
        )
    return mass / total


def normal_density(center: float, width: float) -> Callable[[Tensor], Tensor]:
    """exp(−½((λ − center)/width)²)."""
    return lambda logsnr: (-0.5 * ((logsnr - center) / width) ** 2).exp()


def default_objective(schedule: NoiseSchedule) -> Objective:
    """The squared error of the target itself, w = 1; half of the levels uniform, half normal in log-SNR."""
    normal = levels_by(schedule, normal_density(0.0, 4.0))
    middle = (normal + uniform_levels(schedule)) / 2
    return Objective(middle, torch.ones_like(middle))


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


def residual_variance(target: Target, schedule: NoiseSchedule) -> Tensor:
    """t_ξ², (L,), float64: what a raw draw adds to the target's expected squared error per dim, whatever the network.

    0 for the targets that are not of one step.
    """
    logsnr = schedule.logsnr
    return target.residual(logsnr[:-1], logsnr[1:])[1] ** 2


def bound_objective(
    probability: Tensor, target: Target, schedule: NoiseSchedule, reverse: ReverseVariance
) -> Objective:
    """The bound itself, levels drawn by any distribution that leaves none out, scaled to a mean weight of 1 under it.

    With the variance σ² a level's nats are β̃_ℓ/σ_ℓ² of those with β̃, and a constant; all else counts with β̃, since
    fitted, learned and full variances follow the errors that this leaves. Level 1 is the decoder's (see `bound_loss`).

    Raises:
        ValueError: for a distribution that leaves a level out.
    """
    if not bool((probability > 0).all()):
        level = 1 + int((probability <= 0).nonzero()[0])
        raise ValueError(f"the distribution of levels never draws level {level}, and the bound counts every level")
    nats = nats_weight(target, schedule)
    if isinstance(reverse, StepVariance):
        prev, now = schedule.logsnr.detach()[1:-1], schedule.logsnr.detach()[2:]
        nats = torch.cat([nats[:1], nats[1:] * posterior_variance(prev, now) / step_variance(prev, now)])
    return Objective(probability, nats / (probability * nats.sum()), float(nats.sum()))


def nats_weight(target: Target, schedule: NoiseSchedule) -> Tensor:
    """½(γ_{ℓ−1} − γ_ℓ) as a weight on `target`'s squared error, (L,), float64; level 1 takes level 2's.

    With it and w/p as the weight, the objective is the bound with variance β̃, in nats (a constant factor apart).
    """
    logsnr = schedule.logsnr.detach()
    snr = logsnr[1:].exp()
    difference = 0.5 * (snr[:-1] - snr[1:])
    difference = torch.cat([difference[:1], difference]) if len(difference) else torch.ones_like(snr)
    logsnr_prev, levels = logsnr[:-1], logsnr[1:]
    t_x, t_noise = target.pair(logsnr_prev, levels)
    determinant = signal_scale(levels) * t_noise - noise_scale(levels) * t_x
    return difference * (noise_scale(levels) / determinant) ** 2


@dataclass(frozen=True)
class NoiseSample:
    """What one training step needs besides the images.

    Args:
        level: 1…L, (B,), int64, on the CPU.
        noise: ε̄, (B, *D).
        fresh: ξ, (B, *D), to regress onto the raw sample of one step; None regresses onto its conditional mean.
    """

    level: Tensor
    noise: Tensor
    fresh: Tensor | None = None

    def part(self, start: int, stop: int) -> NoiseSample:
        """Of examples start…stop−1 of the batch."""
        cut = slice(start, stop)
        return NoiseSample(self.level[cut], self.noise[cut], None if self.fresh is None else self.fresh[cut])

    def to(self, device: torch.device) -> NoiseSample:
        """The same draw with its noise on another device; the levels stay where they can be asked for."""
        fresh = None if self.fresh is None else self.fresh.to(device, non_blocking=True)
        return NoiseSample(self.level, self.noise.to(device, non_blocking=True), fresh)


def literal_sample(level: Tensor, noise_prev: Tensor, step_noise: Tensor, schedule: NoiseSchedule) -> NoiseSample:
    """The lecture's draw (z_0, ℓ, z_{ℓ−1}, ε): z_{ℓ−1} = a_{ℓ−1} z_0 + s_{ℓ−1} ε', then z_ℓ = α z_{ℓ−1} + σ ε.

    (ε̄, ξ) are (ε', ε) turned by one angle, sin = ρ: ε̄ = √(1−ρ²) ε' + ρ ε, ξ = √(1−ρ²) ε − ρ ε'; so
    ρ ε̄ + √(1−ρ²) ξ is ε again, and the regression is onto the very noise that was drawn.

    Args:
        level: 1…L, (B,), int64.
        noise_prev: ε', (B, *D).
        step_noise: ε, (B, *D).
    Source: lecture, "Training".
    """
    logsnr = schedule.on(noise_prev.device)
    level = level.to(noise_prev.device)
    rho, rest = (factor(v, noise_prev) for v in noise_ratio(logsnr[level - 1], logsnr[level]))
    return NoiseSample(level, rest * noise_prev + rho * step_noise, rest * step_noise - rho * noise_prev)


class NoiseSampling(ABC):
    """How the noise of a training step is drawn, its levels given."""

    @abstractmethod
    def at(self, level: Tensor, streams: Streams, shape: Sequence[int]) -> NoiseSample:
        """The draw of a batch, float32, on the CPU.

        Args:
            level: 1…L, (B,), int64.
            streams: one an example.
            shape: of one example, D.
        """


@final
class MeanNoise(NoiseSampling):
    """ε̄ alone: regression onto the target's mean given (z_0, z_ℓ), Rao–Blackwellised."""

    def at(self, level: Tensor, streams: Streams, shape: Sequence[int]) -> NoiseSample:
        """(ℓ, ε̄)."""
        return NoiseSample(level, streams.normal(shape, torch.float32))


@final
class RawNoise(NoiseSampling):
    """(ε̄, ξ): regression onto the sample of one step, ε_ℓ = ρ ε̄ + √(1−ρ²) ξ or z_{ℓ−1}."""

    def at(self, level: Tensor, streams: Streams, shape: Sequence[int]) -> NoiseSample:
        """(ℓ, ε̄, ξ); ε̄ is that of `MeanNoise`."""
        noise = streams.normal(shape, torch.float32)
        return NoiseSample(level, noise, streams.normal(shape, torch.float32))


@final
class LiteralNoise(NoiseSampling):
    """The lecture's (z_0, ℓ, z_{ℓ−1}, ε) as it stands; the distribution is that of `RawNoise`.

    Args:
        schedule: the grid of levels.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def at(self, level: Tensor, streams: Streams, shape: Sequence[int]) -> NoiseSample:
        """ε' of z_{ℓ−1} first, then ε of the step; see `literal_sample`."""
        before = streams.normal(shape, torch.float32)
        return literal_sample(level, before, streams.normal(shape, torch.float32), self.schedule)


def loss(
    network: torch.nn.Module,
    x: Tensor,
    draw: NoiseSample,
    condition: Condition | None,
    objective: Objective,
    target: Target,
    schedule: NoiseSchedule,
    reverse: LearnedVariance | None = None,
    *,
    clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(weighted, plain) mean squared errors per dim of the target, each (B,), float32.

    Args:
        x: data on the model's scale, (B, *D), float32.
        reverse: a learned variance, whose head is the second half of the network's output: the weighted error gains
            L/1000 of the level's KL per dim, which teaches the head alone (see `LearnedVariance.head_loss`).
        clip: of the model's x̂, whose error the head tells; the weighted error is of the network's own.
    """
    seen = _evaluated(network, x, draw, condition, target, schedule, reverse is not None)
    weighted = _weigh(seen, objective)
    if reverse is not None:
        weighted = weighted + schedule.num_levels / 1000 * _head_nats(reverse, x, draw, target, seen, clip)
    return weighted, seen.error


def bound_loss(
    network: torch.nn.Module,
    x: Tensor,
    draw: NoiseSample,
    condition: Condition | None,
    objective: Objective,
    model: Diffusion,
    first_nats: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """`loss` with the decoder's own nats at level 1: its mean is the bound's share that a network can lower.

    Under `bound_objective` the mean of the weighted errors over draws, times `objective.nats`, is the levels' nats with
    the variance β̃ (or σ², where that is the model's) and the reconstruction's, per dim. A learned variance adds its
    head's term.

    Args:
        network: the model's own, perhaps wrapped.
        x: data on the model's scale, (B, *D), float32.
        objective: from `bound_objective`.
        first_nats: (rows at level 1, their x̂, their z) -> what level 1 costs them, nats, of a stage of a cascade; None
            is the model's own decoder.
    """
    assert objective.nats is not None, "the objective is the bound's"
    reverse = model.reverse if isinstance(model.reverse, LearnedVariance) else None
    seen = _evaluated(network, x, draw, condition, model.target, model.schedule, reverse is not None, model.clip)
    weighted = _weigh(seen, objective)
    first = (draw.level == 1).nonzero().flatten()
    if len(first):
        first = first.to(x.device)
        x_hat = model.target.to_x(seen.out[first], seen.z[first], seen.now[first], seen.before[first])
        if first_nats is None:
            grid = model.schedule.on(x.device)
            head = None if seen.head is None else seen.head[first]
            nats = -model.decoder.distribution(x_hat, grid, seen.z[first], head).log_prob(x[first])
        else:
            nats = first_nats(first, x_hat, seen.z[first])
        share = nats / (x[0].numel() * objective.nats * float(objective.probability[0]))
        weighted = weighted.index_copy(0, first, share.to(weighted.dtype))
    if reverse is not None:
        weighted = weighted + model.num_levels / 1000 * _head_nats(reverse, x, draw, model.target, seen)
    return weighted, seen.error


@dataclass(frozen=True)
class _Evaluated:
    """What the network made of a draw, and the plain error of it per dim, (B,), float32."""

    z: Tensor
    level: Tensor
    now: Tensor
    before: Tensor
    out: Tensor
    head: Tensor | None
    error: Tensor


def _evaluated(
    network: torch.nn.Module,
    x: Tensor,
    draw: NoiseSample,
    condition: Condition | None,
    target: Target,
    schedule: NoiseSchedule,
    has_head: bool,
    clip: float | None = None,
) -> _Evaluated:
    logsnr = schedule.on(x.device)
    level = draw.level.to(x.device, non_blocking=True)
    now, before = logsnr[level], logsnr[level - 1]
    z = noised(x, draw.noise, now)
    out = network(z, now, condition)
    out = out if out.dtype == torch.float64 else out.float()
    head = None
    if has_head:
        out, head = out.chunk(2, dim=1)
    if clip is not None:
        out = target.of_x(target.to_x(out, z, now, before).clamp(-clip, clip), z, now, before)
    if draw.fresh is None:
        wanted = target.of(x, draw.noise, now, before)
    else:
        wanted = target.of_sample(x, draw.noise, draw.fresh, now, before)
    return _Evaluated(z, level, now, before, out, head, ((out - wanted) ** 2).flatten(1).mean(1))


def _weigh(seen: _Evaluated, objective: Objective) -> Tensor:
    return expand(objective.weight_at(seen.level), seen.error).to(seen.error.dtype) * seen.error


def _head_nats(
    reverse: LearnedVariance, x: Tensor, draw: NoiseSample, target: Target, seen: _Evaluated, clip: float | None = None
) -> Tensor:
    """The levels' KL per dim, 0 at level 1, whose step is the decoder's; (B,), float32."""
    nats = torch.zeros(len(x), device=x.device)
    later = (draw.level > 1).nonzero().flatten()
    if seen.head is not None and len(later):
        later = later.to(x.device)
        before, now = seen.before[later], seen.now[later]
        x_hat = target.to_x(seen.out[later], seen.z[later], now, before)
        x_hat = x_hat if clip is None else x_hat.clamp(-clip, clip)
        kl = reverse.head_loss(x[later], x_hat, before, now, seen.head[later])
        nats = nats.index_add(0, later, kl.float() / x[0].numel())
    return nats
