"""The options that choose a sampler, and the plan and the guidance they ask for."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from markovae.cli.options import one_of, positive, whole
from markovae.cli.prompts import weight_of
from markovae.errors import UserError
from markovae.log import log

if TYPE_CHECKING:
    from markovae.cli.running import Opened
    from markovae.sampling.guidance import Guidance
    from markovae.sampling.plans import Plan

SPACINGS = ("uniform", "karras", "quadratic", "levels", "optimal", "tuned")
THRESHOLDS = ("static", "dynamic")
HELP = """\
samplers:
  sde-dpmpp2m, the default: fresh noise at each step; ancestral, the model's own prior, the only one measured by
  the bound; without fresh noise dpmpp2m, ddim, euler, heun, dpmpp1, dpmpp3m, dpmpp2s, dpmpp3s, unipc2, unipc3,
  deis2, deis3; pc

spacings:
  uniform in log-SNR; karras, rho = 7; quadratic in the schedule's time; levels, even strides of the schedule's own;
  optimal, the levels of the least bound; tuned, to this run, against a fine walk (a minute at most). What optimal and
  tuned find is kept in the cache folder and used again.
"""


@dataclass(frozen=True)
class Chosen:
    """What the options ask for.

    Args:
        plan: sampler and grid.   guidance: how x̂ is pushed.   facts: what a picture says of both.
    """

    plan: Plan
    guidance: Guidance
    facts: dict[str, Any]


def add_sampler(parser: argparse.ArgumentParser) -> None:
    """--steps, --sampler, --spacing, --threshold, --guidance, --guidance-interval and --autoguide."""
    parser.add_argument(
        "--steps", metavar="N", type=whole(1), help="network calls an image (default: 20; ancestral: every level)"
    )
    parser.add_argument("--sampler", metavar="NAME", default="sde-dpmpp2m", help="see below (default: sde-dpmpp2m)")
    parser.add_argument(
        "--spacing", metavar="NAME", type=one_of(*SPACINGS), help="of the steps, see below (default: the sampler's own)"
    )
    parser.add_argument(
        "--guidance",
        metavar="W",
        type=positive,
        help="push towards the class or prompt; 1 is none (default: 1; 2 for a prompt)",
    )
    parser.add_argument(
        "--guidance-interval",
        metavar=("LOW", "HIGH"),
        type=float,
        nargs=2,
        help="log-SNRs between which --guidance acts (default: everywhere)",
    )
    parser.add_argument(
        "--autoguide", metavar="RUN", help="guide away from a smaller or less trained run, not from no class"
    )
    parser.add_argument(
        "--threshold", metavar="HOW", type=one_of(*THRESHOLDS), help="clip what the network sees: static or dynamic"
    )
    parser.set_defaults(autoguides=True)


def chosen_sampler(opened: Opened, options: argparse.Namespace, prompts: tuple[str, ...] = ()) -> Chosen:
    """The plan and the guidance of the options.

    Args:
        prompts: what is asked for, of a model of captions.
    Raises:
        UserError: for what the run does not offer, or options that do not go together.
    """
    from markovae.sampling.plans import THRESHOLDS as WRAPPERS
    from markovae.sampling.plans import default_spacing, plan

    guidance, weaker = chosen_guidance(opened, options, prompts)
    worked_out = options.spacing in ("optimal", "tuned")
    made = plan(opened.model, options.sampler, options.steps, None if worked_out else options.spacing)
    if options.steps is not None and made.nfe < options.steps:
        log(f"{options.sampler} calls the network several times a step: {made.nfe} of the {options.steps} calls")
    if options.threshold is not None:
        made = replace(made, threshold=WRAPPERS[options.threshold])
    limits = None if guidance.interval is None else (guidance.interval.low, guidance.interval.high)
    interval = None if limits is None else [end if math.isfinite(end) else None for end in limits]
    facts: dict[str, Any] = {
        "sampler": options.sampler,
        "spacing": options.spacing or default_spacing(options.sampler),
        "threshold": options.threshold,
        "guidance": guidance.weight,
        "guidance_interval": interval,
        "autoguide": weaker,
    }
    if worked_out:
        from markovae.cli.grids import worked_out_grid

        away = getattr(options, "negative", None)
        made = replace(made, grid=worked_out_grid(opened, made, guidance, options.label or prompts, facts, away))
    return Chosen(made, guidance, facts)


def chosen_guidance(
    opened: Opened, options: argparse.Namespace, prompts: tuple[str, ...] = ()
) -> tuple[Guidance, str | None]:
    """The guidance of the options, and the digest of the weaker run.

    Raises:
        UserError: for guidance without anything to be guided to or from.
    """
    from markovae.sampling.conditions import prompt_condition
    from markovae.sampling.guidance import Guidance, Interval

    weight = weight_of(opened, options, prompts)
    for name in ("guidance_interval", "autoguide", "negative"):
        if getattr(options, name, None) is not None and weight == 1:
            raise UserError(f"--{name.replace('_', '-')} shapes guidance: name its weight with --guidance, 2 say")
    conditional = opened.num_classes or opened.model.text_conditioner is not None
    if weight != 1 and options.autoguide is None and not conditional:
        remedy = "leave it out, or name a weaker run with --autoguide" if options.autoguides else "leave it out"
        raise UserError(f"--guidance {weight:g} needs classes, and {opened.path} was trained without: {remedy}")
    away = options.autoguide is not None or getattr(options, "negative", None) is not None
    if weight != 1 and conditional and not away and not opened.checkpoint.config.train.label_dropout:
        remedy = "leave it out, or name a weaker run with --autoguide" if options.autoguides else "leave it out"
        none = "class" if opened.num_classes else "caption"
        raise UserError(
            f"--guidance {weight:g} leads away from no {none}, and {opened.path} never trained without one "
            f"(train.label_dropout=0): {remedy}"
        )
    try:
        interval = None if options.guidance_interval is None else Interval(*options.guidance_interval)
    except ValueError as error:
        raise UserError(f"--guidance-interval: {error}") from None
    negative = None
    if getattr(options, "negative", None) is not None:
        negative = prompt_condition(opened.model, [options.negative])
    if options.autoguide is None:
        return Guidance(weight, interval, negative=negative), None
    weaker = _weaker(opened, options)
    return Guidance(weight, interval, weaker.model, negative), weaker.checkpoint.digest


def _weaker(opened: Opened, options: argparse.Namespace) -> Opened:
    from markovae.cli.running import open_run
    from markovae.networks.conditioning import same_text_encoder

    weaker = open_run(argparse.Namespace(**{**vars(options), "run_path": options.autoguide}), trained_in=True)
    if weaker.checkpoint.digest == opened.checkpoint.digest:
        raise UserError(f"--autoguide {options.autoguide} is the run itself: name a smaller or less trained one")
    if weaker.checkpoint.class_names != opened.checkpoint.class_names:
        raise UserError(f"--autoguide {options.autoguide} knows other classes than {opened.path}: take one of the same")
    if (weaker.model.text_conditioner is None) != (opened.model.text_conditioner is None):
        raise UserError(f"--autoguide {options.autoguide} and {opened.path} do not both know captions: take one alike")
    if not same_text_encoder(weaker.model.text_conditioner, opened.model.text_conditioner):
        raise UserError(
            f"--autoguide {options.autoguide} reads captions by another text encoder than {opened.path}: take one of "
            "the same"
        )
    return weaker
