"""Control: edits, inverse problems and round trips with one trained prior."""

from markovae.sampling.control.editor import Editor
from markovae.sampling.control.moments import (
    FullCovariance,
    IsotropicCovariance,
    MomentMatched,
    Observation,
    PosteriorCovariance,
)
from markovae.sampling.control.operators import Blur, BoxDown, Grey, Known, LinearOperator
from markovae.sampling.control.repaint import RePaint

__all__ = [
    "Blur",
    "BoxDown",
    "Editor",
    "FullCovariance",
    "Grey",
    "IsotropicCovariance",
    "Known",
    "LinearOperator",
    "MomentMatched",
    "Observation",
    "PosteriorCovariance",
    "RePaint",
]
