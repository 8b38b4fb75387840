"""report.html: its sections, each figure with one sentence of what it means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from markovae.data.image_codecs import coded_count
from markovae.data.pictures import tile, viewable
from markovae.log import duration, plus_minus
from markovae.report import html
from markovae.report.column_sheet import column_nats_section, column_section
from markovae.report.html import STYLE
from markovae.report.plots import Line, plot
from markovae.report.prompt_sheet import caption_section, prompt_section
from markovae.report.report_data import ReportData
from markovae.report.words import (
    CHANNELS,
    EXTREMES,
    HELDOUT,
    PER_LEVEL,
    PROGRESS,
    RATE,
    TERMS,
    TRAINING,
    bound_in_words,
    change_in_words,
    codecs_in_words,
    left_out_in_words,
)

Record = dict[str, Any]


def trained_for(run: Record) -> str:
    """How long, in words."""
    return "unknown" if run["seconds"] is None else duration(run["seconds"])


def cost(record: Record) -> str:
    """bits/dim beside the codecs, and its terms."""
    measured, bins = record["measurement"], record["data"]["bins"]
    bits, plain = measured["bits_per_dim"], math.log2(bins)
    low, high = bits["ci95"]
    interval = "a single image has no interval" if low is None else f"95 % interval {low:.3f} to {high:.3f}"
    names = ("per_image_bits_per_dim", "tiled_bits_per_dim")
    most = max(plain, bits["mean"], *(codec[name] or 0 for codec in record["codecs"] for name in names))
    coded = coded_count(measured["n"], record["data"]["shape"])
    rows = [["this model", f"{bits['mean']:.3f}", _bar(bits["mean"], most, own=True), interval]]
    for codec in record["codecs"]:
        for kind, text in (("per_image", "one file an image"), ("tiled", "all in one large image")):
            figure = codec[f"{kind}_bits_per_dim"]
            if figure is not None:
                note = f"the model takes {change_in_words(bits['mean'], figure)}"
                if kind == "tiled" and codec["tiled_images"] < coded:
                    note += f" ({codec['tiled_images']:,} images fill the rectangle)"
                rows.append([f"{codec['name']}, {text}", f"{figure:.3f}", _bar(figure, most), note])
    rows.append(["stored plainly", f"{plain:.3f}", _bar(plain, most), f"uniform over {bins:,} values"])
    terms = [[name, f"{measured['terms_bits_per_dim'][name]:.4f}", text] for name, text in TERMS.items()]
    of = "the same images" if coded == measured["n"] else f"the first {coded:,} of them"
    how = (
        f"The bound on the test part's first {measured['n']:,} images, {measured['network_calls_per_example']} network "
        f"calls each, and what lossless files of {of} take. {bound_in_words(bins)} {codecs_in_words(bins)} "
        "The command markovae compress writes a file of the bound's length."
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
    """Nats per level against log-SNR."""
    curve = record["curves"]["levels"]
    if not curve:
        return html.section("Where the bits go", html.paragraph("This model has no levels between data and top."))
    line = Line(
        [point["logsnr"] for point in curve],
        [point["nats"] for point in curve],
        [point["stderr"] or 0.0 for point in curve],
    )
    drawing = plot([line], "log-SNR λ: data on the left, noise on the right", "nats per level", PER_LEVEL, falling=True)
    return html.section("Where the bits go", drawing, html.paragraph(PER_LEVEL))


def rate_plot(record: Record) -> str:
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
    said = record["outlook"]["sentence"] if record["outlook"] else ""
    ahead = html.paragraph(f"{said[0].upper()}{said[1:]}.") if said else ""
    return html.section("Held-out bound", plot([line], "step", "bits/dim", HELDOUT), html.paragraph(HELDOUT), ahead)


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
        "Color of samples and data",
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
            f"{run['step']:,} steps, {trained_for(run)}",
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


def page(data: ReportData) -> str:
    """The whole page."""
    record = data.record
    name = f"{record['run']['name']}: a run of markovae"
    body = "".join(
        (
            _header(record),
            _samples(data),
            prompt_section(data.prompts, data.bins),
            column_section(data.columns, data.bins),
            cost(record),
            caption_section(record["captions"]),
            column_nats_section(record.get("column_nats")),
            f'<div class="pair">{levels(record)}{heldout(record)}</div>',
            _rate(data),
            _extremes(data),
            _neighbours(data),
            _encoder(data),
            _reverse(data),
            f'<div class="pair">{training(record)}{channels(record)}</div>',
            facts(record),
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.text_of(name)}</title><style>{STYLE}</style></head><body><main>{body}"
        f"<footer>Written by markovae {html.text_of(record['markovae'])}; report.json beside this file holds the same "
        "figures.</footer></main></body></html>\n"
    )


def _header(record: dict[str, Any]) -> str:
    run, facts, measured = record["run"], record["data"], record["measurement"]
    channels, height, width = facts["shape"]
    kind = "grey" if channels == 1 else "rgb"
    line = (
        f"{facts['source']}: {facts['train']:,} {kind} training images of {width}×{height}; "
        f"{run['parameters'] / 1e6:.2f} M weights, {run['step']:,} steps"
    )
    near = record["neighbours"]
    figures = [
        (plus_minus(measured["bits_per_dim"], 3), f"bits/dim on {measured['n']:,} images never trained on"),
        (trained_for(run), f"of training, {run['images_seen'] or 0:,} images seen"),
        (
            f"{near['samples_median']:.1f}",
            f"grey levels from a sample to the nearest training image ({near['real']['median']:.1f} from unseen)",
        ),
    ]
    return f"<header><h1>{html.text_of(run['name'])}</h1>{html.paragraph(line)}</header>{html.headline(figures)}"


def _samples(data: ReportData) -> str:
    facts = data.record["samples"]
    pictures = tile(viewable(data.samples, data.bins), facts["columns"], clear=True)
    sheet = html.image(pictures, f"{facts['n']} samples of the model, none left out.")
    text = (
        f"Samples 0 to {facts['n'] - 1} of seed {facts['seed']}, {facts['network_calls_per_sample']} network "
        "evaluations each: drawn by the model, none left out. How near they are to training images is shown below."
    )
    if facts["column_classes"]:
        text += f" One class a column: {', '.join(facts['column_classes'])}."
    if data.columns and data.prompts is None:
        text += " Each was given the columns of the test image of its number, or its class."
    if data.prompts is not None:
        text += " Each was given the caption of the test image of its number, without guidance."
    return html.section("Samples", f'<div class="sheet">{sheet}</div>', html.paragraph(text))


def _neighbours(data: ReportData) -> str:
    near, facts = data.neighbours, data.record["neighbours"]
    own = viewable(data.samples[: len(near.index)], data.bins)
    real = viewable(np.asarray(data.pool[near.index]), data.bins)
    figures = [
        html.figure(
            tile(np.stack([a, b]), 1, clear=True),
            f"Sample {i}, and below it the nearest training image: {d:.1f} grey levels apart (root mean square).",
            (f"{d:.1f}",),
        )
        for i, (a, b, d) in enumerate(zip(own, real, near.distance, strict=True))
    ]
    unseen = facts["real"]
    text = (
        "Top: samples. Below: the nearest training image, with the distance to it (root mean square, grey levels of "
        f"0…255; median {facts['samples_median']:.1f}). Compare with images that were never trained "
        f"on: median {unseen['median']:.1f}, and 5 % of {unseen['n']:,} of them nearer than "
        f"{unseen['lowest_5_percent']:.1f}. Samples well below that would be copies of training images."
    )
    return html.section("Nearest training images", html.strip(figures), html.paragraph(text))


def _rate(data: ReportData) -> str:
    if data.rate is None:
        return ""
    figures = [
        html.figure(
            tile(pictures, 1, clear=True),
            f"The images themselves, exact after {point.rate_bits_per_dim:.3f} bits/dim."
            if point.level == 0
            else f"After {point.rate_bits_per_dim:.3f} bits/dim, at level {point.level}: the predictions are off by "
            f"{point.rmse:.1f} grey levels (root mean square).",
            (f"{point.rate_bits_per_dim:.3f} bits", "exact" if point.level == 0 else f"± {point.rmse:.1f}"),
        )
        for point, pictures in zip(data.rate.shown, data.rate.pictures, strict=True)
    ]
    return html.section(
        "Rate and distortion",
        rate_plot(data.record),
        html.paragraph(RATE),
        html.strip(figures),
        html.paragraph(PROGRESS),
    )


def _extremes(data: ReportData) -> str:
    parts = []
    for name, title in (("cheapest", "The cheapest:"), ("dearest", "The dearest:")):
        rows = data.record["extremes"][name]
        figures = [
            html.figure(picture, _costs(row), (f"{row['bits_per_dim']:.2f}",))
            for row, picture in zip(rows, data.extremes[name], strict=True)
        ]
        parts += [html.paragraph(title), html.strip(figures)] if rows else []
    return html.section("The least and the most costly images", *parts, html.paragraph(EXTREMES))


def _costs(row: Record) -> str:
    name = row["file"] or f"Test image {row['image']}"
    return f"{name} costs {row['bits_per_dim']:.2f} bits/dim."


def _encoder(data: ReportData) -> str:
    figures = [
        html.figure(
            tile(column.pictures, 1, clear=True),
            f"Level {column.level}: {_mixture(column.logsnr)}.",
            (f"level {column.level}", f"λ = {_logsnr(column.logsnr)}"),
        )
        for column in data.encoder
    ]
    text = (
        "Held-out images on their way to noise, z_0 to z_L: each level keeps a little less signal. λ is the log of "
        "the signal-to-noise ratio; at λ = 0 signal and noise are equally strong."
    )
    return html.section("The encoder", html.strip(figures), html.paragraph(text))


def _reverse(data: ReportData) -> str:
    figures = [
        html.figure(
            tile(column.pictures, 1, clear=True),
            f"The latent z, {_mixture(column.logsnr)}, and below it what the network takes the image to be.",
            (f"λ = {_logsnr(column.logsnr)}",),
        )
        for column in data.reverse
    ]
    text = (
        "The way back: in turn the latent z and, below it, the network's prediction of z_0 at that moment. Shapes and "
        "colors are settled early, details last."
    )
    return html.section("The prior, backwards", html.strip(figures), html.paragraph(text))


def _mixture(logsnr: float) -> str:
    """What a latent of this log-SNR is made of, in words."""
    if logsnr == math.inf:
        return "the image without noise"
    image, noise = (100 / math.sqrt(1 + math.exp(-sign * logsnr)) for sign in (1, -1))
    return f"{image:.3g} % of the image and noise of {noise:.3g} %"


def _logsnr(value: float) -> str:
    return "∞" if value == float("inf") else f"{value:.1f}".replace("-", "−")
