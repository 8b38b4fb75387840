r"""What a condition says about data, in nats: a difference of bounds, and a true lower bound on the information.

Bound difference: E[nats(x) − nats(x|c)]. Each is an upper bound on a code length, so it is
I(X; C) + (gap without − gap with): the information plus a difference of gaps, and no bound on it either way.

Lower bound: in blocks of k independent pairs (x_i, c_i), with q_i(j) ∝ exp(−nats(x_i|c_j)) over the block's k captions,

    I(X; C) ≥ ln k + E ln q_i(i) ,

whatever the model: nats are only scores here, and they may be noisy as long as the noise of x_i is the same for every
c_j. It cannot exceed ln k. Source: van den Oord et al. 2018; Poole et al. 2019, section 2.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.likelihood.estimators import Estimator
from markovae.likelihood.inputs import Array, at_least_one, checked_images, checked_model
from markovae.likelihood.tasks import Task, evaluate
from markovae.networks.given import Givens
from markovae.vae import Estimate, estimate_mean, evaluating


def shared_nats(
    model: Diffusion,
    images: Array,
    given: Givens | None,
    rows: Tensor | None = None,
    *,
    estimator: Estimator | None = None,
    seed: int = 0,
    batch: int = 64,
) -> Tensor:
    """The bound of images under one condition each, (R,), nats, float64.

    Levels and noise are keyed by an image's place alone, so that two calls differ by what is given and nothing else.

    Args:
        images: digits, (n, *D), or floats for a model of densities.   given: of the images at `rows`, R; None gives
            none.   rows: which images, (R,), increasing; None is all.
        estimator: 16 stratified levels an image where left out; without replicates.
    Raises:
        UserError: as `measure`; or where `given` does not fit the rows.
        ValueError: for an estimator with replicates or a control variate.
    """
    at_least_one(batch=batch)
    checked_model(model)
    estimator, data = Estimator() if estimator is None else estimator, checked_images(model, images)
    if estimator.replicates > 1 or estimator.control is not None:
        raise ValueError("nats with shared noise are of one randomisation, without a control variate")
    rows = torch.arange(len(data)) if rows is None else rows
    if given is not None and len(given) != len(rows):
        raise UserError(f"{len(given)} conditions for {len(rows)} images: give one each")
    place = torch.full((len(data),), -1)
    place[rows] = torch.arange(len(rows))
    tasks = estimator.task(model.num_levels, len(data), seed)
    wanted = (place[tasks.image] >= 0).nonzero().flatten()
    total = torch.zeros(len(rows), dtype=torch.float64)
    with evaluating(model):
        for begin in range(0, len(wanted), batch):
            task = _chosen(tasks, wanted[begin : begin + batch])
            at = place[task.image]
            total.index_add_(0, at, _counted(model, data[task.image], None if given is None else given[at], task, seed))
    return total


@torch.no_grad()
def _counted(model: Diffusion, images: Tensor, given: Givens | None, task: Task, seed: int) -> Tensor:
    """What each draw adds to its image's bound; the closed prior term comes with the reconstruction."""
    x = model.to_x(images)
    condition = None if given is None else given.condition().to(model.device)
    nats = task.share * evaluate(model, x, task, condition, seed)
    return torch.where(task.level == 1, nats + model.prior_nats(x).cpu(), nats)


def _chosen(task: Task, places: Tensor) -> Task:
    fields = (task.image, task.level, task.share, task.replicate, task.visit)
    return Task(*(field[places] for field in fields))


def block_partners(n: int, k: int) -> Tensor:
    """Whose caption image i is tried with in turn j, (k, m), m = k⌊n/k⌋: its own for j = 0, then its block's others.

    Raises:
        UserError: for k below 2, or fewer images than one block.
    """
    if k < 2:
        raise UserError(f"{k} candidate captions tell nothing apart: take at least 2")
    if n < k:
        raise UserError(f"{n} images make no block of {k} candidate captions: take more images, or fewer candidates")
    image = torch.arange(k * (n // k))
    start = image // k * k
    return start + (image - start + torch.arange(k)[:, None]) % k


def chosen_log_prob(nats: Tensor) -> Tensor:
    """ln q of the first of k candidates, q ∝ e^{−nats}: (k, m) -> (m,)."""
    return (-nats.double()).log_softmax(0)[0]


def information_bound(nats: Tensor) -> Estimate:
    """ln k + mean ln q ± the standard error over blocks, nats: a lower bound on the information I(X; C).

    Blocks share neither images nor captions, so their means are independent where the pairs are.

    Args:
        nats: of image i with the caption of `block_partners(n, k)[j, i]`, (k, m).
    """
    k = len(nats)
    each = math.log(k) + chosen_log_prob(nats)
    return estimate_mean(each.reshape(-1, k).mean(1))
