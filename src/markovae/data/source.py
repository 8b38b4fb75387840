"""What reading a source gives: images, split, summary."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from markovae.data.images import ImageData
from markovae.data.split import SplitIndices
from markovae.log import counted, log


@dataclass(frozen=True)
class DatasetSummary:
    """What the files of a source were like.

    Args:
        kind: a key of `KINDS`.
        modes: how many images of each pixel mode ("L", "RGBA", "I;16"; arrays: the element type).
        formats: how many of each file format.
        sizes: how many of each "width x height" as stored, EXIF orientation applied.
        unreadable: (file, reason) of each image file that could not be read.
        notes: sentences on what was decided.
    """

    kind: str
    modes: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    unreadable: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Source:
    """A source as read: all its images, which part each belongs to, and a summary of the files."""

    data: ImageData
    split: SplitIndices
    summary: DatasetSummary


def tally(values: list[str]) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return dict(Counter(values).most_common())


def log_left_out(source: str, unreadable: Sequence[tuple[str, str]], notes: Sequence[str] = ()) -> None:
    """On stderr: how many files of the data gave no image, with the first and its reason, and what was decided."""
    for note in notes:
        log(f"data: {note}")
    if unreadable:
        name, reason = unreadable[0]
        count = counted(len(unreadable), "file")
        log(f"warning: {count} of {source} gave no image ({name}: {reason}); markovae inspect {source} lists them")
