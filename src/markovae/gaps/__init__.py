"""How far a bound of L levels lies above the truth: closed laws, and the same gaps measured by quadrature."""

from markovae.gaps.laws import ByVariance, gaussian_exact, gaussian_levels
from markovae.gaps.levels import measured, measured_nats, predicted, spread, truth
from markovae.gaps.steps import leading_divergences, step_divergences, step_slopes

__all__ = [
    "ByVariance",
    "gaussian_exact",
    "gaussian_levels",
    "leading_divergences",
    "measured",
    "measured_nats",
    "predicted",
    "spread",
    "step_divergences",
    "step_slopes",
    "truth",
]
