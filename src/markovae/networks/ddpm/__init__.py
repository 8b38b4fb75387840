"""The networks of the DDPM family, weight for weight those of `diffusers.UNet2DModel`."""

from markovae.networks.ddpm.config import DDPMConfig
from markovae.networks.ddpm.unet import DDPMUNet, GridStep

__all__ = ["DDPMConfig", "DDPMUNet", "GridStep"]
