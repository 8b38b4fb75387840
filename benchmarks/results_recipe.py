"""The section on the recipe for likelihood at equal wall time. Records: recipe_*.json, by recipe.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from results_common import Section, plus_minus, table

PREFIX = "recipe_"


def section(records: Mapping[str, Any]) -> Section | None:
    found = {name.removeprefix(PREFIX): made for name, made in records.items() if name.startswith(PREFIX)}
    if not found:
        return None
    parts = ["## The recipe for likelihood against Ho et al.'s, at equal wall time\n"]
    for name, record in found.items():
        parts.append(_arms(name, record))
    return Section("\n".join(parts))


def _arms(name: str, record: Mapping[str, Any]) -> str:
    rows = []
    for arm, made in record["arms"].items():
        low, high = made["less_than_base"]["ci95"]
        gain = "—" if arm == record["base"] else f"{plus_minus(made['less_than_base'], 4)} ({low:.4f} to {high:.4f})"
        terms = made["terms_bits_per_dim"]
        rows.append(
            [
                arm,
                f"{made['images_seen']:,}",
                plus_minus(made["bits_per_dim"], 4),
                f"{terms['reconstruction']:.4f}",
                gain.replace("-", "−"),
            ]
        )
    head = ("arm", "images seen", "bits/dim", "of which the decoder's", "less than Ho et al.'s, paired (95 %)")
    first, cores = next(iter(record["arms"].values())), record["machine"]["threads"]
    threads = "one core" if cores == 1 else f"{cores} cores"
    return (
        f"### {name}\n\n{record['minutes']:g} minutes of training each on {threads}, "
        f"{first['n']:,} test images, {record['draws']} levels drawn an image. By `{record['command']}`.\n\n"
        f"{table(head, rows)}"
    )
