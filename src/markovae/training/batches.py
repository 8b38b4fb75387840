"""The order in which an epoch takes the images: a pure function of (seed, epoch), addressed by place."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from markovae.data.images import ImageData
from markovae.diffusion.objective import MeanNoise, NoiseSample, NoiseSampling, Objective
from markovae.diffusion.pixels import Pixels
from markovae.errors import UserError
from markovae.log import counted
from markovae.networks.conditioning import Condition
from markovae.randomness import Streams, generator, stratified
from markovae.training.examples import ArrayExamples, Examples

WINDOW = 16  # runs that are mixed with each other, and so are read at a time


@final
class Order:
    """Every image of an epoch once, in an order of its own.

    Images at hand are permuted as a whole. Images that are stored in runs (the shards of a tar file each) are permuted
    in windows: the runs in a random order, each 16 in that order together, so that an epoch reads every shard once
    while memory holds one window's numbers. Up to 16 runs that is a permutation of the whole again.

    Args:
        count: images.
        seed, epoch: of the order.
        runs: (start, stop) of each run, together 0…count; None for one.
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


@dataclass(frozen=True)
class Batch:
    """The images of a step and its draws.

    Args:
        example: place of each image in the training set, (B,), int64.
        quantile: in [0, 1), what the levels were drawn from, (B,), float64.
        x: images on the model's scale, (B, C, H, W), float32.
        draw: levels and noise.
        label: (B,), int64, or None.
        keep: False where the label or caption is left out, (B,), bool.
        text: what the captions say, one of each image, or None.
    """

    example: Tensor
    quantile: Tensor
    x: Tensor
    draw: NoiseSample
    label: Tensor | None
    keep: Tensor
    text: Condition | None = None

    @property
    def condition(self) -> Condition | None:
        """The labels or captions, those left out as the learned null; None without any."""
        if self.text is not None:
            return self.text.drop(self.keep)
        return None if self.label is None else Condition(label=self.label).drop(self.keep)

    def part(self, start: int, stop: int) -> Batch:
        """Examples start…stop−1 of the batch."""
        cut = slice(start, stop)
        label = None if self.label is None else self.label[cut]
        draw = self.draw.part(start, stop)
        text = None if self.text is None else self.text[cut]
        return Batch(self.example[cut], self.quantile[cut], self.x[cut], draw, label, self.keep[cut], text)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Batch:
        """The same batch on another device, images and noise in another type; the levels stay on the CPU."""
        label = None if self.label is None else self.label.to(device, non_blocking=True)
        draw = self.draw.to(device)
        fresh = None if draw.fresh is None else draw.fresh.to(dtype)
        draw = NoiseSample(draw.level, draw.noise.to(dtype), fresh)
        text = None if self.text is None else self.text.to(device)
        known = label is not None or text is not None
        keep = self.keep.to(device, non_blocking=True) if known else self.keep
        x = self.x.to(device, dtype, non_blocking=True)
        return Batch(self.example, self.quantile, x, draw, label, keep, text)

    def pinned(self) -> Batch:
        """The same batch in memory that a GPU copies from while the host goes on, where such memory is to be had."""
        draw = self.draw
        try:
            fresh = None if draw.fresh is None else draw.fresh.pin_memory()
            draw = NoiseSample(draw.level.pin_memory(), draw.noise.pin_memory(), fresh)
            label = None if self.label is None else self.label.pin_memory()
            return replace(self, x=self.x.pin_memory(), draw=draw, label=label, keep=self.keep.pin_memory())
        except RuntimeError:
            return self


@dataclass(frozen=True)
class BatchIndices:
    """Which images a step takes, and at which levels; the whole batch, also where this process takes a part of it.

    Args:
        example: place of each image in the training set, (B,), int64.
        epoch: it belongs to, (B,), int64.
        quantile: in [0, 1), what the levels were drawn from, (B,), float64.
        level: 1…L, (B,), int64.
    """

    example: Tensor
    epoch: Tensor
    quantile: Tensor
    level: Tensor


@final
class Batches:
    """The endless sequence of batches: epoch after epoch, each in an order of its own.

    Step t takes places tB…tB+B−1 of the sequence. The order of an epoch is keyed by (seed, epoch), the levels by
    (seed, step) and the place in the batch, noise, flip, the window of a longer image, label dropout and which of an
    image's captions is taken by (seed, example and epoch, step).

    Args:
        data: for training, or any `Examples`.
        pixels: the scale of its pixel values.
        objective: p and w of the levels.
        seed: of every draw.
        batch: B.
        flip: mirror each image left-right with probability ½.
        label_dropout: share of labels left out.
        draws: how the noise is drawn.
    Raises:
        UserError: with fewer images than a batch.
    """

    def __init__(
        self,
        data: ImageData | Examples,
        pixels: Pixels,
        objective: Objective,
        seed: int,
        batch: int,
        flip: bool = False,
        label_dropout: float = 0.0,
        draws: NoiseSampling | None = None,
    ) -> None:
        data = ArrayExamples(data) if isinstance(data, ImageData) else data
        total = data.count
        if total is not None and total < batch:
            raise UserError(
                f"train.batch={batch} but there {'is' if total == 1 else 'are'} only {counted(total, 'image')} to "
                f"train on: set train.batch to at most {total}, or add images"
            )
        self.data, self.pixels, self.objective = data, pixels, objective
        self.seed, self.batch, self.flip, self.label_dropout = seed, batch, flip, label_dropout
        self.draws = MeanNoise() if draws is None else draws
        self._orders: dict[int, Order] = {}

    def examples(self, step: int) -> tuple[Tensor, Tensor]:
        """(example, epoch) at each place of a step, (B,) each, int64."""
        place, count = step * self.batch + torch.arange(self.batch), self.data.count
        if count is None:  # a stream is taken as it comes
            return place, torch.zeros_like(place)
        epoch, within = place // count, place % count
        wanted = range(int(epoch[0]), int(epoch[-1]) + 1)
        self._orders = {e: self._orders[e] if e in self._orders else self._order(e, count) for e in wanted}
        return torch.cat([order.at(within[epoch == e]) for e, order in self._orders.items()]), epoch

    def indices_of(self, step: int) -> BatchIndices:
        """Who takes part in a step (counted from 0), at which levels."""
        example, epoch = self.examples(step)
        quantile = stratified(self.batch, generator(self.seed, "levels", step))
        return BatchIndices(example, epoch, quantile, self.objective.draw(quantile))

    def at(self, step: int, share: tuple[int, int] | None = None) -> Batch:
        """The batch of a step, or the places `share` = (start, stop) of it, on the CPU."""
        return self.with_indices(step, share)[1]

    def with_indices(self, step: int, share: tuple[int, int] | None = None) -> tuple[BatchIndices, Batch]:
        """`indices_of` and `at` at once."""
        cut, indices_of = slice(*(share or (0, self.batch))), self.indices_of(step)
        example, epoch, level = indices_of.example[cut], indices_of.epoch[cut], indices_of.level[cut]
        names = (epoch * (self.data.count or 0) + example).tolist()
        streams = Streams(self.seed, "train", names, step)
        chance = streams.uniform((2,))
        draw = self.draws.at(level, streams, self.data.shape)
        if self.data.strips is None:
            read = self.data.read(example.numpy())
        else:
            places = Streams(self.seed, "crop", names, step).uniform((2,))
            read = self.data.windows(example.numpy(), places.numpy())
        x = self.pixels.to_x(torch.from_numpy(read.images.astype(np.int32)), torch.float32)
        if self.flip:
            x = torch.where((chance[:, 0] < 0.5)[:, None, None, None], x.flip(-1), x)
        label, text = read.label, None
        if read.known is not None:
            label, which = None, Streams(self.seed, "caption", names, step).uniform((1,))[:, 0]
            text = read.known.draw(which)
        keep = chance[:, 1] >= self.label_dropout
        return indices_of, Batch(example, indices_of.quantile[cut], x, draw, label, keep, text)

    def _order(self, epoch: int, count: int) -> Order:
        return Order(count, self.seed, epoch, self.data.runs)


@final
class Ahead:
    """Batches as `Batches` makes them; for a device that computes by itself, the next one meanwhile, by a thread.

    On a CPU a second thread would only take the first one's time. Examples of the caller's own are read in the thread
    of the caller, and none before it is asked for.

    Args:
        batches: what to make.
        device: that they are for.
    """

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._thread = ThreadPoolExecutor(1) if device.type == "cuda" and batches.data.shareable else None
        self._next: tuple[int, tuple[int, int], Objective, Future[tuple[BatchIndices, Batch]]] | None = None

    def at(self, step: int, share: tuple[int, int]) -> tuple[BatchIndices, Batch]:
        """Who takes part in a step, and what this process computes of it."""
        ready, objective = self._next, self._batches.objective
        if ready is not None and ready[:2] == (step, share) and ready[2] is objective:
            made = ready[3].result()
        else:  # the first, one after a rollback, or levels drawn by what the last step taught
            made = self._make(step, share)
        if self._thread is not None:
            self._next = (step + 1, share, objective, self._thread.submit(self._make, step + 1, share))
        return made

    def _make(self, step: int, share: tuple[int, int]) -> tuple[BatchIndices, Batch]:
        indices_of, batch = self._batches.with_indices(step, share)
        return indices_of, batch.pinned() if self._device.type == "cuda" else batch


def draws_record(seed: int, batch: int, images: int | None, step: int, skipped: int) -> dict[str, Any]:
    """The state of all draws after `step` steps: orders, levels, noise, flips, labels left out, dropout.

    Each is a function of (seed, purpose, example, step), so there is no generator whose state could be kept or lost.
    Batch number step + skipped comes next; it takes places (step + skipped)·batch and on of the endless sequence of
    epochs, each in an order of its own.

    Args:
        images: of the training set, None where it is not known.
        skipped: batches left out, by rollbacks.
    """
    batches = step + skipped
    epoch, place = divmod(batches * batch, images) if images else (None, None)
    return {
        "rule": "each draw is a function of (seed, purpose, example, step): no generator's state is carried on",
        "seed": seed,
        "batch": batch,
        "images": images,
        "skipped": skipped,
        "next_batch": batches,
        "next_epoch": epoch,
        "next_place": place,
    }
