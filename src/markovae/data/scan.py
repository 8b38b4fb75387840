"""Finding the image files of a folder and reading their headers, without ever waiting on a file."""

import os
import stat
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from markovae.data.image_file import open_image
from markovae.oom import out_of_memory

ENDINGS = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif"}
    | {".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm"}
)
GREY_MODES = frozenset({"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N", "I"})
TRANSPARENT_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
ORIENTATION_TAG = 0x0112
# Orientations 5…8 lay the image on its side.
SIDEWAYS = frozenset({5, 6, 7, 8})


@dataclass(frozen=True)
class FoundFile:
    """An image file: its path below the folder ("/" between names), its size in bytes and its age (ns)."""

    path: str
    size: int
    modified: int


@dataclass(frozen=True)
class Header:
    """What the header of an image says; `problem` is a reason and the rest empty where it cannot be used.

    `passing` is whether the problem may be the machine's (see `may_pass`).
    """

    path: str
    mode: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    grey: bool = False
    transparent: bool = False
    animated: bool = False
    sixteen_bit_colour: bool = False
    problem: str = ""
    passing: bool = False


def find_files(folder: Path) -> tuple[list[FoundFile], list[tuple[str, str]], int]:
    """The image files below `folder`, by path; the ones that are no regular files, with reasons; other files.

    Hidden files and folders are passed over. Linked folders are followed once each, so loops end, and after all others:
    a folder that lies there itself keeps its own name.
    """
    found: list[FoundFile] = []
    refused: list[tuple[str, str]] = []
    others = 0
    visited: set[tuple[int, int]] = set()
    pending, linked = [folder], deque[Path]()
    while pending or linked:
        place = pending.pop() if pending else linked.popleft()
        try:
            status = place.stat()
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            refused.append((_below(folder, place), reason_of(error)))
            continue
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        for entry in entries:
            if hidden(entry.name):
                continue
            path = Path(entry.path)
            is_image = path.suffix.lower() in ENDINGS
            try:
                about = entry.stat()
            except OSError as error:
                if is_image:
                    refused.append((_below(folder, path), reason_of(error)))
                continue
            if stat.S_ISDIR(about.st_mode):
                (linked if entry.is_symlink() else pending).append(path)
            elif not is_image:
                others += 1
            elif not stat.S_ISREG(about.st_mode):
                refused.append((_below(folder, path), "not a regular file"))
            else:
                found.append(FoundFile(_below(folder, path), about.st_size, about.st_mtime_ns))
    return sorted(found, key=lambda file: file.path), sorted(refused), others


def hidden(name: str) -> bool:
    """Whether a file or folder of that name is passed over."""
    return name.startswith(".") or name == "__MACOSX"


def read_header(folder: Path, file: FoundFile) -> Header:
    """The header of one file; a bad file gives a Header with a problem."""
    if file.size == 0:
        return Header(file.path, problem="the file is empty")
    try:
        return header_of(folder / file.path, file.path)
    except Exception as error:  # a decoder may raise anything on damaged bytes
        return Header(file.path, problem=reason_of(error), passing=may_pass(error))


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
        sixteen_bit_colour=_has_sixteen_bit_colour(image),
    )


def _lies_sideways(image: Image.Image) -> bool:
    if image.format == "TIFF":
        return False  # pillow gives the upright size of these from the start
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        return False  # asking further would decode the pixels, for what may follow them
    return image.getexif().get(ORIENTATION_TAG, 1) in SIDEWAYS


def is_transparent(image: Image.Image) -> bool:
    """Whether some pixel may be other than opaque: an alpha channel, or a colour declared transparent."""
    return image.mode in TRANSPARENT_MODES or "transparency" in image.info


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "P":
        palette = image.getpalette("RGB") or [0, 1, 2]
        return all(len(set(palette[i : i + 3])) == 1 for i in range(0, len(palette), 3))
    return image.mode in GREY_MODES


def _has_sixteen_bit_colour(image: Image.Image) -> bool:
    """Whether pillow reads this file's 16-bit colour (or grey with alpha) by its high byte."""
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", [])]
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in raw for raw in raw_modes)


def _below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def reason_of(error: BaseException) -> str:
    """Why a file could not be read, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def may_pass(error: BaseException) -> bool:
    """Whether it was the machine that failed (permission, network, memory), not the bytes: another time may go well."""
    return out_of_memory(error) or (isinstance(error, OSError) and error.errno is not None)
