"""Looking through shards, one at a time, in worker processes: what is there, and what can be decoded."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from markovae.data.captions import one_line_each
from markovae.data.decode import decode
from markovae.data.places import Shards
from markovae.data.plan import Plan
from markovae.data.scan import Header, header_of, reason_of
from markovae.data.tars import LARGEST_IMAGE, LONGEST_CLASS, SMALL, Member, samples
from markovae.errors import StoppedRun
from markovae.locations import without_secrets


@dataclass(frozen=True)
class Found:
    """An image whose header can be read: its name for messages, where its bytes lie, its class and caption or ""."""

    name: str
    offset: int
    size: int
    label: str
    caption: str


@dataclass(frozen=True)
class Scan:
    """One shard.

    Args:
        found: its images, in order.   headers: how many have each header, the name left out.
        unreadable: (shard/name, reason) of what gives no image.   untold: of each class or caption that is no text.
    """

    found: tuple[Found, ...]
    headers: Counter[Header]
    unreadable: tuple[tuple[str, str], ...]
    untold: tuple[tuple[str, str], ...]


def scan(names: tuple[str, ...], number: int) -> Scan:
    """Read the headers of a shard's images; a damaged shard gives what stands before the damage."""
    shards = Shards(names)
    path = shards.path(number)
    shard = PurePosixPath(without_secrets(shards.names[number]).replace("\\", "/")).name
    found, unreadable, untold, headers = [], [], [], Counter[Header]()

    def text(member: Member | None, longest: int) -> str:
        if member is None:
            return ""
        if member.size > longest:
            untold.append((f"{shard}/{member.name}", f"of {member.size:,} bytes, at most {longest:,} are read"))
            return ""
        content = shards.read(number, member.offset, member.size)
        try:
            return "\n".join(one_line_each(content.decode("utf-8-sig").replace("\0", " ").splitlines()))
        except UnicodeDecodeError:
            untold.append((f"{shard}/{member.name}", "no UTF-8 text: save it as UTF-8"))
            return ""

    try:
        with path.open("rb") as handle:
            for sample in samples(handle, path.stat().st_size):
                image = sample.image
                name = f"{shard}/{image.name}"
                for other in sample.others:
                    unreadable.append((f"{shard}/{other.name}", f"its name agrees with {image.name} to the first dot"))
                try:
                    content = _content(shards, number, image)
                    header = header_of(content, "")
                except StoppedRun:  # of the disk or the network, which says nothing of the image
                    raise
                except Exception as error:  # a decoder may raise anything on damaged bytes
                    unreadable.append((name, reason_of(error)))
                    continue
                headers[replace(header, path="")] += 1
                found.append(
                    Found(
                        name, image.offset, image.size, text(sample.label, LONGEST_CLASS), text(sample.caption, SMALL)
                    )
                )
    except (ValueError, OSError) as error:
        unreadable.append((shard, f"{reason_of(error)}; {len(found):,} images before it are read, and none after it"))
    return Scan(tuple(found), headers, tuple(unreadable), tuple(untold))


def digests(names: tuple[str, ...], plan: Plan, work: tuple[int, tuple[Found, ...]]) -> list[bytes | str]:
    """SHA-256 of the pixels of each image found in a shard, or why there are none."""
    shards, (number, found) = Shards(names), work
    results: list[bytes | str] = []
    for one in found:
        try:
            content = shards.read(number, one.offset, one.size)
            pixels = decode(content, plan.shape, plan.grey, fit=plan.fit, background=plan.background)
            results.append(hashlib.sha256(pixels.tobytes()).digest())
        except StoppedRun:
            raise
        except Exception as error:  # a decoder may raise anything on damaged bytes
            results.append(reason_of(error))
    return results


def _content(shards: Shards, number: int, image: Member) -> bytes:
    if not image.size:
        raise ValueError("the file is empty")
    if image.size > LARGEST_IMAGE:
        raise ValueError(f"{image.size:,} bytes are more than {LARGEST_IMAGE:,}")
    return shards.read(number, image.offset, image.size)
