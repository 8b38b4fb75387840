"""`markovae doctor`: what this machine offers, and whether its device agrees with the CPU."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from typing import TYPE_CHECKING, Any

from markovae.cli.parser import add_json

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "numpy", "pillow", "safetensors", "rich", "dicebear-core", "dicebear-styles", "resvg_py")
LIMIT = 1e-3
SIDE = 1024


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of this command."""
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps …")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Look, and print what was found; 1 where device and CPU disagree."""
    found = examine(options.device)
    if options.json:
        print(json.dumps(found, allow_nan=False))
    else:
        print(describe(found))
    return 0 if found["agreement"]["pass"] else 1


def examine(name: str) -> dict[str, Any]:
    """Versions, cores, speed in the two training precisions, and the agreement of device and CPU."""
    import torch

    from markovae import __version__
    from markovae.cli.device import chosen_device
    from markovae.data.cache import cache_folder

    device = chosen_device(name)
    rates = {str(kind).removeprefix("torch."): _rate(device, kind) for kind in (torch.float32, torch.bfloat16)}
    return {
        "schema_version": 1,
        "markovae": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {package: _version(package) for package in PACKAGES},
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
        "cpu_threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "matmul_gflops": rates,
        "bfloat16_pays": rates["bfloat16"] > rates["float32"],
        "cache": str(cache_folder()),
        "agreement": _agreement(device),
    }


def describe(found: dict[str, Any]) -> str:
    """The findings in a few lines."""
    rates, agreement = found["matmul_gflops"], found["agreement"]
    verdict = "agrees with" if agreement["pass"] else "DISAGREES with"
    return "\n".join(
        [
            f"markovae {found['markovae']}, Python {found['python']}, {found['system']}",
            "  " + ", ".join(f"{name} {version}" for name, version in found["packages"].items()),
            f"device     {found['device']} ({found['device_name']}), {found['cpu_threads']} CPU threads",
            f"matmul     float32 {rates['float32']:,.0f}, bfloat16 {rates['bfloat16']:,.0f} GFLOP/s: "
            f"bfloat16 {'pays' if found['bfloat16_pays'] else 'does not pay'} here",
            f"agreement  {found['device']} {verdict} float64 on the CPU: largest relative difference "
            f"{agreement['difference']:.1e} of a U-Net's output (limit {agreement['limit']:.0e})",
            f"cache      {found['cache']}",
        ]
    )


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _rate(device: torch.device, kind: torch.dtype) -> float:
    """GFLOP/s of a square matrix product, the best of five."""
    import torch

    matrix = torch.ones(SIDE, SIDE, device=device, dtype=kind)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        product = matrix @ matrix
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * SIDE**3 / best / 1e9


def _agreement(device: torch.device) -> dict[str, Any]:
    """A small U-Net with random weights on the device in float32 against the CPU in float64."""
    import torch

    from markovae.networks.unet import UNet, UNetConfig
    from markovae.randomness import generator

    network = UNet(UNetConfig(width=32)).double().eval()
    source = generator(0, "doctor")
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=source, dtype=torch.float64))
        z = torch.randn(4, 3, 16, 16, generator=source, dtype=torch.float64)
        logsnr = torch.linspace(-8, 12, 4, dtype=torch.float64)
        exact = network(z, logsnr).double()
        there = network.float().to(device)(z.float().to(device), logsnr.to(device)).double().cpu()
    difference = float((there - exact).abs().max() / exact.abs().max())
    return {"difference": difference, "limit": LIMIT, "pass": difference <= LIMIT}
