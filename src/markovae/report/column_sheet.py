"""Of a model of columns: a sheet for each column, its values × seeds, and what each column says in nats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markovae.data.pictures import tile, viewable
from markovae.diffusion.model import Diffusion
from markovae.log import plus_minus
from markovae.quality.memorization import Images
from markovae.report import html
from markovae.report.reported_run import ReportedRun
from markovae.sampling.generation import sample

MOST_ROWS, SEEDS, SEED = 6, 4, 0


@dataclass(frozen=True)
class ColumnSheet:
    """Samples over the values of one column, the others left open, the same seeds for each value.

    Args:
        column: what it is, in words.
        name: of the column.
        values: one a row.
        samples: pixel values, (rows · SEEDS, C, H, W), row by row.
    """

    column: str
    name: str
    values: tuple[str, ...]
    samples: Images

    def facts(self) -> dict[str, Any]:
        """For report.json."""
        return {"column": self.name, "values": list(self.values), "seeds": SEEDS, "seed": SEED}


def column_sheets(run: ReportedRun, steps: int, seconds: float) -> list[ColumnSheet]:
    """A sheet for each column, as many as the time allows; none for a model that needs a value of every column.

    Args:
        steps: of the sampler.
        seconds: that they may take, but for the first.
    """
    model, sheets, calls = run.model, list[ColumnSheet](), 0
    for column in model.columns.each if model.columns and model.null_trained else ():
        values = tuple(column.spread()[:MOST_ROWS])
        n = len(values) * SEEDS
        calls += steps * n
        if sheets and calls > seconds * run.pace:
            break
        where = {column.name: [value for value in values for _ in range(SEEDS)]}
        seeds = [i % SEEDS for i in range(n)]
        images = sample(model, n, steps=steps, seed=SEED, labels="none", where=where, noise_indices=seeds, guidance=1.0)
        sheets.append(ColumnSheet(column.describe(), column.name, values, images))
    return sheets


CANDIDATES, DRAWS, MOST_WEIGHED = 8, 4, 256


def column_facts(run: ReportedRun, seconds: float) -> dict[str, Any] | None:
    """What each column says about the test images, on as few of them as the time allows.

    None for a model without columns, one that needs a value of every column, a cascade, or too few test images.

    Args:
        seconds: that it may take; `markovae measure --columns` takes longer, and measures more.
    """
    model, test = run.model, run.splits.test
    if model.columns is None or not model.null_trained or not isinstance(model, Diffusion):
        return None
    bounds = 2 * len(model.columns.each) + CANDIDATES + 1
    n = int(seconds * run.pace / (bounds * (DRAWS + 1))) // CANDIDATES * CANDIDATES
    n = min(max(n, 2 * CANDIDATES), MOST_WEIGHED)
    if len(test) < 2 * CANDIDATES:
        return None
    from markovae.likelihood.column_information import column_information

    found = column_information(model, test, candidates=CANDIDATES, draws=DRAWS, limit=n).to_dict()
    kept = ("n", "draws", "columns", "bound_difference", "information_lower_bound")
    return {name: found[name] for name in kept}


def column_nats_section(facts: dict[str, Any] | None) -> str:
    """What each column says, on the page."""
    if facts is None:
        return ""
    rows = [
        [row["column"], _nats(row["alone_nats"]), _nats(row["beyond_nats"]), f"{row['n']:,}"]
        for row in facts["columns"]
    ]
    rows.append(["all", _nats(facts["bound_difference"]["nats"]), "", f"{facts['n']:,}"])
    lower = facts["information_lower_bound"]
    from markovae.likelihood.caption_information import lower_bound_in_words

    figure, meaning = lower_bound_in_words(lower)
    text = (
        f"Nats per image of the test part, {facts['draws']} levels each: what the images cost without the column less "
        "what they cost with it, on the same levels and noise; alone, and with all other columns known. Such a "
        "difference is the information plus a difference of gaps: no bound on it. Image and columns share at least "
        f"{figure} {meaning}. markovae measure RUN --columns takes more images."
    )
    table = html.table(("column", "alone", "beyond the others", "images"), rows, numeric=(1, 2, 3))
    return html.section("What columns say", table, html.paragraph(text))


def _nats(figure: dict[str, Any] | None) -> str:
    if figure is None or figure["mean"] is None:
        return "unknown"
    return plus_minus(figure, 2)


def column_section(sheets: list[ColumnSheet], bins: int) -> str:
    """A figure for each value, on the page."""
    if not sheets:
        return ""
    parts = []
    for sheet in sheets:
        figures = []
        for row, value in enumerate(sheet.values):
            own = viewable(sheet.samples[row * SEEDS : (row + 1) * SEEDS], bins)
            said = f"{sheet.name} = {value}"
            figures.append(html.figure(tile(own, 2, clear=True), f"samples of {said}", (said,)))
        parts += [html.paragraph(sheet.column), html.strip(figures)]
    text = (
        f"Each value of a column with the same {SEEDS} seeds, all else left open: from value to value only it differs. "
        "markovae sample RUN --where COLUMN=VALUE draws more, and markovae measure RUN --columns says what each column "
        "tells of an image, in nats."
    )
    return html.section("What columns change", *parts, html.paragraph(text))
