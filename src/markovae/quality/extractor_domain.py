"""Which extractor suits the images, and whether its figures fall for real images that are spoilt: its domain."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from markovae.data.pictures import Images
from markovae.diffusion.bound import Estimate
from markovae.log import log
from markovae.quality.distances import kid_difference, precision_recall
from markovae.quality.extractors import PACKAGE, Extractor
from markovae.quality.features import cached_features
from markovae.quality.reference_set import ReferenceSet
from markovae.randomness import generator

LOOKED_AT = 200  # images that tell drawn from photographic
SMALLEST = 16  # pixels of a side, below which no kind is told apart
EQUAL, CORRELATED = 0.2, 0.5
CHECKED = 250  # floor samples that are degraded
BLUR, NOISE = 0.03, 16.0  # standard deviations: of a side, and in grey levels of 0…255
INSTALL = "pip install 'markovae[quality]'"


def image_kind(images: Images, bins: int) -> str:
    """drawn, photographic or unknown, by how often neighbouring pixels are equal, and how alike they are.

    Flat areas make neighbours equal: in half the pairs of faces, digits and Fashion-MNIST, in one of 100 of photographs
    (grey ones: one of 10). Noise has no equal neighbours either, but theirs are not alike.

    Args:
        images: pixel values 0…bins−1, (n, C, H, W).
    """
    some = np.asarray(images[:: max(1, len(images) // LOOKED_AT)][:LOOKED_AT])
    if min(some.shape[2:]) < SMALLEST or bins < 256:
        return "drawn" if bins < 256 else "unknown"
    equal = [(a == b).all(1).reshape(len(some), -1) for a, b in _neighbours(some)]
    if np.median(np.concatenate(equal, 1).mean(1)) >= EQUAL:
        return "drawn"
    grey = some.mean(1, keepdims=True)
    left, right = (x - x.mean((1, 2, 3), keepdims=True) for x in (grey[..., :-1], grey[..., 1:]))
    spread = np.sqrt((left**2).mean((1, 2, 3)) * (right**2).mean((1, 2, 3)))
    alike = (left * right).mean((1, 2, 3)) / np.maximum(spread, 1e-12)
    return "photographic" if np.median(alike) >= CORRELATED else "unknown"


def _neighbours(images: Images) -> tuple[tuple[Images, Images], ...]:
    return (images[..., 1:], images[..., :-1]), (images[:, :, 1:], images[:, :, :-1])


def suitable_extractor(images: Images, bins: int) -> str:
    """The extractor trained on such images: lite0 for photographs where it is installed, else small; logged."""
    kind = image_kind(images, bins)
    if kind != "photographic":
        return "small"
    if importlib.util.find_spec(PACKAGE) is not None:
        log("photographs: features of lite0, a network trained on photographs (--extractor small is built in)")
        return "lite0"
    log(f"warning: photographs, and the extractor small was trained on drawn images; lite0 suits them: {INSTALL}")
    return "small"


@dataclass(frozen=True)
class DegradedFigures:
    """What real images get that were spoilt.

    Args:
        kid_excess: their KID less that of the same images unspoilt.
        precision: theirs.
    """

    kid_excess: Estimate
    precision: float


@dataclass(frozen=True)
class ExtractorCheck:
    """Whether an extractor's figures fall for real images that are blurred or noised, as the eye's would.

    Args:
        image_kind: drawn, photographic or unknown.
        n: real images that were degraded.
        precision: of them as they are.
        blurred, noised: degraded.
    """

    image_kind: str
    n: int
    precision: float
    blurred: DegradedFigures
    noised: DegradedFigures

    @property
    def precision_blind_to(self) -> tuple[str, ...]:
        """The damage for which precision does not fall."""
        return tuple(name for name in ("blurred", "noised") if getattr(self, name).precision >= self.precision)

    @property
    def kid_blind_to(self) -> tuple[str, ...]:
        """The damage for which KID does not rise beyond its error."""
        return tuple(name for name in ("blurred", "noised") if getattr(self, name).kid_excess.ci95[0] <= 0)

    def to_dict(self) -> dict[str, Any]:
        """As in the record of quality."""
        degraded: Mapping[str, DegradedFigures] = {"blurred": self.blurred, "noised": self.noised}
        return {
            "image_kind": self.image_kind,
            "n": self.n,
            "precision": self.precision,
            **{
                name: {
                    "kid_excess": found.kid_excess.value,
                    "stderr": found.kid_excess.stderr,
                    "precision": found.precision,
                }
                for name, found in degraded.items()
            },
            "kid_blind_to": list(self.kid_blind_to),
            "precision_blind_to": list(self.precision_blind_to),
        }


def check_extractor(extractor: Extractor, real: ReferenceSet, floor: Tensor, reference: Tensor) -> ExtractorCheck:
    """Degrade up to 250 of the floor samples and look whether the figures notice.

    Args:
        floor, reference: features of all floor samples and of the reference, (n, d) and (N, d).
    """
    n = min(CHECKED, len(floor), len(reference))
    images = np.asarray(real.floor_samples[:n])

    def figures(spoilt: Images) -> DegradedFigures:
        theirs = cached_features(extractor, spoilt, real.bins, None)
        return DegradedFigures(
            kid_difference(theirs, floor[:n], reference), precision_recall(theirs, reference[:n]).precision
        )

    return ExtractorCheck(
        image_kind(real.training.images, real.bins),
        n,
        precision_recall(floor[:n], reference[:n]).precision,
        figures(blurred(images, real.bins)),
        figures(noised(images, real.bins)),
    )


def blurred(images: Images, bins: int) -> Images:
    """The images under a Gaussian of 3 % of the shorter side, borders repeated."""
    sigma = BLUR * min(images.shape[2:])
    reach = max(1, round(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    x = torch.from_numpy(images.astype(np.float32)).flatten(0, 1)[:, None]
    x = F.conv2d(F.pad(x, (reach, reach, reach, reach), mode="replicate"), kernel)
    x = F.conv2d(x, kernel.transpose(2, 3))
    return _rounded(x.reshape(images.shape).numpy(), images, bins)


def noised(images: Images, bins: int) -> Images:
    """The images with normal noise of 16 of 255 grey levels, rounded to pixel values."""
    noise = torch.randn(images.shape, generator=generator(0, "extractor check")).numpy()
    return _rounded(images + noise * NOISE * (bins - 1) / 255, images, bins)


def _rounded(values: Images, like: Images, bins: int) -> Images:
    return np.clip(np.round(values), 0, bins - 1).astype(like.dtype)
