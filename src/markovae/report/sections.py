"""The parts of the page that are figures: each with one sentence of what it means."""

from __future__ import annotations

import math
from typing import Any

from markovae.plots import Line, plot
from markovae.report import html
from markovae.report.words import (
    CHANNELS,
    HELDOUT,
    PER_LEVEL,
    RATE,
    TERMS,
    TRAINING,
    bound_in_words,
    change_in_words,
    codecs_in_words,
    left_out_in_words,
)

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
    names = ("per_image_bits_per_dim", "tiled_bits_per_dim")
    most = max(plain, bits["mean"], *(codec[name] or 0 for codec in record["codecs"] for name in names))
    rows = [["this model", f"{bits['mean']:.3f}", _bar(bits["mean"], most, own=True), interval]]
    for codec in record["codecs"]:
        for kind, text in (("per_image", "one file an image"), ("tiled", "all in one large image")):
            figure = codec[f"{kind}_bits_per_dim"]
            if figure is not None:
                note = f"the model takes {change_in_words(bits['mean'], figure)}"
                if kind == "tiled" and codec["tiled_images"] < measured["n"]:
                    note += f" ({codec['tiled_images']:,} images fill the rectangle)"
                rows.append([f"{codec['name']}, {text}", f"{figure:.3f}", _bar(figure, most), note])
    rows.append(["stored plainly", f"{plain:.3f}", _bar(plain, most), f"any of {bins:,} values, none likelier"])
    terms = [[name, f"{measured['terms_bits_per_dim'][name]:.4f}", text] for name, text in TERMS.items()]
    how = (
        f"The bound on the test part's first {measured['n']:,} images, {measured['network_calls_per_example']} network "
        f"calls each, and what lossless files of the same images take. {bound_in_words(bins)} {codecs_in_words(bins)}"
    )
    warning = record["run"]["warning"]
    return html.section(
        "What the images cost",
        html.table(("", "bits/dim", "", ""), rows, numeric=(1,), meaning=3),
        html.paragraph(how),
        html.table(("term of the bound", "bits/dim", "what it is"), terms, numeric=(1,), meaning=2),
        "" if warning is None else html.paragraph(f"Warning: {warning}", "warning"),
    )


def _bar(value: float, full: float, own: bool = False) -> html.Markup:
    width = max(0.0, 100 * value / full)
    kind = "bar own" if own else "bar"
    return html.Markup(f'<div class="{kind}" style="width:{width:.1f}%"></div>')


def levels(record: Record) -> str:
    """Nats a level against log-SNR."""
    curve = record["curves"]["levels"]
    if not curve:
        return html.section("Where the bits go", html.paragraph("This model has no levels between data and top."))
    line = Line(
        [point["logsnr"] for point in curve],
        [point["nats"] for point in curve],
        [point["stderr"] or 0.0 for point in curve],
    )
    drawing = plot([line], "log-SNR λ: data on the left, noise on the right", "nats a level", PER_LEVEL, falling=True)
    return html.section("Where the bits go", drawing, html.paragraph(PER_LEVEL))


def rate(record: Record) -> str:
    """RMSE against bits/dim, as a drawing; the exact image has no place on its logarithmic axis."""
    curve = [point for point in record["curves"]["rate"] if point["rmse"] > 0]
    line = Line([point["bits_per_dim"] for point in curve], [point["rmse"] for point in curve])
    drawing = plot([line], "rate: bits/dim that have come", "distortion: RMSE, grey levels", RATE, log_y=True)
    return f'<div class="drawing">{drawing}</div>'


def heldout(record: Record) -> str:
    """bits/dim on the way."""
    curve = [point for point in record["curves"]["heldout"] if point["mean"] is not None]
    if not curve:
        return html.section("Held-out bound", html.paragraph("Not taken in this run (train.evaluations=0)."))
    # The untrained network's bound towers over the rest and would flatten it.
    trained = [point for point in curve if point["step"]]
    curve = trained if len(trained) > 1 else curve
    line = Line(
        [point["step"] for point in curve],
        [point["mean"] for point in curve],
        [point["stderr"] or 0.0 for point in curve],
    )
    return html.section("Held-out bound", plot([line], "step", "bits/dim", HELDOUT), html.paragraph(HELDOUT))


def training(record: Record) -> str:
    """The loss."""
    curve, lost = record["curves"]["training"], record["rows"]["left_out"]
    missing = "" if not lost else html.paragraph(f"{left_out_in_words(lost)} left out.")
    if not curve:
        return html.section("Training", html.paragraph("No rows of training in metrics.jsonl."), missing)
    steps, loss = ([point[name] for point in curve] for name in ("step", "loss"))
    reach = min(4, len(loss) // 10)
    near = [loss[max(0, i - reach) : i + reach + 1] for i in range(len(loss))]
    smooth = [math.fsum(window) / len(window) for window in near]
    # The first steps tower over the rest and would flatten it.
    start = min(len(loss) // 20, 5)
    lines = [Line(steps[start:], smooth[start:]), Line(steps[start:], loss[start:], faint=True)]
    return html.section("Training", plot(lines, "step", "loss", TRAINING), html.paragraph(TRAINING), missing)


def channels(record: Record) -> str:
    """Tints."""
    rows = []
    for row in record["channels"]:
        off = row["samples"] - row["data"]
        error = "" if row["stderr"] is None else f" ± {row['stderr']:.1f}"
        rows.append(
            [row["channel"], f"{row['samples']:.1f}{error}", f"{row['data']:.1f}", f"{off:+.1f}".replace("-", "−")]
        )
    return html.section(
        "Colour of samples and data",
        html.table(("channel", "samples", "data", "difference"), rows, numeric=(1, 2, 3)),
        html.paragraph(CHANNELS),
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
            "log-SNR "
            + f"{run['first_logsnr']:.1f} to {run['last_logsnr']:.1f}".replace("-", "−")
            + ": how finely noise is added",
        ],
        [
            "training",
            f"{run['step']:,} steps, {duration(run['seconds'])}",
            f"{run['images_seen'] or 0:,} images seen, {(run['images_seen'] or 0) / data['train']:.1f} times each"
            + ("" if speed is None else f", {speed:,.0f} a second"),
        ],
        [
            "precision",
            f"{run['training_precision'] or 'unknown'}",
            f"of the network in training; measured in float32, sampled in {run['sampling_precision']}",
        ],
        [
            "device",
            run["device"],
            f"where this report was written, with {run['threads']} CPU threads; trained with torch "
            f"{(run['versions'] or {}).get('torch', 'of unknown version')}",
        ],
        [
            "data",
            f"{data['train']:,} + {data['validation']:,} + {data['test']:,}",
            "images to train, to validate and to test; no image is in two parts",
        ],
    ]
    return html.section("The run", html.table(("", "", ""), rows, numeric=(), meaning=2))
