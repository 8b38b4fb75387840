"""Files beside the bound, for a model whose denoiser is exact and fast: what remains is the codec's own.

python benchmarks/codec_exact.py widths     of the latents' grids, in standard deviations
python benchmarks/codec_exact.py narrow     a variance three times too narrow, with and without pseudo-random words
python benchmarks/codec_exact.py files      whole files, header and borrowed bits included: chained, groups, portable
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import markovae as mv
from markovae.compression import stage_coder
from markovae.compression.bit_stack import BitStack
from markovae.compression.codec import compress, describe
from markovae.diffusion.model import Diffusion

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.compression.conftest import gaussian_model, pictures

FIRST = 200  # images whose bytes are taken off, with what they borrow


def added(model: Diffusion, images: np.ndarray, levels: int) -> float:
    """Bits/dim that the images after the first add to a file."""
    few, all_ = (len(compress(model, part, levels=levels, batch=20, verify=False)) for part in (images[:FIRST], images))
    return 8 * (all_ - few) / images[FIRST:].size


def bound(model: Diffusion, images: np.ndarray, levels: int) -> dict[str, float]:
    """The bound on these levels, and its error by the draws alone, bits/dim."""
    found = mv.measure(model, images, levels=levels, draws=None, replicates=4)
    return {"bound": found.bits_per_dim.value, "noise": found.noise_nats.stderr / (model.dims * math.log(2))}


def widths(options: argparse.Namespace) -> None:
    model, images = (
        mv.with_reverse(gaussian_model(), "isotropic", pictures(400, seed=2)),
        pictures(FIRST + options.images),
    )
    tell(**bound(model, images[FIRST:], options.levels))
    for width in (1, 1.5, 1.75, 2, 2.5, 3):
        stage_coder.SPACING = width
        tell(width=width, bits_per_dim=added(model, images, options.levels))


def narrow(options: argparse.Namespace) -> None:
    model, images = (
        mv.with_reverse(gaussian_model(), "isotropic", pictures(400, seed=2)),
        pictures(FIRST + options.images),
    )
    model.reverse.errors.error.mul_(0.3)
    tell(**bound(model, images[FIRST:], options.levels))
    tell(bits_per_dim=added(model, images, options.levels))
    BitStack._whiten = lambda *_: None  # type: ignore[method-assign]
    tell(without_pseudo_random_words=added(model, images, options.levels))


def files(options: argparse.Namespace) -> None:
    model, images = gaussian_model(3, side=16), pictures(options.images, 3, side=16)
    fit = pictures(200, 3, seed=2, side=16)
    model = mv.with_reverse(model, "isotropic", fit)
    found = bound(model, images, options.levels)
    tell(**found)
    began = time.perf_counter()
    how = {"group": options.group, "portable": options.portable}
    facts = describe(compress(model, images, levels=options.levels, verify=False, **how))
    tell(
        **how,
        bytes=facts["bytes"],
        over_the_bound=facts["bits_per_dim"] / found["bound"] - 1,
        header_bytes=facts["header_bytes"],
        plain_images=sum(group["plain_images"] for group in facts["groups"]),
        seconds=time.perf_counter() - began,
    )


def tell(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["widths", "narrow", "files"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--levels", type=int, default=16)
    parser.add_argument("--group", type=int)
    parser.add_argument("--portable", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"widths": widths, "narrow": narrow, "files": files}[options.what](options)


if __name__ == "__main__":
    main()
