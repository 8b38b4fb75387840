"""The order in which an epoch takes the images: a pure function of (seed, epoch), addressed by place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from markovae.randomness import generator

WINDOW = 16  # runs that are mixed with each other, and so are read at a time


@final
class Order:
    """Every image of an epoch once, in an order of its own.

    Images at hand are permuted as a whole. Images that are stored in runs (the shards of a tar file each) are permuted
    in windows: the runs in a random order, each 16 in that order together, so that an epoch reads every shard once
    while memory holds one window's numbers. Up to 16 runs that is a permutation of the whole again.

    Args:
        count: images.   seed, epoch: of the order.   runs: (start, stop) of each run, together 0…count; None for one.
    """

    def __init__(self, count: int, seed: int, epoch: int, runs: Sequence[tuple[int, int]] | None = None) -> None:
        self._seed, self._epoch = seed, epoch
        runs = [(0, count)] if runs is None else list(runs)
        if len(runs) > 1:
            order = torch.randperm(len(runs), generator=generator(seed, "order of runs", epoch)).tolist()
            runs = [runs[place] for place in order]
        self._windows = [runs[first : first + WINDOW] for first in range(0, len(runs), WINDOW)]
        sizes = [sum(stop - start for start, stop in window) for window in self._windows]
        self._ends = torch.tensor(sizes, dtype=torch.int64).cumsum(0)
        self._made: dict[int, Tensor] = {}
        assert not sizes or int(self._ends[-1]) == count, "the runs are the images"

    def at(self, places: Tensor) -> Tensor:
        """The images at these places of the epoch, (n,), int64."""
        windows = torch.searchsorted(self._ends, places, right=True)
        wanted = windows.unique().tolist()
        self._made = {w: self._made[w] if w in self._made else self._window(w) for w in wanted}
        first = torch.cat([self._ends.new_zeros(1), self._ends])[windows]
        pairs = zip(windows.tolist(), (places - first).tolist(), strict=True)
        return torch.tensor([int(self._made[w][inside]) for w, inside in pairs], dtype=torch.int64)

    def _window(self, number: int) -> Tensor:
        """The images of a window in their order."""
        images = torch.cat([torch.arange(start, stop) for start, stop in self._windows[number]])
        # The first window's key is that of an order without windows, so that few shards are taken like an array.
        key = (self._epoch,) if number == 0 else (self._epoch, number)
        return images[torch.randperm(len(images), generator=generator(self._seed, "order", *key))]
