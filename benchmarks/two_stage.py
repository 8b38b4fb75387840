"""From caption to face in two stages and an enlargement, trained, sampled and judged (see `two_stage_parts.py`).

    python benchmarks/two_stage.py FOLDER [--minutes 15 | --steps N] [--hold-out 'hair=curly, glasses=round' …]
                                   [--stages prior decoder enlarger] [--only-train] [--out two_stage_X.json]

trains each stage for so long, keeps it in FOLDER, and measures what `benchmarks/captions.py` measures of one model of
captions. Broken off, the same command goes on where it was: a stage's state is saved every other minute. A sheet of the
paraphrases and one of enlarged faces go beside the record. `python benchmarks/pages.py` shows the record.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attributes import SIZE, JudgeRecipe, judge_of
from caption_figures import Amounts, asked, caption_figures, kid_figures, of_set
from captions import amounts, phrases_of, written
from markovae.data.cache import key_of
from markovae.data.faceset import box_halve, face_numbers, render
from markovae.data.pictures import png, tile, viewable
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.networks.conditioning import Condition
from markovae.quality.evaluation import reference_for
from markovae.sampling.plans import plan
from markovae.sampling.sampler_table import DEFAULT_SAMPLER, SAMPLERS
from markovae.system.files import write_file
from markovae.text.conditioner import EncoderConditioner
from markovae.text.encoders import DEFAULT_ENCODER
from samplers_cells import cell, grid_key
from two_stage_parts import CHUNK, STAGES, Chain, Embedding, Sizes
from two_stage_training import Length, Work, faces, trained

SHEET = 16


@dataclass(frozen=True)
class Images:
    """What a chain draws, kept in a folder; draw(name, captions) as `caption_figures` asks for it."""

    chain: Chain
    folder: Path
    batch: int

    def __call__(self, name: str, captions: Sequence[str]) -> np.ndarray:
        def draw(numbers: range) -> Tensor:
            return self.chain.faces(numbers, self.chain.embeddings(numbers, [captions[i] for i in numbers]))

        return self.of(f"{name}-{key_of(list(captions))}", draw, len(captions))

    def of(self, name: str, draw: Callable[[range], Tensor], n: int, stage: str = "decoder") -> np.ndarray:
        """Images 0…n−1 of a stage, uint8."""
        found = cell(self.folder / name, lambda numbers, _: draw(numbers), n, self.batch)
        return found.digits(self.chain.models[stage]).numpy().astype(np.uint8)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=15.0, help="of training, each stage")
    parser.add_argument("--steps", type=int, help="of training, each stage, instead")
    parser.add_argument("--batch", type=int, help="of training (default: by the stage)")
    parser.add_argument("--hold-out", nargs="+", default=[], help="combinations left out of training")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="to train in this call")
    parser.add_argument("--only-train", action="store_true")
    parser.add_argument("--width", type=int, default=Sizes.width, help="of the decoder; the enlarger has half of it")
    parser.add_argument("--row", type=int, default=Sizes.row, help="units of the prior's layers")
    parser.add_argument("--sampler", choices=SAMPLERS, default=DEFAULT_SAMPLER)
    parser.add_argument("--calls", type=int, default=20, help="of the network, a stage and image")
    parser.add_argument("--guidance", type=float, nargs=2, default=(1.0, 1.5), metavar=("PRIOR", "DECODER"))
    amounts(parser)
    parser.add_argument("--large", type=int, default=200, help="test captions whose images are enlarged too")
    parser.add_argument("--sample-batch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("two_stage.json"))
    options = parser.parse_args(arguments)
    if not options.only_train and set(options.stages) != set(STAGES):
        raise UserError("all three stages are needed to measure: leave --stages out, or give --only-train")
    judge = judge_of(JudgeRecipe(steps=options.judge_steps, faces=options.judge_faces))
    hold_out, sizes = tuple(options.hold_out), Sizes(options.row, width=options.width, large_width=options.width // 2)
    text_conditioner = EncoderConditioner(DEFAULT_ENCODER)
    work = Work(faces(SIZE, hold_out), hold_out, judge, text_conditioner, options.folder, sizes)
    length = Length(options.steps, options.minutes, options.batch)
    models = {stage: trained(work, stage, length) for stage in options.stages}
    if options.only_train:
        return
    embedding = Embedding.of(judge.features(np.asarray(work.data.train.images)))
    chain = Chain(
        models, embedding, text_conditioner, options.sampler, options.calls, tuple(options.guidance), options.seed
    )
    record, phrases, large = measured(work, chain, options)
    written(options.out, {"how": _how(length, options)} | record, phrases)
    write_file(options.out.with_name(f"{options.out.stem}_large.png"), png(tile(viewable(large[:SHEET], 256))))


def measured(work: Work, chain: Chain, options: argparse.Namespace) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The record, the images of the paraphrases, and the enlarged ones."""
    names = {stage: _digest(model) for stage, model in chain.models.items()}
    grids = [grid_key(plan(model, chain.sampler, chain.steps)) for model in chain.models.values()]
    how = [names, chain.sampler, grids, list(chain.guidance), chain.embedding.reach, chain.seed]
    images = Images(chain, options.folder / "images" / key_of(how), options.sample_batch)
    figures = caption_figures(images, work.judge, work.hold_out, Amounts(options.n, options.unseen, options.each))
    numbers = face_numbers(SIZE)[2][: options.n]
    captions, truth = asked(numbers)
    small = images("test", captions)
    known = chain.embedding.standard(work.judge.features(np.stack([render(number, SIZE) for number in numbers])))

    def from_truth(rows: range) -> Tensor:
        return chain.faces(rows, Condition(vector=known[rows.start : rows.stop]))

    def enlarged(rows: range) -> Tensor:
        return chain.enlarged(rows, small[rows.start : rows.stop])

    every = range(len(captions))
    seen = [chain.embeddings(every[i : i + CHUNK], captions[i : i + CHUNK]).vector for i in every[::CHUNK]]
    felt = chain.embedding.features(torch.cat([part for part in seen if part is not None]))
    plain = images.of("plain", lambda rows: chain.faces(rows, None), len(numbers))
    large = images.of("large", enlarged, min(options.large, len(numbers)), "enlarger")
    halved = np.stack([box_halve(image) for image in large])
    apart = float(np.sqrt(np.mean((halved.astype(float) - small[: len(halved)]) ** 2)))
    real = reference_for(chain.models["decoder"], work.data, len(numbers))
    record = {
        "weights": names,
        "held_out": list(work.hold_out),
        "sampler": chain.sampler,
        "steps": chain.steps,
        "guidance": list(chain.guidance),
        "seed": chain.seed,
        "judge": work.judge.digest,
        "kid": kid_figures(small, plain, real),
        "prior_alone": of_set(work.judge.tell_by(felt), truth),
        "decoder_alone": of_set(work.judge.tell(images.of("truth", from_truth, len(numbers))), truth),
        "enlarged": of_set(work.judge.tell(halved), truth[: len(halved)]) | {"rms_grey_values": apart},
        **figures,
    }
    return record, images("paraphrases", phrases_of(options.each)), large


def _digest(model: Diffusion) -> str:
    """Names the weights."""
    sums = [[name, float(w.double().sum()), float(w.double().square().sum())] for name, w in model.named_parameters()]
    return key_of(sums)


def _how(length: Length, options: argparse.Namespace) -> str:
    weights = " and ".join(f"{weight:g}" for weight in options.guidance)
    return (
        "A prior from the sentence to the judge's features, a decoder from these to 32 pixels and an enlarger to 64, "
        f"each trained for {length.words}; `{options.sampler}` in {options.calls} calls a stage, guidance {weights}. "
        "By `python benchmarks/two_stage.py FOLDER`."
    )


if __name__ == "__main__":
    main()
