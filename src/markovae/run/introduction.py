"""What a run says before its first step: what is trained on what, what goes unused, and what to look out for."""

from __future__ import annotations

import json
from collections.abc import Iterator

from markovae.columns import Column, understand
from markovae.config import Config
from markovae.data.images import ImageData, count_uncaptioned
from markovae.data.split import Splits
from markovae.diffusion.cascade import Model
from markovae.diffusion.schedule import first_level_warning
from markovae.log import counted, log, printable, warn
from markovae.run.run_folder import RunFolder
from markovae.strict_json import shortened
from markovae.system.files import replace_file
from markovae.training.train_config import TrainConfig
from markovae.training.trainer import Training


def warn_without_lock(folder: RunFolder) -> None:
    """Where a folder cannot be locked."""
    if folder.lock is not None and folder.lock.missing:
        warn(
            f"{folder.path} lies where files cannot be locked ({folder.lock.missing}): let no other process train in it"
        )


def list_unreadable(folder: RunFolder, splits: Splits) -> None:
    """unreadable.jsonl: every file that gave no image, with its reason; no file where there is none."""
    if splits.unreadable:
        rows = [json.dumps({"file": name, "reason": reason}) + "\n" for name, reason in splits.unreadable]
        replace_file(folder.unreadable, "".join(rows).encode(), folder.disk)
        log(f"{counted(len(rows), 'file')} gave no image: {folder.unreadable} lists them with the reason")


def warn_of_choices(training: Training) -> None:
    """A rate that no weight has, and a schedule whose first level is too noisy for the pixels."""
    config, model = training.config, training.average.model
    if config.optimizer == "adamw" and (config.lr, config.momentum) != (TrainConfig.lr, TrainConfig.momentum):
        warn(
            "train.lr and train.momentum are Muon's; with train.optimizer=adamw every weight has "
            f"train.adamw_lr={config.adamw_lr:g}"
        )
    if (text := first_level_warning(model.schedule, model.pixels.half_width)) is not None:
        warn(text)


def unused(config: Config, model: Model, data: ImageData) -> Iterator[str]:
    """What is known of the images and does not reach the model, with its first example and the option that uses it."""
    text = next((caption for caption in data.captions or () if caption.strip()), "")
    if text and model.text_conditioner is None:
        given = len(data) - count_uncaptioned(data)
        yield (
            f"the captions of {given:,} images do not reach the model (“{shortened(text.splitlines()[0])}”): "
            "--set condition.kind=text uses them"
        )
    if data.class_names and not getattr(model.network, "num_classes", 0):
        names = ", ".join(data.class_names[:3]) + (", …" if len(data.class_names) > 3 else "")
        uses = "condition.kind=class" if config.condition.kind != "class" else "network.classes=true"
        yield f"the {len(data.class_names)} classes ({names}) do not reach the model: --set {uses} uses them"
    yield from _unused_columns(config, data)


def _unused_columns(config: Config, data: ImageData) -> Iterator[str]:
    used, classes = config.condition.columns or (), set(data.class_names)
    other = {name: cells for name, cells in data.columns.items() if name not in used and set(cells) != classes}
    found = {name: understand(name, cells) for name, cells in other.items()}
    left = [column for column in found.values() if isinstance(column, Column)]
    for name, why in found.items():
        if isinstance(why, str):
            texts = "; if they are captions, call it text" if "different texts" in why and data.captions is None else ""
            yield f"the column {shortened(printable(name))} cannot condition a model: {why}{texts}"
    if left and config.network.kind != "ddpm":
        names, them = ",".join(column.name for column in left[:4]), ", ".join(column.describe() for column in left[:4])
        yield (
            f"the columns {them}{', …' if len(left) > 4 else ''} do not reach the model: "
            f"--set condition.columns=[{names}] uses them"
        )


def introduction(config: Config, folder: RunFolder, splits: Splits, training: Training) -> Iterator[str]:
    """What is about to be trained, on what, and where it goes, a line each."""
    model = training.average.model
    count = sum(weight.numel() for weight in model.parameters())
    size = "x".join(map(str, model.shape))
    yield f"{len(splits.train):,} training images of {size} ({splits.train.name}), {count / 1e6:.2f} M weights"
    for note in splits.notes:
        yield f"data: {note}"
    yield from unused(config, model, splits.train)
    if model.text_conditioner is not None:
        bare = count_uncaptioned(splits.train)
        missing = f"; {bare:,} have none and train the model without any" if bare else ""
        yield f"captions condition the model ({model.text_conditioner.identity['encoder']}){missing}"
    if model.columns is not None:
        without = {name: sum(cell is None for cell in cells) for name, cells in splits.train.columns.items()}
        each = [
            one.describe() + (f", {without[one.name]:,} missing" if without.get(one.name) else "")
            for one in model.columns.each
        ]
        yield f"columns condition the model: {'; '.join(each)}"
    if config.network.kind in ("unet", "dit"):
        yield (
            "export --to diffusers takes a network of their kind alone, such as --set network.kind=ddpm --set "
            "network.ddpm.widths=[32,64,64] (1.6 M weights)"
        )
    yield f"checkpoints, samples and metrics.jsonl go to {folder.path}"
