"""A file written group by group: an interrupted command continues, and several processes share the groups."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import final

from markovae.compression.codec import GroupEncoder
from markovae.compression.mvz_format import open_mvz
from markovae.errors import UserError
from markovae.log import log
from markovae.system.files import SYSTEM, Disk, remove, replace_file, write_file
from markovae.system.processes import Rank

SEAL = 32  # bytes


def write_mvz(out: Path, encoder: GroupEncoder, rank: Rank | None = None, disk: Disk = SYSTEM) -> int | None:
    """Encode groups and write the file, whole or not at all.

    Finished groups lie beside it, in OUT.part, until all are there: the same command continues there, and takes no
    group that was encoded from other images, by another model or otherwise.

    Args:
        rank: of several processes, this one, which encodes its share; the last one writes the file. None is alone.
    Returns: bytes written; None where other processes have groups to finish, or have written the file.
    Raises:
        UserError: as `compress`; and for a process among several, where `out` is there and is another file.
        StoppedRun: where the disk refuses.
    """
    folder = FinishedGroups(out.with_name(f"{out.name}.part"), disk)
    keys = [encoder.key(number) for number in range(encoder.header.num_groups)]
    rank = rank or Rank()
    share = rank.every(range(len(keys)))
    missing = [number for number in share if folder.read(number, keys[number]) is None]
    # Looked at after the groups: they go when the file is there. A process that starts late may find all done.
    if not rank.alone and out.exists():
        if not encoder.wrote(open_mvz(out)):
            raise UserError(f"{out} exists: name a new file")
        return None
    if len(missing) < len(share):
        log(f"continuing: {len(share) - len(missing):,} of {len(share):,} groups were finished before")
    ticks, done = encoder.ticks(missing), 0
    try:
        for number in missing:
            folder.write(number, keys[number], encoder.record(number, ticks))
            done += 1
    except BaseException:
        if done:
            log(f"{done:,} more groups are kept in {folder.path}: the same command continues")
        raise
    next(ticks, None)
    records = [folder.read(number, key) for number, key in enumerate(keys)]
    whole = [record for record in records if record is not None]
    if len(whole) < len(records):
        return None
    content = encoder.header.to_bytes() + b"".join(whole)
    write_file(out, content, disk)
    remove(folder.path, disk)
    return len(content)


@final
class FinishedGroups:
    """Records of groups in a folder, each behind a hash of itself and of the key of what it was encoded from.

    Args:
        path: the folder, made when it is needed.
    """

    def __init__(self, path: Path, disk: Disk = SYSTEM) -> None:
        self.path, self._disk = path, disk

    def read(self, number: int, key: bytes) -> bytes | None:
        """The record of group `number` with this key; None where it is not there, is damaged, or is another's."""
        with suppress(OSError):
            content = self._file(number).read_bytes()
            if content[:SEAL] == _seal(key, content[SEAL:]):
                return content[SEAL:]
        return None

    def write(self, number: int, key: bytes, record: bytes) -> None:
        """Keep a record.

        Raises:
            StoppedRun: where the disk refuses.
        """
        replace_file(self._file(number), _seal(key, record) + record, self._disk)

    def _file(self, number: int) -> Path:
        return self.path / f"group-{number:06}"


def _seal(key: bytes, record: bytes) -> bytes:
    return hashlib.sha256(key + record).digest()
