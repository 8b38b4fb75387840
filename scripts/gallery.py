"""The gallery: train every kind of model, draw its sheet, and write docs/gallery.md.

    python -m scripts.gallery [--only [NAME ...]] [--work build/gallery] [--use NAME=RUN ...]

The commands that the page shows are those that are run, in the folder of --work. What is finished there is used again;
`--use` takes a run from elsewhere in place of a training. Half an hour of one core for everything.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from markovae.data.faceset import render
from markovae.data.pictures import png
from markovae.log import log
from markovae.system.files import write_file

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gallery.md"
PICTURES = ROOT / "docs" / "gallery"
RECORD = PICTURES / "gallery.json"
REFERENCE = ROOT / "tests" / "fixtures" / "reference"
FIRST_FACE = 50_000  # the data set is the faces 0…11,999
MOST = 200_000  # bytes of a picture


@dataclass(frozen=True)
class Exhibit:
    """One sheet.

    Args:
        name: of its run and its picture.   title: its heading.   text: what is to be seen, a sentence or two.
        train: the command that trains it; none where it uses the run of another exhibit.
        draw: the command that draws it, into the folder NAME-sheet.
    """

    name: str
    title: str
    text: str
    train: str
    draw: str


@dataclass(frozen=True)
class Shown:
    """What the page says of a sheet that was made: the commands, and seconds of one core."""

    train: str
    draw: str
    train_seconds: float | None
    draw_seconds: float


EACH = " ".join(f"--class {k}" for k in range(10))
SMALL = "--set network.width=32 --no-report"
EXHIBITS = (
    Exhibit(
        "faces",
        "Faces of 32 pixels",
        "The reference model of the tests: 2.17 M weights, 150,400 images seen. It is kept in "
        "tests/fixtures/reference; runs/faces is a copy.",
        "python scripts/reference.py",
        "markovae sample runs/faces --n 32 --out faces-sheet",
    ),
    Exhibit(
        "faces-chain",
        "Few evaluations",
        "The same model with another sampler and five evaluations instead of twenty.",
        "",
        "markovae sample runs/faces --n 32 --sampler unipc3 --steps 5 --out faces-chain-sheet",
    ),
    Exhibit(
        "inpainting",
        "Inpainting",
        "A face that the model never saw; everything above the eyes is drawn again, four times. "
        "All ways to edit: [editing](editing.md).",
        "",
        "markovae edit runs/faces face.png --mask mask.png --n 4 --out inpainting-sheet",
    ),
    Exhibit(
        "restoring",
        "Enlarging four times",
        "The face shrunk to 8×8 pixels, and four faces that shrink to the same 8×8 pixels.",
        "",
        "markovae edit runs/faces face.png --degrade sr4 --n 4 --out restoring-sheet",
    ),
    Exhibit(
        "interpolation",
        "From one face to another",
        "Both faces are noised to half of the levels, mixed there and drawn again.",
        "",
        "markovae edit runs/faces face.png --to other.png --n 7 --out interpolation-sheet",
    ),
    Exhibit(
        "variations",
        "Variations",
        "The face noised to 60 % of the levels and drawn again.",
        "",
        "markovae edit runs/faces face.png --from-level 0.6 --n 7 --out variations-sheet",
    ),
    Exhibit(
        "cascade",
        "A cascade, coarse to fine",
        "128 pixels in three stages: faces of 32, then the details of 64, then those of 128. The demo's model, trained "
        "for five minutes on two cores.",
        "markovae demo --out runs/cascade",
        "markovae sample runs/cascade --n 6 --out cascade-sheet",
    ),
    Exhibit(
        "cascade-enlarged",
        "Details drawn by a cascade",
        "A face of 32 pixels that the model never saw, and two draws of its details by the cascade's later stages.",
        "",
        "markovae edit runs/cascade face.png --enlarge --n 2 --out cascade-enlarged-sheet",
    ),
    Exhibit(
        "digits-plain",
        "Digits, unconditional",
        "8×8 pixels of 17 values. The network is not told which digit it draws.",
        f"markovae train digits --out runs/digits-plain --steps 1500 --set network.classes=false {SMALL}",
        "markovae sample runs/digits-plain --n 40 --out digits-plain-sheet",
    ),
    Exhibit(
        "digits",
        "Digits with classes",
        "A row for each of the classes 0 to 9, the same noise down each column.",
        f"markovae train digits --out runs/digits --steps 1500 {SMALL}",
        f"markovae sample runs/digits {EACH} --n 8 --guidance 1.5 --out digits-sheet",
    ),
    Exhibit(
        "digits-4",
        "A distilled student: four network evaluations",
        "The student of the model above, with the same rows. Each image takes four evaluations instead of twenty.",
        "markovae distill runs/digits --calls 4 --guidance 1.5 --out runs/digits-4 --steps 500 --no-report",
        f"markovae sample runs/digits-4 {EACH} --n 8 --out digits-4-sheet",
    ),
    Exhibit(
        "digits-flow",
        "Flow matching",
        "The network predicts flow matching's velocity ε − x, which is one more affine target of the same model.",
        f"markovae train digits --out runs/digits-flow --steps 800 --set target.name=flow {SMALL}",
        "markovae sample runs/digits-flow --class all --n 40 --out digits-flow-sheet",
    ),
    Exhibit(
        "digits-dit",
        "A diffusion transformer",
        "The same data with a transformer in place of the U-Net. Classes in turn.",
        "markovae train digits --out runs/digits-dit --steps 500 --set network.kind=dit --set network.dit.width=128 "
        "--set network.dit.depth=4 --no-report",
        "markovae sample runs/digits-dit --class all --n 40 --out digits-dit-sheet",
    ),
    Exhibit(
        "captions",
        "Captions",
        "A prompt a row, the same noise down each column. 8,000 images teach it the broad features; the model of "
        "[results](results.md), trained on 90,000, shows what captions can do.",
        "markovae train faces --out runs/captions --set condition.kind=text --batch 16 --steps 500 "
        "--set network.width=48 --set network.blocks=1 --no-report",
        'markovae sample runs/captions --prompt "a person with long red hair" --prompt "a person with a black beard" '
        '--prompt "a person wearing a hat" --n 8 --out captions-sheet',
    ),
    Exhibit(
        "columns",
        "Columns of a table",
        "2,000 faces with a table that says how bright each is, its background and what it wears. Brightness from "
        "above down, backgrounds across, the same noise everywhere; six passes over the data, so the faces are rough.",
        "python examples/faces_with_columns.py 2000\n"
        'markovae train faces-with-columns --out runs/columns --set "condition.columns=[light,background,wears]" '
        "--set schedule.num_levels=200 --batch 16 --steps 600 --set network.width=48 --set network.blocks=1 "
        "--no-report",
        'markovae sample runs/columns --where light=30..100:4 --where "background=*" --out columns-sheet',
    ),
    Exhibit(
        "digits-ddpm",
        "The network of Ho et al.",
        "A network of the DDPM family with linear betas and the noise as target: a run that becomes a pipeline of "
        "diffusers, and that `markovae import` makes of one. Classes in turn.",
        "markovae train digits --out runs/digits-ddpm --steps 800 --set network.kind=ddpm --set target.name=noise "
        "--set schedule.kind=linear --set network.ddpm.widths=[32,64] --set network.ddpm.blocks=1 "
        "--set network.ddpm.groups=8 --no-report",
        "markovae sample runs/digits-ddpm --class all --n 40 --out digits-ddpm-sheet",
    ),
    Exhibit(
        "cifar10",
        "Photographs, trained on the bound",
        "The ten-minute [record](records.md) on CIFAR-10: 85,328 images seen, 3.751 bits/dim. Bits are in fine detail, "
        "which the bound spends its weight on: textures are there, objects are not yet. Classes in turn.",
        "markovae data cifar10\n"
        "python benchmarks/record.py cifar10 --recipe bound --minutes 10 --seed 0 --draws 4 --out runs/cifar10",
        "markovae sample runs/cifar10 --class all --n 40 --out cifar10-sheet",
    ),
)


def inputs(work: Path) -> None:
    """The reference run, and the pictures that are edited: two faces that no model saw, and a mask."""
    if not (work / "runs" / "faces").exists():
        shutil.copytree(REFERENCE, work / "runs" / "faces")
    for name, index in (("face", 0), ("other", 1)):
        write_file(work / f"{name}.png", png(render(FIRST_FACE + index, 32).transpose(1, 2, 0)))
    mask = np.zeros((32, 32, 1), np.uint8)
    mask[:12] = 255
    write_file(work / "mask.png", png(mask))


def run(commands: str, work: Path) -> float:
    """Commands of the page, a line each, in the folder; the seconds of one core that they took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in commands.splitlines():
        log(f"$ {command}")
        program, *words = shlex.split(command)
        start = [ROOT / words.pop(0)] if program == "python" else ["-m", program]
        made = [sys.executable, *start, *words]
        subprocess.run(made, cwd=work, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def trained(exhibit: Exhibit, work: Path, given: Path | None) -> float | None:
    """Seconds of training of the exhibit's run, which is there afterwards."""
    place, note = work / "runs" / exhibit.name, work / f"{exhibit.name}.json"
    if exhibit.name == "faces":
        return float(json.loads((REFERENCE / "state.json").read_text(encoding="utf-8"))["seconds"])
    if not exhibit.train:
        return None
    if given is not None:
        if not place.exists():
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(given.resolve())
        state = max(place.glob("checkpoints/*/state.json"))
        return float(json.loads(state.read_text(encoding="utf-8"))["seconds"])
    if note.exists() and place.exists():
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["command"] == exhibit.train:
            return float(known["seconds"])
    shutil.rmtree(place, ignore_errors=True)
    seconds = run(exhibit.train, work)
    note.write_text(json.dumps({"command": exhibit.train, "seconds": seconds}), encoding="utf-8")
    return seconds


def shown(exhibit: Exhibit, work: Path, given: Path | None) -> Shown:
    """Train, draw, and keep the picture.

    Raises:
        ValueError: for a picture of more than 200,000 bytes.
    """
    training = trained(exhibit, work, given)
    sheet = work / f"{exhibit.name}-sheet"
    shutil.rmtree(sheet, ignore_errors=True)
    drawing = run(exhibit.draw, work)
    content = (sheet / "grid.png").read_bytes()
    if len(content) > MOST:
        raise ValueError(f"{sheet} has {len(content):,} bytes and must have at most {MOST:,}: draw fewer images")
    write_file(PICTURES / f"{exhibit.name}.png", content)
    return Shown(exhibit.train, exhibit.draw, training, drawing)


def recorded() -> dict[str, Shown]:
    """The sheets that were made."""
    if not RECORD.exists():
        return {}
    return {name: Shown(**facts) for name, facts in json.loads(RECORD.read_text(encoding="utf-8")).items()}


def in_words(seconds: float) -> str:
    """About two digits."""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.1f} min"
        if seconds < 600
        else f"{seconds / 60:.0f} min"
    )


def page(record: dict[str, Shown]) -> str:
    """docs/gallery.md: a section for each sheet that was made."""
    parts = [
        "# Gallery\n\n"
        "Every kind of model that is trained here: its sheet, its commands, and the processor time they took on one\n"
        "core of an AMD EPYC, with the start of Python and the reading of data. Nothing was selected: each sheet\n"
        "shows the first images of seed 0. `python -m scripts.gallery` makes this page and the edited pictures:\n"
        "face.png and other.png are faces outside the data set, mask.png is white above the eyes.\n"
    ]
    for exhibit in EXHIBITS:
        if exhibit.name not in record:
            continue
        made = record[exhibit.name]
        commands = "\n".join(filter(None, (made.train, made.draw)))
        times = f"drawing {in_words(made.draw_seconds)}"
        if made.train_seconds is not None:
            times = f"training {in_words(made.train_seconds)}, {times}"
        parts.append(
            f"## {exhibit.title}\n\n{textwrap.fill(exhibit.text, 118)}\n\n"
            f"![{exhibit.title}](gallery/{exhibit.name}.png)\n\n"
            f"```bash\n{commands}\n```\n\n{times[0].upper()}{times[1:]}.\n"
        )
    return "\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train, draw and write the gallery.")
    parser.add_argument(
        "--only", nargs="*", metavar="NAME", help="these sheets alone; of none the page is written anew"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gallery", help="folder of the runs")
    parser.add_argument("--use", action="append", default=[], metavar="NAME=RUN", help="a run in place of a training")
    options = parser.parse_args(arguments)
    known = [exhibit.name for exhibit in EXHIBITS]
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"no sheet is called {min(unknown)}: there are {', '.join(known)}")
    given = {name: Path(run) for name, run in (use.split("=", 1) for use in options.use)}
    options.work.mkdir(parents=True, exist_ok=True)
    PICTURES.mkdir(parents=True, exist_ok=True)
    inputs(options.work)
    record = recorded()
    for exhibit in EXHIBITS:
        if options.only is None or exhibit.name in options.only:
            record[exhibit.name] = shown(exhibit, options.work, given.get(exhibit.name))
            facts = {name: asdict(made) for name, made in record.items()}
            write_file(RECORD, (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode())
    write_file(PAGE, page(record).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
