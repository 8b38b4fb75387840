"""Ho et al.'s network and its descendants, read at a log-SNR: its own step is looked up on the grid it belongs to."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.networks.condition import Condition, ConditionEmbedding
from markovae.networks.ddpm.config import DDPMConfig
from markovae.networks.ddpm.kernels import arranged, normed
from markovae.networks.ddpm.stages import DownStage, Middle, UpStage
from markovae.networks.embedding import working_type
from markovae.networks.layers import zeroed
from markovae.networks.network import Network, check_images

PERIOD = 10_000.0


@final
class GridStep(nn.Module):
    """log-SNR -> the step t = 0…T−1 of a grid, (B,), float64: whole on its levels, linear in log-SNR between them.

    Args:
        logsnr: λ_1…λ_T of the grid, finite and falling, (T,); level ℓ is step ℓ − 1.
    """

    rising: Tensor

    def __init__(self, logsnr: Tensor) -> None:
        super().__init__()
        if logsnr.ndim != 1 or len(logsnr) < 2 or not bool((logsnr.isfinite()).all() & (logsnr.diff() < 0).all()):
            raise ValueError("the grid of a network must have at least two log-SNRs, finite and falling: give λ_1…λ_T")
        self.register_buffer("rising", -logsnr.detach().double(), persistent=False)

    def forward(self, logsnr: Tensor) -> Tensor:
        """t at each log-SNR, (B,); beyond the ends of the grid, the end."""
        grid = self.rising
        wanted = (-logsnr.double()).clamp(grid[0], grid[-1]).contiguous()
        after = torch.searchsorted(grid, wanted).clamp(1, len(grid) - 1)
        before = after - 1
        t = before + (wanted - grid[before]) / (grid[after] - grid[before])
        whole = t.round()
        return torch.where((t - whole).abs() < 1e-7, whole, t)


@final
class StepEmbedding(nn.Module):
    """t -> (B, E): MLP of cos and sin of t·10000^(−i/(n − shift)), i < n.

    The features are formed in float32, as the networks of this family were trained: t up to 1000 leaves them 4 digits,
    and other ones would be another network.

    Args:
        features: 2n, the width of the finest level.   config: embedding, sine_first, shift.
    Source: Ho et al. 2020, appendix B; Vaswani et al. 2017, section 3.5.
    """

    def __init__(self, features: int, config: DDPMConfig) -> None:
        super().__init__()
        self.features_count, self.sine_first, self.shift = features, config.sine_first, config.shift
        self.first = nn.Linear(features, config.embedding)
        self.second = nn.Linear(config.embedding, config.embedding)

    def features(self, t: Tensor) -> Tensor:
        """The fixed features, (B, 2n), float32."""
        half = self.features_count // 2
        exponent = -math.log(PERIOD) * torch.arange(half, dtype=torch.float32, device=t.device)
        phase = t.float()[:, None] * torch.exp(exponent / (half - self.shift))
        pair = (phase.sin(), phase.cos())
        return F.pad(torch.cat(pair if self.sine_first else pair[::-1], dim=1), (0, self.features_count % 2))

    def forward(self, t: Tensor) -> Tensor:
        """(B,) -> (B, E)."""
        hidden: Tensor = self.second(F.silu(self.first(self.features(t).to(working_type(self.first.weight)))))
        return hidden


@final
class DDPMUNet(Network):
    """The U-Net of Ho et al. (2020) and, with scale and shift, of Nichol and Dhariwal (2021) and their successors.

    Args:
        config: its shape.   logsnr: λ_1…λ_T of the grid that its steps t = 0…T−1 count, (T,).
    Source: Ho et al. 2020, appendix B; Dhariwal and Nichol 2021, section 3.
    """

    def __init__(self, config: DDPMConfig, logsnr: Tensor) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.step = GridStep(logsnr)
        self.time = StepEmbedding(widths[0], config)
        self.condition = ConditionEmbedding(config.embedding, config.num_classes, null=config.null_class)
        self.stem = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            DownStage(config, level, inputs) for level, (inputs, _) in enumerate(pairwise((widths[0], *widths)))
        )
        self.middle = Middle(config)
        self.up = nn.ModuleList(
            UpStage(config, level, widths[min(level + 1, len(widths) - 1)]) for level in reversed(range(len(widths)))
        )
        self.norm = nn.GroupNorm(config.groups, widths[0], eps=config.eps)
        self.head = zeroed(nn.Conv2d(widths[0], config.out_channels, 3, padding=1))

    @property
    def stride(self) -> int:
        """Height and width of the latent must be multiples of this."""
        return self.config.stride

    @property
    def num_classes(self) -> int:
        """Labels taken: 0…num_classes − 1; 0 takes none."""
        return self.config.num_classes

    def outer_weights(self) -> tuple[Tensor, ...]:
        """Weights of the stem, the head, the first layer of the time and the labels' embedding."""
        return (self.stem.weight, self.head.weight, self.time.first.weight, *self.condition.parameters())

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the target: (B, C, H, W), (B,) -> (B, C_out, H, W), in the working type."""
        check_images(z, logsnr, self.config.in_channels, self.stride)
        time = F.silu(self.time(self.step(logsnr)) + self.condition(condition, len(z)))
        h = self.stem(arranged(z.to(working_type(self.stem.weight))))
        skips = [h]
        for stage in self.down:
            h = stage(h, time, skips, self._run)
        h = self.middle(h, time, self._run)
        for stage in self.up:
            h = stage(h, time, skips, self._run)
        norm = self.norm
        out: Tensor = self.head(normed(h, norm.num_groups, norm.weight, norm.bias, norm.eps))
        return out.to(working_type(self.stem.weight))
