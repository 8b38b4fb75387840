"""The options that choose classes, prompts, a sampler and its guidance: of sample, edit and quality."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markovae.cli.options import one_of, positive, whole
from markovae.errors import UserError
from markovae.sampling.sampler_table import DEFAULT_SAMPLER, SPACINGS, THRESHOLDS, samplers_help
from markovae.synonyms import nearest

if TYPE_CHECKING:
    from torch import Tensor

    from markovae.checkpoints.reading import LoadedRun
    from markovae.sampling.guidance import Guidance
    from markovae.sampling.plans import Plan

HELP = samplers_help()
MAX_BYTES = 1 << 20


def add_sampler(parser: argparse.ArgumentParser) -> None:
    """--steps, --sampler, --spacing, --threshold, --guidance, --guidance-interval and --autoguide."""
    parser.add_argument(
        "--steps",
        metavar="N",
        type=whole(1),
        help="network evaluations per image (default: 20; a cascade: 48 + 8 per detail stage; a distilled run: its own "
        "1, 2 or 4; ancestral: every level)",
    )
    parser.add_argument(
        "--sampler", metavar="NAME", default=DEFAULT_SAMPLER, help=f"sampler, see below (default: {DEFAULT_SAMPLER})"
    )
    parser.add_argument(
        "--spacing",
        metavar="NAME",
        type=one_of(*SPACINGS),
        help="spacing of the steps, see below (default: the sampler's own)",
    )
    add_guidance(parser)
    parser.add_argument(
        "--guidance-interval",
        metavar=("LOW", "HIGH"),
        type=float,
        nargs=2,
        help="log-SNRs between which --guidance acts (default: everywhere)",
    )
    parser.add_argument("--autoguide", metavar="RUN", help="autoguidance: use a weaker run as the negative model")
    parser.add_argument(
        "--threshold", metavar="HOW", type=one_of(*THRESHOLDS), help="clip the predicted image: static or dynamic"
    )


def add_guidance(parser: argparse.ArgumentParser) -> None:
    """--guidance."""
    parser.add_argument(
        "--guidance",
        metavar="W",
        type=positive,
        help="weight of guidance to the class or prompt; 1 is none (default: the run's for a class, 2 for a prompt)",
    )


def chosen_sampler(
    opened: LoadedRun,
    options: argparse.Namespace,
    labels: int | str | list[int] | None = None,
    prompts: tuple[str, ...] = (),
    where: dict[str, Any] | None = None,
) -> tuple[Plan, Guidance, dict[str, Any]]:
    """The plan and the guidance of the options, and what a record says of both.

    Args:
        labels, prompts, where: what is drawn.
    Raises:
        UserError: for what the run does not offer, or options that do not go together.
    """
    from markovae.log import log
    from markovae.sampling.conditions import make_condition
    from markovae.sampling.guidance import make_guidance
    from markovae.sampling.plans import describe_plan, plan
    from markovae.sampling.sampler_table import TUNED_FOR

    model, weaker = opened.model, _weaker(opened, options)
    guidance = make_guidance(
        model,
        options.guidance,
        prompt=prompts,
        negative=getattr(options, "negative", None),
        interval=options.guidance_interval,
        autoguide=None if weaker is None else weaker.model,
        classes=opened.num_classes > 0 and labels != "none",
    )
    few = None
    if options.spacing == "tuned":
        few = make_condition(model, TUNED_FOR, labels=labels, prompt=prompts or None, where=where, cycle=True)
    made = plan(
        model,
        options.sampler,
        options.steps,
        options.spacing,
        threshold=options.threshold,
        condition=few,
        guidance=guidance,
    )
    if options.steps is not None and made.nfe < options.steps:
        log(f"{options.sampler} takes several network evaluations per step: {made.nfe} of the {options.steps} are used")
    digest = None if weaker is None else weaker.checkpoint.digest
    return made, guidance, {**describe_plan(made, guidance), "autoguide": digest}


def _weaker(opened: LoadedRun, options: argparse.Namespace) -> LoadedRun | None:
    from markovae.checkpoints.reading import load_run

    if options.autoguide is None:
        return None
    weaker = load_run(
        options.autoguide, device=options.device, precision=options.precision or "auto", trust=options.trust
    )
    if weaker.checkpoint.digest == opened.checkpoint.digest:
        raise UserError(f"--autoguide {options.autoguide} is the run itself: name a smaller or less trained one")
    if weaker.class_names != opened.class_names:
        raise UserError(f"--autoguide {options.autoguide} knows other classes than {opened.path}: take one of the same")
    return weaker


# -- classes ------------------------------------------------------------------------------------------------------


def chosen_classes(opened: LoadedRun, texts: list[str] | None) -> list[Any]:
    """Each --class as `chosen_labels` has it; empty where there is none.

    Raises:
        UserError: for what `chosen_labels` refuses, or all or none beside others.
    """
    chosen = [label for text in texts or () if (label := chosen_labels(opened, text)) is not None]
    if len(chosen) > 1 and any(isinstance(label, str) for label in chosen):
        raise UserError("--class all and --class none stand alone: name classes, or leave the others out")
    return chosen


def chosen_labels(opened: LoadedRun, text: str | None) -> int | str | None:
    """--class as `sample` takes it: a class's number, all, none, or None where it is not given.

    Raises:
        UserError: for a class that the run does not know, or any where it knows none.
    """
    names, count = opened.class_names, opened.num_classes
    if text is None or (text == "none" and text not in names):
        return text
    if not count:
        raise UserError(f"--class {text} needs classes, and {opened.path} was trained without: leave it out")
    if text in names:
        return names.index(text)
    if text == "all":
        return text
    numbered = any(map(_is_number, names))  # then a number names a class, and never another one's place
    if text.isdecimal() and int(text) < count and not numbered:
        return int(text)
    near = nearest(text, names, 0.6)
    also = f"; did you mean {near}?" if near else ""
    shown = ", ".join(names[:20]) + (", …" if count > 20 else "")
    also = also if numbered else f" (or their numbers 0…{count - 1}){also}"
    raise UserError(f"--class {text} is unknown: this run has {shown}{also}")


def as_named(opened: LoadedRun, labels: Tensor) -> Tensor:
    """Classes as the data name them: their own numbers where all have one, else their places among the names."""
    import torch

    names = opened.class_names
    if not all(map(_is_number, names)):
        return labels
    return torch.tensor([int(name) for name in names])[labels]


def _is_number(name: str) -> bool:
    """Whether this is how a number of 64 bits is written."""
    return name.isdecimal() and name.isascii() and len(name) < 19 and str(int(name)) == name


# -- columns ------------------------------------------------------------------------------------------------------

Sweep = tuple[str, list[Any]]


def add_where(parser: argparse.ArgumentParser, sweeps: bool) -> None:
    """--where; `sweeps` says whether several values of a column may be named."""
    several = "; A..B:N, a,b,c or * sweeps over several: down the rows of grid.png, a second sweep across" * sweeps
    parser.add_argument(
        "--where",
        metavar="COLUMN=VALUE",
        action="append",
        help=f"a value of a column that the model was trained with (condition.columns); repeatable{several}",
    )


def chosen_where(
    opened: LoadedRun, texts: list[str] | None, sweeps: bool = False
) -> tuple[dict[str, Any], list[Sweep]]:
    """(the columns of one value, those that are swept over), by --where.

    Raises:
        UserError: for a model without columns, an unknown column or value, or a sweep where none may be.
    """
    from markovae.columns import written

    fixed: dict[str, Any] = {}
    swept: list[Sweep] = []
    for text in texts or ():
        if opened.model.columns is None:
            raise UserError(
                f"--where {text} needs a model of columns, and {opened.path} was trained without: leave it out, or "
                "train with --set condition.columns=[…]"
            )
        name, values = written(text, opened.model.columns)
        if name in fixed or any(name == known for known, _ in swept):
            raise UserError(f"--where names {name} twice: write several values as {name}=a,b")
        if len(values) == 1:
            fixed[name] = values[0]
        elif sweeps:
            swept.append((name, values))
        else:
            raise UserError(f"--where {text} names {len(values)} values, and one image is drawn: name one")
    return fixed, swept


# -- prompts ------------------------------------------------------------------------------------------------------


def chosen_prompts(opened: LoadedRun, options: argparse.Namespace) -> tuple[str, ...]:
    """The prompts of --prompt or --prompts, in order; logs where sampling is unconditional.

    Raises:
        UserError: for a model without captions, a file that cannot be used, or options that do not go together.
    """
    from markovae.data.metadata import is_text
    from markovae.log import log

    file = getattr(options, "prompts", None)
    for name, value in (("prompt", options.prompt), ("prompts", file), ("negative", options.negative)):
        if value is not None and opened.model.text_conditioner is None:
            raise UserError(f"--{name} needs a model of captions, and {opened.path} was trained without: leave it out")
    if options.prompt is not None and file is not None:
        raise UserError("--prompt and --prompts are both given: keep one of them")
    texts = tuple(options.prompt or ()) if file is None else read_prompts(file)
    for text in (*texts, options.negative or ""):
        if not is_text(text):
            raise UserError(f"the prompt {text!a} is not UTF-8 text: give it in UTF-8")
    if texts and (getattr(options, "classes", None) or getattr(options, "label", None)) is not None:
        raise UserError("--class and a prompt are both given: a model of captions takes prompts alone")
    if opened.model.text_conditioner is not None and not any(text.strip() for text in texts):
        log(f"{'empty prompt' if texts else 'no --prompt'}: sampling unconditionally")
    return texts


def read_prompts(file: Path) -> tuple[str, ...]:
    """The lines of a file.

    Raises:
        UserError: for a file that cannot be read, is no text, or has a line without a prompt.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(
                f"--prompts {file} is larger than {MAX_BYTES:,} bytes: give a text file, one prompt per line"
            )
        lines = file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except OSError as error:
        raise UserError(f"--prompts {file} cannot be read ({error.strerror}): name a text file") from None
    except UnicodeDecodeError:
        raise UserError(f"--prompts {file} is not UTF-8 text: save it as UTF-8") from None
    if lines == [""]:
        raise UserError(f"--prompts {file} is empty: write one prompt per line")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise UserError(f"--prompts {file} line {number} is empty: write a prompt there, or remove the line")
    return tuple(line.strip() for line in lines)
