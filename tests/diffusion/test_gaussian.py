"""The three widths of the discretised decoders, and where each convention comes from."""

import math

import pytest
import torch

from markovae.diffusion.decoder import DiscretisedGaussian, HoLargeDecoder, HoSmallDecoder, StepDecoder
from markovae.diffusion.forward import step_variance
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.schedule import LogSNRLinear, linear


def test_the_step_decoder_is_as_wide_as_what_level_one_leaves_unknown() -> None:
    """τ = s_1/a_1 = e^{−λ_1/2}: then ln P(x_k|z_1) with x̂ = z_1/a_1 is Bayes' rule under a flat law of pixels."""
    grid = LogSNRLinear(10, 3.0, -3.0).logsnr
    assert float(StepDecoder(Pixels()).scale(grid)) == pytest.approx(math.exp(-1.5), rel=1e-14)


def test_ho_et_als_widths_are_the_first_beta_and_the_second_levels_posterior() -> None:
    grid = linear(1000).logsnr
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bars = (1 - betas).cumprod(0)
    assert float(HoLargeDecoder(Pixels()).scale(grid)) == pytest.approx(math.sqrt(1e-4), rel=1e-9)
    posterior = float(betas[1] * (1 - bars[0]) / (1 - bars[1]))
    assert float(HoSmallDecoder(Pixels()).scale(grid)) == pytest.approx(math.sqrt(posterior), rel=1e-9)
    assert float(step_variance(grid[0], grid[1])) == pytest.approx(1e-4, rel=1e-9)


def test_the_small_width_needs_a_second_level() -> None:
    with pytest.raises(ValueError, match="measure on at least 2 levels"):
        HoSmallDecoder(Pixels()).scale(LogSNRLinear(1).logsnr)


@pytest.mark.parametrize("kind", [StepDecoder, HoLargeDecoder, HoSmallDecoder])
@pytest.mark.parametrize("centred", [False, True])
def test_each_gives_probabilities_around_x_hat_that_sum_to_one(kind, centred: bool) -> None:
    pixels = Pixels(256, centred)
    x_hat = torch.tensor([[-1.3, -0.2, 0.51, 1.0]], dtype=torch.float64)
    distribution = kind(pixels).distribution(x_hat, LogSNRLinear(10, 9.0, -3.0).logsnr, z=None)
    assert isinstance(distribution, DiscretisedGaussian)
    places = pixels.to_x(torch.arange(256))[:, None].expand(256, 4)
    one = DiscretisedGaussian(x_hat.expand(256, 4), distribution.scale, pixels)
    logs = one.log_probs(places)
    assert float((logs.exp().sum(0) - 1).abs().max()) < 1e-12
    assert torch.equal(places[logs.argmax(0), torch.arange(4)], distribution.mode()[0])
