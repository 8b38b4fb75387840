r"""How large the gradients of each loss are, level by level.

With the cumulative noise's squared error m_ℓ per dim, the residual of a target is r = (D/a)(ε̄ − ε̂) + t_ξ ξ: a part
that training can remove and, for the raw one-step targets, a part that it cannot. The gradient of w‖r‖² with respect
to the output is −2 w r, so its second moment per dim is 4w²[(D/a)² m + t_ξ²], and its mean given (z_0, z_ℓ) has
second moment 4w²(D/a)² m. For one step's noise (D/a = ρ, t_ξ² = 1 − ρ²):

    R_ℓ = 1 + (1 − ρ²)/(ρ² m_ℓ)  at the output,   1 + (1 − ρ²) E‖J‖² / (ρ² E‖Jᵀe‖²)  at the parameters.

The lecture's "same gradient scale at every level" holds of the raw target, whose gradient is nearly all t_ξ ξ; the
means of raw and Rao–Blackwellised gradients both scale with ρ².
Source: lecture, "From the μ-prior to the ε-prior".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from markovae.forward import step_variance
from markovae.schedule import NoiseSchedule
from markovae.target import MEAN, STEP_NOISE, Target


class GradientScale(NamedTuple):
    """Second moments per dim of ∂loss/∂output at levels 1…L, (L,) each, float64.

    Args:
        raw: of the loss on one step's sample.   mean: of its mean given (z_0, z_ℓ), the Rao–Blackwellised loss.
    """

    raw: Tensor
    mean: Tensor


def output_gradient(target: Target, schedule: NoiseSchedule, error: Tensor, weight: Tensor) -> GradientScale:
    """4 w² [(D/a)² m + t_ξ²] and 4 w² (D/a)² m of the loss w‖target − out‖², at levels 1…L.

    Args:
        error: m_ℓ, squared error of ε̄ per dim, (L,).   weight: w_ℓ, (L,).
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
        rho: σ_ℓ/s_ℓ in (0, 1].   error: m_ℓ > 0, squared error of ε̄ per dim.
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
        jacobian_square: E‖∂ε̂/∂θ‖² (Frobenius).   pulled_square: E‖Jᵀ(ε̄ − ε̂)‖² > 0.
    """
    _check_rho(rho)
    return 1 + (1 - rho**2) * jacobian_square / (rho**2 * pulled_square)


def jacobian_squares(network: nn.Module, inputs: tuple[Tensor, ...], error: Tensor) -> tuple[Tensor, Tensor]:
    """(‖J‖², ‖Jᵀe‖²) of each example, (B,) each: J = ∂out/∂θ of out = network(*inputs), (B, d).

    Args:
        inputs: tensors with the batch first.   error: e, (B, d).
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
