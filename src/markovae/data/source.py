"""What reading a source gives: images, split, summary."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from markovae.data.images import ImageData
from markovae.data.split import SplitIndices


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


def counted(values: list[str]) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return dict(Counter(values).most_common())
