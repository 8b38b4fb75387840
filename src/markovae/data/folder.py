"""A folder of images; its sub-folders are classes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL

from markovae.columns import Cells
from markovae.data import cache
from markovae.data.captions import DATASET, is_text_file, read_written
from markovae.data.data_config import DataConfig
from markovae.data.file_names import (
    TABLES,
    by_ending,
    class_folders,
    class_order,
    class_prefixes,
    companions_note,
    hidden,
    is_packed,
    prefixes_note,
    some,
    understand,
)
from markovae.data.image_files import (
    STRIP,
    FoundFile,
    FoundFiles,
    Header,
    Plan,
    decode,
    find_files,
    is_transient,
    plan,
    read_header,
)
from markovae.data.images import Digests, ImageData, Indices, Pixels, content_digests
from markovae.data.json_tables import without_captions
from markovae.data.known_tables import split_column
from markovae.data.metadata import is_table
from markovae.data.source import DatasetSummary, Source, tally
from markovae.data.split import chosen_split, copies_note
from markovae.data.strips import StripFile, Strips, middle, read_strips
from markovae.data.workers import map_in_processes
from markovae.errors import UserError, reason_of
from markovae.log import printable, track
from markovae.system.regular import glance

RECIPE = "folder-8"
GLANCES = 64  # files, evenly spaced, of which some bytes are part of the key
# Below these, the work takes less time than starting workers.
SERIAL_HEADERS = 5_000
SERIAL_IMAGES = 300


def read_folder(config: DataConfig) -> Source:
    """The images of a folder at one shape, decoded in worker processes once and then cached.

    Unreadable files are listed in the summary, and those of kinds that are not read with them; each other file is
    accounted for in a note. The cache entry is keyed by each file's path, size, times of change and inode, by some
    bytes of some of them, and by the options that touch pixels; it is not kept where a file failed for another reason
    than its bytes.

    Raises: UserError for a folder without images, with no readable one, or with too few different ones, or whose
        folders are the held-out parts of a data set.
    """
    folder = config.path
    found = find_files(folder)
    if not found.files and not found.refused:
        raise UserError(_none(folder, found.others))
    layout = understand([file.path for file in found.files], config.split, str(folder))
    files = [file for file, part in zip(found.files, layout.part, strict=True) if part is not None]
    recipe = {
        "recipe": RECIPE,
        "pillow": PIL.__version__,
        "folder": str(folder.resolve()),
        "files": [[file.path, *file.mark] for file in files],
        "glances": [glance(folder / file.path) for file in files[:: max(1, -(-len(files) // GLANCES))]],
        "options": [config.size, config.width, config.channels, config.background, config.fit, config.random_crop],
    }
    make = partial(_make, folder=folder, files=files, refused=found.refused, config=config)
    name = f"folder-{cache.key_of(recipe)}"
    stored, images, digests, strips = cache.entry(name, make, _read)
    if stored["transient"]:
        cache.forget(cache.cache_folder() / name)
    paths = stored["paths"]
    place = {file.path: number for number, file in enumerate(found.files)}
    part = [layout.part[place[path]] or "" for path in paths]
    labels, class_names, class_notes = classes_of([layout.rest[place[path]] for path in paths], config.classes)
    if not layout.given:
        class_notes += _bare_folders(folder, paths)
    class_notes += companions_note(paths)
    written = read_written(folder, paths, found.others)
    if config.classes == "auto" and (labels is None or DATASET in written.records):
        labels, class_names, column_notes = classes_of_column(written.columns)
        class_notes = (*class_notes, *column_notes)
    columns, split_notes = written.columns, tuple[str, ...]()
    if config.split == "auto" and not layout.given:
        part, columns, split_notes = split_column(columns, part)
    data = ImageData(
        images=images,
        labels=labels,
        class_names=class_names,
        captions=written.captions,
        name=str(folder),
        digests=digests,
        files=tuple(map(printable, stored["paths"])),
        columns=columns,
        strips=strips,
    )
    split = chosen_split(data, part, config)
    passed = _passed_over(found, written.records)
    notes = (*layout.notes, *stored["notes"], *class_notes, *written.notes, *split_notes, *copies_note(split), *passed)
    unreadable = sorted([*found.refused, *map(tuple, stored["unreadable"])])
    summary = DatasetSummary(
        kind="folder",
        modes=stored["modes"],
        formats=stored["formats"],
        sizes=stored["sizes"],
        unreadable=tuple((printable(path), reason) for path, reason in unreadable),
        notes=notes,
    )
    return Source(data, split, summary)


def _read(kept: cache.Entry) -> tuple[dict[str, Any], Pixels, Digests, Strips | None]:
    record, images = kept.json("record.json"), kept.array("images.npy")
    strips = read_strips(kept, images.shape[1:]) if record["strips"] else None
    return record, images, kept.array("digests.npy"), strips


def classes_of(paths: Sequence[str], how: str = "auto") -> tuple[Indices | None, tuple[str, ...], tuple[str, ...]]:
    """(labels, class names, notes) by the first folder of each path, or by the prefix of each name.

    Args:
        paths: of images, without the folder of their part.
        how: see `DataConfig.classes`.
    Raises: UserError for a name without a prefix, where prefixes are the classes.
    """
    if how == "none":
        return None, (), ()
    if how == "prefix":
        found, notes = class_prefixes(paths)
    else:
        found, notes = class_folders(paths)
        if found is None and not notes:
            notes = prefixes_note(paths)
    if found is None:
        return None, (), notes
    names = class_order(found)
    number = {name: position for position, name in enumerate(names)}
    return np.array([number[name] for name in found], dtype=np.int64), tuple(map(printable, names)), notes


CLASS_COLUMNS = ("label", "class", "class_name", "label_name", "category")


def classes_of_column(columns: Cells) -> tuple[Indices | None, tuple[str, ...], tuple[str, ...]]:
    """(labels, class names, notes) by the column of a table that is called label, or the like; None without one."""
    name = next((name for name in CLASS_COLUMNS if name in columns), None)
    if name is None:
        return None, (), ()
    cells = columns[name]
    missing, several = sum(cell is None for cell in cells), sum(isinstance(cell, tuple) for cell in cells)
    values = class_order(cell for cell in cells if isinstance(cell, str))
    if missing or several or 2 * len(values) > len(cells):
        how = f"{missing:,} images have none" if missing else f"{several:,} images have several" if several else ""
        how = how or f"it has {len(values):,} different values"
        return None, (), (f"the column {name} is not read as classes: {how} (condition.columns=[{name}] may use it)",)
    number = {value: place for place, value in enumerate(values)}
    labels = np.array([number[str(cell)] for cell in cells], dtype=np.int64)
    return labels, tuple(map(printable, values)), (f"classes from the column {name}",)


def _none(folder: Path, others: Sequence[str]) -> str:
    """That a folder holds no images, what it holds, and what to do."""
    if packed := list(filter(is_packed, others)):
        return f"{folder} holds no images, and archives ({some(packed)}): unpack them there, and remove them"
    kinds = f", {by_ending(others)}" if others else ""
    arrays = ", or one array of all: .npy, (n, height, width, channels), or .npz with images and labels"
    return (
        f"{folder} holds no images ({len(others)} other files){kinds}: give a folder with .png, .jpg, .webp, .gif, "
        f".tif, .avif or .bmp files{arrays if any(name.endswith('.npy') for name in others) else ''}"
    )


def _passed_over(found: FoundFiles, records: frozenset[str]) -> tuple[str, ...]:
    """Sentences on the files that are neither images nor texts of images."""
    notes = []
    read = {*records, *(name for name in found.others if is_table(name) or is_text_file(name))}
    rest = [name for name in found.others if name not in read]
    if rest:
        them = "1 other file is" if len(rest) == 1 else f"{len(rest):,} other files are"
        notes.append(f"{them} not read ({by_ending(rest)})")
    objects = list(filter(without_captions, rest))
    tables = [name for name in rest if _may_be_table(name) and name not in objects]
    if objects:
        notes.append(f"objects, masks and poses of COCO are not used, only captions ({some(objects)})")
    if packed := list(filter(is_packed, rest)):
        notes.append(f"nothing is read from archives ({some(packed)}): unpack them to use what they hold")
    if tables:
        notes.append(
            "a table is read where it is called metadata.csv or metadata.jsonl, with a column file_name, or is a .json "
            f"that names the images ({some(tables)} {'is' if len(tables) == 1 else 'are'} not)"
        )
    if found.hidden:
        notes.append(f"{len(found.hidden):,} hidden or special files or folders skipped ({some(found.hidden)})")
    return tuple(notes)


def _may_be_table(name: str) -> bool:
    """Whether somebody may have meant a file as a table of images, as with metadata.json1."""
    return name.lower().endswith(TABLES) or PurePosixPath(name).stem.lower() in ("metadata", "captions")


def _bare_folders(folder: Path, paths: Sequence[str]) -> tuple[str, ...]:
    """A sentence on the sub-folders without a readable image, if there are any: they are not classes."""
    filled = {path.split("/", 1)[0] for path in paths if "/" in path}
    there = [entry.name for entry in folder.iterdir() if entry.is_dir() and not hidden(entry.name)]
    bare = sorted(set(there) - filled)
    if not bare or not filled:
        return ()
    if len(bare) == 1:
        return (f"1 sub-folder holds no readable image and is not a class ({some(bare)})",)
    return (f"{len(bare)} sub-folders hold no readable image and are not classes ({some(bare)})",)


def _make(
    stage: Path, folder: Path, files: list[FoundFile], refused: list[tuple[str, str]], config: DataConfig
) -> None:
    """Decode into `stage`/images.npy, and write the summary to `stage`/record.json."""
    scanned = map_in_processes(partial(read_header, folder), files, 256, SERIAL_HEADERS)
    headers = list(track(scanned, "reading image headers", len(files)))
    good = [header for header in headers if not header.problem]
    unreadable = [(header.path, header.problem) for header in headers if header.problem]
    transient = any(header.transient for header in headers)
    kept: list[Header] = []
    notes: list[str] = []
    if good:
        chosen = plan(Counter(replace(header, path="") for header in good), config)
        fitted = replace(chosen, fit=STRIP) if config.random_crop else chosen
        results = map_in_processes(partial(_decode_one, folder, fitted), good, 16, SERIAL_IMAGES)
        shape = (len(good), chosen.channels, *chosen.shape)
        path = stage / "images.npy"
        target = cache.new_array(path, np.dtype(np.uint8), shape)
        strips = StripFile(stage, good, chosen) if config.random_crop else None
        for header, result in zip(good, track(results, "decoding images", len(good)), strict=True):
            if isinstance(result, Failure):
                unreadable.append((header.path, result.reason))
                transient |= result.transient
            else:
                target[len(kept)] = middle(result, chosen.shape)
                kept.append(header)
                if strips is not None:
                    strips.add(result)
        target.flush()
        if strips is not None:
            notes.append(strips.finish())
        np.save(stage / "digests.npy", content_digests(target[: len(kept)]), allow_pickle=False)
        count = len(target)
        del target  # some systems replace no file that is mapped
        if len(kept) < count:
            _shorten(path, len(kept))
    if not kept:
        path_, reason = sorted([*refused, *unreadable])[0]
        raise UserError(
            f"all {len(files) + len(refused)} image files in {folder} are unreadable "
            f"({printable(path_)}: {reason}): replace the files"
        )
    record = {
        "paths": [header.path for header in kept],
        "modes": tally([header.mode for header in kept]),
        "formats": tally([header.format for header in kept]),
        "sizes": tally([f"{header.width}x{header.height}" for header in kept]),
        "notes": [*chosen.notes, *notes],
        "unreadable": unreadable,
        "transient": transient,
        "strips": config.random_crop,
    }
    cache.write_json(stage / "record.json", record)


def _shorten(path: Path, count: int) -> None:
    """Keep the first `count` images of a file: some of those expected did not come."""
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    part = path.with_suffix(".part")
    shorter = cache.new_array(part, images.dtype, (count, *images.shape[1:]))
    for row in range(count):
        shorter[row] = images[row]
    shorter.flush()
    del images, shorter
    part.replace(path)


@dataclass(frozen=True)
class Failure:
    """Why an image could not be decoded, and whether that may pass (see `is_transient`)."""

    reason: str
    transient: bool


def _decode_one(folder: Path, chosen: Plan, header: Header) -> Pixels | Failure:
    try:
        return decode(folder / header.path, chosen.shape, chosen.grey, fit=chosen.fit, background=chosen.background)
    except Exception as error:  # a decoder may raise anything on damaged bytes
        return Failure(reason_of(error), is_transient(error))
