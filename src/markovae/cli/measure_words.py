"""A measurement told to a person."""

from __future__ import annotations

import argparse
from typing import Any

from markovae.cli.measure_work import Outcome
from markovae.cli.output import headline, table
from markovae.report.words import TERMS, bound_in_words


def describe(outcome: Outcome, record: dict[str, Any], options: argparse.Namespace) -> str:
    """The figures, each with what it means."""
    bits, terms = record["bits_per_dim"], record["terms_bits_per_dim"]
    rows = [(name, f"{terms[name]:.4f}", meaning) for name, meaning in TERMS.items()]
    lines = [
        f"{headline(bits)}, {images_in_words(record)}",
        f"  {bound_in_words(outcome.opened.model.pixels.bins)}",
        table(rows),
        *_noise(record, outcome.measured.dims),
        *_grid(record),
        *_comparison(record, options),
        *_limits(record),
        how_in_words(record, options),
    ]
    if "saved" in record:
        lines.append(f"saved in {record['saved']}")
    return "\n".join(lines)


def images_in_words(record: dict[str, Any]) -> str:
    """How many, and of what."""
    n, data = record["n"], record["data"]
    part = f"{data['split']} part" if data["split"] != "all" else "all"
    return f"{n:,} {'image' if n == 1 else 'images'} ({part} of {data['source']})"


def how_in_words(record: dict[str, Any], options: argparse.Namespace) -> str:
    """Draws, calls, seed and time."""
    every = options.draws == "all" or (options.estimator == "stratified" and options.draws >= record["levels"] - 1)
    drawn = "every level" if every else f"{options.draws} levels drawn an image ({options.estimator})"
    repeats = f", {options.replicates} times" if options.replicates > 1 else ""
    fit = record["fit"]
    fitted = "" if fit is None else f", {fit['network_calls']:,} more to fit on {fit['images']:,} other images"
    calls = f"{record['network_calls_per_example']} network calls each{fitted}"
    return f"{drawn}{repeats}, {calls}, seed {record['seed']}, {record['seconds']:.0f} s"


def _noise(record: dict[str, Any], dims: int) -> list[str]:
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


def _comparison(record: dict[str, Any], options: argparse.Namespace) -> list[str]:
    if "against" not in record:
        return []
    other, difference = record["against"], record["difference_bits_per_dim"]
    common = "images, levels and noise" if difference["same_levels_and_noise"] else "images; other levels"
    mean = difference["mean"]
    if difference["stderr"] is None:
        return [f"{options.against}: {headline(other['bits_per_dim'])}; difference {mean:+.4f}, of common {common}"]
    low, high = difference["ci95"]
    verdict = (
        "the interval holds 0: no difference is shown"
        if low <= 0 <= high
        else f"{options.run_path if mean < 0 else options.against} needs fewer bits"
    )
    return [
        f"{options.against}: {headline(other['bits_per_dim'])}",
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
        bits, n = found["bits_per_dim"], found["n"]
        error = "" if bits["stderr"] is None else f" ± {bits['stderr']:.3f}"
        lines.append(
            f"probability-flow ODE, a model of its own: {bits['mean']:.3f}{error} bits/dim, "
            f"{n:,} {'image' if n == 1 else 'images'}, {found['network_calls_per_example']:,.0f} calls each"
        )
    return lines
