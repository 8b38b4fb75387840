"""What a model is told of images: their classes, their captions, or nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from markovae.data.images import ImageData
from markovae.errors import UserError

if TYPE_CHECKING:
    from markovae.diffusion import Diffusion


def known_to(model: Diffusion, data: ImageData, held_out: bool = False) -> ImageData:
    """The images with what this model is told of them, and nothing that it does not take.

    Args:
        held_out: whether these are not to be trained on: then none of them needs a caption.
    Raises:
        UserError: for a model of captions and images without any, or where its text encoder is not at hand.
    """
    if model.reader is None:
        takes = getattr(model.network, "num_classes", 0)
        return replace(data, given=None) if takes else replace(data, labels=None, class_names=(), given=None)
    texts = ("",) * len(data) if data.captions is None else data.captions
    if not held_out and not any(map(str.strip, texts)):
        raise UserError(
            f"{data.name} has no captions, and condition.kind=text reads them: write captions.csv or metadata.jsonl "
            "with file_name and text, or a .txt beside each image; or set condition.kind=class"
        )
    return replace(data, labels=None, class_names=(), given=model.reader.captions(texts))


def uncaptioned(data: ImageData) -> int:
    """How many images have no caption."""
    return len(data) if data.captions is None else sum(not text.strip() for text in data.captions)


def captions_digest(data: ImageData) -> str:
    """SHA-256 of the captions in order, as hex: equal only where every one is."""
    return hashlib.sha256(json.dumps(data.captions).encode()).hexdigest()
