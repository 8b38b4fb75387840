"""Sampling: one loop, many steppers; guidance, grids and control."""

from markovae.sampling.conditions import condition_for, num_classes, prompt_condition
from markovae.sampling.denoiser import Clipped, Denoiser, DynamicallyClipped
from markovae.sampling.draw import TEXT_GUIDANCE, batches_of, draw_batches, sample, to_images, walk
from markovae.sampling.grid import explicit_grid, partial_grid, quadratic_grid, rho_grid, sampling_grid, uniform_grid
from markovae.sampling.guidance import Guidance, Guided, Instead, Interval, Unconditional, guided
from markovae.sampling.loop import trajectory
from markovae.sampling.optimal import optimal_grid
from markovae.sampling.planning import DEFAULT_SAMPLER, SAMPLERS, SPACINGS, THRESHOLDS, Plan, plan
from markovae.sampling.steppers import (
    DDIM,
    AdamsBashforth,
    Ancestral,
    Corrector,
    DPMSolverPP1,
    DPMSolverPP2M,
    DPMSolverPP2S,
    DPMSolverPP3M,
    DPMSolverPP3S,
    Euler,
    Heun,
    Langevin,
    SDEDPMSolverPP2M,
    State,
    Stepper,
    UniC,
)
from markovae.sampling.tuning import Tuned, tuned

__all__ = [
    "DDIM",
    "DEFAULT_SAMPLER",
    "SAMPLERS",
    "SPACINGS",
    "TEXT_GUIDANCE",
    "THRESHOLDS",
    "AdamsBashforth",
    "Ancestral",
    "Clipped",
    "Corrector",
    "DPMSolverPP1",
    "DPMSolverPP2M",
    "DPMSolverPP2S",
    "DPMSolverPP3M",
    "DPMSolverPP3S",
    "Denoiser",
    "DynamicallyClipped",
    "Euler",
    "Guidance",
    "Guided",
    "Heun",
    "Instead",
    "Interval",
    "Langevin",
    "Plan",
    "SDEDPMSolverPP2M",
    "State",
    "Stepper",
    "Tuned",
    "Unconditional",
    "UniC",
    "batches_of",
    "condition_for",
    "draw_batches",
    "explicit_grid",
    "guided",
    "num_classes",
    "optimal_grid",
    "partial_grid",
    "plan",
    "prompt_condition",
    "quadratic_grid",
    "rho_grid",
    "sample",
    "sampling_grid",
    "to_images",
    "trajectory",
    "tuned",
    "uniform_grid",
    "walk",
]
