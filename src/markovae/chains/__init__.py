"""Other Markovian VAEs than diffusion: learned, categorical and linear-Gaussian chains, to prove the object general."""

from markovae.chains.categorical import (
    Categorical,
    CategoricalChain,
    absorbing_transition,
    categorical_entropy,
    exact_categorical,
    uniform_transition,
)
from markovae.chains.expected import expected_e1, expected_e6, path_kl
from markovae.chains.hierarchical import (
    DigitStep,
    FixedStep,
    HierarchicalVAE,
    LearnedStep,
    Step,
    train_through_e1,
)
from markovae.chains.linear import LinearGaussianChain, LinearStep, Moments, exact_linear

__all__ = [
    "Categorical",
    "CategoricalChain",
    "DigitStep",
    "FixedStep",
    "HierarchicalVAE",
    "LearnedStep",
    "LinearGaussianChain",
    "LinearStep",
    "Moments",
    "Step",
    "absorbing_transition",
    "categorical_entropy",
    "exact_categorical",
    "exact_linear",
    "expected_e1",
    "expected_e6",
    "path_kl",
    "train_through_e1",
    "uniform_transition",
]
