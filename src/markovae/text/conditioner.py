"""Captions and prompts as conditions of a model: by the encoder it was trained with and no other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from markovae.data import cache
from markovae.data.images import ImageData
from markovae.errors import UserError
from markovae.log import log, track
from markovae.networks.conditioning import (
    ColumnConditioning,
    Condition,
    Conditioning,
    TextConditioner,
    class_numbers,
)
from markovae.text.encoders import encoder_hash, load_encoder, token_width
from markovae.text.text_encoder import TextEncoder, sentence_vector

if TYPE_CHECKING:
    from markovae.diffusion.cascade import Model


CHUNK = 64
LAYOUT = 1
Words = np.ndarray[Any, np.dtype[np.uint16]]
Edges = np.ndarray[Any, np.dtype[np.int64]]


@final
class CaptionTokens:
    """Features of the tokens of many captions; each different caption is held once.

    Args:
        words: the bits of bfloat16 features, one caption after another, (total, C), uint16; may be mapped from a file.
        edges: entry k has rows edges[k] … edges[k + 1] − 1, (K + 1,).
        order: the entry of each caption, (N,).
    """

    def __init__(self, words: Words, edges: Edges, order: Edges) -> None:
        if (
            words.ndim != 2
            or edges.ndim != 1
            or len(edges) < 1
            or edges[-1] != len(words)
            or (np.diff(edges) < 1).any()
        ):
            raise ValueError(f"edges must rise to {len(words)}, the number of tokens")
        if len(order) and not 0 <= order.min() <= order.max() < len(edges) - 1:
            raise ValueError(f"order must name entries 0…{len(edges) - 2}")
        self._words, self._edges, self._order = words, edges, order

    def __len__(self) -> int:
        return len(self._order)

    @property
    def width(self) -> int:
        """Features of a token."""
        return int(self._words.shape[1])

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features (B, T, C), float32, 0 beyond a caption's end, and mask (B, T); T is the longest one's.

        Index −1 stands for no caption: no token.
        """
        entries = [int(self._order[i]) if i >= 0 else -1 for i in indices]
        lengths = [int(self._edges[entry + 1] - self._edges[entry]) if entry >= 0 else 0 for entry in entries]
        features = torch.zeros(len(entries), max(lengths, default=0), self.width)
        mask = torch.zeros(features.shape[:2], dtype=torch.bool)
        for row, (entry, length) in enumerate(zip(entries, lengths, strict=True)):
            start = int(self._edges[max(entry, 0)])
            bits = torch.from_numpy(np.array(self._words[start : start + length]))
            features[row, :length] = bits.view(torch.bfloat16).float()
            mask[row, :length] = True
        return features, mask


def encode_captions(
    captions: Sequence[str], encoder: Callable[[], TextEncoder], identity: str, folder: Path | None = None
) -> CaptionTokens:
    """Encode captions, or read what was encoded before; each different caption is encoded once.

    Args:
        captions: in the order of the result.
        encoder: gives the encoder; it is asked only where something must be encoded.
        identity: the encoder's hash, so that another's features are never taken for its own.
        folder: of the cache; left out, the user's.
    """
    distinct = list(dict.fromkeys(captions))
    text = json.dumps([LAYOUT, identity, distinct])
    name = f"captions-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    words, edges = cache.entry(name, lambda stage: _encode(distinct, encoder(), stage), _read, folder)
    place = {caption: number for number, caption in enumerate(distinct)}
    return CaptionTokens(words, edges, np.array([place[caption] for caption in captions], dtype=np.int64))


def _read(kept: cache.Entry) -> tuple[Words, Edges]:
    return kept.array("tokens.npy", mapped=True), kept.array("edges.npy")


def _encode(captions: list[str], encoder: TextEncoder, stage: Path) -> None:
    """Captions of like length together, since a batch is as long as its longest; the file has them in order."""
    by_length = sorted(range(len(captions)), key=lambda i: len(captions[i]))
    chunks = [by_length[start : start + CHUNK] for start in range(0, len(captions), CHUNK)]
    found: dict[int, Words] = {}
    for chunk in track(chunks, f"encoding {len(captions):,} captions, {CHUNK} at a time"):
        features, mask = encoder([captions[i] for i in chunk])
        bits = features.bfloat16().view(torch.uint16).numpy()
        for row, i in enumerate(chunk):
            found[i] = bits[row, : int(mask[row].sum())].copy()
    edges = np.cumsum([0, *(len(found[i]) for i in range(len(captions)))], dtype=np.int64)
    words = np.concatenate([np.zeros((0, encoder.width), np.uint16), *(found[i] for i in range(len(captions)))])
    np.save(stage / "tokens.npy", words, allow_pickle=False)
    np.save(stage / "edges.npy", edges, allow_pickle=False)


@final
class CaptionConditioning(Conditioning):
    """The captions of N images, as features in a file; an image may have several, or none.

    Args:
        tokens: of all captions.
        edges: image i has captions edges[i] … edges[i + 1] − 1, (N + 1,).
        rows: the images meant, (K,); None is all.
    """

    def __init__(self, tokens: CaptionTokens, edges: np.ndarray[Any, Any], rows: Tensor | None = None) -> None:
        self._tokens, self._edges = tokens, edges
        self._rows = torch.arange(len(edges) - 1) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> CaptionConditioning:
        return CaptionConditioning(self._tokens, self._edges, self._rows[rows])

    def condition(self) -> Condition:
        """The first caption of each."""
        return self.draw(torch.zeros(len(self)))

    def draw(self, uniform: Tensor) -> Condition:
        """One caption of each; an image without one is left to the learned null."""
        rows = self._rows.numpy()
        start, count = self._edges[rows], self._edges[rows + 1] - self._edges[rows]
        place = start + np.minimum((uniform.double().numpy() * count).astype(np.int64), np.maximum(count - 1, 0))
        features, mask = self._tokens.take(np.where(count > 0, place, -1).tolist())
        return as_condition(features, mask)


@final
class EncoderConditioner(TextConditioner):
    """The encoder of this name, loaded when it is first needed.

    Args:
        name: of the encoder.
        sha256: of the one that a model was trained with; None takes the one at hand.
        width: features of a token, so that a model can be made where its encoder is not at hand; None asks it.
    """

    def __init__(self, name: str, sha256: str | None = None, width: int | None = None) -> None:
        self.name, self._expected, self._width = name, sha256, width

    def __deepcopy__(self, memo: dict[int, Any]) -> EncoderConditioner:
        return self  # it never changes: a copy of a model reads by the same one

    @property
    def identity(self) -> dict[str, str]:
        """Name and hash."""
        return {"encoder": self.name, "sha256": self._hash}

    @property
    def width(self) -> int:
        """Features of a token."""
        return token_width(self.name) if self._width is None else self._width

    def prompts(self, texts: Sequence[str]) -> Condition:
        """Encoded at once, and not kept."""
        self._hash  # noqa: B018 - refuse another encoder before it is loaded
        written = [number for number, text in enumerate(texts) if text.strip()]
        chunks = [written[start : start + CHUNK] for start in range(0, len(written), CHUNK)]
        progress = track(chunks, f"encoding {len(written):,} prompts") if len(chunks) > 1 else chunks
        parts = [self._encoder([texts[number].strip() for number in chunk]) for chunk in progress]
        longest = max((mask.shape[1] for _, mask in parts), default=0)
        features = torch.zeros(len(texts), longest, self._encoder.width)
        mask = torch.zeros(features.shape[:2], dtype=torch.bool)
        for chunk, (found, known) in zip(chunks, parts, strict=True):
            # The bits of the cache: a prompt that is a caption of the data is that caption.
            features[chunk, : found.shape[1]] = found.bfloat16().float()
            mask[chunk, : found.shape[1]] = known
        return as_condition(features, mask)

    def captions(self, texts: Sequence[str]) -> Conditioning:
        """Encoded once, then mapped from the cache folder."""
        each = [captions_of(text) for text in texts]
        flat = [caption for captions in each for caption in captions]
        edges = np.cumsum([0, *map(len, each)], dtype=np.int64)
        return CaptionConditioning(encode_captions(flat, lambda: self._encoder, self._hash), edges)

    @cached_property
    def _hash(self) -> str:
        found = encoder_hash(self.name)
        if self._expected not in (None, found):
            raise UserError(
                f"this model was trained with the text encoder {self.name} of SHA-256 {str(self._expected)[:16]}…, and "
                f"the one installed has {found[:16]}…: install the one it was trained with, or leave captions out"
            )
        return found

    @cached_property
    def _encoder(self) -> TextEncoder:
        return load_encoder(self.name)


def captions_of(text: str) -> tuple[str, ...]:
    """The captions of one image: its lines that hold something."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def as_condition(features: Tensor, mask: Tensor) -> Condition:
    """Tokens and their mean as a condition; an example without any token is the learned null."""
    written = mask.any(1)
    keep = None if bool(written.all()) else written
    return Condition(tokens=features, mask=mask, vector=sentence_vector(features, mask), keep=keep)


def attach_conditioning(model: Model, data: ImageData, held_out: bool = False) -> ImageData:
    """The images with what this model is conditioned on, and nothing that it does not take.

    Args:
        held_out: these do not train, so none of them needs a caption.
    Raises:
        UserError: for a model of captions and images without any, or where its text encoder is not at hand.
    """
    if model.columns is not None:
        own = replace(data, conditioning=known_columns(model, data, attach_captions(model, data, held_out).known))
        return own if getattr(model.network, "num_classes", 0) else replace(own, labels=None, class_names=())
    return attach_captions(model, data, held_out)


def known_columns(model: Model, data: ImageData, beside: Any = None) -> ColumnConditioning:
    """The columns of the images that this model takes, what is missing told.

    Args:
        beside: their captions, or their labels as the model counts them, or None.
    """
    if beside is not None and not isinstance(beside, Conditioning):
        beside = Condition(label=class_numbers(beside))
    assert model.columns is not None, "a model of columns"
    known, notes = ColumnConditioning.of_cells(model.columns, data.columns, len(data), beside, model.null_trained)
    for note in notes:
        log(f"{data.name}: {note}")
    return known


def attach_captions(model: Model, data: ImageData, held_out: bool = False) -> ImageData:
    """The images with their captions or labels, where this model takes them: `attach_conditioning` but for columns."""
    if model.text_conditioner is None:
        takes = getattr(model.network, "num_classes", 0)
        return (
            replace(data, conditioning=None) if takes else replace(data, labels=None, class_names=(), conditioning=None)
        )
    texts = ("",) * len(data) if data.captions is None else data.captions
    if not held_out and not any(map(str.strip, texts)):
        raise UserError(
            f"{data.name} has no captions, which condition.kind=text needs: write captions.csv or metadata.jsonl "
            "with file_name and text, or a .txt beside each image; or set condition.kind=class"
        )
    return replace(data, labels=None, class_names=(), conditioning=model.text_conditioner.captions(texts))
