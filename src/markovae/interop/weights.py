"""Weights of a DDPM network under the names that diffusers' UNet2DModel gives them, one to one, both ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from markovae.errors import UserError
from markovae.networks.ddpm import DDPMUNet
from markovae.strict_json import shown

_OUTER = {
    "stem": "conv_in",
    "time.first": "time_embedding.linear_1",
    "time.second": "time_embedding.linear_2",
    "condition.label": "class_embedding",
    "norm": "conv_norm_out",
    "head": "conv_out",
}
_BLOCK = {
    "norm": "norm1",
    "first": "conv1",
    "time": "time_emb_proj",
    "second_norm": "norm2",
    "second": "conv2",
    "shortcut": "conv_shortcut",
    "conv": "conv",
}
_ATTENTION = {"norm": ("group_norm",), "qkv": ("to_q", "to_k", "to_v"), "out": ("to_out.0",)}
_FORMER = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def their_names(network: DDPMUNet) -> dict[str, tuple[str, ...]]:
    """Each of our parameters: the name of diffusers' one, or the names of the three that ours stacks."""
    return {name: _theirs(name) for name, _ in network.named_parameters()}


def to_theirs(network: DDPMUNet, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters, by name, as diffusers' state; the numbers are the same."""
    found = {}
    for name, theirs in their_names(network).items():
        for key, part in zip(theirs, tensors[name].chunk(len(theirs)), strict=True):
            found[key] = part.clone()
    return found


def checked_shapes(network: DDPMUNet, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare names and shapes of diffusers' state with a network; the former names of attention are known too.

    Raises:
        UserError: naming the first tensor that is missing, left over, or of another shape.
    """
    given = {_renamed(key): shape for key, shape in shapes.items()}
    wanted = _their_shapes(network)
    for key in sorted(wanted.keys() ^ given.keys()):
        raise UserError(
            f"the weights {'lack' if key in wanted else 'have'} {shown(key)}, which the unet's config.json "
            f"{'asks for' if key in wanted else 'has no place for'}: the two files do not belong together"
        )
    for key, shape in wanted.items():
        if given[key] != shape:
            raise UserError(
                f"the weight {shown(key)} has shape {given[key]} where the unet's config.json makes it {shape}"
            )


def diffusers_prefix(names: Iterable[str]) -> str | None:
    """What stands before diffusers' names in a file that holds weights so, such as "unet."; None where none do."""
    return next((name[: -len("conv_in.weight")] for name in names if name.endswith("conv_in.weight")), None)


def to_ours(network: DDPMUNet, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' state as our parameters, by name, float32.

    Raises:
        UserError: naming the first tensor that is missing, left over, of another shape, or holds no finite numbers.
    """
    checked_shapes(network, {key: tuple(value.shape) for key, value in tensors.items()})
    given = {_renamed(key): value for key, value in tensors.items()}
    found = {}
    for name, theirs in their_names(network).items():
        for key in theirs:
            if not given[key].is_floating_point() or not bool(given[key].float().isfinite().all()):
                raise UserError(
                    f"the weight {shown(key)} holds values that are not finite in float32: the file is damaged, or for "
                    "another type"
                )
        found[name] = torch.cat([given[key].float() for key in theirs])
    return found


def _their_shapes(network: DDPMUNet) -> dict[str, tuple[int, ...]]:
    names = their_names(network)
    return {
        key: (parameter.shape[0] // len(names[name]), *parameter.shape[1:])
        for name, parameter in network.named_parameters()
        for key in names[name]
    }


def _theirs(name: str) -> tuple[str, ...]:
    module, _, kind = name.rpartition(".")
    if module in _OUTER:
        return (f"{_OUTER[module]}.{kind}",)
    stage, _, rest = module.partition(".")
    if stage == "middle":
        place = "mid_block"
    else:
        number, _, rest = rest.partition(".")
        place = f"{stage}_blocks.{number}"
    part, _, rest = rest.partition(".")
    if part == "resample":
        return (f"{place}.{stage}samplers.0.{_BLOCK[rest]}.{kind}",)
    index, _, layer = rest.partition(".")
    if part == "attention":
        return tuple(f"{place}.attentions.{index}.{theirs}.{kind}" for theirs in _ATTENTION[layer])
    return (f"{place}.resnets.{index}.{_BLOCK[layer]}.{kind}",)


def _renamed(key: str) -> str:
    for former, present in _FORMER.items():
        if ".attentions." in key:
            key = key.replace(former, present)
    return key
