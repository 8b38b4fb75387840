"""The file: a header that says how it was coded, then a record per group; all checked before anything is decoded.

    "MVZ" 3 | bytes of the header, u32 | SHA-256 of the header, 16 bytes | the header: JSON, deflated | records
    record: bytes of its side text, u32 | bytes of its words, u32 | SHA-256 of its pixels, its first 16 bytes
            | SHA-256 of the header's, of the group's number, of these three and of what follows, 8 bytes
            | side text: JSON, deflated | words

The words of a stack are written top first, so that what lies first in a record is decoded first. A file of images that
the model does not fit, or of another model, is one sentence; nothing is allocated because a header asks for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import zlib
from dataclasses import asdict, dataclass, field, fields
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from markovae.errors import UserError
from markovae.strict_json import parse_object, shown
from markovae.system.regular import open_regular

MAGIC, FORMAT = b"MVZ", 3
START = struct.Struct("<3sBI16s")
RECORD = struct.Struct("<II16s8s")
PIXEL_HASH = 16  # bytes of a SHA-256
MAX_HEADER, MAX_SIDE = 1 << 19, 1 << 22  # bytes of JSON
MAX_COUNT, MAX_BATCH, MAX_SIDE_LENGTH, MAX_BINS, MAX_LEVELS = 1 << 40, 256, 1 << 16, 1 << 16, 1 << 16
DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
PRECISIONS = ("float32", "float64", "bfloat16")
AGAIN = "get the file again"
# Deflating begins with what most headers and side texts say.
USUAL = (
    b'{"captions":["","condition":"{"names":["000001.png","000002.png",{"labels":[0,1,2,3,4,5,6,7,8,9,{"plain":[10,1]}'
    b'{"format":3,"model":"0123456789abcdef","pixels":"","shape":[1,28,28,64,[3,32,32],"bins":256,"dtype":"uint8",'
    b'"count":1000,"group":256,"levels":[1,10,10,10,9,4,4,4,3,31,31,32,32,32,32],"errors":"AAAA/////","batch":1,'
    b'"precision":"float64","threads":null,"precision":"float32","threads":1,"portable":true,"progressive":true,'
    b'"portable":false,"progressive":false,"probe":"'
)


@dataclass(frozen=True)
class FileHeader:
    """How a file was coded: what must be the same where it is decoded.

    Args:
        model: SHA-256 of the model.
        pixels: SHA-256 of those of the groups' pixels, 16 digits: which images they are.
        shape, bins: of its images.
        dtype: of the pixel values that were given.
        count, group: images in all, and in each group but the last.
        levels: those of the model's that code, increasing.
        errors: E(x − x̂)² at each of them, as `short_errors` writes them: an isotropic variance fitted to other images;
            None for the model's own variance.
        batch: images side by side.
        precision, threads: of the network; threads is None where they do not matter.
        portable: outputs are rounded.
        progressive: a group is one image, which can be decoded in part.
        probe: SHA-256 of network outputs on fixed latents, 16 digits.
    """

    model: str
    pixels: str
    shape: tuple[int, ...]
    bins: int
    dtype: str
    count: int
    group: int
    levels: tuple[int, ...]
    errors: str | None
    batch: int
    precision: str
    threads: int | None
    portable: bool
    progressive: bool
    probe: str

    def __post_init__(self) -> None:
        """Raises: ValueError for what no file says."""
        for name in ("model", "pixels", "probe"):
            value, digits = getattr(self, name), 64 if name == "model" else 16
            _require(name, value, type(value) is str and len(value) == digits and set(value) <= set("0123456789abcdef"))
        for name in ("count", "group"):
            _require(name, getattr(self, name), _is_whole(getattr(self, name), 1, MAX_COUNT))
        sizes = len(self.shape) == 3 and all(_is_whole(size, 1, MAX_SIDE_LENGTH) for size in self.shape)
        _require("shape", self.shape, sizes)
        _require("bins", self.bins, _is_whole(self.bins, 2, MAX_BINS))
        _require("batch", self.batch, _is_whole(self.batch, 1, min(MAX_BATCH, self.group)))
        _require("threads", self.threads, self.threads is None or _is_whole(self.threads, 1, 1 << 16))
        _require("dtype", self.dtype, self.dtype in DTYPES)
        _require("precision", self.precision, self.precision in PRECISIONS)
        for name in ("portable", "progressive"):
            _require(name, getattr(self, name), type(getattr(self, name)) is bool)
        levels = 2 <= len(self.levels) <= MAX_LEVELS and all(_is_whole(k, 1, MAX_LEVELS) for k in self.levels)
        _require("levels", self.levels, levels and all(a < b for a, b in pairwise(self.levels)))
        if self.errors is not None:
            _require(
                "errors", self.errors, type(self.errors) is str and len(_bytes(self.errors)) == 2 * len(self.levels)
            )
            errors = long_errors(self.errors)
            _require("errors", self.errors, bool((np.isfinite(errors) & (errors >= 0)).all()))
        if self.progressive:
            _require("group", self.group, self.group == 1)

    @property
    def num_groups(self) -> int:
        """How many groups there are."""
        return -(-self.count // self.group)

    def in_group(self, number: int) -> int:
        """How many images group `number` has."""
        return min(self.group, self.count - number * self.group)

    def to_bytes(self) -> bytes:
        """The beginning of a file; levels are written as steps, which deflate."""
        steps = [self.levels[0], *(b - a for a, b in pairwise(self.levels))]
        packed = deflated({"format": FORMAT, **asdict(self), "levels": steps})
        return START.pack(MAGIC, FORMAT, len(packed), _short_hash(packed, 16)) + packed

    @property
    def check(self) -> bytes:
        """What the checksums of the records begin with, so that none is taken for another file's, 16 bytes."""
        made: bytes = START.unpack_from(self.to_bytes())[3]
        return made


def short_errors(errors: Any) -> str:
    """Errors, (K,), as `FileHeader.errors`: float32 cut to 16 bits, the upper bytes of their steps before the lower,
    base64.
    """
    bits = ((np.ascontiguousarray(errors, np.float32).view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
    steps = np.diff(bits, prepend=np.uint16(0))
    return base64.b64encode(np.concatenate([steps >> 8, steps & 0xFF]).astype(np.uint8).tobytes()).decode()


def long_errors(text: str) -> Any:
    """What `short_errors` made text of, (K,), float64."""
    upper, lower = np.frombuffer(_bytes(text), np.uint8).astype(np.uint16).reshape(2, -1)
    bits = np.cumsum(upper << 8 | lower, dtype=np.uint16).astype(np.uint32) << 16
    return bits.view(np.float32).astype(np.float64)


@dataclass(frozen=True)
class GroupRecord:
    """One group of images.

    Args:
        pixels: SHA-256 of the group's pixels, its first 16 bytes.
        words: of the stack, uint32, the top last.
        plain: places in the group of the images that are written plainly.
        names, labels, captions: of the images; empty where there are none.
        condition: hash of what the captions' encoder made of them; empty without captions.
    """

    pixels: bytes
    words: Any
    plain: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    captions: tuple[str, ...] = ()
    condition: str = ""

    def to_bytes(self, check: bytes, number: int) -> bytes:
        """The record of group `number` of a file whose header has this `check`.

        Raises:
            UserError: for names and captions that fill more than 4 MiB.
        """
        side = {name: value for name in SIDE if (value := getattr(self, name))}
        text = deflated(side) if side else b""
        content = text + np.ascontiguousarray(self.words[::-1]).astype("<u4").tobytes()
        start = RECORD.pack(len(text), len(content) - len(text), self.pixels, bytes(8))[:-8]
        return start + _checksum(check, number, start + content) + content

    @classmethod
    def from_bytes(cls, content: bytes, count: int) -> Self:
        """A record of `count` images, whose checksum was compared.

        Raises:
            ValueError: for what no record says.
        """
        side_bytes, _, pixels, _ = RECORD.unpack_from(content)
        text = content[RECORD.size : RECORD.size + side_bytes]
        words = np.frombuffer(content[RECORD.size + side_bytes :], "<u4")[::-1].astype(np.uint32)
        side: dict[str, Any] = parse_object(inflated(text, MAX_SIDE)) if text else {}
        for name, value in side.items():
            _require(name, value, name in SIDE)
            if name != "condition":
                kind = int if name in ("plain", "labels") else str
                _require(name, value, type(value) is list and all(type(item) is kind for item in value))
                _require(name, value, name == "plain" or len(value) == count)
        side = {name: value if name == "condition" else tuple(value) for name, value in side.items()}
        made = cls(pixels, words, **side)
        plain = made.plain
        rising = all(a < b for a, b in pairwise(plain))
        _require("plain", plain, rising and all(0 <= place < count for place in plain))
        _require("condition", made.condition, type(made.condition) is str)
        return made


SIDE = tuple(entry.name for entry in fields(GroupRecord) if entry.name not in ("pixels", "words"))


@dataclass(frozen=True)
class MvzFile:
    """A file whose every part is there and matches its checksum; groups are read when asked for.

    Args:
        header: what it says of itself.
        content: all its bytes.
        edges: where each record begins, and the end.
    """

    header: FileHeader
    content: bytes = field(repr=False)
    edges: tuple[int, ...]

    def record(self, number: int) -> GroupRecord:
        """Group `number`.

        Raises:
            UserError: for one that is not in the file, or that says what no group does.
        """
        if not 0 <= number < self.header.num_groups:
            raise UserError(f"group {number} is not in the file, which has groups 0…{self.header.num_groups - 1}")
        content = self.content[self.edges[number] : self.edges[number + 1]]
        try:
            return GroupRecord.from_bytes(content, self.header.in_group(number))
        except ValueError as error:
            raise UserError(f"group {number} of the file cannot be read ({error}): {AGAIN}") from None


def open_mvz(path: Path) -> MvzFile:
    """`read_mvz` of a file.

    Raises:
        UserError: as `read_mvz`, and for one that cannot be read.
    """
    try:
        with open_regular(path) as file:
            return read_mvz(file.read())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): name a file of markovae compress"
        ) from None


def read_mvz(content: bytes) -> MvzFile:
    """A compressed file, its header and every checksum compared.

    Raises:
        UserError: for a damaged file, or one of another version.
    """
    if len(content) < START.size or content[:3] != MAGIC:
        raise UserError("this is not a compressed file of markovae (.mvz)")
    _, version, length, check = START.unpack_from(content)
    if version != FORMAT:
        raise UserError(f"the file is of version {version} of the format and this is {FORMAT}: use another markovae")
    packed = content[START.size : START.size + length]
    if len(packed) != length or _short_hash(packed, 16) != check:
        raise UserError(f"the file's header is damaged or cut short: {AGAIN}")
    try:
        header = _header(packed)
    except (ValueError, TypeError) as error:
        raise UserError(f"the file's header cannot be read ({error}): {AGAIN}") from None
    return MvzFile(header, content, tuple(_edges(content, START.size + length, header, check)))


def deflated(said: dict[str, Any]) -> bytes:
    """A header, or what is beside a group's images, as bytes.

    Raises:
        UserError: for more than 4 MiB of JSON.
    """
    text = json.dumps(said, separators=(",", ":")).encode()
    if len(text) > MAX_SIDE:
        raise UserError(
            f"names and captions of a group fill {len(text):,} bytes, at most {MAX_SIDE:,}: take a smaller group"
        )
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS, zdict=USUAL)
    return packer.compress(text) + packer.flush()


def inflated(content: bytes, most: int) -> bytes:
    """The JSON that `deflated` made these bytes of. Raises: ValueError for more than `most` bytes of it."""
    unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS, zdict=USUAL)
    try:
        made = unpacker.decompress(content, most)
    except zlib.error as error:
        raise ValueError(f"is not deflated: {error}") from None
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError(f"unpacks to more than {most:,} bytes, or to less than it holds")
    return made


def _header(packed: bytes) -> FileHeader:
    said = parse_object(inflated(packed, MAX_HEADER))
    known = {entry.name for entry in fields(FileHeader)} | {"format"}
    for name in sorted(known ^ said.keys()):
        raise ValueError(f"{shown(name)} is {'missing' if name in known else 'unknown'}")
    if said.pop("format") != FORMAT:
        raise ValueError("it names another version")
    for name in ("shape", "levels"):
        _require(name, said[name], type(said[name]) is list)
        said[name] = tuple(said[name])
    steps = said["levels"]
    _require("levels", steps, len(steps) <= MAX_LEVELS and all(_is_whole(step, 1, MAX_LEVELS) for step in steps))
    return FileHeader(**{**said, "levels": tuple(accumulate(steps))})


def _edges(content: bytes, at: int, header: FileHeader, check: bytes) -> list[int]:
    edges = [at]
    if header.num_groups * RECORD.size > len(content) - at:
        raise UserError(
            f"the file is cut short: {len(content):,} bytes do not hold its {header.num_groups:,} groups; {AGAIN}"
        )
    for number in range(header.num_groups):
        body = at + RECORD.size
        side, words, _, found = RECORD.unpack(content[at:body]) if body <= len(content) else (0, 0, b"", b"")
        end = body + side + words
        made = _checksum(check, number, content[at : body - 8] + content[body:end])
        if end > len(content) or words % 4 or made != found:
            raise UserError(f"group {number} of the file is damaged or cut short: {AGAIN}")
        if header.in_group(number) > 8 * words:
            raise UserError(f"group {number} of the file claims more images than it has bits: {AGAIN}")
        edges.append(at := end)
    if at != len(content):
        raise UserError(f"the file has {len(content) - at:,} bytes beyond its last group: {AGAIN}")
    return edges


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _short_hash(content: bytes, size: int) -> bytes:
    return hashlib.sha256(content).digest()[:size]


def _checksum(check: bytes, number: int, content: bytes) -> bytes:
    return _short_hash(check + number.to_bytes(8, "little") + content, 8)


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _require(name: str, value: object, good: bool) -> None:
    if not good:
        raise ValueError(f"{name}={shown(value)} is out of range")


def bits_per_dim(header: FileHeader, size: int) -> float:
    """Bits of a file of `size` bytes for each value of its images."""
    return 8 * size / (header.count * math.prod(header.shape))
