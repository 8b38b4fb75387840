import json
import os
import random
import shutil
from pathlib import Path

import pytest

from markovae.checkpoints import manifest
from markovae.checkpoints.manifest import CheckpointError, make_manifest, require_readable, verify_bundle
from markovae.checkpoints.reading import open_checkpoint
from markovae.errors import UserError

FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "config.toml", "manifest.json")


def newest(run: Path) -> Path:
    return run / "checkpoints" / "step-00000004"


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def flip(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]


def extend(content: bytes, rng: random.Random) -> bytes:
    return content + bytes([rng.randrange(256)])


def splice(content: bytes, rng: random.Random) -> bytes:
    middle = len(content) // 2
    return content[middle:] + content[:middle]


def empty(content: bytes, rng: random.Random) -> bytes:
    return b""


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("mutate", "times"), [(truncate, 3), (flip, 3), (extend, 1), (splice, 1), (empty, 1)])
def test_a_mutated_file_is_an_error_when_named_and_an_announced_fallback_in_a_run(
    saved: Path, file: str, mutate, times: int, capsys: pytest.CaptureFixture[str]
):
    path, rng = newest(saved) / file, random.Random(file)
    content = path.read_bytes()
    for _ in range(times):
        path.write_bytes(mutate(content, rng))
        with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
            open_checkpoint(newest(saved))
    assert open_checkpoint(saved).path.name == "step-00000002"
    said = capsys.readouterr().err
    assert "checkpoint skipped: " in said
    assert file in said
    assert "using the older checkpoint" in said


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(saved: Path, file: str):
    (newest(saved) / file).unlink()
    with pytest.raises(CheckpointError, match=rf"{file} is missing"):
        open_checkpoint(newest(saved))


def test_no_byte_of_the_manifest_can_change_unseen(saved: Path):
    path = newest(saved) / "manifest.json"
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CheckpointError):
            verify_bundle(path.parent)
    path.write_bytes(json.dumps(json.loads(content)).encode())  # the same figures, spelt otherwise
    with pytest.raises(CheckpointError, match="own SHA-256"):
        verify_bundle(path.parent)


def test_files_swapped_between_checkpoints_are_seen(saved: Path):
    shutil.copy(saved / "checkpoints/step-00000002/ema.safetensors", newest(saved))
    with pytest.raises(CheckpointError, match=r"ema\.safetensors is damaged"):
        open_checkpoint(newest(saved))


def test_what_is_no_regular_file_is_not_waited_for(saved: Path):
    path = newest(saved) / "state.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="no regular file"):
        open_checkpoint(newest(saved))
    path.unlink()
    path.symlink_to(saved / "checkpoints/step-00000002/state.json")
    with pytest.raises(CheckpointError, match="no regular file"):
        open_checkpoint(newest(saved))


def test_a_file_larger_than_promised_is_not_read(saved: Path):
    path = newest(saved) / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # sparse: it takes no room, and would take all memory
    with pytest.raises(CheckpointError, match="where at most"):
        open_checkpoint(newest(saved))


@pytest.mark.parametrize(
    "name", ["../state.json", "/etc/passwd", "", ".", "a/b", "manifest.json", "a\\b", "a.pt", "x.json\n"]
)
def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path: Path, name: str):
    (tmp_path / "manifest.json").write_bytes(make_manifest({name: b"x"}))
    with pytest.raises(CheckpointError, match="lists no files"):
        verify_bundle(tmp_path)


@pytest.mark.parametrize("content", [b"[]", b"null", b"[" * 100_000, b"\xff", b'{"format": 1}', b"\x80\x04K\x01."])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        verify_bundle(tmp_path)


def test_a_newer_format_asks_for_an_update_and_is_no_reason_to_go_back(saved: Path, monkeypatch, capsys):
    path = newest(saved) / "manifest.json"
    monkeypatch.setattr(manifest, "FORMAT", manifest.FORMAT + 1)
    intact = make_manifest({"state.json": b"{}"})
    monkeypatch.undo()
    path.write_bytes(intact)
    for opened in (newest(saved), saved):
        with pytest.raises(CheckpointError, match=r"format 5 and this version reads up to 4: update markovae"):
            open_checkpoint(opened)
    path.write_bytes(intact.replace(b"bytes", b"bites"))  # damaged, so it may be of any format
    with pytest.raises(CheckpointError, match="update markovae"):
        open_checkpoint(newest(saved))
    assert open_checkpoint(saved).step == 2
    assert "using the older checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.toml", b"a" * (3 * 2**17 + 1)),
        ("config.toml", b"x = 1\n" + b"." * 33),
        ("state.json", b" " * (2**22 + 1)),
    ],
)
def test_what_would_not_be_read_again_is_not_written(tmp_path: Path, name: str, content: bytes):
    with pytest.raises(UserError, match=f"{name} of the checkpoint would have {len(content):,} bytes"):
        require_readable({name: content})
    require_readable({name: content[:32]})
    (tmp_path / "manifest.json").write_bytes(make_manifest({name: content}))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"lists no files that a checkpoint could hold|more than 32 dots"):
        verify_bundle(tmp_path)


def test_what_no_manifest_lists_does_not_belong_there(saved: Path):
    (newest(saved) / ".DS_Store").touch()
    open_checkpoint(newest(saved))
    (newest(saved) / "model.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"model\.pt is no part of this checkpoint: .* move it elsewhere"):
        open_checkpoint(newest(saved))
