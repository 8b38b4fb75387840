"""The section on what captions say in nats. Records: nats_*.json, by `markovae measure RUN --captions --json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from results_common import Section, percent, plus_minus, share, table

PREFIX = "nats_"


def section(records: Mapping[str, Any]) -> Section | None:
    made = {name.removeprefix(PREFIX): record for name, record in records.items() if name.startswith(PREFIX)}
    parts = [_about(name, record) for name, record in made.items()]
    return Section("\n".join(["## What captions say, in nats\n", *parts])) if parts else None


def _about(name: str, record: Mapping[str, Any]) -> str:
    bits, difference, lower = record["bits_per_dim"], record["bound_difference"], record["information_lower_bound"]
    parts = [
        f"### {name}\n",
        f"Model `{record['checkpoint']['digest']}` ({record['checkpoint']['step']:,} steps), {record['n']} captioned "
        f"images of the {record['data']['split']} part, {record['draws']} levels a bound, one noise an image for all "
        f"that is compared, {record['network_calls']:,} network calls. By `markovae measure RUN --captions --limit "
        f"{record['n']} --json`; what the figures mean: [text.md](text.md#what-captions-say-in-nats).\n",
        f"{plus_minus(bits['with_caption'], 4)} bits/dim with captions, {plus_minus(bits['without_caption'], 4)} "
        f"without. The bound difference, which bounds nothing, is {plus_minus(difference['nats'], 2)} nats an image; "
        f"the information is {plus_minus(lower['nats'], 3)} nats at least, where the {lower['candidates']} candidates "
        f"allow {lower['ceiling_nats']:.3f}.\n",
    ]
    if record["phrases"]:
        rows = [[row["phrase"], plus_minus(row["nats"], 2), f"{row['n']:,}"] for row in record["phrases"]]
        parts.append(table(["phrase left out", "costs, nats", "images"], rows))
    if record["attributes"]:
        rows = [_told(row) for row in record["attributes"]]
        parts.append(table(["attribute told by the bound", "right", "by chance"], rows))
    return "\n".join(parts)


def _told(row: Mapping[str, Any]) -> list[str]:
    right = share({"mean": row["accuracy"], "stderr": row["stderr"] or 0.0}, row["n"])
    return [f"{row['attribute'].replace('_', ' ')} ({row['n']:,} images)", right, percent(row["chance"], 0)]
