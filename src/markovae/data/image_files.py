"""Image files: find them, read their headers, choose one shape for all, decode them to it."""

import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from markovae.data.color import WORDS, color_of, to_srgb
from markovae.data.data_config import DataConfig, background_rgb
from markovae.data.file_names import ENDINGS, hidden, is_litter, unread_kind
from markovae.data.image_reader import MAX_PIXELS, open_image
from markovae.data.images import ImageData, Pixels
from markovae.errors import UserError, reason_of
from markovae.log import log
from markovae.system.memory import out_of_memory
from markovae.system.regular import mark_of


def fit_image(image: Image.Image, shape: tuple[int, int], fit: str, fill: tuple[int, int, int]) -> Image.Image:
    """`image` (mode L or RGB) as height x width pixels; an image of that shape is returned untouched.

    crop: scaled to cover, the centre kept. pad: scaled to fit inside, centred on `fill`. resize: stretched.
    Scaling is Lanczos with antialiasing; where a margin is odd, the right and lower side get the extra pixel.

    Raises: ValueError for an image so long and thin that it would be scaled to more than 48 megapixels.
    """
    height, width = shape
    if image.size == (width, height):
        return image
    if fit == "resize":
        return _resized(image, width, height)
    if fit == "crop":
        return centred(_scaled(image, max(width / image.width, height / image.height)), shape)
    scaled = _scaled(image, min(width / image.width, height / image.height))
    canvas = Image.new("RGB", (width, height), fill).convert(image.mode)
    canvas.paste(scaled, ((width - scaled.width) // 2, (height - scaled.height) // 2))
    return canvas


def strip_of(image: Image.Image, shape: tuple[int, int]) -> Image.Image:
    """`image` scaled to cover height x width, at most half as long again at each end: its middle is `fit_image`'s."""
    scaled = _scaled(image, max(shape[1] / image.width, shape[0] / image.height))
    return centred(scaled, strip_shape((image.height, image.width), shape))


def strip_shape(size: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of `strip_of` an image of this size, (height, width)."""
    scale = max(shape[0] / size[0], shape[1] / size[1])
    height, width = (
        min(max(1, round(side * scale)), most + 2 * (most // 2)) for side, most in zip(size, shape, strict=True)
    )
    return height, width


def centred(image: Image.Image, shape: tuple[int, int]) -> Image.Image:
    """The middle of an image, height x width; where a margin is odd, the right and lower side have the extra pixel."""
    height, width = shape
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image if image.size == (width, height) else image.crop((left, top, left + width, top + height))


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image if image.size == (width, height) else _resized(image, width, height)


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    # The picture between the two passes has the width of the one and the height of the other.
    if width * max(image.height, height) > MAX_PIXELS:
        raise ValueError(
            f"{image.width}x{image.height} is too long and thin: it would be {width}x{height} before it is cropped; "
            "crop it first"
        )
    return image.resize((width, height), Image.Resampling.LANCZOS)


def to_channels(data: ImageData, channels: str) -> ImageData:
    """`data` with the channels asked for: "auto" leaves them, "rgb" repeats grey, "grey" takes luma.

    Luma is (19595 R + 38470 G + 7471 B + 2^15) >> 16, ITU-R BT.601, as pillow's mode L.
    """
    have = data.shape[0]
    if channels == "rgb" and have == 1:
        return replace(data, images=np.repeat(np.asarray(data.images), 3, axis=1))
    if channels == "grey" and have == 3:
        red, green, blue = (data.images[:, c].astype(np.uint64) for c in range(3))
        luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
        return replace(data, images=luma[:, None].astype(data.images.dtype))
    return data


def to_size(data: ImageData, config: DataConfig) -> ImageData:
    """`data` (256 bins) at the size the configuration asks for, each image by `fit_image`.

    Raises: UserError where pixels have other than 256 values, which scaling would blur into new ones.
    """
    shape = config.shape
    if shape is None or shape == data.shape[1:]:
        return data
    if data.bins != 256:
        raise UserError(
            f"{data.name} has {data.bins} grey values, and only images of 256 can be scaled: leave data.size at 0"
        )
    if data.shape[1] < shape[0] or data.shape[2] < shape[1]:
        log(f"data: {_enlarging(f'the images of {data.name} are', min(data.shape[1:]), shape, config)}")
    fill = background_rgb(config.background)
    scaled: Pixels = np.empty((len(data), data.shape[0], *shape), dtype=np.uint8)
    for target, pixels in zip(scaled, data.images, strict=True):
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
        try:
            target[...] = channels_first(fit_image(image, shape, config.fit, fill))
        except ValueError as error:
            raise UserError(f"an image of {data.name} of {error}") from None
    return replace(data, images=scaled)


def channels_first(image: Image.Image) -> Pixels:
    """Mode L as (1, H, W), mode RGB as (3, H, W), uint8."""
    pixels: Pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


GREY_MODES = frozenset({"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N", "I"})
TRANSPARENT_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
ORIENTATION_TAG = 0x0112
# Orientations 5…8 lay the image on its side.
SIDEWAYS = frozenset({5, 6, 7, 8})


@dataclass(frozen=True)
class FoundFile:
    """An image file: its path below the folder ("/" between names), its size in bytes, and its `mark_of`."""

    path: str
    size: int
    mark: tuple[int, ...] = ()


@dataclass(frozen=True)
class Header:
    """What the header of an image says; `problem` is a reason and the rest empty where it cannot be used.

    `color` is how the pixels are stored where that is not sRGB (`color.WORDS`), `jpeg` the quality 1…100 of a JPEG by
    its quantization. `transient` is whether the problem may be the machine's (see `is_transient`).
    """

    path: str
    mode: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    grey: bool = False
    transparent: bool = False
    animated: bool = False
    sixteen_bit_color: bool = False
    color: str = ""
    jpeg: int = 0
    problem: str = ""
    transient: bool = False


@dataclass(frozen=True)
class FoundFiles:
    """What lies in a folder, paths below it, each list in order.

    Args:
        files: the image files.
        refused: (path, reason) of images of kinds that are not read, and of those that are not regular files.
        others: regular files that are no images.
        hidden: what is skipped though no system left it behind: hidden names, pipes, links that lead nowhere.
    """

    files: list[FoundFile]
    refused: list[tuple[str, str]]
    others: list[str]
    hidden: list[str]


def find_files(folder: Path) -> FoundFiles:
    """All files below a folder.

    Hidden files and folders, and what systems and archives leave behind, are skipped. Linked folders are followed
    once each, so loops end, and after all others: a folder that lies there itself keeps its own name.
    """
    found = FoundFiles([], [], [], [])
    visited: set[tuple[int, int]] = set()
    pending, linked = [folder], deque[Path]()
    while pending or linked:
        place = pending.pop() if pending else linked.popleft()
        try:
            status = place.stat()
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            found.refused.append((_below(folder, place), reason_of(error)))
            continue
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = _below(folder, Path(entry.path))
            if hidden(entry.name):
                if not is_litter(entry.name):
                    found.hidden.append(path)
                continue
            unread = unread_kind(path)
            image = unread is not None or Path(path).suffix.lower() in ENDINGS
            try:
                about = entry.stat()
            except OSError as error:
                if image:
                    found.refused.append((path, reason_of(error)))
                else:
                    found.hidden.append(path)
                continue
            if stat.S_ISDIR(about.st_mode):
                (linked if entry.is_symlink() else pending).append(Path(entry.path))
            elif not image:
                (found.others if stat.S_ISREG(about.st_mode) else found.hidden).append(path)
            elif not stat.S_ISREG(about.st_mode):
                found.refused.append((path, "not a regular file"))
            elif unread is not None:
                found.refused.append((path, unread))
            else:
                found.files.append(FoundFile(path, about.st_size, mark_of(about)))
    found.files.sort(key=lambda file: file.path)
    for paths in (found.refused, found.others, found.hidden):
        paths.sort()
    return found


def read_header(folder: Path, file: FoundFile) -> Header:
    """The header of one file; a bad file gives a Header with a problem."""
    if file.size == 0:
        return Header(file.path, problem="the file is empty")
    try:
        return header_of(folder / file.path, file.path)
    except Exception as error:  # a decoder may raise anything on damaged bytes
        return Header(file.path, problem=reason_of(error), transient=is_transient(error))


def header_of(source: Path | bytes, path: str) -> Header:
    """The header of an image that can be opened, called `path`. Raises: whatever a decoder may on damaged bytes."""
    with open_image(source) as image:
        return header_from(image, path)


def header_from(image: Image.Image, path: str) -> Header:
    """The header of an open image, called `path`."""
    width, height = (image.height, image.width) if _lies_sideways(image) else image.size
    return Header(
        path=path,
        mode=image.mode,
        format=image.format or "",
        width=width,
        height=height,
        grey=_is_grey(image),
        transparent=is_transparent(image),
        animated=bool(getattr(image, "is_animated", False)),
        sixteen_bit_color=_has_sixteen_bit_color(image),
        color=color_of(image),
        jpeg=jpeg_quality(image),
    )


def _lies_sideways(image: Image.Image) -> bool:
    if image.format == "TIFF":
        return False  # pillow gives the upright size of these from the start
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        return False  # asking further would decode the pixels, for what may follow them
    return image.getexif().get(ORIENTATION_TAG, 1) in SIDEWAYS


def is_transparent(image: Image.Image) -> bool:
    """Whether some pixel may be other than opaque: an alpha channel, or a color declared transparent."""
    return image.mode in TRANSPARENT_MODES or "transparency" in image.info


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "P":
        palette = image.getpalette("RGB") or [0, 1, 2]
        return all(len(set(palette[i : i + 3])) == 1 for i in range(0, len(palette), 3))
    return image.mode in GREY_MODES


def _has_sixteen_bit_color(image: Image.Image) -> bool:
    """Whether pillow reads this file's 16-bit color (or grey with alpha) by its high byte."""
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", [])]
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in raw for raw in raw_modes)


# Sums of the tables of ITU-T T.81, annex K, at quality 50: of luma, and where the file has no other, of chroma.
STANDARD_SUM = 3688


def jpeg_quality(image: Image.Image) -> int:
    """The quality 1…100 at which libjpeg would quantize luma as much as this JPEG does; 0 for any other format."""
    tables = getattr(image, "quantization", None)
    if image.format not in ("JPEG", "MPO") or not tables:
        return 0
    percent = 100 * sum(tables[min(tables)]) / STANDARD_SUM
    return max(1, min(100, round(100 - percent / 2 if percent <= 100 else 5000 / percent)))


def _below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def is_transient(error: BaseException) -> bool:
    """Whether it was the machine that failed (permission, network, memory), not the bytes: another time may go well."""
    return out_of_memory(error) or (isinstance(error, OSError) and error.errno is not None)


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
        words = {"crop": "scaled and cropped", "pad": "scaled and padded", "resize": "stretched"}
        notes.append(
            f"{changed} of {total} images {words[config.fit]} to {shape[0]}x{shape[1]} (data.fit = {config.fit!r})"
        )
    enlarged = all if config.fit == "pad" else any  # of the sides that are too short
    if smaller := count(lambda h: enlarged((h.height < shape[0], h.width < shape[1]))):
        side = min(min(h.height, h.width) for h in headers)
        notes.append(_enlarging(f"{smaller:,} of {total:,} images are", side, shape, config))
    greys = count(lambda h: h.grey)
    grey = config.channels == "grey" or (config.channels == "auto" and greys == total)
    notes += channels_note(greys, total, config)
    kinds = [
        (count(lambda h: h.transparent), f"with transparency, laid on {config.background}"),
        (count(lambda h: h.animated), "with several frames, of which the first is taken"),
        (count(lambda h: h.mode.startswith("I")), "with 16 bits, scaled to 8"),
        (count(lambda h: h.sixteen_bit_color), "with 16-bit color, read by the high byte"),
    ]
    colors = Counter[str]()
    for header, number in headers.items():
        colors[header.color] += number
    kinds += [(colors[color], words) for color, words in WORDS.items()]
    notes += [f"{number} images {what}" for number, what in kinds if number]
    notes += _jpeg_note({h.jpeg: 0 for h in headers if h.jpeg}, count(lambda h: h.jpeg > 0), total)
    return Plan(shape, grey, config.fit, background_rgb(config.background), tuple(notes))


def channels_note(greys: int, total: int, config: DataConfig) -> list[str]:
    """A sentence on the images that lose their color, or that have grey in three channels, if there are any."""
    colored = total - greys
    if config.channels == "grey" and colored:
        return [f"{colored:,} of {total:,} images are in color and become grey (data.channels)"]
    if config.channels == "rgb" and greys:
        return [
            f"{greys:,} of {total:,} images are grey and become rgb, three times the same (data.channels): their "
            "bits/dim are not those of one channel"
        ]
    return [f"{greys} grey images beside {colored} in color: all become rgb"] if greys and colored else []


def _enlarging(what: str, side: int, shape: tuple[int, int], config: DataConfig) -> str:
    """A sentence on images that are enlarged.

    Args:
        what: they are.
        side: the largest square that all have.
    Raises: UserError where a size was asked for, and enlarging was not.
    """
    said = (
        f"{what} smaller than {shape[0]}x{shape[1]} and are enlarged, which adds no detail: data.size={side} is the "
        "largest that all have"
    )
    if config.shape is not None and not config.enlarge:
        raise UserError(f"{said}; --set data.enlarge=true takes them all the same")
    return said


def _jpeg_note(qualities: Collection[int], number: int, total: int) -> list[str]:
    """A sentence on images that were JPEGs, if any were: their bits are not those of the originals."""
    if not number:
        return []
    low, high = min(qualities), max(qualities)
    quality = f"quality {low}" if low == high else f"quality {low}…{high}"
    return [
        f"{number} of {total} images are decoded from JPEG ({quality}): their bits/dim are not those of the originals, "
        "and belong beside no figure of lossless images"
    ]


def _shape(headers: Mapping[Header, int], config: DataConfig) -> tuple[tuple[int, int], list[str]]:
    sizes = {(header.height, header.width) for header in headers}
    common = next(iter(sizes)) if len(sizes) == 1 else None
    if config.shape is not None:
        return config.shape, []
    if common is not None and max(common) <= KEEP_UP_TO:
        return common, [f"size {common[0]}x{common[1]} (height x width), common to all images"]
    side = DEFAULT_SIDE
    return (side, side), [f"size {side}x{side} by default: set data.size for another"]


STRIP = "strip"
TILE = 1 << 18  # pixels that are worked on at a time: what is converted takes little memory beside the picture


def decode(
    source: Path | bytes, shape: tuple[int, int], grey: bool, fit: str, background: tuple[int, int, int]
) -> Pixels:
    """The image in a file, or in these bytes of one, as (1 or 3, height, width) uint8, brought to `shape` by `fit`.

    With `STRIP` it may be longer than the shape (`strip_of`).

    Raises: OSError or ValueError with a reason where the file cannot be decoded.
    """
    with open_image(source) as image:
        flat = flat_picture(image, grey, background)
        return channels_first(strip_of(flat, shape) if fit == STRIP else fit_image(flat, shape, fit, background))


def flat_picture(image: Image.Image, grey: bool, background: tuple[int, int, int]) -> Image.Image:
    """The pixels of an open image at its own size, mode L or RGB.

    The order is: first frame, EXIF orientation, 16 bits to 8 by round(255 v / 65535), colors to sRGB (`to_srgb`),
    transparency laid on `background`, one channel or three.

    Raises: OSError or ValueError with a reason where the image cannot be decoded.
    """
    load_upright(image)
    mode = "L" if grey else "RGB"
    if image.mode == mode and not is_transparent(image) and color_of(image) in ("", "damaged"):
        return image
    flat = Image.new(mode, image.size)
    for box, tile in tiles(image):
        opaque = flatten(to_srgb(eight_bits(tile)), background)
        flat.paste(opaque if opaque.mode == mode else opaque.convert(mode), box)
    return flat


def load_upright(image: Image.Image) -> None:
    """Decode the first frame of an open image, and lay it as its EXIF orientation says."""
    image.seek(0)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)  # in place: no copy where it lies upright


def tiles(image: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], Image.Image]]:
    """An image in parts of at most `TILE` pixels, each with its box: (left, top, right, bottom)."""
    width = min(image.width, TILE)
    height = TILE // width
    for top in range(0, image.height, height):
        for left in range(0, image.width, width):
            box = (left, top, min(left + width, image.width), min(top + height, image.height))
            yield box, image.crop(box)


EIGHT_BITS = ((np.arange(1 << 16) + 128) // 257).astype(np.uint8)


def eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey, (v + 128) // 257, which is 255 v / 65535 rounded; others unchanged.

    Raises: ValueError for float pixels and for 32-bit ones outside 0 … 65535, which state no range.
    """
    if image.mode == "F":
        raise ValueError("float pixels state no range: save the image with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if image.mode == "I" and (values.min() < 0 or values.max() > 65535):
        raise ValueError(
            f"32-bit pixels from {values.min()} to {values.max()} must lie in 0…65535: save with 8 or 16 bits"
        )
    scaled = Image.fromarray(EIGHT_BITS[values])
    scaled.info.update(image.info)
    # The color key names a 16-bit value; two of them may share 8 bits, so make it alpha here.
    if isinstance(transparent := scaled.info.get("transparency"), int):
        scaled.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        scaled.info.pop("transparency")
    return scaled


def flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """`image` without transparency: alpha A lays it on the background, (A v + (255 - A) b) / 255 rounded.

    Grey stays grey where the background is grey (mode L), otherwise the result is RGB.
    """
    if not is_transparent(image):
        return image
    grey = image.mode in ("L", "LA", "La", "1") and len(set(background)) == 1
    pixels = image if image.mode == "RGBA" else image.convert("RGBA")
    # Pillow's paste rounds as said, and is ten times as fast as arithmetic on arrays.
    flat = Image.new("L" if grey else "RGB", image.size, background[0] if grey else background)
    flat.paste(pixels.getchannel(0) if grey else pixels, mask=pixels.getchannel("A") if grey else pixels)
    return flat
