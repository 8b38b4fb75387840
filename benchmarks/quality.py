"""Does the distance see what it should, and nothing where there is nothing? And what does a run get?

    python benchmarks/quality.py faults [faces digits FOLDER …] [--extractor small] [--n 500]
    python benchmarks/quality.py floor [faces digits FOLDER …] [--extractor small] [--n 500]
    python benchmarks/quality.py run RUN [--extractor small] [--n 1000]

`faults` spoils real images by growing amounts and measures them against other real images: every row should rise.
`floor` splits real images into disjoint pairs of sets: KID should be 0, by its own standard error. `run` is one record.
Each writes FOLDER/quality-<part>.json and .md (--out; docs/results by default).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from markovae.checkpoints.reading import open_checkpoint
from markovae.data.data_config import DataConfig
from markovae.data.loading import load_data, reopen
from markovae.data.split import Splits
from markovae.log import log
from markovae.quality.distances import kid
from markovae.quality.evaluation import evaluate
from markovae.quality.extractors import Extractor, open_extractor
from markovae.quality.features import cached_features, features

Images = np.ndarray[Any, Any]
FAULTS = {
    "noise, grey levels": (0, 2, 4, 8, 16, 32),
    "blur, pixels": (0, 0.35, 0.5, 0.7, 1.0, 1.5),
    "shift of the first channel, grey levels": (0, 2, 4, 8, 16, 32),
    "kinds left out, share of the images replaced": (0, 0.25, 0.5, 0.75, 1),
}


def everything(splits: Splits) -> Images:
    """All images of a source in an order of no meaning."""
    images = np.concatenate([np.asarray(part.images) for part in (splits.train, splits.validation, splits.test)])
    return images[np.random.default_rng(0).permutation(len(images))]


def spoilt(images: Images, bins: int, fault: str, amount: float) -> Images:
    """Real images with one fault, as digits again."""
    x, unit = images.astype(np.float64), (bins - 1) / 255
    if fault.startswith("noise"):
        x = x + amount * unit * np.random.default_rng(1).normal(size=x.shape)
    elif fault.startswith("shift"):
        x[:, 0] += amount * unit
    elif amount:
        x = blurred(x, amount)
    return np.clip(np.rint(x), 0, bins - 1).astype(images.dtype)


def blurred(x: Images, sigma: float) -> Images:
    """Gaussian blur, edges repeated."""
    reach = math.ceil(4 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (2, 3):
        length = x.shape[axis]
        places = [np.clip(np.arange(length) + shift, 0, length - 1) for shift in range(-reach, reach + 1)]
        x = sum(w * np.take(x, place, axis) for w, place in zip(weights, places, strict=True))
    return x


def without_kinds(splits: Splits) -> Images:
    """Images of the first half of the classes, or faces without glasses."""
    data = splits.train
    if data.labels is not None:
        return np.asarray(data.images[data.labels < len(data.class_names) / 2])
    if data.captions is None or not any("glasses" in caption for caption in data.captions):
        return np.asarray(data.images[:0])
    return np.asarray(data.images[["glasses" not in caption for caption in data.captions]])


def faults(source: str, extractor: Extractor, n: int) -> list[dict[str, Any]]:
    """KID of spoilt images, by fault and amount."""
    splits = load_data(DataConfig(source))
    bins, fewer = splits.train.bins, without_kinds(splits)
    held = np.concatenate([np.asarray(splits.test.images), np.asarray(splits.validation.images)])[: 2 * n]
    reference = cached_features(extractor, held, bins, "reference")
    train = np.asarray(splits.train.images)
    order = np.random.default_rng(0).permutation(len(train))
    images, rows = train[order[:n]], []
    for fault, amounts in FAULTS.items():
        row = []
        for amount in amounts:
            if fault.startswith("kinds"):
                if len(fewer) < n:
                    continue
                count = round(amount * n)
                chosen = np.concatenate([fewer[-count:] if count else fewer[:0], images[: n - count]])
            else:
                chosen = spoilt(images, bins, fault, amount)
            found = kid(features(extractor, chosen, bins, f"{fault} {amount}"), reference)
            row.append({"amount": amount, "kid": found.value, "stderr": found.stderr})
        if row:
            values = [cell["kid"] for cell in row]
            rows.append({"source": Path(source).name, "fault": fault, "rises": values == sorted(values), "cells": row})
    return rows


def floor(source: str, extractor: Extractor, n: int) -> dict[str, Any]:
    """KID of disjoint pairs of sets of n real images, in units of its standard error."""
    splits = load_data(DataConfig(source))
    images = everything(splits)[: 40 * n]
    n = min(n, len(images) // 4)
    found = cached_features(extractor, images, splits.train.bins, "features")
    pairs = [kid(a, b) for a, b in _pairs(found, n)]
    values, errors = (np.array([getattr(e, name) for e in pairs]) for name in ("value", "stderr"))
    return {
        "source": Path(source).name,
        "n": n,
        "pairs": len(pairs),
        "mean": values.mean(),
        "mean_stderr": values.std(ddof=1) / math.sqrt(len(pairs)),
        "spread": values.std(ddof=1),
        "root_mean_square_stderr": math.sqrt((errors**2).mean()),
        "covered": float(np.mean(np.abs(values) <= 1.96 * errors)),
    }


def _pairs(found: torch.Tensor, n: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for start in range(0, len(found) - 2 * n + 1, 2 * n):
        yield found[start : start + n], found[start + n : start + 2 * n]


def run(path: str, extractor: Extractor, n: int) -> dict[str, Any]:
    """One record of a run by the default sampler."""
    checkpoint = open_checkpoint(path)
    data = reopen(checkpoint.config.data, checkpoint.state["data"])
    return {
        "run": path,
        "step": checkpoint.step,
        **evaluate(checkpoint.model(), data, n, extractor=extractor).to_dict(),
    }


def plus(value: float, stderr: float) -> str:
    return f"{value:.4f} ± {stderr:.4f}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def table(part: str, rows: list[dict[str, Any]]) -> str:
    if part == "faults":
        text = ""
        for row in rows:
            cells = row["cells"]
            text += f"\n{row['source']}, {row['fault']}{'' if row['rises'] else ' (does not rise)'}:\n\n"
            kids = ["KID", *(plus(c["kid"], c["stderr"]) for c in cells)]
            text += markdown(["amount", *(f"{c['amount']:g}" for c in cells)], [kids])
        return text
    if part == "floor":
        head = ["data", "n", "pairs", "mean KID", "its spread", "standard error it claims", "covered at 95 %"]
        return markdown(head, [_floor_row(row) for row in rows])
    head = ["run", "n", "calls", "KID", "floor", "Fréchet distance", "floor", "precision", "recall", "coverage"]
    return markdown(head, [_run_row(row) for row in rows])


def _floor_row(row: dict[str, Any]) -> list[str]:
    mean, claimed = plus(row["mean"], row["mean_stderr"]), f"{row['root_mean_square_stderr']:.4f}"
    covered = f"{100 * row['covered']:.0f} %"
    return [row["source"], str(row["n"]), str(row["pairs"]), mean, f"{row['spread']:.4f}", claimed, covered]


def _run_row(row: dict[str, Any]) -> list[str]:
    shown, shares = row["conditions"], row["precision_recall"]
    kids = [plus(row[name]["value"], row[name]["stderr"]) for name in ("kid", "kid_floor")]
    distances = [f"{row[name]:.2f}" for name in ("frechet_distance", "frechet_distance_floor")]
    parts = [f"{shares[name]:.3f}" for name in ("precision", "recall", "coverage")]
    return [row["run"], str(shown["n"]), f"{shown['sampler']}, {shown['steps']}", *kids, *distances, *parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("faults", "floor", "run"))
    parser.add_argument("sources", nargs="*", default=["faces", "digits"])
    parser.add_argument("--extractor", default="small")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    extractor = open_extractor(options.extractor)
    rows: list[dict[str, Any]] = []
    for source in options.sources:
        log(source)
        found = {"faults": faults, "floor": floor, "run": run}[options.part](source, extractor, options.n)
        rows += found if isinstance(found, list) else [found]
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"part": options.part, "extractor": extractor.name, "sha256": extractor.digest, "rows": rows}
    stem = options.out / f"quality-{options.part}"
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(table(options.part, rows), encoding="utf-8")
    print(table(options.part, rows))


if __name__ == "__main__":
    main()
