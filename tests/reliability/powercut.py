"""What may be on a disk after the power went: a log of calls replayed by the letter of POSIX.

A file's bytes are safe once that file was flushed; a name (made, moved or deleted) once its folder was. What was not
flushed may be there or not, each by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(eq=False)
class Node:
    """A file or a folder. Its safe part is what a power cut cannot take."""

    folder: bool
    entries: dict[str, Node] = field(default_factory=dict)
    safe_entries: dict[str, Node] = field(default_factory=dict)
    pending: list[Callable[[dict[str, Node]], None]] = field(default_factory=list)
    data: bytes = b""
    safe_data: bytes = b""


class Replay:
    """A folder as the calls of a log leave it, and as a power cut would.

    Args:
        root: folder of the log's paths, safely there from the beginning.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.top = root, Node(folder=True)

    def apply(self, call: str, path: Path, content: bytes) -> None:
        """One call of a `Recording`."""
        if path == self.root:  # safe, and so are its names once it is flushed
            self.top.safe_entries, self.top.pending = dict(self.top.entries), []
            assert call == "sync"
            return
        parent, node = self._at(path.parent), self._at(path)
        if call in ("open", "mkdir"):
            if node is None:
                made = Node(folder=call == "mkdir")
                self._change(parent, lambda entries: entries.__setitem__(path.name, made))
        elif call == "write":
            node.data += content
        elif call == "sync" and node.folder:
            node.safe_entries, node.pending = dict(node.entries), []
        elif call == "sync":
            node.safe_data = node.data
        elif call == "rename":
            target = Path(content.decode()).name

            def move(entries: dict[str, Node]) -> None:
                entries.pop(path.name, None)
                entries[target] = node

            assert Path(content.decode()).parent == path.parent
            self._change(parent, move)
        elif call in ("unlink", "rmdir"):
            self._change(parent, lambda entries: entries.pop(path.name, None))
        else:
            raise ValueError(call)

    def write(self, to: Path, policy: str, chance: random.Random) -> None:
        """What is left, as files below `to`.

        Args:
            policy: least: nothing that was not flushed; names: all names, but no bytes that were not flushed;
                most: everything; some: each unflushed change by the toss of a coin, each unflushed file cut anywhere.
        """
        _write(self.top, to, policy, chance)

    def _change(self, folder: Node, change: Callable[[dict[str, Node]], None]) -> None:
        change(folder.entries)
        folder.pending.append(change)

    def _at(self, path: Path) -> Node | None:
        node: Node | None = self.top
        for name in path.relative_to(self.root).parts:
            node = None if node is None else node.entries.get(name)
        return node


def _write(node: Node, to: Path, policy: str, chance: random.Random) -> None:
    if not node.folder:
        to.write_bytes(_data(node, policy, chance))
        return
    to.mkdir()
    for name, inside in _entries(node, policy, chance).items():
        _write(inside, to / name, policy, chance)


def _entries(node: Node, policy: str, chance: random.Random) -> dict[str, Node]:
    if policy in ("names", "most"):
        return node.entries
    entries = dict(node.safe_entries)
    for change in node.pending if policy == "some" else ():
        if chance.random() < 0.5:
            change(entries)
    return entries


def _data(node: Node, policy: str, chance: random.Random) -> bytes:
    if policy == "most" or node.data == node.safe_data:
        return node.data
    if policy == "some":
        return node.data[: chance.randint(len(node.safe_data), len(node.data))]
    return node.safe_data
