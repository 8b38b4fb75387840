"""Noise schedules: decreasing functions of the level to the log-SNR.

The endpoint rule of constant σ is exact: L is the least integer with α^L < δ, α = √(1−σ²).

Floats are rationals, so (1−σ²)^L < δ² has one right answer. Logarithms with 100 digits decide it unless the two
sides may be equal; equality needs few binary digits, and is then settled with integers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import final

import torch
from torch import Tensor, nn

from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.system.device import Constants

MAX_LEVELS = 1_000_000
_DIGITS = 100
_CLOSE = Decimal(10) ** -60


def endpoint_levels(sigma: float, delta: float) -> int:
    """The least L with (1−σ²)^{L/2} < δ.

    Args:
        sigma: standard deviation of one step's noise, in (0, 1).
        delta: limit on the signal left at level L, in (0, 1).
    Raises:
        ValueError: outside (0, 1), or when L would exceed MAX_LEVELS (1,000,000).
    Source: lecture, "DDPM": the endpoint.
    """
    sigma, delta = float(sigma), float(delta)  # numbers of numpy and torch too
    _check_unit("sigma", sigma, "it is the noise of one step")
    _check_unit("delta", delta, "it is the signal left at level L")
    quotient = _log_ratio(sigma, delta)
    if quotient >= MAX_LEVELS:
        raise ValueError(
            f"sigma={sigma:g} needs more than {MAX_LEVELS} levels to reach delta={delta:g}: raise sigma or delta"
        )
    nearest = int(quotient.to_integral_value())
    if abs(quotient - nearest) > _CLOSE:
        return math.ceil(quotient)
    # Within 1e-60 of an integer: a tie (then α^L = δ is not below δ) or a value that ties cannot explain.
    return nearest + 1 if _is_tie(sigma, delta, nearest) else math.ceil(quotient)


def endpoint_sigma(num_levels: int, delta: float) -> float:
    """The smallest float64 σ whose endpoint rule returns `num_levels`.

    Raises:
        ValueError: for num_levels outside 1…MAX_LEVELS, δ outside (0, 1), or when no float64 σ gives that L.
    """
    delta = float(delta)
    if not 1 <= num_levels <= MAX_LEVELS or num_levels != int(num_levels):
        raise ValueError(f"num_levels={num_levels} must be a whole number in 1…{MAX_LEVELS}")
    _check_unit("delta", delta, "it is the signal left at level L")
    sigma = math.sqrt(-math.expm1(2 * math.log(delta) / num_levels))
    sigma = min(max(sigma, math.nextafter(0.0, 1.0)), math.nextafter(1.0, 0.0))
    while not _reaches(sigma, delta, num_levels):
        sigma = math.nextafter(sigma, 1.0)
        if sigma >= 1.0:
            raise ValueError(
                f"no float64 sigma below 1 reaches delta={delta:g} in {num_levels} levels: use more levels"
            )
    while _reaches(smaller := math.nextafter(sigma, 0.0), delta, num_levels):
        sigma = smaller
    if endpoint_levels(sigma, delta) != num_levels:
        raise ValueError(f"no float64 sigma has exactly {num_levels} levels at delta={delta!r}: use fewer levels")
    return sigma


def _reaches(sigma: float, delta: float, num_levels: int) -> bool:
    try:
        return endpoint_levels(sigma, delta) <= num_levels
    except ValueError:
        return False


def _log_ratio(sigma: float, delta: float) -> Decimal:
    """ln δ² / ln(1−σ²): the real number of levels, to about 100 digits over the range that is accepted."""
    with localcontext() as context:
        context.prec = _DIGITS
        kept = 1 - Decimal(sigma) ** 2
        return Decimal("Infinity") if kept == 1 else 2 * Decimal(delta).ln() / kept.ln()


def _is_tie(sigma: float, delta: float, levels: int) -> bool:
    kept, limit = 1 - Fraction(sigma) ** 2, Fraction(delta) ** 2
    # (p/2^k)^L = q/2^m in lowest terms needs kL = m; only then is the power worth forming.
    if (kept.denominator.bit_length() - 1) * levels != limit.denominator.bit_length() - 1:
        return False
    return kept**levels == limit


def _check_unit(name: str, value: float, meaning: str) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}={value!r} must lie in (0, 1): {meaning}")


NO_SIGNAL = -100.0
"""log-SNR of a level without signal: a = 2e-22 is lost beside s = 1 in float64, and every formula stays finite."""


class NoiseSchedule(nn.Module, ABC):
    """A decreasing log-SNR λ(u), u ∈ [0, 1], with L levels on it."""

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        _check_levels(num_levels)
        self.num_levels = num_levels
        self._grids = Constants()

    @abstractmethod
    def at(self, u: Tensor) -> Tensor:
        """log-SNR at u ∈ [0, 1], float64, the shape of `u`; decreasing."""

    @abstractmethod
    def level_positions(self) -> Tensor:
        """u of levels 1…L, (L,), float64, increasing, last one 1."""

    @property
    def logsnr(self) -> Tensor:
        """λ_0…λ_L, (L+1,), float64, on the CPU; the first is +∞.

        Raises:
            ValueError: if the log-SNR does not fall from level to level.
        """
        levels = self.at(self.level_positions()).cpu()
        values = torch.cat([levels.new_full((1,), torch.inf), levels])
        _check_falling(levels)
        return values

    def on(self, device: torch.device) -> Tensor:
        """`logsnr` on this device, with gradients where the schedule learns; else made once, so write to none."""
        if any(True for _ in self.parameters()):
            return self.logsnr.to(device)
        return self._grids.get(device, make=lambda: self.logsnr.to(device))

    def subgrid(self, num_levels: int) -> Tabulated:
        """`num_levels` of the L levels at even strides; levels 1 and L are kept.

        Raises:
            ValueError: for num_levels outside 1…L (one level: level L alone).
        """
        return self.only(self.sublevels(num_levels))

    def only(self, levels: Tensor) -> Tabulated:
        """These of the levels 1…L, increasing, (K,) int64.

        Raises:
            ValueError: for levels that the schedule does not have, or that do not increase.
        """
        levels = levels.long()
        if not len(levels) or int(levels.min()) < 1 or int(levels.max()) > self.num_levels:
            raise ValueError(f"levels {levels.tolist()} must lie in 1…{self.num_levels}")
        if not bool((levels[1:] > levels[:-1]).all()):
            raise ValueError(f"levels {levels.tolist()} must increase: a chain visits each level once")
        return Tabulated(self.logsnr[levels])

    def sublevels(self, num_levels: int) -> Tensor:
        """The levels that `subgrid` keeps, (num_levels,), int64, increasing."""
        if not 1 <= num_levels <= self.num_levels:
            raise ValueError(f"{num_levels} levels asked for: the schedule has 1…{self.num_levels}")
        if num_levels == 1:
            return torch.tensor([self.num_levels])
        return torch.linspace(1, self.num_levels, num_levels, dtype=torch.float64).round().long()


@final
class Tabulated(NoiseSchedule):
    """Levels given one by one; between them the log-SNR is linear in u.

    Args:
        logsnr: λ_1…λ_L, decreasing and finite, (L,).
    """

    table: Tensor

    def __init__(self, logsnr: Tensor) -> None:
        super().__init__(len(logsnr))
        table = logsnr.detach().double().clone()
        if not bool(table.isfinite().all()):
            raise ValueError("log-SNR of levels 1…L must be finite: level 0 alone is clean")
        _check_falling(table)
        self.register_buffer("table", table, persistent=False)

    def level_positions(self) -> Tensor:
        """u = (ℓ−1)/(L−1)."""
        return _even_positions(self.num_levels, self.table.device)

    def at(self, u: Tensor) -> Tensor:
        """Linear interpolation of the table."""
        position = u.to(self.table.device, torch.float64) * (self.num_levels - 1)
        # A level's own position comes out of the product within rounding: it must give its entry to the last bit.
        nearest = position.round()
        snapped = torch.where((position - nearest).abs() < 1e-9, nearest, position)
        position = position + (snapped - position).detach()  # exact, for the two are that close; the slope is kept
        below = position.floor().long().clamp(0, self.num_levels - 1)
        rises = torch.cat([self.table.diff(), self.table.diff()[-1:]]) if self.num_levels > 1 else 0 * self.table
        return self.table[below] + (position - below) * rises[below]


@final
class LogSNRLinear(NoiseSchedule):
    """λ(u) = start + u (end − start): even steps in log-SNR. The default (13.3 → −10).

    The start, 13.3, leaves noise of a sixth of an 8-bit grey level at level 1, so the decoder costs next to nothing.

    Args:
        start, end: log-SNR of levels 1 and L; start > end.
    """

    def __init__(self, num_levels: int = 1000, start: float = 13.3, end: float = -10.0) -> None:
        super().__init__(num_levels)
        require_falling(start, end)
        self.start, self.end = start, end

    def level_positions(self) -> Tensor:
        """u = (ℓ−1)/(L−1)."""
        return _even_positions(self.num_levels, None)

    def at(self, u: Tensor) -> Tensor:
        """start + u (end − start)."""
        return self.start + u.double() * (self.end - self.start)


@final
class ConstantSigma(NoiseSchedule):
    """The lecture's schedule: one σ at every level, a_ℓ = α^ℓ, α = √(1−σ²); a(u) = α^{Lu}, u = ℓ/L.

    Args:
        sigma: standard deviation of one step's noise, in (0, 1).
        num_levels: L.
    Source: lecture, "DDPM".
    """

    def __init__(self, sigma: float, num_levels: int) -> None:
        super().__init__(num_levels)
        if not 0 < sigma < 1:
            raise ValueError(f"sigma={sigma!r} must lie in (0, 1): it is the noise of one step")
        self.sigma = sigma

    def level_positions(self) -> Tensor:
        """u = ℓ/L."""
        return torch.arange(1, self.num_levels + 1, dtype=torch.float64) / self.num_levels

    def at(self, u: Tensor) -> Tensor:
        """ln a²/(1−a²) with ln a² = Lu ln(1−σ²)."""
        return logsnr_of_log_signal(u.double() * (self.num_levels * _log_kept(self.sigma)))


def constant(*, sigma: float | None = None, delta: float | None = None, num_levels: int | None = None) -> ConstantSigma:
    """The constant-σ schedule from two of (σ, δ, L); the endpoint rule gives the third.

    (σ, δ): the least L with α^L < δ. (L, δ): the smallest float64 σ whose endpoint rule returns L. (σ, L): as given.
    """
    if sigma is not None and delta is not None and num_levels is None:
        return ConstantSigma(sigma, endpoint_levels(sigma, delta))
    if num_levels is not None and delta is not None and sigma is None:
        return ConstantSigma(endpoint_sigma(num_levels, delta), num_levels)
    if sigma is not None and num_levels is not None and delta is None:
        return ConstantSigma(sigma, num_levels)
    raise ValueError("constant() takes two of sigma, delta and num_levels: they fix the third")


def from_betas(betas: Tensor) -> Tabulated:
    """The schedule whose step variances are β_1…β_L, each in (0, 1), (L,); the last one may be 1 (see `NO_SIGNAL`)."""
    betas = betas.double()
    if not len(betas) or not bool((betas > 0).all() & (betas[:-1] < 1).all() & (betas[-1] <= 1)):
        raise ValueError("betas must lie in (0, 1): each is the variance of one step's noise; the last one may be 1")
    return Tabulated(_ended(logsnr_of_log_signal(torch.log1p(-betas).cumsum(0))))


def scaled_linear(num_levels: int, beta_start: float, beta_end: float) -> Tabulated:
    """√β rising linearly from √beta_start to √beta_end.

    Source: Rombach et al. 2022 (latent diffusion), whose code has it.
    """
    _check_levels(num_levels)
    return from_betas(torch.linspace(beta_start**0.5, beta_end**0.5, num_levels, dtype=torch.float64) ** 2)


def zero_terminal(schedule: NoiseSchedule) -> Tabulated:
    """The same levels with a' = (a − a_L) a_1/(a_1 − a_L): level 1 stays, and nothing is left at level L.

    Source: Lin et al. 2024, algorithm 1.
    """
    a = signal_scale(schedule.logsnr[1:])
    if len(a) < 2:
        raise ValueError("a schedule of one level cannot keep its level and lose it: use at least 2")
    return Tabulated(_ended(logsnr_of_log_signal(2 * ((a - a[-1]) * (a[0] / (a[0] - a[-1]))).log())))


def _ended(logsnr: Tensor) -> Tensor:
    """The last −∞, if there is one, as `NO_SIGNAL`."""
    return torch.cat([logsnr[:-1], logsnr[-1:].clamp(min=NO_SIGNAL)])


def linear(num_levels: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tabulated:
    """Ho et al.'s β rising linearly, given for L = 1000 and scaled by 1000/L for another L.

    Source: Ho et al. 2020, section 4.
    """
    _check_levels(num_levels)
    scale = 1000 / num_levels
    if beta_end * scale >= 1:
        raise ValueError(f"num_levels={num_levels} makes the last beta {beta_end * scale:g}: use more than 20 levels")
    return from_betas(torch.linspace(beta_start, beta_end, num_levels, dtype=torch.float64) * scale)


def cosine(num_levels: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Tabulated:
    """ā(t) = cos²((t + offset)/(1 + offset)·π/2), t = ℓ/L, normalized at t = 0, with β ≤ max_beta.

    Source: Nichol & Dhariwal 2021, eq. 17.
    """
    _check_levels(num_levels)
    t = torch.arange(num_levels + 1, dtype=torch.float64) / num_levels
    signal = torch.cos((t + offset) / (1 + offset) * (math.pi / 2)) ** 2
    return from_betas((1 - signal[1:] / signal[:-1]).clamp(max=max_beta))


def logsnr_of_log_signal(log_signal: Tensor) -> Tensor:
    """ln [a²/(1−a²)] from ln a² < 0, without cancellation at either end, float64."""
    return log_signal.double() - torch.log(-torch.expm1(log_signal.double()))


def time(logsnr: Tensor) -> Tensor:
    """t = −ln a, the clock of the SDE limit: 0 at clean data, float64."""
    return 0.5 * torch.nn.functional.softplus(-logsnr.double())


def fine_logsnr(half_width: float) -> float:
    """The log-SNR at which the noise left is a sixth of a bin: 13.3 for 256 pixel values on [−1, 1].

    With s/a a sixth of the bin a pixel value is certain but for one pixel in a few hundred, and the decoder costs next
    to nothing; a higher start would measure the same values at a price.
    """
    return 13.3 - 2 * math.log(255 * half_width)


def first_level_warning(schedule: NoiseSchedule, half_width: float) -> str | None:
    """What a level 1 that is already noisy costs, in a sentence; None where it costs next to nothing.

    A decoder that only knows z_1 pays about log₂(√(2πe)·b) bits/dim, b the blur of level 1 in grey levels.
    """
    first = schedule.logsnr[1]
    blur = float(noise_scale(first) / signal_scale(first)) / (2 * half_width)
    if blur < 0.5:
        return None
    bits = math.log2(math.sqrt(2 * math.pi * math.e) * blur)
    gap = 0.2886 / math.log(2)
    return (
        f"level 1 has log-SNR {float(first):.1f} and already blurs {blur:.1f} grey levels: a decoder that sees only "
        f"z_1 pays about {bits:.1f} bits/dim; and with the posterior variance a constant σ keeps a gap that tends to "
        f"{gap:.2f} bits/dim on smooth data however many levels. The schedule is kept; "
        "schedule.kind=logsnr_linear has neither cost."
    )


def _check_falling(levels: Tensor) -> None:
    """Refuse, with a ValueError, log-SNRs of levels 1…L that do not fall."""
    if not bool((levels[1:] < levels[:-1]).all()):
        where = int((levels[1:] >= levels[:-1]).nonzero()[0]) + 2
        raise ValueError(f"log-SNR must fall at every level: level {where} does not lie below level {where - 1}")


def require_falling(start: float, end: float) -> None:
    """Raises: ValueError for log-SNRs of levels 1 and L that do not fall, or are not finite."""
    if not (math.isfinite(start) and math.isfinite(end) and start > end):
        raise ValueError(f"log-SNR must fall from level 1 to level L: start={start:g} must exceed end={end:g}")


def _check_levels(num_levels: int) -> None:
    if num_levels != int(num_levels):
        raise ValueError(f"num_levels={num_levels} must be a whole number")
    if num_levels < 1:
        raise ValueError(f"num_levels={num_levels} must be at least 1: a chain needs a level of noise")


def _log_kept(sigma: float) -> float:
    """ln(1−σ²); from the middle on as ln(1−σ) + ln(1+σ), which does not cancel where σ → 1."""
    return math.log1p(-(sigma**2)) if sigma < 0.5 else math.log1p(-sigma) + math.log1p(sigma)


def _even_positions(num_levels: int, device: torch.device | None) -> Tensor:
    if num_levels == 1:
        return torch.ones(1, dtype=torch.float64, device=device)
    return torch.linspace(0, 1, num_levels, dtype=torch.float64, device=device)


def interpolate(at: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Values linear between knots, and beyond them with the slope of the last two; float64.

    Args:
        at: (*S).
        knots: increasing, (K,), K ≥ 2.
        values: (K, *V).
    Returns: (*S, *V).
    """
    below = torch.searchsorted(knots, at.double().contiguous()).clamp(1, len(knots) - 1) - 1
    share = (at - knots[below]) / (knots[below + 1] - knots[below])
    share = share.reshape((*share.shape, *[1] * (values.ndim - 1)))
    return values[below] + share * (values[below + 1] - values[below])
