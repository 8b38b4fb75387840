"""`markovae sample`: images from a run, as PNGs, a grid and an array."""

from __future__ import annotations

import argparse
import io
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markovae import __version__
from markovae.cli.options import AS_TRAINED, add_json, add_machine, add_run, add_seed, add_trust, part_of, whole
from markovae.cli.running import open_run, require_out, write_out
from markovae.cli.sampling_options import (
    HELP,
    Sweep,
    add_sampler,
    add_where,
    as_named,
    chosen_classes,
    chosen_prompts,
    chosen_sampler,
    chosen_where,
)
from markovae.errors import UserError
from markovae.log import counted, show, show_json
from markovae.sampling.sampler_table import SEARCHED

if TYPE_CHECKING:
    from markovae.checkpoints.reading import LoadedRun

SUMMARY = "draw images from a run"
DESCRIPTION = """\
Draw images from a run's averaged weights. Image i depends on the seed and on i, not on how many are drawn.
Writes 00000.png and so on, grid.png (enlarged for viewing), and samples.npz (arr_0: images, N x H x W x C; where
there are any, arr_1: classes, prompts and where: texts). With several prompts, classes or values of a column,
grid.png has a row for each, and the same noise down each column.
"""
EXAMPLES = """\
examples:
  markovae sample runs/faces
  markovae sample runs/digits --class 7 --n 16 --out sevens
  markovae sample runs/pets --class cat --class dog --n 8                      # a row of 8 for each class
  markovae sample runs/faces --sampler ancestral --steps 1000 --seed 1
  markovae sample runs/digits --class 3 --guidance 2 --guidance-interval -3 4
  markovae sample runs/faces --sampler dpmpp2m --spacing tuned --steps 10
  markovae sample runs/text --prompt "a person with red curly hair and round glasses" --n 16 --guidance 1.5
  markovae sample runs/text --prompts lines.txt --n 8 --negative "a beard"     # a row of 8 for each line
  markovae sample runs/people --where age=30 --where smiling=yes --n 16
  markovae sample runs/people --where age=20..60:5 --where "smiling=*"     # a titled grid: ages down, smiling across
  markovae sample runs/large --stage 0     # of a cascade: the smallest images, before details are drawn
  markovae sample runs/faces --n 50000 --shard 3/8 --out part3     # every eighth batch, from the third on
  torchrun --nproc-per-node 8 -m markovae sample runs/faces --n 50000     # eight processes, the same images

"""
EXAMPLES += HELP

APART = 86_400.0  # seconds that processes may end apart: each draws its own batches
DEFAULT_BATCH, DEFAULT_IMAGES, ROW_IMAGES = 64, 64, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae sample`."""
    add_run(parser)
    parser.add_argument(
        "--n",
        metavar="N",
        type=whole(1),
        help="images to draw (default: 64); with several prompts, classes or values, images of each (default: 8; 1 for "
        "two sweeps)",
    )
    add_seed(parser, "seed of all noise")
    parser.add_argument(
        "--class",
        dest="classes",
        metavar="K",
        action="append",
        help="class name or number, repeatable (one row of grid.png each); all (default): classes in turn; none: "
        "unconditional",
    )
    add_where(parser, sweeps=True)
    group = parser.add_argument_group("a model of captions")
    group.add_argument(
        "--prompt",
        metavar="TEXT",
        action="append",
        help="what to draw, repeatable (one row of grid.png each, the same noise down a column)",
    )
    group.add_argument("--prompts", metavar="FILE", type=Path, help="prompts from a text file, one per line")
    group.add_argument("--negative", metavar="TEXT", help="what --guidance leads away from (default: no caption)")
    add_sampler(parser)
    parser.add_argument("--stage", metavar="N", type=whole(0), help="of a cascade: stop at this stage, 0 the smallest")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        type=part_of,
        help="draw only every N-th batch, from the I-th on; images keep their numbers",
    )
    parser.add_argument("--out", metavar="DIR", help="a new or empty folder (default: a new one in RUN/samples)")
    add_json(parser)
    add_trust(parser)
    add_machine(parser, batch="images at a time (default: 64)", precision=AS_TRAINED)


def run(options: argparse.Namespace) -> int:
    """Draw and write; exit code 0.

    Raises:
        UserError: for what the model does not offer, or an --out that is not empty.
    """
    require_out(options)
    from markovae.data.pictures import png
    from markovae.sampling.conditions import make_condition
    from markovae.sampling.generation import network_evaluations, sample, shard_indices, up_to_stage
    from markovae.system.distributed import joined

    opened = open_run(options, trained_in=True)
    model, batch = opened.model, options.batch or DEFAULT_BATCH
    prompts, chosen = chosen_prompts(opened, options), chosen_classes(opened, options.classes)
    asked = _Asked.of(prompts, chosen, *chosen_where(opened, options.where, sweeps=True), options.n)
    n, each, texts, labels, where = asked.n, asked.each, asked.texts, asked.labels, asked.where
    part, _, count = (options.shard or "").partition("/")
    shard = (int(part), int(count)) if options.shard else None
    rows = shard_indices(n, batch, shard)
    with joined(APART, model.device) as ranks:
        made, guidance, facts = ranks.in_turn(lambda: chosen_sampler(opened, options, labels, prompts, where))
        began = time.monotonic()
        images = sample(
            model,
            n,
            sampler=made,
            seed=options.seed,
            batch=batch,
            labels=labels,
            prompt=texts or None,
            where=where,
            guidance=guidance,
            noise_indices=[i % each for i in range(n)],
            shard=shard,
            ranks=ranks,
            progress=True,
            stage=options.stage,
        )
        seconds = time.monotonic() - began
    if not ranks.first:
        return 0
    used = up_to_stage(model, made, options.stage)[0]
    classes = make_condition(model, n, labels=labels) if opened.num_classes else None
    drawn = None if classes is None else classes.condition().label
    record = {
        "schema_version": 1,
        "out": "",
        "n": len(images),
        "shape": list(images.shape[1:]),
        "bins": model.pixels.bins,
        "shard": options.shard,
        "labels": None if drawn is None else as_named(opened, drawn[rows]).tolist(),
        "prompts": list(prompts) or None,
        "negative": options.negative,
        **({"where": where} if where else {}),
        "network_calls_per_sample": network_evaluations(used, guidance),
        **facts,
        "seed": options.seed,
        "precision": opened.precision,
        "checkpoint": opened.checkpoint.facts(),
        "seconds": seconds,
    }
    names = [None if drawn is None else opened.class_names[int(drawn[row])] for row in rows]
    searched = made.grid[1:].tolist() if made.spacing in SEARCHED else None
    about = [
        {
            **_provenance(opened, record, used.nfe, searched),
            **_prompt_facts(opened, options, (texts[row],) if texts else ()),
            "markovae:index": str(row),
            **({} if name is None else {"markovae:class": name}),
            **({"markovae:where": asked.told(row)} if where else {}),
        }
        for row, name in zip(rows, names, strict=True)
    ]
    whole_grid = {**_provenance(opened, record, used.nfe, searched), **_prompt_facts(opened, options, prompts)}
    if where:
        whole_grid["markovae:where"] = "; ".join(options.where)
    said = {"prompts": [texts[row] for row in rows] if texts else []}
    said["where"] = [asked.told(row) for row in rows] if where else []
    files = _files(images, rows, record["labels"], said, about, model.pixels.bins)
    files["grid.png"] = png(_grid(images, model.pixels.bins, asked if shard is None else None), whole_grid)
    target = write_out(files, options, opened.path, "samples", _folder_name(options))
    if options.json:
        show_json({**record, "out": str(target)})
    else:
        evaluations = counted(record["network_calls_per_sample"], "network evaluation")
        classes_drawn = _classes_drawn(opened, drawn is not None, len(images), options.classes)
        show(
            f"{counted(len(images), 'image')} in {seconds:.1f} s ({facts['sampler']}, {evaluations} each, seed "
            f"{options.seed}{classes_drawn})\n{target / 'grid.png'}"
        )
    return 0


def _folder_name(options: argparse.Namespace) -> str:
    name = f"{options.sampler}-{options.steps or 'auto'}-seed{options.seed}"
    asked = options.classes or []
    return name + (f"-class{'-'.join(asked)}" if asked and all(map(str.isalnum, asked)) else "")


def _classes_drawn(opened: LoadedRun, conditional: bool, n: int, asked: list[str] | None) -> str:
    """What was done about classes, where the run has any and none was named."""
    if not opened.num_classes or asked not in (None, ["all"], ["none"]):
        return ""
    if not conditional or n < 2:
        return "" if conditional else ", without a class"
    return f", each of {opened.num_classes} classes in turn"


# -- what is drawn ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """What each image is to show; several prompts, classes or values of a column are an axis of the grid.

    Args:
        each: images of each combination.
        combinations: the value of each axis, in order.
        axes: the values of each, as texts; at most two.
        fixed: columns of one value.
    """

    each: int
    combinations: list[tuple[Any, ...]]
    axes: dict[str, list[str]]
    fixed: dict[str, Any]
    prompts: tuple[str, ...]
    classes: list[Any]

    @classmethod
    def of(
        cls, prompts: tuple[str, ...], classes: list[Any], fixed: dict[str, Any], swept: list[Sweep], n: int | None
    ) -> _Asked:
        axes: list[Sweep] = [("--prompt", list(prompts))] if len(prompts) > 1 else []
        axes += [("--class", classes)] if len(classes) > 1 else []
        axes += swept
        if len(axes) > 2:
            raise UserError(f"{', '.join(name for name, _ in axes)} have several values: a grid shows two of them")
        if len(axes) == 2 and n is not None:
            raise UserError(f"{axes[0][0]} and {axes[1][0]} are swept over, one image of each: leave --n out")
        titles = {name: ["" if value is None else str(value) for value in values] for name, values in axes}
        each = n or (1 if len(axes) == 2 else ROW_IMAGES if axes else DEFAULT_IMAGES)
        return cls(each, list(itertools.product(*(values for _, values in axes))), titles, fixed, prompts, classes)

    @property
    def n(self) -> int:
        """Images in all."""
        return self.each * len(self.combinations)

    def _every(self, name: str) -> list[Any]:
        place = list(self.axes).index(name)
        return [values[place] for values in self.combinations for _ in range(self.each)]

    @property
    def texts(self) -> list[str]:
        """The prompt of each image; empty where there is none."""
        return self._every("--prompt") if "--prompt" in self.axes else [*self.prompts] * self.n

    @property
    def labels(self) -> Any:
        """The class of each image, or of all; None where none is named."""
        return self._every("--class") if "--class" in self.axes else next(iter(self.classes), None)

    @property
    def where(self) -> dict[str, Any]:
        """The columns' values: of each image a list, or one of all."""
        return {**self.fixed, **{name: self._every(name) for name in self.axes if not name.startswith("--")}}

    def told(self, row: int) -> str:
        """The columns' values of an image, in words."""
        each = {name: value[row] if isinstance(value, list) else value for name, value in self.where.items()}
        return "; ".join(f"{name}={'' if value is None else value}" for name, value in each.items())


def _grid(images: Any, bins: int, asked: _Asked | None) -> Any:
    """The sheet; a sweep over columns has titles."""
    from markovae.data.pictures import readable, tile, titled, viewable

    pictures = viewable(images, bins)
    if asked is None or not asked.axes:
        return readable(tile(pictures), pictures)
    (down, rows), *across = asked.axes.items()
    sheet = readable(tile(pictures, len(across[0][1]) if across else asked.each), pictures)
    if not asked.where.keys() & asked.axes.keys():
        return sheet
    corner, columns = across[0] if across else ("", [])
    return titled(sheet, [f"{down}={value}" for value in rows], columns, f"{corner}=" if corner else "")


# -- the files ----------------------------------------------------------------------------------------------------


def _files(
    images: Any,
    rows: list[int],
    labels: list[int] | None,
    said: dict[str, list[str]],
    about: list[dict[str, str]],
    bins: int,
) -> dict[str, bytes]:
    """Every file's bytes but the grid's: the PNGs with what they say of themselves, and samples.npz."""
    import numpy as np

    from markovae.data.pictures import png, viewable

    pictures = viewable(images, bins)
    files = {f"{row:05d}.png": png(pictures[place], about[place]) for place, row in enumerate(rows)}
    arrays = [np.ascontiguousarray(images.transpose(0, 2, 3, 1))]
    if labels is not None:
        arrays.append(np.array(labels, dtype=np.int64))
    named = {} if rows == list(range(len(rows))) else {"numbers": np.array(rows)}
    named |= {name: np.array(texts, dtype=np.str_) for name, texts in said.items() if texts}
    stream = io.BytesIO()
    np.savez_compressed(stream, *arrays, **named)  # type: ignore[arg-type]
    return {**files, "samples.npz": stream.getvalue()}


def _provenance(opened: LoadedRun, record: dict[str, Any], nfe: int, logsnr: list[float] | None) -> dict[str, str]:
    """The texts in a PNG: from which checkpoint, and how to draw it again."""
    text = {
        "Software": f"markovae {__version__}",
        "markovae:checkpoint": opened.checkpoint.digest,
        "markovae:training-step": str(opened.checkpoint.step),
        "markovae:steps": str(nfe),
        "markovae:seed": str(record["seed"]),
        "markovae:precision": opened.precision,
    }
    for name in ("sampler", "spacing", "threshold", "guidance", "guidance_interval", "autoguide"):
        if record[name] is not None:
            text[f"markovae:{name.replace('_', '-')}"] = _worded(record[name])
    if logsnr is not None:
        text["markovae:logsnr"] = _worded(logsnr)
    return text


def _prompt_facts(opened: LoadedRun, options: argparse.Namespace, prompts: tuple[str, ...]) -> dict[str, str]:
    if not prompts:
        return {}
    made_by = opened.checkpoint.text
    # Of a folder its name: a picture that is given away says nothing of this machine.
    encoder = f"{Path(made_by['encoder']).name} {made_by['sha256']}"
    text = {"markovae:prompt": "\n".join(prompts), "markovae:encoder": encoder}
    return text if options.negative is None else {**text, "markovae:negative": options.negative}


def _worded(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(repr, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
