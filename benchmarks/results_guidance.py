"""The section on guidance. Records: guidance_*.json, by guidance.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markovae.report.plots import Line, alone, plot
from results_common import Section, plus_minus, signed, table

PREFIX = "guidance_"


def section(records: Mapping[str, Any]) -> Section | None:
    found = {name.removeprefix(PREFIX): made for name, made in records.items() if name.startswith(PREFIX)}
    if not found:
        return None
    parts, pictures = ["## Guidance by its weight\n"], {}
    for name, record in found.items():
        parts += [_about(name, record), _table(record)]
        for what in ("accuracy", "kid"):
            pictures[f"{PREFIX}{name}_{what}.svg"] = alone(_curve(record, what))
            parts.append(f"![{_TITLES[what]} against the weight](results/{PREFIX}{name}_{what}.svg)\n")
    return Section("\n".join(parts), pictures)


_TITLES = {"accuracy": "class accuracy, per cent", "kid": "KID × 1000"}
_SCALES = {"accuracy": 100.0, "kid": 1000.0}


def _about(name: str, record: Mapping[str, Any]) -> str:
    judge = record["classifier"]
    return (
        f"### {name}\n\n"
        f"Model `{record['checkpoint']['digest']}` ({record['checkpoint']['step']:,} steps), `{record['sampler']}` in "
        f"{record['steps']} calls, {record['n']:,} samples a weight with the classes of as many training images. The "
        f"classifier (`python benchmarks/classifier.py DATA`) is right on {100 * judge['test_accuracy']:.1f} % of the "
        f"test images and {100 * judge['training_images']:.1f} % of those training images. KID against "
        f"{record['reference']['n']:,} held-out images in the features `{record['extractor']['name']}`; training "
        f"images get {_thousand(record['floor'])} × 10⁻³. By `python benchmarks/guidance.py RUN --n {record['n']}`.\n"
    )


def _table(record: Mapping[str, Any]) -> str:
    rows = [
        [f"{row['weight']:g}", _where(row), _percent(row["accuracy"]), _thousand(row["kid"])] for row in record["rows"]
    ]
    return table(["weight", "acts", "class accuracy", "KID × 1000"], rows)


def _curve(record: Mapping[str, Any], what: str) -> str:
    lines = []
    for where in dict.fromkeys(_where(row) for row in record["rows"]):
        rows = sorted((r for r in record["rows"] if _where(r) == where), key=lambda r: r["weight"])
        scale = _SCALES[what]
        lines.append(
            Line(
                [r["weight"] for r in rows],
                [scale * r[what]["mean"] for r in rows],
                [scale * r[what]["stderr"] for r in rows],
                label=where,
            )
        )
    title = _TITLES[what]
    return plot(
        lines, "guidance weight", title, f"{title} against the guidance weight, with bands of one standard error."
    )


def _where(row: Mapping[str, Any]) -> str:
    if row["interval"] is None:
        return "everywhere"
    low, high = row["interval"]
    return f"log-SNR {signed(low, 0)} to {signed(high, 0)}"


def _percent(figure: Mapping[str, float]) -> str:
    return plus_minus({name: 100 * value for name, value in figure.items()}, 1) + " %"


def _thousand(figure: Mapping[str, float]) -> str:
    return plus_minus({name: 1000 * value for name, value in figure.items()}, 2)
