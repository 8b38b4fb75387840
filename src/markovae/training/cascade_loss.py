"""The loss of a cascade: every step trains every stage on the images of its batch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from markovae.diffusion import haar
from markovae.diffusion.cascade import Cascade
from markovae.diffusion.forward import signal_scale
from markovae.diffusion.objective import NoiseSample, Objective
from markovae.errors import UserError
from markovae.networks.network import Network
from markovae.randomness import Streams
from markovae.training.batches import Batch, BatchIndices
from markovae.training.losses import FirstNats, LevelLoss, Loss, Losses
from markovae.training.train_config import TrainConfig

CROP = 2  # sides of the base image: the largest image that a detail stage is trained on
# Positions of a batch that a detail stage takes, as a share of the base's: for the bound, and for samples.
BOUND_SHARE, SAMPLE_SHARE = 1 / 2, 1 / 8
# Coarse images at λ_1, where the bound is measured. Others are noisier, so that a stage can do with an imperfect one.
BOUND_EXACT, SAMPLE_EXACT = 7 / 8, 1 / 2
NOISIEST = 2.0  # the least log-SNR of a coarse image
GOLDEN = (math.sqrt(5) - 1) / 2  # stages take their levels at shifted quantiles, so that each fills its range evenly


@final
class CascadeLoss(Loss):
    """The sum of the stages' losses, each of its own distribution of levels.

    For the bound each stage's is its part of the cascade's: the levels of its band from 2 on, and, of the finest, the
    pixels' reconstruction at level 1. Level 1 of a coarser stage is where the chain leaves it, and costs nothing.

    The base takes every image. A detail stage takes crops of at most twice the base's sides, at as many positions as a
    share of the base's: half for the bound, where most nats are in the details; else an eighth, since details are
    learned long before the coarse image. Some coarse images are at λ_1, where the bound is measured, for the bound 7 of
    8, else half; the others at a random log-SNR down to 2, which the network is given.

    Args:
        model: in training.
        config: the section [train].
    Its `stages` are the losses of the stages, the base first.
    """

    def __init__(self, model: Cascade, config: TrainConfig) -> None:
        for name, value, instead in (
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
        self._model, self._seed, self._bound = model, config.seed, config.objective == "bound"
        self.stages = [LevelLoss(model.stage(b), config) for b in range(model.octaves + 1)]
        share, self._exact = (BOUND_SHARE, BOUND_EXACT) if self._bound else (SAMPLE_SHARE, SAMPLE_EXACT)
        self._crops = [self._crop(b, share) for b in range(model.octaves + 1)]
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
        first_nats: FirstNats | None = _nothing if model.octaves else None
        found = self.stages[0].backward(model.base.network, self._base_part(batch), size, dtype, first_nats)
        losses, nats = [found.loss[:, 0]], found.nats
        for b in range(1, model.octaves + 1):
            losses.append(torch.zeros_like(losses[0]))
            part = self.part(batch, b, size)
            if part is None:
                continue
            count = self._count(b, size)
            rows = self._rows(batch.quantile, b, size)
            first_nats = self._reconstruction(batch, part, size) if b == model.octaves else _nothing
            found = self.stages[b].backward(model.stage(b).network, part, count, dtype, first_nats)
            losses[b].index_add_(0, rows.to(losses[b].device), found.loss[:, 0] * (size / count))
            nats = nats.index_add(0, rows.to(nats.device), found.nats * (size / count))
        return Losses(torch.stack(losses, 1), nats)

    def note(self, indices_of: BatchIndices, losses: Tensor) -> None:
        """The importance distribution of each stage learns from the stage's losses."""
        self.stages[0].note(indices_of, losses)
        size = len(losses)
        for b in range(1, len(self.stages)):
            rows = self._rows(indices_of.quantile, b, size)
            level = self._levels(indices_of.quantile, b, size)
            self.stages[b].learn(level, losses[rows, b] * (self._count(b, size) / size))

    def capture(self) -> dict[str, Any] | None:
        """The running estimates of the stages' importance distributions, the base first."""
        records = [stage.capture() for stage in self.stages]
        return None if records[0] is None else {"stages": records}

    def restore(self, record: Any) -> None:
        """Continue from what `capture` gave."""
        if self.capture() is None:
            return
        records = record.get("stages") if isinstance(record, dict) else None
        if not isinstance(records, list) or len(records) != len(self.stages):
            raise ValueError(f"it has no distributions of levels for {len(self.stages)} stages")
        for stage, each in zip(self.stages, records, strict=True):
            stage.restore(each)

    def _crop(self, b: int, share: float) -> tuple[int, int, int]:
        """(height, width) of stage b's crops, and of every how many images one is taken."""
        height, width = base = self._model.base.shape[1:]
        if not b:
            return height, width, 1
        height, width = (min(2 * s, CROP * side) for s, side in zip(self._model.stage(b).shape[1:], base, strict=True))
        positions = height * width / 4  # of the details of 2x2 pixels
        return height, width, max(1, round(positions / math.prod(base) / share))

    def part(self, batch: Batch, b: int, size: int) -> Batch | None:
        """What stage b takes of a part of a batch of `size`: its data, levels and noise; None where it takes none."""
        if not b:
            return self._base_part(batch)
        rows = self._rows(batch.quantile, b, size)
        if not len(rows):
            return None
        model, at, chance = self._model, rows.to(batch.x.device), self._chance(batch, b, size)
        image, noise = self._image(batch, b, size), self._noise(batch.draw.noise[at], b)
        band, coarse = model.stage_data(image, b)
        noise, band_noise = haar.split(self._cropped(noise, b, chance[:, :2]))
        level = self._levels(batch.quantile, b, size)
        nearest = float(model.coarse_logsnr(b))
        logsnr = torch.where(chance[:, 2] < self._exact, nearest, NOISIEST + chance[:, 3] * (nearest - NOISIEST))
        if self._bound and b == model.octaves:
            logsnr = logsnr.where(level > 1, nearest)  # the pixels' decoder has the coarse image of z_1
        condition = None if batch.condition is None else batch.condition.take(at)
        known = model.refining(condition, coarse, logsnr.to(coarse.device), noise)
        keep = torch.ones(len(rows), dtype=torch.bool, device=band.device)
        quantile = self._quantiles(batch.quantile, b, size)
        return Batch(batch.example[rows], quantile, band, NoiseSample(level, band_noise), None, keep, known)

    def _reconstruction(self, batch: Batch, part: Batch, size: int) -> FirstNats:
        """−ln P_pri(z_0|z_1) of the crops that the finest stage takes, by their details."""
        model, b = self._model, self._model.octaves
        image, known = self._image(batch, b, size), part.condition
        assert known is not None, "a detail stage has a condition"
        assert known.coarse is not None, "which holds the coarse image"
        coarse = known.coarse[:, :-1]

        def nats(rows: Tensor, x_hat: Tensor, z: Tensor) -> Tensor:
            grid = model.level_logsnr.to(z.device)
            details = z / float(signal_scale(model.stage(b).schedule.logsnr[1]))
            latent = float(signal_scale(model.first_logsnr)) * model.refined(coarse[rows], details, b)
            decoded = model.decoder.distribution(model.refined(coarse[rows], x_hat, b), grid, latent)
            return -decoded.log_prob(image[rows])

        return nats

    def _base_part(self, batch: Batch) -> Batch:
        noise = NoiseSample(batch.draw.level, self._noise(batch.draw.noise, 0))
        return replace(batch, x=self._model.means(batch.x, 0), draw=noise)

    def _count(self, b: int, size: int) -> int:
        """Images that stage b takes of a batch of `size`."""
        return -(-size // self._crops[b][2])

    def _rows(self, quantile: Tensor, b: int, size: int) -> Tensor:
        """Of a part of a batch of `size`: an image's place in the whole decides, so that parts add up to it."""
        return ((quantile * size).long() % self._crops[b][2] == 0).nonzero().flatten()

    def _quantiles(self, quantile: Tensor, b: int, size: int) -> Tensor:
        """What stage b's levels of its rows are drawn from, as even as the batch's own."""
        place = quantile[self._rows(quantile, b, size)] * size
        return ((place.long() // self._crops[b][2] + place % 1) / self._count(b, size) + b * GOLDEN) % 1

    def _levels(self, quantile: Tensor, b: int, size: int) -> Tensor:
        """Stage b's own levels of its rows."""
        return self.stages[b].objective.draw(self._quantiles(quantile, b, size))

    def _chance(self, batch: Batch, b: int, size: int) -> Tensor:
        """Four uniform numbers of each of stage b's rows: where it is cropped, and how noisy its coarse image is."""
        # The quantile names image and step: a source of its own for each.
        names = [int(q * 2**53) for q in batch.quantile[self._rows(batch.quantile, b, size)].tolist()]
        return Streams(self._seed, "cascade", names, b).uniform((4,))

    def _image(self, batch: Batch, b: int, size: int) -> Tensor:
        """Stage b's mean images of its rows, cropped."""
        at = self._rows(batch.quantile, b, size).to(batch.x.device)
        return self._cropped(self._model.means(batch.x[at], b), b, self._chance(batch, b, size)[:, :2])

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


def _nothing(rows: Tensor, x_hat: Tensor, z: Tensor) -> Tensor:
    """What level 1 costs a stage that the chain leaves there, (B,), nats: 0."""
    return x_hat.new_zeros(len(rows))
