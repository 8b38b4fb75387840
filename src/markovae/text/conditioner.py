"""Captions and prompts as conditions of a model: by the encoder it was trained with and no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from markovae.data.images import ImageData
from markovae.errors import UserError
from markovae.log import track
from markovae.networks.conditioning import Condition, Conditioning, TextConditioner
from markovae.text.caption_features import CHUNK, CaptionTokens, encode_captions
from markovae.text.encoders import TextEncoder, encoder_hash, load_encoder, sentence_vector, token_width

if TYPE_CHECKING:
    from markovae.diffusion.model import Diffusion


@final
class CaptionConditioning(Conditioning):
    """The captions of N images, as features in a file; an image may have several, or none.

    Args:
        tokens: of all captions.   edges: image i has captions edges[i] … edges[i + 1] − 1, (N + 1,).
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
        name: of the encoder.   sha256: of the one that a model was trained with; None takes the one at hand.
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
        self._hash  # noqa: B018 - another encoder is told before it is loaded
        written = [number for number, text in enumerate(texts) if text.strip()]
        chunks = [written[start : start + CHUNK] for start in range(0, len(written), CHUNK)]
        told = track(chunks, f"encoding {len(written):,} prompts") if len(chunks) > 1 else chunks
        parts = [self._encoder([texts[number].strip() for number in chunk]) for chunk in told]
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


def attach_conditioning(model: Diffusion, data: ImageData, held_out: bool = False) -> ImageData:
    """The images with what this model is told of them, and nothing that it does not take.

    Args:
        held_out: whether these are not to be trained on: then none of them needs a caption.
    Raises:
        UserError: for a model of captions and images without any, or where its text encoder is not at hand.
    """
    if model.text_conditioner is None:
        takes = getattr(model.network, "num_classes", 0)
        return (
            replace(data, conditioning=None) if takes else replace(data, labels=None, class_names=(), conditioning=None)
        )
    texts = ("",) * len(data) if data.captions is None else data.captions
    if not held_out and not any(map(str.strip, texts)):
        raise UserError(
            f"{data.name} has no captions, and condition.kind=text reads them: write captions.csv or metadata.jsonl "
            "with file_name and text, or a .txt beside each image; or set condition.kind=class"
        )
    return replace(data, labels=None, class_names=(), conditioning=model.text_conditioner.captions(texts))
