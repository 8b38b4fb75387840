"""A measurement in words: each figure with what it means."""

from __future__ import annotations

from typing import Any

from markovae.cli.output import headline, table
from markovae.log import counted, plus_minus
from markovae.report.words import TERMS, bound_in_words

MOST_ODD = 10  # images that are listed


def describe(record: dict[str, Any], bins: int, run: str, against: str | None) -> str:
    """The figures, each with what it means.

    Args:
        run, against: the names of the two, as the command has them.
    """
    bits, terms = record["bits_per_dim"], record["terms_bits_per_dim"]
    rows = [(name, f"{terms[name]:.4f}", meaning) for name, meaning in TERMS.items()]
    lines = [
        f"{headline(bits)}, {images_in_words(record)}",
        f"  {bound_in_words(bins)}",
        table(rows),
        *_bands(record),
        *_noise(record),
        *_grid(record),
        *_comparison(record, run, against),
        *_limits(record),
        how_in_words(record),
    ]
    if "saved" in record:
        lines.append(f"saved in {record['saved']}")
    return "\n".join(lines)


def _bands(record: dict[str, Any]) -> list[str]:
    """The levels of a cascade by bands, coarse first."""
    rows = []
    for number, band in enumerate(record.get("bands", [])):
        height, width = band["size"]
        what = f"mean image of {width}x{height}" if number == 0 else f"details, drawn at {width}x{height}"
        rows.append((f"stage {number}", f"{band['prior'] + band['levels']:.4f}", what))
    return [table(rows)] if rows else []


def images_in_words(record: dict[str, Any]) -> str:
    """How many, and of what."""
    data = record["data"]
    part = f"{data['split']} part" if data["split"] != "all" else "all"
    return f"{counted(record['n'], 'image')} ({part} of {data['source']})"


def how_in_words(record: dict[str, Any]) -> str:
    """Draws, calls, seed and time."""
    count = record["network_calls_per_example"] // record["replicates"] - 1
    every = record["estimator"] != "importance" and count >= record["levels"] - 1
    drawn = "every level" if every else f"{count} levels drawn per image ({record['estimator']})"
    repeats = f", {record['replicates']} times" if record["replicates"] > 1 else ""
    fit = record["fit"]
    fitted = "" if fit is None else f", {fit['network_calls']:,} more to fit on {fit['images']:,} other images"
    calls = f"{record['network_calls_per_example']} network evaluations each{fitted}"
    return f"{drawn}{repeats}, {calls}, seed {record['seed']}, {record['seconds']:.0f} s"


def _noise(record: dict[str, Any]) -> list[str]:
    if "noise_bits_per_dim" not in record:
        return []
    noise = record["noise_bits_per_dim"]
    low, high = noise["ci95"]
    return [
        f"  for these very images: ± {noise['stderr']:.4f} by the draws alone (95 % interval {low:.4f} to {high:.4f})"
    ]


def _grid(record: dict[str, Any]) -> list[str]:
    grid = record["grid"]
    if grid["levels"] is None:
        return []
    which = "at even strides" if grid["kind"] == "even" else "chosen for the least bound"
    return [f"  {record['levels']:,} levels {which}, {record['reverse_variance']} variance"]


def _comparison(record: dict[str, Any], run: str, against: str | None) -> list[str]:
    if "against" not in record:
        return []
    other, difference = record["against"], record["difference_bits_per_dim"]
    common = "images, levels and noise" if difference["same_levels_and_noise"] else "images; other levels"
    mean = difference["mean"]
    if difference["stderr"] is None:
        return [f"{against}: {headline(other['bits_per_dim'])}; difference {mean:+.4f}, of common {common}"]
    low, high = difference["ci95"]
    verdict = (
        "the interval holds 0: no difference is shown"
        if low <= 0 <= high
        else f"{run if mean < 0 else against} needs fewer bits"
    )
    return [
        f"{against}: {headline(other['bits_per_dim'])}",
        f"difference {mean:+.4f} ± {difference['stderr']:.4f} bits/dim (95 % interval {low:+.4f} to {high:+.4f}) on "
        f"common {common}: {verdict}",
    ]


def _limits(record: dict[str, Any]) -> list[str]:
    lines = []
    if "continuous" in record:
        found = record["continuous"]
        calls = found["network_calls_per_example"]
        lines.append(f"infinitely many levels: {headline(found['bits_per_dim'])}, {calls} calls each")
    if "ode" in record:
        found = record["ode"]
        lines.append(
            f"probability-flow ODE (a different model): {plus_minus(found['bits_per_dim'], 3)} bits/dim, "
            f"{counted(found['n'], 'image')}, {found['network_calls_per_example']:,.0f} calls each"
        )
    return lines


def captions_in_words(record: dict[str, Any]) -> str:
    """The figures, each with what it means."""
    bits, lower = record["bits_per_dim"], record["information_lower_bound"]
    difference = record["bound_difference"]
    from markovae.likelihood.caption_information import DIFFERENCE, INFORMATION, lower_bound_in_words

    lines = [
        f"{record['n']:,} captioned images ({record['data']['split']} part of {record['data']['source']})",
        table(
            [
                ("with captions", plus_minus(bits["with_caption"], 4), "bits/dim"),
                ("without", plus_minus(bits["without_caption"], 4), "bits/dim"),
                ("bound difference", plus_minus(difference["nats"], 2), "nats per image"),
                ("", plus_minus(difference["bits_per_dim"], 4), "bits/dim"),
                ("information, at least", *lower_bound_in_words(lower)),
            ]
        ),
        f"  {DIFFERENCE}.",
        f"  {INFORMATION.format(k=lower['candidates'], ceiling=lower['ceiling_nats'])}.",
    ]
    if record["phrases"]:
        rows = [(row["phrase"], plus_minus(row["nats"], 2), f"nats ({row['n']:,} images)") for row in record["phrases"]]
        lines += ["what leaving a phrase out of the caption costs, a bound difference too:", table(rows)]
    if record["attributes"]:
        rows = [
            (row["attribute"], _percent(row), f"by chance {100 * row['chance']:.0f} % ({row['n']:,} images)")
            for row in record["attributes"]
        ]
        lines += ["how often the bound tells the own value of an attribute from the others:", table(rows)]
    lines.append(
        f"{record['draws']} levels drawn a bound, {record['network_calls']:,} network evaluations, seed "
        f"{record['seed']}, {record['seconds']:.0f} s"
    )
    return "\n".join(lines)


def columns_in_words(record: dict[str, Any]) -> str:
    """What each column says, alone and beyond the others."""
    from markovae.likelihood.caption_information import lower_bound_in_words

    lower, every = record["information_lower_bound"], record["bound_difference"]["nats"]
    rows = [
        (
            row["column"],
            plus_minus(row["alone_nats"], 2) if row["n"] else "none",
            f"beyond the others {plus_minus(row['beyond_nats'], 2)} ({row['n']:,} images)"
            if row["n"]
            else "no image has it",
        )
        for row in record["columns"]
    ]
    both = [("all columns", plus_minus(every, 2), "nats"), ("information, at least", *lower_bound_in_words(lower))]
    return "\n".join(
        [
            f"nats per image that columns say, {record['data']['split']} part of {record['data']['source']}",
            table([*rows, *both]),
            "  Each is a difference of bounds on the same levels and noise: the information plus a difference of gaps.",
            f"  The last is a true lower bound on the information; it cannot exceed ln {lower['candidates']} = "
            f"{lower['ceiling_nats']:.2f}.",
        ]
    )


def _percent(row: dict[str, Any]) -> str:
    error = f" ± {100 * row['stderr']:.1f}" if row["stderr"] else ""  # of all right or all wrong nothing is spread
    return f"{100 * row['accuracy']:.1f}{error} %"


# -- which images are odd ------------------------------------------------------------------------------------------


def ranking_in_words(record: dict[str, Any]) -> str:
    """The oddest images, and how many are odd."""
    n, flagged = record["n"], record["flagged"]
    rows = [("", "", "score", "p", "bits/dim", "complexity", "unusual at")]
    for row in record["images"][:MOST_ODD]:
        deviations = [row[f"band_{number}_deviation"] for number in range(1, len(record["bands"]) + 1)]
        place = max(range(len(deviations)), key=lambda i: abs(deviations[i]))
        high, low = record["bands"][place]["logsnr"]
        figures = (f"{row[name]:.3f}" for name in ("bits_per_dim", "complexity_bits_per_dim"))
        where = f"log-SNR {high:.1f} to {low:.1f} ({deviations[place]:+.1f} standard deviations)"
        where = where if abs(deviations[place]) >= 2 else ""  # less is usual
        name = row.get("file", f"image {row['image']}")
        rows.append(
            (str(row["rank"]), name, f"{row['score_bits_per_dim']:+.3f}", f"{row['p_value']:.4f}", *figures, where)
        )
    share = f"{flagged['false_discovery_rate']:.0%}"
    verdict = (
        f"{flagged['n']:,} of {n:,} are odd (at most {share} of these by chance)"
        if flagged["n"]
        else f"none of {n:,} stands out (at a false discovery rate of {share})"
    )
    saved = f"\nsaved in {record['saved']}, with a sheet of the oddest" if "saved" in record else ""
    return "\n".join(
        [
            f"{images_in_words(record)} against {record['heldout']:,} held-out images: {verdict}",
            table(rows, left=2),
            "score: bits/dim under the model less those of a lossless coder of any image (complexity); p: how often a "
            f"held-out image scores as high. {record['draws']} levels drawn per image, seed {record['seed']}, "
            f"{record['seconds']:.0f} s{saved}",
        ]
    )
