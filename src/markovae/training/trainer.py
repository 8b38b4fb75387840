"""The state of a training run and its one step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor, nn

from markovae.build import create_draws, create_objective, load_weights
from markovae.checkpoint.draws import draws_record
from markovae.config import TrainConfig
from markovae.data.images import ImageData
from markovae.diffusion import Diffusion
from markovae.errors import StoppedRun
from markovae.networks.condition import Condition
from markovae.networks.network import Network
from markovae.objective import loss, nats_weight, scatter
from markovae.optim import MuonAdamW, split_weights
from markovae.randomness import generator
from markovae.training.average import Average
from markovae.training.batches import Batch, Batches
from markovae.training.budget import Budget, rate_factor
from markovae.training.precision import Choice, dtype_named, probe
from markovae.training.stopwatch import Stopwatch

PROBE_IMAGES = 16  # of a batch: enough to tell two precisions apart, cheap where one of them is hopeless
Tensors = dict[str, dict[str, Tensor]]


class NonFiniteError(StoppedRun):
    """A loss, gradient or weight that is no number: raised before the optimiser and the average see it."""


@dataclass(frozen=True)
class Step:
    """What one step of training did.

    Args:
        index: steps done, this one included.   total: steps of the run, None while it is not fixed.
        images_seen: so far.   loss: weighted mean squared error of the target, per dim.
        nats: unbiased estimate of the levels' terms of the bound with variance β̃, per image, from this batch.
        lr: rate of the first group.   grad_norm: of the gradient before clipping.
        seconds: of the run so far.   images_per_second: of this step.
    """

    index: int
    total: int | None
    images_seen: int
    loss: float
    nats: float
    lr: float
    grad_norm: float
    seconds: float
    images_per_second: float


@final
class Training:
    """A model in training: weights, their average, the optimiser and the position; one call of `advance` a step.

    Args:
        model: trained in place.   data: the training set.   config: the section [train].
        flip: mirror images at random.   clock: seconds.
    Raises:
        UserError: with fewer images than a batch.
    """

    def __init__(
        self,
        model: Diffusion,
        data: ImageData,
        config: TrainConfig,
        flip: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.config, self._clock = model.train(), config, clock
        self.objective = create_objective(config, model.target, model.schedule)
        draws = create_draws(config, model.target, model.schedule)
        self.batches = Batches(
            data, model.pixels, self.objective, config.seed, config.batch, flip, config.label_dropout, draws
        )
        self.optimiser = _optimiser(model, config)
        self.average = Average(model, config.ema_horizon, config.ema_warmup)
        self.budget = Budget(config.steps, config.seconds)
        self.precision: Choice | None = None
        self.step, self.skipped, self.rollbacks = 0, 0, 0
        self._watch = Stopwatch(clock)
        self._parameters = dict(model.named_parameters())
        self._guarded = {"weight": _weights(model), "the average of": _weights(self.average.model)}
        # Level 1 is the decoder's, so it counts nothing here; a level that is never drawn never asks for its share.
        self._nats = model.dims * nats_weight(model.target, model.schedule) / self.objective.probability
        self._nats[0] = 0.0
        self._scatter = scatter(model.target, model.schedule)

    @property
    def seconds(self) -> float:
        """Time of the run so far, interruptions left out."""
        return self._watch.seconds

    @property
    def done(self) -> bool:
        """True when the budget is spent."""
        return self.budget.total is not None and self.step >= self.budget.total

    def choose_precision(self) -> Choice:
        """The precision of every step of the run: probed once, then kept (and replayed on resume)."""
        if self.precision is None:
            name = self.config.precision
            if name == "auto":
                batch = self.batches.at(0).part(0, PROBE_IMAGES).to(self.model.device)
                self.precision = probe(lambda dtype: self._rehearse(batch, dtype), lambda: self.seconds)
            else:
                self.precision = Choice(dtype_named(name), f"{name}, as train.precision says")
        return self.precision

    def advance(self) -> Step:
        """One step: draws, loss, gradient, check, clip, optimiser, average.

        Raises:
            NonFiniteError: before anything changed, naming step, levels and example ids.
        """
        dtype = self.choose_precision().dtype
        started = self.seconds
        batch = self.batches.at(self.step + self.skipped).to(self.model.device)
        self._check_weights(batch)
        value, nats = self._gradient(batch, dtype)
        norm = self._clip(batch)
        factor = rate_factor(self.step, self.budget.total, self.config.warmup_steps, self.config.decay_start)
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.optimiser.step()
        self.step += 1
        self.average.update(self.step)
        took = self.seconds - started
        self.budget.note(self.step, took, self.seconds)
        rate = self.optimiser.param_groups[0]["lr"]
        seen, size = self.step * self.config.batch, self.config.batch
        return Step(self.step, self.budget.total, seen, value, nats, rate, norm, self.seconds, size / max(took, 1e-9))

    def extend(self, *, steps: int | None = None, minutes: float | None = None) -> None:
        """Give the run a new budget, counted from its beginning; a time is turned into steps anew."""
        self.budget = Budget(steps, None if minutes is None else 60 * minutes, self.budget.reserve)

    # -- capture and restore ------------------------------------------------------------------------------------

    def capture(self) -> tuple[Tensors, dict[str, Any]]:
        """(tensors by file, position): all that `restore` needs to go on bit by bit.

        The tensors are the live ones: write or copy them before the next step.

        Raises:
            NonFiniteError: where a tensor holds a number that is none; it must not be saved.
        """
        tensors = {
            "model": _weights(self.model),
            "ema": _weights(self.average.model),
            "optimizer": self.optimiser.state_tensors(),
        }
        for file, table in tensors.items():
            for name, value in table.items():
                if value.is_floating_point() and not bool(value.isfinite().all()):
                    raise NonFiniteError(f"{file}: {name} is not finite after step {self.step}: it is not saved")
        draws = draws_record(self.config.seed, self.config.batch, len(self.batches.data), self.step, self.skipped)
        position = {
            "step": self.step,
            "draws": draws,
            "rollbacks": self.rollbacks,
            "images_seen": self.step * self.config.batch,
            "total_steps": self.budget.total,
            "seconds": self.seconds,
            "precision": None if self.precision is None else str(self.precision.dtype).removeprefix("torch."),
        }
        return tensors, position

    def restore(self, tensors: Tensors, position: dict[str, Any]) -> None:
        """Go back to a captured state, on the same model and data.

        Raises:
            ValueError: for tensors that do not fit the model.
        """
        draws = position["draws"]
        own = {"seed": self.config.seed, "batch": self.config.batch, "images": len(self.batches.data)}
        for name, value in own.items():
            if draws[name] not in (None, value):
                raise ValueError(f"its draws have {name}={draws[name]} and this run has {value}")
        load_weights(self.model, tensors["model"])
        load_weights(self.average.model, tensors["ema"])
        self.optimiser.load_state_tensors(tensors["optimizer"])
        self.step, self.skipped = int(position["step"]), int(draws["skipped"])
        self.rollbacks = int(position["rollbacks"])
        self._watch = Stopwatch(self._clock, float(position["seconds"]))
        self.budget.total = position["total_steps"]
        if position["precision"] is not None:
            name = position["precision"]
            self.precision = Choice(dtype_named(name), f"{name}, as when the run began")

    def roll_back(self, tensors: Tensors, position: dict[str, Any]) -> None:
        """Go back to a captured state and leave out every batch from there up to the present one; time goes on.

        Source: Chowdhery et al. 2022, section 5.1, who met spikes of the loss in this way.
        """
        batch, rollbacks, watch, total = self.step + self.skipped, self.rollbacks, self._watch, self.budget.total
        self.restore(tensors, position)
        self.skipped = batch + 1 - self.step
        self.rollbacks, self._watch, self.budget.total = rollbacks + 1, watch, total

    # -- one step -----------------------------------------------------------------------------------------------

    def _gradient(self, batch: Batch, dtype: torch.dtype) -> tuple[float, float]:
        """Leave the gradient of the mean loss in the parameters; (loss, nats)."""
        self.optimiser.zero_grad(set_to_none=True)
        size = len(batch.example)
        edges = [size * i // self.config.accumulate for i in range(self.config.accumulate + 1)]
        weighted, plain = [], []
        device = self.model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(generator(self.config.seed, "dropout", self.step + self.skipped).initial_seed())
            for start, stop in pairwise(edges):
                losses, errors = self._losses(batch.part(start, stop), dtype)
                (losses.sum() / size).backward()
                weighted.append(losses.detach())
                plain.append(errors.detach())
        losses, errors = torch.cat(weighted).cpu(), torch.cat(plain).cpu()
        self._check(losses, batch, "loss")
        place, plain_errors = batch.draw.level.cpu() - 1, errors.double()
        if batch.draw.fresh is not None:
            plain_errors = plain_errors - self._scatter[place]
        nats = (self._nats[place] * plain_errors).mean()
        return float(losses.mean()), float(nats)

    def _losses(self, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        condition = None if batch.label is None else Condition(label=batch.label).drop(batch.keep)
        model = self.model
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            return loss(model.network, batch.x, batch.draw, condition, self.objective, model.target, model.schedule)

    def _rehearse(self, batch: Batch, dtype: torch.dtype) -> None:
        """A step's forward and backward pass without consequences."""
        self._gradient(batch, dtype)
        self.optimiser.zero_grad(set_to_none=True)
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)

    def _check(self, losses: Tensor, batch: Batch, what: str) -> None:
        bad = ~losses.isfinite()
        if bool(bad.any()):
            raise self._refused(f"the {what} is {float(losses[bad][0])}", batch, bad)

    def _refused(self, what: str, batch: Batch, bad: Tensor | None = None) -> NonFiniteError:
        """The error for a step that is not taken; `bad` tells which examples to name, (B,), all where it is None."""
        bad = torch.ones(len(batch.example), dtype=torch.bool) if bad is None else bad
        levels, examples = batch.draw.level.cpu()[bad].tolist(), batch.example[bad].tolist()
        return NonFiniteError(
            f"{what} at step {self.step + 1}, levels {_listed(levels)}, training images {_listed(examples)}: "
            "the step was not taken"
        )

    def _check_weights(self, batch: Batch) -> None:
        """Refuse a step from weights, or an average, that are no numbers."""
        norms = [nn.utils.get_total_norm(list(table.values())) for table in self._guarded.values()]
        if bool(torch.stack(norms).isfinite().all()):
            return
        names = [f"{what} {name}" for what, table in self._guarded.items() for name in _unfinite(table)]
        if names:
            raise self._refused(f"{_listed(names)} {'is' if len(names) == 1 else 'are'} not finite", batch)

    def _clip(self, batch: Batch) -> float:
        """Clip the gradient; its norm before."""
        weights = [weight for weight in self._parameters.values() if weight.grad is not None]
        norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        if not bool(norm.isfinite()):
            names = _unfinite({name: w.grad for name, w in self._parameters.items() if w.grad is not None})
            raise self._refused(f"the gradient of {_listed(names) if names else 'the weights'} is not finite", batch)
        nn.utils.clip_grads_with_norm_(weights, self.config.clip, norm)
        return float(norm)


def _unfinite(table: Mapping[str, Tensor]) -> list[str]:
    return [name for name, value in table.items() if not bool(value.isfinite().all())]


def _optimiser(model: Diffusion, config: TrainConfig) -> MuonAdamW:
    network = model.network
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    hidden = split_weights(network)[0] if config.optimiser == "muon" and isinstance(network, Network) else []
    chosen = {id(weight) for weight in hidden}
    return MuonAdamW(
        hidden,
        [weight for weight in trained if id(weight) not in chosen],
        lr=config.lr,
        rest_lr=config.rest_lr,
        momentum=config.momentum,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )


def _weights(model: Diffusion) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters()}


def _listed(items: list[Any]) -> str:
    return ", ".join(str(item) for item in items[:8]) + (f" and {len(items) - 8} more" if len(items) > 8 else "")
