"""What captions say about images under a model, in nats: of the whole, of each phrase, and of each attribute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from markovae.console import track
from markovae.data.faces import Attributes, caption, phrases, sentence
from markovae.data.phrases import SWAPPED, read_face, swaps
from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.likelihood import Estimator, block_partners, chosen_log_prob, finite, information_bound, shared_nats
from markovae.networks.condition import Condition
from markovae.text.reader import captions_of
from markovae.vae import Estimate, estimate_mean


@dataclass(frozen=True)
class Choice:
    """How often the bound tells an image's own value of an attribute from the others it could have.

    Args:
        attribute: its name.   right: whether the own caption costs least, (R,).   options: how many there were, (R,).
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


@dataclass(frozen=True)
class Worth:
    """Captions weighed on n images, all with one noise an image.

    Args:
        captions: n.   places: of their images among those asked for, n.
        given, without: each image's bound with its caption and with none, (n,), nats.
        candidates: nats of image i with the caption of image `block_partners(n, k)[j, i]` of its block, (k, m).
        dims: of an image.   phrases: by name, the nats that leaving it out costs where it stands.
        choices: attribute by attribute.   calls: of the network.
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

    @property
    def difference(self) -> Tensor:
        """The bound difference of each image, (n,), nats."""
        return self.without - self.given

    @property
    def information(self) -> Estimate:
        """The lower bound on the information between image and caption, nats."""
        return information_bound(self.candidates)

    def to_dict(self) -> dict[str, Any]:
        """The figures, JSON-able; nats an example."""
        bit = 1 / (self.dims * math.log(2))
        difference, k = estimate_mean(self.difference), len(self.candidates)
        return {
            "n": len(self.captions),
            "dims": self.dims,
            "network_calls": self.calls,
            "bits_per_dim": {
                "with_caption": _figure(estimate_mean(self.given).scaled(bit)),
                "without_caption": _figure(estimate_mean(self.without).scaled(bit)),
            },
            "bound_difference": {"nats": _figure(difference), "bits_per_dim": _figure(difference.scaled(bit))},
            "information_lower_bound": {
                "nats": _figure(self.information),
                "candidates": k,
                "n": self.candidates.shape[1],
                "ceiling_nats": math.log(k),
            },
            "phrases": [
                {"phrase": name, "n": len(nats), "nats": _figure(estimate_mean(nats))}
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


def _figure(found: Estimate) -> dict[str, Any]:
    return {"mean": finite(found.value), "stderr": finite(found.stderr), "ci95": [finite(end) for end in found.ci95]}


class _Weigher:
    """A model, its images and how their bounds are drawn; it counts network calls."""

    def __init__(self, model: Diffusion, images: Any, estimator: Estimator, seed: int, batch: int) -> None:
        self.model, self.images, self.estimator = model, images, estimator
        self.seed, self.batch, self.calls = seed, batch, 0
        self._each = len(estimator.task(model.num_levels, 1, seed))

    def __call__(self, given: Condition | None, rows: Tensor | None = None) -> Tensor:
        self.calls += self._each * (len(self.images) if rows is None else len(rows))
        return shared_nats(
            self.model, self.images, given, rows, estimator=self.estimator, seed=self.seed, batch=self.batch
        )

    def texts(self, texts: Sequence[str], rows: Tensor) -> Tensor:
        """The bounds given these texts."""
        assert self.model.reader is not None, "asked for captions"
        return self(self.model.reader.prompts(texts), rows)


def weigh_captions(
    model: Diffusion,
    images: Any,
    texts: Sequence[str],
    *,
    candidates: int = 16,
    estimator: Estimator | None = None,
    attributes: bool = True,
    seed: int = 0,
    batch: int = 64,
) -> Worth:
    """Weigh the captions of images, each image's first; those without any are left out.

    Args:
        images: digits, (n, C, H, W).   texts: their captions, as `ImageData.captions`.
        candidates: k of the lower bound.   estimator: of each bound; left out: 8 stratified levels an image.
        attributes: whether phrases and attributes are weighed too, where the captions are those of the faces.
    Raises:
        UserError: for a model without captions, too few images, or data that do not fit the model.
    """
    if model.reader is None:
        raise UserError("this model was trained without captions: there is nothing to weigh")
    if len(texts) != len(images):
        raise UserError(
            f"{len(texts)} captions for {len(images)} images: give one text an image, an empty one for none"
        )
    said = [number for number, text in enumerate(texts) if captions_of(text)]
    own = tuple(captions_of(texts[number])[0] for number in said)
    partner = block_partners(len(own), candidates)
    weigher = _Weigher(model, images[said], Estimator(8) if estimator is None else estimator, seed, batch)
    condition = model.reader.prompts(own)
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
    return Worth(own, tuple(said), given, without, torch.stack(tried), model.dims, phrased, choices, weigher.calls)


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
