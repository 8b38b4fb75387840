"""The variance of P_pri(z_{ℓ−1} | z_ℓ); its mean is the posterior mean at x̂.

Only this room knows whether the network's output carries more than x̂ (a head for the variance, or its Jacobian).
"""

from markovae.reverse.base import IndependentVariance, PosteriorVariance, ReverseVariance, StepVariance
from markovae.reverse.derivatives import MAX_DIMS, jacobian, traces
from markovae.reverse.fitted import DiagonalVariance, ErrorTable, IsotropicVariance
from markovae.reverse.full import FullVariance
from markovae.reverse.learned import LearnedVariance

__all__ = [
    "MAX_DIMS",
    "DiagonalVariance",
    "ErrorTable",
    "FullVariance",
    "IndependentVariance",
    "IsotropicVariance",
    "LearnedVariance",
    "PosteriorVariance",
    "ReverseVariance",
    "StepVariance",
    "jacobian",
    "traces",
]
