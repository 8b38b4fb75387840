"""What a trained network finds of an information that is known: three clouds of digits, and their number."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.special import xlogy

from markovae.data.images import ImageData
from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.decoder import StepDecoder
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import VELOCITY
from markovae.likelihood.caption_information import block_partners, information_bound, shared_nats
from markovae.likelihood.estimators import Estimator
from markovae.networks.conditioning import Condition
from markovae.networks.mlp import MLP, MLPConfig
from markovae.networks.network import Network
from markovae.training.loop import fit

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MEANS, STD = torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64), 0.18
PIXELS = Pixels(64)
LEVEL_SAMPLINGS = torch.softmax(
    -0.5 * ((PIXELS.to_x(torch.arange(64)) - MEANS[:, None]) / STD) ** 2, 1
)  # P(digit | cloud)
STEPS, K = 400, 16


class Point(Network):
    """An MLP for images of one pixel."""

    stride, num_classes = 1, 3

    def __init__(self) -> None:
        super().__init__()
        self.inner = MLP(MLPConfig(1, 1, width=64, depth=2, num_classes=3))

    def outer_weights(self) -> tuple[Tensor, ...]:
        return self.inner.outer_weights()

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        return self.inner(z.flatten(1), logsnr, condition).reshape(z.shape)


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n images of one pixel and their clouds."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    digit = torch.multinomial(LEVEL_SAMPLINGS[label], 1, generator=generator)
    return digit.reshape(n, 1, 1, 1).numpy().astype(np.uint8), label.numpy()


def entropy(distribution: Tensor) -> Tensor:
    return -xlogy(distribution, distribution).sum(-1)


@pytest.fixture(scope="module")
def trained() -> Diffusion:
    torch.manual_seed(0)
    grid = LogSNRLinear(64, 12.0, -7.0)
    model = Diffusion(Point(), grid, VELOCITY, PosteriorVariance(), StepDecoder(PIXELS), (1, 1, 1))
    images, labels = drawn(4096, seed=1)
    data = ImageData(images, labels, ("left", "middle", "right"), bins=64)
    for _ in fit(model, data, steps=STEPS, batch=256, precision="float32"):
        pass
    return model


@pytest.mark.slow
def test_a_trained_network_stays_below_the_information_and_above_the_entropy(trained: Diffusion):
    images, labels = drawn(384, seed=2)
    x, label, whole = torch.from_numpy(images), torch.from_numpy(labels), {"estimator": Estimator(None), "batch": 8192}
    partner = block_partners(len(x), K)
    rows = torch.arange(partner.shape[1])
    nats = torch.stack([shared_nats(trained, x, Condition(label=label[mates]), rows, **whole) for mates in partner])
    found, truth = (
        information_bound(nats),
        float(entropy(WEIGHTS @ LEVEL_SAMPLINGS) - WEIGHTS @ entropy(LEVEL_SAMPLINGS)),
    )
    assert 0.5 * truth < found.value < truth + 2 * found.stderr
    given = estimate_mean(nats[0])
    assert given.value > float(WEIGHTS @ entropy(LEVEL_SAMPLINGS)) - 2 * given.stderr
