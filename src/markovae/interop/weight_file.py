"""Files of weights that somebody else wrote: tensors by name, and which of them are those of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor

from markovae.errors import UserError
from markovae.interop.torch_file import TorchFile
from markovae.log import log
from markovae.strict_json import shown
from markovae.system.tensor_headers import SIZES, WHOLE_SIZES, read_file_header


class WeightFile(Protocol):
    """Tensors by name, their numbers read one by one."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor, by name."""
        ...

    def read(self, name: str) -> Tensor:
        """The numbers of a tensor."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class SafetensorsFiles:
    """One file of safetensors, or several that hold a part of the names each.

    Args:
        paths: of the files.
    Raises:
        UserError: for a file that holds no weights, or a name that two of them hold.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.places: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in paths:
            try:
                entries = read_file_header(path, {**SIZES, **WHOLE_SIZES})
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror})") from None
            except ValueError as error:
                raise UserError(f"{path} cannot be read as safetensors: it {error}") from None
            for name, entry in entries.items():
                if name in self.places:
                    raise UserError(f"{path} and {self.places[name].name} both hold {shown(name)}: keep one of them")
                self.places[name], self.shapes[name] = path, entry.shape

    def read(self, name: str) -> Tensor:
        """The numbers of a tensor.

        Raises:
            UserError: where the file cannot be read.
        """
        path = self.places[name]
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
            raise UserError(f"{path} cannot be read as safetensors: {error}") from None
        return tensor

    def close(self) -> None:
        """Nothing is open."""


def open_weights(*paths: Path) -> WeightFile:
    """The weights of a file: safetensors by its name, otherwise torch.save's zip format; of several, safetensors.

    Raises:
        UserError: for another format, or a damaged file.
    """
    return SafetensorsFiles(paths) if paths[0].suffix == ".safetensors" or paths[1:] else TorchFile(paths[0])


def prefix_of(names: Iterable[str], wanted: Mapping[str, tuple[int, ...]], known: Iterable[str], what: str) -> str:
    """What stands before the names of a network's weights in a file, such as "ema.ema_model.".

    Where several parts of a file hold all of them an average is taken ("ema" in its name), else the shortest; said.

    Args:
        names: in the file.
        wanted: shapes of the network's weights.
        known: its buffers' names too.
        what: it is.
    Raises:
        UserError: where no part of the file holds all of the weights, or one holds more of the same modules.
    """
    names = list(names)
    votes = Counter(prefix for name in names for prefix in _prefixes(name, wanted))
    whole = sorted((prefix for prefix, count in votes.items() if count == len(wanted)), key=_rank)
    if not whole:
        best, count = max(votes.items(), key=lambda pair: pair[1], default=("", 0))
        missing = next(name for name in wanted if best + name not in set(names))
        raise UserError(
            f"the file has {count} of the {len(wanted)} weights of {what}, and lacks {shown(missing)}: give the "
            "arguments that it was made with"
        )
    prefix, modules, allowed = whole[0], {name.partition(".")[0] for name in wanted}, set(known)
    for name in names:
        rest = name[len(prefix) :]
        if name.startswith(prefix) and rest not in allowed and rest.partition(".")[0] in modules:
            raise UserError(
                f"the file has a weight {shown(name)}, for which {what} has no place: give the arguments that it was "
                "made with"
            )
    if len(whole) > 1:
        log(
            f"the file holds several such weights: {shown(prefix)} is taken, and not {', '.join(map(shown, whole[1:]))}"
        )
    return prefix


def _prefixes(name: str, wanted: Mapping[str, tuple[int, ...]]) -> Iterable[str]:
    parts = name.split(".")
    for place in range(len(parts)):
        if ".".join(parts[place:]) in wanted:
            yield ".".join([*parts[:place], ""])


def _rank(prefix: str) -> tuple[bool, int, str]:
    return ("ema" not in prefix.lower(), len(prefix), prefix)


def as_float32(name: str, tensor: Tensor) -> Tensor:
    """Weights as float32.

    Raises:
        UserError: where they are whole numbers, NaN or Inf.
    """
    if not tensor.is_floating_point() or not bool(tensor.float().isfinite().all()):
        raise UserError(
            f"the weight {shown(name)} holds values that are not finite in float32: the file is damaged, or for "
            "another type"
        )
    return tensor.float()
