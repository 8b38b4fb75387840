"""A run with its data and its metrics, as a report needs them, and how fast the model is here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from markovae.checkpoints.reading import Checkpoint, open_checkpoint
from markovae.data.images import ImageData
from markovae.data.loading import reopen
from markovae.data.split import Splits
from markovae.diffusion.cascade import Model, stages_of
from markovae.diffusion.detail_network import DetailNetwork, coarse_planes
from markovae.locations import is_elsewhere
from markovae.log import log
from markovae.networks.conditioning import Condition
from markovae.report.words import left_out_in_words
from markovae.sampling.conditions import num_classes
from markovae.system.jsonlines import Rows, read_rows
from markovae.text.conditioner import attach_conditioning

PACE_IMAGES = 16


@dataclass(frozen=True)
class ReportedRun:
    """A run with its data.

    Args:
        path: the run's folder.
        checkpoint: its newest that verifies.
        model: with averaged weights, float32.
        splits: its data, checked against the stored split.
        metrics: the rows of metrics.jsonl.
        pace: images per second through the network, in float32.
    """

    path: Path
    checkpoint: Checkpoint
    model: Model
    splits: Splits
    metrics: Rows
    pace: float

    @property
    def bins(self) -> int:
        """Values of a pixel."""
        return self.splits.train.bins

    @property
    def num_classes(self) -> int:
        """Classes the network takes, 0 for none."""
        return num_classes(self.model)

    def labels(self, data: ImageData) -> Any:
        """Of the images, where the network takes them; captions, where it takes those."""
        return attach_conditioning(self.model, data, held_out=True).known

    def conditions(self, n: int) -> Condition | None:
        """Of n samples: the classes in turn, or the test images' captions or columns in turn, or None."""
        if self.model.text_conditioner is not None or (self.model.columns is not None and not self.num_classes):
            test = attach_conditioning(self.model, self.splits.test, held_out=True)
            return None if test.conditioning is None else test.conditioning[torch.arange(n) % len(test)].condition()
        return Condition(label=torch.arange(n) % self.num_classes) if self.num_classes else None


def load_reported_run(
    run: str | Path, device: torch.device, source: str | None = None, trust: Sequence[str] = ()
) -> ReportedRun:
    """Open a run for its report, with averaged weights, float32.

    Args:
        trust: networks of the caller's own that may be imported, each "package.module:Class".
        source: of its images, where the person named it: only then is it opened where it is a URL.
    Raises:
        UserError: for a path that is not a run, or data that are missing or changed.
    """
    path = Path(run)
    checkpoint = open_checkpoint(path, trust)
    data = checkpoint.config.data
    if source is not None and is_elsewhere(source):
        data = replace(data, source=source)
    splits = reopen(data, checkpoint.split_record, checkpoint.text_conditioner is not None)
    checkpoint.require_same_words(splits)
    model = checkpoint.model().to(device)
    metrics = read_rows(path / "metrics.jsonl")
    if metrics.left_out:
        log(f"warning: {left_out_in_words(metrics.left_out)} left out of the report")
    return ReportedRun(path, checkpoint, model, splits, metrics, measure_pace(model))


@torch.no_grad()
def measure_pace(model: Model) -> float:
    """Images per second through the network: the second of two small batches, timed; of a cascade the stages' mean."""
    stages, total = stages_of(model), 0.0
    for stage in stages:
        z = torch.zeros(PACE_IMAGES, *stage.shape, device=model.device)
        logsnr = stage.schedule.logsnr[-1].detach().expand(PACE_IMAGES)
        condition = None
        if isinstance(stage.network, DetailNetwork):
            condition = Condition(coarse=coarse_planes(z[:, : z.shape[1] // 3], logsnr))
        for _ in range(2):
            began = time.monotonic()
            stage.denoise(z, logsnr, condition).sum().item()
            took = time.monotonic() - began
        total += took
    return PACE_IMAGES * len(stages) / max(total, 1e-6)
