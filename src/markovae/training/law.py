"""The importance law of a training that minimises the bound: levels as often as their nats are large."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from markovae.objective import Objective

BANDS = 64
RATE = 0.01  # of the running means, once as many batches have fallen on a band
EVEN = 0.1  # share of the uniform law: a level that looked free is still visited


@final
class ImportanceLaw:
    r"""p_ℓ ∝ √E[share_ℓ²], the law of least variance for one draw, from a running estimate in 64 bands of levels.

    share_ℓ is what level ℓ adds to the loss. Over a band of neighbouring levels its ratio to the level's weight, the
    squared error, is taken to have one second moment; level 1, the decoder's, is a band of its own.
    Source: Nichol & Dhariwal 2021, section 3.3 (a history of ten draws a level there).

    Args:
        objective: the bound, under any law; its weights are what shares are compared with.
    """

    def __init__(self, objective: Objective) -> None:
        self._bound = objective
        self._weight = objective.weight * objective.probability
        levels = len(self._weight)
        later = torch.arange(levels - 1) * min(BANDS, levels - 1) // max(levels - 1, 1)
        self._band = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + later])
        # A network that says nothing has a squared error of about 1; the first visit to a band replaces the guess.
        self._moment = torch.ones(int(self._band.max()) + 1, dtype=torch.float64)
        self._visits = torch.zeros_like(self._moment)

    @property
    def objective(self) -> Objective:
        """The same bound, drawn by the present law."""
        root = self._weight * self._moment[self._band].sqrt()
        return self._bound.drawn_by((1 - EVEN) * root / root.sum() + EVEN / len(root))

    def note(self, level: Tensor, losses: Tensor, drawn_by: Objective) -> None:
        """Take in the losses of a step.

        Args:
            level: 1…L, (B,), int64.   losses: weighted, (B,).   drawn_by: what they were drawn and weighted by.
        """
        place = level.cpu() - 1
        ratio = losses.detach().cpu().double() * drawn_by.probability[place] / self._weight[place]
        band, zeros = self._band[place], torch.zeros_like(self._moment)
        count = zeros.index_add(0, band, torch.ones_like(ratio))
        mean = zeros.index_add(0, band, ratio**2) / count.clamp(min=1)
        self._visits += count > 0
        rate = torch.where(count > 0, (1 / self._visits.clamp(min=1)).clamp(min=RATE), 0.0)
        self._moment += rate * (mean - self._moment)

    def capture(self) -> dict[str, list[float]]:
        """The running estimate, as JSON can hold it to the last bit."""
        return {"moment": self._moment.tolist(), "visits": self._visits.tolist()}

    def restore(self, record: Any) -> None:
        """Go on from what `capture` gave.

        Raises:
            ValueError: for anything else.
        """
        tables = []
        for name in ("moment", "visits"):
            values = record.get(name) if isinstance(record, dict) else None
            if not isinstance(values, list) or len(values) != len(self._moment):
                raise ValueError(f"its law of levels has no {name} for {len(self._moment)} bands")
            tables.append(torch.tensor(values, dtype=torch.float64))
            if not bool((tables[-1].isfinite() & (tables[-1] >= 0)).all()):
                raise ValueError(f"its law of levels has a {name} that is no number of at least 0")
        self._moment, self._visits = tables
