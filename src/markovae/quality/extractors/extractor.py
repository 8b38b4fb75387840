"""A feature network by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from markovae.errors import UserError
from markovae.quality.extractors import inception, lite0, small
from markovae.quality.resize import resized

EXTRACTORS = ("small", "lite0", "inception")
DEFAULT_EXTRACTOR = "small"
BATCH = 50


@dataclass(frozen=True)
class Extractor:
    """A feature network and what it is known by.

    Args:
        name: one of EXTRACTORS.   digest: SHA-256 of its weights, hex.   side: of its square input, pixels.
        dims: d, how many features it gives.   network: images on [0, 1], (B, 3, side, side) -> (B, d), on the CPU.
    """

    name: str
    digest: str
    side: int
    dims: int
    network: nn.Module

    @torch.no_grad()
    def __call__(self, images: np.ndarray[Any, Any], bins: int) -> Tensor:
        """Features of at most BATCH images, (n, d), float32.

        They are always worked out on the CPU in float32 and in batches of BATCH, so that a record depends neither on
        the device nor on --batch.

        Args:
            images: digits 0…bins−1, (n, C, H, W).
        """
        features: Tensor = self.network(resized(images, bins, self.side))
        return features


def open_extractor(name: str = DEFAULT_EXTRACTOR, weights: str | Path | None = None) -> Extractor:
    """The feature network of this name.

    Args:
        name: small (built in), lite0 (the extra `quality`) or inception.
        weights: the safetensors file of inception; none of the others takes one.
    Raises:
        UserError: for another name, or weights that are missing or do not fit.
    """
    if name not in EXTRACTORS:
        raise UserError(f"extractor {name!r} is unknown: take one of {', '.join(EXTRACTORS)}")
    if name == "inception":
        if weights is None:
            raise UserError(
                "the extractor inception needs its weights, which are not ours to ship: name a safetensors file of "
                "them with --weights (docs/quality.md lists the tensors), or take small"
            )
        network, digest = inception.open_inception(Path(weights))
        return Extractor(name, digest, inception.SIDE, inception.DIMS, network)
    if weights is not None:
        raise UserError(f"weights go with the extractor inception, and {name} has its own: leave them out")
    if name == "lite0":
        lite, digest = lite0.open_lite0()
        return Extractor(name, digest, lite0.SIDE, lite0.DIMS, lite)
    net, digest = small.open_small()
    return Extractor(name, digest, small.SIDE, len(net.kept), net)
