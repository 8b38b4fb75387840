"""A pipeline's folder as diffusers writes it, made without it."""

import json
from pathlib import Path

import safetensors.torch
import torch

from markovae.diffusion.schedule import linear
from markovae.interop.diffusers_unet import config_from
from markovae.interop.weights import to_theirs
from markovae.networks.ddpm import DDPMUNet

TINY = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
UNET = {"_class_name": "UNet2DModel", "_diffusers_version": "0.0.1", **TINY}
SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 30}


def write_pipeline(folder: Path, **unet: object) -> Path:
    """The folder, with a fresh network; `unet` goes into its configuration."""
    said = UNET | unet
    shape = config_from(said)
    torch.manual_seed(0)
    network = DDPMUNet(shape.options, shape.data, linear(30).logsnr[1:])
    (folder / "unet").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    (folder / "unet" / "config.json").write_text(json.dumps(said))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    weights = to_theirs(network, {name: weight.detach() for name, weight in network.named_parameters()})
    safetensors.torch.save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors")
    return folder
