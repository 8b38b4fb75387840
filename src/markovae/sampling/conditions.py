"""What samples are conditioned on: made from labels or prompts, and checked before a network evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from markovae.diffusion.cascade import Model
from markovae.errors import UserError
from markovae.networks.conditioning import Condition, Conditioning, RepeatedConditioning, class_numbers, named_classes

Labels = Sequence[int | str] | int | str | None
Prompts = Sequence[str] | str | None


def make_condition(
    model: Model,
    n: int,
    *,
    labels: Labels = None,
    prompt: Prompts = None,
    condition: Conditioning | None = None,
    cycle: bool = False,
) -> Conditioning | None:
    """What n samples are conditioned on; None is no condition at all.

    Args:
        labels: a class by number or name for all, or one a sample; "all": each class in turn; "none": the null. None is
            "all" where the model has classes.
        prompt: a text for all, or one a sample; a blank one is the null.
        condition: instead of both, of one for all or one a sample.
        cycle: repeat what is given in turn, whatever its number.
    Raises:
        UserError: for more than one of the three, another number than 1 or n, what the model does not take, or a null
            that it was never trained on.
    """
    if sum(way is not None for way in (labels, prompt, condition)) > 1:
        raise UserError("labels, a condition and a prompt are given: keep one, a condition can hold all of them")
    each: Conditioning | None = condition
    if prompt is not None:
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        different = list(dict.fromkeys(texts))
        each = prompt_condition(model, different)
        if each is not None:
            each = RepeatedConditioning(each, torch.tensor([different.index(text) for text in texts]))
        if not model.null_trained and not all(text.strip() for text in texts):
            raise UserError(_untrained(model))
    elif labels is not None or (condition is None and num_classes(model)):
        each = _labels(model, n, "all" if labels is None else labels)
    if each is None or not len(each):
        check_condition(model, None)
        return None
    if isinstance(each, Condition):
        check_condition(model, each)
    if cycle or len(each) == 1:
        return each if len(each) == n else RepeatedConditioning(each, torch.arange(n) % len(each))
    if len(each) != n:
        what = "prompts" if prompt is not None else "labels" if condition is None else "conditions"
        raise UserError(f"{len(each)} {what} for n={n} samples: give one for all, or one a sample")
    return each


def check_condition(model: Model, condition: Condition | None) -> None:
    """Refuse what the model does not take, and the null of a model that was never trained on it.

    Raises:
        UserError: naming the class, or what is missing.
    """
    classes = num_classes(model)
    label = None if condition is None else condition.label
    if label is not None:
        if not classes:
            raise UserError("this model was trained without labels: leave the class out")
        wrong = label[(label < 0) | (label >= classes)]
        if len(wrong):
            known = ", ".join(map(str, range(classes))) if classes <= 20 else f"0…{classes - 1}"
            raise UserError(f"class {int(wrong[0])} is unknown: this model has classes {known}")
    tokens = None if condition is None else condition.tokens
    missing = (classes and label is None) or (model.text_conditioner is not None and tokens is None)
    if missing and not model.null_trained:
        raise UserError(_untrained(model))


def prompt_condition(model: Model, prompts: Sequence[str]) -> Condition | None:
    """The condition of each prompt; a blank one is the learned null, and None stands for nothing but blank ones.

    Raises:
        UserError: when the model was trained without captions, or its text encoder is not at hand.
    """
    if model.text_conditioner is None:
        raise UserError("this model was trained without captions: leave the prompt out")
    return model.text_conditioner.prompts(prompts) if any(text.strip() for text in prompts) else None


def num_classes(model: Model) -> int:
    """Classes the model's network takes, 0 for none."""
    return int(getattr(model.network, "num_classes", 0))


def _labels(model: Model, n: int, labels: Labels) -> Condition | None:
    classes = num_classes(model)
    if isinstance(labels, str) and labels == "none":
        return None
    if isinstance(labels, str) and labels == "all":
        if not classes:
            raise UserError("this model was trained without labels: leave the class out")
        return Condition(label=torch.arange(n) % classes)
    named = named_classes(labels, getattr(model, "class_names", ()))
    return Condition(label=class_numbers(named).reshape(-1))


def _untrained(model: Model) -> str:
    if model.text_conditioner is not None:
        return "this model was never trained without captions (train.label_dropout=0): give a prompt"
    return "this model was never trained without classes (train.label_dropout=0): name a class"
