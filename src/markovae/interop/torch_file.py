"""Files of `torch.save`, read without executing their pickle: its opcodes are followed here, and only a few are known.

A pickle is a program; `torch.load` runs it. Here it is a list of opcodes that can make dicts, lists, tuples, strings,
numbers and descriptions of tensors. Whatever else it names is refused by its name, and nothing is ever imported.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from markovae.errors import UserError
from markovae.strict_json import shown
from markovae.system.regular import open_regular

MAX_PICKLE = 16 << 20
MAX_OPCODES = 1_000_000  # followed in about a second; some 30 for each tensor
MAX_MEMBERS = 200_000
MAX_ENTRIES = 300_000  # of dicts, those in them counted
MAX_DEPTH = 12  # of dicts in dicts
MAX_DIMENSIONS = 16
TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_MAKERS = (
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
)
_KNOWN = {*_MAKERS, *(f"torch.{name}" for name in TYPES)}
_OPCODES = {
    *("PROTO", "FRAME", "STOP", "MARK", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL"),
    *("BINPERSID", "REDUCE", "BUILD"),
}
_CODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_REMEDY = "keep the weights alone: torch.save(model.state_dict(), FILE), or a safetensors file"
_DAMAGE = (
    *(ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError, EOFError, MemoryError),
    *(struct.error, zipfile.BadZipFile, NotImplementedError, RuntimeError, RecursionError, OSError),
)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file, not yet read.

    Args:
        dtype: of its numbers.
        storage: the name of its bytes.
        count: of the storage's numbers.
        offset, shape, stride: where in the storage it lies, in numbers.
    """

    dtype: torch.dtype
    storage: str
    count: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Name:
    """Something that a pickle names; it is never looked up."""

    text: str


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    name: str
    count: int


class TorchFile:
    """The tensors of a zip-format file of `torch.save`, by dotted name; their numbers are read one by one.

        with closing(TorchFile("model.pt")) as file:
            weights = {name: file.read(name) for name in file.tensors}

    Args:
        path: of the file.
    Raises:
        UserError: for another format, a file that is damaged, or a pickle that asks for more than tensors in dicts.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file: BinaryIO = open_regular(self.path)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        if self._file.read(4) != b"PK\x03\x04":
            raise UserError(
                f"{self.path} is no zip-format file of torch.save: save it again with a torch of 1.6 or later, or as "
                "safetensors"
            )
        try:
            self._zip = zipfile.ZipFile(self._file)
            self._members = {member.filename: member for member in self._zip.infolist()}
            roots = [name[: -len("data.pkl")] for name in self._members if name.endswith("/data.pkl")]
            if len(roots) != 1 or len(self._members) > MAX_MEMBERS:
                raise ValueError("it has no data.pkl, or several")
            self._root = roots[0]
            if f"{self._root}constants.pkl" in self._members:
                raise UserError(f"is a TorchScript program, not weights: {_REMEDY}")
            order = f"{self._root}byteorder"
            if order in self._members and self._content(order, 16) != b"little":
                raise UserError("has its numbers in big-endian order: save it on a machine like this one")
            self.tensors = _flat(_interpreted(self._content(f"{self._root}data.pkl", MAX_PICKLE)))
            if not self.tensors:
                raise UserError(f"holds no tensors by name: {_REMEDY}")
        except UserError as error:
            raise UserError(f"{self.path} {error}") from None
        except _DAMAGE as error:
            raise UserError(f"{self.path} is damaged: {shown(str(error))}") from None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor, by name."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, name: str) -> Tensor:
        """The numbers of a tensor, a copy.

        Raises:
            UserError: where the file does not hold them.
        """
        stored = self.tensors[name]
        size = stored.count * stored.dtype.itemsize
        try:
            content = bytearray(self._content(f"{self._root}data/{stored.storage}", size))
            if len(content) != size:
                raise ValueError(f"{len(content):,} bytes where {size:,} are declared")
            if not size:
                return torch.empty(stored.shape, dtype=stored.dtype)
            flat = torch.frombuffer(content, dtype=stored.dtype)
            return flat.as_strided(stored.shape, stored.stride, stored.offset).clone()
        except _DAMAGE as error:
            raise UserError(f"{self.path} is damaged: the numbers of {shown(name)}: {shown(str(error))}") from None

    def _content(self, name: str, limit: int) -> bytes:
        member = self._members[name]
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, which torch.save never does")
        if member.file_size > limit:
            raise ValueError(f"{name} has {member.file_size:,} bytes, more than {limit:,}")
        with self._zip.open(member) as inside:
            return inside.read(limit + 1)


def _flat(tree: Any) -> dict[str, StoredTensor]:
    """Every tensor that is reached by string or number keys, by its dotted name; a tree may contain itself.

    Raises:
        UserError: for more entries than weights have.
    """
    found: dict[str, StoredTensor] = {}
    waiting: list[tuple[str, Any, int]] = [("", tree, 0)]
    entries = 0
    while waiting:
        path, value, depth = waiting.pop()
        if isinstance(value, StoredTensor):
            found[path] = value
        elif isinstance(value, dict) and depth < MAX_DEPTH:
            entries += len(value)
            if entries > MAX_ENTRIES:
                raise UserError(f"has more than {MAX_ENTRIES:,} entries: {_REMEDY}")
            waiting += [
                (f"{path}.{key}" if path else str(key), inner, depth + 1)
                for key, inner in value.items()
                if isinstance(key, str | int) and isinstance(inner, StoredTensor | dict)
            ]
    return found


def _interpreted(pickle: bytes) -> Any:
    """What a pickle makes, where it makes dicts, lists, tuples, strings, numbers and tensors alone.

    Raises:
        UserError: naming what else it asks for.
        ValueError, IndexError, KeyError, TypeError: for what is no pickle.
    """
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        nonlocal stack
        items, stack = stack, marks.pop()
        return items

    for name, argument in _opcodes(pickle):
        match name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                (tree,) = stack
                return tree
            case "MARK":
                marks.append(stack)
                stack = []
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(name[-1]))]
                stack.append(tuple(items[::-1]))
            case "TUPLE":
                items = since_mark()
                stack.append(tuple(items))
            case "APPEND":
                value = stack.pop()
                _list(stack[-1]).append(value)
            case "APPENDS":
                items = since_mark()
                _list(stack[-1]).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _dict(stack[-1])[_key(key)] = value
            case "SETITEMS":
                items = since_mark()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _dict(stack[-1])[_key(key)] = value
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_known(argument))
            case "STACK_GLOBAL":
                function, module = stack.pop(), stack.pop()
                if not (isinstance(module, str) and isinstance(function, str)):
                    raise TypeError("it names something by what is no string")
                stack.append(_known(f"{module}.{function}"))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments, maker = stack.pop(), stack.pop()
                stack.append(_made(maker, arguments))
            case "BUILD":
                # The `_metadata` of a state dict: versions of modules, which change no number.
                state = stack.pop()
                if not (isinstance(state, dict) and set(state) == {"_metadata"} and isinstance(stack[-1], dict)):
                    raise UserError(f"holds an object with a state of its own, not tensors alone: {_REMEDY}")
    raise ValueError("its pickle has no end")


def _opcodes(pickle: bytes) -> Iterator[tuple[str, Any]]:
    """The names and arguments of the opcodes, each decoded only where weights need it."""
    stream = io.BytesIO(pickle)
    for _ in range(MAX_OPCODES):
        code = stream.read(1)
        opcode = _CODES[code.decode("latin-1")]
        if opcode.name not in _OPCODES:
            raise UserError(f"uses pickle opcode {opcode.name}, which weights never need: {_REMEDY}")
        if opcode.name == "GLOBAL":  # pickletools would decode escapes in it, with a warning for each that is unknown
            yield opcode.name, f"{_line(stream)}.{_line(stream)}"
        else:
            yield opcode.name, None if opcode.arg is None else opcode.arg.reader(stream)
    raise UserError(f"has a pickle of more than {MAX_OPCODES:,} opcodes: {_REMEDY}")


def _line(stream: BinaryIO) -> str:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ValueError("its pickle ends in the middle of a name")
    return line[:-1].decode("ascii")


def _known(name: str) -> _Name:
    if name not in _KNOWN:
        raise UserError(f"asks for {shown(name)}, which is never imported here: {_REMEDY}")
    return _Name(name)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("it appends to something that is not a list")
    return value


def _dict(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise TypeError("it sets items of what is no dict")
    return value


def _key(value: Any) -> str | int | float | None:
    if not isinstance(value, str | int | float | None):
        raise TypeError("a key of a dict is neither a string nor a number")
    return value


def _storage(value: Any) -> _Storage:
    kind, type_name, name, _, count = value
    plain = isinstance(name, str) and name.isascii() and name.isalnum() and _counts((count,))
    if kind != "storage" or not isinstance(type_name, _Name) or type_name.text in _MAKERS or not plain:
        raise TypeError("it names a storage that is not valid")
    return _Storage(TYPES[type_name.text.removeprefix("torch.")], name, count)


def _made(maker: Any, arguments: Any) -> Any:
    if not isinstance(maker, _Name) or not isinstance(arguments, tuple):
        raise TypeError("it calls what is no function")
    match maker.text:
        case "collections.OrderedDict" if not arguments:
            return {}
        case "torch.Size" if len(arguments) == 1 and _counts(arguments[0]):
            return tuple(arguments[0])
        case "torch._utils._rebuild_parameter" if len(arguments) == 3 and isinstance(arguments[0], StoredTensor):
            return arguments[0]
        case "torch._utils._rebuild_tensor_v2" if len(arguments) in (6, 7) and isinstance(arguments[0], _Storage):
            return _tensor(arguments[0], *arguments[1:4])
        case other:
            raise UserError(f"calls {shown(other)} with arguments that cannot make a tensor: {_REMEDY}")


def _tensor(storage: _Storage, offset: Any, shape: Any, stride: Any) -> StoredTensor:
    if not (_counts((offset,)) and _counts(shape) and _counts(stride) and len(shape) == len(stride) <= MAX_DIMENSIONS):
        raise TypeError("it names a tensor that is not valid")
    size = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if size else 0
    if size > storage.count or last >= max(storage.count, 1):
        raise TypeError("a tensor is larger than its storage")
    return StoredTensor(storage.dtype, storage.name, storage.count, offset, tuple(shape), tuple(stride))


def _counts(values: Any) -> bool:
    return isinstance(values, tuple | list) and all(type(n) is int and 0 <= n < 1 << 48 for n in values)
