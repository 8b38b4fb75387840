"""The section [data]: where the images come from, and how they are brought to one shape."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markovae.data.file_names import parts_named
from markovae.errors import UserError
from markovae.strict_json import shown
from markovae.tables import one_of

# Every kind of source, and how help and messages name it; `loading` says which source is which and who reads it.
KINDS = {
    "faces": "faces",
    "digits": "digits",
    "cifar10": "cifar10",
    "folder": "an image folder",
    "array": "an array file (.npy, .npz or idx)",
    "cifar": "CIFAR's binary files",
    "parquet": "parquet files of images",
    "shards": "shards",
}
BUILT_IN = ("faces", "digits", "cifar10")  # sources that a name alone says
ANY_SOURCE = f"{', '.join([*KINDS.values()][:-1])} or {[*KINDS.values()][-1]}"
CHANNELS = ("auto", "grey", "rgb")
FITS = ("crop", "pad", "resize")
LAYOUTS = ("auto", "nhw", "nhwc", "nchw")
CLASSES = ("auto", "prefix", "none")
CAPTIONS = ("auto", "names")
SPLITS = ("auto", "content", "folders")
MAX_SIDE = 4096


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from and how they are brought to one shape.

    Args:
        source: "faces", "digits", "cifar10", an image folder, an array file (.npy, .npz, idx, idx.gz) or a folder of
            MNIST's idx files, CIFAR's binary files (a folder or .tar.gz), parquet files of images, or shards (a folder
            of them, one .tar, a pattern with {000..099}, or a URL).
        size: height in pixels; 0 = the source's own: faces 32 (at most 256), digits 8, arrays as they are; folders keep
            a common size of at most 64 pixels a side and are otherwise brought to 32 (inspect says which).
        width: width in pixels; 0 = the same as `size` (with size = 0: the source's own).
        channels: "auto" (grey stays one channel, anything in color makes the set rgb), "grey" or "rgb".
        enlarge: take images that are smaller than `size` all the same; enlarging adds no detail.
        background: the color under transparent pixels and around padded images, by name or "#rrggbb".
        fit: how another shape becomes this one: "crop" (scale to cover, cut the centre), "pad" (scale to
            fit inside, fill with `background`) or "resize" (stretch).
        layout: axes of an array file: "auto", "nhw", "nhwc" or "nchw".
        classes: classes of the images of a folder: "auto" (its sub-folders), "prefix" (what a file's name says before
            its number, such as cat_0.png) or "none".
        captions: captions of the images: "auto" (tables and texts beside them) or "names" (the names of a folder's
            files without the number at their end, such as "a red house_12.png").
        split: "auto" (the parts that a source brings: folders called train, val, test and the like, official test
            files; else by content), "content" (by content, whatever parts there are), "folders" (folders of such
            names are classes) or folders for each part, such as "train:a+b, validation:c, test:d".
        flip: mirror training images left-right at random; off by default, since a mirrored digit is no digit.
        random_crop: cut the training images of a folder, of shards or parquet files at random places along their longer
            side, at the scale of fit=crop. Only training looks at it; held-out images are cut in the centre.
        split_seed: seed that chooses which images are held out, where the source brings no split of its own.
        validation_fraction: share of the different images that is held out for validation, in (0, 1).
        test_fraction: share of the different images that is held out for the test, in (0, 1).
        bad_fraction: share of the files that may be unreadable; above it (and above ten files) training is refused.
        hold_out: combinations of attributes that no training face shows, each as "hair=curly, glasses=round".

    Raises: UserError with one sentence for a value out of its range.
    """

    source: str = "faces"
    size: int = 0
    width: int = 0
    channels: str = "auto"
    enlarge: bool = False
    background: str = "white"
    fit: str = "crop"
    layout: str = "auto"
    classes: str = "auto"
    captions: str = "auto"
    split: str = "auto"
    flip: bool = False
    random_crop: bool = False
    split_seed: int = 0
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    bad_fraction: float = 0.01
    hold_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise UserError(f"data.source is empty: give {ANY_SOURCE}")
        one_of("data.channels", self.channels, CHANNELS)
        one_of("data.fit", self.fit, FITS)
        one_of("data.layout", self.layout, LAYOUTS)
        one_of("data.classes", self.classes, CLASSES)
        one_of("data.captions", self.captions, CAPTIONS)
        if ":" in self.split:
            parts_named(self.split)
        else:
            one_of("data.split", self.split, SPLITS)
        for name, value in (("data.size", self.size), ("data.width", self.width)):
            if not 0 <= value <= MAX_SIDE:
                raise UserError(f"{name}={value} must lie in 0…{MAX_SIDE} pixels (0 = the source's own)")
        if self.width and not self.size:
            raise UserError(f"data.width={self.width} needs data.size, the height, beside it")
        if self.random_crop and self.fit != "crop":
            raise UserError(f"data.random_crop goes with data.fit=crop, and data.fit={self.fit} cuts nothing: keep one")
        if not 0 <= self.split_seed < 2**63:
            raise UserError(f"data.split_seed={self.split_seed} must lie in 0…2^63-1")
        self._check_fractions()
        if not 0 <= self.bad_fraction <= 1:
            raise UserError(f"data.bad_fraction={self.bad_fraction} must lie in 0…1: it is a share of the files")
        background_rgb(self.background)
        if self.hold_out:
            self._check_held_out()

    def _check_held_out(self) -> None:
        if self.source != "faces":
            raise UserError(
                f"data.hold_out names attributes of the faces, and data.source={shown(self.source)} has none"
            )
        from markovae.data.faces import combinations

        combinations(self.hold_out)

    def _check_fractions(self) -> None:
        shares = (("validation", self.validation_fraction), ("test", self.test_fraction))
        for name, share in shares:
            if not 0 < share < 1:
                raise UserError(f"data.{name}_fraction={share} must lie between 0 and 1, both excluded")
        held_out = self.validation_fraction + self.test_fraction
        if not held_out < 1:
            raise UserError(
                f"data.validation_fraction + data.test_fraction = {held_out:g} leave nothing to train on: "
                "keep their sum below 1"
            )

    @property
    def path(self) -> Path:
        """The source as a path of this machine; ~ alone or with a name is a home folder.

        Raises: UserError for a user that is not known here.
        """
        try:
            return Path(self.source).expanduser()
        except RuntimeError:
            raise UserError(f"unknown user in path {self.source}: give the whole path") from None

    @property
    def shape(self) -> tuple[int, int] | None:
        """(height, width) asked for, or None where the source decides."""
        return (self.size, self.width or self.size) if self.size else None

    def for_images_like(self, shape: Sequence[int], source: str) -> DataConfig:
        """Other data, brought to this shape, (C, H, W), as these settings bring their own."""
        channels, height, width = shape
        # What is said of the former source alone: attributes of the faces, the axes of its array, its folders.
        hold_out = self.hold_out if source == "faces" else ()
        named = source.endswith(".tar") or Path(source).is_dir()
        classes = self.classes if named or self.classes != "prefix" else "auto"
        captions = self.captions if named or self.captions != "names" else "auto"
        config = replace(
            self,
            source=source,
            size=height,
            enlarge=True,
            layout="auto",
            hold_out=hold_out,
            split="auto",
            classes=classes,
            captions=captions,
            random_crop=False,
        )
        if source in ("faces", "digits"):
            return config
        grey_or_rgb = "grey" if channels == 1 else "rgb"
        return replace(config, width=0 if width == height else width, channels=grey_or_rgb)


def as_config(source: DataConfig | str | Path) -> DataConfig:
    """The section [data] of a source, or that of its name. Raises: UserError for what names no images on disk."""
    if isinstance(source, DataConfig):
        return source
    if not isinstance(source, str | Path):
        raise UserError(f"a source of type {type(source).__name__} names no images on disk: give {ANY_SOURCE}")
    return DataConfig(str(source))


def background_rgb(color: str) -> tuple[int, int, int]:
    """(red, green, blue), 0…255, of a color name or "#rrggbb". Raises: UserError for anything else."""
    from PIL import ImageColor

    try:
        rgb = ImageColor.getrgb(color)
    except ValueError:
        near = difflib.get_close_matches(color.lower(), ImageColor.colormap, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(
            f"data.background={shown(color)} is not a color: give a name such as white, or #rrggbb{hint}"
        ) from None
    if len(rgb) != 3:
        raise UserError(f"data.background={shown(color)} is itself transparent: give an opaque color")
    return rgb
