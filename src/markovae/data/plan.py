"""What every image of a source is brought to, decided from all their headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from markovae.data.data_config import DataConfig, background_rgb
from markovae.data.image_files import Header

DEFAULT_SIDE = 32
KEEP_UP_TO = 64


@dataclass(frozen=True)
class Plan:
    """What every image is brought to: shape (height, width), channels, fit, background."""

    shape: tuple[int, int]
    grey: bool
    fit: str
    background: tuple[int, int, int]
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """1 or 3."""
        return 1 if self.grey else 3


def plan(headers: Mapping[Header, int], config: DataConfig) -> Plan:
    """Shape and channels for images with these (good) headers, and sentences on what was decided.

    Args:
        headers: how many images have each; what they are called plays no part.
    """

    def count(fits: Callable[[Header], bool]) -> int:
        return sum(number for header, number in headers.items() if fits(header))

    total = sum(headers.values())
    shape, notes = _shape(headers, config)
    changed = count(lambda h: (h.height, h.width) != shape)
    if changed:
        smaller = count(lambda h: h.height < shape[0] or h.width < shape[1])
        words = {"crop": "scaled and cropped", "pad": "scaled and padded", "resize": "stretched"}
        notes.append(
            f"{changed} of {total} images {words[config.fit]} to {shape[0]}x{shape[1]} "
            f"(data.fit = {config.fit!r}), {smaller} of them smaller than that"
        )
    greys = count(lambda h: h.grey)
    grey = config.channels == "grey" or (config.channels == "auto" and greys == total)
    if config.channels == "auto" and 0 < greys < total:
        notes.append(f"{greys} grey images beside {total - greys} in colour: all become rgb")
    said = (
        (count(lambda h: h.transparent), f"with transparency, laid on {config.background}"),
        (count(lambda h: h.animated), "with several frames, of which the first is taken"),
        (count(lambda h: h.mode.startswith("I")), "with 16 bits, scaled to 8"),
        (count(lambda h: h.sixteen_bit_colour), "with 16-bit colour, read by the high byte"),
    )
    notes += [f"{number} images {what}" for number, what in said if number]
    return Plan(shape, grey, config.fit, background_rgb(config.background), tuple(notes))


def _shape(headers: Mapping[Header, int], config: DataConfig) -> tuple[tuple[int, int], list[str]]:
    sizes = {(header.height, header.width) for header in headers}
    common = next(iter(sizes)) if len(sizes) == 1 else None
    if config.shape is not None:
        return config.shape, []
    if common is not None and max(common) <= KEEP_UP_TO:
        return common, [f"size {common[0]}x{common[1]} (height x width), which all images share"]
    side = DEFAULT_SIDE
    return (side, side), [f"size {side}x{side} by default: set data.size for another"]
