"""What networks of images share: the latent as patches, with its detail and its place, and what they are told."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.networks.condition import Condition, ConditionEmbedding
from markovae.networks.embedding import Detail, LogSNREmbedding, positions, working_type
from markovae.networks.network import Network, check_images

Tokens = tuple[Tensor, Tensor] | None
"""Features of a text's tokens and which of them are there; None where no text is taken."""


@dataclass(frozen=True)
class PatchConfig(ABC):
    """What a network of patches is shown and told, whatever it is made of.

    Attributes:
        in_channels: channels of the latent.   out_channels: C, or 2C where the reverse variance is learned.
        patch: side of the squares of pixels that are one position.
        embedding: size of the embedding of log-SNR and condition.
        dropout: inside the blocks.
        num_classes, vector_dim, token_dim, image_channels: the conditions taken; 0 is none. An image lies beside the
            latent.
        differences, frequencies, radius: fixed features of the latent's detail (see `Detail`); False, () and 0: none.
        octaves: of the fixed features of the position in the image (see `positions`); 0 gives none.
    """

    in_channels: int = 3
    out_channels: int = 3
    patch: int = 2
    embedding: int = 128
    dropout: float = 0.0
    num_classes: int = 0
    vector_dim: int = 0
    token_dim: int = 0
    image_channels: int = 0
    differences: bool = True
    frequencies: tuple[float, ...] = (127.5,)
    octaves: int = 3
    radius: int = 2

    def __post_init__(self) -> None:
        self._at_least_one("in_channels", "out_channels", "patch", "embedding")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1)")

    @property
    @abstractmethod
    def stride(self) -> int:
        """Height and width of the latent must be multiples of this."""

    def _at_least_one(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


class PatchNetwork(Network, ABC):
    """A network of the patches of an image, told the log-SNR and the condition by one embedding.

    Attributes:
        config: its shape.   stem, head: its first and last layers, which each network makes.
        inputs: features of a patch.
    """

    config: PatchConfig
    stem: nn.Linear | nn.Conv2d
    head: nn.Linear | nn.Conv2d

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.config = config
        self.detail = Detail(config.in_channels, config.differences, config.frequencies, config.radius)
        self.level = LogSNREmbedding(config.embedding)
        self.condition = ConditionEmbedding(
            config.embedding,
            config.num_classes,
            config.vector_dim,
            token_dim=config.token_dim,
            image_channels=config.image_channels,
        )
        where = (2 + 4 * config.octaves) * (config.octaves > 0)
        self.inputs = (self.detail.channels + config.image_channels) * config.patch**2 + where

    @property
    def stride(self) -> int:
        """Height and width of the latent must be multiples of this."""
        return self.config.stride

    @property
    def num_classes(self) -> int:
        """Labels taken: 0…num_classes − 1; 0 takes none."""
        return self.config.num_classes

    def outer_weights(self) -> tuple[Tensor, ...]:
        """Weights of the stem, the head, the first log-SNR layer and the condition's layers."""
        return (self.stem.weight, self.head.weight, self.level.first.weight, *self.condition.parameters())

    def _patches(self, z: Tensor, logsnr: Tensor, condition: Condition | None) -> Tensor:
        """(B, C, H, W) -> (B, inputs, H/patch, W/patch): latent, detail, the condition's image, and where each lies."""
        check_images(z, logsnr, self.config.in_channels, self.stride)
        detail = self.detail(z.to(working_type(self.stem.weight)), logsnr)
        seen = F.pixel_unshuffle(self.condition.beside(detail, condition), self.config.patch)
        return torch.cat([seen, positions(seen.shape[2], seen.shape[3], self.config.octaves, seen)], dim=1)

    def _told(self, logsnr: Tensor, condition: Condition | None) -> tuple[Tensor, Tokens]:
        """The embedding of log-SNR and condition, (B, embedding), and the tokens to attend to."""
        examples = len(logsnr)
        embedding = F.silu(self.level(logsnr) + self.condition(condition, examples))
        return embedding, self.condition.tokens(condition, examples)

    def _pixels(self, out: Tensor) -> Tensor:
        """(B, C_out·patch², H/patch, W/patch) -> (B, C_out, H, W), in the working type."""
        return F.pixel_shuffle(out, self.config.patch).to(working_type(self.stem.weight))
