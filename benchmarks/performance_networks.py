"""The networks of the benchmarks of speed, as ours and as diffusers', with the same weights, and images for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from markovae.build import create
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion.model import Diffusion
from markovae.interop.diffusers_unet import config_to
from markovae.interop.weights import to_theirs
from markovae.networks.ddpm import DDPMUNet

# The small one, and Ho et al.'s for CIFAR-10, both for 32x32; and one for tests.
NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "tiny": (8, {"widths": [16, 32], "attention": [1], "groups": 4, "blocks": 1}),
    "small": (32, {"widths": [32, 64, 64, 128], "attention": [2]}),
    "large": (32, {"widths": [128, 256, 256, 256], "attention": [1]}),
}
PLAIN = ["schedule.kind=linear", "target.name=noise", "target.decoder=ho_small", "network.kind=ddpm"]


def model_of(name: str, settings: Sequence[str] = ()) -> Diffusion:
    """Ho et al.'s model with one of `NETWORKS`; what starts at zero is given small numbers, as by training.

    Args:
        settings: of the configuration, "section.name=value" each.
    """
    side, shape = NETWORKS[name]
    told = [f"network.ddpm.{key}={value}" for key, value in shape.items()]
    model = create(Config().with_settings([*PLAIN, *told, *settings]), (3, side, side))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.network.parameters():
            if not weight.any():
                weight.normal_(0, 0.02, generator=generator)
    return model


def network_of(model: Diffusion) -> DDPMUNet:
    """The model's network, which is of the DDPM family."""
    assert isinstance(model.network, DDPMUNet)
    return model.network


def peer_of(model: Diffusion) -> nn.Module:
    """diffusers' UNet2DModel with the model's weights."""
    from diffusers import UNet2DModel

    network = network_of(model)
    unet: nn.Module = UNet2DModel.from_config(config_to(network.config, network.data))
    unet.load_state_dict(to_theirs(network, dict(network.named_parameters())))
    return unet


def weights_of(network: nn.Module) -> int:
    """How many weights a network has."""
    return sum(weight.numel() for weight in network.parameters())


def images_for(model: Diffusion, count: int, seed: int = 0) -> ImageData:
    """Smooth random images, so that a network has something to learn, as 8-bit digits."""
    channels, height, width = model.shape
    coarse = np.random.default_rng(seed).normal(size=(count, channels, 4, 4))
    fine = nn.functional.interpolate(torch.from_numpy(coarse), (height, width), mode="bicubic")
    return ImageData((127.5 + 50 * fine).round().clamp(0, 255).byte().numpy(), bins=256)


def flops(unet: nn.Module, shape: Sequence[int], batch: int, train: bool = True) -> int:
    """Floating-point operations an image of the plain network: forward, and backward with `train`."""
    x, t = torch.zeros(batch, *shape), torch.zeros(batch)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(train):
        out: Tensor = unet(x, t).sample
        if train:
            out.sum().backward()
    unet.zero_grad(set_to_none=True)
    return counter.get_total_flops() // batch
