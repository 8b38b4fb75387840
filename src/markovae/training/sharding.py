"""Weights spread over processes by torch's FSDP2: each process holds some rows of every tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from markovae.networks.ddpm import DDPMAttention, DDPMBlock
from markovae.networks.dit import DiTBlock
from markovae.networks.layers import CrossAttention, ResidualBlock, SelfAttention


def is_sharded(value: Tensor) -> bool:
    """Whether this process holds a part of the tensor only (a DTensor of torch's)."""
    return hasattr(value, "full_tensor")


def full_tensor(value: Tensor) -> Tensor:
    """All of it, from the parts of every process, each of which must ask; a tensor that is not spread as it is."""
    if not is_sharded(value):
        return value
    full: Tensor = value.full_tensor()  # type: ignore[attr-defined]
    return full


def shard_like(full: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process holds, spread as `like` is; nothing is sent. As it is where that is not spread."""
    if not is_sharded(like):
        return full
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    spread: Tensor = distribute_tensor(full.to(like.device), mesh, placements, src_data_rank=None)
    return spread


def shard_tables(full: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`part` of each tensor that has a likeness of its shape; the others as they are."""
    return {
        name: shard_like(value, like[name]) if name in like and like[name].shape == value.shape else value
        for name, value in full.items()
    }


def local_shard(value: Tensor) -> Tensor:
    """The rows that this process holds, sharing their memory; all of a tensor that is not spread."""
    if not is_sharded(value):
        return value
    local: Tensor = value.to_local()  # type: ignore[attr-defined]
    return local


# Gathered one at a time.
BLOCKS = (ResidualBlock, SelfAttention, CrossAttention, DDPMBlock, DDPMAttention, DiTBlock)


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
