"""Data whose truth is known: entropies, denoisers, posteriors and exact reverse chains. Oracles for everything else."""

from markovae.toys.chain import ExactChain
from markovae.toys.discrete import DigitMixture
from markovae.toys.images import pink_gaussian, pink_pair
from markovae.toys.law import Denoiser, Law, Toy
from markovae.toys.mixture import Mixture
from markovae.toys.modes import Modes

__all__ = [
    "Denoiser",
    "DigitMixture",
    "ExactChain",
    "Law",
    "Mixture",
    "Modes",
    "Toy",
    "pink_gaussian",
    "pink_pair",
]
