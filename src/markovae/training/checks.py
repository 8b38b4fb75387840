"""What is looked at before a step is taken, and after it: what is no number, and what numbers make of a schedule."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from markovae.diffusion import Diffusion
from markovae.learned_schedule import LearnedLogSNR
from markovae.parts import whole
from markovae.training.batches import Roster
from markovae.training.step import NonFiniteError, listed, not_taken, unfinite


def unfinite_weights(
    weights: Mapping[str, Tensor], averages: Mapping[str, Tensor], step: int, roster: Roster
) -> NonFiniteError | None:
    """Why step number `step` cannot be taken from these weights, or this average; None where all are numbers."""
    guarded = {"weight": weights, "the average of": averages}
    norms = [nn.utils.get_total_norm(list(table.values())) for table in guarded.values()]
    if bool(torch.stack(norms).isfinite().all()):
        return None
    names = [f"{what} {name}" for what, table in guarded.items() for name in unfinite(table)]
    if not names:
        return None
    return not_taken(f"{listed(names)} {'is' if len(names) == 1 else 'are'} not finite", step, roster)


def require_useful(model: Diffusion, step: int) -> None:
    """A schedule that learns can be used after step number `step`: its numbers may be finite and say nothing.

    Raises:
        NonFiniteError: where it cannot.
    """
    if isinstance(model.schedule, LearnedLogSNR):
        try:
            model.schedule.require_usable()
        except ValueError as error:
            raise NonFiniteError(f"{error}, after step {step}: it is not kept") from None


def require_savable(tensors: Mapping[str, Mapping[str, Tensor]], models: Collection[Diffusion], step: int) -> None:
    """What a checkpoint of this step would hold can be used.

    Args:
        tensors: by file.   models: the one in training and its average.
    Raises:
        NonFiniteError: where a tensor holds a number that is none, or a learned schedule says nothing.
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


def clip(
    parameters: Mapping[str, nn.Parameter], clipped: Collection[str], limit: float, step: int, roster: Roster
) -> float:
    """Clip the gradient of those named in `clipped` to the norm `limit`; its norm before.

    Raises:
        NonFiniteError: where any gradient is no number; nothing is clipped then.
    """
    gradients = {name: weight.grad for name, weight in parameters.items() if weight.grad is not None}
    norm = nn.utils.get_total_norm(list(gradients.values()))
    if not math.isfinite(float(whole(norm))):
        names = unfinite({name: whole(gradient) for name, gradient in gradients.items()})
        raise not_taken(f"the gradient of {listed(names) if names else 'the weights'} is not finite", step, roster)
    network = [weight for name, weight in parameters.items() if name in clipped]
    if len(network) < len(parameters):
        norm = nn.utils.get_total_norm([weight.grad for weight in network if weight.grad is not None])
    nn.utils.clip_grads_with_norm_(network, limit, norm)
    return float(whole(norm))
