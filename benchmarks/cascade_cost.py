"""What the stages of a cascade cost: processor time per pixel of a training step and of a sample, and memory.

    python -m benchmarks.cascade_cost --size 128 --images 16

Processor time, not wall time: the figures hold on a machine that does other work beside it.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from markovae.build import create, with_stages
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion.cascade import Cascade, stages_of
from markovae.sampling.generation import sample
from markovae.training.cascade_loss import CascadeLoss
from markovae.training.trainer import Training


def main() -> None:
    """Print a line for each stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=4, help="drawn at a time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = np.random.default_rng(0)
    data = ImageData(source.integers(0, 256, (64, 3, options.size, options.size), dtype=np.uint8))
    config = with_stages(Config().with_settings(["train.precision=float32", "train.steps=99"]), data)
    model = create(config, data)
    training = Training(model, data, config.train)
    batch = training.batches.at(0)

    if isinstance(training.loss, CascadeLoss):
        for b, stage in enumerate(stages_of(model)):
            part = training.loss.part(batch, b, 32)
            assert part is not None, "a whole batch has rows for every stage"
            size = len(part.x)
            pixels = part.x[0, 0].numel() * size * (4 if b else 1)
            count = sum(weight.numel() for weight in stage.network.parameters())
            step = partial(training.loss.stages[b].backward, stage.network, part, size, torch.float32)
            took = fastest(step, options.repeats)
            sys.stdout.write(
                f"stage {b}: {count / 1e6:.2f} M weights, {size} crops, {1e6 * took / pixels:.2f} µs a pixel\n"
            )
    for b, stage in enumerate(stages_of(model)):
        z, given = torch.randn(options.images, *stage.shape), None
        if isinstance(model, Cascade) and b:
            image = torch.zeros(options.images, model.shape[0], *stage.shape[1:])
            given = model.refining(None, image, model.coarse_logsnr(b), image)
        with torch.no_grad():
            took = fastest(partial(stage.denoise, z, torch.tensor(0.0).double(), given), options.repeats)
        sys.stdout.write(f"stage {b}: an evaluation of {options.images} images {took:.3f} s of one core\n")
    took = fastest(training.advance, options.repeats)
    sys.stdout.write(f"a training step of 32 images: {took:.2f} s of one core, {peak():.2f} GiB at most\n")
    took = fastest(partial(sample, model, options.images, batch=options.images), 1)
    drawn = f"{options.images} samples of {options.size}x{options.size}"
    sys.stdout.write(f"{drawn}: {took:.1f} s of one core, {peak():.2f} GiB at most\n")


def peak() -> float:
    """The most memory that this process has had, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def fastest(work: Callable[[], object], repeats: int) -> float:
    """Seconds of processor time, the least of some repeats after one that is not counted."""
    found = []
    for _ in range(repeats + 1):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found[1:])


if __name__ == "__main__":
    main()
