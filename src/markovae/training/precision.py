"""The network as training calls it: its precision, checkpointed activations, compilation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from markovae.diffusion.cascade import Model
from markovae.diffusion.learned_schedule import LearnedLogSNR
from markovae.errors import UserError
from markovae.networks.network import Network
from markovae.training.train_config import TrainConfig


def prepared(model: Model, config: TrainConfig) -> nn.Module:
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


PROBE_STEPS = 3
WORTH = 1.1  # bfloat16 loses digits, so a tie goes to float32
SLOW, HOPELESS = 2, 10  # times a float32 step: of a step, and of the first, which allocates and builds its kernels


@dataclass(frozen=True)
class Choice:
    """A precision and why.

    Args:
        dtype: torch.float32 or torch.bfloat16.
        reason: in words, with the timings where there were any.
    """

    dtype: torch.dtype
    reason: str


def without_timing(device: torch.device) -> Choice | None:
    """float32 where bfloat16 is only emulated, many times slower than float32; None where the two must be timed."""
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX2":
        return None
    return Choice(torch.float32, "float32: this processor emulates bfloat16")


def dtype_named(name: str) -> torch.dtype:
    """torch.float32 or torch.bfloat16."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def probe(step: Callable[[torch.dtype], object], clock: Callable[[], float]) -> Choice:
    """Time three steps in float32 and up to three in bfloat16, after one unmeasured step of each.

    The probe of bfloat16 ends early where a step costs twice a float32 step, or the first one ten times as much.

    Args:
        step: one step without consequences, in the given type, finished when it returns.
        clock: seconds.
    """
    plain = _fastest(step, torch.float32, clock, float("inf"))
    use_bf16 = _fastest(step, torch.bfloat16, clock, plain)
    times = f"{1000 * plain:.0f} ms for a small step in float32, {1000 * use_bf16:.0f} ms in bfloat16"
    if use_bf16 * WORTH <= plain:
        return Choice(torch.bfloat16, f"bfloat16, since it pays here: {times}")
    return Choice(torch.float32, f"float32, since bfloat16 does not pay here: {times}")


def _fastest(
    step: Callable[[torch.dtype], object], dtype: torch.dtype, clock: Callable[[], float], other: float
) -> float:
    best = float("inf")
    for index in range(PROBE_STEPS + 1):
        started = clock()
        step(dtype)
        took = clock() - started
        given_up = took > other * (SLOW if index else HOPELESS)
        if index or given_up:
            best = min(best, took)
        if given_up:
            break
    return best
