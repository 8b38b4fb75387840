"""What a step of training says of itself, and why one is not taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass

import torch
from torch import Tensor, nn

from markovae.diffusion.cascade import Model
from markovae.diffusion.learned_schedule import LearnedLogSNR
from markovae.errors import StoppedRun, UserError
from markovae.training.batches import BatchIndices
from markovae.training.sharding import full_tensor, is_sharded, local_shard


class NonFiniteError(StoppedRun):
    """A loss, gradient or weight that is NaN or Inf: raised before the optimizer and the average see it."""


@dataclass(frozen=True)
class TrainStep:
    """What one step of training did.

        for step in mv.fit(model, data, steps=2):
            print(step.index, step.loss)

    Args:
        index: steps done, this one included.
        total: steps of the run, None while it is not fixed.
        images_seen: so far.
        loss: weighted mean squared error of the target, per dim; with objective=bound, nats per dim in a fixed unit.
        nats: unbiased estimate of the levels' terms of the bound with variance β̃, per image, from this batch; NaN with
            a loss of the caller's own.
        lr: rate of the first group.
        grad_norm: of the gradient before clipping.
        seconds: of the run so far.
        images_per_second: of this step.
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
    averaged: InitVar[Callable[[], Model] | None] = None

    def __post_init__(self, averaged: Callable[[], Model] | None) -> None:
        object.__setattr__(self, "_averaged", averaged)  # no field, so that a step is a row of numbers

    @property
    def ema(self) -> Model:
        """The averaged model as it is now, to sample, measure and save in the middle of a training.

        It is the training's own average: it moves with the next step, so `copy.deepcopy` what is to stay.
        A reverse variance that images fit is fitted to it first.
        """
        averaged: Callable[[], Model] | None = getattr(self, "_averaged", None)
        if averaged is None:
            raise UserError("this step has no averaged model: it was not yielded by mv.fit")
        return averaged()


def not_taken(what: str, step: int, indices_of: BatchIndices, bad: Tensor | None = None) -> NonFiniteError:
    """The error for step number `step`; `bad` tells which of its examples to name, (B,), all where it is None."""
    bad = torch.ones(len(indices_of.example), dtype=torch.bool) if bad is None else bad
    levels, examples = indices_of.level[bad].tolist(), indices_of.example[bad].tolist()
    return NonFiniteError(
        f"{what} at step {step}, levels {listed(levels)}, training images {listed(examples)}: the step was not taken"
    )


def unfinite(table: Mapping[str, Tensor]) -> list[str]:
    """The names of those that hold NaN or Inf."""
    return [name for name, value in table.items() if not bool(value.isfinite().all())]


def listed(items: Sequence[object]) -> str:
    """The first eight, and how many more there are."""
    return ", ".join(str(item) for item in items[:8]) + (f" and {len(items) - 8} more" if len(items) > 8 else "")


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The norm of all of them together, (), on their device; of tensors spread over processes every one must ask."""
    values = list(tensors)
    if any(is_sharded(value) for value in values):
        return full_tensor(nn.utils.get_total_norm(values))
    types = dict.fromkeys(value.dtype for value in values)
    norms = [norm for dtype in types for norm in torch._foreach_norm([v for v in values if v.dtype == dtype])]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


def unfinite_weights(
    weights: Mapping[str, Tensor], averages: Mapping[str, Tensor], step: int, indices_of: BatchIndices
) -> NonFiniteError | None:
    """Why step number `step` cannot be taken from these weights, or this average; None where all are numbers."""
    guarded = {"weight": weights, "the average of": averages}
    names = [f"{what} {name}" for what, table in guarded.items() for name in unfinite(table)]
    if not names:
        return None
    return not_taken(f"{listed(names)} {'is' if len(names) == 1 else 'are'} not finite", step, indices_of)


def require_useful(model: Model, step: int) -> None:
    """A schedule that learns can be used after step number `step`: its numbers may be finite and say nothing.

    Raises:
        NonFiniteError: where it cannot.
    """
    if isinstance(model.schedule, LearnedLogSNR):
        try:
            model.schedule.require_usable()
        except ValueError as error:
            raise NonFiniteError(f"{error}, after step {step}: it is not kept") from None


def require_savable(tensors: Mapping[str, Mapping[str, Tensor]], models: Collection[Model], step: int) -> None:
    """What a checkpoint of this step would hold can be used.

    Args:
        tensors: by file.
        models: the one in training and its average.
    Raises:
        NonFiniteError: where a tensor holds NaN or Inf, or a learned schedule says nothing.
    """
    for file, table in tensors.items():
        for name, value in table.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise NonFiniteError(f"{file}: {name} is not finite after step {step}: it is not saved")
    for model in models:
        require_useful(model, step)


@contextmanager
def fitting_after(step: int) -> Iterator[None]:
    """A reverse variance that cannot be fitted stops the run: model and images fit, so it is the weights' numbers.

    Raises:
        NonFiniteError: for any ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise NonFiniteError(f"the reverse variance cannot be fitted after step {step}: {error}") from None


def require_gradient(gradients: Mapping[str, Tensor], norm: float, step: int, indices_of: BatchIndices) -> None:
    """The gradient of step number `step`, whose norm is known, can be followed.

    Raises:
        NonFiniteError: where any of it is NaN or Inf.
    """
    if not math.isfinite(norm):
        names = unfinite({name: full_tensor(gradient) for name, gradient in gradients.items()})
        raise not_taken(f"the gradient of {listed(names) if names else 'the weights'} is not finite", step, indices_of)


def clip(gradients: Collection[Tensor], norm: float, limit: float) -> None:
    """Clip gradients of this norm to the norm `limit`, in place."""
    share = float(limit / (torch.tensor(norm, dtype=torch.float32) + 1e-6))
    if share < 1:
        torch._foreach_mul_([local_shard(gradient) for gradient in gradients], share)
