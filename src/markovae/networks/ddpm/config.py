"""Shape of a network of the DDPM family."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DDPMConfig:
    """Shape of a DDPM network; level 0 is the finest.

    Attributes:
        in_channels: channels of the latent.   out_channels: C, or 2C where the reverse variance is learned.
        widths: channels of each level.   blocks: residual blocks a level going down; one more going up.
        attention, attention_up: levels with self-attention after each block, going down and going up.
        residual_down, residual_up: levels whose change of resolution is a residual block; elsewhere a convolution.
        head_dim: of attention; 0 is one head of all channels.
        groups: of every normalisation.   eps: added to its variance.
        scale_shift: whether the time embedding scales and shifts the second normalisation (Nichol and Dhariwal) or
            is added before it (Ho et al.).
        dropout: inside the residual blocks.
        embedding: size of the time embedding.   sine_first: order of its features.   shift: in their frequencies,
            f_i = 10000^(−i/(n − shift)), n half the finest width.
        padding: of the convolutions that halve H and W: 1 on each side, or 0: one at the right and below.
        middle_attention: whether the coarsest level attends between its two blocks.   middle_groups: of the
            normalisation before that; 0 is none.   middle_scale: what the middle's residual sums are divided by.
        num_classes: labels taken; 0 is none.   null_class: whether one more stands for "no label".
    """

    in_channels: int = 3
    out_channels: int = 3
    widths: tuple[int, ...] = (128, 256, 256, 256)
    blocks: int = 2
    attention: tuple[int, ...] = (1,)
    attention_up: tuple[int, ...] = (1,)
    residual_down: tuple[int, ...] = ()
    residual_up: tuple[int, ...] = ()
    head_dim: int = 0
    groups: int = 32
    eps: float = 1e-6
    scale_shift: bool = False
    dropout: float = 0.0
    embedding: int = 512
    sine_first: bool = True
    shift: int = 1
    padding: int = 0
    middle_attention: bool = True
    middle_groups: int = 32
    middle_scale: float = 1.0
    num_classes: int = 0
    null_class: bool = False

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "blocks", "groups", "embedding"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths={self.widths} must name at least one channel for each level")
        self._check_levels()
        for width in self.widths:
            if width % self.groups:
                raise ValueError(f"a width of {width} does not split into groups={self.groups}: take a divisor")
        attending = {*self.attention, *self.attention_up, *([len(self.widths) - 1] if self.middle_attention else [])}
        for width in (self.widths[level] for level in sorted(attending)):
            if self.head_dim < 0 or (self.head_dim and width % self.head_dim):
                raise ValueError(f"a width of {width} does not split into heads of head_dim={self.head_dim}")
        if self.middle_groups < 0 or (self.middle_groups and self.widths[-1] % self.middle_groups):
            raise ValueError(f"a width of {self.widths[-1]} does not split into middle_groups={self.middle_groups}")
        if self.widths[0] // 2 <= self.shift:
            raise ValueError(
                f"shift={self.shift} leaves no frequency: it must lie below half the width {self.widths[0]}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1)")
        if self.padding not in (0, 1):
            raise ValueError(f"padding={self.padding} must be 0 or 1")
        if not (self.eps > 0 and self.middle_scale > 0):
            raise ValueError(f"eps={self.eps} and middle_scale={self.middle_scale} must be positive")

    def _check_levels(self) -> None:
        levels = len(self.widths)
        for name in ("attention", "attention_up", "residual_down", "residual_up"):
            if any(not 0 <= level < levels for level in getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)} must name levels from 0 to {levels - 1}, 0 the finest")

    @property
    def stride(self) -> int:
        """Height and width of the latent must be multiples of this."""
        return 2 ** (len(self.widths) - 1)
