"""A folder of images; its sub-folders are classes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from markovae.data import cache
from markovae.data.captions import NAMES, read_captions, sidecar
from markovae.data.data_config import DataConfig
from markovae.data.image_files import (
    FoundFile,
    Header,
    Plan,
    decode,
    find_files,
    hidden,
    may_pass,
    plan,
    read_header,
    reason_of,
)
from markovae.data.images import Digests, ImageData, Indices, Pixels, content_digests
from markovae.data.source import DatasetSummary, Source, counted
from markovae.data.split import split_by_content
from markovae.data.workers import map_in_processes
from markovae.errors import UserError
from markovae.log import printable, track

RECIPE = "folder-3"
# Below these, the work takes less time than starting workers.
SERIAL_HEADERS = 5_000
SERIAL_IMAGES = 300
PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def read_folder(config: DataConfig) -> Source:
    """The images of a folder at one shape, decoded in worker processes once and then cached.

    Unreadable files are listed in the summary. The cache entry is keyed by each file's path, size
    and time of change and by the options that touch pixels; it is not kept where a file failed for another reason than
    its bytes.

    Raises: UserError for a folder without images, with no readable one, or with too few different ones, or whose
        folders are the parts of a data set.
    """
    folder = config.path
    files, refused, others = find_files(folder)
    if not files and not refused:
        raise UserError(
            f"{folder} holds no images ({others} other files): give a folder with .png, .jpg, .webp, .gif, "
            ".tif, .avif or .bmp files"
        )
    _refuse_parts(folder, [file.path for file in files])
    recipe = {
        "recipe": RECIPE,
        "pillow": PIL.__version__,
        "folder": str(folder.resolve()),
        "files": [[file.path, file.size, file.modified] for file in files],
        "options": [config.size, config.width, config.channels, config.background, config.fit],
    }
    make = partial(_make, folder=folder, files=files, refused=refused, config=config)
    name = f"folder-{cache.key_of(recipe)}"
    stored, images, digests = cache.entry(name, make, _read)
    if stored["passing"]:
        cache.forget(cache.cache_folder() / name)
    labels, class_names, class_notes = classes_of(stored["paths"])
    class_notes += _bare_folders(folder, stored["paths"])
    captions, caption_notes = read_captions(folder, stored["paths"])
    data = ImageData(
        images=images,
        labels=labels,
        class_names=class_names,
        captions=captions,
        name=str(folder),
        digests=digests,
        files=tuple(map(printable, stored["paths"])),
    )
    notes = (*stored["notes"], *class_notes, *caption_notes)
    others -= sum((folder / name).is_file() for name in NAMES)
    others -= len({sidecar(folder, path) for path in stored["paths"]} - {None}) if others > 0 else 0
    if others > 0:
        notes += ("1 other file was skipped" if others == 1 else f"{others:,} other files were skipped",)
    unreadable = sorted((printable(path), reason) for path, reason in [*refused, *stored["unreadable"]])
    summary = DatasetSummary("folder", stored["modes"], stored["formats"], stored["sizes"], tuple(unreadable), notes)
    return Source(data, split_by_content(data.content_hashes(), config, data.name), summary)


def _read(kept: cache.Entry) -> tuple[dict[str, Any], Pixels, Digests]:
    return kept.json("record.json"), kept.array("images.npy"), kept.array("digests.npy")


def classes_of(paths: Sequence[str]) -> tuple[Indices | None, tuple[str, ...], tuple[str, ...]]:
    """(labels, class names, notes) from the first folder of each path; no classes below two folders."""
    tops = [path.split("/", 1)[0] if "/" in path else "" for path in paths]
    names = sorted(set(tops) - {""})
    loose = tops.count("")
    if len(names) < 2:
        return None, (), _wrapped(paths, names)
    if loose:
        them = "1 image lies" if loose == 1 else f"{loose} images lie"
        note = f"{them} beside the sub-folders, so the sub-folders are not taken as classes"
        return None, (), (note,)
    number = {name: position for position, name in enumerate(names)}
    return np.array([number[top] for top in tops], dtype=np.int64), tuple(map(printable, names)), ()


def _wrapped(paths: Sequence[str], tops: Sequence[str]) -> tuple[str, ...]:
    """A sentence on the one folder around all others, if there is one: what lies in it would be classes."""
    inner = {path.split("/")[1] for path in paths if path.count("/") > 1}
    if len(tops) != 1 or len(inner) < 2 or any(path.count("/") < 2 for path in paths):
        return ()
    return (
        f"all images lie in the folder {printable(tops[0])}, so there are no classes: "
        "give that folder to take its sub-folders as classes",
    )


def _refuse_parts(folder: Path, paths: Sequence[str]) -> None:
    """Refuse folders called train and test: they are not classes, and test images must not train.

    Raises:
        UserError: where all the first folders are called like that.
    """
    tops = sorted({path.split("/", 1)[0] for path in paths if "/" in path})
    if len(tops) > 1 and all(top.lower() in PARTS for top in tops) and all("/" in path for path in paths):
        first = next((top for top in tops if top.lower().startswith("train")), tops[0])
        raise UserError(
            f"{folder} holds {', '.join(tops)}, which are the parts of a data set, not classes: give {folder / first}, "
            "from which validation and test images are split off, and measure on the others; or rename them"
        )


def _bare_folders(folder: Path, paths: Sequence[str]) -> tuple[str, ...]:
    """A sentence on the sub-folders without a readable image, if there are any: they are not classes."""
    filled = {path.split("/", 1)[0] for path in paths if "/" in path}
    there = [entry.name for entry in folder.iterdir() if entry.is_dir() and not hidden(entry.name)]
    bare = sorted(set(there) - filled)
    if not bare or not filled:
        return ()
    shown = ", ".join(map(printable, bare[:3])) + (", …" if len(bare) > 3 else "")
    if len(bare) == 1:
        return (f"1 sub-folder holds no readable image and is not a class ({shown})",)
    return (f"{len(bare)} sub-folders hold no readable image and are not classes ({shown})",)


def _make(
    stage: Path, folder: Path, files: list[FoundFile], refused: list[tuple[str, str]], config: DataConfig
) -> None:
    """Decode into `stage`/images.npy, and write the summary to `stage`/record.json."""
    scanned = map_in_processes(partial(read_header, folder), files, 256, SERIAL_HEADERS)
    headers = list(track(scanned, "reading image headers", len(files)))
    good = [header for header in headers if not header.problem]
    unreadable = [(header.path, header.problem) for header in headers if header.problem]
    passing = any(header.passing for header in headers)
    kept: list[Header] = []
    if good:
        chosen = plan(Counter(replace(header, path="") for header in good), config)
        results = map_in_processes(partial(_decode_one, folder, chosen), good, 16, SERIAL_IMAGES)
        shape = (len(good), chosen.channels, *chosen.shape)
        path = stage / "images.npy"
        target = cache.new_array(path, np.dtype(np.uint8), shape)
        for header, result in zip(good, track(results, "decoding images", len(good)), strict=True):
            if isinstance(result, Failure):
                unreadable.append((header.path, result.reason))
                passing |= result.passing
            else:
                target[len(kept)] = result
                kept.append(header)
        target.flush()
        np.save(stage / "digests.npy", content_digests(target[: len(kept)]), allow_pickle=False)
        _shorten(path, target, len(kept))
    if not kept:
        path_, reason = sorted([*refused, *unreadable])[0]
        raise UserError(
            f"all {len(files) + len(refused)} image files in {folder} are unreadable "
            f"({printable(path_)}: {reason}): replace the files"
        )
    record = {
        "paths": [header.path for header in kept],
        "modes": counted([header.mode for header in kept]),
        "formats": counted([header.format for header in kept]),
        "sizes": counted([f"{header.width}x{header.height}" for header in kept]),
        "notes": chosen.notes,
        "unreadable": unreadable,
        "passing": passing,
    }
    cache.write_json(stage / "record.json", record)


def _shorten(path: Path, target: np.memmap[Any, Any], count: int) -> None:
    """Keep the first `count` images of the file where some of those expected did not come."""
    if count == len(target):
        return
    shape = (count, *target.shape[1:])
    part = path.with_suffix(".part")
    shorter = cache.new_array(part, target.dtype, shape)
    for row in range(count):
        shorter[row] = target[row]
    shorter.flush()
    part.replace(path)


@dataclass(frozen=True)
class Failure:
    """Why an image could not be decoded, and whether that may pass (see `may_pass`)."""

    reason: str
    passing: bool


def _decode_one(folder: Path, chosen: Plan, header: Header) -> Pixels | Failure:
    try:
        return decode(folder / header.path, chosen.shape, chosen.grey, fit=chosen.fit, background=chosen.background)
    except Exception as error:  # a decoder may raise anything on damaged bytes
        return Failure(reason_of(error), may_pass(error))
