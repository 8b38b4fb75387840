"""`markovae decompress`: the images of a file that `markovae compress` wrote."""

from __future__ import annotations

import argparse
from pathlib import Path, PurePosixPath

from markovae.cli.options import add_json
from markovae.errors import UserError
from markovae.log import show, show_json

SUMMARY = "restore compressed images, bit for bit"
DESCRIPTION = """\
Decode a file of `markovae compress` with the run that it was written with. Everything is checked before a pixel is
written.
"""
EXAMPLES = """\
examples:
  markovae decompress photos.mvz --model runs/photos --out restored/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae decompress`."""
    parser.add_argument("file", metavar="FILE.mvz", help="written by `markovae compress`")
    parser.add_argument("--model", metavar="RUN", required=True, help="the run that it was compressed with")
    parser.add_argument("--out", metavar="DIR", required=True, help="a new or empty folder")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Decode, write PNGs and images.npy, and tell; exit code 0.

    Raises:
        UserError: for a damaged file, another model, or an --out that is not empty.
    """
    import io

    import numpy as np

    from markovae.checkpoints.reading import load_run
    from markovae.data.pictures import png
    from markovae.likelihood.codec import decompress, describe
    from markovae.system.files import write_folder

    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is not a new or empty folder: name another")
    try:
        data = Path(options.file).read_bytes()
    except OSError as error:
        raise UserError(f"{options.file} cannot be read ({error.strerror})") from None
    facts = describe(data)
    loaded = load_run(options.model, device="cpu", precision="float32")
    images = decompress(loaded.model, data, progress=True)
    buffer = io.BytesIO()
    np.save(buffer, images)
    files = {"images.npy": buffer.getvalue()}
    if facts["bins"] == 256 and images.shape[1] in (1, 3):
        for number, image in enumerate(images):
            files[_file_name(facts["names"], number, files)] = png(image.transpose(1, 2, 0))
    target = write_folder(out, files)
    if options.json:
        show_json({"schema_version": 1, "out": str(target), "count": len(images)})
    else:
        show(f"{len(images):,} images\n{target}")
    return 0


def _file_name(names: list[str], number: int, taken: dict[str, bytes]) -> str:
    """The last part of the image's own name, where it is plain and free; else its number."""
    stem = PurePosixPath(names[number]).stem if names else ""
    name = f"{stem}.png" if stem.replace("-", "").replace("_", "").isalnum() else f"{number:05}.png"
    return name if name not in taken else f"{number:05}.png"
