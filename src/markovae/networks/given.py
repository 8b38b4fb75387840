"""What is known about many examples, looked up when asked; and who turns captions into that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from torch import Tensor

if TYPE_CHECKING:
    from markovae.networks.condition import Condition


class Givens(ABC):
    """What is known about N examples; a batch of conditions is one of these, features in a file another."""

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def __getitem__(self, rows: Any) -> Givens:
        """Of the examples at `rows`: a slice, positions (K,), or a mask (N,)."""

    @abstractmethod
    def condition(self) -> Condition:
        """All of it as a batch; of an example that is described several times, the first description."""

    @abstractmethod
    def drawn(self, chance: Tensor) -> Condition:
        """As `condition`, but of M descriptions the one at place ⌊chance·M⌋; chance: (N,), in [0, 1)."""


@final
class Repeated(Givens):
    """A few givens for many examples, which are looked up when asked.

    Args:
        few: of K.   place: which of them is each example's, (N,), int64.
    """

    def __init__(self, few: Givens, place: Tensor) -> None:
        self._few, self._place = few, place

    def __len__(self) -> int:
        return len(self._place)

    def __getitem__(self, rows: Any) -> Repeated:
        return Repeated(self._few, self._place[rows])

    def condition(self) -> Condition:
        """All of it as a batch."""
        return self._few[self._place].condition()

    def drawn(self, chance: Tensor) -> Condition:
        """As a batch, one description of each drawn."""
        return self._few[self._place].drawn(chance)


class CaptionReader(ABC):
    """A text encoder as a model knows it: what it makes of captions is what the model was trained on.

    `null_learnt` says whether the model was trained without captions now and then, so that guidance can lead away
    from none.
    """

    null_learnt: bool = True

    @property
    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Name of the encoder and hash of its files, for a checkpoint.

        Raises:
            UserError: where it is not installed.
        """

    @property
    @abstractmethod
    def width(self) -> int:
        """Features of a token.

        Raises:
            UserError: where nothing says so.
        """

    @abstractmethod
    def prompts(self, texts: Sequence[str]) -> Condition:
        """The condition of each text; an empty one is the learned null.

        Raises:
            UserError: where the encoder is not installed, or another than the model was trained with.
        """

    @abstractmethod
    def captions(self, texts: Sequence[str]) -> Givens:
        """The captions of a data set, encoded once and kept; each line of a text is a caption of its own.

        Raises:
            UserError: as `prompts`.
        """


def read_alike(one: CaptionReader | None, other: CaptionReader | None) -> bool:
    """Whether what one encoder makes of a caption means the same to both models; so it does where either takes none."""
    return one is None or other is None or one.identity["sha256"] == other.identity["sha256"]
