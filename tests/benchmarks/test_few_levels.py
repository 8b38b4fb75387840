"""Steps that are no Gaussians: densities that sum to 1, and at their beginning the Gaussian's own cost."""

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from markovae.diffusion.decoder import DensityDecoder
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import IsotropicVariance, PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA

SHAPE = (2, 8, 8)


class Half(torch.nn.Module):
    """x̂ = z/2."""

    def forward(self, z: torch.Tensor, logsnr: torch.Tensor, condition: object = None) -> torch.Tensor:
        return z / 2


@pytest.fixture
def few_levels(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("few_levels")


@pytest.fixture
def draws(few_levels: Any) -> Any:
    model = Diffusion(Half(), LogSNRLinear(4, 3.0, -3.0), DATA, PosteriorVariance(), DensityDecoder(), SHAPE)
    return few_levels.Draws(model, torch.randn(200, *SHAPE, generator=torch.Generator().manual_seed(0)), "test")


def test_a_head_begins_as_the_isotropic_gaussian(few_levels: Any, draws: Any):
    """Its nats are those of one draw of r; the closed form is their mean over r, and the model's own bound."""
    costs = few_levels.cost(few_levels.Step("gaussian", 2, draws.widths, draws.errors), draws)
    exact = few_levels.gaussian_cost(draws, draws.errors)
    difference = costs - exact
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(len(exact))
    model = Diffusion(Half(), LogSNRLinear(4, 3.0, -3.0), DATA, IsotropicVariance(3), DensityDecoder(), SHAPE)
    logsnr = model.schedule.logsnr
    model.reverse.errors.fit(logsnr[2:], draws.errors)
    kl = sum(
        model.reverse.kl(draws.x, draws.x_hat[k], logsnr[1 + k].expand(200), logsnr[2 + k].expand(200))
        for k in range(3)
    )
    torch.testing.assert_close(exact, kl)


@pytest.mark.parametrize(("kind", "side", "number"), [("gaussian", 1, 0), ("mixture", 1, 0), ("passes", 3, 3)])
def test_densities_integrate_to_one(few_levels: Any, kind: str, side: int, number: int):
    """∫ p(r) dr over both channels of the one pixel of a pass: 1 x 1 images, or the middle of 3 x 3, corners known."""
    torch.manual_seed(0)
    head = few_levels.Step(kind, 2, torch.tensor([0.2, 0.5]), torch.tensor([0.3, 0.4]))
    torch.nn.init.normal_(head.last.weight, std=0.5)
    axis = torch.linspace(-8, 8, 81)
    grid = torch.cartesian_prod(axis, axis)
    x, z, x_hat, r = (value.expand(len(grid), -1, -1, -1).clone() for value in torch.randn(4, 1, 2, side, side))
    r[:, :, side // 2, side // 2] = grid
    log_q = -0.5 * ((grid - x[:, :, side // 2, side // 2]) ** 2 / 0.5 + math.log(2 * math.pi * 0.5)).sum(1)
    with torch.no_grad():
        nats = head.nats(x, r, z, x_hat, *(torch.full((len(grid),), value) for value in (1, number)))
    total = (log_q.double() - nats).exp().sum() * float(axis[1] - axis[0]) ** 2
    assert float(total) == pytest.approx(1, abs=1e-3)


def test_each_pixel_is_drawn_once_after_its_neighbours(few_levels: Any):
    order = few_levels.passes(8, 8)
    assert order.unique().tolist() == [0, 1, 2, 3, 4, 5]
    for number in range(1, 6):
        for i, j in (order == number).nonzero().tolist()[:4]:
            near = [order[(i + a) % 8, (j + b) % 8] for a, b in few_levels.OFFSETS]
            assert any(int(other) < number for other in near), "something near it is known"
    assert int((order == 0).sum()) == 4
