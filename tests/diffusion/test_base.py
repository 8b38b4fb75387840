"""The two variances that need nothing but the schedule, and the divergence formed from x − x̂."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from markovae.diffusion.forward import posterior, step_variance
from markovae.diffusion.gaussian import Gaussian
from markovae.diffusion.reverse import PosteriorVariance, StepVariance
from markovae.randomness import generator

both = pytest.mark.parametrize("reverse", [StepVariance(), PosteriorVariance()], ids=lambda r: type(r).__name__)


def three(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 4, 2, 3, generator=generator(seed, "reverse"), dtype=torch.float64)


@both
@given(now=st.floats(-8, 8), fall=st.floats(0.05, 5), seed=st.integers(0, 99))
def test_the_divergence_is_that_of_the_two_gaussians(reverse, now: float, fall: float, seed: int) -> None:
    x, x_hat, z = three(seed)
    level = torch.full((4,), now, dtype=torch.float64)
    encoder = posterior(x, z, level + fall, level)
    prior = reverse.step(x_hat, z, level + fall, level)
    assert isinstance(prior, Gaussian)
    got = reverse.kl(x, x_hat, level + fall, level)
    torch.testing.assert_close(got, encoder.kl(prior), rtol=1e-8, atol=1e-9)
    assert bool((got >= 0).all())


@pytest.mark.parametrize("before", [33.0, 36.5, 37.5, 60.0])
def test_a_step_over_all_of_the_grid_keeps_its_digits(before: float) -> None:
    """With an exact guess and the step's variance a coordinate costs ½(r − 1 − ln r), r = s²_{ℓ−1}/s²_ℓ."""
    before_level, level = torch.tensor([before, -10.0]).double()
    x = torch.zeros(1, 1, dtype=torch.float64)
    r = math.exp(-before) / (1 + math.exp(-before)) * (1 + math.exp(-10.0))
    expected = 0.5 * (r - 1 - math.log(r))
    assert float(StepVariance().kl(x, x, before_level, level)) == pytest.approx(expected, rel=1e-12)


@given(now=st.floats(-20, 20), fall=st.floats(1e-4, 5), seed=st.integers(0, 99))
def test_with_the_posterior_variance_it_is_half_the_fall_of_the_snr_times_the_square(
    now: float, fall: float, seed: int
) -> None:
    x, x_hat, _ = three(seed)
    level = torch.tensor(now, dtype=torch.float64)
    # γ_{ℓ−1} − γ_ℓ = −γ_{ℓ−1} expm1(λ_ℓ − λ_{ℓ−1})
    before = level + fall
    weight = -0.5 * before.exp() * torch.expm1(level - before)
    expected = weight * ((x - x_hat) ** 2).flatten(1).sum(1)
    torch.testing.assert_close(PosteriorVariance().kl(x, x_hat, before, level), expected, rtol=1e-10, atol=0)


def test_an_exact_guess_costs_the_variances_difference_alone() -> None:
    x, _, _ = three()
    before, level = torch.tensor([1.0, 0.0]).double()
    assert torch.equal(PosteriorVariance().kl(x, x, before, level), torch.zeros(4, dtype=torch.float64))
    ratio = float(torch.sigmoid(-before) / torch.sigmoid(-level))
    expected = 3 * (ratio - 1 - torch.tensor(ratio, dtype=torch.float64).log())
    torch.testing.assert_close(StepVariance().kl(x, x, before, level), expected.expand(4), rtol=1e-12, atol=0)


def test_the_steps_variance_is_the_encoders() -> None:
    _, x_hat, z = three()
    before, level = torch.tensor([1.0, 0.0]).double()
    assert torch.equal(StepVariance().step(x_hat, z, before, level).variance, step_variance(before, level))
