"""What is looked at before a step is taken: weights, averages and gradients that are no numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

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
