"""scheduler_config.json of diffusers' DDPMScheduler: the grid, the target and the variance, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from markovae.diffusion.forward import noise_scale, step_variance
from markovae.diffusion.schedule import NoiseSchedule
from markovae.diffusion.schedule_config import ScheduleConfig
from markovae.diffusion.target_config import TargetConfig
from markovae.errors import UserError
from markovae.interop.fields import Fields
from markovae.strict_json import shown

MAX_STEPS = 10_000
PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "velocity"}
VARIANCES = {"fixed_small": "posterior", "fixed_large": "step", "learned_range": "learned"}
# What belongs to a way of sampling, which is chosen here when one samples: of these two classes, and of others that
# were converted to them (`from_config` keeps what the other class was told; diffusers does not read it either).
SAMPLING = (
    *("timestep_spacing", "steps_offset", "set_alpha_to_one", "skip_prk_steps", "timestep_type", "timestep_scaling"),
    *("dynamic_thresholding_ratio", "sample_max_value", "original_inference_steps", "noise_sampler_seed"),
    *("algorithm_type", "solver_order", "solver_type", "solver_p", "predict_x0", "predictor_order", "corrector_order"),
    *("disable_corrector", "lower_order_final", "euler_at_final", "final_sigmas_type", "lambda_min_clipped"),
    *("interpolation_type", "sigma_min", "sigma_max", "rho", "flow_shift", "time_shift_type", "shift_terminal"),
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_dynamic_shifting"),
)
BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}


@dataclass(frozen=True)
class Rules:
    """What a scheduler says about a model.

    Args:
        schedule: the grid.
        target: what the network's output means, the reverse variance, the decoder and the clip.
    """

    schedule: ScheduleConfig
    target: TargetConfig


def rules_from(table: Mapping[str, Any]) -> Rules:
    """The rules that a scheduler_config.json tells; what is left out has diffusers' defaults.

    The decoder, of which diffusers has none, is Ho et al.'s, or with a learned variance Nichol & Dhariwal's.

    Raises:
        UserError: for another class than DDPMScheduler or DDIMScheduler, or a rule that has no place here.
    """
    fields = Fields(table, "scheduler_config.json")
    kind = fields.take_class(("DDPMScheduler", "DDIMScheduler"))
    schedule = _schedule(fields)
    former = fields.take("predict_epsilon", None)
    default = "sample" if former is False else "epsilon"
    prediction = fields.take_one_of("prediction_type", default, list(PREDICTIONS))
    variance = _variance(fields, kind)
    if fields.take_flag("thresholding", False):
        raise UserError(
            "scheduler_config.json has thresholding=True: a threshold that depends on each image is no part of a model "
            "whose bound can be measured; set it to false, and sample with --threshold"
        )
    limit = fields.take_number("clip_sample_range", 1.0, 1e-6, 1e6)
    clip = limit if fields.take_flag("clip_sample", True) else None
    fields.leave(*SAMPLING)
    fields.end()
    decoder = "learned" if variance == "learned" else "ho_small"
    target = TargetConfig(name=PREDICTIONS[prediction], reverse=variance, decoder=decoder, pixels="ends", clip=clip)
    return Rules(schedule, target)


def rules_to(schedule: ScheduleConfig, made: NoiseSchedule, target: TargetConfig) -> dict[str, Any]:
    """scheduler_config.json of a model; a grid that diffusers has no name for becomes trained betas.

    Args:
        schedule: as it was told.
        made: the grid itself.
    Raises:
        UserError: for a target, a variance or pixels that diffusers cannot express, with the reason.
    """
    predictions, variances = ({ours: theirs for theirs, ours in names.items()} for names in (PREDICTIONS, VARIANCES))
    if target.name not in predictions:
        raise UserError(
            f"target.name={target.name} cannot be expressed in diffusers, whose networks predict the noise, the data "
            "or the velocity: train with one of those"
        )
    if target.reverse not in variances:
        raise UserError(
            f"target.reverse={target.reverse} cannot be expressed in diffusers, whose variance is that of the "
            "posterior, of the step, or learned: set one of those"
        )
    if bool((_float32_alphas(made) == 1).any()):
        raise UserError(
            f"{made.num_levels:,} levels that begin at log-SNR {float(made.logsnr[1]):.1f} have steps that diffusers' "
            "float32 rounds to none: train with fewer levels, or with a schedule.start of 10 or less"
        )
    if target.pixels != "ends":
        raise UserError(
            f"target.pixels={target.pixels} cannot be expressed in diffusers, which puts the first grey value at -1 "
            "and the last at 1: train with target.pixels=ends"
        )
    return {
        "_class_name": "DDPMScheduler",
        **_betas(schedule, made),
        "clip_sample": target.clip is not None,
        "clip_sample_range": 1.0 if target.clip is None else target.clip,
        "dynamic_thresholding_ratio": 0.995,
        "num_train_timesteps": made.num_levels,
        "prediction_type": predictions[target.name],
        "rescale_betas_zero_snr": schedule.zero_terminal,
        "sample_max_value": 1.0,
        "steps_offset": 0,
        "thresholding": False,
        # Fewer steps than the grid has must begin at its last level where that alone is without signal.
        "timestep_spacing": "trailing" if schedule.zero_terminal else "leading",
        "variance_type": variances[target.reverse],
    }


def _float32_alphas(made: NoiseSchedule) -> Tensor:
    """1 − β of each step in float32, as diffusers has them, (L,)."""
    logsnr = made.logsnr.detach()
    return 1 - step_variance(logsnr[:-1], logsnr[1:]).float()


def rounding_warning(made: NoiseSchedule) -> str | None:
    """What diffusers' float32 makes of a grid that begins very near the data, in a sentence; None where it is little.

    It keeps β, 1 − β and ā in float32, which has steps of 6e-8 below 1, and forms 1 − ā from them.
    """
    logsnr, theirs = made.logsnr.detach(), 1 - _float32_alphas(made).cumprod(0)
    apart = (theirs.double() / noise_scale(logsnr[1:]) ** 2 - 1).abs()
    level, share = int(apart.argmax()) + 1, float(apart.max())
    if share < 2e-3:
        return None
    return (
        f"warning: level 1 has log-SNR {float(logsnr[1]):.1f}, and diffusers, which keeps the signal in float32, takes "
        f"the variance of level {level} to be {share:.1%} more or less than it is: its images differ a little from "
        "those here; train with schedule.start=10 or less, or schedule.kind=linear, to have the same ones"
    )


def _schedule(fields: Fields) -> ScheduleConfig:
    steps = fields.take_whole("num_train_timesteps", 1000, 2, MAX_STEPS)
    start = fields.take_number("beta_start", 0.0001, 0.0, 1.0)
    end = fields.take_number("beta_end", 0.02, 0.0, 1.0)
    name = fields.take("beta_schedule", "linear")
    betas = fields.take_numbers("trained_betas", MAX_STEPS)
    zero = fields.take_flag("rescale_betas_zero_snr", False)
    if betas is not None:
        if len(betas) != steps:
            raise UserError(
                f"scheduler_config.json has {len(betas):,} trained_betas and num_train_timesteps={steps:,}: they must "
                "agree"
            )
        return ScheduleConfig("betas", betas=tuple(betas), zero_terminal=zero)
    if not isinstance(name, str) or name not in BETAS:
        raise UserError(
            f"scheduler_config.json has beta_schedule={shown(name)}: {', '.join(BETAS)} can be read; write the betas "
            "of another one as trained_betas"
        )
    if name == "squaredcos_cap_v2":
        return ScheduleConfig("cosine", num_levels=steps, zero_terminal=zero)
    return ScheduleConfig(BETAS[name], num_levels=steps, beta_start=start, beta_end=end, zero_terminal=zero)


def _variance(fields: Fields, kind: str) -> str:
    if kind == "DDIMScheduler":
        fields.leave("variance_type")
        return "posterior"  # the one that its own rule has with fresh noise, η = 1
    name = fields.take("variance_type", "fixed_small")
    if name == "fixed_large_log":
        raise UserError(
            "scheduler_config.json has variance_type='fixed_large_log', with which diffusers itself takes the root of "
            "a negative number: write fixed_large"
        )
    # "fixed_small_log" is the same variance, kept as its logarithm.
    name = "fixed_small" if name == "fixed_small_log" else name
    if not isinstance(name, str) or name not in VARIANCES:
        raise UserError(f"scheduler_config.json has variance_type={shown(name)}: {', '.join(VARIANCES)} can be read")
    return VARIANCES[name]


def _betas(schedule: ScheduleConfig, made: NoiseSchedule) -> dict[str, Any]:
    plain = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": None}
    if schedule.kind == "cosine":
        return {**plain, "beta_schedule": "squaredcos_cap_v2"}
    if schedule.kind in ("linear", "scaled_linear"):
        # Ho et al.'s ends belong to 1,000 levels, and are scaled for another number.
        scale = 1000 / made.num_levels
        start = 0.0001 * scale if schedule.beta_start is None else schedule.beta_start
        end = 0.02 * scale if schedule.beta_end is None else schedule.beta_end
        return {**plain, "beta_schedule": schedule.kind, "beta_start": start, "beta_end": end}
    if schedule.kind == "betas":
        return {**plain, "trained_betas": list(schedule.betas)}
    logsnr = made.logsnr.detach()
    return {**plain, "trained_betas": step_variance(logsnr[:-1], logsnr[1:]).tolist()}
