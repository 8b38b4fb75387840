"""A file written group by group: interrupted, continued, shared by processes, and whole or absent."""

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.compression.conftest import pictures
from tests.reliability.disks import Failing, WatchedDisk

from markovae.compression.codec import CodecSettings, GroupEncoder, compress, decompress
from markovae.compression.finished_groups import write_mvz
from markovae.diffusion.model import Diffusion
from markovae.errors import StoppedRun, UserError
from markovae.system.files import SystemDisk
from markovae.system.processes import Rank

SETTINGS = CodecSettings(levels=4, group=3)


def encoder(model: Diffusion, images: np.ndarray) -> GroupEncoder:
    return GroupEncoder(model, images, None, (), (None, None), SETTINGS)


def test_an_interrupted_command_continues(gaussian: Callable[..., Diffusion], tmp_path: Path, monkeypatch, capsys):
    model, images, out, made = gaussian(), pictures(11), tmp_path / "a.mvz", []
    record = GroupEncoder.record

    def interrupted(self: GroupEncoder, number: int, ticks: object) -> bytes:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(number)
        return record(self, number, ticks)

    monkeypatch.setattr(GroupEncoder, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_mvz(out, encoder(model, images))
    assert not out.exists()
    assert "the same command continues" in capsys.readouterr().err
    (tmp_path / "a.mvz.part" / "group-000001").write_bytes(b"damaged")
    made.clear()
    monkeypatch.setattr(GroupEncoder, "record", lambda *at: made.append(at[1]) or record(*at))
    size = write_mvz(out, encoder(model, images))
    assert made == [1, 2, 3], "group 0 was kept"
    assert out.stat().st_size == size
    assert out.read_bytes() == compress(model, images, levels=4, group=3)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mvz"]


def test_groups_of_other_images_or_models_are_not_taken(gaussian: Callable[..., Diffusion], tmp_path: Path):
    out, folder = tmp_path / "a.mvz", tmp_path / "a.mvz.part"
    write_mvz(tmp_path / "b.mvz", encoder(gaussian(), pictures(6)))
    assert write_mvz(out, encoder(gaussian(), pictures(6, seed=1)), Rank(0, 2)) is None
    assert [path.name for path in folder.iterdir()] == ["group-000000"]
    changed = pictures(6, seed=1)
    changed[0, 0, 0, 0] ^= 1
    for model, images in ((gaussian(), changed), (gaussian(levels=20), pictures(6, seed=1))):
        write_mvz(out, encoder(model, images))
        assert np.array_equal(decompress(model, out.read_bytes()), images)
        out.unlink()


def test_several_processes_share_the_groups(gaussian: Callable[..., Diffusion], tmp_path: Path):
    model, images, out = gaussian(), pictures(11), tmp_path / "a.mvz"
    assert write_mvz(out, encoder(model, images), Rank(1, 2)) is None
    assert not out.exists()
    assert write_mvz(out, encoder(model, images), Rank(0, 2)) == len(out.read_bytes())
    assert out.read_bytes() == compress(model, images, levels=4, group=3)


def test_a_process_that_starts_late_finds_the_file(gaussian: Callable[..., Diffusion], tmp_path: Path):
    """Of two, the one that has nothing left to do may be done before the other has begun."""
    model, images, out = gaussian(), pictures(11), tmp_path / "a.mvz"
    write_mvz(out, encoder(model, images))
    assert write_mvz(out, encoder(model, images), Rank(1, 2)) is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.mvz"], "nothing is encoded again"
    for other in (encoder(model, pictures(11, seed=1)), encoder(gaussian(levels=20), images)):
        with pytest.raises(UserError, match="exists: name a new file"):
            write_mvz(out, other, Rank(1, 2))
    assert out.read_bytes() == compress(model, images, levels=4, group=3)


def test_a_disk_that_fails_leaves_no_half_file(gaussian: Callable[..., Diffusion], tmp_path: Path, monkeypatch):
    made, images, said = encoder(gaussian(), pictures(4)), pictures(4), []
    records = [made.record(number, iter(())) for number in (0, 1)]
    monkeypatch.setattr(GroupEncoder, "record", lambda _, number, ticks: records[number])
    for number in range(1, 40):
        out, watcher = tmp_path / f"{number}.mvz", Failing(number, errno.ENOSPC, lasting=True)
        try:
            write_mvz(out, made, disk=WatchedDisk(watcher, system=SystemDisk()))
        except StoppedRun as error:
            said.append(str(error))
        if out.exists():  # written, or the disk failed after the rename
            assert np.array_equal(decompress(gaussian(), out.read_bytes()), images)
        if watcher.failed is None:
            break
    assert len(said) > 8
    assert all("No space left" in sentence for sentence in said)
