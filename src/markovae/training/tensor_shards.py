"""Tensors that are spread over processes by torch's FSDP2: each holds some rows of them; `whole` and `part`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def is_spread(value: Tensor) -> bool:
    """Whether this process holds a part of the tensor only (a DTensor of torch's)."""
    return hasattr(value, "full_tensor")


def whole(value: Tensor) -> Tensor:
    """All of it, from the parts of every process, each of which must ask; a tensor that is not spread as it is."""
    if not is_spread(value):
        return value
    full: Tensor = value.full_tensor()  # type: ignore[attr-defined]
    return full


def part(full: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process holds, spread as `like` is; nothing is sent. As it is where that is not spread."""
    if not is_spread(like):
        return full
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    spread: Tensor = distribute_tensor(full.to(like.device), mesh, placements, src_data_rank=None)
    return spread


def parts(full: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`part` of each tensor that has a likeness of its shape; the others as they are."""
    return {
        name: part(value, like[name]) if name in like and like[name].shape == value.shape else value
        for name, value in full.items()
    }


def mine(value: Tensor) -> Tensor:
    """The rows that this process holds, sharing their memory; all of a tensor that is not spread."""
    if not is_spread(value):
        return value
    local: Tensor = value.to_local()  # type: ignore[attr-defined]
    return local
