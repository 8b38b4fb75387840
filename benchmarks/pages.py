"""Four pages of docs/ (results, performance, records, popular) from docs/results/, each by a committed command.

    python benchmarks/pages.py            write the pages and their pictures
    python benchmarks/pages.py --check    exit 1 where a page is not what the records say

A section takes the records whose names begin with its prefixes, and is left out without any.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markovae.report.plots import Line, alone, plot
from markovae.system.files import make_folder, write_file

DOCS = Path(__file__).resolve().parent.parent / "docs"
RECORDS = DOCS / "results"
Record = Mapping[str, Any]
Records = Mapping[str, Record]
Pictures = dict[str, str]
"""SVG by file name in docs/results/."""
RESULTS = """\
# Results

Written by `python benchmarks/pages.py` from the records in `docs/results/`, which the commands named below wrote.
± is one standard error. Color images were seen with `network.spectral=0`, which the configurations of `make reference`
and `make captions` say; the recipes for the bound excepted.
"""
PERFORMANCE = """\
# Performance

Written by `python benchmarks/pages.py` from the records in `docs/results/`, which the commands named below
wrote, each with what the machine can do and what else ran on it. A figure is the median of the rounds, with the least
and the greatest of them in brackets. `python benchmarks/gpu.py` does the same on a GPU, first checking it against the
CPU in float64; `python benchmarks/time_to_bound.py` compares whole recipes by the bits/dim they reach.
"""
RECORDS_HEAD = """\
# Records

Bits/dim on images that nothing was trained on, each by one command. Written by `python benchmarks/pages.py` from the
records in `docs/results/record_*.json`. ± is one standard error over images.
Each figure is the upper bound printed by `markovae measure`.
"""
RULES = """\
## Entering a record

1. The data set is public, and its official test part is measured: whole, or its first images (state how many).
   Nothing is trained or chosen by a test image; validation images come from the training part.
2. One command makes it: `python benchmarks/record.py DATA --minutes M --seed S --out RUN`. Wall time is that of the
   training, every held-out bound on the way included; measuring is apart.
3. The run's folder is sent whole, with `record.json` and `record.csv`, and `python benchmarks/record.py --check RUN`
   passes on another machine. It verifies the bundle's SHA-256 sums, the configuration, the split and the hashes of the
   data, that no test image is among those trained on, that the rows make the claim, and measures images drawn at random
   again, each to 0.1 %. It takes wall time and machine on trust: name the processor, and what else ran on it.
4. Three seeds where the difference to the next record is below 0.02 bits/dim.
5. The pixels are the data set's own. Bits/dim of images that were decoded from JPEG, resized or cropped are of
   different data and go in a separate table.

Then the record goes into `docs/results` (`--enter NAME`), and `python benchmarks/pages.py` makes this
page.
"""

BUSY = """\
## A busy machine

By `python benchmarks/busy.py --rounds 1` on 2 cores of an AMD EPYC (avx2) that about twenty other processes wanted at
once, one round: the direction is to be trusted, the digits are not.

| beside | threads | speed, of one thread's | switches against its will, a work |
| --- | --- | ---: | ---: |
| nothing of ours | all threads | 0.12 | 47.5 |
| nothing of ours | all threads, GOMP_SPINCOUNT=0 | 1.86 | 44.3 |
| nothing of ours | all threads, OMP_WAIT_POLICY=passive | 1.91 | 47.5 |
| nothing of ours | as chosen | 1.17 | 3.4 |
| a busy core | all threads | 0.09 | 59.0 |
| a busy core | all threads, GOMP_SPINCOUNT=0 | 3.90 | 24.9 |
| a busy core | all threads, OMP_WAIT_POLICY=passive | 5.48 | 20.2 |
| a busy core | as chosen | 0.64 | 4.9 |

An operation is cut into equal parts, one a thread, and ends with its last part. libgomp, which torch's builds for Linux
use, lets the threads that are done spin at that barrier. Where another process shares a core, a spinning thread uses
up its turn of a few milliseconds waiting, loses the core when its next part comes, and the others spin in their turn:
an operation of a fraction of a millisecond takes a turn or two. That is the factor of ten between the rows with and
without spinning. So the number of threads is timed (`src/markovae/system/threads.py`): several that spin are rarely
chosen beside a neighbor. Without spinning two threads also get two shares of a crowded processor; the
command line sets `GOMP_SPINCOUNT=10000` unless you set it or `OMP_WAIT_POLICY`; from Python, set it before torch is
imported.

Not measured, for want of a quiet machine: the shares of a step on this kind of processor, memory formats, and whether
half of the quiet speed of two threads is kept beside one busy core.
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, with the first column to the left and the others to the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)) + "\n"


def plus_minus(figure: Mapping[str, Any], digits: int) -> str:
    """mean ± stderr."""
    return f"{figure['mean']:.{digits}f} ± {figure['stderr']:.{digits}f}".replace("-", "−")


def percents(figure: Mapping[str, float], digits: int = 1) -> str:
    """mean ± stderr of shares, in per cent."""
    return plus_minus({name: 100 * figure[name] for name in ("mean", "stderr")}, digits) + " %"


def share(figure: Mapping[str, float], n: int, digits: int = 1) -> str:
    """A share of n; where all or none are right there is no spread to take an error from."""
    if figure["stderr"] == 0 and figure["mean"] in (0, 1):
        return f"{'all' if figure['mean'] else 'none'} of {n:,}"
    return percents(figure, digits)


def thousands(figure: Mapping[str, float]) -> str:
    """1000 × mean ± stderr."""
    return plus_minus({name: 1000 * figure[name] for name in ("mean", "stderr")}, 2)


def percent(share: float, digits: int = 1) -> str:
    """A share in per cent."""
    return f"{100 * share:.{digits}f} %".replace("-", "−")


def signed(value: float, digits: int) -> str:
    """A number with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


# -------------------- bits

BITS_GRIDS = {
    "optimal_isotropic": "optimal, isotropic",
    "even_isotropic": "even strides, isotropic",
    "even_posterior": "even strides, β̃",
    "even_step": "even strides, β",
}
BITS_SHOWN = (1, 2, 3, 4, 6, 9, 16, 32, 64)


def bits(found: Records) -> tuple[list[str], Pictures]:
    parts, pictures = [], {}
    for name, record in found.items():
        parts += [bits_model(name, record), bits_cost(name, record), bits_coverage(record), bits_levels(name, record)]
        pictures[f"elbo_cost_{name}.svg"] = alone(bits_curve(record))
        if drawing := bits_level_curve(record):
            pictures[f"few_levels_{name}.svg"] = alone(drawing)
    return parts, pictures


def bits_model(name: str, record: Record) -> str:
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


def bits_cost(name: str, record: Record) -> str:
    curves = record["cost"]["curves"]
    rows = [
        [f"{a['calls']}", *(percent(curve[i]["added"]) for curve in curves.values())]
        for i, a in enumerate(next(iter(curves.values())))
        if a["draws"] in BITS_SHOWN
    ]
    return (
        "What an estimator adds to the standard error of the full sum "
        f"({record['cost']['full_sum_calls']:,} network calls per image), which the images' own differences leave:\n\n"
        + table(["calls per image", *curves], rows)
        + f"\n![added standard error against calls](results/elbo_cost_{name}.svg)\n"
    )


def bits_curve(record: Record) -> str:
    curves = record["cost"]["curves"]
    lines = [
        Line([row["calls"] for row in curve], [max(row["added"], 1e-4) for row in curve], label=kind)
        for kind, curve in curves.items()
    ]
    summary = "The share that each estimator adds to the standard error, against network calls per image."
    return plot(lines, "network calls per image", "added standard error, share", summary, log_x=True, log_y=True)


def bits_coverage(record: Record) -> str:
    population, noise = record["coverage"]["population"], record["coverage"]["noise"]
    rows = [
        [
            f"{population['images']} images drawn afresh from {population['pool']}",
            *(percent(share) for share in population["share"].values()),
        ],
        [
            f"the draws alone, of {noise['images']} fixed images ({noise['replicates']} randomizations, "
            f"{noise['levels']} levels, truth from {noise['draws_a_level']} draws of each)",
            *(percent(share) for share in noise["share"].values()),
        ],
    ]
    return (
        f"How often the 95 % interval holds the truth, in {population['repeats']:,} repeats resampled from the table, "
        f"at {population['draws']} draws per image:\n\n" + table(["interval of", *population["share"]], rows)
    )


def bits_levels(name: str, record: Record) -> str:
    few = record["few_levels"]
    total = few["all_levels_bits_per_dim"]
    rows = [
        [
            f"{row['levels']:,}",
            *(plus_minus(row[kind], 4) for kind in BITS_GRIDS),
            bits_ratio(row),
        ]
        for row in few["rows"]
    ]
    return (
        "K levels against all: bits/dim above the full grid with isotropic variances; same network, same level 1 and "
        "decoder. Grids and isotropic variances are fitted on other images; β̃ and β are the variances that need no "
        "fit.\n\n"
        + table(["K", *BITS_GRIDS.values(), "last ÷ first"], rows)
        + (
            f"\n![excess against the number of levels](results/few_levels_{name}.svg)\n\n"
            if bits_drawable(few)
            else "\n"
        )
        + f"The levels cost {plus_minus(total['isotropic'], 4)} bits/dim on the full grid with isotropic variances, "
        + f"{plus_minus(total['posterior'], 4)} with β̃, {plus_minus(total['step'], 4)} with β, and "
        + f"{plus_minus(total['continuous'], 4)} where they are infinitely many; prior and reconstruction add "
        + f"{plus_minus(few['prior_and_reconstruction_bits_per_dim'], 4)}.\n"
    )


def bits_ratio(row: Record) -> str:
    first, last = row["optimal_isotropic"]["mean"], row["even_step"]["mean"]
    return f"{last / first:.1f}" if first > 1e-9 else ""


def bits_drawable(few: Record) -> list[Record]:
    """The rows that have a place on logarithmic axes."""
    return [row for row in few["rows"] if all(row[kind]["mean"] > 1e-6 for kind in BITS_GRIDS)]


def bits_level_curve(record: Record) -> str:
    rows = bits_drawable(record["few_levels"])
    if not rows:
        return ""
    count = [row["levels"] for row in rows]
    lines = [Line(count, [row[kind]["mean"] for row in rows], label=text) for kind, text in BITS_GRIDS.items()]
    summary = "Bits/dim above the full grid against the number of levels K, by grid and variance."
    return plot(lines, "levels K", "bits/dim above all levels", summary, log_x=True, log_y=True)


# -------------------- recipe


def recipe(found: Records) -> tuple[list[str], Pictures]:
    return [recipe_arms(name, record) for name, record in found.items()], {}


def recipe_arms(name: str, record: Record) -> str:
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
    base = "Ho et al.'s" if record["base"] == "ho" else record["base"]
    head = ("arm", "images seen", "bits/dim", "of which the decoder's", f"less than {base}, paired (95 %)")
    first, cores = next(iter(record["arms"].values())), record["machine"]["threads"]
    threads = "one core" if cores == 1 else f"{cores} cores"
    return (
        f"### {name}\n\n{record['minutes']:g} minutes of training each on {threads}, "
        f"{first['n']:,} test images, {record['draws']} levels drawn per image. By `{record['command']}`.\n\n"
        f"{table(head, rows)}"
    )


# -------------------- codec


def codec(found: Records) -> tuple[list[str], Pictures]:
    rows: list[dict[str, Any]] = [row for record in found.values() for row in record]  # type: ignore[misc]
    files = [row for row in rows if "bytes" in row]
    return [
        "Bytes beside the bound of the same images on the same levels, by `python benchmarks/codec.py RUN` and the "
        "options that the table names; one core of a machine that other work shared, in processor time. Over the bound "
        "are the header and the groups' hashes, the images' classes, what plain images take more than their bound, and "
        "what the others take more than theirs, which is noise but for the coder's own part. That is beside what "
        "the very paths that were coded cost.\n",
        table(
            ("images", "levels, grid", "group, batch", "bytes", "bits/dim", "bound ± 1.96 s.e.", "over it"),
            [codec_file(row) for row in files],
        ),
        table(
            ("images", "header, groups", "classes", "plain images", "others", "the coder's", "images/s", "network"),
            [codec_parts(row) for row in files if "parts" in row],
        ),
        table(
            (
                "1,000 images",
                "PNG",
                "WebP",
                "JPEG XL",
                "one sheet: PNG",
                "WebP",
                "JPEG XL",
                "model",
                "with weights",
            ),
            [codec_formats(row) for row in files if row["images"] >= 1000],
        ),
        *(codec_curve(row) for row in rows if "curve" in row),
    ], {}


def codec_name(row: Record) -> str:
    return f"{row['images']:,} of {row.get('data', 'faces')}"


def codec_file(row: Record) -> list[str]:
    return [
        codec_name(row),
        f"{row['levels']:,}, {row['grid']}",
        f"{row['group'] or 'all'}, {row['batch']}{', portable' if row['portable'] else ''}",
        f"{row['bytes']:,}",
        f"{row['bits_per_dim']:.4f}",
        f"{row['bound']:.4f} ± {1.96 * row['bound_stderr']:.4f}",
        percent(row["over_the_bound"], 2),
    ]


def codec_parts(row: Record) -> list[str]:
    parts, bound = row["parts"], row["bytes"] / (1 + row["over_the_bound"])
    return [
        f"{codec_name(row)}, {row['levels']:,} levels",
        percent((parts["header"] + parts["groups"]) / bound, 3),
        percent(parts["side"] / bound, 3),
        percent((parts["plain"] - parts["plain_by_the_bound"]) / bound, 3),
        percent((parts["chained"] - parts["chained_by_the_bound"]) / bound, 3),
        percent(parts["chained"] / parts["chained_by_their_paths"] - 1, 3),
        f"{row['images_per_cpu_second']['encoding']:.2f}",
        percent(row["share_of_time_in_the_network"], 0),
    ]


def codec_formats(row: Record) -> list[str]:
    weights, sizes = row.get("weights"), (row["bytes_of"]["one_file_each"], row["bytes_of"]["all_in_one"])
    return [
        row.get("data", "faces"),
        *(f"{size[kind]:,}" for size in sizes for kind in ("PNG", "WEBP", "JXL")),
        f"{row['bytes']:,}",
        f"{row['bytes'] + weights['bytes']:,}" if weights else "",
    ]


def codec_curve(row: Record) -> str:
    dims = row["dims"]
    rows = [
        [
            f"{point['levels']:,}, {point['grid']}",
            f"{point['bits_per_dim']:.3f} ± {point['stderr']:.3f}",
            f"{point['bits_per_dim'] * dims * 1000 / 8:,.0f}",
            f"{point['cpu_seconds']:.2f}",
        ]
        for point in row["curve"]
    ]
    head = ("levels, grid", "bound, bits/dim", "bytes of 1,000 images", "seconds per image")
    return f"Bytes against time, {codec_name(row)}:\n\n{table(head, rows)}"


# -------------------- samplers


def samplers(found: Records) -> tuple[list[str], Pictures]:
    parts, pictures = [], {}
    for name, record in found.items():
        parts += [samplers_about(name, record), samplers_kid(record), samplers_distance(record)]
        parts += [
            samplers_verdict(record),
            f"![Distance to the fine trajectory against calls](results/samplers_{name}.svg)\n",
        ]
        pictures[f"samplers_{name}.svg"] = alone(samplers_curves(record))
    return parts, pictures


def samplers_about(name: str, record: Record) -> str:
    peers = f"diffusers {record['diffusers']}" if record["diffusers"] else "no peers"
    return (
        f"### {name}\n\n"
        f"Model `{record['checkpoint']['digest']}` ({record['checkpoint']['step']:,} steps), {record['n']:,} samples "
        f"of seed {record['seed']} a cell, against {record['reference']['n']:,} held-out images in the features "
        f"`{record['extractor']['name']}`; {peers}, driving the same network in the same run; {record['threads']} "
        f"threads, {record['batch']} images at a time. By `python benchmarks/samplers.py RUN --n {record['n']}`.\n"
    )


def samplers_kid(record: Record) -> str:
    """KID × 1000, a line a sampler."""
    calls = record["calls"]
    head = ["KID × 1000", *(f"{c} calls" for c in calls), f"ms per image, {max(calls)} calls"]
    lines = []
    for ours, name in dict.fromkeys((r["ours"], r["sampler"]) for r in record["rows"] if r["calls"] in calls):
        found = {r["calls"]: r for r in record["rows"] if (r["ours"], r["sampler"]) == (ours, name)}
        lines.append(
            [samplers_named(ours, name), *(thousands(found[c]["kid"]) for c in calls), f"{found[max(calls)]['ms']:.0f}"]
        )
    chain = samplers_chain(record)
    if chain is not None:
        lines.append(
            [
                f"`ancestral`, {chain['calls']} calls: {thousands(chain['kid'])}",
                *[""] * len(calls),
                f"{chain['ms']:.0f}",
            ]
        )
    return table(head, lines) + f"\nTraining images in the samples' place: {thousands(record['floor'])}.\n"


def samplers_distance(record: Record) -> str:
    """RMSE to the fine trajectory, the solvers alone, the nearest at the fewest calls first."""
    calls = record["calls"]
    names = dict.fromkeys((r["ours"], r["sampler"]) for r in record["rows"] if r["rmse"] is not None)
    lines = []
    for ours, name in names:
        found = {r["calls"]: r for r in record["rows"] if (r["ours"], r["sampler"]) == (ours, name)}
        lines.append(
            (found[calls[-1]]["rmse"], [samplers_named(ours, name), *(f"{found[c]['rmse']:.4f}" for c in calls)])
        )
    return (
        f"Root mean square distance to a trajectory of {record['fine_calls']} calls from the same noise, over "
        f"{record['paired']} samples, on the scale −1…1:\n\n"
        + table(["solver", *(f"{c} calls" for c in calls)], [line for _, line in sorted(lines)])
    )


def samplers_verdict(record: Record) -> str:
    """The best of ours beside the best of the peers', and how near our default and our best come to the chain."""
    lines, chain = [], samplers_chain(record)
    for calls in record["calls"]:
        rows = [r for r in record["rows"] if r["calls"] == calls]
        for what, key in (("nearest to the fine trajectory", "rmse"), ("least KID × 1000", "kid")):
            best = [
                samplers_best([r for r in rows if r["ours"] == ours and r[key] is not None], key)
                for ours in (True, False)
            ]
            lines.append(f"- {calls} calls, {what}: " + ", ".join(text for text in best if text))
        mine = [r for r in rows if r["ours"] and r["over_chain"] is not None]
        named = [r for r in mine if r["sampler"] == record["default"]]
        least = min(mine, key=lambda r: r["kid"]["mean"], default=None)
        if chain is not None and least is not None:
            lines += [samplers_beside(record, chain, row) for row in (named if least in named else [*named, least])]
    return "\n".join(lines) + "\n"


def samplers_beside(record: Record, chain: Record, row: Record) -> str:
    """One sampler of ours against the whole chain."""
    over = row["over_chain"]
    upper = over["mean"] + 1.96 * over["stderr"]
    return (
        f"- {row['calls']} calls of `{row['sampler']}` against {chain['calls']} of `ancestral`: KID × 1000 differs "
        f"by {thousands(over)} (upper 95 % limit {signed(1000 * upper, 2)}; allowed: 5 % of the chain's KID and "
        f"the floor's standard error, {1000 * (0.05 * chain['kid']['mean'] + record['floor']['stderr']):.2f}), "
        f"{row['kid']['mean'] / chain['kid']['mean']:.2f} times; {chain['ms'] / row['ms']:.0f} times faster"
    )


def samplers_best(rows: Sequence[Record], key: str) -> str:
    if not rows:
        return ""
    best = min(rows, key=lambda r: r["rmse"] if key == "rmse" else r["kid"]["mean"])
    value = f"{best['rmse']:.4f}" if key == "rmse" else thousands(best["kid"])
    return f"{samplers_named(best['ours'], best['sampler'])} {value}"


def samplers_curves(record: Record) -> str:
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
        "network calls per image",
        "distance to the fine trajectory",
        "Root mean square distance to a fine trajectory of the same seeds, falling with the number of network calls.",
        log_x=True,
        log_y=True,
    )


def samplers_chain(record: Record) -> Record | None:
    return next((r for r in record["rows"] if r["sampler"] == "ancestral" and r["calls"] == record["levels"]), None)


def samplers_named(ours: bool, name: str) -> str:
    return f"`{name}`" if ours else f"diffusers {name}"


# -------------------- students


def students(found: Records) -> tuple[list[str], Pictures]:
    return [(students_stable if "students" in r else students_beside)(name, r) for name, r in found.items()], {}


def students_beside(name: str, record: Record) -> str:
    about = (
        f"### {name}\n\nStudents of `tests/fixtures/reference`, {record['minutes']:g} minutes each on one core of "
        f"{record['processor']}, shared with other work (the seconds are the processor's); {record['n']:,} samples of "
        "the same seeds; real images get a KID × 1000 of "
        f"{1000 * next(iter(record['models'].values()))['floor']:.2f}. By `python benchmarks/distill.py --folder OUT "
        f"--run tests/fixtures/reference --minutes {record['minutes']:g}"
        f"{''.join(f' --set {word}' for word in record['settings'])}`.\n"
    )
    rows = []
    for model, row in record["models"].items():
        kid = plus_minus({"mean": 1000 * row["kid"], "stderr": 1000 * row["stderr"]}, 2)
        spent = [f"{row['steps']:,}", f"{row['seconds']:,.0f}"] if "steps" in row else ["", ""]
        who = f"{model} evaluation{'s' * (not model.endswith(' 1'))}"
        who += f", `{row['sampler']}`" if "sampler" in row else ""
        rows.append([who, kid, f"{row['recall']:.2f}", f"{row['precision']:.2f}", *spent])
    parts = [about, table(["model", "KID × 1000", "recall", "precision", "steps", "seconds"], rows)]
    if record.get("chains"):
        names = list(record["chains"])
        rows = [
            [
                key,
                *(
                    plus_minus(record["chains"][model][key], 3) if key in record["chains"][model] else ""
                    for model in names
                ),
            ]
            for key in record["chains"][names[0]]
        ]
        parts.append("Chains of few levels, bits/dim: how many, at which log-SNRs, with which fitted variance.\n")
        parts.append(table(["chain", *names], rows))
    return "\n".join(parts)


def students_stable(name: str, record: Record) -> str:
    rows = record["students"]
    best = min(rows, key=lambda row: row["kid"])
    kids = sorted(1000 * row["kid"] for row in rows)
    rates = [row["rates"] for row in rows]
    short = sum(row.get("computed_in") == "bfloat16" for row in rows)
    return (
        f"### {name}: do they all end well?\n\n{len(rows)} students of two evaluations of the 8×8 digits "
        f"({record['steps']} steps each), each with its own seed, rates {min(rates):.2f} to {max(rates):.2f} times "
        f"the default, {short} in bfloat16 (emulated here); KID of {record['n']} samples. {record['finite']} "
        f"of {len(rows)} end finite; {record['within_1.5_of_the_best']} are within 1.5 times the best, "
        f"{record['not_beyond_1.5_by_two_errors']} not beyond it by two standard errors. KID × 1000: best "
        f"{kids[0]:.1f} ± {1000 * best['stderr']:.1f}, median {kids[len(kids) // 2]:.1f}, worst {kids[-1]:.1f}. By "
        f"`python benchmarks/distill.py --folder OUT --teacher-steps 800 --calls 2 --steps {record['steps']} --n "
        f"{record['n']} --stability 20`.\n"
    )


# -------------------- steps that are no Gaussians


def steps(found: Records) -> tuple[list[str], Pictures]:
    return [steps_of(name, record) for name, record in found.items()], {}


def steps_of(name: str, record: Record) -> str:
    kinds = list(next(iter(record["chains"].values())))
    rows = [
        [levels, *(plus_minus({"mean": row[kind]["bits_per_dim"], "stderr": row[kind]["stderr"]}, 3) for kind in kinds)]
        for levels, row in record["chains"].items()
    ]
    saved = [
        ["", *(plus_minus({"mean": row[kind]["saved"], "stderr": row[kind]["saved_stderr"]}, 3) for kind in kinds)]
        for row in record["chains"].values()
    ]
    return "\n".join(
        [
            f"### {name}\n\nThe teacher's chain of K levels, those of the least bound with isotropic variances; "
            f"{record['test']} test images, heads trained for {float(record['seconds']):.0f} s of a core each on "
            f"{record['train']} training images; below, what is saved against `isotropic`, on the same images. All "
            f"{record['all_levels']['levels']:,} levels with isotropic variances: "
            f"{plus_minus(record['all_levels'], 3)}. By "
            f"`python benchmarks/few_levels.py {record['run']} --train {record['train']} --fit {record['fit']} --test "
            f"{record['test']} --seconds {float(record['seconds']):.0f}`.\n",
            table(
                ["levels", *(f"{kind}, bits/dim" for kind in kinds)],
                [r for pair in zip(rows, saved, strict=True) for r in pair],
            ),
        ]
    )


# -------------------- guidance


def guidance(found: Records) -> tuple[list[str], Pictures]:
    parts, pictures = [], {}
    for name, record in found.items():
        parts += [guidance_about(name, record), guidance_table(record)]
        for what in ("accuracy", "kid"):
            pictures[f"guidance_{name}_{what}.svg"] = alone(guidance_curve(record, what))
            parts.append(f"![{GUIDANCE_TITLES[what]} against the weight](results/guidance_{name}_{what}.svg)\n")
    return parts, pictures


GUIDANCE_TITLES = {"accuracy": "class accuracy, per cent", "kid": "KID × 1000"}
GUIDANCE_SCALES = {"accuracy": 100.0, "kid": 1000.0}


def guidance_about(name: str, record: Record) -> str:
    judge = record["classifier"]
    return (
        f"### {name}\n\n"
        f"Model `{record['checkpoint']['digest']}` ({record['checkpoint']['step']:,} steps), `{record['sampler']}` in "
        f"{record['steps']} calls, {record['n']:,} samples a weight with the classes of as many training images. The "
        f"classifier (`python benchmarks/classifier.py DATA`) is right on {100 * judge['test_accuracy']:.1f} % of the "
        f"test images and {100 * judge['training_images']:.1f} % of those training images. KID against "
        f"{record['reference']['n']:,} held-out images in the features `{record['extractor']['name']}`; training "
        f"images get {thousands(record['floor'])} × 10⁻³. By `python benchmarks/guidance.py RUN --n {record['n']}`.\n"
    )


def guidance_table(record: Record) -> str:
    rows = [
        [f"{row['weight']:g}", guidance_where(row), percents(row["accuracy"]), thousands(row["kid"])]
        for row in record["rows"]
    ]
    return table(["weight", "acts", "class accuracy", "KID × 1000"], rows)


def guidance_curve(record: Record, what: str) -> str:
    lines = []
    for where in dict.fromkeys(guidance_where(row) for row in record["rows"]):
        rows = sorted((r for r in record["rows"] if guidance_where(r) == where), key=lambda r: r["weight"])
        scale = GUIDANCE_SCALES[what]
        lines.append(
            Line(
                [r["weight"] for r in rows],
                [scale * r[what]["mean"] for r in rows],
                [scale * r[what]["stderr"] for r in rows],
                label=where,
            )
        )
    title = GUIDANCE_TITLES[what]
    return plot(
        lines, "guidance weight", title, f"{title} against the guidance weight, with bands of one standard error."
    )


def guidance_where(row: Record) -> str:
    if row["interval"] is None:
        return "everywhere"
    low, high = row["interval"]
    return f"log-SNR {signed(low, 0)} to {signed(high, 0)}"


# -------------------- control


def control(found: Records) -> tuple[list[str], Pictures]:
    (record,) = found.values()
    return [
        "Exact denoisers of Gaussian and mixture data in float64. By `python benchmarks/control.py`.\n",
        control_matching(record["matching"]),
        control_repaint(record["repaint"]),
        control_round_trip(record["round_trip"]),
        control_guided(record["guided"]),
    ], {}


def control_matching(rows: list[Record]) -> str:
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


def control_repaint(rows: list[Record]) -> str:
    cells = [
        f"{percent(r['covariance_over_truth']['mean'])} ± {percent(r['covariance_over_truth']['stderr'])}" for r in rows
    ]
    return (
        "### RePaint\n\n"
        "Two numbers with a correlation of 0.9, one known: the covariance of the drawn one with it, as a share of the "
        "truth, by how often each of 30 ancestral steps is taken.\n\n"
        + table(["taken", *(f"{r['resampling']}×" for r in rows)], [["Cov / truth", *cells]])
    )


def control_round_trip(rows: list[Record]) -> str:
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


def control_guided(rows: list[Record]) -> str:
    calls = list(dict.fromkeys(row["calls"] for row in rows))
    lines = []
    for weight, solver in dict.fromkeys((r["weight"], r["solver"]) for r in rows):
        found = {r["calls"]: r for r in rows if (r["weight"], r["solver"]) == (weight, solver)}
        cells = [f"{found[c]['rmse']:.4f} ({signed(found[c]['shift'], 4)})" for c in calls]
        lines.append([f"{weight:g}", f"`{solver}`", *cells])
    return (
        "### Guidance at few calls\n\n"
        "Two classes on a line at ±0.6 with width 0.1, the one at −0.6 asked for: root mean square distance to a fine "
        "trajectory of the same guided model, and in brackets the shift of the mean (above 0 is away from the class). "
        "Where the class is decided, the guided x̂ turns back sharply, the more the larger the weight; "
        "extrapolating it then overshoots.\n\n" + table(["weight", "solver", *(f"{c} calls" for c in calls)], lines)
    )


# -------------------- captions

CAPTIONS_GOAL = 0.99
CAPTIONS_NONE_OF = 3.0  # −ln 0.05: the upper 95 % limit of a mean count of which none was seen
CAPTIONS_CONFUSIONS = 6


def captions(found: Records) -> tuple[list[str], Pictures]:
    made = {name: record for name, record in found.items() if name != "attributes"}
    parts = [captions_judge(found["attributes"])] if "attributes" in found else []
    if made:
        parts += [captions_attributes(made), *(captions_about(name, record) for name, record in made.items())]
    return parts, {}


def captions_judge(record: Record) -> str:
    spoilt = record["spoilt"]
    rows = [
        [captions_words(name), *(share(each[name], record["n"]) for each in (record["accuracy"], *spoilt.values()))]
        for name in record["accuracy"]
    ]
    below = [captions_words(name) for name, found in record["accuracy"].items() if found["mean"] < CAPTIONS_GOAL]
    verdict = (
        f"Below {100 * CAPTIONS_GOAL:.0f} %: {', '.join(below)}."
        if below
        else f"All are at {100 * CAPTIONS_GOAL:.0f} % or above."
    )
    if not record["confusions"]:
        verdict += (
            f" None of {record['n']:,} is wrong: 95 % limit of an error {100 * CAPTIONS_NONE_OF / record['n']:.1f} %."
        )
    told = [
        f"{captions_words(c['attribute'])}: {c['shown']} told as {c['told']} ({c['times']} of {c['of']})"
        for c in record["confusions"][:CAPTIONS_CONFUSIONS]
    ]
    return (
        "### The judge\n\n"
        f"A small network that tells each attribute of a face at 32 pixels, on {record['n']:,} drawn test faces; it "
        f"learnt from {record['recipe']['faces']:,} others. By `python benchmarks/attributes.py`.\n\n"
        + table(["attribute", "right", *(f"under {name}" for name in spoilt)], rows)
        + f"\n{verdict}{' Its most frequent errors: ' if told else ''}{'; '.join(told)}\n"
    )


def captions_attributes(made: Record) -> str:
    names = list(next(iter(made.values()))["test"]["accuracy"])
    tests = [record["test"] for record in made.values()]
    rows = [[captions_words(name), *(share(test["accuracy"][name], test["n"]) for test in tests)] for name in names]
    rows.append(["mean of all", *(share(test["all"], test["n"]) for test in tests)])
    rows.append(["mean of the eight that 32 pixels show", *(share(test["claimed"], test["n"]) for test in tests)])
    return (
        "### Attributes asked for and shown\n\n"
        "The share of images, one a caption of a test face, in which the judge sees what the caption says (an "
        "attribute that the caption leaves out must be absent).\n\n"
        + table(["attribute", *(f"`{name}`" for name in made)], rows)
    )


def captions_about(name: str, record: Record) -> str:
    distance = record["kid"]
    limit = signed(1000 * distance["excess"]["limit"], 2)
    parts = [
        f"### {name}\n",
        f"{record['how']}\n" if "how" in record else captions_how(record),
        f"KID × 1000: {thousands(distance['captioned'])} with captions, {thousands(distance['plain'])} without; "
        f"training images get {thousands(distance['floor'])}. KID − 1.1 × KID without captions: "
        f"{thousands(distance['excess'])}, upper 95 % limit {limit}.\n",
    ]
    if "decoder_alone" in record:
        parts.append(captions_stages(record))
    if "unseen" in record:
        parts.append(captions_unseen(record))
    return "\n".join([*parts, captions_paraphrases(name, record)])


def captions_stages(record: Record) -> str:
    enlarged = record["enlarged"]
    return (
        "Of the eight attributes that 32 pixels show, in the mean: "
        f"{percents(record['test']['claimed'])} by the whole chain; {percents(record['prior_alone']['claimed'])} by "
        "the prior alone, its embeddings read by the judge itself; "
        f"{percents(record['decoder_alone']['claimed'])} by the decoder alone, given what the judge sees in the face "
        "that the caption was written for; and "
        f"{percents(enlarged['claimed'])} of {enlarged['n']:,} images enlarged to 64 pixels and halved again, which "
        f"then differ by {enlarged['rms_grey_values']:.1f} grey values.\n"
    )


def captions_how(record: Record) -> str:
    plain = f" --plain {record['plain']}" if record["plain"] else ""
    return (
        f"Model `{record['checkpoint']['digest']}` ({record['checkpoint']['step']:,} steps), `{record['sampler']}` in "
        f"{record['steps']} calls, guidance {record['guidance']:g}, {record['test']['n']:,} test captions. By "
        f"`python benchmarks/captions.py RUN{plain} --guidance {record['guidance']:g}`.\n"
    )


def captions_unseen(record: Record) -> str:
    found = record["unseen"]["combinations"]
    rows = [
        [
            row["combination"],
            *(share(row[side], n) for side, n in zip(("unseen", "seen"), row["n"], strict=True)),
        ]
        for row in found["rows"]
        if row["unseen"] and row["seen"]
    ]
    loss = "" if found["loss"] is None else f" In the mean {percents(found['loss'])} are lost.\n"
    return (
        "Combinations that no training face shows: how often the two values are right together, and how often each is "
        f"in other company.{loss}\n" + table(["held out of training", "together", "apart"], rows)
    )


def captions_paraphrases(name: str, record: Record) -> str:
    rows = [
        [f"“{row['text']}”", captions_meant(row["means"]), share(row["all"], row["n"], 0)]
        for row in record["paraphrases"]
    ]
    mean = sum(row["all"]["mean"] for row in record["paraphrases"]) / len(rows)
    return (
        f"Words that no caption uses, {100 * mean:.0f} % right in the mean ([sheet](results/{name}.png), a row each):"
        "\n\n" + table(["asked for", "means", "right"], rows)
    )


def captions_meant(means: Mapping[str, list[str]]) -> str:
    return ", ".join(f"{captions_words(name)} {' or '.join(allowed)}" for name, allowed in means.items())


def captions_words(name: str) -> str:
    return name.replace("_", " ")


# -------------------- nats


def nats(found: Records) -> tuple[list[str], Pictures]:
    return [nats_about(name, record) for name, record in found.items()], {}


def nats_about(name: str, record: Record) -> str:
    bits, difference, lower = record["bits_per_dim"], record["bound_difference"], record["information_lower_bound"]
    parts = [
        f"### {name}\n",
        f"Model `{record['checkpoint']['digest']}` ({record['checkpoint']['step']:,} steps), {record['n']} captioned "
        f"images of the {record['data']['split']} part, {record['draws']} levels per bound, one noise per image for "
        f"all that is compared, {record['network_calls']:,} network calls. By `markovae measure RUN --captions --limit "
        f"{record['n']} --json`; what the figures mean: [text.md](text.md#what-captions-say-in-nats).\n",
        f"{plus_minus(bits['with_caption'], 4)} bits/dim with captions, {plus_minus(bits['without_caption'], 4)} "
        f"without. The bound difference, which bounds nothing, is {plus_minus(difference['nats'], 2)} nats per image; "
        f"the information is {plus_minus(lower['nats'], 3)} nats at least, where the {lower['candidates']} candidates "
        f"allow {lower['ceiling_nats']:.3f}.\n",
    ]
    if record["phrases"]:
        rows = [[row["phrase"], plus_minus(row["nats"], 2), f"{row['n']:,}"] for row in record["phrases"]]
        parts.append(table(["phrase left out", "costs, nats", "images"], rows))
    if record["attributes"]:
        rows = [nats_told(row) for row in record["attributes"]]
        parts.append(table(["attribute told by the bound", "right", "by chance"], rows))
    return "\n".join(parts)


def nats_told(row: Record) -> list[str]:
    right = share({"mean": row["accuracy"], "stderr": row["stderr"] or 0.0}, row["n"])
    return [f"{row['attribute'].replace('_', ' ')} ({row['n']:,} images)", right, percent(row["chance"], 0)]


# -------------------- speed

COMPILING = "It joins operations in a loop; convolutions, the most of a step on a CPU, stay what they are."


def speed_about(record: Record, command: str) -> str:
    """The command, the machine and what else it did."""
    here = record["machine"]
    peaks = here["matmul_gflops"]
    clock = "" if here["clock"] == "wall" else ", in processor time"
    note = f" {record['note']}." if record["note"] else ""
    return (
        f"By `python benchmarks/{command}` on {here['device']}, {here['threads']} of {here['cores']} cores{clock}; "
        f"load {here['load_before'][0]:g} before and {record['load_after'][0]:g} after.{note} PyTorch {here['torch']}"
        f"{', diffusers ' + record['diffusers'] if 'diffusers' in record else ''}. Matrix products reach "
        f"{peaks['float32']:.0f} GFLOP/s in float32 and {peaks['bfloat16']:.0f} in bfloat16 there, a copy "
        f"{here['bandwidth_gbytes']:.0f} GB/s.\n"
    )


def ranged(value: Record, digits: int) -> str:
    """median (low–high)."""
    return f"{value['median']:.{digits}f} ({value['low']:.{digits}f}–{value['high']:.{digits}f})"


def speed_training(record: Record) -> str:
    parts = ["## Training the same network\n", speed_about(record, "training.py")]
    parts.append(
        "The same weights on both sides; the losses of the same steps agree to "
        f"{max(max(n['losses']['largest_difference'].values()) for n in record['networks'].values()):.2%}. "
        "Ours is the whole loop of `fit` in bfloat16; the peer is diffusers' unconditional example with its images "
        "ready in memory, at its defaults (float32, AdamW, its average) and in bfloat16, all fused.\n"
    )
    head = ["network", "who", "images/s", "largest resident set"]
    rows = []
    for name, network in record["networks"].items():
        for who, rate in network["images_a_second"].items():
            memory = f"{network['peak_bytes'][who] / 2**20:,.0f} MiB"
            label = "ours" if who == "ours" else f"diffusers, {who}"
            rows.append([f"{name}, {network['weights'] / 1e6:.1f} M", label, ranged(rate, 1), memory])
    parts.append(table(head, rows))
    for name, network in record["networks"].items():
        parts.append(
            f"- {name}: {ranged(network['over_default'], 2)} times the defaults, {ranged(network['over_best'], 2)} "
            f"times the best setting ({network['best_peer']}). An image is {network['gflop_an_image']:.1f} GFLOP, the "
            f"matmul peak would allow {network['floor_images_a_second']:.1f} images/s; ours reaches "
            f"{network['share_of_peak']['median']:.0%} of that."
        )
    return "\n".join(parts) + "\n"


def speed_profile(record: Record) -> str:
    parts = [f"## Where the time of a step goes: {record['machine']['device']}\n"]
    parts.append(speed_about(record, "step_profile.py"))
    names = list(record["networks"])
    kinds = dict.fromkeys(kind for network in record["networks"].values() for kind in network["parts_ms"])
    rows = [
        [kind, *(speed_share(record["networks"][name], record["networks"][name]["parts_ms"][kind]) for name in names)]
        for kind in kinds
    ]
    rows.append(["a step", *(f"{record['networks'][name]['step_ms']:.0f} ms" for name in names)])
    floors = [record["networks"][name].get("floor_ms") for name in names]
    rows.append(["floor: at the matmul peak", *("" if floor is None else f"{floor:.0f} ms" for floor in floors)])
    parts.append(table([f"{record['batch']} images", *names], rows))
    parts.append(
        "Parts are timed one by one, in runs of their own; what is between operations, and checks and clipping, is "
        "what they leave of the whole.\n\nThe peak bounds convolutions and products. Beside them every operation on "
        "its own reads and writes its activations; bfloat16 is turned to float32 and back each time. Muon's products "
        "are float32 on purpose: a Gram matrix squares the condition number.\n"
    )
    return "\n".join(parts)


def speed_share(network: Record, value: float) -> str:
    """Milliseconds and their share of the step."""
    return f"{value:.0f} ms, {value / network['step_ms']:.0%}"


def speed_compiling(record: Record) -> str:
    cache = "an empty cache" if record["cold"] else "the machine's cache"
    flag = " --cold" if record["cold"] else ""
    parts = [
        "## `train.compile`\n",
        speed_about(record, f"compiling.py{flag}"),
        f"Compiled into {cache}. {COMPILING}\n",
    ]
    head = ["network", "plain, ms per step", "compiled", "times faster", "first step, s", "compiled", "has paid after"]
    rows = []
    for name, network in record["networks"].items():
        steps = {k: {w: 1000 * v for w, v in value.items()} for k, value in network["step_seconds"].items()}
        first, even = network["first_step_seconds"], network["break_even_steps"]
        rows.append(
            [
                name,
                ranged(steps["plain"], 0),
                ranged(steps["compiled"], 0),
                ranged(network["plain_over_compiled"], 2),
                f"{first['plain']:.1f}",
                f"{first['compiled']:.1f}",
                "never" if even is None else f"{even:,} steps",
            ]
        )
    return "\n".join([*parts, table(head, rows)])


def speed_memory(record: Record) -> str:
    parts = ["## Memory\n", speed_about(record, "memory.py")]
    parts.append(
        "The largest resident set of a process that trains a few steps. Where a batch does not fit, training goes on "
        "in parts of half the size and says so.\n"
    )
    names = list(record["networks"])
    rows = [
        [who, *(speed_in_words(record["networks"][name][who]) for name in names)]
        for who in record["networks"][names[0]]
    ]
    return "\n".join([*parts, table([f"batch of {record['batch']}", *names], rows)])


def speed_in_words(found: Record) -> str:
    """MiB, and milliseconds per step."""
    took = "" if found["step_seconds"] is None else f", {1000 * found['step_seconds']:,.0f} ms per step"
    return f"{found['peak_bytes'] / 2**20:,.0f} MiB{took}"


def speed_sampling(record: Record) -> str:
    parts = ["## Sampling and measuring\n", speed_about(record, "sampling.py")]
    for name, network in record["networks"].items():
        rows = []
        for what, ratio in network["ours_over_diffusers"].items():
            mine, other = (network["images_a_second"][f"{who}, {what}"] for who in ("ours", "diffusers"))
            rows.append([f"{what}, {network['calls']} calls", ranged(mine, 2), ranged(other, 2), ranged(ratio, 2)])
        for precision in ("float32", "bfloat16"):
            mine, other = (network["images_a_second"][f"measure, {who}, {precision}"] for who in ("ours", "wrapped"))
            label = f"`mv.measure`, {precision}, {network['measured_calls']} calls"
            rows.append([label, ranged(mine, 2), f"{ranged(other, 2)} (by `mv.wrap`)", ""])
        parts.append(table([f"{name}, images/s", "ours", "diffusers'", "ratio"], rows))
        parts.append(
            f"{network['floor_images_a_second']:.2f} images/s of {network['calls']} calls at the bfloat16 matmul peak; "
            f"{network['batch']} images at a time.\n"
        )
    return "\n".join(parts)


def speed_startup(record: Record) -> str:
    rows = [[name, f"{ranged(value, 2)} s"] for name, value in record["seconds"].items()]
    return "\n".join(
        ["## Start-up\n", speed_about(record, "startup.py"), table(["", "from the start of the process"], rows)]
    )


def speed_gpu(record: Record) -> str:
    parts = ["## On a GPU\n", speed_about(record, "gpu.py")]
    for precision, errors in record["agreement"].items():
        words = ", ".join(f"{what} {value:.1e}" for what, value in errors.items())
        parts.append(f"- {precision} against the CPU in float64, in units of the largest value: {words}")
    rows = [[name, ranged(value, 1)] for name, value in record["images_a_second"].items()]
    parts.append("\n" + table([f"{record['network']}, batch {record['batch']}", "images/s"], rows))
    parts.append(f"{record['floor_images_a_second']:.0f} images/s of training at the matmul peak.\n")
    return "\n".join(parts)


def speed_time_to_bound(record: Record) -> str:
    more = " --ddp FOLDER" if len(record["peers"]) > 2 else ""
    parts = ["## Time to the bound\n", speed_about(record, f"time_to_bound.py --minutes {record['minutes']:g}{more}")]
    head = ["who", "weights", "minutes", "images seen", f"bits/dim of {record['images']} validation images"]
    rows = [[name, *speed_outcome(peer["weights"], peer["looks"][-1])] for name, peer in record["peers"].items()]
    rows += [["ours", *speed_outcome(run["weights"], run)] for run in record["ours"]]
    parts.append(table(head, rows))
    for name, value in record["reached"].items():
        words = "not reached" if value is None else f"reached in {value:.3f} of the time"
        parts.append(f"- the bits/dim of {name}: {words}")
    return "\n".join(parts) + "\n"


def speed_outcome(weights: int, look: Record) -> list[str]:
    """Cells of a run."""
    bits = look["bits_per_dim"]
    return [
        f"{weights / 1e6:.2f} M",
        f"{look['seconds'] / 60:.1f}",
        f"{look['images_seen']:,}",
        f"{bits['mean']:.3f} ± {bits['stderr']:.3f}",
    ]


# -------------------- the pages

# -------------------- records


def records_page(found: Records, search: Record | None) -> str:
    """docs/records.md: the records of each data set, the least bits first, the search for the recipe, the rules."""
    parts = [RECORDS_HEAD]
    sets = sorted({(record["data"]["name"], *record["data"]["shape"]) for record in found.values()})
    for key in sets:
        own = {name: r for name, r in found.items() if (r["data"]["name"], *r["data"]["shape"]) == key}
        parts.append(records_of(own))
    if search is not None:
        parts.append(records_search(search))
    return "\n".join([*parts, RULES])


def records_of(found: Records) -> str:
    """The records of one data set."""
    first = next(iter(found.values()))["data"]
    channels, height, width = first["shape"]
    order = sorted(found, key=lambda name: found[name]["bits_per_dim"]["mean"])
    rows = [records_row(name, found[name]) for name in order]
    head = ("record", "bits/dim", "test images", "minutes", "images seen", "weights", "processor, threads", "condition")
    commands = "\n".join(
        f"- {name}: `{found[name]['command']}`{records_note(found[name]['machine']['note'])}" for name in order
    )
    return (
        f"## {first['name']}, {channels}x{height}x{width}\n\n"
        f"{first['train']['count']:,} images trained on, {first['validation']['count']:,} for validation, "
        f"{first['test']['count']:,} test images (SHA-256 of theirs {first['test']['sha256'][:16]}…).\n\n"
        f"{table(head, rows)}\n{commands}\n"
    )


SEARCH = """\
What paid: linear estimates of the noise (`network.spectral=3`, see `src/markovae/networks/spectral.py`) instead of the
window of pixels of similar color (`network.radius=0`): half a bit/dim after 20,000 images, and an image costs less.
Color differences of photographs are weaker than a grey value at fine detail, which a network of raw pixels must learn
to amplify. `--objective bound` uses these linear estimates on color images.

What did not: the default network at equal time, which sees 11,000 images where the small one sees 19,000 (so a run of
color images for which time is little takes the small one); more than three estimates; estimates adapted to the local
variance, with which training begins lower and ends higher; and slower gains.

Not tried yet, for want of time on this machine: experts over log-SNR, a network at full resolution, flips, batch and
learning rates, the horizon of the average, a learned schedule, a cascade of 32 pixels; and more than one seed.
"""


def records_search(record: Record) -> str:
    """What paid and what did not."""
    base = record["arms"][0]
    rows = [
        [
            arm["name"],
            f"{arm['images_seen']:,}",
            f"{1000 * arm['image_seconds']:.1f}",
            plus_minus(arm["bits_per_dim"], 3),
            plus_minus(arm["less_than_base"], 3) if arm is not base else "",
        ]
        for arm in record["arms"]
    ]
    head = ("arm", "images seen", "ms per training image", "bits/dim", f"bits/dim saved against the {base['name']}")
    commands = "\n".join(f"- {arm['name']}: `{arm['command']}`" for arm in record["arms"] if arm["command"])
    left = "\\* A variant that did not pay, and whose code is not kept.\n\n" if "*" in str(rows) else ""
    return (
        "## The search for the recipe\n\n"
        "By `python benchmarks/search.py BASE RUN...`, one seed, CIFAR-10. "
        f"{record['images']:,} validation images, {record['draws']} draws each, the same for every arm; "
        f"differences are image by image. Milliseconds are of the {record['machine']['processor']}, one thread, in "
        "processor time. "
        f"{record.get('note', '')}\n\n"
        f"{table(head, rows)}\n{left}{SEARCH}\n{commands}\n"
    )


def records_note(note: str) -> str:
    """What else ran, behind a command."""
    return f". {note}" if note else ""


def records_row(name: str, record: Record) -> list[str]:
    training, machine = record["training"], record["machine"]
    return [
        name,
        plus_minus(record["bits_per_dim"], 3),
        f"{record['n']:,} of {record['data']['test']['count']:,}",
        f"{training['seconds'] / 60:.1f}",
        f"{training['images_seen']:,}",
        f"{training['weights'] / 1e6:.2f} M",
        f"{machine['processor']}, {machine['threads']}",
        training["given"],
    ]


POPULAR = """\
# What popular models cost

How many bits/dim unseen images cost under models that were trained by the recipes people use, all at equal wall time
on the same data, and all measured by the same evaluator, `mv.measure`, each as the chain of its own schedule
(`mv.wrap`, [To and from diffusers](interop.md)). Written by `python benchmarks/pages.py` from the records in
`docs/results/popular_*.json`. ± is one standard error over images; the last column is image by image.

What the table is: who has one CPU and minutes, and takes a recipe as its authors publish it, at a quarter of its width,
gets this. What it is not: a verdict on the recipes where they were made for, days of a GPU. None but ours aims at
bits/dim: what a loss of equal weights leaves at the finest detail costs most of the bits, and no eye sees it.
"""


def popular_page(found: Records) -> str:
    """docs/popular.md: each data set's table, the least bits first."""
    return "\n".join([POPULAR, *(popular_of(name, record) for name, record in found.items())])


def popular_of(name: str, record: Record) -> str:
    """One data set: the recipes by their bits/dim."""
    rows = [
        [
            f"{row['name']} ({row['source']})",
            plus_minus(row["bits_per_dim"], 3),
            f"{row['terms_bits_per_dim']['reconstruction']:.3f}",
            f"{row['images_seen']:,}",
            f"{row['weights'] / 1e6:.2f} M, {row['weights_measured']}",
            plus_minus(row["more_than_first"], 3) if row is not record["rows"][0] else "",
        ]
        for row in record["rows"]
    ]
    first = record["rows"][0]
    cores = "one thread" if first["threads"] == 1 else f"{first['threads']} threads"
    head = ("recipe", "bits/dim", "of which the decoder's", "images seen", "weights", f"more than {first['name']}")
    return (
        f"## {name}\n\n{first['minutes']:g} minutes of training each on {cores} of the {first['processor']}, "
        f"{first['n']:,} test images, {first['draws']} levels drawn an image. By `{record['command']}`"
        f"{records_note(first['note'])}.\n\n{table(head, rows)}"
    )


SECTIONS: tuple[tuple[str, tuple[str, ...], Callable[[Records], tuple[list[str], Pictures]]], ...] = (
    ("Bits per dimension: what they cost to know", ("elbo_cost_",), bits),
    ("The recipe for likelihood against Ho et al.'s, at equal wall time", ("recipe_",), recipe),
    ("Cascades against models of one stage, at equal wall time", ("stages_",), recipe),
    ("Compressed files beside their bounds", ("codec",), codec),
    ("Samplers at equal numbers of network calls", ("samplers_",), samplers),
    ("Students of one, two and four evaluations", ("students_",), students),
    ("Chains of few levels whose steps are no Gaussians", ("steps_",), steps),
    ("Guidance by its weight", ("guidance_",), guidance),
    ("Control where the truth is known", ("control",), control),
    ("From caption to face", ("attributes", "captions_", "two_stage_"), captions),
    ("What captions say, in nats", ("nats_",), nats),
)
"""A heading of docs/results.md, the beginnings of its records' names, and what makes it of them."""
SPEED: dict[str, Callable[[Record], str]] = {
    "training": speed_training,
    "profile": speed_profile,
    "profile_avx2": speed_profile,
    "compiling": speed_compiling,
    "memory": speed_memory,
    "sampling": speed_sampling,
    "startup": speed_startup,
    "gpu_cuda": speed_gpu,
    "time_to_bound": speed_time_to_bound,
}
"""The sections of docs/performance.md by the rest of their records' names."""


def pages(records: Records) -> dict[Path, bytes]:
    """The pages and their pictures, by path."""
    text, files = [RESULTS], {}
    for title, prefixes, make in SECTIONS:
        found = {name: record for name, record in records.items() if name.startswith(prefixes)}
        if not found:
            continue
        if len(prefixes) == 1:
            found = {name.removeprefix(prefixes[0]): record for name, record in found.items()}
        parts, pictures = make(found)
        text.append("\n".join([f"## {title}\n", *parts]))
        files |= {RECORDS / name: svg.encode() for name, svg in pictures.items()}
    speed = [make(records[f"performance_{name}"]) for name, make in SPEED.items() if f"performance_{name}" in records]
    files[DOCS / "results.md"] = "\n".join(text).encode()
    files[DOCS / "performance.md"] = "\n".join([PERFORMANCE, *speed, BUSY]).encode()
    entered = {name.removeprefix("record_"): r for name, r in records.items() if name.startswith("record_")}
    files[DOCS / "records.md"] = records_page(entered, records.get("search_photographs")).encode()
    models = {name.removeprefix("popular_"): r for name, r in records.items() if name.startswith("popular_")}
    if models:
        files[DOCS / "popular.md"] = popular_page(models).encode()
    return files


def read_records(folder: Path) -> dict[str, Any]:
    """The JSON objects of a folder by name."""
    return {path.stem: json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    files = pages(read_records(RECORDS))
    if options.check:
        stale = [path for path, content in files.items() if not path.is_file() or path.read_bytes() != content]
        print(*(f"{path} is not what the records say: run benchmarks/pages.py" for path in stale), sep="\n")
        return bool(stale)
    for path, content in files.items():
        make_folder(path.parent)
        write_file(path, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
