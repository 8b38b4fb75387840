"""What this machine is, and whether its device calculates what the CPU does."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

from markovae import __version__
from markovae.build import create
from markovae.config import Config
from markovae.data.cache import cache_folder
from markovae.diffusion.cascade import one_stage
from markovae.diffusion.model import Diffusion
from markovae.randomness import Streams, generator
from markovae.system.cores import usable_cores
from markovae.system.device import has_bfloat16
from markovae.system.files import free_bytes

SCHEMA_VERSION = 1
PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "rich",
    "safetensors",
    "tomli-w",
    "dicebear-core",
    "dicebear-styles",
    "resvg_py",
)
# Rounding of one pass through the small network, with a margin of about ten.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 2e-1}
LOGSNRS = (12.0, 4.0, 0.0, -4.0, -9.0)


def examine(device: torch.device, bfloat16: bool, batch: int) -> dict[str, Any]:
    """The record of `markovae doctor`.

    Args:
        device: to compare with the CPU.
        bfloat16: compare in bfloat16 rather than float32.
        batch: images of the comparison.
    """
    rows = agreement(device, torch.bfloat16 if bfloat16 else torch.float32, batch)
    return {
        "schema_version": SCHEMA_VERSION,
        "versions": {"markovae": __version__, "python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "machine": machine(device),
        "agreement": rows,
        "pass": all(row["pass"] for row in rows),
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What there is to calculate with and to write to."""
    cuda = device.type == "cuda"
    return {
        "system": platform.platform(terse=True),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "device_memory_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1) if cuda else None,
        "native_bfloat16": has_bfloat16(device),
        "cache": str(cache_folder()),
        "cache_free_gib": round(free_bytes(cache_folder()) / 2**30, 1),
    }


@torch.no_grad()
def agreement(device: torch.device, precision: torch.dtype, batch: int) -> list[dict[str, Any]]:
    r"""max |x̂_device − x̂_cpu| of a small model at several log-SNRs, and the relative difference of its bound.

    Both see the same latents. The CPU takes one image at a time, in float32; the device takes the batch.
    """
    reference, there = small_model(), small_model().to(device)
    there.precision = precision
    z = Streams(0, "doctor", range(batch)).normal(reference.shape, torch.float32)
    images = (z * 40 + 128).clamp(0, 255).to(torch.uint8)
    tolerance = TOLERANCES[precision]
    rows = []
    for logsnr in LOGSNRS:
        level = torch.tensor(logsnr, dtype=torch.float64)
        alone = torch.cat([reference.denoise(one[None], level) for one in z])
        found = there.denoise(z.to(device), level.to(device)).float().cpu()
        rows.append(_row(f"x̂ at log-SNR {logsnr:g}", float((found - alone).abs().max()), tolerance))
    alone = torch.cat([reference.bound(one[None], Streams(0, "bound", [i])).total for i, one in enumerate(images)])
    found = there.bound(images).total.cpu()
    rows.append(_row("bound, relative", float(((found - alone) / alone).abs().max()), tolerance))
    return rows


@torch.no_grad()
def small_model() -> Diffusion:
    """A small model with weights that are a function of nothing; fresh networks end in zeros, which would agree."""
    settings = ["network.width=32", "network.embedding=64", "network.blocks=1", "schedule.num_levels=8"]
    model = one_stage(create(Config().with_settings(settings), (3, 16, 16)).eval(), "the doctor")
    for name, weight in model.named_parameters():
        if not bool(weight.any()):
            weight.copy_(0.05 * torch.randn(weight.shape, generator=generator(0, "doctor weights", name)))
    return model


def _row(name: str, difference: float, tolerance: float) -> dict[str, Any]:
    return {"name": name, "difference": difference, "tolerance": tolerance, "pass": difference <= tolerance}
