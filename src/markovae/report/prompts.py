"""The sheet of prompts × seeds of a model of captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from markovae.quality.neighbours import Images
from markovae.report import html
from markovae.report.pictures import grid, viewable
from markovae.report.subject import Subject
from markovae.sampling import (
    DEFAULT_SAMPLER,
    TEXT_GUIDANCE,
    Guidance,
    draw_batches,
    evaluating,
    plan,
    prompt_condition,
    to_images,
)
from markovae.text import captions_of

SHEETS = ((6, 6), (4, 6), (4, 4), (3, 3))  # prompts and seeds, as the time allows
SEED = 0


@dataclass(frozen=True)
class PromptSheet:
    """Samples of several prompts, the same seeds for each.

    Args:
        prompts: one a row.   samples: digits, (rows · columns, C, H, W), row by row.   columns: seeds 0, 1, …
        steps: of the sampler.
    """

    prompts: tuple[str, ...]
    samples: Images
    columns: int
    steps: int

    def facts(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "prompts": list(self.prompts),
            "columns": self.columns,
            "sampler": DEFAULT_SAMPLER,
            "steps": self.steps,
            "guidance": TEXT_GUIDANCE,
            "seed": SEED,
        }


def prompt_sheet(subject: Subject, steps: int, seconds: float) -> PromptSheet | None:
    """The first different captions of the test part, drawn; None for a model without captions.

    Args:
        steps: of the sampler; guidance takes two network calls each.   seconds: that it may take.
    """
    model = subject.model
    if model.reader is None:
        return None
    fits = [sheet for sheet in SHEETS if 2 * steps * sheet[0] * sheet[1] <= seconds * subject.pace]
    rows, columns = fits[0] if fits else SHEETS[-1]
    captions = [first for text in subject.splits.test.captions or () for first in captions_of(text)[:1]]
    prompts = tuple(dict.fromkeys(captions))[:rows]
    if not prompts:
        return None
    condition = prompt_condition(model, prompts)
    assert condition is not None, "captions_of gives no empty caption"
    n = len(prompts) * columns
    batches = draw_batches(
        model,
        n,
        plan(model, DEFAULT_SAMPLER, steps),
        seed=SEED,
        condition=condition[torch.arange(len(prompts)).repeat_interleave(columns)],
        guidance=Guidance(TEXT_GUIDANCE),
        names=[i % columns for i in range(n)],
    )
    with evaluating(model):
        x = torch.cat([part.cpu() for part in batches])
    return PromptSheet(prompts, to_images(model, x), columns, steps)


def prompt_section(sheet: PromptSheet | None, bins: int) -> str:
    """One row a prompt, on the page."""
    if sheet is None:
        return ""
    rows = []
    for number, prompt in enumerate(sheet.prompts):
        own = sheet.samples[number * sheet.columns : (number + 1) * sheet.columns]
        rows.append(html.paragraph(prompt))
        picture = html.image(grid(viewable(own, bins), sheet.columns, clear=True), f"samples of: {prompt}")
        rows.append(f'<div class="sheet">{picture}</div>')
    text = (
        f"Captions of images never trained on, each with the same {sheet.columns} seeds: down a column the noise is "
        f"the same and only the caption differs. Guidance {TEXT_GUIDANCE:g}, {sheet.steps} steps of two network calls."
    )
    return html.section("From caption to image", *rows, html.paragraph(text))
