"""What every network of the prior is: out = net(z, log-SNR, condition)."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from markovae.networks.conditioning import Condition


class Network(nn.Module, ABC):
    """A function of the latent, its log-SNR and an optional condition; it knows no schedule and no target.

    Attributes:
        stride: pixels a side of one position at the coarsest level; latents are padded, or must be, to multiples of it.
        num_classes: labels taken, 0…num_classes − 1; 0 takes none.
        checkpointing: whether a training pass keeps only what enters each block, and computes the rest of it again on
            the way back: the same gradients in less memory and about a third more time (Chen et al. 2016).
    """

    stride: int
    num_classes: int
    checkpointing = False

    @abstractmethod
    def outer_weights(self) -> tuple[Tensor, ...]:
        """Matrices next to the data (first and last layers, embeddings), which Muon must leave to AdamW."""

    @abstractmethod
    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the target of the latent.

        Args:
            z: latent, (B, *D).
            logsnr: log-SNR of each example, (B,), float64 preferred; ±inf is allowed.
            condition: what is known about each example, or None for the learned null.
        Returns: (B, C_out, *rest of D), float32; float64 where the weights are (`network.double()`).
        """

    def _run(self, block: nn.Module, *inputs: Any) -> Any:
        """block(*inputs), with or without its activations kept."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


def check_images(z: Tensor, logsnr: Tensor, channels: int, stride: int = 1) -> None:
    """Refuse, with a ValueError, latents that are not images (B, channels, H, W) of sides that the stride divides, and
    log-SNRs that are not one for each."""
    if z.ndim != 4 or z.shape[1] != channels:
        raise ValueError(f"latent of shape {tuple(z.shape)} must be (B, {channels}, H, W)")
    height, width = z.shape[2:]
    if height % stride or width % stride:
        raise ValueError(
            f"images of {height}x{width} pixels do not fit this network: height and width must be multiples "
            f"of {stride}; crop, pad or resize them"
        )
    if logsnr.shape != (len(z),):
        raise ValueError(f"logsnr of shape {tuple(logsnr.shape)} must be ({len(z)},): one for each example")
