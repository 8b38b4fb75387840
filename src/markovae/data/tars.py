"""Tar files as a row of samples (the WebDataset layout), read in place: nothing is ever extracted.

Members whose names agree up to the first dot after the last slash are one sample, wherever they stand: `0001.jpg`,
`0001.cls`, `0001.txt`. A name is a label here and never a path on this machine.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Self

from markovae.data.file_names import ENDINGS, TEXT_ENDINGS, hidden, is_litter, unread_kind

BLOCK = 512
SMALL = 1 << 16  # bytes of a caption, or of what a header says beyond its block
LONGEST_CLASS = 1024  # bytes
LONGEST_NAME = 1000  # characters, which error messages repeat
LARGEST_IMAGE = 1 << 28  # bytes of one file
MOST_KEYS = 1000  # of global headers, which every later one repeats
LONGEST_NUMBER = 256  # digits in a row of a PAX header
EXTENSIONS = (*tarfile.GNU_TYPES[:2], tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


@dataclass(frozen=True)
class Member:
    """A file of a tar: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int


LABELS = (".cls", ".class", ".label")
IMAGES = ENDINGS | {".img", ".image"}  # what those two hold, its bytes say


@dataclass(frozen=True)
class Sample:
    """The files of one key.

    Args:
        image: the first member with the ending of an image, such as `0001.jpg`; or else the first whose last dot begins
            one, such as `0001.rgb.jpg`; None where there is none.
        label: its .cls; as .txt and .json, also with the image's ending before it, such as `0001.jpg.cls`.
        captions: its .txt, .caption and the like, or else the one text there is, such as `0001.outputs.txt`.
        table: its .json, which may have either, or else the one there is, such as `0001.info.json`.
        others: further images of the second kind, which are not taken.
        unread: images of kinds that are not read.
        unused: all other members.
    """

    image: Member | None
    label: Member | None = None
    captions: tuple[Member, ...] = ()
    table: Member | None = None
    others: tuple[Member, ...] = ()
    unread: tuple[Member, ...] = ()
    unused: tuple[Member, ...] = ()


def members(handle: BinaryIO, size: int) -> Iterator[Member]:
    """The regular files of an uncompressed tar, in order; links, folders and devices are skipped.

    Args:
        size: bytes of the whole file.
    Raises: ValueError with the reason where the tar is damaged, after the members before the damage.
    """
    last, end = -1, 0
    try:
        with tarfile.open(fileobj=handle, mode="r:", tarinfo=_Header) as tar:
            for entry in tar:
                # A header that sends the reader back would be read for ever.
                if entry.offset <= last or entry.size < 0:
                    raise ValueError("a header points back")
                last, end = entry.offset, tar.offset
                if not entry.isreg() or entry.issparse():
                    continue
                if len(entry.name) > LONGEST_NAME:
                    raise ValueError(
                        f"a name has {len(entry.name):,} characters, and at most {LONGEST_NAME:,} are read"
                    )
                if entry.offset_data + entry.size > size:
                    raise ValueError(f"it ends in the middle of {entry.name!r}")
                yield Member(_plain(entry.name), entry.offset_data, entry.size)
                tar.members = []  # type: ignore[attr-defined]  # else every header read is kept
        handle.seek(end)
        if handle.read(BLOCK) != bytes(BLOCK):
            raise ValueError("it has no end mark")
    except Exception as error:  # tarfile may raise anything on damaged bytes
        text = " ".join(str(error).split())[:1200] or type(error).__name__
        where = "" if last < 0 else f" after byte {last:,} of {size:,}"
        raise ValueError(f"damaged tar{where}: {text}") from None


def samples(handle: BinaryIO, size: int) -> Iterator[Sample]:
    """All members by their keys, in the order of the first of each; litter of systems and archives is skipped.

    A second file of one name begins another sample of its key.

    Raises: ValueError as `members`, after the samples before the damage.
    """
    groups: list[dict[str, Member]] = []
    newest: dict[str, dict[str, Member]] = {}
    damage = None
    try:
        for member in members(handle, size):
            folders = member.name.split("/")
            if any(map(hidden, folders)):
                if not any(map(is_litter, folders)):
                    yield Sample(None, unused=(member,))
                continue
            key, ending = _key(member.name)
            held = newest.get(key)
            if held is None or ending in held:
                held = newest[key] = {}
                groups.append(held)
            held[ending] = member
    except ValueError as error:
        damage = error
    yield from map(_sample, groups)
    if damage is not None:
        raise damage


def _plain(name: str) -> str:
    """A name without the "." that `tar -C folder .` begins it with."""
    return "/".join(one for one in name.split("/") if one != ".")


class _Header(tarfile.TarInfo):
    """A header of tarfile's whose extensions are looked at before they are read: some take memory, some take hours."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """The next member. Raises: ValueError for an extension that is too long, or an invalid PAX header."""
        handle, start = tarfile_.fileobj, tarfile_.fileobj.tell()
        block = handle.read(BLOCK)
        kind = block[156:157]
        if kind in EXTENSIONS:
            size = cls.frombuf(block, tarfile.ENCODING, "surrogateescape").size
            if not 0 <= size <= SMALL:
                raise ValueError(f"a header says {size:,} bytes more, and at most {SMALL:,} are read")
            if kind not in tarfile.GNU_TYPES:
                _check_pax(handle.read(size))
                if len(tarfile_.pax_headers) > MOST_KEYS:
                    raise ValueError(f"its global headers have more than {MOST_KEYS:,} keys")
        handle.seek(start)
        return super().fromtarfile(tarfile_)


def _check_pax(content: bytes) -> None:
    """A row of "length key=value" lines, each as long as it says: what else there is takes tarfile a square of time.

    Raises: ValueError for anything else.
    """
    place = 0
    while place < len(content) and content[place]:
        length = content[place : place + 6].split(b" ")[0]
        end = place + int(length) if length.isdigit() else 0
        if end <= place + len(length) or content[end - 1 : end] != b"\n" or b"=" not in content[place:end]:
            raise ValueError("a PAX header is not a list of keys")
        place = end
    if content[place:].strip(b"\0"):
        raise ValueError("a PAX header has data after its keys")
    if max(map(len, re.findall(rb"\d+", content)), default=0) > LONGEST_NUMBER:
        raise ValueError(f"a PAX header has a number of more than {LONGEST_NUMBER} digits")


def _key(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    return folder + slash + stem, (dot + ending).lower()


def _sample(held: dict[str, Member]) -> Sample:
    unread = {ending: member for ending, member in held.items() if unread_kind(member.name) is not None}
    exact = [ending for ending in held if ending in IMAGES]
    loose = [ending for ending in held if "." + ending.rpartition(".")[2] in IMAGES]
    if not loose:
        rest = tuple(member for ending, member in held.items() if ending not in unread)
        return Sample(None, unread=tuple(unread.values()), unused=rest)
    first, *others = exact[:1] or loose
    before = first.rpartition(".")[0]
    texts = [ending for ending in held if "." + ending.rpartition(".")[2] in TEXT_ENDINGS]
    own = [stem + ending for ending in TEXT_ENDINGS for stem in (before, first) if stem + ending in held]
    label = next((stem + ending for ending in LABELS for stem in (before, first) if stem + ending in held), "")
    captions = own or (texts if len(texts) == 1 else [])
    tables = [ending for ending in held if ending.endswith(".json")]
    named = [ending for ending in (before + ".json", ".json", first + ".json") if ending in held]
    table = next(iter(named or (tables if len(tables) == 1 else [])), "")
    used = {first, label, *captions, table, *others, *unread}
    return Sample(
        held[first],
        held.get(label),
        tuple(held[ending] for ending in captions),
        held.get(table),
        tuple(held[ending] for ending in others),
        tuple(unread.values()),
        tuple(member for ending, member in held.items() if ending not in used),
    )
