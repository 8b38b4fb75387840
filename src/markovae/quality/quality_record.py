"""A quality figure as a record: what was measured, under which conditions, and what may be compared with it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from markovae.diffusion.bound import Estimate, html_table
from markovae.errors import UserError
from markovae.quality.distances import PrecisionRecall
from markovae.quality.extractor_domain import ExtractorCheck
from markovae.quality.memorization import Memorization
from markovae.strict_json import finite

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Conditions:
    """What two figures must share to be compared.

    Args:
        n: samples.
        sampler, steps, spacing, threshold, guidance, guidance_interval, autoguide, seed: how they were
            drawn; steps are network calls a sample; all None where the images were given.
        precision: of the network that drew them.
        extractor, extractor_sha256: the feature network.
        resize: the rule that brings images to it.
        reference_n, reference_sha256: the real images.
        k: neighbours of precision and recall.
    """

    n: int
    sampler: str | None
    steps: int | None
    spacing: str | None
    threshold: str | None
    guidance: float | None
    guidance_interval: list[float] | None
    autoguide: str | None
    seed: int | None
    precision: str | None
    extractor: str
    extractor_sha256: str
    resize: str
    reference_n: int
    reference_sha256: str
    k: int


@dataclass(frozen=True, repr=False)
class Quality:
    """How far samples lie from real images, each figure beside its floor.

        found = mv.evaluate(model, data, n=40, steps=4)
        found.kid, found.kid_floor

    The floor is what n real training images, in the samples' place, get against the same reference: no model can be
    told from the data below it.

    Args:
        conditions: what the figures hold for.
        kid, kid_floor: kernel distance of samples and of the floor samples.
        kid_excess: their difference, given the
            reference.
        frechet, frechet_floor: Fréchet distance, comparable at equal n only.
        precision_recall, precision_recall_floor: with density and coverage, at `precision_recall_n` images of each.
        check: whether the extractor notices spoilt images of this kind.
        memorization: nearest training images.
        dims: d, how many features.
    """

    conditions: Conditions
    kid: Estimate
    kid_floor: Estimate
    kid_excess: Estimate
    frechet: float
    frechet_floor: float
    precision_recall: PrecisionRecall
    precision_recall_floor: PrecisionRecall
    precision_recall_n: int
    check: ExtractorCheck
    memorization: Memorization
    dims: int

    def __repr__(self) -> str:
        drawn = f"{self.conditions.n:,} samples, extractor {self.conditions.extractor}"
        return f"Quality(KID {self.kid}, floor {self.kid_floor}, {drawn})"

    def _repr_html_(self) -> str:
        """The figures beside their floors as a table, for notebooks."""
        shares = [
            (name, f"{value:.3f} (floor {getattr(self.precision_recall_floor, name):.3f})")
            for name, value in _shares(self.precision_recall).items()
        ]
        frechet = f"{self.frechet:.2f} (floor {self.frechet_floor:.2f})"
        rows = [("KID", f"{self.kid} (floor {self.kid_floor})"), ("Fréchet distance", frechet), *shares]
        return html_table([*rows, ("samples", f"{self.conditions.n:,}"), ("extractor", self.conditions.extractor)])

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `markovae quality --json`; numbers that do not exist are None."""
        memorization = asdict(self.memorization) | {
            "nearer": _estimate(self.memorization.nearer),
            "nearest": [asdict(pair) for pair in self.memorization.nearest],
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "conditions": asdict(self.conditions),
            "dims": self.dims,
            "kid": _estimate(self.kid),
            "kid_floor": _estimate(self.kid_floor),
            "kid_excess": _estimate(self.kid_excess),
            "frechet_distance": finite(self.frechet),
            "frechet_distance_floor": finite(self.frechet_floor),
            "precision_recall": {"n": self.precision_recall_n, **_shares(self.precision_recall)},
            "precision_recall_floor": {"n": self.precision_recall_n, **_shares(self.precision_recall_floor)},
            "extractor_check": self.check.to_dict(),
            "memorisation": {name: finite(v) if isinstance(v, float) else v for name, v in memorization.items()},
        }


def _estimate(found: Estimate) -> dict[str, Any]:
    return {
        "value": finite(found.value),
        "stderr": finite(found.stderr),
        "ci95": [finite(end) for end in found.ci95],
    }


def _shares(found: PrecisionRecall) -> dict[str, float]:
    return {name: value for name, value in asdict(found).items() if name != "k"}


def compare(
    first: Quality | Mapping[str, Any], second: Quality | Mapping[str, Any], varying: Collection[str] = ()
) -> Estimate:
    """KID of the first less KID of the second, where both hold under the same conditions.

    The standard error adds both as if they were independent; the reference they share makes the true one smaller.
    For samples at hand, `kid_difference` knows more.

    Args:
        first, second: results, or their JSON objects.
        varying: conditions that are meant to differ ("steps").
    Raises:
        UserError: for a condition that differs and is not named in `varying`, an unknown name there, or an object that
            is no record.
    """
    one, two = as_record(first), as_record(second)
    conditions = [record["conditions"] for record in (one, two)]
    check_conditions(conditions[0], conditions[1], varying)
    (a, a_err), (b, b_err) = ((float(r["kid"]["value"]), float(r["kid"]["stderr"])) for r in (one, two))
    return Estimate(a - b, math.hypot(a_err, b_err))


def check_conditions(first: Mapping[str, Any], second: Mapping[str, Any], varying: Collection[str] = ()) -> None:
    """Refuse to compare what was measured under different conditions.

    Raises:
        UserError: naming the first condition that differs, with both its values.
    """
    known = list(Conditions.__dataclass_fields__)
    for name in varying:
        if name not in known:
            raise UserError(f"{name!r} is no condition of a quality record: take some of {', '.join(known)}")
    for name in known:
        ours, theirs = first.get(name), second.get(name)
        if ours != theirs and name not in varying:
            raise UserError(
                f"these records differ in {name} ({_short(ours)} and {_short(theirs)}): a distance can be compared "
                f"under equal conditions only; measure again with the same, or let it differ (--varying {name})"
            )


def as_record(found: Quality | Mapping[str, Any]) -> Mapping[str, Any]:
    """A record's JSON object.

    Raises:
        UserError: for an object that is not such a record.
    """
    record = found.to_dict() if isinstance(found, Quality) else found
    parts = [record.get("conditions"), record.get("kid")] if isinstance(record, Mapping) else [None]
    if not all(isinstance(part, Mapping) for part in parts) or record.get("schema_version") != SCHEMA_VERSION:
        raise UserError("this is no quality record: give what `markovae quality --json` printed")
    kid = record["kid"]
    if not all(isinstance(kid.get(name), int | float) for name in ("value", "stderr")):
        raise UserError("this quality record has no KID: measure again")
    return record


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:16]}…" if len(text) > 40 else text
