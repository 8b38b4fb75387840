"""`Conditioning` of many examples, and the `TextConditioner` that makes it from captions."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from markovae.columns import Cells, Columns
from markovae.errors import UserError


class Conditioning(ABC):
    """What is known about N examples; a batch of conditions is one of these, features in a file another."""

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def __getitem__(self, rows: Any) -> Conditioning:
        """Of the examples at `rows`: a slice, positions (K,), or a mask (N,)."""

    @abstractmethod
    def condition(self) -> Condition:
        """All of it as a batch; of an example that is described several times, the first description."""

    @abstractmethod
    def draw(self, uniform: Tensor) -> Condition:
        """As `condition`, but of M descriptions the one at place ⌊uniform·M⌋; uniform: (N,), in [0, 1)."""


@final
class RepeatedConditioning(Conditioning):
    """The conditioning of a few examples, repeated for many and looked up when asked.

    Args:
        few: of K examples.
        index: the row of `few` that each example has, (N,), int64.
    """

    def __init__(self, few: Conditioning, index: Tensor) -> None:
        self._few, self._index = few, index

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, rows: Any) -> RepeatedConditioning:
        return RepeatedConditioning(self._few, self._index[rows])

    def condition(self) -> Condition:
        """All of it as a batch."""
        return self._few[self._index].condition()

    def draw(self, uniform: Tensor) -> Condition:
        """As a batch, one description of each drawn."""
        return self._few[self._index].draw(uniform)


@final
class RefiningConditioning(Conditioning):
    """What a detail stage of a cascade is given of N examples: their coarse images, and what else is known.

    Args:
        coarse: see `Condition.coarse`, (N, C + 1, h, w).
        known: of the same examples, or None.
    """

    def __init__(self, coarse: Tensor, known: Conditioning | None) -> None:
        self._coarse, self._known = coarse, known

    def __len__(self) -> int:
        return len(self._coarse)

    def __getitem__(self, rows: Any) -> RefiningConditioning:
        return RefiningConditioning(self._coarse[rows], None if self._known is None else self._known[rows])

    def condition(self) -> Condition:
        """All of it as a batch."""
        return replace(Condition() if self._known is None else self._known.condition(), coarse=self._coarse)

    def draw(self, uniform: Tensor) -> Condition:
        """As a batch, one description of each drawn."""
        return replace(Condition() if self._known is None else self._known.draw(uniform), coarse=self._coarse)


@final
class ColumnConditioning(Conditioning):
    """The columns of a table, of N examples, beside what else is known of them.

    Args:
        tables: of each of C columns the features of its different cells, (K, w), float32; row 0 is the missing cell.
        index: which cell each example has, (N, C), int64.
        beside: labels or captions of the same examples, or None.
        partial: whether `draw` leaves columns out, so that a model learns to be asked for some of them alone: all are
            given half of the time, else each with probability one half.
    """

    def __init__(
        self, tables: Sequence[Tensor], index: Tensor, beside: Conditioning | None = None, partial: bool = False
    ) -> None:
        self._tables, self._index, self._beside = tables, index, beside
        self.partial = partial and len(tables) > 1

    @classmethod
    def of_cells(
        cls, columns: Columns, cells: Cells, n: int, beside: Conditioning | None = None, partial: bool = False
    ) -> tuple[ColumnConditioning, list[str]]:
        """The cells of n examples, and sentences on those that are read as missing.

        A column that `cells` lacks, and a cell that the column does not know, is missing.
        """
        tables, index, notes = [], torch.zeros(n, len(columns.each), dtype=torch.int64), list[str]()
        for place, column in enumerate(columns.each):
            rows, places, unknown = [column.features(None)], dict[Any, int]([(None, 0)]), dict[Any, UserError]()
            if column.name not in cells:
                notes.append(f"there is no column {column.name}: it is left open")
            for example, cell in enumerate(cells.get(column.name, ())):
                if cell not in places and cell not in unknown:
                    try:
                        rows.append(column.features(cell))
                        places[cell] = len(rows) - 1
                    except UserError as error:
                        unknown[cell] = error
                index[example, place] = places.get(cell, 0)
            tables.append(torch.tensor(rows))
            if unknown:
                notes.append(f"{len(unknown)} values are read as missing ({next(iter(unknown.values()))})")
        return cls(tables, index, beside, partial), notes

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, rows: Any) -> ColumnConditioning:
        beside = None if self._beside is None else self._beside[rows]
        return ColumnConditioning(self._tables, self._index[rows], beside, self.partial)

    def without(self, place: int | None = None, only: int | None = None) -> ColumnConditioning:
        """The same with one column missing, with one column and nothing else, or with no column at all."""
        kept = torch.ones(len(self._tables), dtype=torch.bool)
        if place is not None:
            kept[place] = False
        else:
            kept[:] = False
            if only is not None:
                kept[only] = True
        return ColumnConditioning(self._tables, self._index * kept, self._beside)

    def swapped(self, rows: Tensor) -> ColumnConditioning:
        """The first len(rows) examples with the cells of those at `rows`, and what is beside them their own."""
        beside = None if self._beside is None else self._beside[: len(rows)]
        return ColumnConditioning(self._tables, self._index[rows], beside)

    def known(self, place: int) -> Tensor:
        """The examples whose cell of this column is there, (M,), int64."""
        return self._index[:, place].nonzero().flatten()

    def condition(self) -> Condition:
        """All of it as a batch."""
        return self._with(None if self._beside is None else self._beside.condition(), self._index)

    def draw(self, uniform: Tensor) -> Condition:
        """As a batch, one description of each drawn, and its columns."""
        index = self._index
        if self.partial:
            # Behind the first ten bits of the number, which choose among several captions.
            chance = uniform.double() * 1024 % 1
            bits = (chance[:, None] * 2.0 ** (2 + torch.arange(len(self._tables)) % BITS)).long() % 2
            index = torch.where((chance < 0.5)[:, None] | bits.bool(), index, 0)
        return self._with(None if self._beside is None else self._beside.draw(uniform), index)

    def _with(self, beside: Condition | None, index: Tensor) -> Condition:
        each = [table[index[:, place]] for place, table in enumerate(self._tables)]
        return replace(beside or Condition(), columns=torch.cat(each, 1))


BITS = 40  # of a float64 in [0, 1), behind the first eleven


class TextConditioner(ABC):
    """A text encoder as a model knows it: what it makes of captions is what the model was trained on."""

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
    def captions(self, texts: Sequence[str]) -> Conditioning:
        """The captions of a data set, encoded once and kept; each line of a text is a caption of its own.

        Raises:
            UserError: as `prompts`.
        """


def same_text_encoder(one: TextConditioner | None, other: TextConditioner | None) -> bool:
    """Whether what one encoder makes of a caption means the same to both models; so it does where either takes none."""
    return one is None or other is None or one.identity["sha256"] == other.identity["sha256"]


@dataclass(frozen=True)
class Condition(Conditioning):
    """A batch of conditions; every field is optional, and the network owns a learned null for each.

        condition = mv.Condition(label=torch.tensor([0, 1]))
        model.bound(images[:2], condition=condition)

    Attributes:
        label: class of each example, (B,), int64.
        tokens: a sequence of features, (B, T, C), with `mask`, (B, T), True where a token counts.
        vector: one feature vector, (B, C).
        columns: features of the columns of a table, (B, C); zeros where a cell is missing, and so where it is left out.
        image: of the latent's height and width, (B, C, H, W); a network sees it beside the latent.
        keep: (B,), bool; False replaces every other field of that example by the learned null. None keeps all.
        coarse: what a cascade's detail stage refines, (B, C + 1, h, w): the coarse image and a plane of its log-SNR.
            It is no condition of the data, so `keep` leaves it alone.
    """

    label: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    vector: Tensor | None = None
    keep: Tensor | None = None
    image: Tensor | None = None
    coarse: Tensor | None = None
    columns: Tensor | None = None

    def __post_init__(self) -> None:
        given = [getattr(self, f.name) for f in fields(self)]
        sizes = {len(value) for value in given if value is not None}
        if len(sizes) > 1:
            raise ValueError(f"a condition's fields have {sorted(sizes)} examples: give each the same number")
        if self.label is not None and (self.label.ndim != 1 or self.label.dtype != torch.int64):
            raise ValueError(
                f"label is {self.label.dtype} of shape {tuple(self.label.shape)}: it must be int64 of shape (B,)"
            )
        if (self.tokens is None) != (self.mask is None):
            raise ValueError("tokens and mask come together: the mask says which tokens count")
        if self.tokens is not None and self.mask is not None and self.tokens.shape[:2] != self.mask.shape:
            raise ValueError(
                f"mask is {tuple(self.mask.shape)} but tokens are {tuple(self.tokens.shape)}: it must be (B, T)"
            )

    def __len__(self) -> int:
        """Number of examples; a condition without any field has none."""
        given = [getattr(self, f.name) for f in fields(self)]
        return next((len(value) for value in given if value is not None), 0)

    def drop(self, keep: Tensor) -> Self:
        """Replace the condition of the examples where `keep`, (B,) bool, is False by the learned null."""
        if keep.dtype != torch.bool or keep.shape != (len(self),):
            raise ValueError(
                f"keep is {keep.dtype} of shape {tuple(keep.shape)}: it must be bool of shape ({len(self)},)"
            )
        columns = None if self.columns is None else torch.where(keep[:, None], self.columns, 0)
        return replace(self, keep=keep if self.keep is None else self.keep & keep, columns=columns)

    def take(self, indices: Tensor) -> Self:
        """The conditions of the examples at `indices`, (K,) int64 or a (B,) bool mask."""
        return self._map(lambda value: value[indices.to(value.device)])

    def __getitem__(self, rows: Any) -> Self:
        """The conditions at `rows`: a slice, positions, or a mask."""
        return self.take(torch.arange(len(self))[rows])

    def condition(self) -> Self:
        """Itself."""
        return self

    def draw(self, uniform: Tensor) -> Self:
        """Itself: there is one condition an example."""
        return self

    def to(self, device: torch.device | str) -> Self:
        """The same conditions on another device."""
        return self._map(lambda value: value.to(device))

    def _map(self, function) -> Self:  # type: ignore[no-untyped-def]
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: None if v is None else function(v) for k, v in values.items()})


class ConditionEmbedding(nn.Module):
    """Class and vector conditions as one feature vector, e(label) + W·vector, and tokens; each with a learned null.

    A field that the network takes and the condition lacks is the null; a field that the condition has and
    the network does not take is an error, so that no label is ever ignored in silence.

    Args:
        width: size of the embedding.
        num_classes: labels run from 0 to num_classes − 1; 0 takes none.
        vector_dim: size of the vector; 0 takes none.
        token_dim: size of a token's features; 0 takes none.
        image_channels: of the image; 0 takes none.
        null: False for a network of others that never learned to do without a label.
        column_dim: features of the columns of a table; 0 takes none.
    """

    def __init__(
        self,
        width: int,
        num_classes: int = 0,
        vector_dim: int = 0,
        null: bool = True,
        token_dim: int = 0,
        image_channels: int = 0,
        column_dim: int = 0,
    ) -> None:
        super().__init__()
        self.width, self.num_classes, self.vector_dim, self.null = width, num_classes, vector_dim, null
        self.token_dim, self.image_channels, self.column_dim = token_dim, image_channels, column_dim
        self.label: nn.Embedding | None = nn.Embedding(num_classes + null, width) if num_classes else None
        self.vector: nn.Linear | None = nn.Linear(vector_dim, width) if vector_dim else None
        self.null_vector: nn.Parameter | None = nn.Parameter(torch.zeros(width)) if vector_dim else None
        self.columns: nn.Linear | None = nn.Linear(column_dim, width) if column_dim else None
        self.null_token: nn.Parameter | None = nn.Parameter(torch.zeros(token_dim)) if token_dim else None
        self.null_image: nn.Parameter | None = nn.Parameter(torch.zeros(image_channels)) if image_channels else None

    def forward(self, condition: Condition | None, batch: int) -> Tensor | float:
        """Embed the condition of `batch` examples: (B, width), or 0.0 where the network takes none."""
        condition = Condition() if condition is None else condition
        self._check(condition, batch)
        total: Tensor | float = 0.0
        if self.label is not None:
            total = total + self.label(self._labels(condition, batch, self.label.weight.device))
        if self.vector is not None and self.null_vector is not None:
            null = self.null_vector.expand(batch, -1)
            if condition.vector is None:
                total = total + null
            else:
                value = self.vector(condition.vector.to(self.vector.weight.dtype))
                total = total + (value if condition.keep is None else torch.where(condition.keep[:, None], value, null))
        if self.columns is not None:
            cells, weight = condition.columns, self.columns.weight
            total = total + self.columns(
                weight.new_zeros(batch, self.column_dim) if cells is None else cells.to(weight)
            )
        return total

    def tokens(self, condition: Condition | None, batch: int) -> tuple[Tensor, Tensor] | None:
        """(tokens (B, 1 + T, C), mask (B, 1 + T)) to attend to, or None where the network takes none.

        The first token is the learned null; it always counts, and it alone where the condition is left out.
        """
        if self.null_token is None:
            return None
        null = self.null_token.expand(batch, 1, -1)
        always = torch.ones(batch, 1, dtype=torch.bool, device=null.device)
        if condition is None or condition.tokens is None or condition.mask is None:
            return null, always
        mask = condition.mask if condition.keep is None else condition.mask & condition.keep[:, None]
        return torch.cat([null, condition.tokens.to(null.dtype)], 1), torch.cat([always, mask], 1)

    def concat_image(self, seen: Tensor, condition: Condition | None) -> Tensor:
        """What is seen of the latent, (B, K, H, W), and beside it the image or its learned null, one color a channel.

        Raises:
            ValueError: for an image of another size.
        """
        if self.null_image is None:
            return seen
        null = self.null_image[:, None, None].to(seen.dtype).expand(len(seen), -1, *seen.shape[2:])
        image = None if condition is None else condition.image
        if condition is None or image is None:
            return torch.cat([seen, null], 1)
        if image.shape != null.shape:
            raise ValueError(f"image of shape {tuple(image.shape)}: this network takes {tuple(null.shape)} beside it")
        image = image.to(seen.dtype)
        keep = condition.keep
        return torch.cat([seen, image if keep is None else torch.where(keep[:, None, None, None], image, null)], 1)

    def _labels(self, condition: Condition, batch: int, device: torch.device) -> Tensor:
        if not self.null and (
            condition.label is None or (condition.keep is not None and not bool(condition.keep.all()))
        ):
            raise UserError(
                f"this network needs a class of every image, 0…{self.num_classes - 1}: it knows no 'none'; "
                "give the labels, and train with train.label_dropout=0"
            )
        null = torch.full((batch,), self.num_classes, dtype=torch.int64, device=device)
        if condition.label is None:
            return null
        if condition.label.device.type == "cpu" and batch and not torch.compiler.is_exporting():
            # Elsewhere the look would stall the device, and an exported graph has no values to look at.
            low, high = int(condition.label.min()), int(condition.label.max())
            if low < 0 or high >= self.num_classes:
                wrong = low if low < 0 else high
                raise ValueError(f"label {wrong} is unknown: this network's run from 0 to {self.num_classes - 1}")
        return condition.label if condition.keep is None else torch.where(condition.keep, condition.label, null)

    def _check(self, condition: Condition, batch: int) -> None:
        if len(condition) not in (0, batch):
            raise ValueError(f"the condition has {len(condition)} examples but the latent {batch}: give one each")
        if condition.label is not None and not self.num_classes:
            raise ValueError("this network takes no labels: build it with num_classes, or drop the labels")
        if condition.vector is not None and not self.vector_dim:
            raise ValueError("this network takes no vector: build it with vector_dim, or drop the vector")
        if condition.columns is not None and condition.columns.shape[1] != self.column_dim:
            raise ValueError(
                f"columns of {condition.columns.shape[1]} features: this network takes {self.column_dim or 'none'}"
            )
        if condition.tokens is not None and not self.token_dim:
            raise ValueError("this network takes no tokens: give a label or a vector instead")
        if condition.image is not None and not self.image_channels:
            raise ValueError("this network takes no image: build it with image_channels, or drop the image")
        if condition.coarse is not None:
            raise ValueError("this network refines no coarse image: it is no detail stage of a cascade")
        if condition.tokens is not None and condition.tokens.shape[-1] != self.token_dim:
            raise ValueError(f"tokens of {condition.tokens.shape[-1]} features: this network reads {self.token_dim}")


def named_classes(labels: Any, names: Sequence[str]) -> Any:
    """Labels with the numbers of their classes where they are called by name; others untouched.

    Args:
        names: of the model's classes.
    Raises: UserError for a name that is none of them.
    """
    each: Any = [labels] if isinstance(labels, str) else labels
    if getattr(getattr(each, "dtype", None), "kind", "") == "U":  # numpy's
        each = each.tolist()
    if not isinstance(each, list | tuple) or not any(isinstance(one, str) for one in each):
        return labels
    unknown = [one for one in each if isinstance(one, str) and one not in names]
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        known = f"this model has {', '.join(names[:12])}{', …' if len(names) > 12 else ''}" if names else "give numbers"
        raise UserError(f"the class {unknown[0]} is unknown: {known}{hint}")
    return [names.index(one) if isinstance(one, str) else one for one in each]


def class_numbers(labels: Any) -> Tensor:
    """Class labels as int64.

    Raises:
        UserError: for numbers that are not whole, which would be cut, and for what are no numbers.
    """
    numbers = as_tensor(labels)
    if numbers.is_floating_point():
        raise UserError(f"labels of type {numbers.dtype} must be whole numbers: they count classes from 0")
    return numbers.long()


# The engine does little with more than 8 unsigned bits.
_SIGNED = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


def as_tensor(values: Any) -> Tensor:
    """A tensor of an array of any strides and byte order; unsigned integers above 8 bits become signed ones."""
    if not isinstance(values, Tensor):
        if hasattr(values, "strides"):  # numpy's, which may be mirrored or of the other byte order
            values = values.astype(values.dtype.newbyteorder("="), order="C")
        try:
            values = torch.tensor(values)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            kind = type(values).__name__
            raise UserError(
                f"a value of type {kind} cannot be read as numbers: give an array, a tensor or a list with equal rows"
            ) from None
    return values.to(_SIGNED.get(values.dtype, values.dtype))
