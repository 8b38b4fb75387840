"""Models with exact denoisers, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from markovae.diffusion.decoder import StepDecoder
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import PosteriorVariance, ReverseVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA
from markovae.networks.conditioning import Condition
from markovae.theory.mixture import Denoiser, Mixture, Toy


class CountingModel:
    """A denoiser that counts its calls."""

    def __init__(self, toy: Toy) -> None:
        self.toy, self.calls = toy, 0

    def predict(self, z: Tensor, logsnr: Tensor, condition: object = None) -> tuple[Tensor, None]:
        self.calls += 1
        return self.toy.denoise(z, logsnr).to(z.dtype), None


class ClassDenoiser(nn.Module):
    """E[x|z, class] for two classes, and E[x|z] of their mixture without one."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.whole = Mixture.line([0.5, 0.5], [-0.6, 0.6], [0.1, 0.1])
        self.parts = [Mixture.line([1.0], [mean], [0.1]) for mean in (-0.6, 0.6)]

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        if condition is None or condition.label is None:
            return self.whole.denoise(z, logsnr)
        first, second = (part.denoise(z, logsnr) for part in self.parts)
        return torch.where(condition.label[:, None] == 0, first, second)


def make_model(
    network: nn.Module,
    shape: tuple[int, ...],
    levels: int = 1000,
    start: float = 13.3,
    end: float = -10.0,
    reverse: ReverseVariance | None = None,
) -> Diffusion:
    schedule = LogSNRLinear(levels, start, end)
    model = Diffusion(network, schedule, DATA, reverse or PosteriorVariance(), StepDecoder(Pixels(256)), shape)
    model.precision = torch.float64
    return model


@pytest.fixture
def model_of() -> Callable[..., Diffusion]:
    """(toy, levels, start, end, reverse) -> a model with the toy's exact denoiser."""
    return lambda toy, *args, **kwargs: make_model(Denoiser(toy), toy.shape, *args, **kwargs)


@pytest.fixture
def counting() -> type[CountingModel]:
    return CountingModel


@pytest.fixture
def class_model() -> Diffusion:
    """Two classes on a line, around −0.6 (class 0) and 0.6."""
    return make_model(ClassDenoiser(), (1,))


@pytest.fixture
def gaussian() -> Mixture:
    """A correlated Gaussian in the plane, off the origin."""
    return Mixture.gaussian(torch.tensor([0.3, -0.2]), torch.tensor([[0.25, 0.12], [0.12, 0.09]]))


@pytest.fixture
def mixture() -> Mixture:
    """Two correlated clouds in the plane."""
    covariances = torch.tensor([[[0.09, 0.02], [0.02, 0.05]], [[0.04, -0.02], [-0.02, 0.1]]])
    return Mixture.full(torch.tensor([0.3, 0.7]).double(), torch.tensor([[-0.6, 0.2], [0.5, -0.3]]), covariances)
