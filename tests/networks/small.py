"""Small networks of both families, a latent, and all that they can be told."""

from dataclasses import fields

import torch

from markovae.networks.conditioning import Condition
from markovae.networks.dit import DiT
from markovae.networks.network_config import DataSpec, DiTConfig, NetworkConfig
from markovae.networks.patch_network import PatchNetwork
from markovae.networks.unet import UNet

UNET = {"width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "embedding": 16, "head_dim": 16}
DIT = {"width": 32, "depth": 2, "head_dim": 16, "expansion": 2, "embedding": 16}
TOLD = {"num_classes": 3, "vector_dim": 2, "token_dim": 6}


def shaped(config: type, options: dict) -> tuple:
    """(config, DataSpec) of options of either."""
    data = {field.name for field in fields(DataSpec)} & set(options)
    return config(**{k: v for k, v in options.items() if k not in data}), DataSpec(**{k: options[k] for k in data})


def fresh_unet(**options) -> UNet:
    torch.manual_seed(5)
    return UNet(*shaped(NetworkConfig, UNET | options))


def fresh_dit(**options) -> DiT:
    torch.manual_seed(5)
    return DiT(*shaped(DiTConfig, DIT | options))


def lively_unet(**options) -> PatchNetwork:
    return lively(fresh_unet(**options), 0.1)


def lively_dit(**options) -> PatchNetwork:
    return lively(fresh_dit(**options), 0.3)


def lively(network: PatchNetwork, deviation: float) -> PatchNetwork:
    """The network with its zero-initialised layers filled, so that everything shows in the output."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.abs().max() == 0:
                weight.normal_(0, deviation, generator=generator)
    return network.eval()


def latent(batch: int = 3, height: int = 8, width: int = 12, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def text(length: int = 5, batch: int = 3) -> Condition:
    tokens = torch.randn(batch, length, 6, generator=torch.Generator().manual_seed(7))
    return Condition(tokens=tokens, mask=torch.arange(length) < torch.tensor([[1], [3], [length]])[:batch])


def everything() -> Condition:
    return Condition(
        label=torch.tensor([0, 1, 2]),
        vector=torch.randn(3, 2, generator=torch.Generator().manual_seed(9)),
        tokens=text().tokens,
        mask=text().mask,
    )
