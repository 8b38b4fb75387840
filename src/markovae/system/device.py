"""The device that a name means, what it computes natively, and constants that stay on it. torch is imported on the
first call only."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Self, final

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


KEPT_CONSTANTS = 8


@final
class Constants:
    """Tensors that depend on a few words alone (a device, a type, sizes), each made once: a GPU would wait for each."""

    def __init__(self) -> None:
        self._made: dict[Hashable, torch.Tensor] = {}

    def get(self, *key: Hashable, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The tensor of this key, which nobody may write to; only the last few are kept."""
        import torch

        if torch.compiler.is_compiling():
            return make()
        if key not in self._made:
            with torch.inference_mode(False), torch.no_grad():
                made = make()
            while len(self._made) >= KEPT_CONSTANTS:
                self._made.pop(next(iter(self._made)))
            self._made[key] = made
        return self._made[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()
