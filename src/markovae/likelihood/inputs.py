"""What may be measured: images that fit the model, and a model that is fit to measure."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from markovae.data.conversion import as_images
from markovae.data.images import ImageData
from markovae.diffusion.cascade import Model
from markovae.errors import UserError
from markovae.networks.conditioning import Condition, Conditioning, as_tensor, class_numbers, named_classes
from markovae.randomness import generator
from markovae.text.conditioner import attach_captions, known_columns


class ArrayLike(Protocol):
    """An array of another library, as the data hold them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


Array = Tensor | ArrayLike
Labels = Array | Conditioning  # classes, or whatever else is known of each image


def checked_model(model: Model) -> None:
    """Refuse weights that are NaN or Inf.

    Raises:
        UserError: naming the first such tensor.
    """
    for name, value in model.network.named_parameters():
        if not bool(value.isfinite().all()):
            raise UserError(f"the model's weights {name!r} hold NaN or Inf: this model cannot be measured")


def arrays_of(model: Model, images: Any, labels: Labels | None) -> tuple[Array, Labels | None]:
    """Images and labels as people of Python have them (`as_images`), as arrays; class names as numbers.

    Data that bring classes or captions which this model takes are measured given those, where no labels are named.
    """
    images = as_images(images, model.shape, "test")
    if isinstance(images, ImageData):
        if images.bins != model.pixels.bins:
            raise UserError(
                f"{images.name} has {images.bins} values a pixel and the model {model.pixels.bins}: bring data of its "
                "kind"
            )
        labels = _labels_of(model, images) if labels is None else labels
        images = images.images
    if labels is not None and not isinstance(labels, Conditioning):
        labels = torch.atleast_1d(class_numbers(named_classes(labels, model.class_names)))
    return images, labels


def _labels_of(model: Model, data: ImageData) -> Labels | None:
    """The captions of data for a model of captions, their classes, by name, for one of classes; and their columns."""
    if model.columns is not None and data.columns:
        return known_columns(model, data, _labels_of_classes(model, data))
    return _labels_of_classes(model, data)


def _labels_of_classes(model: Model, data: ImageData) -> Labels | None:
    if model.text_conditioner is not None:
        bare = data.captions is None or not any(map(str.strip, data.captions))
        return None if bare else attach_captions(model, data).known
    if data.labels is None or not getattr(model.network, "num_classes", 0):
        return None
    if not model.class_names:
        return data.labels
    return named_classes([data.class_names[number] for number in data.labels.tolist()], model.class_names)


def checked_images(model: Model, images: Array, limit: int | None = None) -> Tensor:
    """The first `limit` images as a tensor: pixel values for a model of pixels, floats for one of continuous data.

    Raises:
        UserError: for no images, another shape, type or number of bins than the model's, or data with NaN or Inf.
    """
    images = as_tensor(images if limit is None else images[:limit])
    if images.ndim == 0:
        raise UserError("no images to measure: give (n, C, H, W)")
    if not len(images):
        raise UserError("no images to measure: the data are empty")
    if tuple(images.shape[1:]) != model.shape:
        raise UserError(f"images of shape {tuple(images.shape[1:])} do not fit the model, which takes {model.shape}")
    if not model.decoder.discrete:
        if not images.is_floating_point():
            raise UserError("this model has no decoder for pixels: it gives the density of a continuous variable")
        if not bool(images.isfinite().all()):
            raise UserError("the data hold NaN or Inf: they have no density")
        return images
    bins = model.pixels.bins
    if images.is_floating_point():
        raise UserError(f"images must be integers 0…{bins - 1}, not {images.dtype}: pass them unscaled")
    low, high = int(images.min()), int(images.max())
    if low < 0 or high >= bins:
        raise UserError(
            f"images with pixel values {low}…{high} do not fit the model, which declares {bins} bins a pixel"
        )
    return images


def require_finite(nats: Tensor, images: Tensor, levels: Tensor | None = None) -> None:
    """Refuse nats that are NaN or Inf.

    Args:
        nats: (..., B).
        images: the images' places in the data, (B,).
        levels: of each, (B,), where they have one.
    Raises:
        UserError: naming the first such image.
    """
    rows = nats.reshape(-1, nats.shape[-1])
    bad = (~rows.isfinite()).nonzero()
    if len(bad):
        row, place = bad[0].tolist()
        at = "" if levels is None else f" at level {int(levels[place])}"
        raise UserError(
            f"image {int(images[place])}{at} gave {float(rows[row, place])} nats: the model's weights or outputs are "
            "not finite"
        )


def refuse_shared(images: Tensor, fit: Tensor) -> None:
    """Refuse images that are measured and fitted on at once: what is fitted on them flatters them.

    Args:
        images, fit: pixel values as from `checked_images`.
    Raises:
        UserError: with how many there are.
    """
    # Sums of pixel values times 63-bit numbers, modulo 2^64: different images share one once in 10^18 pairs.
    keys = torch.randint(2**63 - 1, (images[0].numel(),), generator=generator(0, "image names"))
    whole = [part.float().view(torch.int32) if part.is_floating_point() else part for part in (images, fit)]
    names = [(part.flatten(1).long() * keys).sum(1) for part in whole]
    shared = int(torch.isin(*names).sum())
    if shared:
        raise UserError(f"{shared} of the images to measure are among those fitted on: fit on other images")


def checked_labels(labels: Labels | None, n: int, limit: int | None = None) -> Conditioning | None:
    """What is known of each image, of labels (n,) too; or None.

    Raises:
        UserError: for another number of labels.
    """
    if labels is None:
        return None
    known = labels[:limit] if isinstance(labels, Conditioning) else Condition(label=class_numbers(labels[:limit]))
    if len(known) != n:
        raise UserError(f"{len(known)} labels for {n} images: give one each")
    return known


def require_condition(model: Model, known: Labels | None) -> bool:
    """Whether images are measured under the learned null of a model of classes or captions, because nothing is known.

    Raises:
        UserError: where that null was never trained.
    """
    kind = "captions" if model.text_conditioner is not None else "labels"
    kind = "columns" if model.columns is not None and kind == "labels" else kind
    if known is not None or (kind == "labels" and not getattr(model.network, "num_classes", 0)):
        return False
    if not model.null_trained:
        raise UserError(
            f"this model was never trained without {kind} (train.label_dropout=0), so its bound without them means "
            f"nothing: measure images with {kind}"
        )
    return True


def labels_taken(model: Model, labels: Labels | None) -> Labels | None:
    """The labels for a model that takes classes, captions for one that takes them; None for one that takes none."""
    if isinstance(labels, Condition):
        return labels
    if isinstance(labels, Conditioning):
        return None if model.text_conditioner is None and model.columns is None else labels
    return None if getattr(model.network, "num_classes", None) == 0 else labels


def conditions(model: Model, known: Conditioning | None) -> Condition | None:
    """What is known of a batch as a condition on the model's device."""
    return None if known is None else known.condition().to(model.device)
