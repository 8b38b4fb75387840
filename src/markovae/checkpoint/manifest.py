"""The manifest of a bundle: size and SHA-256 of every file, and of itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markovae.allocator import machine_memory
from markovae.errors import UserError
from markovae.strict_json import parse_object, shortened

MANIFEST = "manifest.json"
FORMAT = 3
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
            raise CheckpointError(f"{folder / name} has a line of more than {MAX_DOTS} dots: it is no configuration")
        contents[name] = content
    return contents


def format_of(manifest: bytes) -> int:
    """The format of a bundle whose manifest was checked."""
    return int(json.loads(manifest)["format"])


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
