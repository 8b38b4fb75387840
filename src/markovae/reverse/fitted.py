r"""Variances fitted to the network's errors on training images: the best that does not look at z_ℓ.

Of all variances v common to a level's examples, Σ E KL is least at v = β̃_ℓ + c_x² e_ℓ = β̃_ℓ (1 + Δγ e_ℓ), with
e_ℓ = E(x − x̂)² at log-SNR λ_ℓ and Δγ = γ_{ℓ−1} − γ_ℓ. The error belongs to one log-SNR, not to a step: a table of
it serves every sub-grid, refitted in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, final

import torch
from torch import Tensor, nn

from markovae.errors import UserError
from markovae.forward import posterior_coefficients, posterior_variance
from markovae.gaussian import expand
from markovae.reverse.base import IndependentVariance
from markovae.schedule import interpolate

# An exactly known pixel has error 0 and v = β̃; the logarithm needs a number, and this one is 0 beside any β̃.
_TINY = 1e-30


@final
class ErrorTable(nn.Module):
    """E(x − x̂)² at some log-SNRs, ln-interpolated between them; buffers, so that it is saved with the model.

    Args:
        knots: how many log-SNRs, K ≥ 2.   shape: of one error: () for one a level, D for one a coordinate.
    """

    logsnr: Tensor
    error: Tensor

    def __init__(self, knots: int, shape: Sequence[int] = ()) -> None:
        super().__init__()
        if knots < 2:
            raise ValueError(f"knots={knots} must be at least 2: errors are interpolated between log-SNRs")
        empty = torch.full((knots, *shape), torch.nan, dtype=torch.float64)
        self.register_buffer("logsnr", torch.full((knots,), torch.nan, dtype=torch.float64))
        self.register_buffer("error", empty)

    @property
    def fitted(self) -> bool:
        """Whether it holds errors yet."""
        return not bool(self.logsnr.isnan().any())

    def fit(self, logsnr: Tensor, error: Tensor) -> Self:
        """Take the errors, (K, *shape), at the decreasing log-SNRs, (K,), and return self.

        Raises:
            ValueError: for another number or shape than declared.   UserError: as `check_errors`.
        """
        if logsnr.shape != self.logsnr.shape or error.shape != self.error.shape:
            raise ValueError(
                f"errors of shape {tuple(error.shape)} at {len(logsnr)} log-SNRs: this table takes "
                f"{tuple(self.error.shape)}"
            )
        check_errors(logsnr, error)
        self.logsnr.copy_(logsnr)
        self.error.copy_(error)
        return self

    def forget(self) -> None:
        """Hold no errors, as before `fit`."""
        self.logsnr.fill_(torch.nan)
        self.error.fill_(torch.nan)

    def at(self, logsnr: Tensor) -> Tensor:
        """E(x − x̂)² at λ, shape of `logsnr` + shape of one error, float64.

        Raises:
            UserError: before `fit`.
        """
        if not self.fitted:
            raise UserError(
                "the reverse variance is not fitted yet: a run fits it with every held-out bound and at its end; "
                "fit it on training images with with_reverse"
            )
        knots = self.logsnr.to(logsnr.device)
        table = self.error.to(logsnr.device).clamp(min=_TINY).log()
        return interpolate(-logsnr, -knots, table).exp()


def check_errors(logsnr: Tensor, error: Tensor) -> None:
    """Check the numbers of an error table: errors, (K, *D), at log-SNRs, (K,).

    Raises:
        UserError: for log-SNRs that do not fall, or an error that is negative, NaN or Inf.
    """
    if not bool((logsnr[1:] < logsnr[:-1]).all()):
        raise UserError("the log-SNRs of an error table must fall from knot to knot")
    if not bool((error.isfinite() & (error >= 0)).all()):
        raise UserError("the network's squared errors must be finite and at least 0: its weights are too large")


def _optimal(error: Tensor, logsnr_prev: Tensor, logsnr: Tensor) -> Tensor:
    c_x = posterior_coefficients(logsnr_prev, logsnr)[1]
    floor = posterior_variance(logsnr_prev, logsnr)
    if logsnr.ndim:  # an example each: (B,) against (B, *D)
        c_x, floor = expand(c_x, error), expand(floor, error)
    return floor + c_x**2 * error


@final
class IsotropicVariance(IndependentVariance):
    r"""v_ℓ = β̃_ℓ + c_x² E‖x − x̂‖²/d: the best variance that is one number a level.

    Args:
        knots: size of the table of errors (see `ErrorTable`).
    Source: Bao et al. 2022 (Analytic-DPM), theorem 1, with the network's own error in place of the score's norm.
    """

    def __init__(self, knots: int = 65) -> None:
        super().__init__()
        self.errors = ErrorTable(knots)

    def variance(self, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None) -> Tensor:
        """β̃_ℓ + c_x² e_ℓ, shape of `logsnr`."""
        return _optimal(self.errors.at(logsnr), logsnr_prev, logsnr)


@final
class DiagonalVariance(IndependentVariance):
    r"""v_{ℓ,i} = β̃_ℓ + c_x² E(x_i − x̂_i)²: the best variance that is one number a level and coordinate.

    Args:
        shape: of one example, D.   knots: size of the table of errors (see `ErrorTable`).
    """

    def __init__(self, shape: Sequence[int], knots: int = 65) -> None:
        super().__init__()
        self.errors = ErrorTable(knots, shape)

    def variance(self, logsnr_prev: Tensor, logsnr: Tensor, head: Tensor | None) -> Tensor:
        """β̃_ℓ + c_x² e_{ℓ,i}, shape of `logsnr` + D; one level for the whole batch gives (1, *D)."""
        error = self.errors.at(logsnr)
        return _optimal(error if logsnr.ndim else error[None], logsnr_prev, logsnr)
