r"""What the network's output means: each parameterization is one pair (t_x, t_ε) with out* = t_x x + t_ε ε̄.

With z = a x + s ε̄ both unknowns follow from (z, out) by one 2×2 solve, D = a t_ε − s t_x:
    x̂ = (t_ε z − s out)/D,      ε̂ = (a out − t_x z)/D.
The affine maps of the literature are these pairs:
    noise (0, 1); data (1, 0); velocity (−s, a); flow (−1, 1); score (0, −1/s);
    step noise (0, ρ), ρ = σ_ℓ/s_ℓ, the conditional mean ρ ε̄ of one step's noise given z_0 and z_ℓ;
    mean (c_x + a c_z, s c_z), the posterior mean of z_{ℓ−1}.
Flow is the velocity ε̄ − x of x_t = (1−t) x + t ε̄, which is z·√((1−t)² + t²) at log-SNR 2 ln((1−t)/t): a diffusion on
another clock (Lipman et al. 2023; Liu et al. 2023). The last two need the log-SNR of the level before, on the grid the
network was trained on. They are conditional means given (z_0, z_ℓ); the lecture regresses onto the sample itself, which
adds t_ξ ξ with a fresh ξ ~ N(0, I):
    ε_ℓ = ρ ε̄ + √(1−ρ²) ξ,      z_{ℓ−1} = (posterior mean) − √β̃ ξ.
Regression onto the mean (Rao–Blackwell) has the same optimum and less noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from markovae.diffusion.forward import (
    noise_scale,
    posterior_coefficients,
    posterior_variance,
    signal_scale,
    step_alpha,
    step_variance,
)
from markovae.diffusion.gaussian import factor

Pair = tuple[Tensor, Tensor]


def _no_spread(logsnr_prev: Tensor, logsnr: Tensor) -> Tensor:
    return torch.zeros_like(logsnr, dtype=torch.float64)


@dataclass(frozen=True)
class Target:
    """One parameterization of the prior's network.

    Args:
        name: its standard name, as in configurations.
        pair: (logsnr_prev, logsnr) -> (t_x, t_ε), float64.
        needs_neighbour: True where the pair depends on the training grid's log-SNR at ℓ−1.
        spread: (logsnr_prev, logsnr) -> t_ξ, float64: what one step's sample adds to its conditional mean.
    """

    name: str
    pair: Callable[[Tensor, Tensor], Pair]
    needs_neighbour: bool = False
    spread: Callable[[Tensor, Tensor], Tensor] = _no_spread

    def of(self, x: Tensor, noise: Tensor, logsnr: Tensor, logsnr_prev: Tensor | None = None) -> Tensor:
        """The regression target t_x x + t_ε ε̄, (B, *D); logsnr: (B,)."""
        t_x, t_noise = self._pair(logsnr_prev, logsnr)
        return factor(t_x, x) * x + factor(t_noise, x) * noise

    def of_sample(
        self, x: Tensor, noise: Tensor, fresh: Tensor, logsnr: Tensor, logsnr_prev: Tensor | None = None
    ) -> Tensor:
        """The raw target of one step, t_x x + t_ε ε̄ + t_ξ ξ, (B, *D): ε_ℓ itself, or z_{ℓ−1} itself.

        Args:
            fresh: ξ ~ N(0, I), independent of (x, ε̄), (B, *D); see `one_step_noise`.
        """
        spread = self.spread(self._before(logsnr_prev, logsnr), logsnr)
        return self.of(x, noise, logsnr, logsnr_prev) + factor(spread, x) * fresh

    def residual(self, logsnr_prev: Tensor | None, logsnr: Tensor) -> Pair:
        """(|D|/a, |t_ξ|): how far the mean target moves with a unit error of ε̄, and how far its samples scatter.

        With m = E(ε̄ − ε̂)²/d, the squared residual per dim is (D/a)² m of the mean, and (D/a)² m + t_ξ² of the sample.
        """
        t_x, t_noise = self._pair(logsnr_prev, logsnr)
        a, s = signal_scale(logsnr), noise_scale(logsnr)
        spread = self.spread(self._before(logsnr_prev, logsnr), logsnr)
        return ((a * t_noise - s * t_x) / a).abs(), spread.abs()

    def to_x(self, out: Tensor, z: Tensor, logsnr: Tensor, logsnr_prev: Tensor | None = None) -> Tensor:
        """x̂ = (t_ε z − s out)/D: the data that (z, out) imply, (B, *D), in the type of `z`."""
        t_x, t_noise = self._pair(logsnr_prev, logsnr)
        a, s = signal_scale(logsnr), noise_scale(logsnr)
        determinant = a * t_noise - s * t_x
        c_z, c_out = t_noise / determinant, -s / determinant
        return factor(c_z, z) * z + factor(c_out, z) * out.to(z.dtype)

    def of_x(self, x_hat: Tensor, z: Tensor, logsnr: Tensor, logsnr_prev: Tensor | None = None) -> Tensor:
        """The output that stands for x̂ at z: the inverse of `to_x`, (B, *D)."""
        s = noise_scale(logsnr)
        noise = (z - factor(signal_scale(logsnr), z) * x_hat) / factor(s, z)
        return self.of(x_hat, noise, logsnr, logsnr_prev)

    def _pair(self, logsnr_prev: Tensor | None, logsnr: Tensor) -> Pair:
        return self.pair(self._before(logsnr_prev, logsnr), logsnr)

    def _before(self, logsnr_prev: Tensor | None, logsnr: Tensor) -> Tensor:
        if logsnr_prev is None:
            if self.needs_neighbour:
                raise ValueError(
                    f"target {self.name!r} is defined by one step of a grid and has no continuous limit: "
                    "give the log-SNR of the level before on the training grid"
                )
            return torch.full_like(logsnr, torch.inf)
        return logsnr_prev


def _noise(logsnr_prev: Tensor, logsnr: Tensor) -> Pair:
    one = torch.ones_like(logsnr, dtype=torch.float64)
    return torch.zeros_like(one), one


def _data(logsnr_prev: Tensor, logsnr: Tensor) -> Pair:
    one = torch.ones_like(logsnr, dtype=torch.float64)
    return one, torch.zeros_like(one)


def _velocity(logsnr_prev: Tensor, logsnr: Tensor) -> Pair:
    return -noise_scale(logsnr), signal_scale(logsnr)


def _flow(logsnr_prev: Tensor, logsnr: Tensor) -> Pair:
    one = torch.ones_like(logsnr, dtype=torch.float64)
    return -one, one


def _score(logsnr_prev: Tensor, logsnr: Tensor) -> Pair:
    s = noise_scale(logsnr)
    return torch.zeros_like(s), -1 / s


def _step_noise(logsnr_prev: Tensor, logsnr: Tensor) -> Pair:
    ratio = noise_ratio(logsnr_prev, logsnr)[0]
    return torch.zeros_like(ratio), ratio


def _mean(logsnr_prev: Tensor, logsnr: Tensor) -> Pair:
    c_z, c_x = posterior_coefficients(logsnr_prev, logsnr)
    return c_x + signal_scale(logsnr) * c_z, noise_scale(logsnr) * c_z


def noise_ratio(logsnr_prev: Tensor, logsnr: Tensor) -> Pair:
    """(ρ, √(1−ρ²)) of ε_ℓ = ρ ε̄ + √(1−ρ²) ξ, float64: ρ = σ_ℓ/s_ℓ, √(1−ρ²) = α_ℓ s_{ℓ−1}/s_ℓ."""
    s = noise_scale(logsnr)
    return (
        step_variance(logsnr_prev, logsnr).sqrt() / s,
        step_alpha(logsnr_prev, logsnr) * noise_scale(logsnr_prev) / s,
    )


def one_step_noise(noise: Tensor, fresh: Tensor, logsnr_prev: Tensor, logsnr: Tensor) -> Tensor:
    """ε_ℓ = ρ ε̄ + √(1−ρ²) ξ, (B, *D): the noise of step ℓ, given the cumulative noise ε̄ and a fresh ξ."""
    rho, rest = noise_ratio(logsnr_prev, logsnr)
    return factor(rho, noise) * noise + factor(rest, noise) * fresh


def _step_spread(logsnr_prev: Tensor, logsnr: Tensor) -> Tensor:
    return noise_ratio(logsnr_prev, logsnr)[1]


def _mean_spread(logsnr_prev: Tensor, logsnr: Tensor) -> Tensor:
    return -posterior_variance(logsnr_prev, logsnr).sqrt()


NOISE = Target("noise", _noise)
DATA = Target("data", _data)
VELOCITY = Target("velocity", _velocity)
FLOW = Target("flow", _flow)
SCORE = Target("score", _score)
STEP_NOISE = Target("step_noise", _step_noise, True, _step_spread)
MEAN = Target("mean", _mean, True, _mean_spread)
TARGETS = (NOISE, DATA, VELOCITY, FLOW, SCORE, STEP_NOISE, MEAN)


def target_named(name: str) -> Target:
    """The target with this standard name."""
    return next(target for target in TARGETS if target.name == name)
