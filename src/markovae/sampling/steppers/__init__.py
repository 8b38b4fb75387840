"""The rules that samplers are made of, a family a file."""

from markovae.sampling.steppers.adams import AdamsBashforth
from markovae.sampling.steppers.ancestral import Ancestral
from markovae.sampling.steppers.base import Corrector, Look, State, Stepper
from markovae.sampling.steppers.ddim import DDIM
from markovae.sampling.steppers.dpm_multi import DPMSolverPP1, DPMSolverPP2M, DPMSolverPP3M, SDEDPMSolverPP2M
from markovae.sampling.steppers.dpm_single import DPMSolverPP2S, DPMSolverPP3S
from markovae.sampling.steppers.euler import Euler, Heun
from markovae.sampling.steppers.langevin import Langevin
from markovae.sampling.steppers.unipc import UniC

__all__ = [
    "DDIM",
    "AdamsBashforth",
    "Ancestral",
    "Corrector",
    "DPMSolverPP1",
    "DPMSolverPP2M",
    "DPMSolverPP2S",
    "DPMSolverPP3M",
    "DPMSolverPP3S",
    "Euler",
    "Heun",
    "Langevin",
    "Look",
    "SDEDPMSolverPP2M",
    "State",
    "Stepper",
    "UniC",
]
