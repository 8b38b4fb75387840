"""The section on control where the truth is known. Record: control.json, by control.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from results_common import Section, percent, signed, table


def section(records: Mapping[str, Any]) -> Section | None:
    if "control" not in records:
        return None
    record = records["control"]
    parts = [
        "## Control where the truth is known\n",
        "Exact denoisers of Gaussian and mixture data in float64. By `python benchmarks/control.py`.\n",
        _matching(record["matching"]),
        _repaint(record["repaint"]),
        _round_trip(record["round_trip"]),
        _guided(record["guided"]),
    ]
    return Section("\n".join(parts))


def _matching(rows: list[dict[str, Any]]) -> str:
    steps = list(dict.fromkeys(row["steps"] for row in rows))
    lines = []
    for problem, covariance in dict.fromkeys((r["problem"], r["covariance"]) for r in rows):
        found = {r["steps"]: r for r in rows if (r["problem"], r["covariance"]) == (problem, covariance)}
        for what, name in (("mean", "mean"), ("spread", "covariance")):
            cells = [percent(found[s][what], 2) for s in steps]
            lines.append([f"{problem}, C {covariance}: {name}", *cells])
    return (
        "### The posterior by moment matching\n\n"
        "Relative error of the mean and of the covariance (Frobenius norm) of P(x|y), Gaussian images of 16 pixels "
        "with a 1/f spectrum. With the full covariance the exact moments are reached as steps grow; with an isotropic "
        "one what was observed is met, and the rest is too wide or too narrow.\n\n"
        + table(["problem", *(f"{s} steps" for s in steps)], lines)
    )


def _repaint(rows: list[dict[str, Any]]) -> str:
    cells = [
        f"{percent(r['covariance_over_truth']['mean'])} ± {percent(r['covariance_over_truth']['stderr'])}" for r in rows
    ]
    return (
        "### RePaint\n\n"
        "Two numbers with a correlation of 0.9, one known: the covariance of the drawn one with it, as a share of the "
        "truth, by how often each of 30 ancestral steps is taken.\n\n"
        + table(["taken", *(f"{r['resampling']}×" for r in rows)], [["Cov / truth", *cells]])
    )


def _round_trip(rows: list[dict[str, Any]]) -> str:
    steps = rows[0]["steps"]
    lines = [
        [f"`{r['solver']}`", str(r["order"]), *(f"{e:.2g}" for e in r["rmse"]), f"{r['falls_as']:.2f}"] for r in rows
    ]
    return (
        "### Encode, then decode\n\n"
        "Root mean square error of the round trip on a mixture of two Gaussians of 16 pixels. It falls at the solver's "
        "order, and one faster where that is even: the leading errors of the two ways, ∝ hᵖ and (−h)ᵖ, cancel.\n\n"
        + table(["solver", "order", *(f"{s} steps" for s in steps), "falls as steps to the power −"], lines)
    )


def _guided(rows: list[dict[str, Any]]) -> str:
    calls = list(dict.fromkeys(row["calls"] for row in rows))
    lines = []
    for weight, solver in dict.fromkeys((r["weight"], r["solver"]) for r in rows):
        found = {r["calls"]: r for r in rows if (r["weight"], r["solver"]) == (weight, solver)}
        cells = [f"{found[c]['rmse']:.4f} ({signed(found[c]['shift'], 4)})" for c in calls]
        lines.append([f"{weight:g}", f"`{solver}`", *cells])
    return (
        "### Guidance at few calls\n\n"
        "Two classes on a line at ±0.6 with width 0.1, the one at −0.6 asked for: root mean square distance to a fine "
        "walk of the same guided model, and in brackets the shift of the mean (above 0 is away from the class). Where "
        "the class is decided, the guided x̂ turns back sharply, the more the larger the weight; extrapolating it then "
        "overshoots.\n\n" + table(["weight", "solver", *(f"{c} calls" for c in calls)], lines)
    )
