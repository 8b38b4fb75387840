"""The network as training calls it: with or without its activations kept, compiled or not."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

import torch
from torch import nn

from markovae.config import TrainConfig
from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.learned_schedule import LearnedLogSNR
from markovae.networks.network import Network


def prepared(model: Diffusion, config: TrainConfig) -> nn.Module:
    """What the section [train] makes of the model's network; the weights stay those of the network itself.

    Raises:
        UserError: for what cannot be done with this network, or be compiled here.
    """
    network = model.network
    if config.checkpointing:
        if not isinstance(network, Network):
            raise UserError("train.checkpointing is for the networks of this library: leave it out for a wrapped one")
        network.checkpointing = True
    if not config.compile:
        return network
    if isinstance(model.schedule, LearnedLogSNR):
        raise UserError("train.compile does not go with schedule.kind=learned: leave one of them out")
    if config.parallel == "fsdp":
        raise UserError("train.compile does not go with train.parallel=fsdp: leave one of them out")
    return compiled(network, model.device)


def compiled(network: nn.Module, device: torch.device) -> nn.Module:
    """The network behind torch.compile; its weights stay those of `network`, under their own names.

    The first step compiles, which takes minutes; what was compiled is kept in the machine's cache.

    Raises:
        UserError: where nothing is there to compile with.
    """
    reason = _missing(device)
    if reason is not None:
        raise UserError(f"train.compile=true, but {reason}: install it, or leave train.compile out")
    return cast(nn.Module, torch.compile(network))


def _missing(device: torch.device) -> str | None:
    """What there is to compile with; None where all is there."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else "this machine has no Triton for its GPU"
    if device.type != "cpu":
        return f"{device.type} is not compiled for here"
    from torch._inductor import cpp_builder, exc

    found: Any = None
    with suppress(exc.InvalidCxxCompiler):
        found = cpp_builder.get_cpp_compiler()
    return None if found else "this machine has no C++ compiler (CXX, g++ or clang++)"
