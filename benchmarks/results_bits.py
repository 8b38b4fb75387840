"""The section on bits/dim: what a trustworthy bound costs, and the bound on few levels. Records: elbo_cost_*.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markovae.report.plots import Line, alone, plot
from results_common import Section, percent, plus_minus, signed, table

PREFIX = "elbo_cost_"
NAMES = {
    "stratified": "stratified",
    "importance": "importance",
}
GRIDS = {
    "optimal_isotropic": "optimal, isotropic",
    "even_isotropic": "even strides, isotropic",
    "even_posterior": "even strides, β̃",
    "even_step": "even strides, β",
}
SHOWN = (1, 2, 3, 4, 6, 9, 16, 32, 64)


def section(records: Mapping[str, Any]) -> Section | None:
    found = {name.removeprefix(PREFIX): made for name, made in records.items() if name.startswith(PREFIX)}
    if not found:
        return None
    parts, pictures = ["## Bits per dimension: what they cost to know\n"], {}
    for name, record in found.items():
        parts += [_model(name, record), _cost(name, record), _coverage(record), _levels(name, record)]
        pictures[f"{PREFIX}{name}.svg"] = alone(_curve(record))
        if drawing := _level_curve(record):
            pictures[f"few_levels_{name}.svg"] = alone(drawing)
    return Section("\n".join(parts), pictures)


def _model(name: str, record: Mapping[str, Any]) -> str:
    bits, (first, last) = record["bits_per_dim"], record["logsnr"]
    channels, height, width = record["shape"]
    low, high = bits["ci95"]
    return (
        f"### {name}\n\n"
        f"By `python benchmarks/elbo_cost.py RUN --images {record['images']} --fit {record['fitted_on']}`: model "
        f"`{record['checkpoint']['digest']}` ({record['checkpoint']['step']:,} steps) of "
        f"{record['data']['source']} at {channels}×{height}×{width}, {record['levels']:,} levels from log-SNR "
        f"{signed(first, 1)} to {signed(last, 1)}; {record['images']:,} test images, fits on "
        f"{record['fitted_on']:,} others; network in {record['precision']}.\n\n"
        f"The full sum, every level of every image: **{bits['mean']:.4f} ± {bits['stderr']:.4f} bits/dim** (95 % "
        f"interval {low:.4f} to {high:.4f}).\n"
    )


def _cost(name: str, record: Mapping[str, Any]) -> str:
    curves = record["cost"]["curves"]
    rows = [
        [f"{a['calls']}", *(percent(curve[i]["added"]) for curve in curves.values())]
        for i, a in enumerate(next(iter(curves.values())))
        if a["draws"] in SHOWN
    ]
    return (
        "What an estimator adds to the standard error of the full sum "
        f"({record['cost']['full_sum_calls']:,} network calls an image), which the images' own differences leave:\n\n"
        + table(["calls an image", *(NAMES[kind] for kind in curves)], rows)
        + f"\n![added standard error against calls](results/{PREFIX}{name}.svg)\n"
    )


def _curve(record: Mapping[str, Any]) -> str:
    curves = record["cost"]["curves"]
    lines = [
        Line([row["calls"] for row in curve], [max(row["added"], 1e-4) for row in curve], label=NAMES[kind])
        for kind, curve in curves.items()
    ]
    summary = "The share that each estimator adds to the standard error, against network calls an image."
    return plot(lines, "network calls an image", "added standard error, share", summary, log_x=True, log_y=True)


def _coverage(record: Mapping[str, Any]) -> str:
    population, noise = record["coverage"]["population"], record["coverage"]["noise"]
    rows = [
        [
            f"{population['images']} images drawn afresh from {population['pool']}",
            *(percent(share) for share in population["share"].values()),
        ],
        [
            f"the draws alone, of {noise['images']} fixed images ({noise['replicates']} randomisations, "
            f"{noise['levels']} levels, truth from {noise['draws_a_level']} draws of each)",
            *(percent(share) for share in noise["share"].values()),
        ],
    ]
    names = [NAMES[kind] for kind in population["share"]]
    return (
        f"How often the 95 % interval holds the truth, in {population['repeats']:,} repeats resampled from the table, "
        f"at {population['draws']} draws an image:\n\n" + table(["interval of", *names], rows)
    )


def _levels(name: str, record: Mapping[str, Any]) -> str:
    few = record["few_levels"]
    total = few["all_levels_bits_per_dim"]
    rows = [
        [
            f"{row['levels']:,}",
            *(plus_minus(row[kind], 4) for kind in GRIDS),
            _ratio(row),
        ]
        for row in few["rows"]
    ]
    return (
        "K levels against all: bits/dim above the full grid with isotropic variances; same network, same level 1 and "
        "decoder. Grids and isotropic variances are fitted on other images; β̃ and β are the variances that need no "
        "fit.\n\n"
        + table(["K", *GRIDS.values(), "last ÷ first"], rows)
        + (f"\n![excess against the number of levels](results/few_levels_{name}.svg)\n\n" if _drawable(few) else "\n")
        + f"The levels cost {plus_minus(total['isotropic'], 4)} bits/dim on the full grid with isotropic variances, "
        + f"{plus_minus(total['posterior'], 4)} with β̃, {plus_minus(total['step'], 4)} with β, and "
        + f"{plus_minus(total['continuous'], 4)} where they are infinitely many; prior and reconstruction add "
        + f"{plus_minus(few['prior_and_reconstruction_bits_per_dim'], 4)}.\n"
    )


def _ratio(row: Mapping[str, Any]) -> str:
    first, last = row["optimal_isotropic"]["mean"], row["even_step"]["mean"]
    return f"{last / first:.1f}" if first > 1e-9 else ""


def _drawable(few: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows that have a place on logarithmic axes."""
    return [row for row in few["rows"] if all(row[kind]["mean"] > 1e-6 for kind in GRIDS)]


def _level_curve(record: Mapping[str, Any]) -> str:
    rows = _drawable(record["few_levels"])
    if not rows:
        return ""
    count = [row["levels"] for row in rows]
    lines = [Line(count, [row[kind]["mean"] for row in rows], label=text) for kind, text in GRIDS.items()]
    summary = "Bits/dim above the full grid against the number of levels K, by grid and variance."
    return plot(lines, "levels K", "bits/dim above all levels", summary, log_x=True, log_y=True)
