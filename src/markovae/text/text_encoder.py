"""What every text encoder is: captions to features of their tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from markovae.log import log


class TextEncoder(ABC):
    """A frozen encoder of captions.

    Args:
        name: what it is called in a checkpoint.
        width: features of a token.
        limit: longest caption in tokens, with those that the encoder adds; a longer one is cut.
    """

    def __init__(self, name: str, width: int, limit: int) -> None:
        self.name, self.width, self.limit = name, width, limit
        self._warned = False

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features (B, T, width), float32, 0 where there is no token, and the mask (B, T); T is the longest's."""
        encoded = [self._cut(self._numbers(caption), caption) for caption in captions]
        length = max((len(numbers) for numbers in encoded), default=0)
        ids = torch.zeros(len(encoded), length, dtype=torch.int64)
        mask = torch.zeros(len(encoded), length, dtype=torch.bool)
        for row, numbers in enumerate(encoded):
            ids[row, : len(numbers)] = torch.tensor(numbers)
            mask[row, : len(numbers)] = True
        if not encoded:
            return torch.zeros(0, 0, self.width), mask
        with torch.inference_mode():
            features = self._features(ids, mask) * mask[..., None]
        return features.clone(), mask

    @abstractmethod
    def _numbers(self, caption: str) -> list[int]:
        """The caption's tokens, those that the encoder adds included, however many there are."""

    @abstractmethod
    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Features of every token, (B, T, width); what stands where the mask is False is not looked at."""

    def _cut(self, numbers: list[int], caption: str) -> list[int]:
        """The last token says that the caption ends: it stays."""
        if len(numbers) <= self.limit:
            return numbers
        if not self._warned:
            self._warned = True
            log(
                f"a caption of {len(numbers)} tokens is cut to {self.limit} ({' '.join(caption.split())[:60]}…); "
                "further ones are cut without a message"
            )
        return [*numbers[: self.limit - 1], numbers[-1]]


def sentence_vector(features: Tensor, mask: Tensor) -> Tensor:
    """The mean over a caption's tokens at length one, (B, C): what a sentence encoder was trained to compare."""
    mean = (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
    return torch.nn.functional.normalize(mean, dim=-1)
