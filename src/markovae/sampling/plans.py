"""From a sampler's name and a number of network calls to its steps and its grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.sampling.denoiser import Clipped, Denoiser, DynamicallyClipped
from markovae.sampling.grids import nearest_levels, quadratic_grid, rho_grid, sampling_grid, uniform_grid
from markovae.sampling.samplers import (
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
    Stepper,
    UniC,
)

_SOLVERS: dict[str, Callable[[], Stepper]] = {
    "dpmpp2m": DPMSolverPP2M,
    "ddim": DDIM,
    "euler": Euler,
    "heun": Heun,
    "dpmpp1": DPMSolverPP1,
    "dpmpp3m": DPMSolverPP3M,
    "dpmpp2s": DPMSolverPP2S,
    "dpmpp3s": DPMSolverPP3S,
    "sde-dpmpp2m": SDEDPMSolverPP2M,
    "unipc2": DPMSolverPP2M,  # UniP-2 with the paper's ρ = ½
    "unipc3": partial(AdamsBashforth, 3),
    "deis2": partial(AdamsBashforth, 2),
    "deis3": partial(AdamsBashforth, 3),
    "pc": DDIM,
}
_CORRECTORS: dict[str, Callable[[], Corrector]] = {
    "unipc2": partial(UniC, 2),
    "unipc3": partial(UniC, 3),
    "pc": Langevin,
}
SAMPLERS = (*_SOLVERS, "ancestral")
DEFAULT_SAMPLER = "sde-dpmpp2m"
"""Its fresh noise lets a network mend what an earlier step got wrong, which keeps flat areas flat."""
SPACINGS = ("uniform", "karras", "quadratic", "levels")
_OWN_SPACING = {"ancestral": "levels", "euler": "karras", "heun": "karras", "sde-dpmpp2m": "karras"}
THRESHOLDS: dict[str, Callable[[Denoiser], Denoiser]] = {"static": Clipped, "dynamic": DynamicallyClipped}
NEAREST, FARTHEST = 13.3, -10.0
FEW, FEW_NEAREST, NEARER = 5, 4.0, 0.3
FEW_DRAWN, FEW_DRAWN_NEAREST, DRAWN_NEARER = 10, 9.0, 0.43
FEW_FARTHEST, FARTHER = -8.0, 0.4


@dataclass(frozen=True)
class Plan:
    """A sampler and the log-SNRs it visits.

    Args:
        stepper: one step of the sampler.   grid: λ = ∞ first, then decreasing, (K+1,), float64.
        corrector: applied after each call but the first, or None.
        threshold: what keeps x̂ within the pixels' range, `Clipped` or `DynamicallyClipped`; None leaves x̂ as it is.
    """

    stepper: Stepper
    grid: Tensor
    corrector: Corrector | None = None
    threshold: Callable[[Denoiser], Denoiser] | None = None

    @property
    def draws(self) -> bool:
        """Whether the walk draws noise of its own on its way."""
        return self.stepper.draws or (self.corrector is not None and self.corrector.draws)

    @property
    def nfe(self) -> int:
        """Calls of the denoiser a sample: one at each log-SNR, and those within the steps and corrections."""
        within = self.stepper.evaluations_per_step - 1 + (self.corrector.calls if self.corrector else 0)
        return len(self.grid) - 1 + (len(self.grid) - 2) * within


def plan(model: Diffusion, sampler: str, steps: int | None, spacing: str | None = None) -> Plan:
    """The plan for a sampler's name and a number of network calls (None: 20, or all L levels for `ancestral`).

    `steps` counts network calls, so that samplers compare at equal cost: one that takes c calls a step makes
    ⌊(steps−1)/c⌋ steps, and its last call gives z_0.

    Spacings: uniform in log-SNR (the solvers' default) and karras (ρ = 7; the default of sde-dpmpp2m, euler and heun),
    both between the log-SNRs of `ends`; quadratic in the schedule's u; levels, even strides of the schedule's own (the
    default of `ancestral`). `optimal_grid` and `tuned` make grids that take work.

    Raises:
        UserError: for an unknown name, steps < 1, or more ancestral steps than levels.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"sampler {sampler!r} is unknown: take one of {', '.join(SAMPLERS)}")
    levels = model.num_levels
    ancestral = sampler == "ancestral"
    steps = (levels if ancestral else min(20, levels)) if steps is None else steps
    if not hasattr(steps, "__index__"):
        raise UserError(f"steps={steps!r} must be a whole number: it counts the network's calls")
    if steps < 1:
        raise UserError(f"steps={steps} must be at least 1: it counts the network's calls")
    if ancestral and steps > levels:
        raise UserError(f"steps={steps} exceeds the model's {levels} levels: ancestral sampling takes at most those")
    stepper = Ancestral(model.reverse) if ancestral else _SOLVERS[sampler]()
    corrector = _CORRECTORS[sampler]() if sampler in _CORRECTORS else None
    calls = stepper.evaluations_per_step + (corrector.calls if corrector else 0)
    # Of pc the corrector draws and the steps do not: it does better on the range of those that draw nothing.
    grid = make_grid(model, spacing or default_spacing(sampler), (steps - 1) // calls + 1, stepper.draws)
    return Plan(stepper, grid, corrector)


def default_spacing(sampler: str) -> str:
    """The spacing a sampler takes where none is named."""
    return _OWN_SPACING.get(sampler, "uniform")


def make_grid(model: Diffusion, spacing: str, count: int, draws: bool = False) -> Tensor:
    """`count` log-SNRs of the model's range in this spacing, after λ = ∞, (count+1,).

    Args:
        draws: whether the sampler draws noise at each step.
    Raises:
        UserError: for an unknown spacing.
    """
    if spacing not in SPACINGS:
        raise UserError(f"spacing {spacing!r} is unknown: take one of {', '.join(SPACINGS)}")
    if spacing == "levels":
        grid = sampling_grid(model.schedule, count)
    elif spacing == "quadratic":
        grid = quadratic_grid(model.schedule, count)
    else:
        grid = (uniform_grid if spacing == "uniform" else rho_grid)(*logsnr_range(model, count, draws), count)
    return where_defined(model, grid)


def where_defined(model: Diffusion, grid: Tensor) -> Tensor:
    """The grid; for a target that exists only on the levels it was trained on, each log-SNR moved to one of those.

    Raises:
        UserError: for more steps than such a model has levels.
    """
    if not model.target.needs_neighbour:
        return grid
    levels = model.training_schedule.logsnr[1:].detach().cpu()
    if len(grid) - 1 > len(levels):
        raise UserError(
            f"{len(grid) - 1} steps exceed the {len(levels)} levels that target {model.target.name!r} is defined on: "
            "take fewer"
        )
    return nearest_levels(grid, levels)


def logsnr_range(model: Diffusion, count: int | None = None, draws: bool = False) -> tuple[float, float]:
    """The log-SNRs nearest the data and nearest the noise that `count` calls are spread between.

    Without a count the model's range, level 1 to level L, cut to 13.3…−10: beyond, noise of a sixth of an 8-bit grey
    level is left, or a signal of 0.7 %. Few calls are better spent where pictures are decided: up to 5 are spread over
    4…−8, and each further one widens that by 0.3 and 0.4, so that the whole range is reached at 37 and walks converge
    at their solver's order. A sampler that draws noise has to take it out again: 9…−8 up to 10 calls, whole at 20.

    Found by the distance to a fine walk, with networks and with exact denoisers (`test_planning`), and by the kernel
    distance of pictures (docs/results.md).
    """
    logsnr = model.schedule.logsnr
    last = max(float(logsnr[-1]), FARTHEST)
    first = max(min(float(logsnr[1]), NEAREST), last + 1e-6)
    if count is None:
        return first, last
    few, near, step = (FEW_DRAWN, FEW_DRAWN_NEAREST, DRAWN_NEARER) if draws else (FEW, FEW_NEAREST, NEARER)
    more = max(count - few, 0)
    near, far = min(first, near + step * more), max(last, FEW_FARTHEST - FARTHER * more)
    return (near, far) if near > far else (first, last)
