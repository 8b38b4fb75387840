"""Whatever happens to an entry of the cache, it is told, made again, and nothing outside the cache is touched."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.test_shards import encoded, foreign
from tests.text.test_captions import Counting

from markovae.data import cache
from markovae.data.data_config import DataConfig
from markovae.data.faceset import read_faces
from markovae.data.folder import read_folder
from markovae.data.images import ImageData
from markovae.data.loading import read_source, splits_of
from markovae.data.source import DatasetSummary, Source
from markovae.data.split import split_by_content
from markovae.text.conditioner import encode_captions

Made = list[np.ndarray]
PIXELS = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)


def folder(work: Path) -> Made:
    images = work / "folder"
    if not images.exists():
        images.mkdir()
        for number, pixels in enumerate(PIXELS):
            Image.fromarray(pixels).save(images / f"{number}.png")
    data = read_folder(DataConfig(str(images))).data
    return [data.images, np.frombuffer(b"".join(data.content_hashes()), np.uint8)]


def faces(work: Path) -> Made:
    data = read_faces(DataConfig("faces"), (1, 1, 1)).data
    return [data.images, np.frombuffer(b"".join(data.content_hashes()), np.uint8)]


def shards(work: Path) -> Made:
    path = work / "shards"
    if not path.exists():
        foreign(path, [(f"{number}.png", encoded(pixels)) for number, pixels in enumerate(PIXELS)])
    return [np.asarray(read_source(DataConfig(str(path))).data.images)]


def arranged(work: Path) -> Made:
    mapped = np.lib.format.open_memmap(work / "own.npy", mode="w+", dtype=np.uint8, shape=(9, 3, 8, 8))
    mapped[:] = PIXELS.transpose(0, 3, 1, 2)
    data = ImageData(mapped)
    parts = split_by_content(data.content_hashes(), DataConfig("x"), "x")
    splits = splits_of(Source(data, parts, DatasetSummary("array", {}, {}, {}, (), ())))
    assert isinstance(splits.train.images, np.memmap)
    return [np.array(splits.train.images), np.array(splits.test.images)]


def captions(work: Path) -> Made:
    tokens = encode_captions(["red hair", "a beard", ""], Counting, "one")
    return [part.numpy() for part in tokens.take(range(3))]


@pytest.fixture(autouse=True)
def quick_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces that cost nothing to draw."""
    monkeypatch.setattr("markovae.data.faceset.render", lambda index, size: np.full((3, size, size), index, np.uint8))


SOURCES = (folder, faces, shards, arranged, captions)


def changed(path: Path, change: Callable[[bytearray], object]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def header(path: Path, found: bytes, other: bytes) -> None:
    content = path.read_bytes()
    assert content.count(found) == 1
    path.write_bytes(content.replace(found, other))


def sealed(path: Path, **more: object) -> None:
    seal = json.loads((path / cache.SEAL).read_bytes())
    (path / cache.SEAL).write_text(json.dumps({**seal, **more}))


def in_its_place(path: Path, outside: Path) -> None:
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)


def array_of(entry: Path) -> Path:
    return min(entry.glob("*.npy"), key=lambda path: (path.name != "images.npy", path.name))


def other_entry(entry: Path) -> None:
    """Another whole entry under this one's name."""
    shutil.rmtree(entry)
    cache.entry("other", lambda stage: cache.write_json(stage / "record.json", {}), lambda kept: None)
    (entry.parent / "other").rename(entry)


# What is done to an entry: the entry, a folder outside the cache.
DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "a flipped bit": lambda e, o: changed(array_of(e), lambda c: c.__setitem__(-1, c[-1] ^ 1)),
    "cut": lambda e, o: changed(array_of(e), lambda c: c.__delitem__(slice(-1, None))),
    "longer": lambda e, o: changed(array_of(e), lambda c: c.append(0)),
    "empty": lambda e, o: array_of(e).write_bytes(b""),
    "another dtype": lambda e, o: header(array_of(e), b"'descr': '", b"'descr': '>"),
    "another shape": lambda e, o: header(array_of(e), b"'shape': (", b"'shape': (1"),
    "another order": lambda e, o: header(array_of(e), b"False", b"True "),
    "a file missing": lambda e, o: array_of(e).unlink(),
    "a folder for a file": lambda e, o: (array_of(e).unlink(), array_of_missing(e).mkdir()),
    "a link for a file": lambda e, o: in_its_place(array_of(e), o),
    "a link to nothing": lambda e, o: (in_its_place(array_of(e), o), shutil.move(array_of(e).readlink(), o / "moved")),
    "a pipe for a file": lambda e, o: replaced_by_pipe(array_of(e)),
    "a file for the entry": lambda e, o: (shutil.rmtree(e), e.write_bytes(b"x")),
    "a link for the entry": lambda e, o: in_its_place(e, o),
    "an empty folder": lambda e, o: (shutil.rmtree(e), e.mkdir()),
    "no seal": lambda e, o: (e / cache.SEAL).unlink(),
    "an empty seal": lambda e, o: (e / cache.SEAL).write_bytes(b""),
    "a list for a seal": lambda e, o: (e / cache.SEAL).write_bytes(b"[1]"),
    "a deep seal": lambda e, o: (e / cache.SEAL).write_bytes(b"[" * 60_000),
    "a seal of no text": lambda e, o: (e / cache.SEAL).write_bytes(b"\xff\x00"),
    "a huge number in the seal": lambda e, o: (e / cache.SEAL).write_bytes(b"9" * 50_000),
    "a later seal": lambda e, o: sealed(e, format=cache.FORMAT + 1),
    "a seal without files": lambda e, o: sealed(e, files={}),
    "a seal of no files": lambda e, o: sealed(e, files=3),
    "a seal that leads outside": lambda e, o: sealed(e, files={"../../outside/kept": [4, "0"]}),
    "a seal of odd names": lambda e, o: sealed(e, files={"\ud800\0": [4, "0"]}),
    "a linked seal": lambda e, o: in_its_place(e / cache.SEAL, o),
    "another entry": lambda e, o: other_entry(e),
}


def array_of_missing(entry: Path) -> Path:
    """Where the array was that is gone."""
    return next(
        entry / name for name in json.loads((entry / cache.SEAL).read_bytes())["files"] if not (entry / name).exists()
    )


def replaced_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_every_damage_is_told_and_mended(source: Callable[[Path], Made], tmp_path: Path, own_cache: Path, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    first = [part.copy() for part in source(tmp_path)]
    (entry,) = own_cache.iterdir()
    for what, damage in DAMAGES.items():
        capsys.readouterr()
        damage(entry, outside)
        there = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
        again = source(tmp_path)
        said = capsys.readouterr().err
        assert said.count("made again") == said.count("\n") == 1, f"{what}: {said}"
        assert str(entry) in said
        assert all(np.array_equal(x, y) for x, y in zip(first, again, strict=True)), what
        assert [path.name for path in own_cache.iterdir()] == [entry.name], what
        assert not any(path.is_symlink() for path in own_cache.rglob("*")), what
        assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == there, what
        for path in outside.iterdir():
            if path.name != "kept":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert all(np.array_equal(x, y) for x, y in zip(first, source(tmp_path), strict=True))
        assert capsys.readouterr().err == "", f"{what}: mended for good"


def test_files_that_may_not_be_read_are_made_anew(tmp_path: Path, own_cache: Path, monkeypatch, capsys):
    before = folder(tmp_path)[0]
    real, refused = os.open, [True]

    def once(path, *rest, **more):
        if refused and str(path).endswith("images.npy"):
            refused.pop()
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr("markovae.data.cache.os.open", once)
    assert np.array_equal(folder(tmp_path)[0], before)
    assert "(Permission denied): it is made again" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["images.npy", "record.json"])
def test_one_flipped_byte_anywhere_is_seen(name: str, own_cache: Path, monkeypatch, capsys):
    """Also where a file has many blocks, in each of them."""
    monkeypatch.setattr(cache, "BLOCK", 1 << 12)
    content = np.random.default_rng(1).bytes(5 * cache.BLOCK + 3)
    cache.entry("big", lambda stage: (stage / name).write_bytes(content), lambda kept: None)
    for place in (0, cache.BLOCK - 1, cache.BLOCK, 3 * cache.BLOCK + 7, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 0x80
        (own_cache / "big" / name).write_bytes(damaged)
        made = cache.entry("big", lambda stage: (stage / name).write_bytes(content), lambda kept: kept.bytes(name))
        assert made == content
        assert "made again" in capsys.readouterr().err


def test_an_entry_that_is_whole_and_says_something_else_is_made_anew(own_cache: Path, capsys):
    """As of an older version that kept other files under this name."""
    cache.entry("one", lambda stage: cache.write_json(stage / "old.json", 1), lambda kept: None)
    found = cache.entry(
        "one", lambda stage: cache.write_json(stage / "new.json", 2), lambda kept: kept.json("new.json")
    )
    assert found == 2
    assert "made again" in capsys.readouterr().err


def test_tokens_stay_readable_when_their_entry_goes(own_cache: Path):
    tokens = encode_captions(["red hair", "a beard"], Counting, "one")
    before = tokens.take([1])[0]
    shutil.rmtree(next(own_cache.iterdir()))
    assert torch.equal(tokens.take([1])[0], before)
