"""Sampling: one loop, many steppers."""

from markovae.sampling.draw import SAMPLERS, Plan, draw_batches, plan, sample, to_images, walk
from markovae.sampling.grid import rho_grid, sampling_grid
from markovae.sampling.loop import trajectory
from markovae.sampling.steppers import DDIM, Ancestral, DPMSolverPP2M, State, Stepper

__all__ = [
    "DDIM",
    "SAMPLERS",
    "Ancestral",
    "DPMSolverPP2M",
    "Plan",
    "State",
    "Stepper",
    "draw_batches",
    "plan",
    "rho_grid",
    "sample",
    "sampling_grid",
    "to_images",
    "trajectory",
    "walk",
]
