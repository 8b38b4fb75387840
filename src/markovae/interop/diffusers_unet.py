"""config.json of diffusers' UNet2DModel: the shape of a network of the DDPM family, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markovae.errors import UserError
from markovae.interop.fields import Fields
from markovae.networks.network_config import DataSpec, DDPMConfig
from markovae.strict_json import shown

MAX_LEVELS, MAX_BLOCKS, MAX_WIDTH, MAX_SIDE, MAX_CLASSES = 12, 32, 1 << 14, 4096, 1 << 20
DOWN = {"DownBlock2D": (False, False), "ResnetDownsampleBlock2D": (False, True), "AttnDownBlock2D": (True, None)}
UP = {"UpBlock2D": (False, False), "ResnetUpsampleBlock2D": (False, True), "AttnUpBlock2D": (True, None)}
"""Block type -> (whether it attends, whether its change of resolution is a residual block; None: as told beside it)."""

# What has one value in the family; another one is refused.
_FIXED: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "center_input_sample": (False, (False,)),
    "time_embedding_type": ("positional", ("positional",)),
    "mid_block_type": ("UNetMidBlock2D", ("UNetMidBlock2D",)),
    "act_fn": ("silu", ("silu", "swish")),
    "class_embed_type": (None, (None,)),
}
# What diffusers' EMAModel writes beside the shape: how the average was taken.
_AVERAGE = (
    *("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"),
    *("foreach", "device"),
)


@dataclass(frozen=True)
class UNetShape:
    """A network of the DDPM family and the images it is for.

    Args:
        options: its section.
        data: channels in and out, size of the images and classes.
    """

    options: DDPMConfig
    data: DataSpec


def config_from(table: Mapping[str, Any]) -> UNetShape:
    """The shape that a config.json tells; what is left out has diffusers' defaults.

    Raises:
        UserError: for another class than UNet2DModel, a block or setting that this family has not, or a value out of
            its range.
    """
    fields = Fields(table, "the unet's config.json")
    fields.take_class(("UNet2DModel",))
    for name, (default, known) in _FIXED.items():
        fields.take_one_of(name, default, known)
    widths = fields.take_wholes("block_out_channels", [224, 448, 672, 896], 1, MAX_WIDTH)
    if len(widths) > MAX_LEVELS:
        raise UserError(f"the unet's config.json has {len(widths)} levels: at most {MAX_LEVELS} are read")
    down = fields.take_words("down_block_types", ["DownBlock2D", *["AttnDownBlock2D"] * 3], len(widths))
    up = fields.take_words("up_block_types", [*["AttnUpBlock2D"] * 3, "UpBlock2D"], len(widths))
    down_residual = fields.take_one_of("downsample_type", "conv", ("conv", "resnet")) == "resnet"
    up_residual = fields.take_one_of("upsample_type", "conv", ("conv", "resnet")) == "resnet"
    attention, residual_down = _blocks(down, DOWN, down_residual)
    attention_up, residual_up = _blocks(up[::-1], UP, up_residual)
    scale_shift = fields.take_one_of("resnet_time_scale_shift", "default", ("default", "scale_shift"))
    groups = fields.take_whole("norm_num_groups", 32, 1, MAX_WIDTH)
    middle_groups = fields.take_perhaps("attn_norm_num_groups", 1, MAX_WIDTH)
    if middle_groups is None:
        middle_groups = 0 if scale_shift == "scale_shift" else groups
    channels = fields.take_whole("in_channels", 3, 1, MAX_WIDTH)
    options = DDPMConfig(
        widths=tuple(widths),
        blocks=fields.take_whole("layers_per_block", 2, 1, MAX_BLOCKS),
        attention=attention,
        attention_up=attention_up,
        residual_down=residual_down,
        residual_up=residual_up,
        head_dim=fields.take_perhaps("attention_head_dim", 1, MAX_WIDTH, default=8) or 0,
        groups=groups,
        eps=fields.take_number("norm_eps", 1e-5, 0.0, 1.0),
        scale_shift=scale_shift == "scale_shift",
        dropout=fields.take_number("dropout", 0.0, 0.0, 0.999),
        embedding=fields.take_perhaps("time_embedding_dim", 1, MAX_WIDTH) or 4 * widths[0],
        sine_first=not fields.take_flag("flip_sin_to_cos", True),
        shift=fields.take_whole("freq_shift", 0, 0, MAX_WIDTH),
        padding=fields.take_whole("downsample_padding", 1, 0, 1),
        middle_attention=fields.take_flag("add_attention", True),
        middle_groups=middle_groups,
        middle_scale=fields.take_number("mid_block_scale_factor", 1.0, 1e-6, 1e6),
        null_class=False,
    )
    outputs = fields.take_whole("out_channels", 3, 1, MAX_WIDTH)
    size, classes = _size(fields), fields.take_perhaps("num_class_embeds", 1, MAX_CLASSES) or 0
    fields.leave("num_train_timesteps", *_AVERAGE)
    fields.end()
    return UNetShape(options, DataSpec(channels, outputs, size, num_classes=classes))


def config_to(config: DDPMConfig, data: DataSpec) -> dict[str, Any]:
    """config.json of a network, as diffusers writes it.

    Raises:
        UserError: where levels with attention change their resolution in different ways, which it has no words for.
    """
    levels = range(len(config.widths))
    down, down_type = _types(DOWN, levels, config.attention, config.residual_down, len(levels) - 1)
    up, up_type = _types(UP, levels, config.up_attention, config.residual_up, 0)
    told = 0 if config.scale_shift else config.groups  # what diffusers does where it is not told
    classes = data.num_classes + (data.num_classes > 0 and config.null_class)
    return {
        "_class_name": "UNet2DModel",
        "act_fn": "silu",
        "add_attention": config.middle_attention,
        "attention_head_dim": config.head_dim or None,
        "attn_norm_num_groups": _middle_groups(config, told),
        "block_out_channels": list(config.widths),
        "center_input_sample": False,
        "class_embed_type": None,
        "down_block_types": down,
        "downsample_padding": config.padding,
        "downsample_type": down_type,
        "dropout": config.dropout,
        "flip_sin_to_cos": not config.sine_first,
        "freq_shift": config.shift,
        "in_channels": data.in_channels,
        "layers_per_block": config.blocks,
        "mid_block_scale_factor": config.middle_scale,
        "mid_block_type": "UNetMidBlock2D",
        "norm_eps": config.eps,
        "norm_num_groups": config.groups,
        "num_class_embeds": classes or None,
        "num_train_timesteps": None,
        "out_channels": data.out_channels,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift else "default",
        "sample_size": data.size[0] if data.size[0] == data.size[1] else list(data.size),
        "time_embedding_dim": config.time_dim if config.time_dim != 4 * config.widths[0] else None,
        "time_embedding_type": "positional",
        "up_block_types": up[::-1],
        "upsample_type": up_type,
    }


def _middle_groups(config: DDPMConfig, told: int) -> int | None:
    if config.middle_norm_groups == told or not config.middle_attention:
        return None
    if not config.middle_norm_groups:
        raise UserError(
            "a network without scale_shift whose middle attention has no normalization is none of diffusers'"
        )
    return config.middle_norm_groups


def _blocks(
    names: list[str], known: Mapping[str, tuple[bool, bool | None]], residual: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(levels that attend, levels whose change of resolution is a residual block); names from the finest on."""
    attention, residuals = [], []
    for level, name in enumerate(names):
        plain = name.removeprefix("UNetRes")
        if plain not in known:
            raise UserError(
                f"the unet's config.json has the block {shown(name)}: of diffusers' blocks {', '.join(known)} are read"
            )
        attends, own = known[plain]
        attention += [level] if attends else []
        residuals += [level] if (residual if own is None else own) else []
    return tuple(attention), tuple(residuals)


def _types(
    known: Mapping[str, tuple[bool, bool | None]],
    levels: range,
    attention: tuple[int, ...],
    residual: tuple[int, ...],
    last: int,
) -> tuple[list[str], str]:
    """(block type of each level, from the finest on; the type of change of those that attend)."""
    plain, residual_name, attending = known
    kinds = {level in residual for level in attention if level != last}
    if len(kinds) > 1:
        raise UserError(
            "diffusers' UNet2DModel changes the resolution of all levels with attention in one way: residual blocks at "
            f"the levels {list(residual)} with attention at {list(attention)} cannot be told to it"
        )
    kinds = kinds or {level in residual for level in attention}
    names = [attending if level in attention else residual_name if level in residual else plain for level in levels]
    return names, "resnet" if True in kinds else "conv"


def _size(fields: Fields) -> tuple[int, int]:
    value = fields.take("sample_size", None)
    sides = [value, value] if type(value) is int else value
    whole = isinstance(sides, list) and len(sides) == 2 and all(type(side) is int for side in sides)
    if not whole or not all(1 <= side <= MAX_SIDE for side in sides):
        raise UserError(
            f"the unet's config.json has sample_size={str(value)[:80]}, which does not say how large the images are: "
            f"write the side, or [height, width], of 1…{MAX_SIDE} pixels there"
        )
    return sides[0], sides[1]
