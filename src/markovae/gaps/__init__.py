"""How far a bound of L levels lies above the truth: closed laws, and the same gaps measured by quadrature."""

from markovae.gaps.laws import ByVariance, gaussian_exact, gaussian_levels
from markovae.gaps.levels import gaps, measured_nats, spread, truth
from markovae.gaps.steps import step_divergences, step_slopes

__all__ = [
    "ByVariance",
    "gaps",
    "gaussian_exact",
    "gaussian_levels",
    "measured_nats",
    "spread",
    "step_divergences",
    "step_slopes",
    "truth",
]
