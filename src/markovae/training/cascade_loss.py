"""The loss of a cascade: every step trains every stage on the images of its batch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from markovae.diffusion import haar
from markovae.diffusion.cascade import Cascade
from markovae.diffusion.objective import NoiseSample, Objective
from markovae.errors import UserError
from markovae.networks.network import Network
from markovae.randomness import Streams
from markovae.training.batches import Batch
from markovae.training.losses import LevelLoss, Loss, Losses
from markovae.training.train_config import TrainConfig

CROP = 2  # sides of the base image: the largest image that a detail stage is trained on
THINNED = 2  # where samples are what counts, a detail stage takes so many times fewer pixels than the base
NOISIEST = 2.0  # log-SNR of the coarse image, where it is made noisy so that the stage can do with an imperfect one
GOLDEN = (math.sqrt(5) - 1) / 2  # stages take their levels at shifted quantiles, so that each fills its range evenly


@final
class CascadeLoss(Loss):
    """The sum of the stages' losses, each of its own distribution of levels.

    The base takes every image. A detail stage takes crops of at most twice the base's sides: for the bound, of as many
    images as the base has pixels for; else of half as many, since details are learned long before the coarse image.
    Half of the coarse images are at λ_1, where the bound is measured; the others at a random log-SNR down to 2, which
    the network is given.

    Args:
        model: in training.
        config: the section [train].
    Its `stages` are the losses of the stages, the base first.
    """

    def __init__(self, model: Cascade, config: TrainConfig) -> None:
        for name, value, instead in (
            ("level_sampling", "importance", "auto"),
            ("draw", "raw", "rao_blackwell"),
            ("draw", "literal", "rao_blackwell"),
            ("compile", True, "false"),
            ("parallel", "fsdp", "ddp"),
        ):
            if getattr(config, name) == value:
                raise UserError(
                    f"train.{name}={str(value).lower()} is for models of one stage: set train.{name}={instead}, or "
                    "cascade.stages=1"
                )
        self._model, self._seed = model, config.seed
        self.stages = [LevelLoss(model.stage(b), config) for b in range(model.octaves + 1)]
        thinned = 1 if config.objective == "bound" else THINNED
        self._crops = [self._crop(b, thinned if b else 1) for b in range(model.octaves + 1)]
        if config.checkpointing:
            for network in model.network:
                inner = getattr(network, "inner", network)
                assert isinstance(inner, Network), "a stage's network is one of this library"
                inner.checkpointing = True

    @property
    def objective(self) -> Objective:
        """That of the base, whose levels name a step that is not taken."""
        return self.stages[0].objective

    def backward(self, network: nn.Module, batch: Batch, size: int, dtype: torch.dtype) -> Losses:
        """A pass of each stage; the networks are the model's own."""
        model = self._model
        found = self.stages[0].backward(model.base.network, self._base_part(batch), size, dtype)
        loss, nats = found.loss, found.nats
        for b in range(1, model.octaves + 1):
            part = self.part(batch, b, size)
            if part is None:
                continue
            count = -(-size // self._crops[b][2])
            rows = self._rows(batch, b, size)
            found = self.stages[b].backward(model.stage(b).network, part, count, dtype)
            loss = loss.index_add(0, rows.to(loss.device), found.loss * (size / count))
            nats = nats.index_add(0, rows.to(nats.device), found.nats * (size / count))
        return Losses(loss, nats)

    def note(self, level: Tensor, losses: Tensor) -> None:
        """Nothing is learned from losses."""

    def capture(self) -> dict[str, Any] | None:
        """Nothing."""
        return None

    def restore(self, record: Any) -> None:
        """Nothing."""

    def _crop(self, b: int, thinned: int) -> tuple[int, int, int]:
        """(height, width) of stage b's crops, and of every how many images one is taken."""
        base, stage = self._model.base.shape[1:], self._model.stage(b).shape[1:]
        full = [side * 2 if b else side for side in stage]
        height, width = (min(side, CROP * least) for side, least in zip(full, base, strict=True))
        every = max(1, thinned * height * width // math.prod(base))
        return height, width, every

    def part(self, batch: Batch, b: int, size: int) -> Batch | None:
        """What stage b takes of a part of a batch of `size`: its data, levels and noise; None where it takes none."""
        if not b:
            return self._base_part(batch)
        rows, every = self._rows(batch, b, size), self._crops[b][2]
        if not len(rows):
            return None
        model, at = self._model, rows.to(batch.x.device)
        place = batch.quantile[rows] * size
        quantile = ((place.long() // every + place % 1) / -(-size // every) + b * GOLDEN) % 1
        # The quantile names image and step: a source of its own for each.
        streams = Streams(self._seed, "cascade", [int(q * 2**53) for q in batch.quantile[rows].tolist()], b)
        chance = streams.uniform((4,))
        image, noise = model.means(batch.x[at], b), self._noise(batch.draw.noise[at], b)
        image, noise = (self._cropped(each, b, chance[:, :2]) for each in (image, noise))
        band, coarse = model.stage_data(image, b)
        noise, band_noise = haar.split(noise)
        nearest = float(model.coarse_logsnr(b))
        logsnr = torch.where(chance[:, 2] < 0.5, nearest, NOISIEST + chance[:, 3] * (nearest - NOISIEST))
        condition = None if batch.condition is None else batch.condition.take(at)
        known = model.refining(condition, coarse, logsnr.to(coarse.device), noise)
        level = self.stages[b].objective.draw(quantile)
        keep = torch.ones(len(rows), dtype=torch.bool, device=band.device)
        return Batch(batch.example[rows], quantile, band, NoiseSample(level, band_noise), None, keep, known)

    def _base_part(self, batch: Batch) -> Batch:
        noise = NoiseSample(batch.draw.level, self._noise(batch.draw.noise, 0))
        return replace(batch, x=self._model.means(batch.x, 0), draw=noise)

    def _rows(self, batch: Batch, b: int, size: int) -> Tensor:
        """Of a part of a batch of `size`: an image's place in the whole decides, so that parts add up to it."""
        return ((batch.quantile * size).long() % self._crops[b][2] == 0).nonzero().flatten()

    def _noise(self, noise: Tensor, b: int) -> Tensor:
        """That of the mean image of stage b in that of the pixels: of unit variance, as W is orthonormal."""
        for _ in range(self._model.octaves - b):
            noise = haar.split(noise)[0]
        return noise

    def _cropped(self, images: Tensor, b: int, chance: Tensor) -> Tensor:
        height, width = self._crops[b][:2]
        if images.shape[2:] == (height, width):
            return images
        cut = []
        for image, (down, right) in zip(images, chance.tolist(), strict=True):
            top = 2 * int(down * ((image.shape[1] - height) // 2 + 1))
            left = 2 * int(right * ((image.shape[2] - width) // 2 + 1))
            cut.append(image[:, top : top + height, left : left + width])
        return torch.stack(cut)
