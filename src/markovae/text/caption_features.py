"""The captions of a data set, encoded once and kept: features in bfloat16, mapped from the user's cache folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from markovae.data import cache
from markovae.log import track
from markovae.text.encoders import TextEncoder

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
