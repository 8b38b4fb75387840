"""Training: `fit` yields its steps; nothing here writes files."""

from markovae.training.budget import Budget, rate_factor
from markovae.training.loop import fit
from markovae.training.step import NonFiniteError, Step
from markovae.training.trainer import Training

__all__ = ["Budget", "NonFiniteError", "Step", "Training", "fit", "rate_factor"]
