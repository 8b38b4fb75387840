"""From captions to faces: what a model of captions makes of them, and how far its images are from real ones.

    python benchmarks/captions.py RUN [--plain RUN] [--guidance 3] [--n 1000] [--out docs/results/captions_X.json]

RUN was trained on the faces at 32 pixels with condition.kind=text, and with data.hold_out where combinations never seen
are to be measured; --plain names a run without captions for the KID beside it (left out: RUN itself, told nothing).
The judge (`benchmarks/attributes.py`) is trained first where it is not in the cache folder. A sheet of the paraphrases,
a row each, goes beside the record. `python benchmarks/pages.py` shows the record.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from attributes import SIZE, JudgeRecipe, judge_of
from caption_figures import PARAPHRASES, Amounts, caption_figures, kid_figures
from markovae.checkpoints.reading import Checkpoint, open_checkpoint
from markovae.cli.options import whole
from markovae.data.cache import cache_folder, key_of
from markovae.data.loading import reopen
from markovae.data.pictures import png, tile, viewable
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.log import log
from markovae.quality.evaluation import reference_for
from markovae.sampling.generation import final_latents, sample_trajectory
from markovae.sampling.guidance import Guidance, guided
from markovae.sampling.plans import Plan, plan
from markovae.sampling.sampler_table import DEFAULT_SAMPLER, SAMPLERS
from markovae.system.files import make_folder, write_file
from samplers_cells import by_plan, cell, grid_key

SHEET_COLUMNS = 8


@dataclass(frozen=True)
class Told:
    """Images of a model of captions: draw(name, captions), kept in a folder; image i has the noise of sample i.

    Args:
        model: of captions.   plan, guidance, seed, batch: how it is sampled.   folder: where images are kept.
    """

    model: Diffusion
    plan: Plan
    guidance: Guidance
    seed: int
    batch: int
    folder: Path

    def __call__(self, name: str, captions: Sequence[str]) -> np.ndarray:
        text_conditioner = self.model.text_conditioner
        assert text_conditioner is not None

        def draw(numbers: range, _: Tensor | None) -> Tensor:
            condition = text_conditioner.prompts([captions[i] for i in numbers]).to(self.model.device)
            denoiser = guided(self.model, condition, self.guidance)
            return final_latents(sample_trajectory(self.model, numbers, self.plan, self.seed, condition, denoiser))

        with evaluating(self.model):
            found = cell(self.folder / f"{name}-{key_of(list(captions))}", draw, len(captions), self.batch)
        return found.digits(self.model).numpy().astype(np.uint8)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--plain", type=Path, help="a run of the same faces without captions")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--sampler", choices=SAMPLERS, default=DEFAULT_SAMPLER)
    parser.add_argument("--steps", type=int, default=20)
    amounts(parser)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", type=Path, help="where images are kept (default: in the cache folder)")
    parser.add_argument("--out", type=Path, default=Path("captions.json"))
    options = parser.parse_args(arguments)
    written(options.out, *measured(options))


def amounts(parser: argparse.ArgumentParser) -> None:
    """The options that say how much is measured."""
    parser.add_argument("--n", type=whole(2), default=Amounts.n, help="test captions")
    parser.add_argument("--unseen", type=whole(2), default=Amounts.unseen, help="captions with a held-out combination")
    parser.add_argument("--each", type=whole(2), default=Amounts.each, help="images a paraphrase")
    parser.add_argument("--judge-steps", type=int, default=JudgeRecipe.steps, help="of the judge's training")
    parser.add_argument("--judge-faces", type=int, default=JudgeRecipe.faces, help="that the judge learns from")


def measured(options: argparse.Namespace) -> tuple[dict[str, Any], np.ndarray]:
    """The record of a run, and the images of the paraphrases."""
    checkpoint = open_checkpoint(options.run)
    model, config = checkpoint.model(), checkpoint.config
    if model.text_conditioner is None or config.data.source != "faces" or model.shape != (3, SIZE, SIZE):
        raise UserError(f"{options.run} is no model of captioned faces at {SIZE} pixels: condition.kind=text makes one")
    data = reopen(config.data, checkpoint.state["data"])
    judge = judge_of(JudgeRecipe(steps=options.judge_steps, faces=options.judge_faces))
    guidance, chosen = Guidance(options.guidance), plan(model, options.sampler, options.steps)
    folder = options.cells or cache_folder() / "captions"
    how = f"{checkpoint.digest}-{options.sampler}-{grid_key(chosen)}-{options.guidance:g}-seed{options.seed}"
    told = Told(model, chosen, guidance, options.seed, options.batch, folder / how)
    figures = caption_figures(told, judge, config.data.hold_out, Amounts(options.n, options.unseen, options.each))
    other = open_checkpoint(options.plain) if options.plain else checkpoint
    captions = list(data.test.captions or ())[: options.n]
    untold = plain_images(other, options, len(captions), folder)
    record = {
        "run": str(options.run),
        "plain": str(options.plain) if options.plain else None,
        "checkpoint": {"digest": checkpoint.digest, "step": checkpoint.step},
        "held_out": list(config.data.hold_out),
        "sampler": options.sampler,
        "steps": chosen.nfe,
        "guidance": options.guidance,
        "seed": options.seed,
        "judge": judge.digest,
        "kid": kid_figures(told("test", captions), untold, reference_for(model, data, len(captions))),
        **figures,
    }
    return record, told("paraphrases", phrases_of(options.each))


def plain_images(checkpoint: Checkpoint, options: argparse.Namespace, n: int, folder: Path) -> np.ndarray:
    """Images of a model that is told nothing, without guidance, from the noise of samples 0…n−1."""
    model = checkpoint.model()
    chosen = plan(model, options.sampler, options.steps)
    draw = by_plan(model, chosen, options.seed)
    name = f"{checkpoint.digest}-{options.sampler}-{grid_key(chosen)}-plain-seed{options.seed}"
    with evaluating(model):
        return cell(folder / name, draw, n, options.batch).digits(model).numpy().astype(np.uint8)


def phrases_of(each: int) -> list[str]:
    """The paraphrases, each so often."""
    phrases = tomllib.loads(PARAPHRASES.read_text(encoding="utf-8"))["paraphrase"]
    return [phrase["text"] for phrase in phrases for _ in range(each)]


def written(out: Path, record: dict[str, Any], images: np.ndarray) -> None:
    """Write a record and, beside it, the sheet: a row of images for each paraphrase."""
    each = len(images) // len(record["paraphrases"])
    columns = min(SHEET_COLUMNS, each)
    rows = images.reshape(-1, each, *images.shape[1:])[:, :columns]
    make_folder(out.parent)
    write_file(out.with_suffix(".png"), png(tile(viewable(rows.reshape(-1, *images.shape[1:]), 256), columns)))
    write_file(out, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    log(f"written: {out} and {out.with_suffix('.png')}; python benchmarks/pages.py puts it into docs/results.md")


if __name__ == "__main__":
    main()
