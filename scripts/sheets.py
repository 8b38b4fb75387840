"""Draw the sheets of docs/sampling.md: edits, inverse problems and walks of one run, on faces it never saw.

    python scripts/sheets.py [--run tests/fixtures/reference] [--to docs/images/edits] [--only NAME ...]

Every sheet is a function of the run and the seed alone. A quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from markovae.checkpoints.reading import open_checkpoint
from markovae.data.faceset import render
from markovae.data.pictures import enlarged, png, tile, viewable
from markovae.diffusion.model import Diffusion
from markovae.log import log, track
from markovae.sampling.editor import Editor
from markovae.sampling.generation import to_images
from markovae.sampling.inverse import Blur, BoxDown, Grey, LinearOperator, Observation
from markovae.sampling.plans import plan
from markovae.system.files import write_file

ROOT = Path(__file__).resolve().parent.parent
FIRST_FACE = 50_000  # the data set is the faces 0…11,999
FACES, DRAWS = 4, 4
SIDE = 96  # pixels of one picture on a sheet
RESTORED = "sde-dpmpp2m"
STEPS = 20


@dataclass(frozen=True)
class Bench:
    """What every sheet is made of.

    Args:
        model: the prior.   faces: on its scale, (FACES, 3, H, W).   seed: of every draw.
    """

    model: Diffusion
    faces: Tensor
    seed: int

    def editor(self, sampler: str, steps: int = STEPS) -> Editor:
        """An editor with this sampler."""
        return Editor(self.model, plan(self.model, sampler, steps), self.seed)

    def side_by_side(self, *columns: Tensor) -> np.ndarray:
        """One row a face of columns (FACES, 3, H, W), as a sheet to look at."""
        rows = torch.stack([column.cpu().double() for column in columns], 1).flatten(0, 1)
        pictures = viewable(to_images(self.model, rows), self.model.pixels.bins)
        return enlarged(tile(pictures, len(columns)), SIDE * len(self.faces))


def draws(bench: Bench, one: Callable[[Tensor], Tensor], y: Tensor, count: int = DRAWS) -> list[Tensor]:
    """`count` draws for each of a few observations (FACES, ...), made in one batch: (FACES, 3, H, W) each."""
    found = one(y.repeat_interleave(count, 0))
    return list(found.reshape(len(y), count, *found.shape[1:]).unbind(1))


def inpainting(bench: Bench) -> np.ndarray:
    """The face, what is known of it (all below the eyebrows), draws by moment matching, and two by RePaint."""
    _, height, width = bench.model.shape
    known = torch.ones(height, width, dtype=torch.bool)
    known[: height * 3 // 8] = False
    shown = torch.where(known, bench.faces, torch.zeros_like(bench.faces))
    matched = draws(bench, lambda x: bench.editor(RESTORED).inpaint(x, known), bench.faces)
    repainted = draws(bench, lambda x: bench.editor("ancestral", 50).repaint(x, known), bench.faces, 2)
    return bench.side_by_side(bench.faces, shown, *matched, *repainted)


def restored(bench: Bench, operator: LinearOperator, shown: Callable[[Tensor], Tensor]) -> np.ndarray:
    """The face, what was observed of it, and draws of what it may have been."""
    y = operator.apply(bench.faces)
    found = draws(bench, lambda y: bench.editor(RESTORED).restore(Observation(operator, y)), y)
    return bench.side_by_side(bench.faces, shown(y), *found)


def super_resolution(bench: Bench) -> np.ndarray:
    """×4: from 8×8 to 32×32."""
    return restored(bench, BoxDown(4), lambda y: y.repeat_interleave(4, -1).repeat_interleave(4, -2))


def deblurring(bench: Bench) -> np.ndarray:
    """A Gaussian blur of 1.5 pixels undone."""
    return restored(bench, Blur(*bench.model.shape[1:], 1.5), lambda y: y)


def colorization(bench: Bench) -> np.ndarray:
    """From luminance."""
    return restored(bench, Grey(), lambda y: y.expand(-1, 3, -1, -1))


def from_level(bench: Bench) -> np.ndarray:
    """The face noised to 30…90 % of the levels and walked back."""
    levels = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    editor = bench.editor(RESTORED)
    return bench.side_by_side(bench.faces, *(editor.vary(bench.faces, level) for level in levels))


def interpolation(bench: Bench) -> np.ndarray:
    """From each face to the next in seven steps, latents mixed at 60 % of the levels."""
    editor, after = bench.editor(RESTORED), bench.faces.roll(-1, 0)
    paths = [editor.interpolate(a, b, 7, 0.6) for a, b in zip(bench.faces, after, strict=True)]
    return bench.side_by_side(bench.faces, *torch.stack(paths).unbind(1), after)


def progressive(bench: Bench) -> np.ndarray:
    """The network's guess x̂ on the way from noise to data."""
    return bench.side_by_side(*bench.editor(RESTORED, 40).strip(FACES, 9).unbind(0))


def round_trip(bench: Bench) -> tuple[np.ndarray, dict[str, Any]]:
    """The face, and the face encoded and decoded with 10, 20, 40 and 80 calls each way."""
    columns, error = [bench.faces], {}
    for steps in (10, 20, 40, 80):
        editor = bench.editor("dpmpp2m", steps)
        back = editor.decode(editor.encode(bench.faces)).cpu()
        grey = (back.double() - bench.faces.double()) / (2 * bench.model.pixels.half_width)
        error[str(steps)] = round(float(grey.square().mean().sqrt()), 2)
        columns.append(back)
    return bench.side_by_side(*columns), {"rmse_in_grey_levels_by_calls": error}


SHEETS: dict[str, Callable[[Bench], Any]] = {
    "inpainting": inpainting,
    "super-resolution": super_resolution,
    "deblurring": deblurring,
    "colorization": colorization,
    "from-level": from_level,
    "interpolation": interpolation,
    "progressive": progressive,
    "round-trip": round_trip,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw the sheets of docs/sampling.md.")
    parser.add_argument("--run", type=Path, default=ROOT / "tests" / "fixtures" / "reference")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "images" / "edits")
    parser.add_argument("--only", nargs="+", choices=sorted(SHEETS), default=list(SHEETS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    checkpoint = open_checkpoint(options.run)
    model = checkpoint.model()
    size = model.shape[-1]
    faces = np.stack([render(FIRST_FACE + i, size) for i in range(FACES)])
    bench = Bench(model, model.to_x(torch.from_numpy(faces)).float(), options.seed)
    options.to.mkdir(parents=True, exist_ok=True)
    for name in track(options.only, "sheets"):
        sheet = SHEETS[name](bench)
        facts = {"markovae:checkpoint": checkpoint.digest, "markovae:seed": str(options.seed)}
        if isinstance(sheet, tuple):
            sheet, figures = sheet
            facts["markovae:figures"] = json.dumps(figures)
            log(f"{name}: {json.dumps(figures)}")
        write_file(options.to / f"{name}.png", png(sheet, facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
