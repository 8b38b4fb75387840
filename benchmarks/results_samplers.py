"""The section on samplers at equal numbers of calls. Records: samplers_*.json, by samplers.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markovae.report.plots import Line, alone, plot
from results_common import Section, signed, table

PREFIX = "samplers_"
Row = Mapping[str, Any]


def section(records: Mapping[str, Any]) -> Section | None:
    found = {name.removeprefix(PREFIX): made for name, made in records.items() if name.startswith(PREFIX)}
    if not found:
        return None
    parts, pictures = ["## Samplers at equal numbers of network calls\n"], {}
    for name, record in found.items():
        parts += [_about(name, record), _kid(record), _distance(record), _verdict(record)]
        parts.append(f"![Distance to the fine walk against calls](results/{PREFIX}{name}.svg)\n")
        pictures[f"{PREFIX}{name}.svg"] = alone(_curves(record))
    return Section("\n".join(parts), pictures)


def _about(name: str, record: Row) -> str:
    peers = f"diffusers {record['diffusers']}" if record["diffusers"] else "no peers"
    return (
        f"### {name}\n\n"
        f"Model `{record['checkpoint']['digest']}` ({record['checkpoint']['step']:,} steps), {record['n']:,} samples "
        f"of seed {record['seed']} a cell, against {record['reference']['n']:,} held-out images in the features "
        f"`{record['extractor']['name']}`; {peers}, driving the same network in the same run; {record['threads']} "
        f"threads, {record['batch']} images at a time. By `python benchmarks/samplers.py RUN --n {record['n']}`.\n"
    )


def _kid(record: Row) -> str:
    """KID × 1000, a line a sampler."""
    calls = record["calls"]
    head = ["KID × 1000", *(f"{c} calls" for c in calls), f"ms an image, {max(calls)} calls"]
    lines = []
    for ours, name in dict.fromkeys((r["ours"], r["sampler"]) for r in record["rows"] if r["calls"] in calls):
        found = {r["calls"]: r for r in record["rows"] if (r["ours"], r["sampler"]) == (ours, name)}
        lines.append(
            [_named(ours, name), *(_thousand(found[c]["kid"]) for c in calls), f"{found[max(calls)]['ms']:.0f}"]
        )
    chain = _chain(record)
    if chain is not None:
        lines.append(
            [
                f"`ancestral`, {chain['calls']} calls: {_thousand(chain['kid'])}",
                *[""] * len(calls),
                f"{chain['ms']:.0f}",
            ]
        )
    return table(head, lines) + f"\nTraining images in the samples' place: {_thousand(record['floor'])}.\n"


def _distance(record: Row) -> str:
    """RMSE to the fine walk, the solvers alone, the nearest at the fewest calls first."""
    calls = record["calls"]
    names = dict.fromkeys((r["ours"], r["sampler"]) for r in record["rows"] if r["rmse"] is not None)
    lines = []
    for ours, name in names:
        found = {r["calls"]: r for r in record["rows"] if (r["ours"], r["sampler"]) == (ours, name)}
        lines.append((found[calls[-1]]["rmse"], [_named(ours, name), *(f"{found[c]['rmse']:.4f}" for c in calls)]))
    return (
        f"Root mean square distance to a walk of {record['fine_calls']} calls from the same noise, over "
        f"{record['paired']} samples, on the scale −1…1:\n\n"
        + table(["solver", *(f"{c} calls" for c in calls)], [line for _, line in sorted(lines)])
    )


def _verdict(record: Row) -> str:
    """The best of ours beside the best of the peers', and how near our default and our best come to the chain."""
    lines, chain = [], _chain(record)
    for calls in record["calls"]:
        rows = [r for r in record["rows"] if r["calls"] == calls]
        for what, key in (("nearest to the fine walk", "rmse"), ("least KID × 1000", "kid")):
            best = [_best([r for r in rows if r["ours"] == ours and r[key] is not None], key) for ours in (True, False)]
            lines.append(f"- {calls} calls, {what}: " + ", ".join(text for text in best if text))
        mine = [r for r in rows if r["ours"] and r["over_chain"] is not None]
        named = [r for r in mine if r["sampler"] == record["default"]]
        least = min(mine, key=lambda r: r["kid"]["mean"], default=None)
        if chain is not None and least is not None:
            lines += [_beside(record, chain, row) for row in (named if least in named else [*named, least])]
    return "\n".join(lines) + "\n"


def _beside(record: Row, chain: Row, row: Row) -> str:
    """One sampler of ours against the whole chain."""
    over = row["over_chain"]
    upper = over["mean"] + 1.96 * over["stderr"]
    return (
        f"- {row['calls']} calls of `{row['sampler']}` against {chain['calls']} of `ancestral`: KID × 1000 differs "
        f"by {_thousand(over)} (upper 95 % limit {signed(1000 * upper, 2)}; allowed: 5 % of the chain's KID and "
        f"the floor's standard error, {1000 * (0.05 * chain['kid']['mean'] + record['floor']['stderr']):.2f}), "
        f"{row['kid']['mean'] / chain['kid']['mean']:.2f} times; {chain['ms'] / row['ms']:.0f} times faster"
    )


def _best(rows: Sequence[Row], key: str) -> str:
    if not rows:
        return ""
    best = min(rows, key=lambda r: r["rmse"] if key == "rmse" else r["kid"]["mean"])
    value = f"{best['rmse']:.4f}" if key == "rmse" else _thousand(best["kid"])
    return f"{_named(best['ours'], best['sampler'])} {value}"


def _curves(record: Row) -> str:
    """The best of ours and of the peers at each count, and first order."""
    lines = []
    for label, chosen in (
        ("best of ours", lambda r: r["ours"]),
        ("best of diffusers'", lambda r: not r["ours"]),
        ("ddim", lambda r: r["ours"] and r["sampler"] == "ddim"),
    ):
        least: dict[int, float] = {}
        for row in record["rows"]:
            if row["rmse"] is not None and chosen(row):
                least[row["calls"]] = min(row["rmse"], least.get(row["calls"], math.inf))
        if least:
            lines.append(Line(list(least), list(least.values()), label=label))
    return plot(
        lines,
        "network calls an image",
        "distance to the fine walk",
        "Root mean square distance to a fine walk of the same seeds, falling with the number of network calls.",
        log_x=True,
        log_y=True,
    )


def _chain(record: Row) -> Row | None:
    return next((r for r in record["rows"] if r["sampler"] == "ancestral" and r["calls"] == record["levels"]), None)


def _named(ours: bool, name: str) -> str:
    return f"`{name}`" if ours else f"diffusers {name}"


def _thousand(figure: Mapping[str, float]) -> str:
    return f"{signed(1000 * figure['mean'], 2)} ± {1000 * figure['stderr']:.2f}"
