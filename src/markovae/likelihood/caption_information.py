r"""What a condition says about data, in nats: a difference of bounds, and a true lower bound on the information.

Bound difference: E[nats(x) − nats(x|c)]. Each is an upper bound on a code length, so it is
I(X; C) + (gap without − gap with): the information plus a difference of gaps, and no bound on it either way.

Lower bound: in blocks of k independent pairs (x_i, c_i), with q_i(j) ∝ exp(−nats(x_i|c_j)) over the block's k captions,

    I(X; C) ≥ ln k + E ln q_i(i) ,

whatever the model: nats are only scores here, and they may be noisy as long as the noise of x_i is the same for every
c_j. It cannot exceed ln k. Source: van den Oord et al. 2018; Poole et al. 2019, section 2.3.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from markovae.data.faces import SWAPPED, Attributes, caption, phrases, read_face, sentence, swaps
from markovae.diffusion.bound import Estimate, estimate_mean, html_table
from markovae.diffusion.cascade import Model, one_stage
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.likelihood.estimators import Estimator, Evaluations, evaluate_nats
from markovae.likelihood.inputs import Array, checked_images, checked_model, require_condition
from markovae.likelihood.measurement import estimate_dict
from markovae.log import plus_minus, track
from markovae.networks.conditioning import Condition, Conditioning
from markovae.strict_json import finite
from markovae.tables import at_least_one
from markovae.text.conditioner import captions_of


def shared_nats(
    model: Diffusion,
    images: Array,
    given: Conditioning | None,
    rows: Tensor | None = None,
    *,
    estimator: Estimator | None = None,
    seed: int = 0,
    batch: int = 64,
) -> Tensor:
    """The bound of images under one condition each, (R,), nats, float64.

    Levels and noise are keyed by an image's place alone, so that two calls differ by what is given and nothing else.

    Args:
        images: pixel values, (n, *D), or floats for a model of densities.
        given: of the images at `rows`, R; None is
            no condition.
        rows: which images, (R,), increasing; None is all.
        estimator: 16 stratified levels per image where left out; without replicates.
    Raises:
        UserError: as `measure`; or where `given` does not fit the rows.
        ValueError: for an estimator with replicates.
    """
    at_least_one(batch=batch)
    checked_model(model)
    estimator, data = Estimator() if estimator is None else estimator, checked_images(model, images)
    if estimator.replicates > 1:
        raise ValueError("nats with shared noise are of one randomization: leave replicates out")
    rows = torch.arange(len(data)) if rows is None else rows
    if given is not None and len(given) != len(rows):
        raise UserError(f"{len(given)} conditions for {len(rows)} images: give one each")
    place = torch.full((len(data),), -1)
    place[rows] = torch.arange(len(rows))
    every = estimator.evaluations(model.num_levels, len(data), seed)
    wanted = (place[every.image] >= 0).nonzero().flatten()
    total = torch.zeros(len(rows), dtype=torch.float64)
    with evaluating(model), torch.no_grad():
        for part in wanted.split(batch):
            one = every[part]
            at = place[one.image]
            known = None if given is None else given[at]
            total.index_add_(0, at, _weighted(model, data[one.image], known, one, seed))
    return total


def _weighted(
    model: Diffusion, images: Tensor, given: Conditioning | None, evaluations: Evaluations, seed: int
) -> Tensor:
    """What each evaluation adds to its image's bound; the closed prior term comes with the reconstruction."""
    x = model.to_x(images)
    condition = None if given is None else given.condition().to(model.device)
    nats = evaluations.weight * evaluate_nats(model, x, evaluations, condition, seed)
    return torch.where(evaluations.level == 1, nats + model.prior_nats(x).cpu(), nats)


def block_partners(n: int, k: int) -> Tensor:
    """Whose caption image i is tried with in turn j, (k, m), m = k⌊n/k⌋: its own for j = 0, then its block's others.

    Raises:
        UserError: for k below 2, or fewer images than one block.
    """
    if k < 2:
        raise UserError(f"{k} candidate captions tell nothing apart: take at least 2")
    if n < k:
        raise UserError(
            f"{n} images make no block of {k} candidate captions: at least {2 * k} are needed, or fewer candidates"
        )
    image = torch.arange(k * (n // k))
    start = image // k * k
    return start + (image - start + torch.arange(k)[:, None]) % k


def chosen_log_prob(nats: Tensor) -> Tensor:
    """ln q of the first of k candidates, q ∝ e^{−nats}: (k, m) -> (m,)."""
    return (-nats.double()).log_softmax(0)[0]


def information_bound(nats: Tensor) -> Estimate:
    """ln k + mean ln q ± the standard error over blocks, nats: a lower bound on the information I(X; C).

    Blocks share neither images nor captions, so their means are independent where the pairs are.

    Args:
        nats: of image i with the caption of `block_partners(n, k)[j, i]`, (k, m).
    """
    k = len(nats)
    each = math.log(k) + chosen_log_prob(nats)
    return estimate_mean(each.reshape(-1, k).mean(1))


def information_dict(nats: Tensor) -> dict[str, Any]:
    """The JSON object of `information_bound`, without a figure for one block, which has no error.

    Args:
        nats: as there, (k, m).
    """
    k, m = nats.shape
    lower = information_bound(nats) if m > k else Estimate(math.nan, math.nan)
    return {
        "nats": estimate_dict(lower),
        "at_least_nats": finite(max(0.0, lower.value) if math.isfinite(lower.value) else math.nan),
        "candidates": k,
        "n": m,
        "ceiling_nats": math.log(k),
    }


DIFFERENCE = (
    "bound difference: what the images cost without captions less what they cost with theirs, on the same levels and "
    "noise. It is the information between image and caption plus a difference of gaps: no bound on it, either way"
)
INFORMATION = (
    "a true lower bound on the information between image and caption: how surely the bound picks an image's own "
    "caption among {k}; it cannot exceed ln {k} = {ceiling:.2f}"
)


def lower_bound_in_words(lower: Mapping[str, Any]) -> tuple[str, str]:
    """The figure of an `information_lower_bound`, and what it is.

    Args:
        lower: as in the record of `CaptionInformation.to_dict`.
    """
    nats, k, n = lower["nats"], lower["candidates"], lower["n"]
    if nats["mean"] is None:
        return "unknown", (
            f"nats per image: {n:,} images make one block of {k} candidates, which has no error; at least "
            f"{2 * k:,} are needed, {8 * k:,} are better (or fewer --candidates)"
        )
    figure = plus_minus(nats, 3)
    if nats["mean"] <= 0:
        return "0", f"nats per image, on {n:,} images: the estimate, {figure}, shows no information"
    return figure, f"nats per image, on {n:,} images"


@dataclass(frozen=True)
class Choice:
    """How often the bound tells an image's own value of an attribute from the others it could have.

    Args:
        attribute: its name.
        right: whether the own caption costs least, (R,).
        options: how many there were, (R,).
        log_prob: ln q of the own one, q ∝ e^{−nats}, (R,), nats.
    """

    attribute: str
    right: Tensor
    options: Tensor
    log_prob: Tensor

    @property
    def accuracy(self) -> Estimate:
        """Share of images ± its standard error."""
        return estimate_mean(self.right.double())

    @property
    def chance(self) -> float:
        """What guessing would reach."""
        return float((1 / self.options.double()).mean())


@dataclass(frozen=True, repr=False)
class CaptionInformation:
    """Captions weighed on n images, all with one noise an image.

    Args:
        captions: n.
        places: of their images among those asked for, n.
        given, without: each image's bound with its caption and with none, (n,), nats.
        candidates: nats of image i with the caption of image `block_partners(n, k)[j, i]` of its block, (k, m).
        dims: of an image.
        phrases: by name, the nats that leaving it out costs where it stands.
        choices: attribute by attribute.
        calls: of the network.
        draws, seed: of each bound.
        encoder: name and hash of the text encoder.
        precision, device: of the network.
        seconds: in all.
    """

    captions: tuple[str, ...]
    places: tuple[int, ...]
    given: Tensor
    without: Tensor
    candidates: Tensor
    dims: int
    phrases: dict[str, Tensor] = field(default_factory=dict)
    choices: tuple[Choice, ...] = ()
    calls: int = 0
    draws: int | str = 8
    seed: int = 0
    encoder: Mapping[str, str] = field(default_factory=dict)
    precision: str = "float32"
    device: str = "cpu"
    seconds: float = 0.0

    def __repr__(self) -> str:
        n, lower = len(self.captions), self.information
        return (
            f"CaptionInformation(difference {estimate_mean(self.difference)} nats, at least {lower} nats, {n:,} images)"
        )

    def _repr_html_(self) -> str:
        """The figures as a table, for notebooks."""
        rows = [("bound difference, nats", estimate_mean(self.difference)), ("information at least", self.information)]
        return html_table([*rows, ("images", f"{len(self.captions):,}")])

    @property
    def difference(self) -> Tensor:
        """The bound difference of each image, (n,), nats."""
        return self.without - self.given

    @property
    def information(self) -> Estimate:
        """The estimated lower bound on the information between image and caption, nats; below 0 it says nothing."""
        return information_bound(self.candidates)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `markovae measure --captions --json`, nats per example."""
        bit = 1 / (self.dims * math.log(2))
        difference = estimate_mean(self.difference)
        return {
            "schema_version": 1,
            "n": len(self.captions),
            "dims": self.dims,
            "draws": self.draws,
            "seed": self.seed,
            "network_calls": self.calls,
            "images": [
                {"image": number, "caption": text, "nats": nats}
                for number, text, nats in zip(self.places, self.captions, self.difference.tolist(), strict=True)
            ],
            "encoder": dict(self.encoder),
            "precision": self.precision,
            "device": self.device,
            "seconds": self.seconds,
            "bits_per_dim": {
                "with_caption": estimate_dict(estimate_mean(self.given).scaled(bit)),
                "without_caption": estimate_dict(estimate_mean(self.without).scaled(bit)),
            },
            "bound_difference": {
                "nats": estimate_dict(difference),
                "bits_per_dim": estimate_dict(difference.scaled(bit)),
            },
            "information_lower_bound": information_dict(self.candidates),
            "phrases": [
                {"phrase": name, "n": len(nats), "nats": estimate_dict(estimate_mean(nats))}
                for name, nats in self.phrases.items()
            ],
            "attributes": [
                {
                    "attribute": choice.attribute,
                    "n": len(choice.right),
                    "accuracy": choice.accuracy.value,
                    "stderr": finite(choice.accuracy.stderr),
                    "chance": choice.chance,
                }
                for choice in self.choices
            ],
        }


class _Weigher:
    """A model, its images and how their bounds are drawn; it counts network calls."""

    def __init__(self, model: Diffusion, images: Any, estimator: Estimator, seed: int, batch: int) -> None:
        self.model, self.images, self.estimator = model, images, estimator
        self.seed, self.batch, self.calls = seed, batch, 0
        self._each = len(estimator.evaluations(model.num_levels, 1, seed))

    def __call__(self, given: Condition | None, rows: Tensor | None = None) -> Tensor:
        self.calls += self._each * (len(self.images) if rows is None else len(rows))
        return shared_nats(
            self.model, self.images, given, rows, estimator=self.estimator, seed=self.seed, batch=self.batch
        )

    def texts(self, texts: Sequence[str], rows: Tensor) -> Tensor:
        """The bounds given these texts."""
        assert self.model.text_conditioner is not None, "asked for captions"
        return self(self.model.text_conditioner.prompts(texts), rows)


def caption_information(
    model: Model,
    images: Any,
    texts: Sequence[str],
    *,
    candidates: int = 16,
    draws: int | str | None = 8,
    limit: int | None = 300,
    attributes: bool = True,
    seed: int = 0,
    batch: int = 64,
) -> CaptionInformation:
    """Weigh the captions of images, each image's first; those without any are left out.

        found = mv.caption_information(model, images, captions)
        print(found)

    Args:
        images: pixel values, (n, C, H, W).
        texts: their captions, as `ImageData.captions`.
        candidates: k of the lower bound.
        draws: levels per bound, stratified; None or "all" takes every level.
        limit: the first so many images only; None is all.
        attributes: whether phrases and attributes are weighed too, where the captions are those of the faces.
    Raises:
        UserError: for a model without captions or that never trained without, too few images, or data that do not fit.
    """
    model = one_stage(model, "caption information")
    if model.text_conditioner is None:
        raise UserError("this model was trained without captions: there is nothing to weigh")
    if isinstance(draws, str) and draws != "all":
        raise UserError(f"draws={draws!r} must be a whole number, None or 'all'")
    at_least_one(limit=limit)
    require_condition(model, None)
    began = time.monotonic()
    if len(texts) != len(images):
        raise UserError(
            f"{len(texts)} captions for {len(images)} images: give one text an image, an empty one for none"
        )
    images, texts = images[:limit], texts[:limit]
    said = [number for number, text in enumerate(texts) if captions_of(text)]
    own = tuple(captions_of(texts[number])[0] for number in said)
    partner = block_partners(len(own), candidates)
    weigher = _Weigher(model, images[said], Estimator(None if isinstance(draws, str) else draws), seed, batch)
    condition = model.text_conditioner.prompts(own)
    turns = iter(track(range(candidates + 1), "weighing captions", candidates + 1))
    next(turns)
    without = weigher(None)
    next(turns)
    given = weigher(condition)
    rows = torch.arange(partner.shape[1])
    tried = [given[rows], *(weigher(condition[partner[turn - 1]], rows) for turn in turns)]
    faces = {row: face for row, text in enumerate(own) if attributes and (face := read_face(text)) is not None}
    phrased = _phrases(weigher, faces, given)
    choices = tuple(_choices(weigher, faces, given))
    return CaptionInformation(
        own,
        tuple(said),
        given,
        without,
        torch.stack(tried),
        model.dims,
        phrased,
        choices,
        weigher.calls,
        draws="all" if draws is None else draws,
        seed=seed,
        encoder=model.text_conditioner.identity,
        precision=str(model.precision).removeprefix("torch."),
        device=str(model.device),
        seconds=time.monotonic() - began,
    )


def _phrases(weigher: _Weigher, faces: dict[int, Attributes], given: Tensor) -> dict[str, Tensor]:
    """What it costs to leave a phrase out of the caption."""
    said = {row: phrases(face) for row, face in faces.items()}
    names = list(dict.fromkeys(name for found in said.values() for name in found))
    costs = {}
    for name in track(names, "weighing phrases", len(names)) if names else ():
        rows = [row for row, found in said.items() if name in found]
        texts = [sentence({key: text for key, text in said[row].items() if key != name}) for row in rows]
        place = torch.tensor(rows)
        costs[name] = weigher.texts(texts, place) - given[place]
    return costs


def _choices(weigher: _Weigher, faces: dict[int, Attributes], given: Tensor) -> list[Choice]:
    """Each attribute's own value against the others."""
    found = []
    for name in track(SWAPPED, "swapping attributes", len(SWAPPED)) if faces else ():
        options = {row: [caption(face) for face in swaps(faces[row], name)] for row in faces}
        rows = [row for row, texts in options.items() if len(texts) > 1]
        if not rows:
            continue
        counts = torch.tensor([len(options[row]) for row in rows])
        nats = torch.full((int(counts.max()), len(rows)), torch.inf, dtype=torch.float64)
        nats[0] = given[torch.tensor(rows)]
        for turn in range(1, len(nats)):
            here = (counts > turn).nonzero().flatten()
            place = torch.tensor(rows)[here]
            nats[turn, here] = weigher.texts([options[row][turn] for row in place.tolist()], place)
        found.append(Choice(name, nats[0] < nats[1:].amin(0), counts, chosen_log_prob(nats)))
    return found
