"""Training of the stages, each in a file of its own that holds all it takes to go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from attributes import Judge
from markovae.data.data_config import DataConfig
from markovae.data.images import ImageData
from markovae.data.loading import load_data
from markovae.data.split import Splits
from markovae.diffusion.model import Diffusion, load_weights
from markovae.errors import UserError
from markovae.log import log
from markovae.system.files import make_folder, write_file
from markovae.text.conditioner import EncoderConditioner
from markovae.training.train_config import TrainConfig
from markovae.training.trainer import Training
from two_stage_parts import Sizes, stage_data, stage_model

SAVE_SECONDS = 120.0
BATCHES = {"prior": 256, "decoder": 64, "enlarger": 32}
DROPOUT = {"prior": 0.1, "decoder": 0.1, "enlarger": 0.0}


@dataclass(frozen=True)
class Work:
    """What all stages share.

    Args:
        data: the faces at 32 pixels.   hold_out: combinations that they do not show.
        judge: whose features are the embedding.   text_conditioner: of captions.
        folder: where stages are kept.   sizes: of the networks.
    """

    data: Splits
    hold_out: tuple[str, ...]
    judge: Judge
    text_conditioner: EncoderConditioner
    folder: Path
    sizes: Sizes

    def large(self) -> ImageData:
        """The training faces at 64 pixels."""
        return faces(64, self.hold_out).train


@dataclass(frozen=True)
class Length:
    """How long a stage is trained.

    Args:
        steps: or None, for `minutes`.   batch: or None, for the stage's own.
    """

    steps: int | None
    minutes: float
    batch: int | None = None

    def config(self, stage: str, images: int) -> TrainConfig:
        batch = min(self.batch or BATCHES[stage], images)
        budget: dict[str, Any] = {"steps": self.steps, "minutes": None} if self.steps else {"minutes": self.minutes}
        return TrainConfig(batch=batch, label_dropout=DROPOUT[stage], **budget)

    @property
    def words(self) -> str:
        return f"{self.steps:,} steps" if self.steps else f"{self.minutes:g} minutes"


def faces(size: int, hold_out: Sequence[str]) -> Splits:
    """The faces at a size, trained without these combinations."""
    return load_data(DataConfig("faces", size=size, hold_out=tuple(hold_out)))


def trained(work: Work, stage: str, length: Length) -> Diffusion:
    """The model of a stage with its averaged weights, trained as far as it is not yet."""
    model = stage_model(stage, work.sizes, work.text_conditioner.width)
    data, _ = stage_data(stage, work.data.train, work.large, work.judge, work.text_conditioner)
    training = Training(model, data, length.config(stage, len(data)))
    facts = {"stage": stage, "sizes": asdict(work.sizes), "images": len(data), "text": work.text_conditioner.identity}
    facts |= {"judge": work.judge.digest, "hold_out": list(work.hold_out)}
    file = work.folder / f"{stage}.safetensors"
    if file.is_file():
        _restore(file, training, facts, length)
    saved = training.seconds
    while not training.done:
        step = training.advance()
        if training.done or training.seconds - saved > SAVE_SECONDS:
            _save(file, training, facts, length)
            saved = training.seconds
            log(f"{stage}: step {step.index:,} of {step.total or 'as many as there is time for'}, loss {step.loss:.4f}")
    load_weights(model, dict(training.average.model.named_parameters()))
    return model.eval()


def _save(file: Path, training: Training, facts: dict[str, Any], length: Length) -> None:
    tensors, position = training.capture()
    flat = {f"{part}/{name}": value.contiguous() for part, table in tensors.items() for name, value in table.items()}
    make_folder(file.parent)
    text = {"position": json.dumps(position), "facts": json.dumps(facts, sort_keys=True), "length": length.words}
    write_file(file, safetensors.torch.save(flat, metadata=text))


def _restore(file: Path, training: Training, facts: dict[str, Any], length: Length) -> None:
    with safetensors.safe_open(file, "pt") as stored:
        text = stored.metadata()
    if json.loads(text["facts"]) != facts:
        raise UserError(f"{file} was trained with other settings ({text['facts']}): name another folder, or remove it")
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, value in safetensors.torch.load(file.read_bytes()).items():
        part, _, weight = name.partition("/")
        tensors.setdefault(part, {})[weight] = value
    training.restore(tensors, json.loads(text["position"]))
    if text["length"] != length.words:
        training.extend(steps=length.steps, minutes=None if length.steps else length.minutes)
