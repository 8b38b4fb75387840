"""Samplers at equal numbers of network calls: kernel distance, distance to a fine walk of the same seeds, time.

    python benchmarks/samplers.py RUN [--n 1000] [--calls 5 8 10 20] [--paired 200] [--out docs/results/samplers_X.json]

With `pip install diffusers` the same network is driven by its schedulers too, in the same run. Images are kept part by
part (--cells FOLDER), so that a table that was broken off goes on. `python benchmarks/pages.py` shows the record.

Cost, in calls of the network: n (Σ calls × samplers + L for `ancestral` + Σ calls × 9 for the peers) + 200 × paired.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from markovae.checkpoints.reading import open_checkpoint
from markovae.data.cache import cache_folder
from markovae.data.loading import reopen
from markovae.diffusion.bound import Estimate
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.log import log
from markovae.quality.distances import kid, kid_difference
from markovae.quality.evaluation import reference_for
from markovae.quality.extractors import open_extractor
from markovae.quality.features import cached_features, features
from markovae.sampling.grids import uniform_grid
from markovae.sampling.plans import Plan, logsnr_range, plan
from markovae.sampling.sampler_table import DEFAULT_SAMPLER, SAMPLERS
from markovae.sampling.samplers import AdamsBashforth, UniC
from markovae.system.files import make_folder, write_file
from samplers_cells import Cell, by_plan, cell, grid_key
from samplers_peers import PEERS, STOCHASTIC, available, by_scheduler

FINE = 200
NOISY = ("sde-dpmpp2m", "pc", "ancestral", *STOCHASTIC)
EXTRACTOR = "small"
# A sampler as it comes, or after a comma in another spacing: the peers are tried in several too.
OURS = (
    *SAMPLERS,
    "dpmpp2m, karras",
    "unipc2, karras",
    "deis2, karras",
    "sde-dpmpp2m, uniform",
)


@dataclass(frozen=True)
class Row:
    """One cell of the table.

    Args:
        sampler: its name.   ours: or a peer.   calls: of the network, an image; fewer are made where a step takes
            several (`made`).   kid: against the held-out images, mean and stderr.   rmse: to the fine walk of the same
            seeds, on the scale of the model; None for samplers that draw.   ms: an image.
        over_chain: KID less that of `ancestral` through all levels, given the reference.
    """

    sampler: str
    ours: bool
    calls: int
    made: int
    kid: dict[str, float]
    rmse: float | None
    ms: float
    over_chain: dict[str, float] | None = None


@dataclass
class Study:
    """What every cell needs."""

    model: Diffusion
    labels: Tensor | None
    options: argparse.Namespace
    folder: Path
    real: Tensor
    fine: Tensor
    chain: Tensor | None = None

    def row(self, name: str, ours: bool, calls: int) -> Row:
        """Draw and measure one cell."""
        place = f"{name.replace(' ', '-').replace(',', '')}-{calls}"
        if ours:
            sampler, _, spacing = name.partition(", ")
            chosen = plan(self.model, sampler, calls, spacing or None)
            draw, made = by_plan(self.model, chosen, self.options.seed), chosen.nfe
            place = f"ours/{place}-{grid_key(chosen)}"
        else:
            draw, made = by_scheduler(self.model, name, calls, self.options.seed), calls
            place = f"diffusers/{place}"
        found = cell(self.folder / place, draw, self.options.n, self.options.batch, self.labels)
        seen = self.features(found, f"{name} at {calls}")
        whole = ours and name == "ancestral" and calls == self.model.num_levels
        if whole:
            self.chain = seen
        distance = kid(seen, self.real)
        over = None if self.chain is None or whole else kid_difference(seen, self.chain, self.real)
        rmse = (
            None
            if name.partition(",")[0] in NOISY
            else math.sqrt(float((found.x[: len(self.fine)] - self.fine).double().square().mean()))
        )
        return Row(
            sampler=name,
            ours=ours,
            calls=calls,
            made=made,
            kid=figure(distance),
            rmse=rmse,
            ms=1000 * found.seconds,
            over_chain=None if over is None else figure(over),
        )

    def features(self, found: Cell, label: str) -> Tensor:
        digits = found.digits(self.model).numpy().astype("uint8")
        return features(open_extractor(EXTRACTOR), digits, self.model.pixels.bins, label)


def figure(found: Estimate) -> dict[str, float]:
    return {"mean": found.value, "stderr": found.stderr}


def fine_walk(model: Diffusion) -> Plan:
    """UniPC-3 in 200 calls over the model's whole range."""
    return Plan(AdamsBashforth(3), uniform_grid(*logsnr_range(model), FINE), UniC(3))


def studied(model: Diffusion, study: Study, options: argparse.Namespace) -> list[Row]:
    """Every cell; the whole chain first, for the others are compared with it."""
    rows = []
    if not options.no_chain:
        rows.append(study.row("ancestral", True, model.num_levels))
    for calls in options.calls:
        rows += [study.row(name, True, calls) for name in options.samplers]
        rows += [study.row(name, False, calls) for name in options.peers]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 8, 10, 20])
    parser.add_argument("--samplers", nargs="+", choices=OURS, default=list(OURS))
    parser.add_argument("--paired", type=int, default=200, help="samples compared with the fine walk")
    parser.add_argument("--no-chain", action="store_true", help="leave out ancestral through all levels")
    parser.add_argument(
        "--peers", nargs="*", choices=PEERS, default=list(PEERS), help="of diffusers; name none for none"
    )
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", type=Path, help="where images are kept (default: in the cache folder)")
    parser.add_argument("--out", type=Path, default=Path("samplers.json"))
    options = parser.parse_args()
    options.paired = min(options.paired, options.n)
    checkpoint = open_checkpoint(options.run)
    model, data = checkpoint.model(), reopen(checkpoint.config.data, checkpoint.state["data"])
    real = reference_for(model, data, options.n)
    labels = None if real.labels is None else torch.as_tensor(real.labels)
    peers = available() if options.peers else None
    if peers is None and options.peers:
        options.peers = []
        log("diffusers is not installed: the peers are left out (pip install diffusers)")
    folder = (options.cells or cache_folder() / "samplers") / f"{checkpoint.digest}-seed{options.seed}"
    extractor = open_extractor(EXTRACTOR)
    reference = cached_features(extractor, real.reference, real.bins, "features of the reference")
    floor = kid(cached_features(extractor, real.floor_samples, real.bins, "features of training images"), reference)
    with evaluating(model):
        fine = cell(
            folder / "fine", by_plan(model, fine_walk(model), options.seed), options.paired, options.batch, labels
        )
        study = Study(model, labels, options, folder, reference, fine.x)
        rows = studied(model, study, options)
    record = {
        "run": str(options.run),
        "checkpoint": {"digest": checkpoint.digest, "step": checkpoint.step},
        "levels": model.num_levels,
        "n": options.n,
        "paired": options.paired,
        "fine_calls": FINE,
        "calls": options.calls,
        "default": DEFAULT_SAMPLER,
        "seed": options.seed,
        "batch": options.batch,
        "threads": torch.get_num_threads(),
        "diffusers": peers,
        "extractor": {"name": extractor.name, "sha256": extractor.digest},
        "reference": {"n": len(real.reference), "sha256": real.digest},
        "floor": figure(floor),
        "rows": [asdict(row) for row in rows],
    }
    make_folder(options.out.parent)
    write_file(options.out, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    log(f"written: {options.out}; python benchmarks/pages.py puts it into docs/results.md")


if __name__ == "__main__":
    main()
