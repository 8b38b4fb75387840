"""What a person may say about what the model is told of an image: the section [condition]."""

from __future__ import annotations

from dataclasses import dataclass

from markovae.config.checks import one_of

KINDS = ("class", "text", "none")


@dataclass(frozen=True)
class ConditionConfig:
    """What conditions the network.

    Args:
        kind: class, the labels of the data where there are any; text, their captions; or none.
        encoder: of captions: all-MiniLM-L6-v2, or the folder of a CLIP or T5 as transformers saves it.

    train.label_dropout is the share of labels or captions left out in training.
    """

    kind: str = "class"
    encoder: str = "all-MiniLM-L6-v2"

    def __post_init__(self) -> None:
        one_of("condition.kind", self.kind, KINDS)
