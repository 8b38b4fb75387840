"""The manifest of SHA-256 sums, and the checks of what a bundle holds before it is used."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from markovae.errors import UserError
from markovae.strict_json import parse_object, shortened, shown
from markovae.system.memory import machine_memory

LARGEST_SIDE = 4096  # of an image, as in data.size
LARGEST_IMAGE = 1 << 26  # numbers
MAX_BINS = 65_536
MAX_CLASSES, MAX_NAME = 1 << 20, 1000
MAX_WIDTH = 65_536  # features of a caption's token
MAX_COUNT = 1 << 53  # steps, images: what a float64 counts exactly


def check_state(state: Mapping[str, Any], path: Path) -> None:
    """Check the keys that a bundle of this kind needs, and the type and range of all that is read.

    Raises:
        CheckpointError: naming the first that is missing or wrong.
    """
    if state.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {shown(state.get('format'))}, not {FORMAT}")
    training = state.get("kind") == "training"
    wanted = {**_ALWAYS, **_TRAINING} if training else _ALWAYS
    wanted = wanted | {key: fits for key, fits in _PERHAPS.items() if key in state}
    for key, fits in wanted.items():
        if key not in state:
            raise CheckpointError(f"{path} has no {key}: it was not written by markovae")
        if not fits(state[key]):
            raise CheckpointError(f"{path} has {key}={shown(state[key])}: it was not written by markovae")
    draws = state.get("draws")
    if draws is not None and (state["step"] + draws["skipped"]) * draws["batch"] > MAX_COUNT:
        raise CheckpointError(f"{path} has draws of more than {MAX_COUNT:,} images: it was not written by markovae")
    data = state.get("data")
    for key in ("shape", "bins"):
        if isinstance(data, dict) and data.get(key) not in (None, state[key]):
            raise CheckpointError(
                f"{path} has {key}={shown(state[key])}, and of its data {key}={shown(data[key])}: it was not written "
                "by markovae"
            )


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MAX_COUNT


def _some(value: Any) -> bool:
    return _count(value) and value > 0


def _perhaps_count(value: Any) -> bool:
    return value is None or _count(value)


def _seed(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= MAX_COUNT


def _shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(side) is int and 0 < side <= LARGEST_SIDE for side in value)
        and math.prod(value) <= LARGEST_IMAGE
    )


def _bins(value: Any) -> bool:
    return type(value) is int and 2 <= value <= MAX_BINS


def _names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_CLASSES
        and all(type(name) is str and len(name) <= MAX_NAME for name in value)
    )


def _precision(value: Any) -> bool:
    return value in (None, "float32", "bfloat16")


def _draws(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _seed(value.get("seed"))
        and _some(value.get("batch"))
        and _count(value.get("skipped"))
        and _perhaps_count(value.get("images"))
    )


def _data(value: Any) -> bool:
    """The record of a split: what a part has is looked at where it is compared with the data."""
    return isinstance(value, dict) and all(
        isinstance(value.get(part, {}), dict) and _perhaps_count(value.get(part, {}).get("count"))
        for part in ("train", "validation", "test")
    )


def _text(value: Any) -> bool:
    texts = ("encoder", "sha256", "captions_sha256")
    return (
        isinstance(value, dict)
        and all(value.get(key) is None or type(value[key]) is str for key in texts)
        and (value.get("width") is None or (type(value["width"]) is int and 0 < value["width"] <= MAX_WIDTH))
    )


def _digest(value: Any) -> bool:
    return type(value) is str and len(value) == 64


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(type(text) is str for text in value.values())


def _table(value: Any) -> bool:
    return isinstance(value, dict)


_ALWAYS: dict[str, Callable[[Any], bool]] = {"step": _count, "shape": _shape, "bins": _bins, "class_names": _names}
_TRAINING: dict[str, Callable[[Any], bool]] = {
    "total_steps": _perhaps_count,
    "seconds": _seconds,
    "precision": _precision,
    "draws": _draws,
    "rollbacks": _count,
    "data": _data,
}
_PERHAPS: dict[str, Callable[[Any], bool]] = {
    **_TRAINING,
    "parts": _some,
    "pretrained": lambda value: isinstance(value, bool),
    "guess": _perhaps_count,
    "spent": _seconds,
    "images_seen": _count,
    "text": _text,
    "versions": _texts,
    "origin": _table,
    "bits_per_dim": _number,
    "guidance": _number,
    "columns_sha256": _digest,
}


MANIFEST = "manifest.json"
FORMAT = 4  # the first that was released; earlier ones were of development alone
MAX_MANIFEST = 1 << 20
MAX_TEXT = {".json": 4 << 20, ".toml": 3 << 17}  # of state.json and config.toml
MAX_DOTS = 32  # in a line of TOML, which holds a key: its parser takes the square of a key's parts
MAX_FILES = 4096
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(?:safetensors|json|toml)")


class CheckpointError(UserError):
    """A checkpoint that cannot be used: names the file and the reason."""


class NewerFormatError(CheckpointError):
    """An intact checkpoint that a later version wrote: no reason to go back to an older one."""


def make_manifest(contents: Mapping[str, bytes]) -> bytes:
    """The manifest of files with these contents, as the bytes to write."""
    files = {name: {"bytes": len(content), "sha256": sha256(content)} for name, content in contents.items()}
    return _encode({"format": FORMAT, "files": files})


def require_readable(contents: Mapping[str, bytes]) -> None:
    """What is written can be read again.

    Raises:
        UserError: for a text that is longer than what is read of one.
    """
    for name, content in contents.items():
        if len(content) > _limit(name) or _dotted(name, content):
            raise UserError(
                f"{name} of the checkpoint would have {len(content):,} bytes where {_limit(name):,} are read, or a "
                f"line of more than {MAX_DOTS} dots: make what the configuration or the record of the data says shorter"
            )


def verify_bundle(folder: Path) -> dict[str, bytes]:
    """The contents of a bundle's files, the manifest among them, by name, each checked against the manifest.

    Files are read once, checked and handed on, so what is used is what was checked. A file is only read when its
    size on the disk is the one promised. Whatever else lies in the folder is an error too, names that begin with
    a dot excepted: those are the file manager's.
    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    manifest = read_bounded(folder / MANIFEST, MAX_MANIFEST)
    files = _files(folder / MANIFEST, manifest)
    _refuse_others(folder, {MANIFEST, *files})
    contents = {MANIFEST: manifest}
    for name, promised in files.items():
        content = read_bounded(folder / name, promised["bytes"])
        if len(content) != promised["bytes"]:
            raise CheckpointError(
                f"{folder / name} has {len(content):,} bytes where the manifest says {promised['bytes']:,}: "
                "it is truncated or another file; use an older checkpoint"
            )
        if sha256(content) != promised["sha256"]:
            raise CheckpointError(f"{folder / name} is damaged: its SHA-256 is not the manifest's; use an older one")
        if _dotted(name, content):
            raise CheckpointError(
                f"{folder / name} has a line of more than {MAX_DOTS} dots, so it is not a configuration"
            )
        contents[name] = content
    return contents


def read_bounded(path: Path, limit: int) -> bytes:
    """A regular file's bytes; the size on the disk is looked at first.

    Raises:
        CheckpointError: for a missing file, one that is no regular file, or one of more than `limit` bytes.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise CheckpointError(f"{path} is no regular file: a checkpoint holds nothing else")
        with os.fdopen(os.open(path, flags), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise CheckpointError(f"{path} has {size:,} bytes where at most {limit:,} belong")
            if size > machine_memory():
                raise CheckpointError(f"{path} has {size:,} bytes, more than this machine's memory")
            return file.read(limit + 1)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: the checkpoint is not whole") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: for anything else.
    """
    try:
        return parse_object(content)
    except ValueError as error:
        raise CheckpointError(f"{path} {error}") from None


def sha256(content: bytes) -> str:
    """SHA-256 as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def _encode(manifest: dict[str, Any]) -> bytes:
    # The manifest vouches for itself too, and its bytes are the one canonical spelling: no byte can change unseen.
    body = json.dumps(manifest, sort_keys=True).encode()
    return json.dumps({**manifest, "sha256": sha256(body)}, sort_keys=True, indent=1).encode() + b"\n"


def _files(path: Path, content: bytes) -> dict[str, dict[str, Any]]:
    manifest = parse_json(content, path)
    version = manifest.get("format")
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    try:
        intact = _encode(body) == content
    except (ValueError, RecursionError):
        intact = False
    if type(version) is int and version > FORMAT:
        kind = NewerFormatError if intact else CheckpointError
        raise kind(
            f"{path} has format {shortened(str(version))} and this version reads up to {FORMAT}: update markovae"
        )
    if intact and type(version) is int and 0 < version < FORMAT:
        raise CheckpointError(
            f"{path} has format {version}, of a development version before 0.2, and this version reads {FORMAT}: "
            "train again, or continue with the version that wrote it"
        )
    if not intact or type(version) is not int or version < 1:
        raise CheckpointError(f"{path} is damaged: it does not match its own SHA-256; use an older checkpoint")
    files = manifest.get("files")
    if not isinstance(files, dict) or not 0 < len(files) <= MAX_FILES or not all(map(_sound, files.items())):
        raise CheckpointError(f"{path} lists no files that a checkpoint could hold")
    return files


def _sound(entry: tuple[str, Any]) -> bool:
    name, promised = entry
    if not _NAME.fullmatch(name) or name == MANIFEST:
        return False
    if not isinstance(promised, dict) or set(promised) != {"bytes", "sha256"}:
        return False
    size = promised["bytes"]
    return type(size) is int and 0 <= size <= _limit(name) and isinstance(promised["sha256"], str)


def _limit(name: str) -> int:
    return MAX_TEXT.get(Path(name).suffix, 1 << 62)


def _dotted(name: str, content: bytes) -> bool:
    return name.endswith(".toml") and any(line.count(b".") > MAX_DOTS for line in content.splitlines())


def _refuse_others(folder: Path, known: set[str]) -> None:
    try:
        there = sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror})") from None
    for name in there:
        if name not in known and not name.startswith("."):
            raise CheckpointError(
                f"{folder / name} is no part of this checkpoint: its manifest does not list it; move it elsewhere"
            )
