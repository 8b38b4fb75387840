"""The drawing behind `markovae sample`: by one process, by several together, or a part of it by one of many."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from markovae.cli.classes import chosen_labels
from markovae.cli.prompts import chosen_prompts, conditions_for
from markovae.cli.running import Opened
from markovae.cli.sampler import Chosen, chosen_sampler
from markovae.diffusion.markovian_vae import evaluating
from markovae.errors import UserError
from markovae.log import track_inside
from markovae.sampling.conditions import condition_for
from markovae.sampling.generation import batch_trajectories, batches_of, final_images, to_images
from markovae.system.distributed import Ranks
from markovae.system.processes import Rank

DEFAULT_BATCH, DEFAULT_IMAGES, PROMPT_IMAGES = 64, 64, 8


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Args:
        images: digits, (m, C, H, W).   numbers: of these samples among all that were asked for, m.
        labels: class of each, (m,), or None.   chosen: the sampler.   seconds: that drawing took.
        prompts: of each, m; none without any.   asked: the different ones in their order.
    """

    images: Any
    numbers: tuple[int, ...]
    labels: Tensor | None
    chosen: Chosen
    seconds: float
    prompts: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


def draw(opened: Opened, options: argparse.Namespace, ranks: Ranks) -> Drawn:
    """The images of the options, with progress on stderr; of several processes each draws some, and all learn all.

    A batch is the same whoever draws it, so that the images are too, to the last bit on equal machines.
    """
    model, batch = opened.model, options.batch or DEFAULT_BATCH
    prompts = chosen_prompts(opened, options)
    each = options.n or (PROMPT_IMAGES if len(prompts) > 1 else DEFAULT_IMAGES)
    n = each * max(1, len(prompts))
    labels = chosen_labels(opened, options.label, n)
    chosen = ranks.in_turn(lambda: chosen_sampler(opened, options, prompts))
    place = shard(options, ranks.place)
    rows = [number for numbers in batches_of(n, batch, place) for number in numbers]
    if options.shard is not None and not rows:
        raise UserError(
            f"--shard {options.shard} has nothing to draw: {n} images in batches of {batch} are "
            f"{-(-n // batch)} batches; lower --batch, or make fewer shards"
        )
    trajectories = batch_trajectories(
        model,
        n,
        chosen.plan,
        seed=options.seed,
        batch=batch,
        condition=conditions_for(opened, prompts, each) if prompts else condition_for(model, labels),
        guidance=chosen.guidance,
        rank=place,
        noise_indices=[i % each for i in range(n)],
    )
    began = time.monotonic()
    with evaluating(model):
        total = -(-len(rows) // batch) * len(chosen.plan.grid)
        told = track_inside(trajectories, "sampling, step by step", total)
        images = final_images(model, told) if rows else to_images(model, torch.empty(0, *model.shape))
    if not ranks.alone:
        images, rows = _gathered(images, rows, n, ranks), list(range(n))
    own = None if labels is None else labels[rows]
    texts = tuple(prompts[row // each] for row in rows) if prompts else ()
    return Drawn(images, tuple(rows), own, chosen, time.monotonic() - began, texts, prompts)


def shard(options: argparse.Namespace, place: Rank) -> Rank:
    """Whose part is drawn: that of --shard, or of this process among several.

    Raises:
        UserError: for both.
    """
    if options.shard is None:
        return place
    if not place.alone:
        raise UserError("--shard is for processes on their own: leave it out, torchrun shares the work")
    part, count = map(int, options.shard.split("/"))
    return Rank(part - 1, count)


def _gathered(images: np.ndarray, rows: list[int], n: int, ranks: Ranks) -> np.ndarray:
    """The images of all ranks; each adds its own to zeros."""
    table = torch.zeros(n, *images.shape[1:], dtype=torch.int32)
    table[rows] = torch.from_numpy(images.astype(np.int32))
    return ranks.sum(table).numpy().astype(images.dtype)
