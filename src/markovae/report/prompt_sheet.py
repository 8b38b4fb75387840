"""Of a model of captions: the sheet of prompts × seeds, and what captions say in nats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from markovae.data.pictures import tile, viewable
from markovae.log import plus_minus
from markovae.quality.memorization import Images
from markovae.report import html
from markovae.report.reported_run import ReportedRun
from markovae.sampling.generation import sample
from markovae.sampling.guidance import TEXT_GUIDANCE
from markovae.sampling.sampler_table import DEFAULT_SAMPLER
from markovae.text.conditioner import captions_of

SHEETS = ((6, 6), (4, 6), (4, 4), (3, 3))  # prompts and seeds, as the time allows
SEED = 0
CANDIDATES, DRAWS, MOST_CAPTIONED = 8, 4, 256


@dataclass(frozen=True)
class PromptSheet:
    """Samples of several prompts, the same seeds for each.

    Args:
        prompts: one a row.
        samples: pixel values, (rows · columns, C, H, W), row by row.
        columns: seeds 0, 1, …
        steps: of the sampler.
        guidance: its weight; 1, none, where no caption was ever left out in training.
    """

    prompts: tuple[str, ...]
    samples: Images
    columns: int
    steps: int
    guidance: float

    def facts(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "prompts": list(self.prompts),
            "columns": self.columns,
            "sampler": DEFAULT_SAMPLER,
            "steps": self.steps,
            "guidance": self.guidance,
            "seed": SEED,
        }


def prompt_sheet(run: ReportedRun, steps: int, seconds: float) -> PromptSheet | None:
    """The first different captions of the test part, drawn; None for a model without captions.

    Args:
        steps: of the sampler; guidance takes two network calls each.
        seconds: that it may take.
    """
    model = run.model
    if model.text_conditioner is None:
        return None
    fits = [sheet for sheet in SHEETS if 2 * steps * sheet[0] * sheet[1] <= seconds * run.pace]
    rows, columns = fits[0] if fits else SHEETS[-1]
    captions = [first for text in run.splits.test.captions or () for first in captions_of(text)[:1]]
    prompts = tuple(dict.fromkeys(captions))[:rows]
    if not prompts:
        return None
    n = len(prompts) * columns
    weight = TEXT_GUIDANCE if model.null_trained else 1.0
    images = sample(
        model,
        n,
        steps=steps,
        seed=SEED,
        prompt=[prompt for prompt in prompts for _ in range(columns)],
        guidance=weight,
        noise_indices=[i % columns for i in range(n)],
    )
    return PromptSheet(prompts, images, columns, steps, weight)


def caption_facts(run: ReportedRun, seconds: float) -> dict[str, Any] | None:
    """The information in the test images' captions, on as few images as the time allows; None without captions.

    Args:
        seconds: that it may take; `markovae measure --captions` takes longer, and measures more.
    """
    test = run.splits.test
    n = int(seconds * run.pace / ((CANDIDATES + 1) * (DRAWS + 1))) // CANDIDATES * CANDIDATES
    n = min(max(n, 2 * CANDIDATES), MOST_CAPTIONED)
    captions = test.captions or ()
    if run.model.text_conditioner is None or sum(bool(captions_of(text)) for text in captions[:n]) < 2 * CANDIDATES:
        return None
    from markovae.likelihood.caption_information import caption_information

    found = caption_information(
        run.model,
        np.asarray(test.images[:n]),
        captions[:n],
        candidates=CANDIDATES,
        draws=DRAWS,
        attributes=False,
    ).to_dict()
    return {name: found[name] for name in ("n", "bound_difference", "information_lower_bound")} | {"draws": DRAWS}


def caption_section(facts: dict[str, Any] | None) -> str:
    """What captions say, on the page."""
    if facts is None:
        return ""
    from markovae.likelihood.caption_information import DIFFERENCE, INFORMATION, lower_bound_in_words

    difference, lower = facts["bound_difference"], facts["information_lower_bound"]
    rows = [
        ["bound difference", plus_minus(difference["nats"], 1), "nats per image"],
        ["", plus_minus(difference["bits_per_dim"], 3), "bits/dim"],
        ["information, at least", *lower_bound_in_words(lower)],
    ]
    meaning = INFORMATION.format(k=lower["candidates"], ceiling=lower["ceiling_nats"])
    text = (
        f"On the test part's first {facts['n']:,} images, {facts['draws']} levels each. {_sentence(DIFFERENCE)} "
        f"{_sentence(meaning)} markovae measure RUN --captions takes more images, and measures phrases and attributes."
    )
    return html.section(
        "What captions say", html.table(("", "", ""), rows, numeric=(1,), meaning=2), html.paragraph(text)
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def prompt_section(sheet: PromptSheet | None, bins: int) -> str:
    """One row a prompt, on the page."""
    if sheet is None:
        return ""
    rows = []
    for number, prompt in enumerate(sheet.prompts):
        own = sheet.samples[number * sheet.columns : (number + 1) * sheet.columns]
        rows.append(html.paragraph(prompt))
        picture = html.image(
            tile(viewable(own, bins), sheet.columns, clear=True), f"{sheet.columns} samples of: {prompt}"
        )
        rows.append(f'<div class="sheet">{picture}</div>')
    how = f"Guidance {sheet.guidance:g}, {sheet.steps} steps of two network evaluations"
    if sheet.guidance == 1:
        how = f"{sheet.steps} steps without guidance"
    text = (
        f"Captions of images never trained on, each with the same {sheet.columns} seeds: down a column the noise is "
        f"the same and only the caption differs. {how}."
    )
    return html.section("From caption to image", *rows, html.paragraph(text))
