"""The cache and files that were replaced: never other pixels than the files have now, and what is restored is read."""

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.data import folder as folder_module
from markovae.data.data_config import DataConfig
from markovae.data.folder import read_folder
from markovae.data.shards import read_shards
from markovae.errors import StoppedRun
from markovae.locations import SCHEMES

COUNT = 12


def picture(value: int) -> bytes:
    """A BMP, whose size does not depend on its pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value // 2, 255 - value)).save(buffer, "BMP")
    return buffer.getvalue()


def fill(place: Path, count: int = COUNT) -> None:
    place.mkdir()
    for number in range(count):
        (place / f"{number:03}.bmp").write_bytes(picture(number))


def written(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def renamed(path: Path, content: bytes) -> None:
    other = path.with_name("other.tmp")
    other.write_bytes(content)
    other.replace(path)


def linked(path: Path, content: bytes) -> None:
    """A link to another file takes its place."""
    other = path.parent.parent / "elsewhere.bmp"
    other.write_bytes(content)
    path.unlink()
    path.symlink_to(other)


def mapped(path: Path, content: bytes) -> None:
    place = np.memmap(path, np.uint8, "r+")
    place[:] = np.frombuffer(content, np.uint8)
    place.flush()


def keeping_times(change: Callable[[Path, bytes], None], path: Path, content: bytes) -> None:
    about = path.stat()
    assert about.st_size == len(content)
    change(path, content)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.mark.parametrize("change", [written, renamed, linked, mapped])
def test_a_file_that_was_replaced_is_read_again_though_size_and_time_are_kept(
    tmp_path: Path, own_cache: Path, change: Callable[[Path, bytes], None]
):
    place = tmp_path / "images"
    fill(place)
    before = read_folder(DataConfig(str(place))).data
    keeping_times(change, place / "005.bmp", picture(200))
    after = read_folder(DataConfig(str(place))).data
    assert (before.images[5, 0] == 5).all()
    assert (after.images[5, 0] == 200).all()
    assert after.digests is not None
    assert before.digests is not None
    assert after.digests[5].tolist() != before.digests[5].tolist()


def test_where_a_system_counts_no_inodes_and_keeps_times_some_bytes_tell(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    """As on FAT, on some network drives, and where the time of creation stands for that of change."""

    def as_there(about: os.stat_result) -> tuple[int, ...]:
        return about.st_size, about.st_mtime_ns, 0, 0

    monkeypatch.setattr("markovae.data.image_files.mark_of", as_there)
    monkeypatch.setattr("markovae.data.shard_store.mark_of", as_there)
    place = tmp_path / "images"
    fill(place)
    read_folder(DataConfig(str(place)))
    for number in range(COUNT):
        keeping_times(written, place / f"{number:03}.bmp", picture(200 + number))
    assert (read_folder(DataConfig(str(place))).data.images[:, 0, 0, 0] == np.arange(200, 200 + COUNT)).all()


def test_few_files_are_looked_into_however_many_there_are(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    looked: list[Path] = []
    monkeypatch.setattr(folder_module, "glance", lambda path: looked.append(path) or "")
    monkeypatch.setattr(folder_module, "GLANCES", 4)
    fill(tmp_path / "images", 30)
    read_folder(DataConfig(str(tmp_path / "images")))
    assert [path.name for path in looked] == ["000.bmp", "008.bmp", "016.bmp", "024.bmp"]


def tar(path: Path, values: list[int]) -> None:
    with tarfile.open(path, "w") as file:
        for number, value in enumerate(values):
            entry = tarfile.TarInfo(f"{number:03}.bmp")
            content = picture(value)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("change", [written, renamed, mapped])
def test_a_shard_that_was_replaced_is_indexed_again(
    tmp_path: Path, own_cache: Path, change: Callable[[Path, bytes], None]
):
    path, other = tmp_path / "a.tar", tmp_path / "b.tmp"
    tar(path, list(range(COUNT)))
    tar(other, list(range(100, 100 + COUNT)))
    read_shards(DataConfig(str(path)))
    keeping_times(change, path, other.read_bytes())
    other.unlink()
    data = read_shards(DataConfig(str(path))).data
    assert (np.asarray(data.images[:])[:, 0, 0, 0] == np.arange(100, 100 + COUNT)).all()


def test_a_shard_that_was_damaged_and_restored_is_whole_again(tmp_path: Path, own_cache: Path):
    """The damage keeps size and time, and the backup brings its own time back."""
    path, backup = tmp_path / "a.tar", tmp_path / "backup"
    tar(path, list(range(COUNT)))
    shutil.copy2(path, backup)
    whole = read_shards(DataConfig(str(path))).data
    content = bytearray(path.read_bytes())
    content[512 * 6 : 512 * 6 + 300] = b"\xff" * 300
    keeping_times(written, path, bytes(content))
    assert len(read_shards(DataConfig(str(path), bad_fraction=1)).data.images) < COUNT
    shutil.copy2(backup, path)
    restored = read_shards(DataConfig(str(path))).data
    assert np.array_equal(restored.images[:], whole.images[:])
    assert np.array_equal(restored.digests, whole.digests)


def test_a_fetched_shard_that_is_damaged_here_is_fetched_again(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("markovae.locations.SCHEMES", (*SCHEMES, "memory"))
    memory = pytest.importorskip("fsspec").filesystem("memory")
    tar(tmp_path / "a.tar", list(range(COUNT)))
    memory.pipe("/replaced/a.tar", (tmp_path / "a.tar").read_bytes())
    images = read_shards(DataConfig("memory://replaced/a.tar")).data.images
    whole = np.array(images[:])
    (copy,) = (own_cache / "fetched").glob("*.tar")
    for damage in (b"\xff" * 300, picture(250)[-300:]):  # no image any more; other pixels
        content = bytearray(copy.read_bytes())
        content[512 * 4 - 300 : 512 * 4] = damage
        copy.write_bytes(bytes(content))
        assert np.array_equal(read_shards(DataConfig("memory://replaced/a.tar")).data.images[:], whole)
    content = bytearray(memory.cat("/replaced/a.tar"))
    content[512:812] = b"\xff" * 300
    copy.write_bytes(bytes(content))
    monkeypatch.setattr("markovae.data.shard_store._fetch", lambda name, target: target.write_bytes(bytes(content)))
    with pytest.raises(StoppedRun, match=r"cannot be decoded .*restore the shard, then --resume"):
        read_shards(DataConfig("memory://replaced/a.tar")).data.images[:]
    assert "memory://replaced/a.tar is damaged in the cache: it is fetched again" in capsys.readouterr().err
