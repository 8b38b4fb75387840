"""What a sample is conditioned on: checked against the model before a network call is made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.networks.conditioning import Condition, Conditioning, RepeatedConditioning


def condition_for(model: Diffusion, labels: Tensor | None) -> Condition | None:
    """Class labels (B,) as a condition, or None.

    Raises:
        UserError: when the model takes no labels, or a label is not one of its classes.
    """
    if labels is None:
        return None
    classes = num_classes(model)
    if not classes:
        raise UserError("this model was trained without labels: leave the class out")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        known = ", ".join(map(str, range(classes))) if classes <= 20 else f"0…{classes - 1}"
        raise UserError(f"class {int(wrong[0])} is unknown: this model has classes {known}")
    return Condition(label=labels)


def prompt_condition(model: Diffusion, prompts: Sequence[str]) -> Condition | None:
    """The condition of each prompt; an empty one is the learned null, and None stands for nothing but empty ones.

    Raises:
        UserError: when the model was trained without captions, or its text encoder is not at hand.
    """
    if model.text_conditioner is None:
        raise UserError("this model was trained without captions: leave the prompt out")
    return model.text_conditioner.prompts(prompts) if any(text.strip() for text in prompts) else None


def num_classes(model: Diffusion) -> int:
    """Classes the model's network takes, 0 for none."""
    return int(getattr(model.network, "num_classes", 0))


def spread(condition: Conditioning | None, n: int) -> Conditioning | None:
    """What n samples are conditioned on: one for all is repeated; a condition without any field is None.

    Raises:
        UserError: for another number of conditions.
    """
    if condition is None or not len(condition):
        return None
    if len(condition) == 1:
        return RepeatedConditioning(condition, torch.zeros(n, dtype=torch.int64))
    if len(condition) != n:
        raise UserError(f"{len(condition)} conditions for n={n} samples: give one for all, or one a sample")
    return condition
