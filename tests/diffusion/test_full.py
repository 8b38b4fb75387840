"""The full covariance: the true step of Gaussian data, whatever the stride."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.diffusion.decoder import DensityDecoder
from markovae.diffusion.gaussian import FullGaussian
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import FullVariance, PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA
from markovae.randomness import generator
from markovae.theory.mixture import Denoiser, Mixture

GAUSS = Mixture.gaussian(torch.tensor([0.2, -0.3]), torch.tensor([[0.5, 0.3], [0.3, 0.4]]))
MIXED = Mixture.full(
    torch.tensor([0.4, 0.6]),
    torch.tensor([[1.0, 0.0], [-0.5, 0.5]]),
    torch.tensor([[[0.2, 0.1], [0.1, 0.3]], [[0.4, -0.1], [-0.1, 0.1]]]),
)


def model(toy: Mixture, levels: int = 9) -> Diffusion:
    made = Diffusion(Denoiser(toy), LogSNRLinear(levels, 6.0, -6.0), DATA, FullVariance(), DensityDecoder(), (2,))
    made.precision = torch.float64
    return made


@pytest.mark.parametrize("toy", [GAUSS, MIXED])
def test_jacobian_gives_the_posterior_covariance(toy):
    diffusion = model(toy)
    z = torch.randn(6, 2, generator=generator(0, "full"), dtype=torch.float64)
    logsnr = torch.linspace(3, -3, 6, dtype=torch.float64)
    _, head = diffusion.predict(z, logsnr)
    values, vectors = diffusion.reverse.covariance(logsnr, head)
    found = (vectors * values[:, None]) @ vectors.mT
    torch.testing.assert_close(found, toy.covariance(z, logsnr), rtol=1e-9, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(step=st.floats(0.05, 8), logsnr=st.floats(-5, 5))
def test_step_is_the_truth_for_gaussian_data(step, logsnr):
    diffusion = model(GAUSS)
    z = torch.randn(4, 2, generator=generator(0, "full"), dtype=torch.float64)
    now = torch.tensor(logsnr, dtype=torch.float64)
    x_hat, head = diffusion.predict(z, now)
    z_prev = torch.randn(4, 2, generator=generator(1, "full"), dtype=torch.float64)
    found = diffusion.reverse.step(x_hat, z, now + step, now, head).log_prob(z_prev)
    expected = GAUSS.reverse(z, now + step, now).log_prob(z_prev)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_kl_is_that_of_full_gaussians():
    diffusion = model(MIXED)
    z = torch.randn(5, 2, generator=generator(0, "full"), dtype=torch.float64)
    x = torch.randn(5, 2, generator=generator(1, "full"), dtype=torch.float64)
    now = torch.full((5,), 0.5, dtype=torch.float64)
    x_hat, head = diffusion.predict(z, now)
    found = diffusion.reverse.kl(x, x_hat, now + 1, now, head)
    step = diffusion.reverse.step(x_hat, z, now + 1, now, head)
    posterior = PosteriorVariance().step(x, z, now + 1, now)
    eye = torch.eye(2, dtype=torch.float64)
    expected = FullGaussian(posterior.mean, posterior.variance[..., None] * eye).kl(step.flat)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_draws_keep_the_shape_and_type():
    toy = Mixture.gaussian(torch.zeros(1, 2, 2), torch.eye(4) + 0.5)
    diffusion = Diffusion(Denoiser(toy), LogSNRLinear(5), DATA, FullVariance(), DensityDecoder(), (1, 2, 2))
    diffusion.precision = torch.float64
    z = torch.zeros(20_000, 1, 2, 2, dtype=torch.float64)
    now = torch.tensor(0.0, dtype=torch.float64)
    x_hat, head = diffusion.predict(z, now)
    drawn = diffusion.reverse.step(x_hat, z, now + 1, now, head).sample(generator(0, "draw"))
    assert drawn.shape == z.shape
    expected = toy.reverse(z[:1], now + 1, now)
    covariance = torch.cov(drawn.flatten(1).T)
    torch.testing.assert_close(covariance, expected.covariance()[0], rtol=0.1, atol=0.01)


def test_needs_a_jacobian():
    now = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="Jacobian"):
        FullVariance().kl(torch.zeros(1, 2), torch.zeros(1, 2), now + 1, now)
