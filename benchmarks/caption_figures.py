"""Do images show what their captions say? The same figures for every way of making images from captions.

Three sets of captions: those of the data set's test faces; those of faces that show a combination of attributes held
out of training (`data.hold_out`); and the paraphrases of `paraphrases.toml`. A judge (`attributes.py`) looks at one
image a caption, of the paraphrases at several.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attributes import SIZE, Judge, accuracies, labels_of, share
from markovae.data.faces import attributes, caption, combinations, shows, values
from markovae.data.faceset import face_numbers
from markovae.errors import UserError
from markovae.log import log
from markovae.quality.distances import kid, kid_difference
from markovae.quality.extractors import open_extractor
from markovae.quality.features import cached_features, features
from markovae.quality.reference_set import ReferenceSet

EXTRACTOR = "small"
PARAPHRASES = Path(__file__).with_name("paraphrases.toml")
UNSEEN_FROM = 3_000_000  # faces of no data set, and none that the judge has learnt from
# What a face shows at 32 pixels and a caption says in one word each.
CLAIMED = ("background", "skin", "hair", "hair_colour", "headwear", "mouth", "glasses", "beard")
ONE_SIDED = 1.645  # standard errors of a 95 % limit

NoiseSample = Callable[[str, Sequence[str]], np.ndarray]
"""draw(name of the set, captions) -> images uint8, (n, 3, 32, 32); image i is of caption i and noise i."""


@dataclass(frozen=True)
class Amounts:
    """How much is measured.

    Args:
        n: test captions.   unseen: captions with a held-out combination, all together.   each: images a paraphrase.
    """

    n: int = 1000
    unseen: int = 400
    each: int = 10


def caption_figures(draw: NoiseSample, judge: Judge, held_out: Sequence[str], amounts: Amounts) -> dict[str, Any]:
    """Accuracy of every attribute on the three sets of captions; images are drawn one set at a time.

    Args:
        held_out: the combinations that the model was trained without, as in `data.hold_out`.
    """
    numbers = face_numbers(SIZE)[2][: amounts.n]
    captions, truth = asked(numbers)
    told = judge.tell(draw("test", captions))
    record = {"test": of_set(told, truth)}
    log(f"test captions: {100 * record['test']['claimed']['mean']:.1f} % of the attributes are right")
    if held_out:
        rare = with_combination(held_out, amounts.unseen)
        rare_captions, rare_truth = asked(rare)
        rare_told = judge.tell(draw("unseen", rare_captions))
        record["unseen"] = of_set(rare_told, rare_truth) | {
            "combinations": together((numbers, told, truth), (rare, rare_told, rare_truth), held_out)
        }
    phrases = tomllib.loads(PARAPHRASES.read_text(encoding="utf-8"))["paraphrase"]
    texts = [phrase["text"] for phrase in phrases for _ in range(amounts.each)]
    said = judge.tell(draw("paraphrases", texts)).unflatten(0, (len(phrases), amounts.each))
    record["paraphrases"] = [of_phrase(phrase, part) for phrase, part in zip(phrases, said, strict=True)]
    return record


def asked(numbers: Sequence[int]) -> tuple[list[str], Tensor]:
    """The captions of these faces and the attributes that they should show, (n, 12)."""
    shown = [attributes(number) for number in numbers]
    return [caption(face) for face in shown], labels_of(shown)


def of_set(told: Tensor, truth: Tensor) -> dict[str, Any]:
    """Accuracy of each attribute, and the mean over attributes with the error of a mean over images."""
    names = list(values())
    right = (told == truth).double()
    chosen = [names.index(name) for name in CLAIMED]
    return {
        "n": len(right),
        "accuracy": accuracies(told, truth),
        "claimed": _mean(right[:, chosen].mean(1)),
        "all": _mean(right.mean(1)),
    }


def with_combination(texts: Sequence[str], count: int) -> list[int]:
    """The numbers of faces that show these combinations, from UNSEEN_FROM on, as many of each as they can be even."""
    pairs = combinations(texts)
    left = [count // len(pairs) + (place < count % len(pairs)) for place in range(len(pairs))]
    found: list[int] = []
    number = UNSEEN_FROM
    while any(left):
        face = attributes(number)
        for place, pair in enumerate(pairs):
            if left[place] and shows(face, pair):
                left[place] -= 1
                found.append(number)
                break
        number += 1
        if number > UNSEEN_FROM + 1_000_000:
            raise UserError(f"no face shows {texts[int(np.argmax(left))]!r}: name combinations that occur")
    return found


Judged = tuple[Sequence[int], Tensor, Tensor]
"""Numbers of faces, what their images show, and what they should."""


def together(seen: Judged, unseen: Judged, texts: Sequence[str]) -> dict[str, Any]:
    """The values of a combination where they were asked for together, against each in other company.

    Of images asked for a held-out combination the share of its values that are right; of images of the test captions
    with one of those values alone, whether it is right. The difference is of the means over combinations.
    """
    rows = []
    for text, pair in zip(texts, combinations(texts), strict=True):
        both = _right(unseen, pair, lambda face, pair=pair: shows(face, pair))
        alone = _right(seen, pair, lambda face, pair=pair: not shows(face, pair))
        rows.append({"combination": text, "unseen": _mean(both), "seen": _mean(alone), "n": [len(both), len(alone)]})
    whole = [row for row in rows if row["unseen"] and row["seen"]]
    means = [np.mean([row[side]["mean"] for row in whole]) for side in ("seen", "unseen")]
    errors = [row[side]["stderr"] ** 2 for row in whole for side in ("seen", "unseen")]
    loss = {"mean": float(means[0] - means[1]), "stderr": math.sqrt(sum(errors)) / len(whole)} if whole else None
    return {"rows": rows, "loss": loss}


def _right(judged: Judged, pair: dict[str, str], chosen: Callable[[Any], bool]) -> Tensor:
    """Of each chosen face that shows some value of the pair: the share of those it shows that were told, (k,)."""
    names, found = list(values()), []
    for place, number in enumerate(judged[0]):
        face = attributes(number)
        columns = [names.index(name) for name, value in pair.items() if getattr(face, name) == value]
        if columns and chosen(face):
            found.append(float((judged[1][place, columns] == judged[2][place, columns]).double().mean()))
    return torch.tensor(found, dtype=torch.float64)


def of_phrase(phrase: dict[str, Any], told: Tensor) -> dict[str, Any]:
    """Of the images of one paraphrase the share that shows all it means, and of each attribute.

    Raises:
        UserError: for a value that faces do not take.
    """
    words = values()
    means: dict[str, list[str]] = phrase["means"]
    wrong = [f"{name}={value}" for name, allowed in means.items() for value in allowed if value not in words[name]]
    if wrong:
        raise UserError(f"{PARAPHRASES.name}: {phrase['text']!r} means {wrong[0]}, which no face shows")
    right = {}
    for name, allowed in means.items():
        places = torch.tensor([words[name].index(value) for value in allowed])
        right[name] = torch.isin(told[:, list(words).index(name)], places)
    return {
        "text": phrase["text"],
        "means": means,
        "n": len(told),
        "all": share(torch.stack(list(right.values())).all(0)),
        "each": {name: share(found) for name, found in right.items()},
    }


def kid_figures(images: np.ndarray, plain: np.ndarray, real: ReferenceSet) -> dict[str, Any]:
    """KID of captioned images beside that of images drawn without captions from the same noise.

    `excess` is KID − 1.1 KID_plain, the difference less a tenth of the plain one; its error is at most the sum of both
    errors, however they hang together, and `limit` is its upper 95 % limit.
    """
    extractor = open_extractor(EXTRACTOR)
    reference = cached_features(extractor, real.reference, real.bins, "features of the reference")
    floor_samples = cached_features(extractor, real.floor_samples, real.bins, "features of training images")
    told, untold = (features(extractor, part, real.bins, name) for part, name in ((images, "told"), (plain, "plain")))
    own, other, floor = kid(told, reference), kid(untold, reference), kid(floor_samples, reference)
    apart = kid_difference(told, untold, reference)
    excess = apart.value - 0.1 * other.value
    error = apart.stderr + 0.1 * other.stderr
    return {
        "extractor": {"name": extractor.name, "sha256": extractor.digest},
        "reference": {"n": len(real.reference), "sha256": real.digest},
        "captioned": {"mean": own.value, "stderr": own.stderr},
        "plain": {"mean": other.value, "stderr": other.stderr},
        "floor": {"mean": floor.value, "stderr": floor.stderr},
        "excess": {"mean": excess, "stderr": error, "limit": excess + ONE_SIDED * error},
    }


def _mean(found: Tensor) -> dict[str, float] | None:
    """Mean and standard error; None of fewer than two."""
    if len(found) < 2:
        return None
    return {"mean": float(found.mean()), "stderr": float(found.std()) / math.sqrt(len(found))}
