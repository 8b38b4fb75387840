"""Thresholds around a denoiser: off unless asked for."""

import pytest
import torch

from markovae.diffusion.reverse import FullVariance
from markovae.sampling.denoiser import Clipped, DynamicallyClipped
from markovae.sampling.generation import final_latents, sample_trajectory
from markovae.sampling.grids import rho_grid
from markovae.sampling.plans import plan
from markovae.sampling.samplers import DDIM, trajectory
from markovae.theory.mixture import Mixture


class Fixed:
    """A denoiser that always guesses the same."""

    def __init__(self, x_hat):
        self.x_hat = x_hat

    def predict(self, z, logsnr, condition=None):
        return self.x_hat, None


def test_nothing_is_clipped_by_default():
    wide = Fixed(torch.tensor([[3.0, -0.2]]))
    assert torch.equal(final_latents(trajectory(wide, torch.zeros(1, 2), rho_grid(9, -9, 5), DDIM(), None)), wide.x_hat)


def test_static_threshold():
    x_hat, _ = Clipped(Fixed(torch.tensor([[3.0, -0.2, -1.4]])), 1.2).predict(torch.zeros(1, 3), torch.tensor(0.0))
    torch.testing.assert_close(x_hat, torch.tensor([[1.2, -0.2, -1.2]]))


def test_dynamic_threshold_scales_an_example_that_overshoots_and_leaves_others():
    guess = torch.stack([torch.linspace(-0.9, 0.9, 101), torch.linspace(-4, 4, 101)])
    x_hat, _ = DynamicallyClipped(Fixed(guess), 0.9).predict(guess, torch.tensor(0.0))
    assert torch.equal(x_hat[0], guess[0])
    reach = torch.quantile(guess[1].abs(), 0.9)
    torch.testing.assert_close(x_hat[1], (guess[1] / reach).clamp(-1, 1))


def test_a_solver_does_not_pay_for_a_jacobian_it_does_not_read(model_of, monkeypatch):
    model = model_of(Mixture.line([0.5, 0.5], [-0.5, 0.5], [0.2, 0.2]), reverse=FullVariance())
    monkeypatch.setattr("markovae.diffusion.model.jacobian", lambda *_: pytest.fail("the Jacobian was worked out"))
    assert final_latents(sample_trajectory(model, range(3), plan(model, "dpmpp2m", 5))).shape == (3, 1)


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5])
def test_bad_thresholds_are_refused(value):
    with pytest.raises(ValueError, match="quantile="):
        DynamicallyClipped(Fixed(torch.zeros(1, 1)), value)
    if value <= 0:
        with pytest.raises(ValueError, match="limit="):
            Clipped(Fixed(torch.zeros(1, 1)), value)
