"""Training, validation and test parts that share no image.

Images are told apart by their content hash, so copies of one image always fall into one part, whatever
their file names. The different hashes are ranked by SHA-256(seed, hash): the first ones are the test part,
the next the validation part, the rest trains. The ranking does not depend on the order of the files.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from markovae.data.data_config import DataConfig
from markovae.data.file_names import PARTS
from markovae.data.images import ImageData, Indices, captions_digest, fingerprint
from markovae.errors import UserError
from markovae.log import counted
from markovae.strict_json import shown


@dataclass(frozen=True, eq=False)
class SplitIndices:
    """Which image of a source belongs to which part.

    Args:
        train, validation, test: positions, (n,) int64, each ascending.
        method: how they were chosen, in words.
        seed: the seed it used, or None.
        left_out: images of the source that are in no part (copies across given parts).
        refusal: why there are fewer than three parts, in a sentence; then all images are in `train`.
    """

    train: Indices
    validation: Indices
    test: Indices
    method: str
    seed: int | None = None
    left_out: int = 0
    refusal: str = ""


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of a data set and how they came about (see `SplitIndices`).

    Args:
        unreadable: (file, reason) of each unreadable image.
        notes: sentences on what was decided.
    """

    train: ImageData
    validation: ImageData
    test: ImageData
    method: str
    seed: int | None = None
    left_out: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "<" + ", ".join(f"{name} {part!r}" for name, part in self._parts()) + ">"

    def record(self) -> dict[str, Any]:
        """What a run stores to know its split again: method, seed, shape, counts and a SHA-256 each.

        The SHA-256 of a part runs over the content hashes of its images in order. JSON-able.
        """
        record: dict[str, Any] = {
            "source": self.train.name,
            "method": self.method,
            "seed": self.seed,
            "shape": list(self.train.shape),
            "bins": self.train.bins,
            "left_out": self.left_out,
        }
        for name, part in self._parts():
            record[name] = {"count": len(part), "sha256": fingerprint(part.content_hashes())}
            if part.labels is not None:
                record[name]["labels_sha256"] = _labels_digest(part)
            if part.captions is not None:
                record[name]["captions_sha256"] = captions_digest(part)
        return record

    def verify(self, record: Mapping[str, Any], captions: bool = False) -> None:
        """Check that these are the parts of a stored record.

        Args:
            captions: whether the texts count too.
        Raises: UserError naming the first part that differs.
        """
        for key, here in (("shape", list(self.train.shape)), ("bins", self.train.bins)):
            if record.get(key) not in (None, here):
                raise UserError(
                    f"{self.train.name} has {key}={here} where the run had {shown(record[key])}: restore data and "
                    "options, or start a new run"
                )
        for name, part in self._parts():
            stored = record.get(name)
            if not isinstance(stored, Mapping) or not {"count", "sha256"} <= set(stored):
                raise UserError(f"the stored split has no {name} part: the record is damaged")
            if stored["count"] != len(part):
                raise UserError(
                    f"the {name} part of {part.name} has {len(part)} images where the run had "
                    f"{shown(stored['count'])}: restore data and options, or start a new run (--init takes the weights)"
                )
            if stored["sha256"] != fingerprint(part.content_hashes()):
                raise UserError(
                    f"the {name} part of {part.name} holds other pixels than when the run was made: "
                    "restore the data and its options, or start a new run"
                )
            if stored.get("labels_sha256") not in (None, _labels_digest(part)):
                raise UserError(
                    f"the labels of the {name} part of {part.name} changed since the run was made: restore them, or "
                    "start a new run"
                )
            if captions and stored.get("captions_sha256") not in (None, captions_digest(part)):
                raise UserError(
                    f"the captions of the {name} part of {part.name} changed since the run was made: restore them, or "
                    "start a new run"
                )

    def _parts(self) -> tuple[tuple[str, ImageData], ...]:
        return tuple(zip(PARTS, (self.train, self.validation, self.test), strict=True))


def _labels_digest(part: ImageData) -> str | None:
    return None if part.labels is None else hashlib.sha256(part.labels.astype("<i8").tobytes()).hexdigest()


def split_by_content(hashes: Sequence[bytes], config: DataConfig, name: str) -> SplitIndices:
    """Split by content hash, copies kept together.

    Of n different images the test part gets max(1, round(n·test_fraction)), the validation part
    max(1, round(n·validation_fraction)), both less where that would leave nothing to train on.

    Args:
        hashes: content hash of each image.
        name: of the source, for messages.
    Returns: parts with a refusal where there are fewer than three different images.
    """
    ranked = _ranked(hashes, config.split_seed)
    if len(ranked) < 3:
        none = np.arange(0)
        return SplitIndices(
            np.arange(len(hashes)),
            none,
            none,
            "too few to split",
            refusal=f"{name} holds {counted(len(hashes), 'image')}, {len(ranked)} of them different: at least 3 "
            "different images are needed, one each to train, to validate and to test; add images",
        )
    test = max(1, round(len(ranked) * config.test_fraction))
    test = min(test, len(ranked) - 2)
    validation = min(max(1, round(len(ranked) * config.validation_fraction)), len(ranked) - test - 1)
    group = {digest: 2 if rank < test else 1 if rank < test + validation else 0 for rank, digest in ranked}
    owner = np.array([group[digest] for digest in hashes], dtype=np.int64)
    train, held_out, tested = (np.flatnonzero(owner == part) for part in range(3))
    method = (
        f"by content hash, copies kept together, {config.validation_fraction:g} validation, "
        f"{config.test_fraction:g} test"
    )
    return SplitIndices(train, held_out, tested, method, config.split_seed)


def split_given(hashes: Sequence[bytes], part: Sequence[str], config: DataConfig, name: str) -> SplitIndices:
    """The parts that the source brings; a held-out part that it lacks is drawn from training by content hash.

    No image is in two parts: what is also tested on is left out of the others, and what validates out of training.

    Args:
        part: of each image, one of `PARTS`.   Others as for `split_by_content`.
    Raises: UserError where too few different images are left to train on.
    """
    if config.split == "content":
        return split_by_content(hashes, config, name)
    places = {one: [i for i, own in enumerate(part) if own == one] for one in PARTS}
    own = [one for one in PARTS[1:] if places[one]]
    seen: set[bytes] = set()
    for one in reversed(PARTS):
        places[one] = [i for i in places[one] if hashes[i] not in seen]
        seen |= {hashes[i] for i in places[one]}
    left_out = len(hashes) - sum(map(len, places.values()))
    ranked = [digest for _, digest in _ranked([hashes[i] for i in places["train"]], config.split_seed)]
    missing = [one for one in PARTS[1:] if not places[one]]
    if len(ranked) <= len(missing):
        held = ", ".join(f"{len(places[one])} {one} images" for one in own)
        raise UserError(
            f"{name} has {len(ranked)} different training images beside {held or 'no others'}: "
            f"at least {len(missing) + 1} are needed; add images"
        )
    shares = {"validation": config.validation_fraction, "test": config.test_fraction}
    total = len(ranked)
    for position, one in enumerate(reversed(missing)):  # test before validation, as in `split_by_content`
        most = len(ranked) - (len(missing) - position)
        drawn = set(ranked[: min(max(1, round(total * shares[one])), most)])
        ranked = ranked[len(drawn) :]
        places[one] = [i for i in places["train"] if hashes[i] in drawn]
        places["train"] = [i for i in places["train"] if hashes[i] not in drawn]
    train, validation, test = (np.array(places[one], dtype=np.int64) for one in PARTS)
    method = f"the source's own {' and '.join(own) or 'training'} part{'s' if len(own) > 1 else ''}"
    if missing:
        method += "; " + ", ".join(f"{shares[one]:g} {one}" for one in missing) + " by content hash"
    return SplitIndices(train, validation, test, method, config.split_seed if missing else None, left_out)


def chosen_split(data: ImageData, part: Sequence[str], config: DataConfig) -> SplitIndices:
    """`split_given` where the source brings parts, and `split_by_content` where `part` names none."""
    if any(part):
        return split_given(data.content_hashes(), part, config, data.name)
    return split_by_content(data.content_hashes(), config, data.name)


def copies_note(parts: SplitIndices) -> tuple[str, ...]:
    """A sentence on the images that are left out as copies of held-out ones, if there are any."""
    if not parts.left_out:
        return ()
    them = "1 image is" if parts.left_out == 1 else f"{parts.left_out:,} images are"
    return (f"{them} left out of training or validation, as copies of held-out images",)


def _ranked(hashes: Sequence[bytes], seed: int) -> list[tuple[int, bytes]]:
    key = b"markovae-split|%d|" % seed
    return list(enumerate(sorted(set(hashes), key=lambda digest: hashlib.sha256(key + digest).digest())))
