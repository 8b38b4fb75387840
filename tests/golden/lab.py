"""The doors through which golden values are taken: the command line and the Python names that stay."""

import contextlib
import io
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

import markovae as mv
from markovae.cli.entry import main

from .record import packed, packed_weights

# The one place to change where a word of the command line, a setting ("train.law" or "train.law=middle") or a key of a
# JSON record is renamed: its name when the values were taken -> its name now.
NOW: dict[str, str] = {
    "train.law": "train.level_sampling",
    "train.law_logsnr": "train.level_logsnr",
    "train.law_density": "train.level_density",
    "train.law_centre": "train.level_center",
    "train.law_width": "train.level_width",
    "train.rest_lr": "train.adamw_lr",
    "train.optimiser": "train.optimizer",
}

TINY = (
    *("network.width=8", "network.multipliers=[1]", "network.blocks=1", "network.attention=[]"),
    *("network.embedding=16", "network.patch=1", "schedule.num_levels=12", "train.warmup_steps=2"),
    *("train.precision=float32", "train.eval_images=4", "train.eval_draws=2", "train.evaluations=2"),
    *("train.grids=1", "train.batch=8", "train.fit_images=16", "network.spectral=0"),
)
DDPM = (
    *("network.kind=ddpm", "network.ddpm.widths=[8,8]", "network.ddpm.groups=4", "network.ddpm.blocks=1"),
    *("network.ddpm.attention=[1]", "schedule.kind=linear", "schedule.num_levels=24", "target.name=noise"),
)
DIT = ("network.kind=dit", "network.dit.width=16", "network.dit.depth=2", "network.dit.head_dim=8")
DIT = (*DIT, "network.dit.embedding=16", "network.dit.expansion=2")
# What of TINY belongs to the U-Net alone.
UNET_ALONE = ("network.width", "network.multipliers", "network.blocks", "network.attention", "network.embedding")
UNET_ALONE = (*UNET_ALONE, "network.patch", "network.spectral")
BOUND = ("train.objective=bound", "train.law=importance", "target.reverse=isotropic")
# The runs that samples, edits and measurements are of: data, and settings besides TINY.
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "digits": ("digits", ()),
    "bound": ("digits", BOUND),
    "weak": ("digits", ("train.steps=2",)),
    "colour": ("colour.npy", ()),
    "ddpm": ("colour.npy", DDPM),
    "texts": ("texts", ("condition.kind=text",)),
}
STEPS = 8


def now(word: str) -> str:
    """A word of the command line, or a setting, as it is spelt today."""
    key, equals, value = word.partition("=")
    return NOW.get(word, NOW.get(key, key) + equals + value)


def settings(*changed: str) -> tuple[str, ...]:
    """TINY with changes; of another network than the U-Net without what is the U-Net's."""
    other = any(text in ("network.kind=ddpm", "network.kind=dit") for text in changed)
    names = {text.partition("=")[0] for text in changed}
    kept = [text for text in TINY if not (other and text.partition("=")[0] in UNET_ALONE)]
    if names & {"schedule.sigma", "schedule.betas"}:
        kept.remove("schedule.num_levels=12")
    return tuple(map(now, (*kept, *changed)))


class Lab:
    """A temporary folder with small data and runs, each made when first asked for, and its own cache."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._runs: dict[str, Path] = {}

    def __enter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="golden-")))
        before, threads = os.environ.get("MARKOVAE_CACHE"), torch.get_num_threads()
        os.environ["MARKOVAE_CACHE"] = str(self.folder / "cache")
        torch.set_num_threads(1)
        self._stack.callback(torch.set_num_threads, threads)
        self._stack.callback(_set_environment, "MARKOVAE_CACHE", before)
        make_data(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # -- the command line ---------------------------------------------------------------------------------------

    def cli(self, *words: object) -> str:
        """What a command that must succeed prints."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([now(str(word)) for word in words])
        assert code == 0, f"{' '.join(map(str, words))}: exit code {code}\n{err.getvalue()}"
        return out.getvalue()

    def json(self, *words: object) -> Any:
        """The object that a command prints with --json, by the keys of the day the values were taken."""
        return _renamed(json.loads(self.cli(*words, "--json")), {new: old for old, new in NOW.items()})

    def path(self, name: str) -> Path:
        """A file or folder of the data, or a new name in the folder."""
        return self.folder / name

    def new(self, stem: str) -> Path:
        """A name that is not taken yet."""
        number = 0
        while (self.folder / f"{stem}-{number}").exists():
            number += 1
        return self.folder / f"{stem}-{number}"

    def train(self, out: Path, data: str, *changed: str, words: tuple[str, ...] = ("--no-report",)) -> str:
        """`markovae train` of STEPS steps, or of train.steps."""
        source = data if data in ("digits", "faces") else self.folder / data
        each = [word for text in settings(f"train.steps={STEPS}", *changed) for word in ("--set", text)]
        return self.cli("train", source, "--out", out, *each, *words)

    def run(self, name: str) -> Path:
        """The run called so, trained when first asked for."""
        if name not in self._runs:
            data, changed = RUNS[name]
            self.train(self.folder / f"run-{name}", data, *changed)
            self._runs[name] = self.folder / f"run-{name}"
        return self._runs[name]

    # -- the Python names ---------------------------------------------------------------------------------------

    def config(self, *changed: str) -> Any:
        """mv.Config with TINY and changes."""
        return mv.Config().with_settings(list(settings(*changed)))

    def splits(self, source: str, *changed: str) -> Any:
        """mv.load_data: train, validation and test, each with images, labels and captions."""
        at = source if source in ("digits", "faces") else str(self.folder / source)
        return mv.load_data(self.config(f"data.source={at}", *changed).data)

    def model(self, name: str) -> Any:
        """mv.load of a run."""
        return mv.load(self.run(name))

    def trained(self, source: str, *changed: str, steps: int = 4) -> dict[str, Any]:
        """Each step's figures of mv.fit, the averaged weights, and the bound on three images."""
        config, data = self.config(f"train.steps={steps}", *changed), self.splits(source, *changed)
        model = mv.create(config, data.train)
        initial = packed_weights(list(model.parameters()))
        rows = [
            {"loss": step.loss, "nats": step.nats, "grad_norm": step.grad_norm, "lr": step.lr}
            for step in mv.fit(model, data, config.train, flip=config.data.flip)
        ]
        return {
            "initial": initial,
            "steps": packed(rows),
            "averaged": packed_weights(list(model.parameters())),
            "bound": bound_of(model, data.test.images[:3]),
        }


def bound_of(model: Any, images: Any) -> Any:
    """model.bound, every level of every image."""
    bound = model.bound(images)
    return packed({"prior": bound.prior, "levels": bound.levels, "reconstruction": bound.reconstruction})


def pictures(folder: Path) -> Any:
    """The PNGs of a folder by name, their pixels alone."""
    found = {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}
    each = [array for name, array in found.items() if name != "grid.png"]
    return packed({"images": np.stack(each), "grid": found["grid.png"]})


def make_data(folder: Path) -> None:
    """Small data of every kind that the data layer reads, from whole numbers alone."""
    rng = np.random.default_rng(0)
    steps = rng.integers(-40, 41, (60, 3, 3, 3)).repeat(3, 1).repeat(3, 2)[:, :8, :8]
    colour = (128 + steps + rng.integers(-9, 10, (60, 8, 8, 3))).astype(np.uint8)
    np.save(folder / "colour.npy", colour)
    labels = np.arange(60) % 3
    grey = colour[..., 0] // 2 + labels[:, None, None].astype(np.uint8) * 40
    np.savez(folder / "grey.npz", images=grey, labels=labels)
    np.save(folder / "other.npy", colour[::-1, ::-1].copy())
    _write_idx(folder / "idx", grey, labels.astype(np.uint8))
    _write_folder(folder / "folder", rng)
    texts, adjectives, nouns = folder / "texts", ("red", "pale blue", "dark"), ("square", "field of grass")
    texts.mkdir()
    rows = ["file_name,text"]
    for number, picture in enumerate(colour[:48]):
        Image.fromarray(picture).save(texts / f"{number:02d}.png")
        rows.append(f"{number:02d}.png,a {adjectives[number % 3]} {nouns[number % 2]}")
    (texts / "captions.csv").write_text("\n".join(rows[:-2]) + "\n")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 3:7] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    for number in (0, 1):
        Image.fromarray(colour[number]).save(folder / f"picture-{number}.png")


def _write_idx(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir()
    for stem, rows in (("train", slice(0, 45)), ("t10k", slice(45, 60))):
        part = images[rows]
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, *part.shape) + part.tobytes())
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2i", 0x801, len(part)) + labels[rows].tobytes()
        )


def _write_folder(folder: Path, rng: np.random.Generator) -> None:
    """Two classes; several sizes and modes, a duplicate and a file that is no image."""
    for name, count in (("cats", 14), ("dogs", 16)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            height, width = 12 + number % 3, 12 + number % 4
            pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
            mode = ("RGB", "L", "RGBA", "P")[number % 4]
            Image.fromarray(pixels).convert(mode).save(folder / name / f"{number:02d}.png")
    (folder / "dogs" / "again.png").write_bytes((folder / "dogs" / "00.png").read_bytes())
    (folder / "dogs" / "broken.png").write_bytes(b"no image")


def _set_environment(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(item, names) for key, item in value.items()}
    return [_renamed(item, names) for item in value] if isinstance(value, list) else value
