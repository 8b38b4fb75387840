"""A small classifier, which says whether samples show the class they were asked for.

    python benchmarks/classifier.py DATA

trains it on the training part of DATA (as `markovae train` takes it, with classes) and prints its accuracy on the test
part. It is kept in the cache folder under the hash of its data and recipe. Two minutes on one core for 28×28 pixels.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.config import Config
from markovae.data.cache import entry, key_of
from markovae.data.images import ImageData
from markovae.data.loading import load_data
from markovae.data.split import Splits
from markovae.errors import UserError
from markovae.log import log, track
from markovae.quality.features import content_hash
from markovae.randomness import generator

RECIPE = {"version": 1, "steps": 1500, "batch": 128, "lr": 3e-3, "width": 32, "seed": 0}
BATCH = 256


class ClassNet(nn.Module):
    """Three convolutions, each halving the side, and a linear map of the mean and the largest of their channels."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        widths = (channels, width, 2 * width, 4 * width)
        pairs = list(pairwise(widths))
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=1, padding=1) for a, b in pairs)
        self.norms = nn.ModuleList(nn.GroupNorm(8, b) for _, b in pairs)
        self.out = nn.Linear(2 * widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        for place, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = F.relu(norm(convolution(x)))
            x = F.avg_pool2d(x, 2) if place < 2 else x
        return self.out(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


@dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Args:
        network: images on [−1, 1] -> scores.   bins: digits a pixel can show.   accuracy: on the test part.
    """

    network: ClassNet
    bins: int
    accuracy: float

    @torch.no_grad()
    def classes(self, images: np.ndarray) -> Tensor:
        """The likeliest class of each image, (n,); digits, (n, C, H, W)."""
        starts = range(0, len(images), BATCH)
        parts = [self.network(scaled(images[s : s + BATCH], self.bins)).argmax(1) for s in starts]
        return torch.cat(parts)


def scaled(images: np.ndarray, bins: int) -> Tensor:
    return 2 * torch.from_numpy(np.asarray(images).astype(np.float32)) / (bins - 1) - 1


def classifier_of(data: Splits) -> Classifier:
    """The classifier of these data, trained where it is not in the cache folder yet.

    Raises:
        UserError: for data without classes.
    """
    train = data.train
    if train.labels is None or not train.class_names:
        raise UserError(f"{train.name} has no classes: bring labels, or a folder of folders")
    labels = content_hash(np.asarray(train.labels, dtype=np.int64).reshape(-1, 1, 1, 1))
    name = f"classifier-{key_of([RECIPE, content_hash(train.images), labels])}"

    def make(folder: Path) -> None:
        network = trained(train)
        (folder / "classifier.safetensors").write_bytes(safetensors.torch.save(network.state_dict()))

    network = fresh(train)
    stored = entry(name, make, lambda kept: kept.bytes("classifier.safetensors"))
    network.load_state_dict(safetensors.torch.load(stored))
    made = Classifier(network.eval(), train.bins, 0.0)
    return Classifier(made.network, train.bins, accuracy(made, data.test))


def accuracy(classifier: Classifier, data: ImageData) -> float:
    found = classifier.classes(np.asarray(data.images))
    return float((found == torch.from_numpy(np.asarray(data.labels))).double().mean())


def fresh(train: ImageData) -> ClassNet:
    return ClassNet(train.shape[0], len(train.class_names), int(RECIPE["width"]))


def trained(train: ImageData) -> ClassNet:
    """AdamW with a learning rate that rises and falls once."""
    steps, batch = int(RECIPE["steps"]), int(RECIPE["batch"])
    source = generator(int(RECIPE["seed"]), "classifier")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(RECIPE["seed"]))
        network = fresh(train)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RECIPE["lr"], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RECIPE["lr"], total_steps=steps)
    labels = torch.from_numpy(np.asarray(train.labels))
    for _ in track(range(steps), "training the classifier"):
        rows = torch.randint(len(labels), (batch,), generator=source)
        loss = F.cross_entropy(network(scaled(train.images[rows.numpy()], train.bins)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    options = parser.parse_args()
    data = load_data(Config().with_settings([f"data.source={options.data}"]).data)
    log(f"accuracy on {len(data.test):,} test images: {100 * classifier_of(data).accuracy:.2f} %")


if __name__ == "__main__":
    main()
