"""Train the built-in feature network of `markovae quality` and ship it in half precision.

    python scripts/features.py [--faces 12000] [--steps 1500] [--to src/markovae/quality/weights/small.safetensors]

The network tells, from its features by one linear map: the attributes of drawn faces, which shapes a drawing has,
how an image was spoilt (noise, blur, colour, contrast), and a 4×4 thumbnail of it unspoilt. About half an hour on one
core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feature_images import FIRST_FACE, KINDS, SPOILT, as_images, face_classes, face_labels, shapes, spoil
from markovae.data import cache
from markovae.data.faces import RECIPE, attributes
from markovae.data.faceset import render
from markovae.log import log, track
from markovae.quality.extractors import POOLED, SmallNet
from markovae.randomness import generator
from markovae.system.files import write_file
from markovae.training.optimizers import MuonAdamW

ROOT = Path(__file__).resolve().parent.parent
HALF = 32  # images of each sort in a batch
LIMIT = 2_000_000
TAILS = 10.0  # fourth standardised moment; a Gaussian has 3


class Reader(nn.Module):
    """The linear maps from features to what is to be told."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(POOLED, affine=False)
        self.faces = nn.Linear(POOLED, sum(face_classes()))
        self.shapes = nn.Linear(POOLED, KINDS)
        self.spoilt = nn.Linear(POOLED, len(SPOILT))
        self.thumbnail = nn.Linear(POOLED, 48)


def drawn_faces(count: int) -> np.ndarray:
    """Faces FIRST_FACE…, (count, 3, 32, 32) uint8, drawn once."""

    def make(folder: Path) -> None:
        numbers = track(range(FIRST_FACE, FIRST_FACE + count), "drawing faces")
        np.save(folder / "images.npy", np.stack([render(i, 32) for i in numbers]), allow_pickle=False)

    name = f"feature-faces-{cache.key_of([RECIPE, FIRST_FACE, count])}"
    return cache.entry(name, make, lambda kept: kept.array("images.npy"))


def loss_of(reader: Reader, pooled: Tensor, labels: Tensor, seen: Tensor, amounts: Tensor, clean: Tensor) -> Tensor:
    """Cross-entropy of attributes and shapes, squared error of amounts and thumbnail, each an average."""
    told = reader.norm(pooled)
    answers = reader.faces(told[:HALF]).split(face_classes(), dim=1)
    attribute = torch.stack([F.cross_entropy(a, labels[:, i]) for i, a in enumerate(answers)]).mean()
    shape = F.binary_cross_entropy_with_logits(reader.shapes(told[HALF:]), seen)
    spoilt = F.mse_loss(reader.spoilt(told), amounts)
    thumbnail = F.mse_loss(reader.thumbnail(told), F.avg_pool2d(clean, 8).flatten(1))
    return attribute + shape + 3 * spoilt + 10 * thumbnail


def train(pictures: np.ndarray, labels: Tensor, steps: int) -> SmallNet:
    """The network after `steps` steps; the rate rises over 50 steps and falls linearly from the half."""
    torch.manual_seed(0)
    net, reader = SmallNet().to(memory_format=torch.channels_last), Reader()
    hidden = [w for name, w in net.named_parameters() if w.ndim == 4 and not name.startswith("stem")]
    chosen = {id(w) for w in hidden}
    rest = [w for w in (*net.parameters(), *reader.parameters()) if id(w) not in chosen]
    optimizer = MuonAdamW(hidden, rest, lr=6e-3, adamw_lr=3e-3)
    total = 0.0
    for step in track(range(steps), "training the feature network"):
        source = generator(0, "features", step)
        rows = torch.randint(len(pictures), (HALF,), generator=source)
        drawing, seen = shapes(HALF, source)
        clean = torch.cat([as_images(pictures[rows.numpy()]), drawing])
        spoilt = spoil(clean, source)
        pooled = net.pooled(spoilt.images.to(memory_format=torch.channels_last))
        loss = loss_of(reader, pooled, labels[rows], seen, spoilt.amounts, clean)
        optimizer.zero_grad()
        loss.backward()
        factor = min(1.0, (step + 1) / 50) * min(1.0, 2 * (1 - step / steps))
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        optimizer.step()
        total += loss.item()
        if (step + 1) % 100 == 0:
            log(f"step {step + 1}: loss {total / 100:.4f}")
            total = 0.0
    return net


@torch.no_grad()
def standardised(net: SmallNet, pictures: np.ndarray) -> SmallNet:
    """The network with the channels that vary over 4,000 unspoilt images, half faces, brought to variance 1.

    A channel that never varies, or that hardly ever does and then wildly (a fourth moment beyond TAILS), is left out:
    its few values would carry the whole error of a cubic kernel.
    """
    source = generator(0, "features", "standardise")
    images = torch.cat([as_images(pictures[:2000]), shapes(2000, source)[0]])
    pooled = torch.cat([net.pooled(part) for part in images.split(250)]).double()
    mean, spread = pooled.mean(0), pooled.std(0)
    tails = (((pooled - mean) / spread.clamp_min(1e-4)) ** 4).mean(0)
    kept = ((spread > 1e-4) & (tails < TAILS)).nonzero().flatten()
    log(f"{len(kept)} of {POOLED} channels are kept")
    final = SmallNet(len(kept))
    weights = {name: value for name, value in net.state_dict().items() if name not in ("kept", "shift", "scale")}
    final.load_state_dict(weights | {"kept": kept, "shift": mean[kept].float(), "scale": 1 / spread[kept].float()})
    return final.eval()


def ship(net: SmallNet, target: Path) -> None:
    """Write the weights as float16; shift and scale stay float32."""
    tensors = {
        name: (value.half() if value.ndim == 4 or name.endswith("bias") else value).contiguous()
        for name, value in net.state_dict().items()
    }
    content = safetensors.torch.save(tensors)
    assert len(content) <= LIMIT, f"{len(content):,} bytes exceed {LIMIT:,}"
    write_file(target, content)
    log(f"{target}: {len(content):,} bytes")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train and ship the built-in feature network.")
    parser.add_argument("--faces", type=int, default=12_000)
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--to", type=Path, default=ROOT / "src/markovae/quality/weights/small.safetensors")
    options = parser.parse_args(arguments)
    pictures = drawn_faces(options.faces)
    labels = face_labels([attributes(FIRST_FACE + i) for i in range(options.faces)])
    ship(standardised(train(pictures, labels, options.steps), pictures), options.to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
