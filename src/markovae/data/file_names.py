"""What names of files and folders say: litter, kinds that are read or not, the parts of a data set, classes."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from markovae.errors import UserError
from markovae.log import counted, printable

ENDINGS = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif"}
    | {".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm"}
)
# Images of kinds that are not read, by what they are called.
_UNREAD = {
    "HEIC": ".heic .heif .hif",
    "JPEG XL": ".jxl",
    "JPEG 2000": ".jp2 .j2k .j2c .jpf .jpx",
    "a camera's raw": ".dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .pef .srw",
    "Photoshop": ".psd .psb",
    "GIMP": ".xcf",
    "a vector drawing": ".svg .svgz .eps .ai",
    "Targa": ".tga",
    "an icon": ".ico .icns",
    "high dynamic range": ".exr .hdr",
    "DirectDraw": ".dds",
    "PCX": ".pcx",
    "medical": ".dcm .nii",
}
UNREAD = {ending: kind for kind, endings in _UNREAD.items() for ending in endings.split()}
PACKED = (".zip", ".tar.gz", ".tgz", ".tbz", ".txz", ".bz2", ".xz", ".7z", ".rar", ".zst")
TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".jsonl", ".json", ".parquet")
TEXT_ENDINGS = (".txt", ".caption", ".text", ".cap")
# What systems and archives leave behind; whatever begins with a full stop is skipped too.
LITTER = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "lost+found"})
LITTER |= {"$recycle.bin", "system volume information", ".ds_store", ".localized", ".spotlight-v100", ".trashes"}
LITTER |= {".fseventsd", ".git", ".gitattributes", ".gitignore", ".ipynb_checkpoints", ".cache"}

PARTS = ("train", "validation", "test")
_PARTS = {
    "train": "train training",
    "validation": "val valid validation dev development eval evaluation",
    "test": "test testing holdout heldout",
    "": "unlabeled unlabelled",  # in no part
}
_PART_OF = {name: part for part, names in _PARTS.items() for name in names.split()}
_DOMAIN = re.compile(r"(train|val|test)([AB])")  # of unpaired sets: trainA, trainB
_AROUND = re.compile(r"^(?:images?|imgs?)[-_ ]+|[-_ ]*(?:sets?|data|images?|imgs?|split|part|\d{4})$")
_PREFIX = re.compile(r"(.*?[^\W\d_].*?)[-_. ]*\(?\d+\)?")
CAMERAS = frozenset(
    [
        "img",
        "image",
        "images",
        "dsc",
        "dscn",
        "dscf",
        "pxl",
        "pic",
        "picture",
        "photo",
        "frame",
        "screenshot",
        "scan",
        "sample",
    ]
)
COMPANION = re.compile(
    r"(.+)[-_.](?:mask|masks|masklabel|seg|segmentation|depth|alpha|matte|edges|canny|condition|normals?)"
)
MAX_SHOWN = 3
LONGEST_NUMBER = 19  # digits of a class that counts as a number


def hidden(name: str) -> bool:
    """Whether a file or folder of that name is skipped, in folders and in tars alike."""
    return name.startswith(".") or name.lower() in LITTER


def is_litter(name: str) -> bool:
    """Whether it is what a system left behind, and not a file of somebody's that begins with a full stop."""
    return name.startswith("._") or name.lower() in LITTER


def is_packed(name: str) -> bool:
    """Whether a file is an archive that is not read, by its name."""
    return name.lower().endswith(PACKED)


def unread_kind(name: str) -> str | None:
    """Why an image file of that name is not read, or None for a kind that is, and for other files."""
    kind = UNREAD.get(PurePosixPath(name).suffix.lower())
    return None if kind is None else f"{kind} is not read: save it as PNG or JPEG"


def comparable(path: str) -> str:
    """A path as it is compared with another: "/" between names, composed characters (NFC), "./" left out."""
    return unicodedata.normalize("NFC", path.replace("\\", "/").removeprefix("./"))


def some(names: Sequence[str]) -> str:
    """The first few of some names, fit to be shown."""
    return ", ".join(map(printable, names[:MAX_SHOWN])) + (", …" if len(names) > MAX_SHOWN else "")


def by_ending(names: Sequence[str]) -> str:
    """How many there are of each ending, the most frequent first: ".mp4 9, .json 2 (a.json, …)"."""
    counts = Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in names)
    kinds = ", ".join(f"{printable(ending)} {count:,}" for ending, count in counts.most_common(6))
    return f"{kinds}{', …' if len(counts) > 6 else ''}; {some(sorted(names))}"


def part_of(name: str) -> tuple[str, str] | None:
    """(part, domain) that a folder of that name is by custom: train2017, training_set, val, trainA; or None.

    The part is one of `PARTS`, or "" for images that are in none; the domain is A or B, else "".
    """
    if domain := _DOMAIN.fullmatch(name):
        return _PART_OF[domain[1]], domain[2]
    bare = _AROUND.sub("", _AROUND.sub("", name.lower())).replace("_", "").replace("-", "")
    part = _PART_OF.get(bare)
    return None if part is None else (part, "")


def parts_of_files(names: Sequence[str]) -> list[str]:
    """The part that each file is by a word of its name, as in imagenet-val-000.tar; "" where they say no parts.

    They do where one trains and another is held out, and each is one of the two.
    """
    found = [
        next((_PART_OF[word] for word in re.split(r"[-_.\d]+", name.lower()) if _PART_OF.get(word)), "")
        for name in names
    ]
    return found if "train" in found and len(set(found)) > 1 and all(found) else [""] * len(names)


@dataclass(frozen=True)
class Layout:
    """How the folders of a data set were understood.

    Args:
        part: of each path, "" where nobody made parts, None where it is in none.
        rest: each path without the folder of its part, from which classes are read.
        notes: sentences.
    """

    part: tuple[str | None, ...]
    rest: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def given(self) -> bool:
        """Whether there are parts that people made."""
        return any(self.part)


def understand(paths: Sequence[str], split: str, name: str) -> Layout:
    """The parts that the folders of some images are, by their names.

    The folders at the top are parts where one of them trains and another does not, or where they hold nothing but a
    training part and images without labels; so are those one below, in one folder around all or in each class.

    Args:
        paths: of images, "/" between names.
        split: see `DataConfig`.
        name: of the source, for messages.
    Raises: UserError for parts none of which trains, and for a `split` that names a folder that is not there.
    """
    if ":" in split:
        return _named(paths, split, name)
    if split == "folders" or not paths:
        return Layout(("",) * len(paths), tuple(paths))
    for depth in (0, 1):
        found = _parts_at(paths, depth)
        kinds = {part for part, _ in found.values()}
        if "train" in kinds and len(kinds) > 1:
            return _with_parts(paths, depth, found, split)
        if depth == 0 and len(found) > 1 and all(path.split("/")[0] in found for path in paths) and kinds - {""}:
            if "train" not in kinds:
                raise UserError(
                    f"{name} holds {some(sorted(found))}, held-out parts of a data set, and none that trains: "
                    "add a folder called train, or set data.split=folders to take them as classes"
                )
            return _with_parts(paths, depth, found, split)
    return Layout(("",) * len(paths), tuple(paths))


def _parts_at(paths: Sequence[str], depth: int) -> dict[str, tuple[str, str]]:
    """The names of folders at a depth that are parts; below the top, only where all images lie in such ones."""
    names = {folders[depth] for path in paths if len(folders := path.split("/")[:-1]) > depth}
    found = {name: part for name in names if (part := part_of(name)) is not None}
    if depth and (len(found) < len(names) or any(path.count("/") <= depth for path in paths)):
        return {}
    return found


def _with_parts(paths: Sequence[str], depth: int, found: dict[str, tuple[str, str]], split: str) -> Layout:
    domains = len({domain for _, domain in found.values() if domain}) > 1
    one_around = depth > 0 and len({path.split("/")[0] for path in paths}) == 1
    parts: list[str | None] = []
    rest = []
    for path in paths:
        folders = path.split("/")
        part = found.get(folders[depth]) if len(folders) > depth + 1 else None
        if part is not None:
            del folders[0 if one_around else depth : depth + 1]
        rest.append("/".join([part[1], *folders] if part and domains else folders))
        parts.append((part[0] or None) if part else None)
    if split == "content":
        return Layout(("",) * len(paths), tuple(rest), (f"the parts {some(sorted(found))} are joined (data.split)",))
    count = Counter(part for part in parts if part)
    words = ", ".join(
        f"{part} from {some(sorted(n for n, (p, _) in found.items() if p == part))}" for part in PARTS if count[part]
    )
    notes = [f"the folders are the parts of a data set: {words}; set data.split=content to split by content instead"]
    left = [path for path, part in zip(paths, parts, strict=True) if part is None]
    if left:
        notes.append(f"{len(left):,} images lie in no part and are left out ({some(left)})")
    return Layout(tuple(parts), tuple(rest), tuple(notes))


def parts_named(split: str) -> dict[str, str]:
    """{folder: part} of a `data.split` such as "train:a+b, test:c". Raises: UserError for anything else."""
    folders: dict[str, str] = {}
    for text in split.split(","):
        part, colon, names = (piece.strip() for piece in text.partition(":"))
        named = [name.strip().strip("/") for name in names.split("+")]
        if not colon or part not in PARTS or not all(named) or any(name in folders for name in named):
            raise UserError(
                f"data.split={printable(split)!r} must be auto, content, folders, or folders for each part, such as "
                "'train:images+more, validation:val, test:held'"
            )
        folders |= dict.fromkeys(named, part)
    if "train" not in folders.values():
        raise UserError(f"data.split={printable(split)!r} has no training part: add train:FOLDER")
    return folders


def _named(paths: Sequence[str], split: str, name: str) -> Layout:
    folders = parts_named(split)
    parts: list[str | None] = []
    rest = []
    for path in paths:
        folder = next((one for one in folders if comparable(path).startswith(f"{comparable(one)}/")), None)
        parts.append(None if folder is None else folders[folder])
        rest.append(path if folder is None else "/".join(path.split("/")[folder.count("/") + 1 :]))
    empty = [one for one in folders if not any(comparable(path).startswith(f"{comparable(one)}/") for path in paths)]
    if empty:
        raise UserError(
            f"data.split names the folder {printable(empty[0])}, and {name} has no images there: correct it"
        )
    left = [path for path, part in zip(paths, parts, strict=True) if part is None]
    notes = [f"the parts are {split} (data.split)"]
    if left:
        notes.append(f"{len(left):,} images lie in no part and are left out ({some(left)})")
    return Layout(tuple(parts), tuple(rest), tuple(notes))


def prefix_of(path: str) -> str:
    """What a file's name says before its number: cat_0.png, cat.0.jpg, cat (1).png → cat; "" where it has none."""
    found = _PREFIX.fullmatch(PurePosixPath(path).stem)
    return "" if found is None else unicodedata.normalize("NFC", found[1])


def class_folders(paths: Sequence[str]) -> tuple[list[str] | None, tuple[str, ...]]:
    """The class of each image: its first folder, where there are at least two and each image lies in one.

    Args:
        paths: of images, without the folder of their part.
    Returns: the classes or None, and sentences.
    """
    tops = [unicodedata.normalize("NFC", path.split("/")[0]) if "/" in path else "" for path in paths]
    names = sorted(set(tops) - {""})
    loose = [path for path, top in zip(paths, tops, strict=True) if not top]
    if len(names) < 2:
        return None, _wrapped(paths, names)
    if loose:
        them = f"1 image lies beside the sub-folders ({some(loose)})"
        if len(loose) > 1:
            them = f"{len(loose):,} images lie beside the sub-folders ({some(loose)})"
        return None, (f"{them}, so the sub-folders are not taken as classes: move each image into one",)
    if all(REPEATS.fullmatch(name) for name in names):
        return tops, (f"the classes are the whole names ({some(names)}): a number before _ repeats no image here",)
    return tops, ()


REPEATS = re.compile(r"\d+_\D.*")  # of other trainers' folders, 10_dog: ten times an epoch


def class_order(names: Iterable[str]) -> list[str]:
    """Classes in order, each once: by value where all are whole numbers, so that 2 comes before 10; else by letters."""
    each = sorted(set(names))
    if all(name.isdecimal() and len(name) < LONGEST_NUMBER for name in each):
        each.sort(key=int)
    return each


def class_prefixes(paths: Sequence[str]) -> tuple[list[str] | None, tuple[str, ...]]:
    """The class of each image by its name's prefix; none where a name has none."""
    prefixes = list(map(prefix_of, paths))
    if bare := bare_names(paths):
        return None, (f"no classes: {bare}",)
    counts = Counter(prefixes)
    return prefixes, (f"classes by the names of files: {_counted(counts)} (data.classes=prefix)",)


def bare_names(paths: Sequence[str]) -> str:
    """What is said of names without a prefix, where prefixes are the classes; "" where each has one."""
    bare = [path for path in paths if not prefix_of(path)]
    if not bare:
        return ""
    return (
        f"data.classes=prefix takes the class from names such as cat_0.png, and {len(bare):,} have no such prefix "
        f"({some(bare)})"
    )


def companions_note(paths: Sequence[str]) -> tuple[str, ...]:
    """A sentence on images that are called like the mask or the depth of another one, if there are any."""
    stems = {path.removesuffix(PurePosixPath(path).suffix).lower() for path in paths}
    found = [
        path
        for path in paths
        if (own := COMPANION.fullmatch(path.removesuffix(PurePosixPath(path).suffix).lower())) and own[1] in stems
    ]
    if not found:
        return ()
    them = "1 image is" if len(found) == 1 else f"{len(found):,} images are"
    return (f"{them} called like the mask or map of another ({some(found)}) and trained on like any: move them away",)


_COUNTED = re.compile(r"[-_. ]*(?:\(\d+\)|(?<![^\W_])(?<!\d\.)\d+)$")


def text_of_name(path: str) -> str:
    """The text that a file's name is, without the number at its end; "" where it has no word, or is a camera's.

    a red house_12.png and a_red_house (3).jpg → a red house; a-red-house.png, without a space or _, too.
    """
    stem = unicodedata.normalize("NFC", PurePosixPath(path).stem)
    text = _COUNTED.sub("", stem).replace("_", " ")
    words = (text if " " in text.strip() else text.replace("-", " ")).split()
    if not any(letter.isalpha() for word in words for letter in word) or " ".join(words).lower() in CAMERAS:
        return ""
    return " ".join(words)


def name_captions(paths: Sequence[str]) -> tuple[str, ...] | None:
    """The text of each name (data.captions=names), or None where no name has any."""
    texts = tuple(map(text_of_name, paths))
    return texts if any(texts) else None


def named_note(captions: Sequence[str], beside: bool) -> tuple[str, ...]:
    """A sentence on names that are taken as captions.

    Args:
        beside: whether tables or texts beside the images have captions too.
    """
    told = [text for text in captions if text]
    if not told:
        return ()
    instead = ", and not the texts beside them" if beside else ""
    bare = len(captions) - len(told)
    rest = f"; {counted(bare, 'name')} without a word" if bare else ""
    return (f"captions are the names of files, such as {printable(told[0])!r}{instead}{rest} (data.captions=names)",)


LEAST_WORDS = 3  # of a name that reads like a caption


def names_note(paths: Sequence[str]) -> tuple[str, ...]:
    """A sentence on names that read like captions, where the images have none and no option was set."""
    told = [path for path in paths if len(text_of_name(path).split()) >= LEAST_WORDS]
    different = {text_of_name(path) for path in told}
    if 2 * len(told) < len(paths) or len(different) < 2:
        return ()
    return (f"the names read like captions ({some(told)}): set data.captions=names to take them as such",)


def prefixes_note(paths: Sequence[str]) -> tuple[str, ...]:
    """A sentence on names that may say the classes, where nothing else does and no option was set."""
    counts = Counter(map(prefix_of, paths))
    if not 2 <= len(counts) <= 1000 or "" in counts or min(counts.values()) < 2:
        return ()
    if any(name.lower() in CAMERAS for name in counts):
        return ()
    return (f"the names begin with {_counted(counts)}: set data.classes=prefix to take these as classes",)


def _counted(counts: Counter[str]) -> str:
    shown = [f"{printable(name)} ({count:,})" for name, count in counts.most_common(4)]
    return ", ".join(shown) + (f", and {len(counts) - 4:,} more" if len(counts) > 4 else "")


def _wrapped(paths: Sequence[str], tops: Sequence[str]) -> tuple[str, ...]:
    """A sentence on the one folder around all others, if there is one: what lies in it would be classes."""
    inner = {path.split("/")[1] for path in paths if path.count("/") > 1}
    if len(tops) != 1 or len(inner) < 2 or any(path.count("/") < 2 for path in paths):
        return ()
    return (
        f"all images lie in the folder {printable(tops[0])}, so there are no classes: "
        "give that folder to take its sub-folders as classes",
    )
