"""A file written group by group: an interrupted command continues, and several processes share the groups."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import final

from markovae.compression.codec import GroupEncoder
from markovae.compression.mvz_format import FileHeader, check_record, pixels_of
from markovae.log import log
from markovae.system.files import SYSTEM, Disk, remove, replace_file, write_file
from markovae.system.processes import Rank

KEY = 16  # bytes


def write_mvz(out: Path, encoder: GroupEncoder, rank: Rank | None = None, disk: Disk = SYSTEM) -> int | None:
    """Encode groups and write the file, whole or not at all.

    Finished groups lie beside it, in OUT.part, until all are there: the same command continues there, and takes no
    group that was encoded from other images, by another model or otherwise.

    Args:
        rank: of several processes, this one, which encodes its share; the last one writes the file. None is alone.
    Returns: bytes written; None where other processes have groups to finish.
    Raises:
        UserError: as `compress`.   StoppedRun: where the disk refuses.
    """
    folder = FinishedGroups(out.with_name(f"{out.name}.part"), encoder.header, disk)
    groups = range(encoder.header.num_groups)
    pixels = [encoder.pixels(number) for number in groups]
    mine = [number for number in (rank or Rank()).every(groups) if folder.read(number, pixels[number]) is None]
    if len(mine) < len((rank or Rank()).every(groups)):
        log(f"continuing: {len(groups) - len(mine):,} of {len(groups):,} groups were finished before")
    ticks, done = encoder.ticks(mine), 0
    try:
        for number in mine:
            folder.write(number, encoder.record(number, ticks))
            done += 1
    except BaseException:
        if done:
            log(f"{done:,} more groups are kept in {folder.path}: the same command continues")
        raise
    next(ticks, None)
    records = [folder.read(number, pixels[number]) for number in groups]
    whole = [record for record in records if record is not None]
    if len(whole) < len(records):
        return None
    content = encoder.header.to_bytes() + b"".join(whole)
    write_file(out, content, disk)
    remove(folder.path, disk)
    return len(content)


@final
class FinishedGroups:
    """Records of groups in a folder, each with what it was encoded by.

    Args:
        path: the folder, made when it is needed.   header: of the file that they are for.
    """

    def __init__(self, path: Path, header: FileHeader, disk: Disk = SYSTEM) -> None:
        self.path, self._disk = path, disk
        self._key = hashlib.sha256(header.to_bytes()).digest()[:KEY]

    def read(self, number: int, pixels: bytes) -> bytes | None:
        """The record of group `number` with these pixels (SHA-256); None where it is not there, or is another's."""
        with suppress(OSError):
            content = self._file(number).read_bytes()
            record = content[KEY:]
            if content[:KEY] == self._key and check_record(record) and pixels_of(record) == pixels:
                return record
        return None

    def write(self, number: int, record: bytes) -> None:
        """Keep a record.

        Raises:
            StoppedRun: where the disk refuses.
        """
        replace_file(self._file(number), self._key + record, self._disk)

    def _file(self, number: int) -> Path:
        return self.path / f"group-{number:06}"
