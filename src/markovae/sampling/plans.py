"""From a sampler's name and a number of network evaluations to its steps and its grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from markovae.diffusion.cascade import Cascade, Model, stages_of
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.networks.conditioning import Conditioning
from markovae.sampling import samplers
from markovae.sampling.denoiser import Clipped, Denoiser, DynamicallyClipped
from markovae.sampling.grids import nearest_levels, rho_grid, sampling_grid, student_grid, uniform_grid
from markovae.sampling.guidance import Guidance
from markovae.sampling.sampler_table import DEFAULT_SAMPLER, SAMPLERS, SEARCHED, SPACINGS
from markovae.sampling.samplers import DDIM, Ancestral, Corrector, Stepper
from markovae.strict_json import finite
from markovae.synonyms import suggestion

_WRAPPERS: dict[str, Callable[[Denoiser], Denoiser]] = {"static": Clipped, "dynamic": DynamicallyClipped}
NEAREST, FARTHEST = 13.3, -10.0
FEW, FEW_NEAREST, NEARER = 5, 4.0, 0.3
FEW_DRAWN, FEW_DRAWN_NEAREST, DRAWN_NEARER = 10, 9.0, 0.43
FEW_FARTHEST, FARTHER = -8.0, 0.4


@dataclass(frozen=True)
class Plan:
    """A sampler and the log-SNRs it visits.

    Args:
        stepper: one step of the sampler.
        grid: λ = ∞ first, then decreasing, (K+1,), float64.
        corrector: applied after each evaluation but the first, or None.
        threshold: what keeps x̂ within the pixels' range, `Clipped` or `DynamicallyClipped`; None leaves x̂ as it is.
        sampler, spacing: their names, where `plan` made it.
        details: of a cascade's detail stages, coarse to fine; this plan itself is of the base.
    """

    stepper: Stepper
    grid: Tensor
    corrector: Corrector | None = None
    threshold: Callable[[Denoiser], Denoiser] | None = None
    sampler: str | None = None
    spacing: str | None = None
    details: tuple[Plan, ...] = ()

    @property
    def draws(self) -> bool:
        """Whether it draws noise on the way."""
        return self.stepper.draws or (self.corrector is not None and self.corrector.draws)

    @property
    def nfe(self) -> int:
        """Network evaluations a sample: one at each log-SNR, and those within the steps and corrections."""
        within = self.stepper.evaluations_per_step - 1 + (self.corrector.calls if self.corrector else 0)
        own = len(self.grid) - 1 + (len(self.grid) - 2) * within
        return own + sum(stage.nfe for stage in self.details)

    @property
    def num_states(self) -> int:
        """States of a trajectory; of a cascade, those of its stages and the whole image."""
        details = sum(len(stage.grid) for stage in self.details)
        return len(self.grid) + details + bool(self.details)


def plan(
    model: Model,
    sampler: str,
    steps: int | None = None,
    spacing: str | None = None,
    *,
    threshold: str | None = None,
    condition: Conditioning | None = None,
    guidance: Guidance | None = None,
) -> Plan:
    """The plan of a sampler's name and a number of network evaluations.

    `steps` counts network evaluations, so that samplers compare at equal cost: one that takes c of them a step makes
    ⌊(steps−1)/c⌋ steps, and the last evaluation gives z_0.

    Args:
        sampler: one of SAMPLERS.
        spacing: one of SPACINGS; None is the sampler's own.
        steps: None is 20, or all L levels for `ancestral`. A cascade shares them out: six parts for the base, one for
            each detail stage; None is 48 for the base and 8 for each of the others.
        threshold: static or dynamic; None leaves x̂ as it is.
        condition, guidance: what the spacing `tuned` is tuned for; condition of any number of samples.
    Raises:
        UserError: for an unknown name, steps < 1, or more ancestral steps than levels.
    """
    _require_known("sampler", sampler, SAMPLERS)
    _require_known("spacing", spacing or SAMPLERS[sampler].spacing, SPACINGS)
    if threshold is not None:
        _require_known("threshold", threshold, _WRAPPERS)
    if isinstance(model, Cascade):
        return _cascade_plan(model, sampler, steps, spacing, threshold)
    if model.calls is not None:
        return _student_plan(model, model.calls, sampler, steps, spacing, threshold)
    entry, levels, ancestral = SAMPLERS[sampler], model.num_levels, sampler == "ancestral"
    steps = (levels if ancestral else default_steps(model)) if steps is None else steps
    if not hasattr(steps, "__index__"):
        raise UserError(f"steps={steps!r} must be a whole number: it counts network evaluations")
    if steps < 1:
        raise UserError(f"steps={steps} must be at least 1: it counts network evaluations")
    if ancestral and steps > levels:
        raise UserError(f"steps={steps} exceeds the model's {levels} levels: ancestral sampling takes at most those")
    order = () if entry.solver_order is None else (entry.solver_order,)
    stepper = Ancestral(model.reverse) if ancestral else getattr(samplers, entry.stepper)(*order)
    order = () if entry.corrector_order is None else (entry.corrector_order,)
    corrector = None if entry.corrector is None else getattr(samplers, entry.corrector)(*order)
    spacing = spacing or entry.spacing
    start = entry.spacing if spacing in SEARCHED else spacing
    # Of pc the corrector draws and the steps do not: it does better on the range of those that draw nothing.
    grid = make_grid(model, start, (steps - 1) // entry.nfe + 1, stepper.draws)
    wrapper = None if threshold is None else _WRAPPERS[threshold]
    made = Plan(stepper, grid, corrector, wrapper, sampler, spacing)
    if spacing in SEARCHED:
        from markovae.sampling.tuning import searched_grid  # which samples with plans of its own

        made = replace(made, grid=searched_grid(model, made, condition, guidance or Guidance()))
    return made


def _cascade_plan(model: Cascade, sampler: str, steps: int | None, spacing: str | None, threshold: str | None) -> Plan:
    """The plans of the stages, as one.

    The default sampler draws details at even steps of log-SNR: crowded near the data, as its own spacing has them,
    8 evaluations leave so much of its noise that Gaussian details are up to a quarter too strong.
    """
    if (spacing or SAMPLERS[sampler].spacing) in SEARCHED:
        raise UserError(f"spacing {spacing!r} is searched for models of one stage: a cascade takes uniform or karras")
    stages = stages_of(model)
    shares: list[int | None] = [None] * len(stages)
    if steps is None and sampler != "ancestral":
        steps = default_steps(model)
    if steps is not None:
        shares = [*split_steps(steps, model.octaves)]
    base = plan(stages[0], sampler, shares[0], spacing, threshold=threshold)
    if sampler == DEFAULT_SAMPLER:
        spacing = spacing or "uniform"
    pairs = zip(stages[1:], shares[1:], strict=True)
    return replace(base, details=tuple(plan(stage, sampler, share, spacing) for stage, share in pairs))


STEPS = 20
# A step of the base costs little beside one of the larger images, and what it gets wrong no detail stage mends.
BASE_PARTS, DETAIL_STEPS = 6, 8


def default_steps(model: Model) -> int:
    """Network evaluations a sample, where nobody names them: 20, or of a cascade 48 and 8 for each detail stage."""
    if isinstance(model, Diffusion) and model.calls is not None:
        return model.calls
    base, *details = (stage.num_levels for stage in stages_of(model))
    if not details:
        return min(STEPS, base)
    return min(BASE_PARTS * DETAIL_STEPS, base) + sum(min(DETAIL_STEPS, levels) for levels in details)


def split_steps(steps: int, octaves: int) -> list[int]:
    """Network evaluations of each stage, the base first: six parts for the base, one for each detail stage.

    Raises:
        UserError: for fewer than there are stages.
    """
    if not hasattr(steps, "__index__"):
        raise UserError(f"steps={steps!r} must be a whole number: it counts network evaluations")
    if steps < octaves + 1:
        raise UserError(f"steps={steps} must be at least {octaves + 1}: a cascade evaluates each of its stages")
    detail = max(1, round(steps / (octaves + BASE_PARTS))) if octaves else 0
    return [steps - octaves * detail, *(detail,) * octaves]


def _student_plan(
    model: Diffusion, calls: int, sampler: str, steps: int | None, spacing: str | None, threshold: str | None
) -> Plan:
    """The deterministic steps of a student, at the log-SNRs it was distilled for.

    Raises:
        UserError: for another number of evaluations, another sampler, or a spacing.
    """
    if steps is not None and steps != calls:
        raise UserError(f"steps={steps}: this student was distilled for {calls}: leave --steps out, or distill another")
    if sampler not in (DEFAULT_SAMPLER, "ddim") or spacing is not None:
        raise UserError(
            f"this student was distilled for {calls} steps of its own and takes no other sampler or spacing: leave "
            "--sampler and --spacing out"
        )
    wrapper = None if threshold is None else _WRAPPERS[threshold]
    return Plan(DDIM(), student_grid(model.schedule, calls), None, wrapper, "ddim", "student")


def describe_plan(steps_plan: Plan, guidance: Guidance) -> dict[str, Any]:
    """What a record says of a plan and its guidance: sampler, spacing, threshold, guidance and its interval.

    An open end of the interval is None.
    """
    interval = guidance.interval
    words = {wrapper: name for name, wrapper in _WRAPPERS.items()}
    return {
        "sampler": steps_plan.sampler,
        "spacing": steps_plan.spacing,
        "threshold": None if steps_plan.threshold is None else words.get(steps_plan.threshold, "custom"),
        "guidance": guidance.weight,
        "guidance_interval": None if interval is None else [finite(interval.low), finite(interval.high)],
    }


def make_grid(model: Diffusion, spacing: str, count: int, draws: bool = False) -> Tensor:
    """`count` log-SNRs of the model's range, after λ = ∞, (count+1,).

    Args:
        spacing: uniform, karras or levels.
        draws: whether the sampler draws noise at each step.
    """
    if spacing == "levels":
        grid = sampling_grid(model.schedule, count)
    else:
        grid = (uniform_grid if spacing == "uniform" else rho_grid)(*logsnr_range(model, count, draws), count)
    return where_defined(model, grid)


def _require_known(what: str, word: str, known: Iterable[str]) -> None:
    known = list(known)
    if word not in known:
        hint = suggestion(str(word), known)
        raise UserError(f"{what} {word!r} is unknown: take one of {', '.join(known)}{hint}")


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
    """The log-SNRs nearest the data and nearest the noise that `count` evaluations are spread between.

    Without a count the model's range, level 1 to level L, cut to 13.3…−10: beyond, noise of a sixth of an 8-bit grey
    level is left, or a signal of 0.7 %. Few evaluations are better spent where pictures are decided: up to 5 are
    spread over 4…−8, and each further one widens that by 0.3 and 0.4, so that the whole range is reached at 37 and
    solvers converge at their order. A sampler that draws noise has to take it out again: 9…−8 up to 10 evaluations,
    whole at 20.

    Found by the distance to a fine trajectory, with networks and with exact denoisers (`test_planning`), and by the
    kernel distance of pictures (docs/results.md).
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
