r"""Which images are odd: their bits under the model, corrected for complexity, against held-out images.

Raw bits fail at this: a model of pictures of clothes gives digits, which are simpler, fewer bits than clothes. Less the
bits of a lossless coder that knows no kind of image, they say how much worse than a stranger the model does,

    score(x) = bits of the bound on x − bits of x under `predictive_bits`,

and p is the share of held-out images with a score at least as high, (1 + #)/(1 + m): under the model's own kind of
image uniform, whatever the score. Sources: Nalisnick et al. 2019 (the failure); Serrà et al. 2020 (the correction);
Bates et al. 2023 (p-values against held-out data, and their false discovery rate).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from markovae.data.conversion import as_images
from markovae.data.image_codecs import predictive_bits
from markovae.data.images import ImageData
from markovae.diffusion.bound import html_table
from markovae.diffusion.cascade import Model, one_stage
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.likelihood.estimators import Estimator, evaluate_batches, summarize
from markovae.likelihood.inputs import Array, Labels, arrays_of, checked_images, require_condition
from markovae.likelihood.measurement import SCHEMA_VERSION, csv_of
from markovae.log import track
from markovae.tables import at_least_one

BANDS = 4  # of log-SNR, of which an image is told the one where it is most unusual
LEAST_HELDOUT = 20
DISCOVERY_RATE = 0.1


@dataclass(frozen=True)
class ScoredImages:
    """Images with what their oddness is made of.

    Args:
        bits: of the bound, (n,).
        complexity: bits under the coder, (n,).
        bands: nats of the levels by band, (n, BANDS).
    """

    bits: Tensor
    complexity: Tensor
    bands: Tensor

    @property
    def score(self) -> Tensor:
        """Bits beyond those of the coder, (n,)."""
        return self.bits - self.complexity


@dataclass(frozen=True, repr=False)
class AnomalyRanking:
    """Images from the oddest to the most ordinary.

    Args:
        images: that were ranked.
        heldout: that they are compared with.
        band_logsnr: the ends of each band, from data to noise, (BANDS, 2).
        dims: of an image.
        draws, seed: of each bound.
        network_calls_per_example: of either.
        files: the names of the images' files, where they have some.
        seconds: in all.
        data, checkpoint: where images and model are from, where a command knows it.

        found = mv.rank_anomalies(model, images, data.train)
        found.rows()[0]
    """

    images: ScoredImages
    heldout: ScoredImages
    band_logsnr: Tensor
    dims: int
    draws: int
    seed: int
    network_calls_per_example: int
    files: Sequence[str] | None = None
    seconds: float = 0.0
    data: Mapping[str, Any] | None = None
    checkpoint: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        n, m = len(self.images.score), len(self.heldout.score)
        return f"AnomalyRanking({n:,} images against {m:,} held-out ones, {self.flagged} odd)"

    def _repr_html_(self) -> str:
        """The oddest as a table, for notebooks."""
        rows = self.rows()[:10]
        return html_table((row.get("file", f"image {row['image']}"), f"p = {row['p_value']:.4f}") for row in rows)

    @property
    def p_value(self) -> Tensor:
        """Of each image, (n,)."""
        ordered, m = self.heldout.score.sort().values, len(self.heldout.score)
        return (1 + m - torch.searchsorted(ordered, self.images.score)).double() / (1 + m)

    @property
    def order(self) -> Tensor:
        """Places of the images from the oddest on, (n,), int64."""
        return self.images.score.argsort(descending=True, stable=True)

    @property
    def flagged(self) -> int:
        """How many of the oddest are odd, where at most DISCOVERY_RATE of them are by chance.

        Source: Benjamini and Hochberg 1995.
        """
        p, n = self.p_value.sort().values, len(self.images.score)
        within = p <= DISCOVERY_RATE * torch.arange(1, n + 1) / n
        return int(within.nonzero().max()) + 1 if bool(within.any()) else 0

    @property
    def band_deviations(self) -> Tensor:
        """How far each image lies from the held-out mean of each band, in their standard deviations, (n, BANDS)."""
        deviation = self.heldout.bands.std(0).clamp(min=1e-12)
        return (self.images.bands - self.heldout.bands.mean(0)) / deviation

    def rows(self) -> list[dict[str, Any]]:
        """One row per image, the oddest first."""
        bit = 1 / self.dims
        p, deviations, rows = self.p_value.tolist(), self.band_deviations, []
        for rank, i in enumerate(self.order.tolist(), 1):
            row: dict[str, Any] = {"rank": rank, "image": i} | ({} if self.files is None else {"file": self.files[i]})
            row |= {
                "score_bits_per_dim": float(self.images.score[i]) * bit,
                "p_value": p[i],
                "bits_per_dim": float(self.images.bits[i]) * bit,
                "complexity_bits_per_dim": float(self.images.complexity[i]) * bit,
            }
            row |= {f"band_{number}_deviation": value for number, value in enumerate(deviations[i].tolist(), 1)}
            rows.append(row)
        return rows

    def sheets(self, count: int) -> dict[str, Tensor]:
        """As for `Measurement`: places of the oddest images."""
        return {"oddest": self.order[:count]}

    def to_csv(self) -> str:
        """The rows as text: a header and a line per image."""
        return csv_of(self.rows())

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `markovae measure --rank --json`."""
        record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "n": len(self.images.score),
            "heldout": len(self.heldout.score),
            "dims": self.dims,
            "draws": self.draws,
            "seed": self.seed,
            "network_calls_per_example": self.network_calls_per_example,
            "bands": [{"logsnr": pair} for pair in self.band_logsnr.tolist()],
            "flagged": {"n": self.flagged, "false_discovery_rate": DISCOVERY_RATE},
            "images": self.rows(),
            "seconds": self.seconds,
        }
        record |= {} if self.data is None else {"data": dict(self.data)}
        return record | ({} if self.checkpoint is None else {"checkpoint": dict(self.checkpoint)})


def rank_anomalies(
    model: Model,
    images: Any,
    heldout: Any,
    labels: Labels | None = None,
    heldout_labels: Labels | None = None,
    *,
    draws: int = 16,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 64,
    progress: bool = False,
) -> AnomalyRanking:
    """Rank images by how odd they are to a model.

        found = mv.rank_anomalies(model, "others/samples.npz", data.train, heldout_labels=data.train.labels)
        found.rows()[0]

    Args:
        images: to rank, as `measure` takes them; `ImageData` and folders name their files.
        heldout: of the kind that the model was trained on, but not trained on; p is at least 1/(1 + their number).
        labels, heldout_labels: classes or conditioning, as for `measure`.
        draws: levels per image, evenly spread.
        limit: the first so many images only.
        seed, batch: as for `measure`.
        progress: whether to show progress on stderr.
    Raises:
        UserError: as `measure`; for fewer than 20 held-out images, a model of densities, or a cascade.
    """
    at_least_one(draws=draws, limit=limit, batch=batch)
    model = one_stage(model, "ranking")
    if not model.decoder.discrete:
        raise UserError("densities have no bits to compare with complexity: rank images of a model of pixels")
    images, heldout = (as_images(some, model.shape, "test") for some in (images, heldout))
    if len(heldout) < LEAST_HELDOUT:
        raise UserError(f"{len(heldout)} held-out images give no p-values: at least {LEAST_HELDOUT} are needed")
    began = time.monotonic()
    files = images.files if isinstance(images, ImageData) else None
    how: dict[str, Any] = {"draws": draws, "seed": seed, "batch": batch, "progress": progress}
    both = (images, labels, limit), (heldout, heldout_labels, None)
    ranked, compared = (_scored(model, some, known, most, **how) for some, known, most in both)
    grid, band = model.schedule.logsnr.detach(), _bands(model.num_levels)
    ends = [grid[2:][band == number] for number in range(BANDS)]
    return AnomalyRanking(
        images=ranked,
        heldout=compared,
        band_logsnr=torch.tensor([[float(e[0]), float(e[-1])] if len(e) else [math.nan] * 2 for e in ends]),
        dims=model.dims,
        draws=draws,
        seed=seed,
        network_calls_per_example=len(Estimator(draws).evaluations(model.num_levels, 1, seed)),
        files=files and files[:limit],
        seconds=time.monotonic() - began,
    )


def _bands(num_levels: int) -> Tensor:
    """The band of each level 2…L, equally many levels in each, (L−1,)."""
    return torch.arange(num_levels - 1) * BANDS // max(num_levels - 1, 1)


def _scored(
    model: Diffusion,
    images: Array | ImageData,
    labels: Labels | None,
    limit: int | None,
    *,
    draws: int,
    seed: int,
    batch: int,
    progress: bool,
) -> ScoredImages:
    images, labels = arrays_of(model, images, labels)
    pixels = checked_images(model, images, limit)
    require_condition(model, labels)
    estimator = Estimator(draws)
    work = evaluate_batches(model, pixels, labels, estimator=estimator, limit=limit, seed=seed, batch=batch)
    count = len(estimator.evaluations(model.num_levels, len(pixels), seed))
    batches = list(track(work, "measuring", -(-count // batch)) if progress else work)
    found = summarize(model, batches, seed, estimator)
    bands, band = torch.zeros(len(pixels), BANDS, dtype=torch.float64), _bands(model.num_levels)
    for one in batches:
        later = one.evaluations[one.evaluations.level > 1]
        nats = (one.evaluations.weight * one.nats)[one.evaluations.level > 1]
        bands.index_put_((later.image, band[later.level - 2]), nats, accumulate=True)
    return ScoredImages(found.total / math.log(2), torch.from_numpy(predictive_bits(pixels.numpy())), bands)
