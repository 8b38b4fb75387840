"""What a step minimises, and how its gradient comes about: by tables over levels, or in continuous time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from markovae.build import create_objective
from markovae.config import TrainConfig
from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.forward import noised
from markovae.learned_schedule import LearnedLogSNR, backward
from markovae.likelihood import continuous_draws
from markovae.objective import Objective, bound_loss, loss, nats_weight, scatter, uniform_law
from markovae.reverse import LearnedVariance
from markovae.training.batches import Batch
from markovae.training.law import ImportanceLaw

RECONSTRUCTED = 4  # one image in so many of a batch is also decoded, where the schedule is learned


@dataclass(frozen=True)
class Losses:
    """What a part of a batch cost, without gradients.

    Args:
        loss: whose mean is minimised, (B,).   nats: the levels' share of the bound with variance β̃, (B,), float64.
    """

    loss: Tensor
    nats: Tensor


class Loss(ABC):
    """What is minimised, and the law that levels are drawn by."""

    @property
    @abstractmethod
    def objective(self) -> Objective:
        """The law of the next step's levels, and their weights."""

    @abstractmethod
    def backward(self, network: nn.Module, batch: Batch, size: int, dtype: torch.dtype) -> Losses:
        """Add the gradient of (sum of the losses)/size to the weights.

        Args:
            network: the model's own, perhaps wrapped.   batch: a part of one, on the model's device.
            size: of the whole batch.   dtype: of the network's matrix products, float32 or bfloat16.
        """

    @abstractmethod
    def note(self, level: Tensor, losses: Tensor) -> None:
        """Take in a step that was taken: the levels and the losses of its whole batch, (B,) each."""

    @abstractmethod
    def capture(self) -> dict[str, Any] | None:
        """What the law of levels has learnt, for JSON; None for one that learns nothing."""

    @abstractmethod
    def restore(self, record: Any) -> None:
        """Go on from what `capture` gave.

        Raises:
            ValueError: for anything else.
        """


@final
class LevelLoss(Loss):
    """Weighted squared errors at levels of the grid; or the bound at them.

    Args:
        model: in training.   config: the section [train].
    """

    def __init__(self, model: Diffusion, config: TrainConfig) -> None:
        self._model, self._bound = model, config.objective == "bound"
        self._objective = create_objective(config, model.target, model.schedule, model.reverse)
        self._law = ImportanceLaw(self._objective) if config.levels_law == "importance" else None
        # Level 1 is the decoder's, so it counts nothing here; a level that is never drawn never asks for its share.
        self._nats = model.dims * nats_weight(model.target, model.schedule)
        self._nats[0] = 0.0
        self._scatter = scatter(model.target, model.schedule)
        if self._law is not None:
            self._objective = self._law.objective

    @property
    def objective(self) -> Objective:
        """The law of levels and their weights; with an importance law the present one."""
        return self._objective

    def backward(self, network: nn.Module, batch: Batch, size: int, dtype: torch.dtype) -> Losses:
        """One forward and one backward pass."""
        model, objective = self._model, self._objective
        condition = batch.condition
        with _autocast(model, dtype):
            if self._bound:
                losses, errors = bound_loss(network, batch.x, batch.draw, condition, objective, model)
            else:
                reverse = model.reverse if isinstance(model.reverse, LearnedVariance) else None
                parts = (objective, model.target, model.schedule, reverse)
                losses, errors = loss(network, batch.x, batch.draw, condition, *parts, clip=model.clip)
        (losses.sum() / size).backward()
        place, plain = batch.draw.level.cpu() - 1, errors.detach().cpu().double()
        if batch.draw.fresh is not None:
            plain = plain - self._scatter[place]
        return Losses(losses.detach(), self._nats[place] / objective.probability[place] * plain)

    def note(self, level: Tensor, losses: Tensor) -> None:
        """The importance law learns from the losses."""
        if self._law is not None:
            self._law.note(level, losses, self._objective)
            self._objective = self._law.objective

    def capture(self) -> dict[str, Any] | None:
        """The running estimate of an importance law."""
        return None if self._law is None else self._law.capture()

    def restore(self, record: Any) -> None:
        """Go on from what `capture` gave."""
        if self._law is not None:
            self._law.restore(record)
            self._objective = self._law.objective


@final
class ContinuousLoss(Loss):
    r"""The bound in the limit of ever more levels, for a schedule that learns with the network.

    Per image: a draw of the levels' integral at a low-discrepancy u, the prior term, and for one image in four the
    decoder's nats at level 1. The network and the ends of the schedule follow the mean, its shape the mean square of
    the levels' draws (see `learned_schedule.backward`); in units of half the log-SNR span of the start, per dim.
    Source: Kingma et al. 2021, sections 4 and 5.

    Args:
        model: in training, with a learned schedule.
    """

    def __init__(self, model: Diffusion, schedule: LearnedLogSNR) -> None:
        self._model, self._schedule = model, schedule.requires_grad_(True)
        uniform = uniform_law(schedule)
        with torch.no_grad():
            span = float(schedule.logsnr[1] - schedule.logsnr[-1]) / 2
        self._objective = Objective(uniform, torch.ones_like(uniform), span)
        self._unit = span * model.dims

    @property
    def objective(self) -> Objective:
        """Every u alike; the weights are the draws' own."""
        return self._objective

    def backward(self, network: nn.Module, batch: Batch, size: int, dtype: torch.dtype) -> Losses:
        """A pass at u, and one at level 1 for a quarter of the images."""
        with _autocast(self._model, dtype):
            levels = continuous_draws(self._model, batch.x, batch.draw.noise, batch.quantile, batch.condition)
        # `backward` takes means: the part's mean square counts by its share of the batch.
        backward(levels / self._unit, self._schedule, len(batch.example) / size)
        ends = self._prior(batch) + self._reconstruction(batch, size, dtype)
        (ends.sum() / self._unit / size).backward()
        losses = (levels.detach() + ends.detach()) / self._unit
        return Losses(losses, levels.detach().cpu())

    def note(self, level: Tensor, losses: Tensor) -> None:
        """Nothing is learnt from losses: the schedule is the law."""

    def capture(self) -> dict[str, Any] | None:
        """Nothing beside the schedule's own weights."""
        return None

    def restore(self, record: Any) -> None:
        """Nothing beside the schedule's own weights."""

    def _prior(self, batch: Batch) -> Tensor:
        return self._model.prior_nats(batch.x.double())

    def _reconstruction(self, batch: Batch, size: int, dtype: torch.dtype) -> Tensor:
        """The decoder's nats, 0 for three images in four and four times its own for the fourth, (B,)."""
        # An image's place in the whole batch decides, so that parts of a batch add up to it.
        place = (batch.quantile * size).long()
        chosen = (place % RECONSTRUCTED == 0).nonzero().flatten().to(batch.x.device)
        if not len(chosen):
            return torch.zeros(len(batch.example), dtype=torch.float64, device=batch.x.device)
        x, noise, model = batch.x[chosen], batch.draw.noise[chosen], self._model
        condition = None if batch.condition is None else batch.condition.take(chosen)
        grid = self._schedule.logsnr.to(x.device)
        z = noised(x, noise, grid[1])
        with _autocast(model, dtype):
            x_hat = model.denoise(z, grid[1], condition)
        nats = -model.decoder.distribution(x_hat, grid, z).log_prob(x)
        return nats.new_zeros(len(batch.example)).index_add(0, chosen, size / -(-size // RECONSTRUCTED) * nats)


def create_loss(model: Diffusion, config: TrainConfig) -> Loss:
    """What the configuration asks to minimise on this model.

    Raises:
        UserError: for an objective that does not go with the model's schedule, target or variance.
    """
    if not isinstance(model.schedule, LearnedLogSNR):
        return LevelLoss(model, config)
    if config.objective != "bound" or config.levels_law != "uniform" or config.draw != "rao_blackwell":
        raise UserError(
            "schedule.kind=learned follows the bound and is itself the law of levels: set train.objective=bound, and "
            "leave train.law and train.draw at their defaults"
        )
    if model.target.needs_neighbour:
        raise UserError(
            f"target.name={model.target.name} is defined by the steps of a grid, and schedule.kind=learned moves its "
            "grid: take velocity, noise, data or score"
        )
    if isinstance(model.reverse, LearnedVariance):
        raise UserError(
            "target.reverse=learned belongs to the steps of a grid, and schedule.kind=learned is trained in their "
            "limit, where the posterior variance is best: set target.reverse to posterior, isotropic or diagonal"
        )
    return ContinuousLoss(model, model.schedule)


def _autocast(model: Diffusion, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
