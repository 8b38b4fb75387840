"""A folder in diffusers' layout, read as something that a stranger wrote."""

from __future__ import annotations

import os
import re
import stat
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from markovae.build import outline_network
from markovae.errors import UserError
from markovae.interop.diffusers_scheduler import Rules, rules_from
from markovae.interop.diffusers_unet import UNetShape, config_from
from markovae.interop.weight_file import open_weights
from markovae.interop.weights import checked_shapes, to_ours
from markovae.log import log
from markovae.networks.ddpm import DDPMUNet
from markovae.strict_json import parse_object, shown

MAX_JSON = 1 << 20
AUTOENCODERS = ("vae", "vqvae", "movq")
CLASSES = "markovae.json"  # beside what diffusers reads: names of the classes, and what "no class" is, if anything
MAX_NAME = 1000
WEIGHTS = "diffusion_pytorch_model"
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})")


@dataclass(frozen=True)
class Folder:
    """What a folder of diffusers holds.

    Args:
        shape: of the network and its images.
        rules: of its scheduler.
        weights: its files.
        unet, scheduler: its two configurations as they stand.
        classes: their names.
        null_learnt: whether "no class" is one more of them that was trained.
    """

    shape: UNetShape
    rules: Rules
    weights: tuple[Path, ...]
    unet: dict[str, Any]
    scheduler: dict[str, Any]
    classes: tuple[str, ...]
    null_learnt: bool


def read_folder(path: str | Path) -> Folder:
    """The configurations of a pipeline's folder: unet/ and scheduler/ below it, or both files in it; or of its unet's
    own folder, such as unet_ema/, with scheduler/ beside that.

    Nothing that a file says is used as a name of another file. Weights are only looked for, not read.

    Raises:
        UserError: for a folder that is none of diffusers', a part that is missing, pickled weights, or anything that a
            configuration says and this library cannot express.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name one that holds a diffusers pipeline")
    _refuse_latent(folder)
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    if not (unet / "config.json").is_file():
        raise UserError(f"{folder} holds no diffusers model: there is neither unet/config.json nor config.json in it")
    if unet != folder and (folder / "unet_ema").is_dir():
        log(
            f"{folder} holds an average of its weights as well, unet_ema: import {folder / 'unet_ema'} to take that one"
        )
    place = next((p for p in (folder / "scheduler", folder.resolve().parent / "scheduler") if p.is_dir()), folder)
    place = folder if (folder / "scheduler_config.json").is_file() else place
    if not (place / "scheduler_config.json").is_file():
        raise UserError(
            f"{folder} holds no scheduler (scheduler/scheduler_config.json): without it nothing says which noise the "
            "network was trained on"
        )
    unet_table, scheduler_table = _read_json(unet / "config.json"), _read_json(place / "scheduler_config.json")
    shape, rules = config_from(unet_table), rules_from(scheduler_table)
    wanted = (2 if rules.target.reverse == "learned" else 1) * shape.data.in_channels
    if shape.data.out_channels != wanted:
        raise UserError(
            f"the unet has {shape.data.in_channels} channels in and {shape.data.out_channels} out, and the scheduler "
            f"asks for {wanted} out: the two files do not belong together"
        )
    shape, classes, null_learnt = _classes(folder, shape)
    return Folder(shape, rules, _weights(unet), unet_table, scheduler_table, classes, null_learnt)


def read_weights(folder: Folder, network: DDPMUNet) -> dict[str, Tensor]:
    """The weights of a folder as those of our network, by name, float32; shapes are compared before numbers are read.

    Args:
        network: of the folder's shape, on any device, the meta device too.
    Raises:
        UserError: for a file that is no safetensors file, or tensors that are not the network's.
    """
    with closing(open_weights(*folder.weights)) as file:
        checked_shapes(network, file.shapes)
        return to_ours(network, {name: file.read(name) for name in file.shapes})


def _classes(folder: Path, shape: UNetShape) -> tuple[UNetShape, tuple[str, ...], bool]:
    """The shape with the "no class" that an export of ours tells of, the names (numbers where nothing names them), and
    whether "no class" was learnt.

    Raises:
        UserError: for names that are not those of the network's labels.
    """
    path, count = folder / CLASSES, shape.data.num_classes
    if not count or not path.is_file():
        return shape, tuple(str(k) for k in range(count)), False
    table = _read_json(path)
    names, null, learnt = table.get("class_names"), table.get("null_class"), table.get("null_learnt")
    fine = isinstance(names, list) and all(type(name) is str and 0 < len(name) <= MAX_NAME for name in names)
    if (
        not (fine and names and isinstance(null, bool) and isinstance(learnt, bool))
        or len(set(names)) != len(names)
        or len(names) + null != count
    ):
        raise UserError(f"{path} does not name the {count} labels of the unet: correct it, or take it away")
    return (
        UNetShape(replace(shape.options, null_class=null), replace(shape.data, num_classes=len(names))),
        tuple(names),
        null and learnt,
    )


def _refuse_latent(folder: Path) -> None:
    """A network beside another part works on what that makes of images, not on their pixels.

    Raises:
        UserError: naming the part.
    """
    index = folder / "model_index.json"
    named = [
        name
        for name, value in (_read_json(index) if index.is_file() else {}).items()
        if not name.startswith("_") and name not in ("unet", "scheduler") and isinstance(value, list) and any(value)
    ]
    others = [*named, *(name for name in AUTOENCODERS if (folder / name).is_dir())]
    if others:
        raise UserError(
            f"{folder} is a pipeline with a part {shown(others[0])}: its unet does not work on pixels alone, which is "
            "what can be sampled and measured here"
        )


def _weights(unet: Path) -> tuple[Path, ...]:
    """The files of its weights: full precision before fp16 and other variants, safetensors before torch's own.

    Of several files by one name all must be there; the index beside them is not read.
    """
    for kind in (".safetensors", ".bin"):
        found = sorted(unet.glob(f"{WEIGHTS}*{kind}"), key=lambda path: (path.name != WEIGHTS + kind, path.name))
        whole = [path for path in found if not SPLIT.search(path.name)]
        if found:
            return (whole[0],) if whole else _every_part(unet, found)
    raise UserError(f"{unet} holds no weights: {WEIGHTS}.safetensors is missing")


def _every_part(unet: Path, parts: list[Path]) -> tuple[Path, ...]:
    """All files of the first set that is split over several.

    Raises:
        UserError: where one is missing.
    """
    stem = SPLIT.sub("", parts[0].name)
    found = {path: SPLIT.search(path.name) for path in parts if SPLIT.sub("", path.name) == stem}
    numbers = sorted((int(match[2]), int(match[1])) for match in found.values() if match)
    count = numbers[0][0]
    if numbers != [(count, number) for number in range(1, count + 1)]:
        raise UserError(f"the weights in {unet} are split over {count} files, and not all of them are there: fetch all")
    return tuple(found)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_JSON:
                raise UserError(f"{path} is not a file of at most {MAX_JSON:,} bytes, so it is not a configuration")
            return parse_object(file.read(MAX_JSON + 1), finite=False)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} {error}") from None


def on_no_device(folder: Folder) -> DDPMUNet:
    """The network of a folder without numbers: its names and shapes, whatever its size.

    Raises:
        UserError: for one of many more weights than the folder holds, or that cannot be.
    """
    shape = folder.shape
    with closing(open_weights(*folder.weights)) as file:
        there = len(file.shapes)
    least = shape.options.least_weights(shape.data.size)
    if least > there:
        raise UserError(
            f"the unet's config.json makes {least:,} weights or more, and {folder.weights[0]} has "
            f"{there:,}: the two files do not belong together"
        )
    network = outline_network(shape.options, shape.data, _GRID)
    assert isinstance(network, DDPMUNet), "the shape is of this family"
    return network


_GRID = torch.tensor([1.0, 0.0], dtype=torch.float64)
