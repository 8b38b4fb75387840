r"""What regression onto each target finds when the predictor is affine, one for each level, and the data are Gaussian.

The population normal equations W = Cov(t, z) Cov(z)⁻¹, c = E t − W E z give the minimizer exactly. Cov(t, z) is
written once for the conditional means, t = t_x x + t_ε ε̄, and once for the samples from the chain itself:
Cov(ε_ℓ, z_ℓ) = σ_ℓ I and Cov(z_{ℓ−1}, z_ℓ) = α_ℓ Cov(z_{ℓ−1}). That both find one predictor is the statement
that μ_pri may be regressed onto a sample.
Source: lecture, "Rewriting the ELBO" and "Training".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from markovae.diffusion.forward import noise_scale, signal_scale, step_alpha, step_variance
from markovae.diffusion.schedule import NoiseSchedule
from markovae.diffusion.target import MEAN, STEP_NOISE, Target


@dataclass(frozen=True)
class Data:
    """Gaussian data x ~ N(mean, covariance).

    Args:
        mean: (d,).
        covariance: (d, d).
    """

    mean: Tensor
    covariance: Tensor

    def latent_covariance(self, logsnr: Tensor) -> Tensor:
        """Cov(z_ℓ) = a² S + s² I, (d, d)."""
        identity = torch.eye(len(self.mean), dtype=torch.float64)
        return signal_scale(logsnr) ** 2 * self.covariance + noise_scale(logsnr) ** 2 * identity


def gaussian_data() -> Data:
    """Correlated Gaussian data in three dimensions."""
    covariance = torch.tensor([[1.0, 0.4, 0.1], [0.4, 0.5, -0.1], [0.1, -0.1, 0.08]], dtype=torch.float64)
    return Data(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64), covariance)


@dataclass(frozen=True)
class Affine:
    """out = W z + c at one level.

    Args:
        weight: W, (d, d).
        offset: c, (d,).
    """

    weight: Tensor
    offset: Tensor

    def at(self, z: Tensor) -> Tensor:
        """W z + c, (B, d)."""
        return z @ self.weight.T + self.offset

    def as_x(self, target: Target, logsnr_prev: Tensor, logsnr: Tensor) -> Affine:
        """The affine x̂(z) that these outputs stand for."""
        d = len(self.offset)
        points = torch.cat([torch.zeros(1, d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)])
        x = target.to_x(self.at(points), points, logsnr, logsnr_prev)
        return Affine((x[1:] - x[:1]).T, x[0])


def on_mean(data: Data, target: Target, logsnr_prev: Tensor, logsnr: Tensor) -> Affine:
    """The best affine predictor of the target's conditional mean, t = t_x x + t_ε ε̄; log-SNRs ()."""
    t_x, t_noise = target.pair(logsnr_prev, logsnr)
    identity = torch.eye(len(data.mean), dtype=torch.float64)
    cross = t_x * signal_scale(logsnr) * data.covariance + t_noise * noise_scale(logsnr) * identity
    return _solve(data, cross, t_x * data.mean, logsnr)


def on_step_noise(data: Data, logsnr_prev: Tensor, logsnr: Tensor) -> Affine:
    """The best affine predictor of the sample ε_ℓ of one step's noise: Cov(ε_ℓ, z_ℓ) = σ_ℓ I."""
    cross = step_variance(logsnr_prev, logsnr).sqrt() * torch.eye(len(data.mean), dtype=torch.float64)
    return _solve(data, cross, torch.zeros_like(data.mean), logsnr)


def on_previous(data: Data, logsnr_prev: Tensor, logsnr: Tensor) -> Affine:
    """The best affine predictor of the sample z_{ℓ−1}: Cov(z_{ℓ−1}, z_ℓ) = α_ℓ Cov(z_{ℓ−1})."""
    cross = step_alpha(logsnr_prev, logsnr) * data.latent_covariance(logsnr_prev)
    return _solve(data, cross, signal_scale(logsnr_prev) * data.mean, logsnr)


@dataclass(frozen=True)
class Fit:
    """Ordinary least squares on draws.

    Args:
        predictor: what was found.
        stderr: predicted standard errors of [c, W], (d, 1+d): √(residual variance × diagonal of (XᵀX)⁻¹).
    """

    predictor: Affine
    stderr: Tensor

    def deviation(self, truth: Affine) -> Tensor:
        """(found − true)/stderr of [c, W], (d, 1+d)."""
        found = torch.cat([self.predictor.offset[:, None], self.predictor.weight], 1)
        return (found - torch.cat([truth.offset[:, None], truth.weight], 1)) / self.stderr


def least_squares(z: Tensor, wanted: Tensor) -> Fit:
    """The affine predictor of `wanted` from z on N draws, both (N, d).

    Raises:
        ValueError: for fewer draws than unknowns.
    """
    rows, unknowns = len(z), z.shape[1] + 1
    if rows <= unknowns:
        raise ValueError(f"{rows} draws for {unknowns} unknowns: least squares needs more draws")
    design = torch.cat([torch.ones(rows, 1, dtype=torch.float64), z.double()], 1)
    gram = design.T @ design
    solution = torch.linalg.solve(gram, design.T @ wanted.double()).T
    variance = ((wanted - design @ solution.T) ** 2).sum(0) / (rows - unknowns)
    stderr = (variance[:, None] * torch.linalg.inv(gram).diagonal()[None]).sqrt()
    return Fit(Affine(solution[:, 1:], solution[:, 0]), stderr)


def _solve(data: Data, cross: Tensor, target_mean: Tensor, logsnr: Tensor) -> Affine:
    weight = torch.linalg.solve(data.latent_covariance(logsnr), cross.T).T
    return Affine(weight, target_mean - weight @ (signal_scale(logsnr) * data.mean))


class GradientScale(NamedTuple):
    """Second moments per dim of ∂loss/∂output at levels 1…L, (L,) each, float64.

    Args:
        raw: of the loss on one step's sample.
        mean: of its mean given (z_0, z_ℓ), the Rao–Blackwellised loss.
    """

    raw: Tensor
    mean: Tensor


def output_gradient(target: Target, schedule: NoiseSchedule, error: Tensor, weight: Tensor) -> GradientScale:
    """4 w² [(D/a)² m + t_ξ²] and 4 w² (D/a)² m of the loss w‖target − out‖², at levels 1…L.

    Args:
        error: m_ℓ, squared error of ε̄ per dim, (L,).
        weight: w_ℓ, (L,).
    """
    logsnr = schedule.logsnr
    gain, spread = target.residual(logsnr[:-1], logsnr[1:])
    mean = 4 * weight**2 * gain**2 * error
    return GradientScale(mean + 4 * weight**2 * spread**2, mean)


def mean_loss_gradient(schedule: NoiseSchedule, error: Tensor) -> GradientScale:
    """Of the μ loss ‖μ_pri − z_{ℓ−1}‖²/2σ² with respect to μ_pri; error: m_ℓ, (L,)."""
    logsnr = schedule.logsnr
    return output_gradient(MEAN, schedule, error, 0.5 / step_variance(logsnr[:-1], logsnr[1:]))


def noise_loss_gradient(schedule: NoiseSchedule, error: Tensor) -> GradientScale:
    """Of the ε loss ‖ε − ε_pri‖² with respect to ε_pri, one step's noise; error: m_ℓ, (L,)."""
    return output_gradient(STEP_NOISE, schedule, error, torch.ones_like(error))


def output_ratio(rho: Tensor, error: Tensor) -> Tensor:
    """R_ℓ = 1 + (1 − ρ²)/(ρ² m_ℓ): by how much the raw target's gradient exceeds the Rao–Blackwellised one.

    Args:
        rho: σ_ℓ/s_ℓ in (0, 1].
        error: m_ℓ > 0, squared error of ε̄ per dim.
    Raises:
        ValueError: outside these ranges.
    """
    _check_rho(rho)
    if not bool((error > 0).all()):
        raise ValueError(f"error={float(error.min()):g} must be positive: an exact predictor has no mean gradient")
    return 1 + (1 - rho**2) / (rho**2 * error)


def parameter_ratio(rho: Tensor, jacobian_square: Tensor, pulled_square: Tensor) -> Tensor:
    """1 + (1 − ρ²) E‖J‖² / (ρ² E‖Jᵀe‖²), the same ratio for the gradient with respect to the parameters.

    Args:
        jacobian_square: E‖∂ε̂/∂θ‖² (Frobenius).
        pulled_square: E‖Jᵀ(ε̄ − ε̂)‖² > 0.
    """
    _check_rho(rho)
    return 1 + (1 - rho**2) * jacobian_square / (rho**2 * pulled_square)


def jacobian_squares(network: nn.Module, inputs: tuple[Tensor, ...], error: Tensor) -> tuple[Tensor, Tensor]:
    """(‖J‖², ‖Jᵀe‖²) of each example, (B,) each: J = ∂out/∂θ of out = network(*inputs), (B, d).

    Args:
        inputs: tensors with the batch first.
        error: e, (B, d).
    """
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def one(*example: Tensor) -> Callable[[dict[str, Tensor]], Tensor]:
        def output(values: dict[str, Tensor]) -> Tensor:
            batched = tuple(part.unsqueeze(0) for part in example)
            out: Tensor = torch.func.functional_call(network, values, batched)
            return out.squeeze(0)

        return output

    def squares(e: Tensor, *example: Tensor) -> tuple[Tensor, Tensor]:
        jacobian = torch.func.jacrev(one(*example))(parameters)
        rows = torch.cat([part.flatten(1) for part in jacobian.values()], 1)
        return (rows**2).sum(), ((e @ rows) ** 2).sum()

    whole, pulled = torch.func.vmap(squares)(error, *inputs)
    return whole, pulled


def _check_rho(rho: Tensor) -> None:
    if not bool(((rho > 0) & (rho <= 1)).all()):
        raise ValueError(f"rho={rho} must lie in (0, 1]: it is one step's noise over the cumulative noise")
