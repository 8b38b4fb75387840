"""The state of a training run and its one step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from markovae.build import create_draws, load_weights
from markovae.config import TrainConfig
from markovae.data.images import ImageData
from markovae.diffusion import Diffusion
from markovae.errors import StoppedRun
from markovae.fitting import fit_in_place, fitted_tensors, is_fitted_kind, load_fitted
from markovae.networks.network import Network
from markovae.objective import Objective
from markovae.optim import MuonAdamW, split_weights
from markovae.randomness import generator
from markovae.training.average import Average
from markovae.training.batches import Batch, Batches
from markovae.training.budget import Budget, rate_factor
from markovae.training.losses import create_loss
from markovae.training.precision import Choice, dtype_named, probe

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
        flip: mirror images at random.   clock: seconds, monotonic.
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
        self.loss = create_loss(model, config)
        draws = create_draws(config, model.target, model.schedule)
        self.batches = Batches(
            data, model.pixels, self.loss.objective, config.seed, config.batch, flip, config.label_dropout, draws
        )
        self.optimiser = _optimiser(model, config)
        self.average = Average(model, config.ema_horizon, config.ema_warmup)
        self.budget = Budget(config.steps, config.seconds)
        self.precision: Choice | None = None
        self.step, self._seconds, self._started = 0, 0.0, clock()
        self._parameters = dict(model.named_parameters())
        # A schedule's gradient has units of its own: it neither sets nor suffers the clipping of the network's.
        self._clipped = set(self._parameters) - {f"schedule.{name}" for name, _ in model.schedule.named_parameters()}

    @property
    def objective(self) -> Objective:
        """The law of the next step's levels and their weights."""
        return self.loss.objective

    @property
    def seconds(self) -> float:
        """Time of the run so far, interruptions left out."""
        return self._seconds + self._clock() - self._started

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
                self.precision = probe(lambda dtype: self._rehearse(batch, dtype), self._clock)
            else:
                self.precision = Choice(dtype_named(name), f"{name}, as train.precision says")
        return self.precision

    def advance(self) -> Step:
        """One step: draws, loss, gradient, check, clip, optimiser, average.

        Raises:
            NonFiniteError: before anything changed, naming step, levels and example ids.
        """
        dtype = self.choose_precision().dtype
        started = self._clock()
        batch = self.batches.at(self.step).to(self.model.device)
        losses, nats = self._gradient(batch, dtype)
        norm = self._clip(batch)
        factor = rate_factor(self.step, self.budget.total, self.config.warmup_steps, self.config.decay_start)
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.optimiser.step()
        self.loss.note(batch, losses)
        self.batches.objective = self.objective
        self.step += 1
        self.average.update(self.step)
        took = self._clock() - started
        self.budget.note(self.step, took, self.seconds)
        value, rate = float(losses.mean()), self.optimiser.param_groups[0]["lr"]
        seen, size = self.step * self.config.batch, self.config.batch
        return Step(self.step, self.budget.total, seen, value, nats, rate, norm, self.seconds, size / max(took, 1e-9))

    def extend(self, *, steps: int | None = None, minutes: float | None = None) -> None:
        """Give the run a new budget, counted from its beginning; a time is turned into steps anew."""
        self.budget = Budget(steps, None if minutes is None else 60 * minutes, self.budget.reserve)

    def fit_variance(self) -> None:
        """Fit the averaged model's reverse variance, where it is one to fit, to training images spread over the set."""
        model, data = self.average.model, self.batches.data
        if not is_fitted_kind(model):
            return
        chosen = np.linspace(0, len(data) - 1, min(self.config.fit_images, len(data))).round().astype(np.int64)
        labels = None if data.labels is None else data.labels[chosen]
        fit_in_place(model, data.images[chosen], labels, seed=self.config.seed, batch=max(self.config.batch, 64))

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
        if fitted := fitted_tensors(self.average.model):
            tensors["fitted"] = fitted
        for file, table in tensors.items():
            for name, value in table.items():
                if value.is_floating_point() and not bool(value.isfinite().all()):
                    raise NonFiniteError(f"{file}: {name} is not finite after step {self.step}: it is not saved")
        position = {
            "step": self.step,
            "images_seen": self.step * self.config.batch,
            "total_steps": self.budget.total,
            "seconds": self.seconds,
            "precision": None if self.precision is None else str(self.precision.dtype).removeprefix("torch."),
        }
        if (law := self.loss.capture()) is not None:
            position["law"] = law
        return tensors, position

    def restore(self, tensors: Tensors, position: dict[str, Any]) -> None:
        """Go back to a captured state, on the same model and data.

        Raises:
            ValueError: for tensors that do not fit the model.
        """
        load_weights(self.model, tensors["model"])
        load_weights(self.average.model, tensors["ema"])
        self.optimiser.load_state_tensors(tensors["optimizer"])
        load_fitted(self.average.model, tensors.get("fitted", {}))
        self.loss.restore(position.get("law"))
        self.batches.objective = self.objective
        self.step = int(position["step"])
        self._seconds, self._started = float(position["seconds"]), self._clock()
        self.budget.total = position["total_steps"]
        if position["precision"] is not None:
            name = position["precision"]
            self.precision = Choice(dtype_named(name), f"{name}, as when the run began")

    # -- one step -----------------------------------------------------------------------------------------------

    def _gradient(self, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, float]:
        """Leave the gradient of the mean loss in the parameters; (losses, (B,), on the CPU, and the mean nats)."""
        self.optimiser.zero_grad(set_to_none=True)
        size, model = len(batch.example), self.model
        edges = [size * i // self.config.accumulate for i in range(self.config.accumulate + 1)]
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(generator(self.config.seed, "dropout", self.step).initial_seed())
            parts = [
                self.loss.backward(model.network, batch.part(start, stop), size, dtype)
                for start, stop in pairwise(edges)
            ]
        losses = torch.cat([part.loss for part in parts]).cpu()
        self._check(losses, batch, "loss")
        return losses, float(torch.cat([part.nats for part in parts]).mean())

    def _rehearse(self, batch: Batch, dtype: torch.dtype) -> None:
        """A step's forward and backward pass without consequences."""
        self._gradient(batch, dtype)
        self.optimiser.zero_grad(set_to_none=True)
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)

    def _check(self, losses: Tensor, batch: Batch, what: str) -> None:
        bad = ~losses.isfinite()
        if bool(bad.any()):
            levels, examples = batch.draw.level.cpu()[bad].tolist(), batch.example[bad].tolist()
            raise NonFiniteError(
                f"the {what} is {float(losses[bad][0])} at step {self.step + 1}, levels {_listed(levels)}, "
                f"training images {_listed(examples)}: the step was not taken"
            )

    def _clip(self, batch: Batch) -> float:
        """Clip the gradient; its norm before."""
        weights = [weight for weight in self._parameters.values() if weight.grad is not None]
        norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        if not bool(norm.isfinite()):
            names = [name for name, w in self._parameters.items() if w.grad is not None and not w.grad.isfinite().all()]
            raise NonFiniteError(
                f"the gradient of {_listed(names) if names else 'the weights'} is not finite at step {self.step + 1}, "
                f"levels {_listed(batch.draw.level.tolist())}, training images {_listed(batch.example.tolist())}: "
                "the step was not taken"
            )
        network = [weight for name, weight in self._parameters.items() if name in self._clipped]
        if len(network) < len(self._parameters):
            norm = nn.utils.get_total_norm([weight.grad for weight in network if weight.grad is not None])
        nn.utils.clip_grads_with_norm_(network, self.config.clip, norm)
        return float(norm)


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
