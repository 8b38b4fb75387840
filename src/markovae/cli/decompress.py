"""`markovae decompress`: the images of a file that `markovae compress` wrote."""

from __future__ import annotations

import argparse
import os
from pathlib import Path, PurePosixPath
from typing import Any

from markovae.cli.options import add_json, add_trust, whole
from markovae.errors import UserError
from markovae.log import counted, show, show_json

SUMMARY = "restore compressed images, bit for bit"
DESCRIPTION = """\
Decode a file of `markovae compress` with the run that it was written with. The file, the model and this machine are
checked before a pixel is written. Images that came from files become PNGs of the same names; those that came from
arrays become images.npy.
"""
EXAMPLES = """\
examples:
  markovae decompress photos.mvz --model runs/photos --out restored/
  markovae decompress photos.mvz --model runs/photos --out some/ --images 300-310
  markovae decompress face.mvz --model runs/faces --out rough/ --stop-after 500   # what 500 bytes show
"""


MAX_STEM = 200  # bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae decompress`."""
    parser.add_argument("file", metavar="FILE.mvz", type=Path, help="written by `markovae compress`")
    parser.add_argument("--model", metavar="RUN", required=True, help="the run that it was compressed with")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--images", metavar="A[-B]", type=_span, help="decode only images A to B, counted from 0")
    parser.add_argument(
        "--stop-after",
        metavar="BYTES",
        type=whole(1),
        help="read only so many bytes of each image's data and write what they show (files of --progressive)",
    )
    add_json(parser)
    add_trust(parser)


def run(options: argparse.Namespace) -> int:
    """Decode, write PNGs or images.npy, and tell; exit code 0.

    Raises:
        UserError: for a damaged file, another model, or an --out that is not empty.
    """
    from markovae.checkpoints.reading import load_run
    from markovae.compression.codec import GroupDecoder
    from markovae.compression.mvz_format import open_mvz
    from markovae.system.files import require_new_folder, write_folder

    require_new_folder(options.out, "--out")
    file = open_mvz(options.file)
    header = file.header
    first, last = options.images or (0, header.count - 1)
    if last >= header.count:
        raise UserError(f"--images {first}-{last}: the file has images 0…{header.count - 1}")
    loaded = load_run(options.model, device="cpu", precision="float32", trust=options.trust)
    decoder = GroupDecoder(loaded.model, file)
    groups = range(first // header.group, last // header.group + 1)
    restored = RestoredFiles(header.bins)
    shown: list[dict[str, Any]] = []
    if options.stop_after is None:
        for number, images in zip(groups, decoder.groups(groups, progress=True), strict=True):
            restored.add(images, file.record(number).names, number * header.group, range(first, last + 1))
    else:
        for number in groups:
            views = list(decoder.views(number, options.stop_after // 4))
            if not views:
                raise UserError(f"--stop-after {options.stop_after} bytes show nothing of image {number}: read more")
            best = views[-1]
            restored.add(best.images.astype(header.dtype), file.record(number).names, number, range(first, last + 1))
            shown.append({"image": number, "level": best.level, "bytes": 4 * best.words})
    target = write_folder(options.out, restored.files())
    if options.json:
        show_json({"schema_version": 1, "out": str(target), "count": last - first + 1, "views": shown})
        return 0
    for view in shown:
        what = "exact" if view["level"] == 0 else f"level {view['level']} of {len(header.levels)}"
        show(f"image {view['image']}: {what} by {view['bytes']:,} bytes")
    count = last - first + 1
    show(f"{counted(count, 'image')}\n{target}")
    return 0


class RestoredFiles:
    """Images as files: PNGs of those that came from files, and images.npy of those that did not.

    Args:
        bins: how many values a pixel has.
    """

    def __init__(self, bins: int) -> None:
        self._bins = bins
        self._files: dict[str, bytes] = {}
        self._rows: list[Any] = []

    def add(self, images: Any, names: tuple[str, ...], start: int, wanted: range) -> None:
        """Add the images of a group whose first is number `start`, as far as they are wanted."""
        from markovae.data.pictures import png

        for place, image in enumerate(images):
            if start + place not in wanted:
                continue
            name = names[place] if names else ""
            if name and self._bins == 256 and image.shape[0] in (1, 3):
                self._files[self._file_name(name, start + place)] = png(image.transpose(1, 2, 0))
            else:
                self._rows.append(image)

    def files(self) -> dict[str, bytes]:
        """Every file by name."""
        import io

        import numpy as np

        if not self._rows:
            return self._files
        buffer = io.BytesIO()
        np.save(buffer, np.stack(self._rows), allow_pickle=False)
        return {**self._files, "images.npy": buffer.getvalue()}

    def _file_name(self, name: str, number: int) -> str:
        """The last part of the image's own name, where it is plain and free; else its number."""
        stem = PurePosixPath(name).stem
        made = f"{stem}.png"
        if not _is_plain(stem) or made in self._files:
            made = f"{number:06}.png"
        while made in self._files:  # an image before had a number for a name
            made = f"_{made}"
        return made


def _is_plain(stem: str) -> bool:
    """Whether a name is of letters, figures, - and _, which the file system can hold."""
    try:
        return stem.replace("-", "").replace("_", "").isalnum() and len(os.fsencode(stem)) <= MAX_STEM
    except UnicodeEncodeError:
        return False


def _span(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
        raise argparse.ArgumentTypeError(f"{text!r} must be A or A-B, for instance 300-310")
    return int(first), int(last or first)
