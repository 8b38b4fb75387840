"""The fixed linear estimates of the noise: what they estimate, where they are exact, and that they begin as nothing."""

import math

import pytest
import torch

from markovae.errors import UserError
from markovae.networks.dit import DiT
from markovae.networks.network_config import DataSpec, DiTConfig, NetworkConfig
from markovae.networks.spectral import Spectral, color_basis, cosine_transform, natural_spectrum
from markovae.networks.unet import UNet


def test_an_estimate_is_the_posterior_mean_of_gaussian_images_of_its_power() -> None:
    # Dense, in pixels: E[ε | z] = s (a² Σ + s² I)⁻¹ z with Σ of the images, color and position alike.
    spectral, height, width, logsnr = Spectral(3, 2), 4, 6, 3.0
    z = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = spectral(z, torch.tensor([logsnr]))
    assert made.shape == (1, 2, 3, height, width)
    basis = torch.kron(color_basis(), torch.kron(cosine_transform(height), cosine_transform(width)))
    signal, noise = torch.sigmoid(torch.tensor([logsnr, -logsnr], dtype=torch.float64))
    for k, power in enumerate(spectral.powers):
        covariance = basis.T @ torch.diag(power * natural_spectrum(3, height, width).flatten()) @ basis
        total = signal * covariance + noise * torch.eye(z.numel(), dtype=torch.float64)
        expected = noise.sqrt() * torch.linalg.solve(total, z.flatten())
        torch.testing.assert_close(spectral.from_colors(made[:, k]).flatten(), expected, rtol=1e-10, atol=1e-12)


def test_transforms_are_orthonormal_and_colors_come_back() -> None:
    for n in (1, 5, 8):
        transform = cosine_transform(n)
        torch.testing.assert_close(transform @ transform.T, torch.eye(n, dtype=torch.float64))
    z = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    spectral = Spectral(3, 1)
    torch.testing.assert_close(spectral.from_colors(spectral.to_colors(z)), z)
    grey = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    torch.testing.assert_close(spectral.to_colors(grey)[:, 1:], torch.zeros(1, 2, 2, 2, dtype=torch.float64))
    assert Spectral(1, 1).to_colors(z[:, :1]) is not None


@pytest.mark.parametrize("logsnr", [-math.inf, -10.0, 0.0, 8.0, 13.3, math.inf])
def test_estimates_stay_of_order_one_at_every_log_snr(logsnr: float) -> None:
    spectral, at = Spectral(3, 3), torch.tensor([logsnr])
    signal, noise = torch.sigmoid(at).sqrt(), torch.sigmoid(-at).sqrt()
    transform, generator = cosine_transform(16).float(), torch.Generator().manual_seed(1)
    coefficients = torch.randn(1, 3, 16, 16, generator=generator) * natural_spectrum(3, 16, 16).sqrt().float()
    x = spectral.from_colors(transform.T @ coefficients @ transform)
    made = spectral(signal * x + noise * torch.randn(x.shape, generator=generator), at)
    assert bool(made.isfinite().all())
    for k, power in enumerate(spectral.powers):
        assert float(made[:, k].std()) < 1.1 * max(1, (1 / power + 1) / 2)


def test_a_network_with_estimates_begins_at_zero_and_can_be_linear_at_once() -> None:
    torch.manual_seed(0)
    network = UNet(NetworkConfig(width=8, blocks=1, spectral=2), DataSpec(size=(9, 7)))
    z, logsnr = torch.randn(2, 3, 9, 7), torch.tensor([2.0, 6.0])
    with torch.no_grad():
        assert float(network(z, logsnr).abs().max()) == 0
        assert network.gains is not None
        network.gains.bias[1] = 1.0  # of the first estimate; [0] is the latent's own
        estimates = network._estimates(z, logsnr)
        assert estimates is not None
        assert network.spectral is not None
        torch.testing.assert_close(network(z, logsnr), network.spectral.from_colors(estimates[:, 0]))
    assert any(weight is network.gains.weight for weight in network.outer_weights())


def test_a_head_of_the_variance_gets_nothing_linear_and_the_transformer_takes_estimates() -> None:
    for network in (
        UNet(NetworkConfig(width=8, blocks=1, spectral=1), DataSpec(out_channels=6, size=(8, 8))),
        DiT(DiTConfig(width=8, depth=1, head_dim=4, spectral=1), DataSpec(out_channels=6, size=(8, 8))),
    ):
        assert network.gains is not None
        with torch.no_grad():
            network.gains.bias.fill_(1.0)
            out = network(torch.randn(1, 3, 8, 8), torch.zeros(1))
        assert float(out[:, :3].abs().max()) > 0.1
        assert float(out[:, 3:].abs().max()) == 0


def test_autocast_leaves_the_estimates_alone() -> None:
    spectral, z, at = Spectral(3, 2), torch.randn(1, 3, 8, 8), torch.tensor([12.0])
    with torch.autocast("cpu", torch.bfloat16):
        inside = spectral(z, at)
    assert torch.equal(inside, spectral(z, at))


def test_a_number_of_estimates_out_of_range_is_refused() -> None:
    with pytest.raises(UserError, match=r"network\.spectral=9 must lie in 0…8"):
        NetworkConfig(spectral=9)
    with pytest.raises(UserError, match=r"network\.dit\.spectral=-1 must lie in 0…8"):
        DiTConfig(spectral=-1)
