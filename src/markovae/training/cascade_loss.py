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
NOISIEST = 2.0  # log-SNR of the coarse image, where it is made noisy so that the stage can do with an imperfect one
GOLDEN = (math.sqrt(5) - 1) / 2  # stages take their levels at shifted quantiles, so that each fills its range evenly


@final
class CascadeLoss(Loss):
    """The sum of the stages' losses, each of its own distribution of levels.

    The base takes every image. A detail stage takes crops of at most twice the base's sides, of as many images as the
    base has pixels for, so that a stage costs about as much as the base. Half of the coarse images are at λ_1, where
    the bound is measured; the others at a random log-SNR down to 2, which the network is told.

    Args:
        model: in training.   config: the section [train].
    """

    def __init__(self, model: Cascade, config: TrainConfig) -> None:
        for name, wrong in (
            ("train.level_sampling=importance", config.resolved_level_sampling == "importance"),
            (f"train.draw={config.draw}", config.draw != "rao_blackwell"),
            ("train.compile", config.compile),
            ("train.parallel=fsdp", config.parallel == "fsdp"),
        ):
            if wrong:
                raise UserError(f"{name} is for models of one stage: leave it out, or set cascade.stages=1")
        self._model, self._seed = model, config.seed
        self._losses = [LevelLoss(model.stage(b), config) for b in range(model.octaves + 1)]
        self._crops = [self._crop(b) for b in range(model.octaves + 1)]
        if config.checkpointing:
            for network in model.network:
                inner = getattr(network, "inner", network)
                assert isinstance(inner, Network), "a stage's network is one of this library"
                inner.checkpointing = True

    @property
    def objective(self) -> Objective:
        """That of the base, whose levels name a step that is not taken."""
        return self._losses[0].objective

    def backward(self, network: nn.Module, batch: Batch, size: int, dtype: torch.dtype) -> Losses:
        """A pass of each stage; the networks are the model's own."""
        model = self._model
        base = self._part(batch, torch.arange(len(batch.x)), 0, None)
        found = self._losses[0].backward(model.base.network, base, size, dtype)
        loss, nats = found.loss, found.nats
        # An image's place in the whole batch decides, so that parts of a batch add up to it.
        place = (batch.quantile * size).long()
        for b in range(1, model.octaves + 1):
            every = self._crops[b][2]
            rows, count = (place % every == 0).nonzero().flatten(), -(-size // every)
            if not len(rows):
                continue
            quantile = ((place[rows] // every + (batch.quantile[rows] * size) % 1) / count + b * GOLDEN) % 1
            part = self._part(batch, rows, b, quantile)
            found = self._losses[b].backward(model.stage(b).network, part, count, dtype)
            loss = loss.index_add(0, rows.to(loss.device), found.loss * (size / count))
            nats = nats.index_add(0, rows, found.nats * (size / count))
        return Losses(loss, nats)

    def note(self, level: Tensor, losses: Tensor) -> None:
        """Nothing is learned from losses."""

    def capture(self) -> dict[str, Any] | None:
        """Nothing."""
        return None

    def restore(self, record: Any) -> None:
        """Nothing."""

    def _crop(self, b: int) -> tuple[int, int, int]:
        """(height, width) of stage b's crops, and of every how many images one is taken."""
        base, stage = self._model.base.shape[1:], self._model.stage(b).shape[1:]
        full = [side * 2 if b else side for side in stage]
        height, width = (min(side, CROP * least) for side, least in zip(full, base, strict=True))
        every = max(1, height * width // math.prod(base))
        return height, width, every

    def _part(self, batch: Batch, rows: Tensor, b: int, quantile: Tensor | None) -> Batch:
        """The stage's data, level and noise of some images of the batch."""
        model, at = self._model, rows.to(batch.x.device)
        image, noise = model.means(batch.x[at], b), batch.draw.noise[at]
        for _ in range(model.octaves - b):
            noise = haar.split(noise)[0]  # of unit variance, as W is orthonormal
        condition = None if batch.condition is None else batch.condition.take(at)
        if quantile is None:
            return replace(batch, x=image, draw=NoiseSample(batch.draw.level, noise))
        # The quantile names image and step: a source of its own for each.
        streams = Streams(self._seed, "cascade", [int(q * 2**53) for q in batch.quantile[rows].tolist()], b)
        chance = streams.uniform((4,))
        image, noise = (self._cropped(part, b, chance[:, :2]) for part in (image, noise))
        band, coarse = model.stage_data(image, b)
        noise, band_noise = haar.split(noise)
        nearest = float(model.coarse_logsnr(b))
        logsnr = torch.where(chance[:, 2] < 0.5, nearest, NOISIEST + chance[:, 3] * (nearest - NOISIEST))
        known = model.refining(condition, coarse, logsnr.to(coarse.device), noise)
        level = self._losses[b].objective.draw(quantile)
        keep = torch.ones(len(rows), dtype=torch.bool, device=band.device)
        return Batch(batch.example[rows], quantile, band, NoiseSample(level, band_noise), None, keep, known)

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
