"""The losses: over tables of levels, in continuous time, or of your own; the distributions of levels they draw from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from markovae.diffusion.forward import noised
from markovae.diffusion.learned_schedule import LearnedLogSNR, backward
from markovae.diffusion.model import Diffusion
from markovae.diffusion.objective import (
    LiteralNoise,
    MeanNoise,
    NoiseSampling,
    Objective,
    RawNoise,
    as_error_of,
    bound_loss,
    bound_objective,
    default_objective,
    levels_by,
    loss,
    nats_weight,
    normal_density,
    residual_variance,
    uniform_levels,
)
from markovae.diffusion.reverse import LearnedVariance, PosteriorVariance, ReverseVariance
from markovae.diffusion.schedule import NoiseSchedule
from markovae.diffusion.target import Target, target_named
from markovae.errors import UserError
from markovae.networks.conditioning import Condition
from markovae.randomness import generator
from markovae.system.device import Constants
from markovae.training.batches import Batch, BatchIndices
from markovae.training.train_config import TrainConfig

OwnFunction = Callable[[Diffusion, Tensor, Condition | None, torch.Generator], Tensor]
FirstNats = Callable[[Tensor, Tensor, Tensor], Tensor]
BANDS = 64
RATE = 0.01  # of the running means, once as many batches have fallen on a band
EVEN = 0.1  # share of the uniform distribution: a level that looked free is still visited


@final
class ImportanceDistribution:
    r"""p_ℓ ∝ √E[share_ℓ²], of least variance for one draw, from a running estimate in 64 bands of levels.

    share_ℓ is what level ℓ adds to the loss. Over a band of neighbouring levels its ratio to the level's weight, the
    squared error, is taken to have one second moment; level 1, the decoder's, is a band of its own.
    Source: Nichol & Dhariwal 2021, section 3.3 (a history of ten draws a level there).

    Args:
        objective: the bound, under any distribution; its weights are what shares are compared with.
    """

    def __init__(self, objective: Objective) -> None:
        self._bound = objective
        self._weight = objective.weight * objective.probability
        levels = len(self._weight)
        later = torch.arange(levels - 1) * min(BANDS, levels - 1) // max(levels - 1, 1)
        self._band = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + later])
        # A network that says nothing has a squared error of about 1; the first visit to a band replaces the guess.
        self._moment = torch.ones(int(self._band.max()) + 1, dtype=torch.float64)
        self._visits = torch.zeros_like(self._moment)

    @property
    def objective(self) -> Objective:
        """The same bound, drawn by the present distribution."""
        root = self._weight * self._moment[self._band].sqrt()
        return self._bound.drawn_by((1 - EVEN) * root / root.sum() + EVEN / len(root))

    def note(self, level: Tensor, losses: Tensor, drawn_by: Objective) -> None:
        """Take in the losses of a step.

        Args:
            level: 1…L, (B,), int64.
            losses: weighted, (B,).
            drawn_by: what they were drawn and weighted by.
        """
        place = level.cpu() - 1
        ratio = losses.detach().cpu().double() * drawn_by.probability[place] / self._weight[place]
        band, zeros = self._band[place], torch.zeros_like(self._moment)
        count = zeros.index_add(0, band, torch.ones_like(ratio))
        mean = zeros.index_add(0, band, ratio**2) / count.clamp(min=1)
        self._visits += count > 0
        rate = torch.where(count > 0, (1 / self._visits.clamp(min=1)).clamp(min=RATE), 0.0)
        self._moment += rate * (mean - self._moment)

    def capture(self) -> dict[str, list[float]]:
        """The running estimate, as JSON can hold it to the last bit."""
        return {"moment": self._moment.tolist(), "visits": self._visits.tolist()}

    def restore(self, record: Any) -> None:
        """Continue from what `capture` gave.

        Raises:
            ValueError: for anything else.
        """
        tables = []
        for name in ("moment", "visits"):
            values = record.get(name) if isinstance(record, dict) else None
            if not isinstance(values, list) or len(values) != len(self._moment):
                raise ValueError(f"its distribution of levels has no {name} for {len(self._moment)} bands")
            tables.append(torch.tensor(values, dtype=torch.float64))
            if not bool((tables[-1].isfinite() & (tables[-1] >= 0)).all()):
                raise ValueError(f"its distribution of levels has a {name} that is negative, NaN or Inf")
        self._moment, self._visits = tables


RECONSTRUCTED = 4  # one image in so many of a batch is also decoded, where the schedule is learned


@dataclass(frozen=True)
class Losses:
    """What a part of a batch cost, without gradients.

    Args:
        loss: of each stage, (B, S), S = 1 for a model of one; its sum, in the mean over images, is minimized.
        nats: the levels' share of the bound with variance β̃, (B,), float64.
    """

    loss: Tensor
    nats: Tensor


class Loss(ABC):
    """What is minimized, and the distribution that levels are drawn by."""

    @property
    @abstractmethod
    def objective(self) -> Objective:
        """The distribution of the next step's levels, and their weights."""

    @abstractmethod
    def backward(self, network: nn.Module, batch: Batch, size: int, dtype: torch.dtype) -> Losses:
        """Add the gradient of (sum of the losses)/size to the weights.

        Args:
            network: the model's own, perhaps wrapped.
            batch: a part of one, on the model's device.
            size: of the whole batch.
            dtype: of the network's matrix products, float32 or bfloat16.
        """

    @abstractmethod
    def note(self, indices_of: BatchIndices, losses: Tensor) -> None:
        """Take in a step that was taken: the levels and the losses, (B, S), of its whole batch."""

    @abstractmethod
    def capture(self) -> dict[str, Any] | None:
        """What the distribution of levels has learnt, for JSON; None for one that learns nothing."""

    @abstractmethod
    def restore(self, record: Any) -> None:
        """Continue from what `capture` gave.

        Raises:
            ValueError: for anything else.
        """


@final
class LevelLoss(Loss):
    """Weighted squared errors at levels of the grid; or the bound at them.

    Args:
        model: in training.
        config: the section [train].
        objective: tables of the caller's own, in the place of what train.objective, weighting and level_sampling say.
    """

    def __init__(self, model: Diffusion, config: TrainConfig, objective: Objective | None = None) -> None:
        self._model, self._bound = model, config.objective == "bound" and objective is None
        learns = config.resolved_level_sampling == "importance" and objective is None
        if objective is None:
            objective = create_objective(config, model.target, model.schedule, model.reverse)
        objective.require_levels(model.num_levels)
        self._objective = objective
        self._level_distribution = ImportanceDistribution(objective) if learns else None
        # Level 1 is the decoder's, so it counts nothing here; a level that is never drawn never asks for its share.
        self._nats = model.dims * nats_weight(model.target, model.schedule)
        self._nats[0] = 0.0
        self._residual = residual_variance(model.target, model.schedule)
        self._placed = Constants()
        if self._level_distribution is not None:
            self._objective = self._level_distribution.objective

    @property
    def objective(self) -> Objective:
        """The distribution of levels and their weights; with an importance distribution the present one."""
        return self._objective

    def backward(
        self, network: nn.Module, batch: Batch, size: int, dtype: torch.dtype, first_nats: FirstNats | None = None
    ) -> Losses:
        """One forward and one backward pass; `first_nats` as for `bound_loss`."""
        model, objective = self._model, self._objective
        condition = batch.condition
        with autocast(model, dtype):
            if self._bound:
                losses, errors = bound_loss(network, batch.x, batch.draw, condition, objective, model, first_nats)
            else:
                reverse = model.reverse if isinstance(model.reverse, LearnedVariance) else None
                parts = (objective, model.target, model.schedule, reverse)
                losses, errors = loss(network, batch.x, batch.draw, condition, *parts, clip=model.clip)
        (losses.sum() / size).backward()
        device, plain = errors.device, errors.detach().double()
        level = batch.draw.level.to(device, non_blocking=True)
        if batch.draw.fresh is not None:
            residual = self._placed.get("residual", device, make=lambda: self._residual.to(device))
            plain = plain - residual[level - 1]
        nats = self._placed.get("nats", device, make=lambda: self._nats.to(device))[level - 1]
        return Losses(losses.detach()[:, None], nats / objective.probability_at(level) * plain)

    def note(self, indices_of: BatchIndices, losses: Tensor) -> None:
        """The importance distribution learns from the losses."""
        self.learn(indices_of.level, losses[:, 0])

    def learn(self, level: Tensor, losses: Tensor) -> None:
        """`note` of these levels 1…L and their losses, (B,) each."""
        if self._level_distribution is not None:
            self._level_distribution.note(level, losses, self._objective)
            self._objective = self._level_distribution.objective

    def capture(self) -> dict[str, Any] | None:
        """The running estimate of an importance distribution."""
        return None if self._level_distribution is None else self._level_distribution.capture()

    def restore(self, record: Any) -> None:
        """Continue from what `capture` gave."""
        if self._level_distribution is not None:
            self._level_distribution.restore(record)
            self._objective = self._level_distribution.objective


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
        uniform = uniform_levels(schedule)
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
        from markovae.likelihood.continuous import continuous_draws

        with autocast(self._model, dtype):
            levels = continuous_draws(self._model, batch.x, batch.draw.noise, batch.quantile, batch.condition)
        # `backward` takes means: the part's mean square counts by its share of the batch.
        backward(levels / self._unit, self._schedule, len(batch.example) / size)
        ends = self._prior(batch) + self._reconstruction(batch, size, dtype)
        (ends.sum() / self._unit / size).backward()
        losses = (levels.detach() + ends.detach()) / self._unit
        return Losses(losses[:, None], levels.detach())

    def note(self, indices_of: BatchIndices, losses: Tensor) -> None:
        """Nothing is learnt from losses: the schedule is the distribution."""

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
        grid = self._schedule.on(x.device)
        z = noised(x, noise, grid[1])
        with autocast(model, dtype):
            x_hat = model.denoise(z, grid[1], condition)
        nats = -model.decoder.distribution(x_hat, grid, z).log_prob(x)
        return nats.new_zeros(len(batch.example)).index_add(0, chosen, size / -(-size // RECONSTRUCTED) * nats)


@final
class OwnLoss(Loss):
    """A loss of the caller's own.

    Args:
        model: in training.
        config: the section [train].
        function: function(model, x, condition, generator) -> the loss of each example, (B,), or their mean, (); it
            draws levels and noise from the generator, which is a function of seed and step.
    """

    def __init__(self, model: Diffusion, config: TrainConfig, function: OwnFunction) -> None:
        if isinstance(model.schedule, LearnedLogSNR):
            raise UserError("schedule.kind=learned follows the bound: leave out the loss of your own")
        if config.compile:
            raise UserError("train.compile compiles the network alone: leave it out beside a loss of your own")
        self._model, self._function, self._seed = model, function, config.seed
        self._objective = default_objective(model.schedule)

    @property
    def objective(self) -> Objective:
        """The default one: its levels name a step that is not taken, and nothing else."""
        return self._objective

    def backward(self, network: nn.Module, batch: Batch, size: int, dtype: torch.dtype) -> Losses:
        """One call of the function, and its backward pass."""
        source = generator(self._seed, "own loss", int(batch.example[0]), int(batch.quantile[0] * 2**53))
        with autocast(self._model, dtype):
            found = self._function(self._model, batch.x, batch.condition, source)
        count = len(batch.example)
        if not isinstance(found, Tensor) or tuple(found.shape) not in ((), (count,)) or not found.requires_grad:
            shown = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise UserError(f"the loss of your own gave {shown}: it must give a tensor () or ({count},) with gradients")
        losses = found.expand(count)
        (losses.sum() / size).backward()
        return Losses(losses.detach()[:, None], torch.full_like(losses, torch.nan, dtype=torch.float64))

    def note(self, indices_of: BatchIndices, losses: Tensor) -> None:
        """Nothing is learned from losses."""

    def capture(self) -> dict[str, Any] | None:
        """Nothing."""
        return None

    def restore(self, record: Any) -> None:
        """Nothing."""


def create_loss(model: Diffusion, config: TrainConfig, own: Objective | OwnFunction | Loss | None = None) -> Loss:
    """What the configuration asks to minimize on this model.

    Args:
        own: tables over the levels, or a loss, of the caller's own instead.
    Raises:
        UserError: for an objective that does not go with the model's schedule, target or variance.
    """
    if isinstance(own, Loss):
        return own
    if own is not None and not isinstance(own, Objective):
        return OwnLoss(model, config, own)
    if not isinstance(model.schedule, LearnedLogSNR):
        return LevelLoss(model, config, own)
    if own is not None:
        raise UserError("schedule.kind=learned follows the bound: leave out the objective of your own")
    if config.objective != "bound" or config.resolved_level_sampling != "uniform" or config.draw != "rao_blackwell":
        raise UserError(
            "schedule.kind=learned is itself the distribution of levels and follows the bound: set train.objective="
            "bound and leave train.level_sampling and train.draw at their defaults"
        )
    if model.target.needs_neighbour:
        raise UserError(
            f"target.name={model.target.name} is defined by the steps of a grid, and schedule.kind=learned moves its "
            "grid: take velocity, flow, noise, data or score"
        )
    if isinstance(model.reverse, LearnedVariance):
        raise UserError(
            "target.reverse=learned belongs to the steps of a grid, and schedule.kind=learned is trained in their "
            "limit, where the posterior variance is best: set target.reverse to posterior, isotropic or diagonal"
        )
    return ContinuousLoss(model, model.schedule)


def autocast(model: Diffusion, dtype: torch.dtype) -> torch.autocast:
    """Where matrix products are in this type."""
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def create_objective(
    config: TrainConfig, target: Target, schedule: NoiseSchedule, reverse: ReverseVariance | None = None
) -> Objective:
    """What training minimizes: how levels are drawn and weighted, the mean weight scaled to 1.

    Args:
        reverse: the model's variance, for objective=bound; None is β̃.
    Raises:
        UserError: for a distribution that misses the schedule, or, for the bound, one of its levels.
    """
    distribution = _level_distribution(config, schedule)
    if config.objective == "bound":
        try:
            return bound_objective(distribution, target, schedule, PosteriorVariance() if reverse is None else reverse)
        except ValueError as error:
            raise UserError(
                f"train.level_sampling={config.level_sampling} does not go with train.objective=bound: {error}"
            ) from None
    if config.weighting == "nats":
        weight = nats_weight(target, schedule)
    elif config.weighting in ("own", target.name):
        return Objective(distribution, torch.ones_like(distribution))
    else:
        weight = as_error_of(target, target_named(config.weighting), schedule)
    return Objective(distribution, weight / (distribution * weight).sum())


def create_noise_sampling(config: TrainConfig, target: Target, schedule: NoiseSchedule) -> NoiseSampling:
    """How the noise of training is drawn, by train.draw.

    Raises:
        UserError: for the raw sample of a target that is not of one step.
    """
    if config.draw == "literal":
        return LiteralNoise(schedule)
    if config.draw == "rao_blackwell":
        return MeanNoise()
    if not target.needs_neighbour:
        raise UserError(
            f"train.draw=raw regresses onto the sample of one step, which target {target.name!r} has none of: "
            "set target.name to step_noise or mean, or train.draw=rao_blackwell"
        )
    return RawNoise()


def _level_distribution(config: TrainConfig, schedule: NoiseSchedule) -> Tensor:
    """The distribution of levels that train.level_sampling names, (L,), float64."""
    kind, uniform = config.resolved_level_sampling, uniform_levels(schedule)
    density: Callable[[Tensor], Tensor] = normal_density(config.level_center, config.level_width)
    if kind in ("uniform", "importance"):  # which begins with the uniform one
        return uniform
    if kind == "table":
        knots, values = np.array(config.level_logsnr), np.array(config.level_density)
        heights = values / max(values.max(), 1e-300)

        density = partial(_interpolated, knots=knots, heights=heights)
    try:
        drawn = levels_by(schedule, density)
    except ValueError as error:
        raise UserError(f"train.level_sampling={kind}: {error}") from None
    return (drawn + uniform) / 2 if kind == "middle" else drawn


def _interpolated(logsnr: Tensor, knots: np.ndarray[Any, Any], heights: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.interp(logsnr.numpy(), knots, heights, left=0, right=0))


def require_shardable(config: TrainConfig, loss: Loss) -> None:
    """Whether this training can be spread.

    Raises:
        UserError: where train.parallel=fsdp and a schedule learns.
    """
    if config.parallel == "fsdp" and not isinstance(loss, LevelLoss):
        raise UserError(
            "train.parallel=fsdp gathers a network's weights for one pass a step, and schedule.kind=learned takes "
            "several: set train.parallel=ddp"
        )
