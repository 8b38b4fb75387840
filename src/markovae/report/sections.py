"""The parts of the page that are figures: each with one sentence of what it means."""

from __future__ import annotations

import math
from typing import Any

from markovae.report import html
from markovae.report.plots import Line, plot
from markovae.report.words import TERMS, bound_in_words, change_in_words

Record = dict[str, Any]


def plus_minus(bits: Record) -> str:
    """mean ± stderr."""
    return f"{bits['mean']:.3f}" if bits["stderr"] is None else f"{bits['mean']:.3f} ± {bits['stderr']:.3f}"


def duration(seconds: float | None) -> str:
    """In words."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 7200 else f"{whole / 3600:.1f} h"


def cost(record: Record) -> str:
    """bits/dim beside the codecs, and its terms."""
    measured, bins = record["measurement"], record["data"]["bins"]
    bits, plain = measured["bits_per_dim"], math.log2(bins)
    low, high = bits["ci95"]
    interval = "a single image has no interval" if low is None else f"95 % interval {low:.3f} to {high:.3f}"
    rows = [["this model", f"{bits['mean']:.3f}", _bar(bits["mean"], plain, own=True), interval]]
    for codec in record["codecs"]:
        for kind, text in (("per_image", "one file an image"), ("tiled", "all in one large image")):
            figure = codec[f"{kind}_bits_per_dim"]
            if figure is not None:
                note = f"the model takes {change_in_words(bits['mean'], figure)}"
                rows.append([f"{codec['name']}, {text}", f"{figure:.3f}", _bar(figure, plain), note])
    rows.append(["stored plainly", f"{plain:.3f}", _bar(plain, plain), f"{bins} values a number, all alike"])
    terms = [[name, f"{measured['terms_bits_per_dim'][name]:.4f}", text] for name, text in TERMS.items()]
    how = (
        f"The bound on the test part's first {measured['n']:,} images, {measured['network_calls_per_example']} network "
        f"calls each, and the lossless codecs on the same images, file headers included. {bound_in_words(bins)}"
    )
    return html.section(
        "What the images cost",
        html.table(("", "bits/dim", "", ""), rows, numeric=(1,), meaning=3),
        html.paragraph(how),
        html.table(("term of the bound", "bits/dim", "what it is"), terms, numeric=(1,), meaning=2),
    )


def _bar(value: float, full: float, own: bool = False) -> str:
    width = max(0.0, min(100 * value / full, 100))
    kind = "bar own" if own else "bar"
    return f'<div style="min-width:90px;padding-top:8px"><div class="{kind}" style="width:{width:.1f}%"></div></div>'


def levels(record: Record) -> str:
    """Nats a level against log-SNR."""
    curve = record["curves"]["levels"]
    text = (
        "Nats that one level costs, averaged over stretches of log-SNR, ± one standard error. Coarse structure is "
        "paid for on the right, the grey values' last digits on the left: where the curve is high, a better network "
        "would save most."
    )
    if not curve:
        return html.section("Where the bits go", html.paragraph("This model has no levels between data and top."))
    line = Line(
        [point["logsnr"] for point in curve],
        [point["nats"] for point in curve],
        [point["stderr"] or 0.0 for point in curve],
    )
    drawing = plot([line], "log-SNR λ: data on the left, noise on the right", "nats a level", text, falling=True)
    return html.section("Where the bits go", drawing, html.paragraph(text))


def heldout(record: Record) -> str:
    """bits/dim on the way."""
    curve = [point for point in record["curves"]["heldout"] if point["mean"] is not None]
    if not curve:
        return html.section("Held-out bound", html.paragraph("Not taken in this run (train.evaluations=0)."))
    text = (
        "The bound on a few validation images as training went on, with the same images, levels and noise each time, "
        "so that changes are the model's. While it falls, longer training helps; if it rises, the model memorises."
    )
    line = Line(
        [point["step"] for point in curve],
        [point["mean"] for point in curve],
        [point["stderr"] or 0.0 for point in curve],
    )
    return html.section("Held-out bound", plot([line], "step", "bits/dim", text), html.paragraph(text))


def training(record: Record) -> str:
    """The loss."""
    curve = record["curves"]["training"]
    if not curve:
        return html.section("Training", html.paragraph("No rows in metrics.jsonl."))
    steps, loss = ([point[name] for point in curve] for name in ("step", "loss"))
    smooth = [math.fsum(loss[max(0, i - 4) : i + 5]) / len(loss[max(0, i - 4) : i + 5]) for i in range(len(loss))]
    text = (
        "The training loss, averaged over batches (thin) and smoothed (thick). It flattens early by its nature, since "
        "most of the noise cannot be guessed; the held-out bound tells progress."
    )
    # The first steps tower over the rest and would flatten it.
    start = min(len(loss) // 20, 5)
    lines = [Line(steps[start:], smooth[start:]), Line(steps[start:], loss[start:], faint=True)]
    return html.section("Training", plot(lines, "step", "loss", text), html.paragraph(text))


def channels(record: Record) -> str:
    """Tints."""
    rows = []
    for row in record["channels"]:
        off = row["samples"] - row["data"]
        error = "" if row["stderr"] is None else f" ± {row['stderr']:.1f}"
        rows.append(
            [row["channel"], f"{row['samples']:.1f}{error}", f"{row['data']:.1f}", f"{off:+.1f}".replace("-", "−")]
        )
    text = (
        "Mean of each colour channel on 0…255. Differences of one sign in a single channel, beyond two or three "
        "standard errors, are a tint that the eye may miss."
    )
    return html.section(
        "Colour of samples and data",
        html.table(("channel", "samples", "training data", "difference"), rows, numeric=(1, 2, 3)),
        html.paragraph(text),
    )


def facts(record: Record) -> str:
    """Network, time, machine."""
    run, data = record["run"], record["data"]
    speed = run["images_per_second"]
    rows = [
        ["network", f"{run['parameters']:,} weights", f"it predicts the {run['target']} at every level"],
        [
            "levels",
            f"{run['levels']:,}",
            f"log-SNR {run['first_logsnr']:.1f} to {run['last_logsnr']:.1f}: how finely noise is added",
        ],
        [
            "training",
            f"{run['step']:,} steps, {duration(run['seconds'])}",
            f"{run['images_seen'] or 0:,} images seen, {(run['images_seen'] or 0) / data['train']:.1f} times each"
            + ("" if speed is None else f", {speed:,.0f} a second"),
        ],
        ["precision", f"{run['training_precision'] or 'unknown'}", "of the network in training; measured in float32"],
        ["device", run["device"], f"{run['threads']} threads, where this report was written"],
        [
            "data",
            f"{data['train']:,} + {data['validation']:,} + {data['test']:,}",
            "images to train, to validate and to test; no image is in two parts",
        ],
    ]
    return html.section("The run", html.table(("", "", ""), rows, numeric=(), meaning=2))
