"""--class: from a name or a number to classes of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markovae.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from markovae.cli.running import Opened


def chosen_label(opened: Opened, text: str) -> int:
    """The class called `text`, a name or else a number.

    Raises:
        UserError: for a class that the run does not know, or any where it knows none.
    """
    names, count = opened.checkpoint.class_names, opened.num_classes
    if not count:
        raise UserError(f"--class {text} needs classes, and {opened.path} was trained without: leave it out")
    if text in names:
        return names.index(text)
    numbered = any(map(_is_number, names))  # then a number names a class, and never another one's place
    if text.isdecimal() and int(text) < count and not numbered:
        return int(text)
    shown = ", ".join(names[:20]) + (", …" if count > 20 else "")
    also = "" if numbered else f" (or their numbers 0…{count - 1})"
    raise UserError(f"--class {text} is unknown: this run has {shown}{also}")


def _is_number(name: str) -> bool:
    """Whether this is how a number of 64 bits is written."""
    return name.isdecimal() and name.isascii() and len(name) < 19 and str(int(name)) == name


def as_named(opened: Opened, labels: Tensor) -> Tensor:
    """Classes as the data name them: their own numbers where all have one, else their places among the names."""
    import torch

    names = opened.checkpoint.class_names
    if not all(map(_is_number, names)):
        return labels
    return torch.tensor([int(name) for name in names])[labels]


def chosen_labels(opened: Opened, text: str | None, n: int) -> Tensor | None:
    """Class of each of n samples, (n,), from --class: a name, a number, `all` (each in turn) or `none`.

    Raises:
        UserError: for a class that the run does not know, or any where it knows none.
    """
    import torch

    if text in (None, "all", "none") and text not in opened.checkpoint.class_names:
        if not opened.num_classes:
            if text == "all":
                raise UserError(f"--class all needs classes, and {opened.path} was trained without: leave it out")
            return None
        if text != "none":
            return torch.arange(n) % opened.num_classes
        if not opened.checkpoint.config.train.label_dropout:
            raise UserError("--class none: this run never trained without classes (train.label_dropout=0); name one")
        return None
    return torch.full((n,), chosen_label(opened, str(text)))
