"""The best K of the levels for the bound, as a sampler's grid."""

from __future__ import annotations

import torch
from torch import Tensor

from markovae.diffusion import Diffusion
from markovae.likelihood import isotropic_costs, levels_each, search, survey
from markovae.likelihood.surveying import KNOTS
from markovae.networks.condition import Condition
from markovae.sampling.draw import batch_walks, finished_images
from markovae.sampling.grid import explicit_grid
from markovae.sampling.planning import DEFAULT_SAMPLER, plan
from markovae.vae import evaluating

_FIRST = 2**61  # numbers of the surveyed samples: those of `sample` begin at 0


def optimal_grid(
    model: Diffusion,
    count: int,
    *,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    samples: int = 64,
    seed: int = 0,
) -> Tensor:
    """λ = ∞ and the `count` of the model's L levels whose bound is least, (count+1,); levels 1 and L are kept.

    x̂'s error is surveyed level by level, and dynamic programming finds the grid (see `likelihood.search`). Nothing
    says that the grid of the best bound gives the best pictures: it is for `ancestral`, the chain that is bounded.

    Args:
        images: digits to survey, (N, *D), with their labels, (N,); None draws `samples` from the model itself.
    Raises:
        UserError: for more log-SNRs than the model has levels.
    """
    if images is None:
        labels = _each_class(model, samples) if labels is None else labels
        condition = None if labels is None else Condition(label=labels)
        twenty = plan(model, DEFAULT_SAMPLER, None)
        with evaluating(model):
            walks = batch_walks(model, samples, twenty, seed=seed, condition=condition, start=_FIRST)
            images = torch.from_numpy(finished_images(model, walks))
    found = survey(model, images, labels, per_image=levels_each(KNOTS, len(images)), seed=seed)
    logsnr = model.schedule.logsnr
    costs = isotropic_costs(found.errors_at(logsnr[1:]), logsnr, model.dims)
    return explicit_grid(logsnr[search(costs, count).levels(count)])


def _each_class(model: Diffusion, samples: int) -> Tensor | None:
    classes = int(getattr(model.network, "num_classes", 0))
    return torch.arange(samples) % classes if classes else None
