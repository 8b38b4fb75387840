"""The state of a training run and its one step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from copy import copy
from functools import partial
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor, nn

from markovae.data.images import ImageData
from markovae.diffusion.cascade import Cascade, Model
from markovae.diffusion.fitted_variance import fitted_tensors, is_fitted_kind, load_fitted
from markovae.diffusion.model import load_weights
from markovae.diffusion.objective import MeanNoise, Objective
from markovae.errors import UserError
from markovae.log import log
from markovae.networks.embedding import working_type
from markovae.randomness import generator
from markovae.system.distributed import Ranks
from markovae.system.memory import halved, out_of_memory, within_memory
from markovae.system.threads import Threads
from markovae.training.batches import Ahead, Batch, Batches, BatchIndices, draws_record
from markovae.training.budget import Budget, Timer, rate_factor
from markovae.training.cascade_loss import CascadeLoss
from markovae.training.ema import EMA
from markovae.training.examples import Examples
from markovae.training.losses import (
    LevelLoss,
    Loss,
    Losses,
    OwnFunction,
    create_loss,
    create_noise_sampling,
    require_shardable,
)
from markovae.training.optimizers import create_optimizer
from markovae.training.precision import Choice, dtype_named, prepared, probe, without_timing
from markovae.training.sharding import full_tensor, local_shard, shard_tables, sharded
from markovae.training.train_config import TrainConfig
from markovae.training.train_step import (
    TrainStep,
    clip,
    fitting_after,
    not_taken,
    require_gradient,
    require_savable,
    require_useful,
    total_norm,
    unfinite_weights,
)

PROBE_IMAGES = 16  # of a batch: enough to tell two precisions apart, cheap where one of them is hopeless
# After 40 steps of 4 images the bound of faces was 0.184 bits/dim worse in an ordinary run, with a warm-up of 50, 200
# and 500 steps 0.051, 0.002 and 0.000.
PRETRAINED_WARMUP = 10
Tensors = dict[str, dict[str, Tensor]]


@final
class Training:
    """A model in training: weights, their average, the optimizer and the position; one call of `advance` a step.

    Args:
        model: trained in place.
        data: the training set.
        config: the section [train].
        flip: mirror images at random.
        clock: seconds.
        ranks: the processes that train together, each its part of every batch; None is this one alone.
        own: an objective or a loss of the caller's own.
        pretrained: the weights are trained ones of another run: the warm-up is ten times as long, however short the
            run, and the average, which begins as these weights, counts as old as the warm-up is long, so that no
            single step replaces it.
    Raises:
        UserError: with fewer images than a batch, or fewer images in a batch than processes.
    """

    def __init__(
        self,
        model: Model,
        data: ImageData | Examples,
        config: TrainConfig,
        flip: bool = False,
        clock: Callable[[], float] = time.monotonic,
        ranks: Ranks | None = None,
        own: Objective | OwnFunction | Loss | None = None,
        pretrained: bool = False,
    ) -> None:
        self.model, self.config, self._clock = model.train(), config, clock
        self.pretrained = pretrained
        model.null_trained = config.label_dropout > 0
        self.ranks = Ranks() if ranks is None else ranks
        self.ranks.require_work(config.batch)
        self.loss = _loss(model, config, own)
        require_shardable(config, self.loss)
        cascaded = isinstance(model, Cascade)
        draws = MeanNoise() if cascaded else create_noise_sampling(config, model.target, model.schedule)
        self.batches = Batches(
            data, model.pixels, self.loss.objective, config.seed, config.batch, flip, config.label_dropout, draws
        )
        self._ahead = Ahead(self.batches, model.device)
        self.average = EMA(model, config.ema_horizon, config.ema_warmup)
        self.spread = config.parallel == "fsdp" and not self.ranks.alone
        if self.spread:
            with self.ranks.guarded():
                sharded(model.network, self.ranks.size, model.device)
            self.average.spread(model, self.ranks.first)
        self.optimizer = create_optimizer(model, config)
        self.budget = Budget(config.steps, config.seconds)
        self.precision: Choice | None = None
        self.step, self.skipped, self.rollbacks, self.num_microbatches = 0, 0, 0, config.accumulate
        self._timer, self._fitted_at = Timer(clock), -1
        self.threads = Threads(self.ranks.alone and model.device.type == "cpu", lambda: self.seconds)
        self._parameters = dict(model.named_parameters())
        self._type = next((working_type(weight) for weight in model.network.parameters()), torch.float32)
        # A schedule that learns takes several passes per step, which DistributedDataParallel does not: summed
        # after them.
        wrap = isinstance(self.loss, LevelLoss)
        network = model.network if isinstance(model, Cascade) else prepared(model, config)
        self._network = self.ranks.wrapped(network) if wrap and not self.spread else network
        reduced = set(model.network.parameters()) if wrap else set()
        self._unreduced = [weight for weight in model.parameters() if weight.requires_grad and weight not in reduced]
        # A schedule's gradient has units of its own: it neither sets nor suffers the clipping of the network's.
        self._clipped = set(self._parameters) - {f"schedule.{name}" for name, _ in model.schedule.named_parameters()}

    @property
    def objective(self) -> Objective:
        """The distribution of the next step's levels, and their weights."""
        return self.loss.objective

    @property
    def seconds(self) -> float:
        """Time of the run so far, interruptions left out."""
        return self._timer.seconds

    @property
    def done(self) -> bool:
        """True when the budget is spent."""
        return self.budget.total is not None and self.step >= self.budget.total

    def choose_precision(self) -> Choice:
        """The precision of every step of the run: probed once, after the threads, and kept (replayed on resume)."""
        if self.precision is None:
            self.threads.choose()
            name = self.config.precision
            if name == "auto" and self.spread:
                self.precision = Choice(torch.float32, "float32: fsdp times nothing; see train.precision")
            elif name == "auto" and not self.ranks.first:
                self.precision = Choice(torch.float32, "")
            elif name == "auto":
                self.precision = without_timing(self.model.device) or self._timed_precision()
            else:
                self.precision = Choice(dtype_named(name), f"{name}, as train.precision says")
            # Two machines may time it differently: the first process's choice is everyone's.
            (use_bf16,) = self.ranks.firsts(self.precision.dtype == torch.bfloat16)
            self.precision = Choice(torch.bfloat16 if use_bf16 else torch.float32, self.precision.reason)
        return self.precision

    def _timed_precision(self) -> Choice:
        batch = self.batches.at(0).part(0, PROBE_IMAGES).to(self.model.device, self._type)
        return probe(lambda dtype: self._rehearse(batch, dtype), lambda: self.seconds)

    def __iter__(self) -> Iterator[TrainStep]:
        """The loop of every training: steps until the budget is spent; `fit` and a run both drive it."""
        while not self.done:
            yield self.advance()

    def advance(self) -> TrainStep:
        """One step: draws, loss, gradient, check, clip, optimizer, average.

        Raises:
            NonFiniteError: before anything changed, naming step, levels and example ids; or after a learned schedule
                became one that nobody can use.
        """
        dtype = self.choose_precision().dtype
        started = self.seconds
        number, share = self.step + self.skipped, self.ranks.here.share(self.config.batch)
        indices_of, batch = self._ahead.at(number, share)
        batch = batch.to(self.model.device, self._type)
        losses, nats, norm = self._gradient(batch, indices_of, dtype)
        warmup = self.config.warmup_steps * (PRETRAINED_WARMUP if self.pretrained else 1)
        decay_start = self.config.decay_start
        factor = rate_factor(self.step, self.budget.expected, warmup, decay_start, self.pretrained)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        with self.ranks.guarded():
            self.optimizer.step()
        require_useful(self.model, self.step + 1)
        self.loss.note(indices_of, losses)
        self.batches.objective = self.objective
        self.step += 1
        self.average.update(self.step + (warmup if self.pretrained else 0))
        took = self.seconds - started
        self._note_time(took)
        self.threads.note(took)
        value, rate = float(losses.sum(1).mean()), self.optimizer.param_groups[0]["lr"]
        seen, size = self.step * self.config.batch, self.config.batch
        return TrainStep(
            index=self.step,
            total=self.budget.total,
            images_seen=seen,
            loss=value,
            nats=nats,
            lr=rate,
            grad_norm=norm,
            seconds=self.seconds,
            images_per_second=size / max(took, 1e-9),
            averaged=self.averaged,
        )

    def averaged(self) -> Model:
        """The averaged model, its reverse variance fitted to the average of this very step."""
        if self._fitted_at != self.step:
            self.fit_variance()
        return self.average.model

    def _note_time(self, took: float) -> None:
        """Let the budget know; several processes take the length that the first one finds."""
        replanned = self.budget.is_replanned(self.step)
        self.budget.note(self.step, took, self.seconds)
        if replanned and not self.ranks.alone:
            (total,) = self.ranks.firsts(-1 if self.budget.total is None else self.budget.total)
            self.budget.total = None if total < 0 else int(total)

    def extend(self, *, steps: int | None = None, minutes: float | None = None) -> None:
        """Give the run a new budget, counted from its beginning; a time is turned into steps anew."""
        (spent,) = self.ranks.firsts(self.seconds)
        self.budget = self.budget.renewed(steps, minutes, self.step, spent)

    def fit_variance(self, images: int | None = None) -> None:
        """Fit the averaged model's reverse variance, where it is one to fit, to training images spread over the set.

        Args:
            images: how many; None is train.fit_images.
            Raises: NonFiniteError where its errors are NaN or Inf.
        """
        model, data = self.average.model, self.batches.data
        if not is_fitted_kind(model):
            return
        from markovae.likelihood.fitting import fit_stages

        some = data.spread(self.config.fit_images if images is None else images)
        labels = some.label if some.known is None else some.known
        fit = partial(fit_stages, model, some.images, labels, seed=self.config.seed)
        with fitting_after(self.step):
            within_memory(lambda size: fit(batch=size), max(self.config.batch, 64))
        self._fitted_at = self.step

    # -- capture and restore ------------------------------------------------------------------------------------

    def gather(self) -> None:
        """Bring the first process's averaged model up to date; of weights that are spread, every one must call it."""
        with self.ranks.guarded():
            self.average.gather()

    def gathered(self) -> Tensors:
        """The tensors of `capture`, by file; of weights that are spread, every process must call it."""
        self.gather()
        tensors = {"model": _weights(self.model), "optimizer": self.optimizer.state_tensors()}
        if self.spread:
            with self.ranks.guarded():
                tensors = {file: self._gathered_tables(table) for file, table in tensors.items()}
        ema = _weights(self.average.model) if self.ranks.first or not self.spread else {}
        return {"model": tensors["model"], "ema": ema, "optimizer": tensors["optimizer"]}

    def _gathered_tables(self, table: dict[str, Tensor]) -> dict[str, Tensor]:
        """All rows, one tensor after the other: on the CPU of the first process, nowhere on the others."""
        rows = ((name, full_tensor(value)) for name, value in table.items())
        return {name: value.cpu() for name, value in rows if self.ranks.first}

    def capture(self, gathered: Tensors | None = None) -> tuple[Tensors, dict[str, Any]]:
        """(tensors by file, position): all that `restore` needs to continue bit by bit.

        The tensors are the live ones: write or copy them before the next step.

        Args:
            gathered: what `gathered` gave at this step, where this process alone captures.
        Raises:
            NonFiniteError: where a tensor holds NaN or Inf, or a schedule is useless; neither is saved.
        """
        tensors = dict(self.gathered() if gathered is None else gathered)
        if fitted := fitted_tensors(self.average.model):
            tensors["fitted"] = fitted
        require_savable(tensors, (self.model, self.average.model), self.step)
        return tensors, self.position()

    def position(self) -> dict[str, Any]:
        """Where the training is: what `restore` needs besides tensors, for JSON."""
        draws = draws_record(self.config.seed, self.config.batch, self.batches.data.count, self.step, self.skipped)
        position = {
            "step": self.step,
            "draws": draws,
            "rollbacks": self.rollbacks,
            "parts": self.num_microbatches,
            "images_seen": self.step * self.config.batch,
            **({"pretrained": True} if self.pretrained else {}),
            **self.budget.capture(),
            "seconds": self.seconds,
            "threads": self.threads.count,
            "precision": None if self.precision is None else str(self.precision.dtype).removeprefix("torch."),
        }
        if (distribution := self.loss.capture()) is not None:
            position["level_sampling"] = distribution
        return position

    def restore(self, tensors: Tensors, position: dict[str, Any]) -> None:
        """Go back to a captured state, on the same model and data.

        Raises:
            ValueError: for tensors that do not fit the model.
        """
        draws = position["draws"]
        own = {"seed": self.config.seed, "batch": self.config.batch, "images": self.batches.data.count}
        for name, value in own.items():
            if draws[name] not in (None, value):
                raise ValueError(f"its draws have {name}={draws[name]} and this run has {value}")
        load_weights(self.model, shard_tables(tensors["model"], self._parameters))
        self.average.load(tensors["ema"])
        self.optimizer.load_state_tensors(tensors["optimizer"])
        load_fitted(self.average.model, tensors.get("fitted", {}))
        self.loss.restore(position.get("level_sampling"))
        self.batches.objective = self.objective
        self.step, self.skipped = int(position["step"]), int(draws["skipped"])
        self.pretrained = bool(position.get("pretrained", False))
        self.rollbacks, self.num_microbatches = (
            int(position["rollbacks"]),
            int(position.get("parts", self.num_microbatches)),
        )
        self._timer = Timer(self._clock, float(position["seconds"]))
        self.budget.restore(position)
        self.threads.restore(int(position.get("threads", self.threads.count)))
        if position["precision"] is not None:
            name = position["precision"]
            self.precision = Choice(dtype_named(name), f"{name}, as when the run began")

    def roll_back(self, tensors: Tensors, position: dict[str, Any]) -> None:
        """Go back to a captured state and leave out every batch from there up to the present one; time goes on.

        Source: Chowdhery et al. 2022, section 5.1, who met spikes of the loss in this way.
        """
        batch, rollbacks, timer, budget = self.step + self.skipped, self.rollbacks, self._timer, copy(self.budget)
        self.restore(tensors, position)
        self.skipped = batch + 1 - self.step
        self.rollbacks, self._timer, self.budget = rollbacks + 1, timer, budget

    # -- one step -----------------------------------------------------------------------------------------------

    def _gradient(self, batch: Batch, indices_of: BatchIndices, dtype: torch.dtype) -> tuple[Tensor, float, float]:
        """Leave the clipped gradient of the mean loss in the parameters.

        Every process learns every loss, and whether another is in trouble: all stop at one step, or none. What decides
        that is read at once, the only moment of a step at which a device is waited for.

        Returns: losses, (B, S), on the CPU, the mean nats, and the gradient's norm before it was clipped.
        """
        with self.ranks.guarded():
            own = self._backward(self._network, batch, self.config.batch, dtype)
        self.ranks.sum_gradients(self._unreduced)
        held = {name: local_shard(weight) for name, weight in _weights(self.model).items()}
        gradients = {name: weight.grad for name, weight in self._parameters.items() if weight.grad is not None}
        clipped = [gradient for name, gradient in gradients.items() if name in self._clipped]
        tables: list[Iterable[Tensor]] = [held.values(), self.average.held.values(), gradients.values()]
        tables += [clipped] if len(clipped) < len(gradients) else []
        with self.ranks.guarded():
            norms = [total_norm(table) for table in tables]
        values = [*own.loss.unbind(1), own.nats, *(norm.to(own.loss.device).reshape(1) for norm in norms)]
        read = torch.cat([value.double() for value in values]).cpu()
        rows, (weight_norm, average_norm, *gradient_norms) = (
            read[: -len(norms)].reshape(own.loss.shape[1] + 1, -1).T,
            read[-len(norms) :].tolist(),
        )
        trouble = None
        if not math.isfinite(weight_norm + average_norm):
            trouble = unfinite_weights(held, self.average.held, self.step + 1, indices_of)
        rows = torch.cat([rows, torch.full_like(rows[:, :1], trouble is not None)], 1)
        table = self.ranks.gather_rows(rows, self.config.batch)
        losses, nats, troubled = table[:, :-2].to(own.loss.dtype), table[:, -2], table[:, -1] > 0
        if trouble is not None:
            raise trouble
        if bool(troubled.any()):
            who = self.ranks.owner(int(troubled.nonzero()[0]), self.config.batch)
            raise not_taken(
                f"rank {who} has a weight, or an average of one, that is not finite", self.step + 1, indices_of
            )
        total = losses.sum(1)
        bad = ~total.isfinite()
        if bool(bad.any()):
            raise not_taken(f"the loss is {float(total[bad][0])}", self.step + 1, indices_of, bad)
        require_gradient(gradients, gradient_norms[0], self.step + 1, indices_of)
        clip(clipped, gradient_norms[-1], self.config.clip)
        return losses, float(nats.mean()), gradient_norms[-1]

    def _backward(self, network: nn.Module, batch: Batch, size: int, dtype: torch.dtype) -> Losses:
        """Add the gradient of the batch's losses over `size`, part by part; the losses, on the device.

        Where memory runs out, from then on in parts of half the size: the draws and the mean loss are the same.

        Raises:
            StoppedRun: where one image is too large.
        """
        count = len(batch.example)
        while True:
            try:
                return self._in_microbatches(network, batch, size, dtype)
            except (RuntimeError, MemoryError, SystemError) as error:
                if not out_of_memory(error):
                    raise
            # Here the error, and with it what it held in memory, is gone.
            self.num_microbatches = halved(min(self.num_microbatches, count), count, self.ranks.alone)
            self.optimizer.zero_grad(set_to_none=True)
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
            log(f"memory ran out: a batch is computed in {self.num_microbatches} parts from here on (train.accumulate)")

    def _in_microbatches(self, network: nn.Module, batch: Batch, size: int, dtype: torch.dtype) -> Losses:
        self.optimizer.zero_grad(set_to_none=True)
        count, device = len(batch.example), self.model.device
        number = min(self.num_microbatches, count)
        edges = [count * i // number for i in range(number + 1)]
        rank = () if self.ranks.first else (self.ranks.here.rank,)
        made = []
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            # torch.manual_seed would ask every kind of device, and take a stack trace for each that is not there.
            seed = torch.manual_seed if device.type != "cpu" else torch.default_generator.manual_seed
            seed(generator(self.config.seed, "dropout", self.step + self.skipped, *rank).initial_seed())
            for start, stop in pairwise(edges):
                with self.ranks.gathering(network) if stop < count else nullcontext():
                    made.append(self.loss.backward(network, batch.part(start, stop), size, dtype))
        return Losses(*(torch.cat([getattr(part, name) for part in made]) for name in ("loss", "nats")))

    def _rehearse(self, batch: Batch, dtype: torch.dtype) -> None:
        """A step's forward and backward pass without consequences, and without other processes."""
        self._backward(self.model.network, batch, len(batch.example), dtype)
        self.optimizer.zero_grad(set_to_none=True)
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)


def _loss(model: Model, config: TrainConfig, own: Objective | OwnFunction | Loss | None) -> Loss:
    if not isinstance(model, Cascade):
        return create_loss(model, config, own)
    if own is not None:
        raise UserError("an objective or a loss of your own is for models of one stage: leave it out")
    return CascadeLoss(model, config)


def _weights(model: Model) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters()}
