"""What samples will show after so many images seen, said before a training: a table of measured experience."""

from __future__ import annotations

from dataclasses import dataclass

from markovae.data.images import ImageData
from markovae.log import duration
from markovae.quality.extractor_domain import image_kind


@dataclass(frozen=True)
class Experience:
    """What samples of a training showed.

    Args:
        seen: images that it had seen.
        side: theirs, in pixels.
        shows: in words.
    """

    seen: int
    side: int
    shows: str

    def images(self, pixels: int) -> int:
        """How many images of so many pixels are taken for as far: in proportion to the pixels, never fewer."""
        return max(self.seen, self.seen * pixels // self.side**2)


# Drawn: faces, KID 0.48, 0.15, 0.11 and 0.07 after 3,500, 9,600, 33,000 and 73,000. Photographs of many kinds:
# CIFAR-10 after 6,400, 21,000 and 85,000 (benchmarks/forecast.py; docs/photos.md has the pictures). What no training
# here reached is published: 80 times five passes over 6,551 flowers (Béres 2022, "Denoising diffusion implicit
# models", keras.io), and 800,000 steps of 128 images of CIFAR-10 (Ho et al. 2020, appendix B).
DRAWN = (
    Experience(0, 32, "noise"),
    Experience(9_600, 32, "rough shapes"),
    Experience(33_000, 32, "shapes with rough edges"),
    Experience(73_000, 32, "clean shapes"),
)
PHOTOGRAPHIC = (
    Experience(0, 32, "colored noise"),
    Experience(21_000, 32, "textures and colors, no objects"),
    Experience(2_600_000, 64, "one kind of object, such as flowers"),
    Experience(102_000_000, 32, "objects of several kinds"),
)


def forecast(total: int, batch: int, data: ImageData, octaves: int, pace: float) -> str:
    """How often a run of `total` steps sees each image, what its samples will show, and how long the next better takes.

    Images that are not drawn are forecast as photographs, which take longest.

    Args:
        batch: images a step.
        data: the training part.
        octaves: doublings of the sides behind a cascade's base, whose pixels decide what the images show.
        pace: seconds a step.
    """
    seen, (_, height, width) = total * batch, data.shape
    rows = DRAWN if image_kind(data.images, data.bins) == "drawn" else PHOTOGRAPHIC
    needed = [row.images(height * width >> 2 * octaves) for row in rows]
    reached = sum(seen >= images for images in needed) - 1
    passes = seen / len(data)
    text = f"{passes:,.{1 if passes < 10 else 0}f} passes over your images: expect {rows[reached].shows}"
    if reached + 1 == len(rows):
        return text
    better = needed[reached + 1]
    longer = duration(better / batch * pace)
    return f"{text}; {rows[reached + 1].shows}: from {better:,} images seen, here about {longer}"
