"""Weights spread over processes by torch's FSDP2: each holds its rows of every weight, gradient and moment."""

from __future__ import annotations

import torch
from torch import nn

from markovae.config import TrainConfig
from markovae.errors import UserError
from markovae.networks.ddpm.blocks import DDPMAttention, DDPMBlock
from markovae.networks.dit import DiTBlock
from markovae.networks.layers import CrossAttention, ResidualBlock, SelfAttention
from markovae.training.losses import LevelLoss, Loss

# Gathered one at a time.
BLOCKS = (ResidualBlock, SelfAttention, CrossAttention, DDPMBlock, DDPMAttention, DiTBlock)


def require_shardable(config: TrainConfig, loss: Loss) -> None:
    """Whether this training can be spread.

    Raises:
        UserError: where train.parallel=fsdp and a schedule learns.
    """
    if config.parallel == "fsdp" and not isinstance(loss, LevelLoss):
        raise UserError(
            "train.parallel=fsdp gathers a network's weights for one pass a step, and schedule.kind=learned takes "
            "several: set train.parallel=ddp"
        )


def sharded(network: nn.Module, size: int, device: torch.device) -> nn.Module:
    """Spread a network's weights by their first dimension, in place; its blocks are gathered one at a time.

    Gradients are summed over the processes, as the parts of a batch add up to it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device.type, (size,))
    for module in [*(block for block in network.modules() if isinstance(block, BLOCKS)), network]:
        fully_shard(module, mesh=mesh)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # which gloo has; it has no other
    return network
