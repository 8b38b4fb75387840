"""The device that a name means, and what it computes natively. torch is imported on the first call only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markovae.errors import UserError
from markovae.system.processes import current_rank

if TYPE_CHECKING:
    import torch


def device_named(name: str | torch.device) -> torch.device:
    """The device with this name; auto is a CUDA device where there is one (of several processes, each its own), else
    the CPU.

    Raises:
        UserError: for a device that is not on this machine, or has no float64.
    """
    import torch

    name = str(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not current_rank().alone:
        name = f"cuda:{current_rank().local}"
    try:
        device = torch.device(name)
        if device.type == "cpu" and device.index:
            raise RuntimeError(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise UserError(f"device {name} is not on this machine, which has {', '.join(there)}") from None
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):  # as mps
        raise UserError(
            f"device {name} has no float64, which log-SNRs and the bound are computed in: take --device cpu"
        ) from None
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself rather than by way of float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Absent in some builds of torch: then the processor counts as one without.
    tests = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return device.type == "cpu" and any(test() for test in tests if test is not None)
