"""What a student of few evaluations is distilled to, in a configuration: the section [distill]."""

from __future__ import annotations

from dataclasses import dataclass

from markovae.errors import UserError
from markovae.tables import between, within

CALLS = (1, 2, 4)


@dataclass(frozen=True)
class DistillConfig:
    """A student of a run: a model that samples in a fixed number of network evaluations.

    Args:
        calls: 1, 2 or 4, the evaluations of a sample.
        guidance: of the teacher, built into the student; 1 is none.
        substeps: evaluations that the teacher takes from noise to data, at the least; two or more a segment.
    """

    calls: int = 4
    guidance: float = 1.0
    substeps: int = 16

    def __post_init__(self) -> None:
        if self.calls not in CALLS:
            raise UserError(f"distill.calls={self.calls} must be 1, 2 or 4: it is the evaluations of a sample")
        between("distill.guidance", self.guidance, 0, 100, "1 is none")
        within("distill.substeps", self.substeps, 2, 1000, "they are the teacher's way from noise to data")
