"""The manifest of a bundle: size and SHA-256 of every file, and of itself."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markovae.errors import UserError

MANIFEST = "manifest.json"
FORMAT = 1
MAX_MANIFEST = 1 << 20
MAX_TEXT = 16 << 20  # of state.json and config.toml
MAX_FILES = 4096


class CheckpointError(UserError):
    """A checkpoint that cannot be used: names the file and the reason."""


def make_manifest(contents: Mapping[str, bytes]) -> bytes:
    """The manifest of files with these contents, as the bytes to write."""
    files = {name: {"bytes": len(content), "sha256": sha256(content)} for name, content in contents.items()}
    return _encode({"format": FORMAT, "files": files})


def verify_bundle(folder: Path) -> dict[str, bytes]:
    """The contents of a bundle's files, by name, each checked against the manifest.

    Files are read once, checked and handed on, so what is used is what was checked. A file is only read when its
    size on the disk is the one promised.
    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    files = _read_manifest(folder)
    contents = {}
    for name, promised in files.items():
        content = read_bounded(folder / name, promised["bytes"])
        if len(content) != promised["bytes"]:
            raise CheckpointError(
                f"{folder / name} has {len(content):,} bytes where the manifest says {promised['bytes']:,}: "
                "it is truncated or another file; use an older checkpoint"
            )
        if sha256(content) != promised["sha256"]:
            raise CheckpointError(f"{folder / name} is damaged: its SHA-256 is not the manifest's; use an older one")
        contents[name] = content
    return contents


def read_bounded(path: Path, limit: int) -> bytes:
    """A regular file's bytes.

    Raises:
        CheckpointError: for a missing file, one that is no regular file, or one of more than `limit` bytes.
    """
    try:
        mode = path.lstat()
        if not stat.S_ISREG(mode.st_mode):
            raise CheckpointError(f"{path} is no regular file: a checkpoint holds nothing else")
        if mode.st_size > limit:
            raise CheckpointError(f"{path} has {mode.st_size:,} bytes where at most {limit:,} belong")
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
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
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return value


def sha256(content: bytes) -> str:
    """SHA-256 as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def _encode(manifest: dict[str, Any]) -> bytes:
    # The manifest vouches for itself too, and its bytes are the one canonical spelling: no byte can change unseen.
    body = json.dumps(manifest, sort_keys=True).encode()
    return json.dumps({**manifest, "sha256": sha256(body)}, sort_keys=True, indent=1).encode() + b"\n"


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    content = read_bounded(path, MAX_MANIFEST)
    manifest = parse_json(content, path)
    version = manifest.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(f"{path} has format {version} and this version reads up to {FORMAT}: update markovae")
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    try:
        intact = _encode(body) == content
    except (ValueError, RecursionError):
        intact = False
    if not intact or version != FORMAT:
        raise CheckpointError(f"{path} is damaged: it does not match its own SHA-256; use an older checkpoint")
    files = manifest.get("files")
    if not isinstance(files, dict) or not 0 < len(files) <= MAX_FILES or not all(map(_sound, files.items())):
        raise CheckpointError(f"{path} lists no files that a checkpoint could hold")
    return files


def _sound(entry: tuple[str, Any]) -> bool:
    name, promised = entry
    plain = name and name == Path(name).name and name not in (".", "..", MANIFEST) and "\\" not in name
    if not plain or not isinstance(promised, dict) or set(promised) != {"bytes", "sha256"}:
        return False
    size = promised["bytes"]
    limit = MAX_TEXT if name.endswith((".json", ".toml")) else 1 << 62
    return type(size) is int and 0 <= size <= limit and isinstance(promised["sha256"], str)
