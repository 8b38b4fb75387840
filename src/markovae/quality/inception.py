"""InceptionV3 in the variant that published Fréchet distances use, 2048 features, for a user who has its weights.

Architecture: Szegedy et al. 2016; the variant (average pools that leave the border out, a maximum pool in the last
block) is that of the 2015 TensorFlow graph. Tensors are named as torchvision names them: `Conv2d_1a_3x3.conv.weight`,
`Mixed_5b.branch1x1.bn.running_mean` and so on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.errors import UserError
from markovae.quality.convolutions import FoldedConv, folded

SIDE, DIMS = 299, 2048
MOST_BYTES = 1 << 30
Shape = tuple[int, int, int, int]
# A branch is a chain of steps; a step is a pool, a convolution, or several side by side.
Branch = tuple[str | tuple[str, ...], ...]

STEM: dict[str, Shape] = {
    "Conv2d_1a_3x3": (32, 3, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (64, 32, 3, 3),
    "Conv2d_3b_1x1": (80, 64, 1, 1),
    "Conv2d_4a_3x3": (192, 80, 3, 3),
}
BLOCKS: dict[str, tuple[Branch, ...]] = {
    **dict.fromkeys(
        ("Mixed_5b", "Mixed_5c", "Mixed_5d"),
        (
            ("branch1x1",),
            ("branch5x5_1", "branch5x5_2"),
            ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            ("average", "branch_pool"),
        ),
    ),
    "Mixed_6a": (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"), ("shrink",)),
    **dict.fromkeys(
        ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
        (
            ("branch1x1",),
            ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
            ("branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"),
            ("average", "branch_pool"),
        ),
    ),
    "Mixed_7a": (
        ("branch3x3_1", "branch3x3_2"),
        ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"),
        ("shrink",),
    ),
    **{
        name: (
            ("branch1x1",),
            ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
            ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
            (pool, "branch_pool"),
        )
        for name, pool in (("Mixed_7b", "average"), ("Mixed_7c", "largest"))
    },
}


def shapes() -> dict[str, Shape]:
    """The shape (out, in, kh, kw) of every convolution's weight, by its name."""
    found = dict(STEM)
    for name, wide, pooled in (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)):
        found |= _named(name, {"branch1x1": (64, wide, 1, 1), "branch5x5_1": (48, wide, 1, 1)})
        found |= _named(name, {"branch5x5_2": (64, 48, 5, 5), "branch3x3dbl_1": (64, wide, 1, 1)})
        found |= _named(name, {"branch3x3dbl_2": (96, 64, 3, 3), "branch3x3dbl_3": (96, 96, 3, 3)})
        found |= _named(name, {"branch_pool": (pooled, wide, 1, 1)})
    found |= _named("Mixed_6a", {"branch3x3": (384, 288, 3, 3), "branch3x3dbl_1": (64, 288, 1, 1)})
    found |= _named("Mixed_6a", {"branch3x3dbl_2": (96, 64, 3, 3), "branch3x3dbl_3": (96, 96, 3, 3)})
    for name, c in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        found |= _named(name, {"branch1x1": (192, 768, 1, 1), "branch7x7_1": (c, 768, 1, 1)})
        found |= _named(name, {"branch7x7_2": (c, c, 1, 7), "branch7x7_3": (192, c, 7, 1)})
        found |= _named(name, {"branch7x7dbl_1": (c, 768, 1, 1), "branch7x7dbl_2": (c, c, 7, 1)})
        found |= _named(name, {"branch7x7dbl_3": (c, c, 1, 7), "branch7x7dbl_4": (c, c, 7, 1)})
        found |= _named(name, {"branch7x7dbl_5": (192, c, 1, 7), "branch_pool": (192, 768, 1, 1)})
    found |= _named("Mixed_7a", {"branch3x3_1": (192, 768, 1, 1), "branch3x3_2": (320, 192, 3, 3)})
    found |= _named("Mixed_7a", {"branch7x7x3_1": (192, 768, 1, 1), "branch7x7x3_2": (192, 192, 1, 7)})
    found |= _named("Mixed_7a", {"branch7x7x3_3": (192, 192, 7, 1), "branch7x7x3_4": (192, 192, 3, 3)})
    for name, wide in (("Mixed_7b", 1280), ("Mixed_7c", 2048)):
        found |= _named(name, {"branch1x1": (320, wide, 1, 1), "branch3x3_1": (384, wide, 1, 1)})
        found |= _named(name, {"branch3x3_2a": (384, 384, 1, 3), "branch3x3_2b": (384, 384, 3, 1)})
        found |= _named(name, {"branch3x3dbl_1": (448, wide, 1, 1), "branch3x3dbl_2": (384, 448, 3, 3)})
        found |= _named(name, {"branch3x3dbl_3a": (384, 384, 1, 3), "branch3x3dbl_3b": (384, 384, 3, 1)})
        found |= _named(name, {"branch_pool": (192, wide, 1, 1)})
    return found


def _named(block: str, parts: Mapping[str, Shape]) -> dict[str, Shape]:
    return {f"{block}.{name}": shape for name, shape in parts.items()}


def tensor_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor that the weights' file must have; others are not read."""
    for name, shape in shapes().items():
        yield f"{name}.conv.weight", shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.bn.{part}", shape[:1]


@final
class Inception(nn.Module):
    """The network up to the mean over positions."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        halving = {"Conv2d_1a_3x3", "Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3"}
        halving |= {"Mixed_7a.branch3x3_2", "Mixed_7a.branch7x7x3_4"}
        unpadded = halving | {"Conv2d_2a_3x3", "Conv2d_4a_3x3"}
        self.convs: dict[str, FoldedConv] = {}
        for name, (_, _, rows, columns) in shapes().items():
            padding = (0, 0) if name in unpadded else (rows // 2, columns // 2)
            conv = folded(tensors, f"{name}.conv", f"{name}.bn", 2 if name in halving else 1, padding)
            self.convs[name] = conv
            self.add_module(name.replace(".", "_"), conv)

    def forward(self, x: Tensor) -> Tensor:
        """Images on [0, 1], (B, 3, 299, 299) -> (B, 2048)."""
        h = 2 * x - 1
        for name in STEM:
            h = F.relu(self.convs[name](h))
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                h = F.max_pool2d(h, 3, 2)
        for name, branches in BLOCKS.items():
            h = torch.cat([self.along(name, branch, h) for branch in branches], 1)
        return h.mean((2, 3))

    def along(self, block: str, branch: Branch, h: Tensor) -> Tensor:
        """One branch of a block, (B, C, H, W) -> (B, C', H', W')."""
        for step in branch:
            if step == "average":
                h = F.avg_pool2d(h, 3, 1, 1, count_include_pad=False)
            elif step == "largest":
                h = F.max_pool2d(h, 3, 1, 1)
            elif step == "shrink":
                h = F.max_pool2d(h, 3, 2)
            else:
                side_by_side = (step,) if isinstance(step, str) else step
                h = torch.cat([F.relu(self.convs[f"{block}.{name}"](h)) for name in side_by_side], 1)
        return h


def open_inception(path: Path) -> tuple[Inception, str]:
    """The network with the weights of a safetensors file, and the file's SHA-256.

    Raises:
        UserError: for a file that cannot be read, is no safetensors file, or lacks a tensor.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes: Inception's weights have about 95 million")
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a safetensors file with --weights") from None
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is not a safetensors file ({error}): convert the weights first") from None
    for name, shape in tensor_shapes():
        there = tuple(tensors[name].shape) if name in tensors else None
        if there != shape:
            what = "lacks the tensor" if there is None else f"has shape {there} for the tensor"
            raise UserError(
                f"{path} {what} {name} {shape}: the names are torchvision's inception_v3, see docs/quality.md"
            )
    return Inception(tensors).eval().requires_grad_(False), hashlib.sha256(content).hexdigest()
