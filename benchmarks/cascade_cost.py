"""What the stages of a cascade cost: processor time per pixel of a training step and of a sample, and memory.

    python -m benchmarks.cascade_cost --size 128

Processor time, not wall time: the figures hold on a machine that does other work beside it.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from markovae.build import create, with_stages
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion.cascade import stages_of
from markovae.sampling.generation import sample
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

    losses = getattr(training.loss, "_losses", None)
    if losses is not None:
        for b, (stage, loss) in enumerate(zip(stages_of(model), losses, strict=True)):
            rows = torch.arange(0, 32, training.loss._crops[b][2])
            part = training.loss._part(batch, rows, b, None if b == 0 else torch.rand(len(rows), dtype=torch.float64))
            pixels = part.x.shape[2] * part.x.shape[3] * len(rows) * (4 if b else 1)
            count = sum(weight.numel() for weight in stage.network.parameters())
            took = fastest(lambda: loss.backward(stage.network, part, len(rows), torch.float32), options.repeats)
            print(f"stage {b}: {count / 1e6:.2f} M weights, {len(rows)} crops, {1e6 * took / pixels:.2f} µs a pixel")
    took = fastest(lambda: training.advance(), options.repeats)
    print(f"a training step of 32 images: {took:.2f} s of one core")
    took = fastest(lambda: sample(model, options.images, batch=options.images), 1)
    print(f"{options.images} samples of {options.size}x{options.size}: {took:.1f} s of one core")


def fastest(work, repeats: int) -> float:
    """Seconds of processor time, the least of some repeats after one that is not counted."""
    found = []
    for _ in range(repeats + 1):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found[1:])


if __name__ == "__main__":
    main()
