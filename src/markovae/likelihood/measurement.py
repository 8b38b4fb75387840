"""What a measurement says: the record behind `markovae measure --json`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from markovae.diffusion.bound import Estimate, estimate_mean, html_table
from markovae.errors import UserError
from markovae.log import counted
from markovae.strict_json import finite

if TYPE_CHECKING:
    from markovae.likelihood.ode import OdeLikelihood

SCHEMA_VERSION = 1
TERMS = ("prior", "levels", "reconstruction")


@dataclass(frozen=True)
class LevelNats:
    """The KL of one level, averaged over the draws that fell on it.

    Args:
        level: ℓ.
        logsnr: λ_ℓ.
        nats: per example; stderr is over images, nan for a single one.
        draws: how many.
    """

    level: int
    logsnr: float
    nats: float
    stderr: float
    draws: int


@dataclass(frozen=True, repr=False)
class Measurement:
    """An upper bound on the code length of images, in its terms.

        record = mv.measure(model, images, labels, draws=4)
        record.bits_per_dim.ci95, record.to_dict()["n"]

    Args:
        prior, levels, reconstruction: estimates of the three terms of each image, (n,), nats, float64.
        per_level: the levels' own figures.
        dims: dimensions of one image.
        num_levels: L of the grid measured on.
        network_calls_per_example: network calls spent on an image.
        seed: of every draw.
        discrete: True for the code length of pixel values, False for the negative log-density of a continuous variable.
        estimator: what drew the levels, in words.
        randomizations: each image's bound by independent randomizations, (n, R), or None where there was one.
        grid, grid_levels: all, even, optimal or named, and which levels of the model's own grid, None for all.
        reverse_variance: step, posterior, isotropic, diagonal, learned or full.
        fit: images and network_calls of what was fitted before; None where nothing was.
        precision, device: of the network.
        seconds: of fitting and measuring.
        continuous, ode: the other likelihoods of the same images, where they were asked for.
        data, checkpoint: where images and model are from, where a command knows it.
        files: the names of the images' files, where they have some.
        band_levels, band_tops: of a cascade, what each image's bands cost, coarse first, (n, K+1), nats: they add up
            to `levels` and `prior`.
        band_sizes: height and width of each band.
    """

    prior: Tensor
    levels: Tensor
    reconstruction: Tensor
    per_level: tuple[LevelNats, ...]
    dims: int
    num_levels: int
    network_calls_per_example: int
    seed: int
    discrete: bool = True
    estimator: str = "stratified"
    randomizations: Tensor | None = None
    grid: str = "all"
    grid_levels: tuple[int, ...] | None = None
    reverse_variance: str = "posterior"
    fit: Mapping[str, int] | None = None
    precision: str = "float32"
    device: str = "cpu"
    seconds: float = 0.0
    continuous: Measurement | None = None
    ode: OdeLikelihood | None = None
    data: Mapping[str, Any] | None = None
    checkpoint: Mapping[str, Any] | None = None
    files: tuple[str, ...] | None = None
    band_levels: Tensor | None = None
    band_tops: Tensor | None = None
    band_sizes: tuple[tuple[int, ...], ...] = ()

    def __repr__(self) -> str:
        return f"Measurement({_unit(self)}, {counted(len(self.total), 'image')}, {self.estimator})"

    def _repr_html_(self) -> str:
        """The figures as a table, for notebooks."""
        unit = self._bit if self.discrete else 1.0
        terms = [(name, f"{float(getattr(self, name).mean()) * unit:.4f}") for name in TERMS]
        return html_table([("bound", _unit(self)), *terms, ("images", f"{len(self.total):,}")])

    @property
    def replicates(self) -> int:
        """Independent randomizations of each image."""
        return 1 if self.randomizations is None else self.randomizations.shape[1]

    @property
    def total(self) -> Tensor:
        """Each image's bound, (n,), nats."""
        return self.prior + self.levels + self.reconstruction

    @property
    def nats(self) -> Estimate:
        """Mean nats per image ± standard error over images (their draws are independent)."""
        return estimate_mean(self.total)

    @property
    def bits_per_dim(self) -> Estimate:
        """Mean bits per dimension ± standard error over images.

        Raises:
            UserError: for a density, which has no bits until a bin width is named.
        """
        if not self.discrete:
            raise UserError("bits per dimension of a density depend on a bin width: measure a model of pixels")
        return self._per_dim(self.total)

    @property
    def density_nats(self) -> Estimate:
        """Mean negative log-density in nats an example ± standard error over examples.

        Raises:
            UserError: for pixel values, which have a probability and no density.
        """
        if self.discrete:
            raise UserError("pixel values have a probability and no density: read `nats`")
        return estimate_mean(self.total)

    @property
    def noise_nats(self) -> Estimate:
        """The mean of these very images ± the standard error of the draws alone, from independent randomizations.

        Raises:
            UserError: for a single randomization, which cannot tell its own error.
        """
        if self.randomizations is None:
            raise UserError("one randomization cannot tell the error of its draws: measure with replicates >= 2")
        n, times = self.randomizations.shape
        variance = self.randomizations.var(1) / times
        total = float(variance.sum())
        # Satterthwaite 1946: (R − 1) V²/Σv² with V = Σv. The variances are noisy themselves, and so are their squares:
        # put in as they are they make the interval of few images too wide, corrected for that too narrow; this is
        # half-way, and R − 1 for one image.
        squares = float((variance**2).sum())
        dof = max(times * total**2 / squares, times) - 1 if total > 0 else math.inf  # one image: R − 1, rounding apart
        return Estimate(float(self.randomizations.mean()), math.sqrt(total) / n, dof)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `markovae measure --json`: the figures, how they were made, and of what."""
        record = self.figures() | {
            "replicates": self.replicates,
            "grid": {"kind": self.grid, "levels": None if self.grid_levels is None else list(self.grid_levels)},
            "reverse_variance": self.reverse_variance,
            "fit": None if self.fit is None else dict(self.fit),
            "precision": self.precision,
            "device": self.device,
            "seconds": self.seconds,
        }
        if self.continuous is not None:
            figures = self.continuous.figures()
            names = ("network_calls_per_example", "bits_per_dim", "nats", "terms_bits_per_dim")
            record["continuous"] = {name: figures[name] for name in names}
        if self.ode is not None:
            record["ode"] = self.ode.to_dict()
        if self.data is not None:
            record["data"] = dict(self.data)
        if self.checkpoint is not None:
            record["checkpoint"] = dict(self.checkpoint)
        return record

    def figures(self) -> dict[str, Any]:
        """The figures alone, JSON-able; those that do not exist are None.

        A density's figures stand under `density_nats`, and its `nats` and `bits_per_dim` are empty.
        """
        terms = {name: getattr(self, name) for name in TERMS}
        none = Estimate(math.nan, math.nan)
        bits, nats = (self._per_dim(self.total), estimate_mean(self.total)) if self.discrete else (none, none)
        record = {
            "schema_version": SCHEMA_VERSION,
            "n": len(self.total),
            "dims": self.dims,
            "levels": self.num_levels,
            "network_calls_per_example": self.network_calls_per_example,
            "seed": self.seed,
            "estimator": self.estimator,
            "bits_per_dim": estimate_dict(bits),
            "nats": {"mean": finite(nats.value), "stderr": finite(nats.stderr)},
            "terms_bits_per_dim": {
                name: finite(self._per_dim(value).value) if self.discrete else None for name, value in terms.items()
            },
            "per_level": [
                {"level": p.level, "logsnr": finite(p.logsnr), "nats": finite(p.nats), "stderr": finite(p.stderr)}
                for p in self.per_level
            ],
        }
        if self.band_levels is not None and self.band_tops is not None:
            record["bands"] = [
                {
                    "size": list(size),
                    "prior": finite(top.value),
                    "levels": finite(levels.value),
                    "stderr": finite(levels.stderr),
                }
                for size, top, levels in zip(
                    self.band_sizes,
                    map(self._per_dim, self.band_tops.T),
                    map(self._per_dim, self.band_levels.T),
                    strict=True,
                )
            ]
        if not self.discrete:
            density = self.density_nats
            record["density_nats"] = {"mean": finite(density.value), "stderr": finite(density.stderr)}
        if self.randomizations is not None:
            record["noise_stderr_nats"] = finite(self.noise_nats.stderr)
            noise = self.noise_nats.scaled(self._bit)
            if self.discrete:
                ends = [finite(end) for end in noise.ci95]
                record["noise_bits_per_dim"] = {"stderr": finite(noise.stderr), "ci95": ends}
        return record

    def rows(self) -> list[dict[str, Any]]:
        """One row per image, in order: place, file where it has one, terms and total in nats, bits/dim of pixels."""
        names = (*TERMS, "total")
        columns = [getattr(self, name).tolist() for name in names]
        rows = []
        for i, values in enumerate(zip(*columns, strict=True)):
            row: dict[str, Any] = {"image": i} | ({} if self.files is None else {"file": self.files[i]})
            row |= {f"{k}_nats": v for k, v in zip(names, values, strict=True)}
            if self.discrete:
                row["bits_per_dim"] = row["total_nats"] * self._bit
            if self.randomizations is not None:
                repeats = self.randomizations[i]
                row["noise_stderr_nats"] = float(repeats.std()) / math.sqrt(len(repeats))
            rows.append(row)
        return rows

    def to_csv(self) -> str:
        """The rows as text: a header and a line per image."""
        return csv_of(self.rows())

    def sheets(self, count: int) -> dict[str, Tensor]:
        """Places of the images worth looking at, `count` of each kind, by the name of the kind."""
        return dict(zip(("cheapest", "dearest"), self.extremes(count), strict=True))

    def extremes(self, count: int) -> tuple[Tensor, Tensor]:
        """Places of the `count` most and the `count` least likely images, each most extreme first, int64."""
        order = self.total.argsort(stable=True)
        return order[:count], order.flip(0)[:count]

    def _per_dim(self, values: Tensor) -> Estimate:
        return estimate_mean(values).scaled(self._bit)

    @property
    def _bit(self) -> float:
        """Bits per dimension in a nat of an image."""
        return 1 / (self.dims * math.log(2))


def _unit(found: Measurement) -> str:
    return f"{found.bits_per_dim} bits/dim" if found.discrete else f"{found.density_nats} nats per example"


def csv_of(rows: list[dict[str, Any]]) -> str:
    """Rows of one form as text: a header and a line each; numbers to their last digit."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def estimate_dict(found: Estimate) -> dict[str, Any]:
    """An estimate as in the records: mean, stderr and ci95."""
    return {"mean": finite(found.value), "stderr": finite(found.stderr), "ci95": [finite(end) for end in found.ci95]}


def level_table(image: Tensor, level: Tensor, nats: Tensor, logsnr: Tensor) -> tuple[LevelNats, ...]:
    """Average the draws by level; an image's draws on one level are not independent, images are.

    The mean is a ratio, Σ_i S_i/Σ_i c_i, S_i the sum of the c_i draws of image i; so is its error.

    Args:
        image, level, nats: of every draw, (N,).
        logsnr: the grid λ_0…λ_L.
    Source: Cochran 1977, section 6.4.
    """
    pairs, place = torch.stack([level, image]).unique(dim=1, return_inverse=True)
    drawn = torch.bincount(place).double()
    off = torch.zeros_like(drawn).index_add_(0, place, nats)
    zero = torch.zeros(len(logsnr), dtype=torch.float64)
    count, images = zero.index_add(0, pairs[0], drawn), torch.bincount(pairs[0], minlength=len(logsnr)).double()
    mean = zero.index_add(0, pairs[0], off) / count
    spread = zero.index_add(0, pairs[0], (off - mean[pairs[0]] * drawn) ** 2)
    stderr = (spread * images / (images - 1)).sqrt() / count
    return tuple(
        LevelNats(i, float(logsnr[i]), float(mean[i]), float(stderr[i]) if images[i] > 1 else math.nan, int(count[i]))
        for i in count.nonzero().flatten().tolist()
    )
