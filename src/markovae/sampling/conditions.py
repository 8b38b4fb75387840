"""What samples are conditioned on: made from labels or prompts, and checked before a network evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from markovae.columns import Cells, cell_of
from markovae.diffusion.cascade import Model
from markovae.errors import UserError
from markovae.log import log
from markovae.networks.conditioning import (
    ColumnConditioning,
    Condition,
    Conditioning,
    RepeatedConditioning,
    class_numbers,
    named_classes,
)

Labels = Sequence[int | str] | int | str | None
Prompts = Sequence[str] | str | None
Where = Mapping[str, Any] | None
"""Values of columns by name: of each one value for all samples, or a list of one a sample."""


def make_condition(
    model: Model,
    n: int,
    *,
    labels: Labels = None,
    prompt: Prompts = None,
    condition: Conditioning | None = None,
    where: Where = None,
    cycle: bool = False,
) -> Conditioning | None:
    """What n samples are conditioned on; None is no condition at all.

    Args:
        labels: a class by number or name for all, or one a sample; "all": each class in turn; "none": the null. None is
            "all" where the model has classes.
        prompt: a text for all, or one a sample; a blank one is the null.
        condition: instead of both, of one for all or one a sample.
        where: values of the columns that the model takes, {"age": 30}; those left out are left open. Beside labels or a
            prompt, if the model takes them.
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
    if where:
        if condition is not None:
            raise UserError("a condition and where are both given: keep one, a condition can hold columns")
        each = _with_columns(model, n, where, each, cycle)
    if each is None or not len(each):
        check_condition(model, None)
        return None
    if isinstance(each, Condition):
        check_condition(model, each)
    if cycle or len(each) == 1:
        return each if len(each) == n else RepeatedConditioning(each, torch.arange(n) % len(each))
    if len(each) != n:
        what = (
            "values" if where else "prompts" if prompt is not None else "labels" if condition is None else "conditions"
        )
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
    tokens, cells = (None, None) if condition is None else (condition.tokens, condition.columns)
    if cells is not None and model.columns is None:
        raise UserError("this model was trained without columns: leave them out")
    missing = (classes and label is None) or (model.text_conditioner is not None and tokens is None)
    if missing and not model.null_trained:
        raise UserError(_untrained(model))
    if model.columns is not None and cells is None and not model.null_trained:
        raise UserError(
            f"this model was never trained without its columns (train.label_dropout=0): give {model.columns.names[0]} "
            "and all others a value"
        )


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
    names = getattr(model, "class_names", ())
    if type(labels) is int and 0 <= labels < len(names) and names[labels] != str(labels) in names:
        log(
            f"labels={labels} is the class {names[labels]}, counted from 0: labels={str(labels)!r} is the one called so"
        )
    named = named_classes(labels, names)
    return Condition(label=class_numbers(named).reshape(-1))


def cells_of(model: Model, where: Mapping[str, Any]) -> Cells:
    """The cells that values of columns are, one or several of each.

    Raises:
        UserError: for a model without columns, an unknown column, or a value that is none of it.
    """
    if model.columns is None:
        raise UserError(
            f"where names {', '.join(map(str, where))}, and this model was trained without columns: leave it out, or "
            "train with condition.columns"
        )
    found = {}
    for name, value in where.items():
        column = model.columns[str(name)]
        several = isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1
        try:
            cells = [cell_of(one) for one in (value if several else [value])]
        except ValueError as error:
            raise UserError(f"where: {column.name} has {error}; several labels are one text, a;b") from None
        outside = [cell for cell in cells if column.features(cell) and column.outside(cell)]
        if outside:
            log(f"{column.name}={outside[0]} lies outside of what training has seen ({column.low:g}…{column.high:g})")
        found[column.name] = cells
    return found


def _with_columns(
    model: Model, n: int, where: Mapping[str, Any], beside: Conditioning | None, cycle: bool
) -> Conditioning:
    cells = cells_of(model, where)
    assert model.columns is not None, "else there are no cells"
    for name, given in cells.items():
        if not cycle and len(given) not in (1, n):
            raise UserError(f"{len(given)} values of {name} for n={n} samples: give one for all, or one a sample")
    if not model.null_trained and len(cells) < len(model.columns.each):
        left = next(name for name in model.columns.names if name not in cells)
        raise UserError(f"this model was never trained without {left} (train.label_dropout=0): give it a value")
    each = {name: [given[i % len(given)] for i in range(n)] for name, given in cells.items()}
    if beside is not None and len(beside) != n:
        beside = RepeatedConditioning(beside, torch.arange(n) % len(beside))
    left_open = {name: [None] * n for name in model.columns.names}
    return ColumnConditioning.of_cells(model.columns, {**left_open, **each}, n, beside)[0]


def _untrained(model: Model) -> str:
    if model.text_conditioner is not None:
        return "this model was never trained without captions (train.label_dropout=0): give a prompt"
    return "this model was never trained without classes (train.label_dropout=0): name a class"
