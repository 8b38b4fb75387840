"""What `markovae measure` measures, and the other images that it fits on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markovae.cli.running import Opened
from markovae.errors import UserError
from markovae.locations import without_secrets

if TYPE_CHECKING:
    from markovae.data.data_config import DataConfig
    from markovae.data.images import ImageData
    from markovae.data.split import Splits


@dataclass(frozen=True)
class Chosen:
    """What is measured.

    Args:
        data: the images, with labels where they have them.   source, split: where they are from.
        matches: whether they are what the run stored; None for other data than the run's own.
        splits: the parts of this source; None of other data of which all is measured.
    """

    data: ImageData
    source: str
    split: str
    matches: bool | None
    splits: Splits | None


def choose(opened: Opened, source: str | None, split: str, limit: int | None = None) -> Chosen:
    """The images to measure: a part of the run's own data, checked against what the run stored, or of other data.

    Args:
        limit: of all no more images than this are read.
    Raises:
        UserError: for data that are missing, or that do not fit the model.
    """
    from markovae.cli.output import tell_left_out
    from markovae.data.loading import read_source, require_readable, splits_of
    from markovae.log import log

    config = opened.checkpoint.config.data
    if source is not None:
        config = like(config, source, opened)
    else:
        opened.checkpoint.split_record  # noqa: B018 - a model without images of its own is told here
    reading = read_source(config)
    require_readable(reading, config)
    splits = None if split == "all" and source is not None else splits_of(reading)
    notes = reading.summary.notes if splits is None else splits.notes
    tell_left_out(config.source, reading.summary.unreadable, () if source is None else notes)
    matches = None
    if source is None and splits is not None:
        matches = trained_on(splits, opened)
        if not matches:
            log("measuring nevertheless: images of this part may have been trained on")
    # All of them in the source's own order: the place of an image there is its number, which keys its noise.
    data: ImageData = reading.data if split == "all" else getattr(splits, split)
    if not len(data):
        raise UserError(f"the {split} part of {config.source} has no images: take --split all")
    if source is not None and split != "all":
        log(
            f"the {split} part of {config.source} is {len(data):,} of {len(reading.data):,} images: --split all has all"
        )
    if split == "all" and opened.checkpoint.config.data.source in (config.source, str(Path(config.source).resolve())):
        log(f"the images that {opened.path} was trained on are among these: --split test leaves them out")
    if split == "all" and limit is not None:
        data = data.take(slice(0, limit))
    bins = opened.model.pixels.bins
    if data.bins != bins:
        raise UserError(
            f"{config.source} has {data.bins} grey values a pixel and the model {bins}: bring data of its kind"
        )
    return Chosen(data, without_secrets(config.source), split, matches, splits)


def trained_on(splits: Splits, opened: Opened) -> bool:
    """Whether these parts are those that the run stored; told on stderr where they are not."""
    from markovae.log import log

    try:
        splits.verify(opened.checkpoint.state.get("data") or {}, captions=opened.model.text_conditioner is not None)
    except UserError as error:
        log(f"warning: {error}")
        return False
    return True


def labels_for(opened: Opened, data: ImageData) -> Any:
    """The labels of the images where this model takes classes, their captions where it takes those, else None.

    Raises:
        UserError: for a class that the model does not know.
    """
    import numpy as np

    if opened.model.text_conditioner is not None:
        return _captions_for(opened, data)
    if not opened.num_classes or data.labels is None:
        return None
    names = opened.checkpoint.class_names
    unknown = [name for name in data.class_names if name not in names]
    if unknown:
        raise UserError(
            f"{data.name} has a class {unknown[0]!r} and {opened.path} only {', '.join(names[:12])}"
            f"{', …' if len(names) > 12 else ''}: rename its folders, or leave them out"
        )
    return np.array([names.index(name) for name in data.class_names], dtype=np.int64)[data.labels]


def _captions_for(opened: Opened, data: ImageData) -> Any:
    """The captions, encoded; where there are none that is said, and nothing is given."""
    from markovae.data.images import count_uncaptioned
    from markovae.log import log
    from markovae.text.conditioner import attach_conditioning

    bare = count_uncaptioned(data)
    if bare == len(data):
        log(f"{data.name} has no captions: its images are measured without")
        return None
    log(f"each image is measured given its caption{f'; {bare:,} have none' if bare else ''} (see --captions)")
    return attach_conditioning(opened.model, data).known


def others(chosen: Chosen, opened: Opened, own: bool, count: int) -> ImageData:
    """Up to `count` images to fit on, of other parts than the one measured: validation images before training ones.

    Args:
        own: whether the images measured are of the run's own data.
    Raises:
        UserError: where every image is measured.
    """
    import numpy as np

    from markovae.data.loading import reopen

    splits, left = chosen.splits, [part for part in ("validation", "train") if part != chosen.split]
    if chosen.split == "all":
        if own:
            raise UserError("--split all leaves no image to fit on: measure one part, or with --estimator stratified")
        splits = reopen(opened.checkpoint.config.data, opened.checkpoint.state["data"])
    assert splits is not None, "a part is one of the splits"
    parts: list[ImageData] = [getattr(splits, name) for name in left]
    parts = [parts[0].take(slice(0, count)), *(p.take(slice(0, max(0, count - len(parts[0])))) for p in parts[1:])]
    parts = [part for part in parts if len(part)]
    if not parts:
        raise UserError(f"{chosen.source} has no images beside its {chosen.split} part: there is nothing to fit on")
    labels = None if parts[0].labels is None else np.concatenate([part.labels for part in parts])
    images = np.concatenate([np.asarray(part.images) for part in parts])
    return replace(parts[0], images=images, labels=labels, captions=_captions(parts), digests=None)


def like(config: DataConfig, source: str, opened: Opened) -> DataConfig:
    """Other data, brought to the model's shape as the run's own were."""
    return config.for_images_like(opened.model.shape, source)


def _captions(parts: Sequence[ImageData]) -> tuple[str, ...] | None:
    if any(part.captions is None for part in parts):
        return None
    return tuple(text for part in parts for text in part.captions or ())
