"""How many stages draw an image coarse to fine, in a configuration: the section [cascade]."""

from __future__ import annotations

from dataclasses import dataclass

from markovae.errors import UserError
from markovae.tables import MAX_WIDTH, between, within

MAX_STAGES = 6
LARGEST_BASE = 48  # pixels a side that one stage draws at once, where the number of stages is left out
DETAIL_SCALE = 0.15  # of details on the scale [−1, 1], where no images tell


@dataclass(frozen=True)
class CascadeConfig:
    """The stages of a cascade.

    Args:
        stages: 1 is a model of one stage; each further one doubles the sides of the image. Left out: a run begins with
            as many as bring the base to at most 48 pixels a side, and a model made without a run has one.
        scales: standard deviation of the details that each further stage draws, coarse to fine, on the scale [−1, 1];
            left out: that of the training images.
        details_width: channels of the detail stages at their finest level; left out: network.width where
            train.objective=bound, since most bits are in the details, else half of it.
    Raises: UserError for a value out of its range.
    """

    stages: int | None = None
    scales: tuple[float, ...] | None = None
    details_width: int | None = None

    def __post_init__(self) -> None:
        if self.stages is not None:
            between("cascade.stages", self.stages, 1, MAX_STAGES, "each further stage doubles the sides of the image")
        if self.details_width is not None:
            within("cascade.details_width", self.details_width, 1, MAX_WIDTH, "it counts channels")
        if self.scales is not None:
            if len(self.scales) != (self.stages or 1) - 1:
                raise UserError(
                    f"cascade.scales are {len(self.scales)} and cascade.stages={self.stages or 1}: give one for each "
                    "stage behind the first"
                )
            for scale in self.scales:
                between("cascade.scales", scale, 1e-6, 1e6, "they are standard deviations")
