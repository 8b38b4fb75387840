"""Three diffusions that make a face of a caption: a prior, a decoder and an enlarger, and the chain of them.

    caption → vector v of the sentence → prior: image embedding e given v → decoder: 32×32 image given e
            → enlarger: 64×64 image given the 32×32 one

e is what the judge of faces (`attributes.py`) sees in an image before it names attributes, 128 numbers, brought to mean
0 and deviation SPREAD and written as one row of 16-bit digits, so that the prior is a `Diffusion` like any other,
trained by the same loop. The enlarger sees its small image under a little noise, in training as in sampling, since what
the decoder makes is not quite what faces are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from attributes import FEATURES, Judge
from markovae.data.faceset import box_halve
from markovae.data.images import ImageData
from markovae.diffusion.decoder import StepDecoder
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear, fine_logsnr
from markovae.diffusion.target import VELOCITY
from markovae.networks.conditioning import Condition, Conditioning, TextConditioner
from markovae.networks.mlp import MLP, MLPConfig
from markovae.networks.network import Network
from markovae.networks.network_config import DataSpec, NetworkConfig
from markovae.networks.unet import UNet
from markovae.randomness import Streams, generator
from markovae.sampling.generation import final_latents, sample_trajectory
from markovae.sampling.guidance import Guidance, guided
from markovae.sampling.plans import Plan, plan
from markovae.text.conditioner import captions_of

STAGES = ("prior", "decoder", "enlarger")
LEVELS, END = 1000, -10.0
ROW_BINS, ROW_START = 65_536, 10.0
SPREAD = 1 / 3  # deviation of the embedding on the scale [−1, 1]: what lies beyond three deviations is cut off
NOISE = 0.1  # on the enlarger's small image
CHUNK = 500


@dataclass(frozen=True)
class Sizes:
    """How large the three networks are.

    Args:
        row: units of the prior's layers, `depth` of them.   width, large_width: of the U-Nets at 32 and 64 pixels.
    """

    row: int = 256
    depth: int = 6
    width: int = 64
    large_width: int = 32
    embedding: int = 128


@final
class RowMLP(Network):
    """An MLP for rows (B, 1, 1, D)."""

    stride, num_classes = 1, 0

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.inner = MLP(config)

    def outer_weights(self) -> tuple[Tensor, ...]:
        return self.inner.outer_weights()

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        return self.inner(z.flatten(1), logsnr, condition).reshape(z.shape)


def stage_model(stage: str, sizes: Sizes, vector_dim: int, seed: int = 0) -> Diffusion:
    """A fresh model of a stage; its first weights are a function of the seed.

    Args:
        vector_dim: size of a caption's vector, which the prior is given.
    """
    unet: dict[str, Any] = {"embedding": sizes.embedding, "attention": ()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "two stages", stage).initial_seed())
        if stage == "prior":
            shape: tuple[int, ...] = (1, 1, FEATURES)
            network: Network = RowMLP(MLPConfig(FEATURES, FEATURES, sizes.row, sizes.depth, vector_dim=vector_dim))
        elif stage == "decoder":
            shape = (3, 32, 32)
            network = UNet(NetworkConfig(width=sizes.width, **unet), DataSpec(vector_dim=FEATURES))
        else:
            shape = (3, 64, 64)
            network = UNet(NetworkConfig(width=sizes.large_width, **unet), DataSpec(size=(64, 64), image_channels=3))
    pixels = Pixels(ROW_BINS if stage == "prior" else 256)
    start = ROW_START if stage == "prior" else fine_logsnr(pixels.half_width)
    schedule = LogSNRLinear(LEVELS, start, END)
    # Rows lie in [−1, 1]; far from its captions the prior's guess does not, and sampling would carry it away.
    clip = 1.0 if stage == "prior" else None
    return Diffusion(network, schedule, VELOCITY, PosteriorVariance(), StepDecoder(pixels), shape, clip=clip)


@dataclass(frozen=True)
class Embedding:
    """Between the judge's features and the rows that the prior makes.

    Args:
        mean, deviation: of the features of the training faces, (128,).
        reach: the length of the longest of their embeddings.
    """

    mean: Tensor
    deviation: Tensor
    reach: float

    @classmethod
    def of(cls, features: Tensor) -> Embedding:
        mean, deviation = features.mean(0), features.std(0).clamp_min(1e-6)
        return cls(mean, deviation, float(((features - mean) / deviation).norm(dim=1).max()))

    def standard(self, features: Tensor) -> Tensor:
        """Features as the decoder is given them: mean 0, deviation 1."""
        return (features - self.mean) / self.deviation

    def features(self, standard: Tensor) -> Tensor:
        """Back to the judge's features."""
        return standard * self.deviation + self.mean

    def rows(self, features: Tensor) -> np.ndarray:
        """Features as rows of digits, (n, 1, 1, 128), uint16."""
        x = self.standard(features) * SPREAD
        return Pixels(ROW_BINS).to_pixel_values(x)[:, None, None].numpy().astype(np.uint16)

    def given(self, x: Tensor) -> Condition:
        """Rows on the model's scale, (B, 1, 1, 128), as what the decoder is given.

        No face is longer than `reach`; what the prior makes of words unlike its captions may be, and is shortened.
        """
        vector = x.flatten(1) / SPREAD
        return Condition(vector=vector * (self.reach / vector.norm(dim=1, keepdim=True)).clamp(max=1))


@final
class Small(Conditioning):
    """The small images of N large ones, enlarged without more ado, under noise that each draw makes anew.

    Args:
        images: uint8, (N, 3, h, w).   rows: the images meant; None is all.
    """

    def __init__(self, images: np.ndarray, rows: np.ndarray | None = None) -> None:
        self._images = images
        self._rows = np.arange(len(images)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> Small:
        return Small(self._images, self._rows[rows])

    def condition(self) -> Condition:
        return self.draw(torch.zeros(len(self)))

    def draw(self, uniform: Tensor) -> Condition:
        keys = (uniform.double() * 2**53).long().tolist()
        return beside(self._images[self._rows], Streams(0, "small image", keys))


def beside(images: np.ndarray, source: Streams) -> Condition:
    """Small images, uint8, as the enlarger sees them: every pixel four times, under noise."""
    x = Pixels().to_x(torch.from_numpy(images), torch.float32)
    x = x + NOISE * source.normal(tuple(x.shape[1:]), torch.float32)
    return Condition(image=x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def vectors(text_conditioner: TextConditioner, captions: Sequence[str]) -> Tensor:
    """The vector of each caption, (n, C); of the rest of what the encoder says nothing is kept."""
    known = text_conditioner.captions(captions)
    parts = [known[slice(start, start + CHUNK)].condition().vector for start in range(0, len(captions), CHUNK)]
    return torch.cat([part for part in parts if part is not None])


def stage_data(
    stage: str, small: ImageData, large: Callable[[], ImageData], judge: Judge, text_conditioner: TextConditioner
) -> tuple[ImageData, Embedding]:
    """What a stage is trained on, and the embedding.

    Args:
        small: the training faces at 32 pixels, with captions.   large: gives those at 64, where they are needed.
    """
    features = judge.features(np.asarray(small.images))
    embedding = Embedding.of(features)
    if stage == "enlarger":
        images = np.asarray(large().images)
        halves = np.stack([box_halve(image) for image in images])
        return ImageData(images, conditioning=Small(halves), name="large faces"), embedding
    if stage == "decoder":
        given = Condition(vector=embedding.standard(features))
        return ImageData(np.asarray(small.images), conditioning=given, name="faces"), embedding
    said = [captions_of(text) for text in small.captions or ()]  # each caption of a face is an example
    rows = np.repeat(embedding.rows(features), [len(captions) for captions in said], axis=0)
    told = Condition(vector=vectors(text_conditioner, list(itertools.chain.from_iterable(said))))
    return ImageData(rows, bins=ROW_BINS, conditioning=told, name="embeddings"), embedding


@dataclass(frozen=True)
class Chain:
    """The three models as one: image i is a function of (seed, i), its caption and the sampler.

    Args:
        models: by stage.   embedding: between prior and decoder.   text_conditioner: of captions.
        sampler: its name, and `steps` of it a stage.   guidance: of the prior and of the decoder.
    """

    models: dict[str, Diffusion]
    embedding: Embedding
    text_conditioner: TextConditioner
    sampler: str
    steps: int
    guidance: tuple[float, float]
    seed: int = 0

    def embeddings(self, numbers: Sequence[int], captions: Sequence[str]) -> Condition:
        """What the prior makes of captions."""
        told = self.text_conditioner.prompts(captions)
        return self.embedding.given(self._drawn("prior", numbers, Condition(vector=told.vector, keep=told.keep)))

    def faces(self, numbers: Sequence[int], given: Condition | None) -> Tensor:
        """What the decoder makes of embeddings, or of nothing, on the model's scale, (B, 3, 32, 32)."""
        return self._drawn("decoder", numbers, given)

    def enlarged(self, numbers: Sequence[int], faces: np.ndarray) -> Tensor:
        """What the enlarger makes of 32×32 images, uint8, on the model's scale, (B, 3, 64, 64)."""
        source = Streams(self._seed("small image"), "small image", list(numbers))
        return self._drawn("enlarger", numbers, beside(faces, source))

    def _drawn(self, stage: str, numbers: Sequence[int], condition: Condition | None) -> Tensor:
        model = self.models[stage]
        chosen: Plan = plan(model, self.sampler, self.steps)
        weight = dict(zip(STAGES, (*self.guidance, 1.0), strict=True))[stage] if condition is not None else 1.0
        condition = None if condition is None else condition.to(model.device)
        with evaluating(model):
            denoiser = guided(model, condition, Guidance(weight))
            return (
                final_latents(sample_trajectory(model, numbers, chosen, self._seed(stage), condition, denoiser))
                .float()
                .cpu()
            )

    def _seed(self, purpose: str) -> int:
        """Stages share one seed and no noise."""
        return generator(self.seed, "two stages", purpose).initial_seed()
