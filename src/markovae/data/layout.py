"""What an array of numbers says about itself: its axes, its grey values, its classes."""

from typing import Any

import numpy as np

from markovae.data.images import Indices, Pixels
from markovae.errors import UserError

Raw = np.ndarray[Any, np.dtype[Any]]

MAX_CLASSES = 100_000


def as_channels_first(raw: Raw, layout: str, name: str) -> Raw:
    """`raw` as (N, C, H, W), a view where possible.

    (N, H, W) is grey; of four axes the one of length 1 or 3, second or last, holds the channels.

    Args:
        layout: "auto", "nhw", "nhwc" or "nchw".
    Raises: UserError where the shape is no stack of images, or where two readings are possible.
    """
    axes = {"nhw": 3, "nhwc": 4, "nchw": 4}
    if layout in axes and raw.ndim != axes[layout]:
        raise UserError(f"{name} has shape {raw.shape}, which data.layout={layout!r} does not fit")
    if raw.ndim not in (3, 4):
        raise UserError(
            f"{name} has shape {raw.shape}: images need 3 axes (N, H, W) or 4 (N, H, W, C); "
            "reshape it, for instance x.reshape(-1, 28, 28)"
        )
    if 0 in raw.shape:
        raise UserError(f"{name} has shape {raw.shape}: that is no images or no pixels; give an array with images")
    if raw.ndim == 3:
        if layout == "auto" and raw.shape[-1] in (1, 3, 4) and raw.shape[1] > 4:
            raise UserError(
                f"{name} has shape {raw.shape}, which looks like one colour image: give N of them with a "
                "leading axis, or say data.layout='nhw' if these are grey images that narrow"
            )
        return raw[:, None]
    return _four_axes(raw, layout, name)


def _four_axes(raw: Raw, layout: str, name: str) -> Raw:
    first, last = raw.shape[1] in (1, 3), raw.shape[3] in (1, 3)
    if layout == "auto":
        if first and last:
            raise UserError(
                f"{name} has shape {raw.shape}, whose channels may be second or last: say data.layout='nchw' or 'nhwc'"
            )
        with_alpha = raw.shape[1] == 4 and raw.shape[3] != 4 and not last
        layout = "nchw" if first or with_alpha else "nhwc"
    channels = raw.shape[1] if layout == "nchw" else raw.shape[3]
    if channels not in (1, 3):
        remedy = "lay the images on a background first" if channels == 4 else "give 1 or 3 channels"
        raise UserError(f"{name} has shape {raw.shape}, {channels} channels where 1 or 3 are read: {remedy}")
    return raw if layout == "nchw" else np.moveaxis(raw, -1, 1)


def as_pixels(raw: Raw, name: str) -> tuple[Pixels, int]:
    """(images, bins): whole numbers 0…255 as uint8 with 256 bins, up to 65535 as uint16, bool as 2 bins.

    Raises: UserError for floats that are not whole numbers 0…255, for negative and for larger values.
    """
    kind = raw.dtype.kind
    if kind == "b":
        return raw.astype(np.uint8), 2
    if raw.dtype == np.uint8:
        return raw, 256
    if kind not in "iuf":
        raise UserError(f"{name} holds elements of type {raw.dtype}: save the images as uint8")
    low, high = raw.min(), raw.max()
    if kind == "f":
        whole = bool(np.isfinite(low) and np.isfinite(high)) and bool((raw == np.round(raw)).all())
        if not whole or low < 0 or high > 255 or high <= 1:
            raise UserError(
                f"{name} holds floats from {low:g} to {high:g}, and their grey values cannot be guessed: save "
                "the images as uint8, for values in 0…1 by (255 * x).round().astype('uint8')"
            )
        return raw.astype(np.uint8), 256
    if low < 0 or high > 65535:
        raise UserError(f"{name} holds values from {low} to {high}: pixels must lie in 0…255 or 0…65535")
    return (raw.astype(np.uint8), 256) if high <= 255 else (raw.astype(np.uint16), 65536)


def labels_of(raw: Raw | None, count: int, name: str) -> tuple[Indices | None, tuple[str, ...]]:
    """(labels 0 … K-1, class names): the K different values, sorted, are the classes, named by the value.

    Raises: UserError for labels that are not one whole number (or word) an image.
    """
    if raw is None:
        return None, ()
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.shape != (count,):
        remedy = "; turn one-hot rows into numbers by argmax(1)" if raw.ndim == 2 else ""
        raise UserError(f"{name} has labels of shape {raw.shape} for {count} images: one each is needed{remedy}")
    if raw.dtype.kind == "f" and bool(np.isfinite(raw).all()) and bool((raw == np.round(raw)).all()):
        raw = raw.astype(np.int64)
    if raw.dtype.kind not in "iubU":
        raise UserError(f"{name} has labels of type {raw.dtype}: give whole numbers")
    values, numbers = np.unique(raw, return_inverse=True)
    if len(values) > MAX_CLASSES:
        raise UserError(f"{name} has {len(values)} different labels, more than {MAX_CLASSES}: are they classes?")
    return numbers.astype(np.int64), tuple(str(value) for value in values)
