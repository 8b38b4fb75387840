"""What a trustworthy bound costs: standard error against network calls, coverage, and few levels against all.

    python benchmarks/elbo_cost.py RUN [--images 500] [--fit 1000] [--levels 16 25 32 64] [--out FOLDER]

Everything fitted (laws, control variate, reverse variances, sub-grids) is fitted on training images; the figures are
of test images. Writes elbo_cost.json and elbo_cost.md. Cost: L network calls for each test image.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from markovae.checkpoint import open_checkpoint
from markovae.console import say
from markovae.data import reopen
from markovae.diffusion import Diffusion
from markovae.likelihood import LevelLaw, Wiener, fit_reverse, isotropic_costs, measure, posterior_costs, search, survey
from markovae.likelihood.inputs import Array
from markovae.likelihood.resample import cost_curve, coverage, nats_table
from markovae.reverse import IsotropicVariance

DRAWS = (1, 2, 3, 4, 5, 6, 8, 9, 12, 16, 32, 64)


def with_reverse(model: Diffusion, reverse: Any) -> Diffusion:
    made = Diffusion(model.network, model.schedule, model.target, reverse, model.decoder, model.shape)
    made.precision = model.precision
    return made.eval()


def study_cost(model: Diffusion, fit: Array, images: Array, labels: tuple[Any, Any], batch: int) -> dict[str, Any]:
    """The curve of added standard error and the coverage, by estimator."""
    wiener = Wiener.fit(model.to_x(torch.as_tensor(fit)).cpu())
    found = survey(model, fit, labels[0], wiener=wiener, batch=batch)
    control = found.control(wiener)
    uniform, importance = LevelLaw.uniform(model.num_levels), found.law()
    residual = found.law(controlled=True)
    plain = nats_table(model, images, labels[1], batch=batch)
    helped = nats_table(model, images, labels[1], control=control, batch=batch)
    draws = [d for d in DRAWS if d < model.num_levels]
    named = {
        "stratified": (plain, uniform),
        "importance": (plain, importance),
        "stratified + control": (helped, uniform),
        "importance + control": (helped, residual),
    }
    ten = [d for d in draws if d < 10][-1]
    return {
        "images": len(plain.rest),
        "bits_per_dim_full_sum": float(plain.full().mean()) / model.dims / math.log(2),
        "curve": {name: [vars(row) for row in cost_curve(table, law, draws)] for name, (table, law) in named.items()},
        "coverage": {name: coverage(table, law, ten, len(plain.rest)) for name, (table, law) in named.items()},
        "coverage_draws": ten,
    }


def study_levels(
    model: Diffusion, fit: Array, images: Array, labels: tuple[Any, Any], counts: list[int], batch: int
) -> list[dict[str, Any]]:
    """Excess over the full grid, bits/dim, of optimal and of even sub-grids; same level 1 and decoder."""
    best = with_reverse(model, IsotropicVariance(129))
    found = fit_reverse(best, fit, labels[0], knots=129, batch=batch)
    logsnr, bits = model.schedule.logsnr, 1 / (model.dims * math.log(2))
    error = found.errors_at(logsnr[1:])
    optimal, posterior = isotropic_costs(error, logsnr, model.dims), posterior_costs(error, logsnr, model.dims)
    full = float(optimal.diagonal(1).sum())
    grids = search(optimal, max(counts))
    rows = []
    base = measure(best, images, labels[1], draws=min(64, model.num_levels - 1), batch=batch)
    for k in counts:
        even = (model.schedule.sublevels(k) - 1).tolist()
        levels = grids.levels(k).tolist()
        measured = measure(best, images, labels[1], draws=None, levels=levels, batch=batch)
        rows.append(
            {
                "levels": k,
                "predicted_excess": (float(grids.nats[k - 1]) - full) * bits,
                "predicted_excess_even_posterior": (sum(float(posterior[a, b]) for a, b in pairwise(even)) - full)
                * bits,
                "measured": measured.bits_per_dim.value,
                "measured_full_grid": base.bits_per_dim.value,
                "measured_excess": float((measured.total - base.total).mean()) * bits,
                "measured_excess_stderr": float((measured.total - base.total).std()) / math.sqrt(len(images)) * bits,
                "grid": levels,
            }
        )
    return rows


def table(record: dict[str, Any]) -> str:
    curve = record["cost"]["curve"]
    names = list(curve)
    lines = ["| calls an image | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for i, row in enumerate(curve[names[0]]):
        lines.append(f"| {row['calls']} | " + " | ".join(f"+{100 * curve[n][i]['added']:.1f} %" for n in names) + " |")
    lines.append(f"\nCoverage of the 95 % interval at {record['cost']['coverage_draws']} draws: ")
    lines.append(", ".join(f"{name} {100 * value:.1f} %" for name, value in record["cost"]["coverage"].items()))
    lines += [
        "\n| K | excess, optimal grid (bits/dim) | predicted | even strides with β̃, predicted |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {r['levels']} | {r['measured_excess']:.4f} ± {r['measured_excess_stderr']:.4f} | "
        f"{r['predicted_excess']:.4f} | {r['predicted_excess_even_posterior']:.4f} |"
        for r in record["levels"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--fit", type=int, default=1000)
    parser.add_argument("--levels", type=int, nargs="+", default=[16, 25, 32, 64])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("elbo_cost"))
    options = parser.parse_args()
    checkpoint = open_checkpoint(options.run)
    model, data = checkpoint.model().eval(), reopen(checkpoint.config.data, checkpoint.state["data"])
    conditioned = bool(getattr(model.network, "num_classes", 0))
    fit, images = data.train.images[: options.fit], data.test.images[: options.images]
    labels = (data.train.labels[: options.fit], data.test.labels[: options.images]) if conditioned else (None, None)
    say(f"{len(images)} test images, every one of {model.num_levels} levels")
    record = {
        "run": str(options.run),
        "cost": study_cost(model, fit, images, labels, options.batch),
        "levels": study_levels(model, fit, images, labels, options.levels, options.batch),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "elbo_cost.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (options.out / "elbo_cost.md").write_text(table(record), encoding="utf-8")
    print(table(record))


if __name__ == "__main__":
    main()
