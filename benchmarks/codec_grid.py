"""How wide the grid of a latent may be: bits/dim of files beside the bound, for a model whose denoiser is exact.

    python benchmarks/codec_grid.py --images 1000

Also how long files are where the variance is three times too narrow, with and without the pseudo-random words.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

import markovae as mv
from markovae.compression import chain_coder
from markovae.compression.bit_stack import BitStack
from markovae.compression.codec import compress
from markovae.diffusion.model import Diffusion

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.compression.conftest import gaussian_model, pictures

FIRST = 200  # images whose bytes are taken off, with what they borrow


def bits(model: Diffusion, images: np.ndarray, levels: int) -> float:
    """Bits/dim that the images after the first add to a file."""
    few, all_ = (len(compress(model, part, levels=levels, batch=20, verify=False)) for part in (images[:FIRST], images))
    return 8 * (all_ - few) / images[FIRST:].size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--levels", type=int, default=16)
    parser.add_argument("--widths", type=float, nargs="+", default=[1, 1.75, 2, 2.5, 3])
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = pictures(FIRST + options.images)
    for share in (1.0, 0.3):
        model = mv.with_reverse(gaussian_model(), "isotropic", pictures(400, seed=2))
        model.reverse.errors.error.mul_(share)
        bound = mv.measure(model, images[FIRST:], levels=options.levels, draws=None, replicates=4)
        noise = bound.noise_nats.stderr / (model.dims * np.log(2))
        print(json.dumps({"variance": share, "bound": bound.bits_per_dim.value, "noise": noise}), flush=True)
        for width in options.widths if share == 1 else [chain_coder.SPACING]:
            chain_coder.SPACING = width
            print(json.dumps({"width": width, "bits_per_dim": bits(model, images, options.levels)}), flush=True)
        chain_coder.SPACING = 1.75
    BitStack._whiten = lambda *_: None  # type: ignore[method-assign]
    print(json.dumps({"without the pseudo-random words": bits(model, images, options.levels)}))


if __name__ == "__main__":
    main()
