"""--prompt, --prompts and --negative: what a model of captions is asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from markovae.errors import UserError

if TYPE_CHECKING:
    from markovae.cli.running import Opened
    from markovae.networks.conditioning import Conditioning

MAX_BYTES = 1 << 20
NO_CAPTIONS = "needs a model of captions, and {} was trained without: leave it out"


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """The options."""
    group = parser.add_argument_group("a model of captions")
    group.add_argument(
        "--prompt",
        metavar="TEXT",
        action="append",
        help="what to draw; repeatable: then --n images of each, a row of grid.png each, the same noise down a column",
    )
    group.add_argument("--prompts", metavar="FILE", type=Path, help="prompts from a text file, one a line")
    group.add_argument("--negative", metavar="TEXT", help="what --guidance leads away from (default: no caption)")


def chosen_prompts(opened: Opened, options: argparse.Namespace) -> tuple[str, ...]:
    """The prompts of the options, in order; none where none is given. Says so where all are empty.

    Raises:
        UserError: for a model without captions, a file that cannot be used, or options that do not go together.
    """
    from markovae.data.captions import is_text
    from markovae.log import log

    for name in ("prompt", "prompts", "negative"):
        if getattr(options, name) is not None and opened.model.text_conditioner is None:
            raise UserError(f"--{name} {NO_CAPTIONS.format(opened.path)}")
    if options.prompt is not None and options.prompts is not None:
        raise UserError("--prompt and --prompts are both given: keep one of them")
    texts = tuple(options.prompt or ()) if options.prompts is None else read_prompts(options.prompts)
    for text in (*texts, options.negative or ""):
        if not is_text(text):
            raise UserError(f"the prompt {text!a} holds bytes that are no text: give it in UTF-8")
    if texts and options.label is not None:
        raise UserError("--class and a prompt are both given: a model of captions takes prompts alone")
    blank = not any(text.strip() for text in texts)
    if options.negative is not None and blank:
        raise UserError("--negative is what a prompt is guided away from: give a --prompt")
    if (
        opened.model.text_conditioner is not None
        and blank
        and options.guidance not in (None, 1)
        and options.autoguide is None
    ):
        raise UserError(f"--guidance {options.guidance:g} leads to a prompt: give a --prompt, or leave it out")
    some_blank = blank or not all(text.strip() for text in texts)
    if opened.model.text_conditioner is not None and some_blank and not opened.checkpoint.config.train.label_dropout:
        raise UserError(f"{opened.path} never trained without captions (train.label_dropout=0): give a --prompt")
    if opened.model.text_conditioner is not None and blank:
        log(f"{'an empty prompt asks for nothing' if texts else 'no --prompt'}: drawing without a condition")
    return texts


def read_prompts(file: Path) -> tuple[str, ...]:
    """The lines of a file.

    Raises:
        UserError: for a file that cannot be read, is no text, or has a line without a prompt.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"--prompts {file} is larger than {MAX_BYTES:,} bytes: give a text file, a prompt a line")
        lines = file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except OSError as error:
        raise UserError(f"--prompts {file} cannot be read ({error.strerror}): name a text file") from None
    except UnicodeDecodeError:
        raise UserError(f"--prompts {file} is not UTF-8 text: save it as UTF-8") from None
    if lines == [""]:
        raise UserError(f"--prompts {file} is empty: write a prompt a line")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise UserError(f"--prompts {file} line {number} is empty: write a prompt there, or take the line out")
    return tuple(line.strip() for line in lines)


def weight_of(opened: Opened, options: argparse.Namespace, prompts: tuple[str, ...]) -> float:
    """--guidance, or its default: a push for prompts, else none.

    Raises:
        UserError: for a push away from "no caption" that the run never learnt.
    """
    from markovae.sampling.guidance import TEXT_GUIDANCE

    asked = any(text.strip() for text in prompts)
    away = getattr(options, "negative", None) or options.autoguide or opened.checkpoint.config.train.label_dropout
    if asked and not away and options.guidance not in (None, 1):
        raise UserError(
            f"--guidance {options.guidance:g} leads away from no caption, and {opened.path} never trained without one "
            "(train.label_dropout=0): name a --negative prompt, or leave it out"
        )
    if options.guidance is not None:
        return float(options.guidance)
    return TEXT_GUIDANCE if asked and away else 1.0


def conditions_for(opened: Opened, prompts: tuple[str, ...], each: int) -> Conditioning | None:
    """The condition of `each` samples of every prompt, prompt after prompt; None without any."""
    import torch

    from markovae.networks.conditioning import RepeatedConditioning
    from markovae.sampling.conditions import prompt_condition

    if not prompts:
        return None
    condition = prompt_condition(opened.model, prompts)
    return (
        None
        if condition is None
        else RepeatedConditioning(condition, torch.arange(len(prompts)).repeat_interleave(each))
    )
