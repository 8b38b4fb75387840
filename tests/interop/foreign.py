"""Networks as other people write them, for the files of weights that tests import."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """f(x, t, label, x_self): a convolution whose bias follows t."""

    def __init__(self, channels: int = 3, width: int = 4, extra: bool = False, known: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels * (2 if known else 1), width, 3, padding=1)
        self.norm = nn.GroupNorm(2, width)
        self.time = nn.Linear(1, width)
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        self.register_buffer("rates", torch.arange(3.0))
        if extra:
            self.more = nn.Linear(1, 1)

    def forward(self, x: Tensor, t: Tensor, x_self: Tensor | None = None) -> Tensor:
        x = x if x_self is None else torch.cat([x, x_self], 1)
        hidden = self.norm(self.first(x)) + self.time(t.float().view(-1, 1) / 1000)[:, :, None, None]
        return x[:, : self.last.out_channels] + self.last(hidden.relu())
