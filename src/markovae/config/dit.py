"""What a person may say about a diffusion transformer: the section [network.dit]."""

from __future__ import annotations

from dataclasses import dataclass

from markovae.config.checks import MAX_FACTOR, MAX_WIDTH, between, within
from markovae.errors import UserError

MAX_DEPTH = 512


@dataclass(frozen=True)
class DiTOptions:
    """The diffusion transformer of Peebles and Xie.

    Args:
        width: features of a patch.   depth: blocks.
        head_dim: of attention, a multiple of 4 that divides the width.
        expansion: hidden units of a block's perceptron, in widths.
        patch: side of the squares of pixels that are one position.
        embedding: size of the embedding of log-SNR and condition.
        dropout: inside the perceptrons, in [0, 1).
        detail: whether the network sees fixed features of the finest detail.   radius: of their window, 0 for none.
        octaves: of the fixed features of the position in the image, 0 for none.
    """

    width: int = 256
    depth: int = 8
    head_dim: int = 64
    expansion: int = 4
    patch: int = 2
    embedding: int = 256
    dropout: float = 0.0
    detail: bool = True
    radius: int = 2
    octaves: int = 3

    def __post_init__(self) -> None:
        for name in ("width", "head_dim", "embedding"):
            within(f"network.dit.{name}", getattr(self, name), 1, MAX_WIDTH, "it counts features")
        for name in ("expansion", "patch"):
            within(f"network.dit.{name}", getattr(self, name), 1, MAX_FACTOR, "it counts widths, or pixels a side")
        within("network.dit.depth", self.depth, 1, MAX_DEPTH, "it counts blocks")
        for name in ("radius", "octaves"):
            between(f"network.dit.{name}", getattr(self, name), 0, 8, "0 means none")
        if self.head_dim % 4 or self.width % self.head_dim:
            raise UserError(
                f"network.dit.head_dim={self.head_dim} must be a multiple of 4 that divides "
                f"network.dit.width={self.width}"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"network.dit.dropout={self.dropout:g} must lie in [0, 1): it is the share left out")
