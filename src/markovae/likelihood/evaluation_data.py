"""What of a run's data, or of other data, is measured; and the images apart from it that are fitted on.

A run here is a `LoadedRun`: its path, its checkpoint (configuration and stored state) and its model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from markovae.data.data_config import DataConfig
from markovae.data.file_names import some
from markovae.data.images import ImageData, count_uncaptioned
from markovae.data.loading import load_data, read_source, reopen, require_readable, splits_of
from markovae.data.source import log_left_out
from markovae.data.split import Splits
from markovae.errors import UserError
from markovae.likelihood.method import SPLITS
from markovae.locations import without_secrets
from markovae.log import log
from markovae.text.conditioner import attach_captions, known_columns

FIT_IMAGES = 250


@dataclass(frozen=True)
class EvaluationData:
    """The images to measure.

    Args:
        data: the images, with labels where they have them.
        source, split: where they are from.
        matches_run: whether they are what the run stored; None for other data than the run's own.
        splits: the parts of this source; None of other data of which all is measured.
    """

    data: ImageData
    source: str
    split: str
    matches_run: bool | None
    splits: Splits | None

    def to_dict(self) -> dict[str, Any]:
        """As in the records."""
        return {"source": self.source, "split": self.split, "matches_run": self.matches_run}


def evaluation_data(
    opened: Any, source: str | None = None, split: str | None = None, limit: int | None = None
) -> EvaluationData:
    """The images to measure: a part of the run's own data, checked against what the run stored, or of other data.

    Args:
        opened: the run.
        source: other data than its own.
        split: test, validation, train or all; None is the test part of the run's own data, and all of other data.
        limit: of all no more images than this are read.
    Raises:
        UserError: for data that are missing, or that do not fit the model.
    """
    if split not in (None, *SPLITS):
        raise UserError(f"split={split!r} must be one of {', '.join(SPLITS)}")
    config = opened.checkpoint.config.data
    if source is not None:
        config = like(config, source, opened)
    else:
        opened.checkpoint.split_record  # noqa: B018 - a model without images of its own is told here
    own = opened.checkpoint.config.data.source in (config.source, str(Path(config.source).resolve()))
    split = split or ("test" if own else "all")
    reading = read_source(config)
    require_readable(reading, config)
    splits = None if split == "all" and source is not None else splits_of(reading)
    notes = reading.summary.notes if splits is None else splits.notes
    log_left_out(config.source, reading.summary.unreadable, () if source is None else notes)
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
    if split == "all" and own:
        log(f"the images that {opened.path} was trained on are among these: --split test leaves them out")
    if split == "all" and limit is not None:
        data = data.take(slice(0, limit))
    bins = opened.model.pixels.bins
    if data.bins != bins:
        raise UserError(
            f"{config.source} has {data.bins} values per pixel, but the model needs {bins}: use data like the model's "
            "training data"
        )
    if source is not None and not own and split != "train":
        _require_unseen(opened, data)
    return EvaluationData(data, without_secrets(config.source), split, matches, splits)


def _require_unseen(opened: Any, data: ImageData) -> None:
    """Refuse other data that hold images which the run trained on, by their content hashes; where those cannot be asked
    for, this is told.

    Raises:
        UserError: naming how many.
    """
    if not opened.checkpoint.state.get("data"):
        return
    try:
        trained = set(load_data(opened.checkpoint.config.data).train.content_hashes())
    except UserError as error:
        log(f"whether {opened.path} trained on images of {data.name} cannot be told: {error}")
        return
    seen = sum(digest in trained for digest in data.content_hashes())
    if seen:
        raise UserError(
            f"{seen:,} of the {len(data):,} images of {data.name} are among those that {opened.path} trained on: "
            "measure without them, or a part of the run's own data (--split test)"
        )


def trained_on(splits: Splits, opened: Any) -> bool:
    """Whether these parts are those that the run stored; told on stderr where they are not."""
    try:
        splits.verify(opened.checkpoint.state.get("data") or {}, captions=opened.model.text_conditioner is not None)
    except UserError as error:
        log(f"warning: {error}")
        return False
    return True


def labels_for(opened: Any, data: ImageData) -> Any:
    """The labels of the images where this model takes classes, their captions where it takes those, else None; and
    the columns that it takes.

    Raises:
        UserError: for a class that the model does not know, beside classes that it knows.
    """
    beside = _labels_for(opened, data)
    if opened.model.columns is None or not data.columns:
        return beside
    log(f"measuring each image given {', '.join(opened.model.columns.names)} (see --columns)")
    return known_columns(opened.model, data, beside)


def _labels_for(opened: Any, data: ImageData) -> Any:
    if opened.model.text_conditioner is not None:
        bare = count_uncaptioned(data)
        if bare == len(data):
            return None
        log(f"measuring each image given its caption{f'; {bare:,} have none' if bare else ''} (see --captions)")
        return attach_captions(opened.model, data).known
    if not opened.num_classes or data.labels is None:
        return None
    names = opened.checkpoint.class_names
    unknown = [name for name in data.class_names if name not in names]
    if len(unknown) == len(data.class_names):  # other folders than those of its classes
        log(f"no class of {data.name} is one of {opened.path} ({some(unknown)}): measuring without classes")
        return None
    if unknown:
        raise UserError(
            f"{data.name} has a class {unknown[0]!r} and {opened.path} only {', '.join(names[:12])}"
            f"{', …' if len(names) > 12 else ''}: rename it, or give the images without classes, in one folder"
        )
    return np.array([names.index(name) for name in data.class_names], dtype=np.int64)[data.labels]


def labels_for_pair(opened: Any, against: Any | None, data: ImageData) -> Any:
    """`labels_for` of one run, or of two that are compared, for whichever of them takes any.

    Raises:
        UserError: where they name the classes differently, or one takes classes and the other captions.
    """
    if against is None:
        return labels_for(opened, data)
    if {bool(opened.num_classes), against.model.text_conditioner is not None} == {True}:
        raise UserError(f"{opened.path} takes classes and {against.path} captions: name them the other way round")
    both = data.labels is not None and opened.num_classes and against.num_classes
    if both and opened.checkpoint.class_names != against.checkpoint.class_names:
        raise UserError(f"{opened.path} and {against.path} have different classes: measure each by itself")
    found = [labels_for(run, data) for run in (opened, against)]
    return next((labels for labels in found if labels is not None), None)


def require_comparable(opened: Any, against: Any, chosen: EvaluationData) -> None:
    """Refuse runs of other images; tell where the other run may have been trained on these.

    Raises:
        UserError: see `refuse_other_data`.
    """
    from markovae.likelihood.comparison import refuse_other_data

    refuse_other_data(opened.model, against.model)
    if chosen.matches_run is not None and chosen.splits is not None and not trained_on(chosen.splits, against):
        log(f"{against.path} may have been trained on images of this part")


def images_to_fit_on(
    chosen: EvaluationData, opened: Any, count: int = FIT_IMAGES, parts: tuple[str, ...] = ("validation", "train")
) -> ImageData:
    """Up to `count` images of other parts than the one measured.

    Args:
        parts: which, those to be taken first before the others.
    Raises:
        UserError: where every image is measured.
    """
    splits, left = chosen.splits, [part for part in parts if part != chosen.split]
    if chosen.split == "all":
        if chosen.matches_run is not None:
            raise UserError("--split all leaves no image to fit on: measure one part, or with --estimator stratified")
        splits = reopen(opened.checkpoint.config.data, opened.checkpoint.state["data"])
    assert splits is not None, "a part is one of the splits"
    found: list[ImageData] = [getattr(splits, name) for name in left]
    found = [found[0].take(slice(0, count)), *(p.take(slice(0, max(0, count - len(found[0])))) for p in found[1:])]
    found = [part for part in found if len(part)]
    if not found:
        raise UserError(f"{chosen.source} has no images beside its {chosen.split} part: bring other data")
    labels = None if found[0].labels is None else np.concatenate([part.labels for part in found])
    images = np.concatenate([np.asarray(part.images) for part in found])
    columns = {
        name: tuple(cell for part in found for cell in part.columns.get(name, (None,) * len(part)))
        for name in found[0].columns
    }
    return replace(
        found[0], images=images, labels=labels, captions=_captions(found), digests=None, files=None, columns=columns
    )


def like(config: DataConfig, source: str, opened: Any) -> DataConfig:
    """Other data, brought to the model's shape as the run's own were."""
    return config.for_images_like(opened.model.shape, source)


def _captions(parts: Sequence[ImageData]) -> tuple[str, ...] | None:
    if any(part.captions is None for part in parts):
        return None
    return tuple(text for part in parts for text in part.captions or ())
