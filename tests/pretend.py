"""A pretend GPU: tensors that say cuda:0, compute on the CPU, and refuse to meet tensors of the CPU.

    with pretend_gpu() as gpu:
        model.to("cuda")
        ...
    gpu.operations, gpu.copies, gpu.synchronisations

It shows where a tensor was left on the other side, and what a step would cost the host of a real one: operations
launched on the device (views and empty memory are none), copies to it, and moments at which the host waits for it.
What it cannot show is time, or what autocast does there: its tensors are the CPU's below Python.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
FREE = {"detach", "alias", "lift_fresh", "_unsafe_view", "_reshape_alias", "empty", "empty_like", "empty_strided"}
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}
WAITS |= {"_linalg_eigh", "bincount"}
INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
TYPES = {
    "double": torch.float64,
    "float": torch.float32,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "long": torch.int64,
    "int": torch.int32,
    "bool": torch.bool,
}


class OnGPU(Tensor):
    """A tensor of the pretend GPU around one of the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGPU:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype
        )
        made.held = held
        return made

    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:
        return f"OnGPU({self.held!r})"

    def numpy(self, **_: Any) -> Any:
        raise TypeError("a tensor of cuda:0 is no array of numpy: copy it to the CPU first")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("a tensor of the pretend GPU is used outside of pretend_gpu()")


class Counts:
    """What was asked of the GPU since the last `clear`.

    Attributes:
        launched: operations by name.   copies: from the CPU.   synchronisations: moments at which the host waits.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.launched: Counter[str] = Counter()
        self.copies = self.synchronisations = 0

    @property
    def operations(self) -> int:
        return self.launched.total()

    def __str__(self) -> str:
        return f"{self.operations} operations, {self.copies} copies, {self.synchronisations} synchronisations"


def is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def uncovered(value: Any, ours: list[OnGPU], theirs: list[Tensor]) -> Any:
    """The CPU's tensors in the place of the GPU's; both kinds are listed, the CPU's where they are no single number."""
    if isinstance(value, OnGPU):
        ours.append(value)
        return value.held
    if isinstance(value, Tensor):
        if value.ndim:
            theirs.append(value)
        return value
    return type(value)(uncovered(v, ours, theirs) for v in value) if isinstance(value, list | tuple) else value


def covered(value: Any) -> Any:
    """The GPU's tensors in the place of the CPU's."""
    if isinstance(value, Tensor):
        return OnGPU(value)
    return type(value)(map(covered, value)) if isinstance(value, list | tuple) else value


class Operations(TorchDispatchMode):
    """Runs every operation on the CPU's tensors, and says where its results lie."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name.split("::")[1]
        ours: list[OnGPU] = []
        theirs: list[Tensor] = []
        held, held_kwargs = uncovered(args, ours, theirs), {k: uncovered(v, ours, theirs) for k, v in kwargs.items()}
        asked = kwargs.get("device")
        # The C++ half of autograd asks for the device of its own half.
        alike = name == "_to_copy" or name.startswith("new_") or name.endswith("_like")
        here = bool(ours) if asked is None or alike else is_gpu(asked)
        if not here and not ours and asked is None:
            return func(*args, **kwargs)
        generator = kwargs.get("generator")
        if here and generator is not None and generator.device.type == "cpu":
            raise RuntimeError(f"a generator of the CPU draws nothing on cuda:0 (aten::{name})")
        if ours and theirs:
            self._meet(name, args, theirs)
        if here:
            self._count(name, func, args, kwargs, bool(ours))
        if asked is not None:
            held_kwargs["device"] = torch.device("cpu")
        out = func(*held, **held_kwargs)
        if func._schema.is_mutable and name.endswith("_") and isinstance(args[0], Tensor):
            return args[0]
        return covered(out) if here and name != "_local_scalar_dense" else out

    def _meet(self, name: str, args: Any, theirs: list[Tensor]) -> None:
        """Tensors of the CPU beside those of the GPU: copied, or used as an index into one; else refused."""
        indexing = name in INDEXING and isinstance(args[0], OnGPU)
        if name == "copy_" or (indexing and all(any(t is index for index in args[1]) for t in theirs)):
            self.counts.copies += len(theirs) if indexing or isinstance(args[0], OnGPU) else 0
            self.counts.synchronisations += name == "copy_" and not isinstance(args[0], OnGPU)
            return
        raise RuntimeError(f"expected all tensors on one device, but found cuda:0 and cpu (aten::{name})")

    def _count(self, name: str, func: Any, args: Any, kwargs: Any, ours: bool) -> None:
        if not func.is_view and name not in FREE:
            self.counts.launched[name] += 1
        masks = name in INDEXING and any(isinstance(i, OnGPU) and i.dtype == torch.bool for i in args[1])
        repeats = name == "repeat_interleave" and kwargs.get("output_size") is None
        self.counts.synchronisations += ours and (name in WAITS or masks or repeats)


class Moved(torch.autograd.Function):
    """A tensor on the other side; its gradient goes the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, gpu: bool) -> Tensor:
        ctx.gpu, ctx.dtype = isinstance(x, OnGPU), x.dtype
        made = (x.held if isinstance(x, OnGPU) else x).to(dtype, copy=True)
        return OnGPU(made) if gpu else made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return Moved.apply(grad, ctx.dtype, ctx.gpu), None, None


class Moves(TorchFunctionMode):
    """Copies between the two sides, which the tensors' C++ half, the CPU's, would take for none."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name in ("tensor", "as_tensor", "asarray") and is_gpu(kwargs.get("device")):
            return self._moved(func(*args, **{**kwargs, "device": "cpu"}), True, None, False)
        x = args[0] if args else None
        if name == "cuda" or (name in ("to", "cpu", "type_as") and isinstance(x, Tensor)):
            device, dtype, copy = self._wanted(name, args[1:], kwargs)
            return self._moved(x, isinstance(x, OnGPU) if device is None else is_gpu(device), dtype, copy)
        if name == "quantile" and isinstance(x, OnGPU):  # whose C++ half makes tensors of its own
            return OnGPU(func(x.held, *args[1:], **kwargs))
        if name in TYPES and isinstance(x, OnGPU):
            return self._moved(x, True, TYPES[name], False)
        return func(*args, **kwargs)

    def _wanted(self, name: str, args: Any, kwargs: Any) -> tuple[Any, Any, bool]:
        if name in ("cuda", "cpu"):
            return name, None, False
        if name == "type_as":
            return args[0].device, args[0].dtype, False
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        for value in args:
            if isinstance(value, Tensor):
                device, dtype = value.device, value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, str | torch.device):
                device = value
        return device, dtype, bool(kwargs.get("copy"))

    def _moved(self, x: Tensor, gpu: bool, dtype: torch.dtype | None, copy: bool) -> Tensor:
        dtype, was = x.dtype if dtype is None else dtype, isinstance(x, OnGPU)
        if was == gpu and dtype == x.dtype and not copy:
            return x
        self.counts.copies += gpu and not was
        self.counts.synchronisations += was and not gpu
        self.counts.launched["to"] += was and gpu
        made: Tensor = Moved.apply(x, dtype, gpu)
        return made


@contextmanager
def pretend_gpu() -> Iterator[Counts]:
    """While entered, this machine has one GPU; only in this thread."""
    counts = Counts()
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": "Pretend GPU",
        "get_device_capability": (9, 0),
        "is_bf16_supported": True,
        "mem_get_info": (10**11, 10**11),
        "get_rng_state": torch.get_rng_state(),
        **dict.fromkeys(("synchronize", "empty_cache", "_lazy_init", "set_rng_state")),
        **dict.fromkeys(("manual_seed", "manual_seed_all")),
    }
    with ExitStack() as stack:
        for name, value in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, mock.Mock(return_value=value), create=True))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda self, *_: self))
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, False)
        stack.enter_context(Operations(counts))
        stack.enter_context(Moves(counts))
        yield counts
