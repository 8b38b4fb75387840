"""The network of a configuration: its shape first, then a network of that shape, with weights or without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from markovae.config import Config, NetworkConfig
from markovae.config.ddpm import DDPMOptions
from markovae.config.dit import DiTOptions
from markovae.errors import UserError
from markovae.networks.ddpm import DDPMConfig, DDPMUNet
from markovae.networks.dit import DiT, DiTConfig
from markovae.networks.network import Network
from markovae.networks.unet import UNet, UNetConfig
from markovae.pixels import Pixels

NetworkShape = UNetConfig | DDPMConfig | DiTConfig


def network_shape(
    config: Config, shape: Sequence[int], channels: int, pixels: Pixels, num_classes: int, text: int
) -> NetworkShape:
    """The shape of the network that a configuration asks for.

    Args:
        config: the sections network and train.label_dropout are read.
        shape: of one image, (C, H, W).   channels: of the output.   pixels: of the images.
        num_classes: labels taken, 0 for none.   text: features of a caption's token, 0 for none.
    Raises:
        UserError: for widths that do not split as asked, or a stride that does not divide the images.
    """
    network = config.network
    if network.kind == "ddpm":
        _check_null(config, num_classes)
        made: NetworkShape = ddpm_config(network.ddpm or DDPMOptions(), shape[0], channels, num_classes)
        remedy = "shorten network.ddpm.widths"
    else:
        options = network.dit or DiTOptions() if network.kind == "dit" else network
        seen = _patches(options, shape, channels, pixels) | {"num_classes": num_classes}
        seen |= {"vector_dim": text, "token_dim": text}
        if isinstance(options, DiTOptions):
            made, remedy = _dit_config(options, seen), "lower network.dit.patch"
        else:
            made = _unet_config(options, shape, seen)
            remedy = "lower network.patch, or shorten network.multipliers"
    _check_stride(shape, made.stride, remedy)
    return made


def outline_network(shape: NetworkShape, logsnr: Tensor) -> Network:
    """A network of this shape on the meta device: names and shapes of its weights, which take no memory.

    Args:
        logsnr: λ_1…λ_L of the grid that a network of the DDPM family counts, (L,).
    """
    with torch.device("meta"), _WithoutNumbers():
        return _network(shape, logsnr)


def fresh_network(outline: nn.Module, logsnr: Tensor) -> Network:
    """A network like an outline, with fresh weights.

    Args:
        outline: from `outline_network`.   logsnr: as there.
    """
    assert isinstance(outline, UNet | DDPMUNet | DiT), "an outline is one of these"
    return _network(outline.config, logsnr)


def least_weights(shape: NetworkShape) -> int:
    """How many tensors of weights such a network has at least, by arithmetic: an outline of it takes time for each."""
    if isinstance(shape, DiTConfig):
        return 10 * shape.depth
    levels = len(shape.widths) if isinstance(shape, DDPMConfig) else len(shape.multipliers)
    return 8 * 2 * levels * shape.blocks


class _WithoutNumbers(TorchFunctionMode):
    """Weights are not initialised: on the meta device torch would import its compiler to draw from a normal law."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == nn.init.__name__:
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return function(*args, **(kwargs or {}))


def _network(shape: NetworkShape, logsnr: Tensor) -> Network:
    if isinstance(shape, DDPMConfig):
        return DDPMUNet(shape, logsnr)
    return UNet(shape) if isinstance(shape, UNetConfig) else DiT(shape)


def ddpm_config(options: DDPMOptions, in_channels: int, out_channels: int, num_classes: int) -> DDPMConfig:
    """The shape of a network of the DDPM family from its section, what was left out filled in.

    Raises:
        UserError: for widths that do not split into the groups or heads asked for.
    """
    settings = {field.name: getattr(options, field.name) for field in fields(options)}
    settings["embedding"] = options.embedding or 4 * options.widths[0]
    settings["attention_up"] = options.attention if options.attention_up is None else options.attention_up
    settings["middle_groups"] = options.groups if options.middle_groups is None else options.middle_groups
    try:
        return DDPMConfig(in_channels=in_channels, out_channels=out_channels, num_classes=num_classes, **settings)
    except ValueError as error:
        raise UserError(f"network.ddpm: {error}") from None


def _check_null(config: Config, classes: int) -> None:
    options = config.network.ddpm or DDPMOptions()
    if classes and config.train.label_dropout and not options.null_class:
        raise UserError(
            f"train.label_dropout={config.train.label_dropout:g} leaves classes out, and network.ddpm.null_class=false "
            "has nothing to stand for that: set one of them the other way (train.label_dropout=0)"
        )


def _unet_config(config: NetworkConfig, shape: Sequence[int], seen: dict[str, Any]) -> UNetConfig:
    multipliers, attention = config.levels(*shape[1:])
    return UNetConfig(
        width=config.width,
        multipliers=multipliers,
        blocks=config.blocks,
        attention=attention,
        head_dim=config.head_dim,
        **seen,
    )


def _dit_config(options: DiTOptions, seen: dict[str, Any]) -> DiTConfig:
    return DiTConfig(
        width=options.width,
        depth=options.depth,
        head_dim=options.head_dim,
        expansion=options.expansion,
        **seen,
    )


def _patches(
    options: NetworkConfig | DiTOptions, shape: Sequence[int], channels: int, pixels: Pixels
) -> dict[str, Any]:
    """What both are shown, by the names of `PatchConfig`."""
    return {
        "in_channels": shape[0],
        "out_channels": channels,
        "patch": options.patch,
        "embedding": options.embedding,
        "dropout": options.dropout,
        "differences": options.detail,
        "frequencies": (0.5 / pixels.half_width,) if options.detail else (),
        "radius": options.radius if options.detail else 0,
        "octaves": options.octaves,
    }


def _check_stride(shape: Sequence[int], stride: int, remedy: str) -> None:
    height, width = shape[-2:]
    if height % stride == 0 and width % stride == 0:
        return
    fits = [sorted({max(side // stride, 1) * stride, math.ceil(side / stride) * stride}) for side in (height, width)]
    sizes = " or ".join(f"{h}x{w}" for h, w in zip(fits[0], fits[1], strict=False))
    if len(fits[0]) != len(fits[1]):
        sizes = f"heights {' or '.join(map(str, fits[0]))} and widths {' or '.join(map(str, fits[1]))}"
    raise UserError(
        f"images of {height}x{width} pixels do not fit the network, whose stride is {stride}: the nearest sizes that "
        f"do are {sizes} (data.size, data.width); or {remedy}"
    )
