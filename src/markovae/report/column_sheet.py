"""Of a model of columns: a sheet for each column, its values × seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markovae.data.pictures import tile, viewable
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
