"""report.html: one file, no scripts, nothing fetched."""

from __future__ import annotations

from typing import Any

import numpy as np

from markovae.report import html, sections
from markovae.report.findings import Findings
from markovae.report.pictures import grid, viewable
from markovae.report.prompts import caption_section, prompt_section
from markovae.report.style import STYLE
from markovae.report.words import EXTREMES, PROGRESS, RATE


def page(found: Findings) -> str:
    """The whole page."""
    record = found.record
    name = f"{record['run']['name']}: a run of markovae"
    body = "".join(
        (
            _header(record),
            _samples(found),
            prompt_section(found.prompts, found.bins),
            sections.cost(record),
            caption_section(record["captions"]),
            f'<div class="pair">{sections.levels(record)}{sections.heldout(record)}</div>',
            _progress(found),
            _extremes(found),
            _neighbours(found),
            _encoder(found),
            _reverse(found),
            f'<div class="pair">{sections.training(record)}{sections.channels(record)}</div>',
            sections.facts(record),
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
    run, data, measured = record["run"], record["data"], record["measurement"]
    channels, height, width = data["shape"]
    kind = "grey" if channels == 1 else "rgb"
    line = (
        f"{data['source']}: {data['train']:,} {kind} training images of {width}×{height}; "
        f"{run['parameters'] / 1e6:.2f} M weights, {run['step']:,} steps"
    )
    near = record["neighbours"]
    figures = [
        (sections.plus_minus(measured["bits_per_dim"]), f"bits/dim on {measured['n']:,} images never trained on"),
        (sections.duration(run["seconds"]), f"of training, {run['images_seen'] or 0:,} images seen"),
        (
            f"{near['samples_median']:.1f}",
            f"grey levels from sample to training image (unseen: {near['real']['median']:.1f})",
        ),
    ]
    return f"<header><h1>{html.text_of(run['name'])}</h1>{html.paragraph(line)}</header>{html.hero(figures)}"


def _samples(found: Findings) -> str:
    facts = found.record["samples"]
    pictures = grid(viewable(found.samples, found.bins), facts["columns"], clear=True)
    sheet = html.image(pictures, f"{facts['n']} samples of the model")
    text = (
        f"Samples 0 to {facts['n'] - 1} of seed {facts['seed']}, {facts['network_calls_per_sample']} network calls "
        "each: drawn by the model, none left out. How near they are to training images stands below."
    )
    if facts["column_classes"]:
        text += f" One class a column: {', '.join(facts['column_classes'])}."
    if found.prompts is not None:
        text += " Each was given the caption of the test image of its number, without guidance."
    return html.section("Samples", f'<div class="sheet">{sheet}</div>', html.paragraph(text))


def _neighbours(found: Findings) -> str:
    near, facts = found.neighbours, found.record["neighbours"]
    own = viewable(found.samples[: len(near.index)], found.bins)
    real = viewable(np.asarray(found.pool[near.index]), found.bins)
    figures = [
        html.figure(
            grid(np.stack([a, b]), 1, clear=True), f"sample {i} above its nearest training image", (f"{d:.1f}",)
        )
        for i, (a, b, d) in enumerate(zip(own, real, near.distance, strict=True))
    ]
    unseen = facts["real"]
    text = (
        "Top: samples. Below: the nearest training image, with the distance to it (root mean square, grey levels of "
        f"0…255; median {facts['samples_median']:.1f}). The yardstick is how near images lie that were never trained "
        f"on: median {unseen['median']:.1f}, and 5 % of {unseen['n']:,} of them nearer than "
        f"{unseen['lowest_5_percent']:.1f}. Samples well below that would be copies of training images."
    )
    return html.section("Nearest training images", html.strip(figures), html.paragraph(text))


def _progress(found: Findings) -> str:
    way = found.progress
    figures = [
        html.figure(
            grid(pictures, 1, clear=True),
            "the image itself" if point.level == 0 else f"the guess at level {point.level}",
            (f"{point.rate_bits_per_dim:.3f} bits", "exact" if point.level == 0 else f"± {point.rmse:.1f}"),
        )
        for point, pictures in zip(way.shown, way.pictures, strict=True)
    ]
    return html.section(
        "Rate and distortion",
        sections.rate(found.record),
        html.paragraph(RATE),
        html.strip(figures),
        html.paragraph(PROGRESS),
    )


def _extremes(found: Findings) -> str:
    parts = []
    for name, title in (("cheapest", "The cheapest:"), ("dearest", "The dearest:")):
        rows = found.record["extremes"][name]
        figures = [
            html.figure(picture, f"image {row['image']}", (f"{row['bits_per_dim']:.2f}",))
            for row, picture in zip(rows, found.extremes[name], strict=True)
        ]
        parts += [html.paragraph(title), html.strip(figures)] if rows else []
    return html.section("The least and the most costly images", *parts, html.paragraph(EXTREMES))


def _encoder(found: Findings) -> str:
    figures = [
        html.figure(
            grid(column.pictures, 1, clear=True),
            f"level {column.level}",
            (f"ℓ = {column.level}", f"λ = {_logsnr(column.logsnr)}"),
        )
        for column in found.encoder
    ]
    text = (
        "Held-out images on their way to noise, z_0 to z_L: each level keeps a little less signal. λ is the log of "
        "the signal-to-noise ratio; at λ = 0 signal and noise are equally strong."
    )
    return html.section("The encoder", html.strip(figures), html.paragraph(text))


def _reverse(found: Findings) -> str:
    figures = [
        html.figure(grid(column.pictures, 1, clear=True), "z above its guess", (f"λ = {_logsnr(column.logsnr)}",))
        for column in found.reverse
    ]
    text = (
        "The way back: in turn the latent z and, below it, the network's guess of z_0 at that moment. Shapes and "
        "colours are settled early, details last."
    )
    return html.section("The prior, backwards", html.strip(figures), html.paragraph(text))


def _logsnr(value: float) -> str:
    return "∞" if value == float("inf") else f"{value:.1f}".replace("-", "−")
