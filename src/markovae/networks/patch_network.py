"""What the U-Net and the transformer share: an image as patches, conditioned on log-SNR and condition."""

from abc import ABC

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.networks.conditioning import Condition, ConditionEmbedding
from markovae.networks.embedding import Detail, LogSNREmbedding, positions, working_type
from markovae.networks.layers import zeroed
from markovae.networks.network import Network, check_images
from markovae.networks.network_config import DataSpec, DiTConfig, NetworkConfig
from markovae.networks.spectral import Spectral
from markovae.system.device import Constants

Tokens = tuple[Tensor, Tensor] | None
"""Features of a text's tokens and which of them are there; None where no text is taken."""


class PatchNetwork(Network, ABC):
    """A network of the patches of an image, conditioned on log-SNR and condition through one embedding.

    Images of any size: their features are padded with zeros to multiples of the stride, at the right and below, as
    convolutions pad them at every side; the output is cropped.

    Attributes:
        config, data: its shape.   stem, head: its first and last layers, which each network makes.
        inputs: features of a patch.
    """

    config: NetworkConfig | DiTConfig
    stem: nn.Linear | nn.Conv2d
    head: nn.Linear | nn.Conv2d

    def __init__(self, config: NetworkConfig | DiTConfig, data: DataSpec) -> None:
        super().__init__()
        self.config, self.data = config, data
        self.stride, self.num_classes = config.stride(data.size), data.num_classes
        self._constants = Constants()
        frequencies, radius = ((data.frequency,), config.radius) if config.detail else ((), 0)
        self.detail = Detail(data.in_channels, config.detail, frequencies, radius)
        self.spectral = Spectral(data.in_channels, config.spectral) if config.spectral else None
        estimates = 0 if self.spectral is None else self.spectral.count
        # The latent and the estimates of its noise, each times a function of log-SNR, are added to the output.
        self.gains = zeroed(nn.Linear(config.embedding, 1 + estimates)) if estimates else None
        self.level = LogSNREmbedding(config.embedding)
        self.condition = ConditionEmbedding(
            config.embedding,
            data.num_classes,
            data.vector_dim,
            token_dim=data.token_dim,
            image_channels=data.image_channels,
            column_dim=data.column_dim,
        )
        where = (2 + 4 * config.octaves) * (config.octaves > 0)
        features = self.detail.channels + estimates * data.in_channels + data.plain_channels + data.image_channels
        self.inputs = features * config.patch**2 + where

    def outer_weights(self) -> tuple[Tensor, ...]:
        """Weights of the stem, the head, the gains, the first log-SNR layer and the condition's layers."""
        gains = () if self.gains is None else (self.gains.weight,)
        return (self.stem.weight, self.head.weight, *gains, self.level.first.weight, *self.condition.parameters())

    def _estimates(self, z: Tensor, logsnr: Tensor) -> Tensor | None:
        """Fixed estimates of the latent's noise, (B, K, C, H, W), or None where there are none."""
        check_images(z, logsnr, self.data.in_channels + self.data.plain_channels)
        if self.spectral is None:
            return None
        found: Tensor = self.spectral(z[:, : self.data.in_channels].to(working_type(self.stem.weight)), logsnr)
        return found

    def _patches(self, z: Tensor, logsnr: Tensor, condition: Condition | None, estimates: Tensor | None) -> Tensor:
        """(B, C, H, W), padded -> (B, inputs, H/patch, W/patch): latent, detail, estimates, the condition's image,
        positions."""
        channels, plain = self.data.in_channels, self.data.plain_channels
        z = z.to(working_type(self.stem.weight))
        detail = self.detail(z[:, :channels] if plain else z, logsnr)
        detail = detail if estimates is None else torch.cat([detail, estimates.flatten(1, 2)], 1)
        detail = torch.cat([detail, z[:, channels:]], 1) if plain else detail
        seen = self.condition.concat_image(detail, condition)
        below, right = (-side % self.stride for side in z.shape[2:])
        seen = F.pixel_unshuffle(F.pad(seen, (0, right, 0, below)) if below or right else seen, self.config.patch)
        if not self.config.octaves:
            return seen
        height, width, octaves = *seen.shape[2:], self.config.octaves
        where = self._constants.get(
            "where", seen.device, seen.dtype, height, width, make=lambda: positions(height, width, octaves, seen[:1])
        )
        return torch.cat([seen, where.expand(len(seen), -1, -1, -1)], dim=1)

    def _embedding(self, logsnr: Tensor, condition: Condition | None) -> tuple[Tensor, Tokens]:
        """The embedding of log-SNR and condition, (B, embedding), and the tokens to attend to."""
        examples = len(logsnr)
        embedding = F.silu(self.level(logsnr) + self.condition(condition, examples))
        return embedding, self.condition.tokens(condition, examples)

    def _pixels(self, out: Tensor, z: Tensor, embedding: Tensor, estimates: Tensor | None) -> Tensor:
        """(B, C_out·patch², H/patch, W/patch) -> (B, C_out, H, W) of z's sides, in the working type; latent and
        estimates added by their gains."""
        pixels = F.pixel_shuffle(out, self.config.patch)
        if pixels.shape[2:] != z.shape[2:]:
            # A copy: what shards the weights must not be handed a view.
            pixels = pixels[..., : z.shape[2], : z.shape[3]].clone()
        pixels = pixels.to(working_type(self.stem.weight))
        if self.spectral is None or self.gains is None or estimates is None:
            return pixels
        channels, gains = self.data.in_channels, self.gains(embedding).to(pixels)[..., None, None, None]
        known = gains[:, 0] * z[:, :channels].to(pixels)
        known = known + self.spectral.from_colors((gains[:, 1:] * estimates).sum(1))
        return torch.cat([pixels[:, :channels] + known, pixels[:, channels:]], 1)
