"""What a face shows, told from its pixels: the judge of images made from captions.

    python benchmarks/attributes.py [--out docs/results/attributes.json]

trains a small network on 30,000 faces drawn from numbers far beyond those of the data set, keeps it in the cache
folder under the hash of its recipe, and prints how often it is right on the data set's 1,000 test faces, attribute by
attribute. About nine minutes on one core, two of them drawing.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from markovae.data.cache import entry, key_of
from markovae.data.faces import RECIPE, Attributes, attributes, values
from markovae.data.faceset import face_numbers, render
from markovae.log import log, track
from markovae.randomness import generator
from markovae.system.files import make_folder, write_file
from markovae.training.optimizers import MuonAdamW

SIZE = 32
FEATURES = 128
BATCH = 250
MOST_NOISE = 0.1  # on [−1, 1]: samples are no drawings, and the judge must not hang on single grey values


@dataclass(frozen=True)
class JudgeRecipe:
    """How a judge is made.

    Args:
        faces: drawn, from number `first` on.   steps: of training, `batch` faces each.   width: of its convolutions.
    """

    faces: int = 30_000
    first: int = 2_000_000
    steps: int = 4_000
    batch: int = 128
    width: int = 48
    version: int = 2


class FaceNet(nn.Module):
    """Four convolutions over folded pixels, a vector of features, and a linear map to each attribute's scores."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(12, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.shrink = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.third = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, n) for n in (width, width, 2 * width, 2 * width))
        self.gather = nn.Linear(2 * width * (SIZE // 4) ** 2, FEATURES)
        self.scores = nn.Linear(FEATURES, sum(map(len, values().values())))

    def features(self, x: Tensor) -> Tensor:
        """Images on [−1, 1], (B, 3, 32, 32) -> what the scores are linear in, (B, 128), mean 0 and variance 1 each."""
        h = F.pixel_unshuffle(x, 2)
        for layer, norm in zip((self.first, self.second, self.shrink, self.third), self.norms, strict=True):
            h = F.relu(norm(layer(h)))
        return F.layer_norm(self.gather(h.flatten(1)).float(), (FEATURES,))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The scores of each attribute's values."""
        return self.read(self.features(x))

    def read(self, features: Tensor) -> tuple[Tensor, ...]:
        """The scores of each attribute's values, from the features."""
        return self.scores(features).split([len(words) for words in values().values()], dim=1)


@dataclass(frozen=True)
class Judge:
    """A trained network that tells what faces show.

    Args:
        network: images on [−1, 1] -> scores.   digest: that names its recipe.
    """

    network: FaceNet
    digest: str

    @torch.no_grad()
    def tell(self, images: np.ndarray) -> Tensor:
        """The likeliest value of each attribute, (n, 12), by its place in `values()`; images uint8, (n, 3, 32, 32)."""
        return torch.cat([likeliest(self.network(part)) for part in batches(images)])

    @torch.no_grad()
    def tell_by(self, features: Tensor) -> Tensor:
        """As `tell`, from features of images, (n, 128)."""
        return likeliest(self.network.read(features))

    @torch.no_grad()
    def features(self, images: np.ndarray) -> Tensor:
        """Its features of images, (n, 128), float32: the embedding of an image."""
        return torch.cat([self.network.features(part) for part in batches(images)])


def likeliest(scores: Sequence[Tensor]) -> Tensor:
    return torch.stack([each.argmax(1) for each in scores], 1)


def batches(images: np.ndarray) -> list[Tensor]:
    return [scaled(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]


def scaled(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(images)).float() / 127.5 - 1


def labels_of(shown: Sequence[Attributes]) -> Tensor:
    """The place of each attribute's value in `values()`, (n, 12)."""
    words = values()
    return torch.tensor([[words[name].index(getattr(face, name)) for name in words] for face in shown])


def judge_of(recipe: JudgeRecipe | None = None) -> Judge:
    """The judge of a recipe, trained where it is not in the cache folder yet."""
    recipe = JudgeRecipe() if recipe is None else recipe
    digest = key_of([RECIPE, FEATURES, MOST_NOISE, vars(recipe)])

    def make(folder: Path) -> None:
        network = trained(drawn(recipe), recipe)
        (folder / "judge.safetensors").write_bytes(safetensors.torch.save(network.state_dict()))

    network = FaceNet(recipe.width)
    stored = entry(f"judge-{digest}", make, lambda kept: kept.bytes("judge.safetensors"))
    network.load_state_dict(safetensors.torch.load(stored))
    return Judge(network.eval(), digest)


def drawn(recipe: JudgeRecipe) -> np.ndarray:
    """The faces it learns from, uint8, drawn once."""

    def make(folder: Path) -> None:
        numbers = track(range(recipe.first, recipe.first + recipe.faces), "drawing faces")
        np.save(folder / "images.npy", np.stack([render(i, SIZE) for i in numbers]), allow_pickle=False)

    name = f"judge-faces-{key_of([RECIPE, recipe.first, recipe.faces])}"
    return entry(name, make, lambda kept: kept.array("images.npy"))


def trained(pictures: np.ndarray, recipe: JudgeRecipe) -> FaceNet:
    """Cross-entropy of every attribute, under blur and noise of random strength; the rate falls from the half on."""
    truth = labels_of([attributes(recipe.first + i) for i in range(recipe.faces)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FaceNet(recipe.width)
    hidden = [network.second.weight, network.shrink.weight, network.third.weight, network.gather.weight]
    chosen = {id(weight) for weight in hidden}
    rest = [weight for weight in network.parameters() if id(weight) not in chosen]
    optimizer = MuonAdamW(hidden, rest, lr=6e-3, adamw_lr=3e-3)
    total = 0.0
    for step in track(range(recipe.steps), "training the judge"):
        source = generator(0, "judge", step)
        rows = torch.randint(len(pictures), (recipe.batch,), generator=source)
        images = scaled(pictures[rows.numpy()])
        width = MOST_NOISE * torch.rand(recipe.batch, 1, 1, 1, generator=source)
        soft = torch.rand(recipe.batch, 1, 1, 1, generator=source)
        images = images + soft * (blurred(images) - images) + width * torch.randn(images.shape, generator=source)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = network(images)
        losses = [F.cross_entropy(s.float(), truth[rows, i]) for i, s in enumerate(scores)]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        factor = min(1.0, (step + 1) / 50) * min(1.0, 2 * (1 - step / recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        optimizer.step()
        total += loss.item()
        if (step + 1) % 200 == 0:
            log(f"step {step + 1}: loss {total / 200:.4f}")
            total = 0.0
    return network.eval()


def blurred(images: Tensor) -> Tensor:
    """Each pixel and its neighbours by (1, 4, 1)/6 along both sides, edges repeated."""
    framed = F.pad(images, (1, 1, 1, 1), mode="replicate")
    high = (framed[:, :, :-2] + 4 * framed[:, :, 1:-1] + framed[:, :, 2:]) / 6
    return (high[..., :-2] + 4 * high[..., 1:-1] + high[..., 2:]) / 6


def share(right: Tensor) -> dict[str, float]:
    """Mean of zeros and ones and its standard error."""
    right = right.double()
    return {"mean": float(right.mean()), "stderr": math.sqrt(float(right.var()) / len(right))}


def accuracies(told: Tensor, truth: Tensor) -> dict[str, dict[str, float]]:
    """How often each attribute is right."""
    return {name: share(told[:, i] == truth[:, i]) for i, name in enumerate(values())}


def confusions(told: Tensor, truth: Tensor, words: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Every pair of values that was taken for one another, the most frequent first."""
    found = []
    for i, (name, known) in enumerate(words.items()):
        wrong = told[:, i] != truth[:, i]
        pairs, counts = torch.stack([truth[wrong, i], told[wrong, i]], 1).unique(dim=0, return_counts=True)
        for (was, said), count in zip(pairs.tolist(), counts.tolist(), strict=True):
            of = int((truth[:, i] == was).sum())
            found.append({"attribute": name, "shown": known[was], "told": known[said], "times": count, "of": of})
    return sorted(found, key=lambda pair: -pair["times"])


def spoilt(images: np.ndarray) -> dict[str, np.ndarray]:
    """Images as a model may get them: under noise of 13 grey values, and blurred."""
    noise = 13 * torch.randn(images.shape, generator=generator(0, "judge", "noise")).numpy()
    found = {"noise of 13 grey values": images + noise, "blur": blurred(torch.from_numpy(images).double()).numpy()}
    return {name: each.round().clip(0, 255).astype(np.uint8) for name, each in found.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("attributes.json"))
    parser.add_argument("--n", type=int, default=1000, help="test faces")
    for name in ("faces", "steps", "width"):
        parser.add_argument(f"--{name}", type=int, default=getattr(JudgeRecipe, name), help="of the recipe")
    options = parser.parse_args(arguments)
    recipe = JudgeRecipe(faces=options.faces, steps=options.steps, width=options.width)
    judge = judge_of(recipe)
    numbers = face_numbers(SIZE)[2][: options.n]
    truth = labels_of([attributes(number) for number in numbers])
    images = np.stack([render(number, SIZE) for number in numbers])
    told = judge.tell(images)
    record = {
        "recipe": vars(recipe),
        "digest": judge.digest,
        "n": len(numbers),
        "accuracy": accuracies(told, truth),
        "confusions": confusions(told, truth, values()),
        "spoilt": {name: accuracies(judge.tell(each), truth) for name, each in spoilt(images).items()},
    }
    for name, found in record["accuracy"].items():
        log(f"{name}: {100 * found['mean']:.2f} ± {100 * found['stderr']:.2f} %")
    make_folder(options.out.parent)
    write_file(options.out, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


if __name__ == "__main__":
    main()
