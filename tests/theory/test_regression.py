"""Affine predictors of Gaussian data, and how large gradients are at the output and at the parameters."""

import pytest
import torch

from markovae.diffusion.forward import noised
from markovae.diffusion.objective import literal_sample
from markovae.diffusion.schedule import LogSNRLinear, NoiseSchedule, constant
from markovae.diffusion.target import MEAN, NOISE, STEP_NOISE, TARGETS, noise_ratio
from markovae.randomness import generator
from markovae.theory.regression import (
    Affine,
    Data,
    jacobian_squares,
    least_squares,
    mean_loss_gradient,
    noise_loss_gradient,
    on_mean,
    on_previous,
    on_step_noise,
    output_gradient,
    output_ratio,
    parameter_ratio,
)

SCHEDULES = [LogSNRLinear(40, 8.0, -8.0), constant(num_levels=40, delta=0.02), constant(num_levels=1000, delta=0.01)]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=["log-SNR linear", "constant 40", "constant 1000"])


def data() -> Data:
    root = torch.randn(3, 3, generator=generator(0, "root"), dtype=torch.float64)
    return Data(torch.tensor([0.5, -1.0, 0.2]).double(), root @ root.T / 3 + 0.05 * torch.eye(3, dtype=torch.float64))


def pairs(schedule: NoiseSchedule) -> list[tuple[torch.Tensor, torch.Tensor]]:
    grid = schedule.logsnr
    return [(grid[level - 1], grid[level]) for level in range(2, schedule.num_levels + 1)]


def assert_same(one: Affine, other: Affine) -> None:
    torch.testing.assert_close(one.weight, other.weight, rtol=0, atol=1e-9)
    torch.testing.assert_close(one.offset, other.offset, rtol=0, atol=1e-9)


@schedules
def test_all_targets_imply_the_exact_denoiser(schedule: NoiseSchedule) -> None:
    """E[x|z] = m + a S (a² S + s² I)⁻¹ (z − a m) for Gaussian data."""
    distribution = data()
    for prev, now in pairs(schedule)[:: max(1, schedule.num_levels // 40)]:
        a = torch.sigmoid(now).sqrt()
        weight = a * torch.linalg.solve(distribution.latent_covariance(now), distribution.covariance).T
        exact = Affine(weight, distribution.mean - a * weight @ distribution.mean)
        for target in TARGETS:
            assert_same(on_mean(distribution, target, prev, now).as_x(target, prev, now), exact)


@pytest.mark.parametrize("level", [2, 10, 25, 40])
def test_sampled_targets_find_it_within_four_predicted_standard_errors(level: int) -> None:
    """From the lecture's literal draws; the raw target's wider interval is predicted too."""
    schedule, distribution, count = LogSNRLinear(40, 6.0, -6.0), data(), 20_000
    g = generator(level, "sampled")
    x = (
        distribution.mean
        + torch.randn(count, 3, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(distribution.covariance).T
    )
    before, step = torch.randn(2, count, 3, generator=g, dtype=torch.float64)
    draw = literal_sample(torch.full((count,), level), before, step, schedule)
    assert draw.fresh is not None
    prev, now = schedule.logsnr[level - 1], schedule.logsnr[level]
    z = noised(x, draw.noise, now)
    for target, truth in (
        (MEAN, on_previous(distribution, prev, now)),
        (STEP_NOISE, on_step_noise(distribution, prev, now)),
    ):
        raw = least_squares(z, target.of_sample(x, draw.noise, draw.fresh, now, prev))
        blackwell = least_squares(z, target.of(x, draw.noise, now, prev))
        assert float(raw.deviation(truth).abs().max()) < 4
        assert float(blackwell.deviation(truth).abs().max()) < 4
        assert bool((raw.stderr > blackwell.stderr).all())


def test_deviations_are_of_order_one() -> None:
    """The predicted standard errors are neither too wide nor too narrow: over many fits their squares average one."""
    distribution = data()
    prev, now = torch.tensor(1.0).double(), torch.tensor(0.5).double()
    squares = []
    for seed in range(200):
        g = generator(seed, "repeat")
        x = (
            distribution.mean
            + torch.randn(300, 3, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(distribution.covariance).T
        )
        noise, fresh = torch.randn(2, 300, 3, generator=g, dtype=torch.float64)
        fit = least_squares(noised(x, noise, now), STEP_NOISE.of_sample(x, noise, fresh, now, prev))
        squares.append((fit.deviation(on_step_noise(distribution, prev, now)) ** 2).mean())
    assert float(torch.stack(squares).mean()) == pytest.approx(1, abs=0.1)


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="4 draws for 4 unknowns"):
        least_squares(torch.zeros(4, 3), torch.zeros(4, 3))


SCHEDULE = constant(num_levels=20, delta=0.05)


def predicted_noise(z: torch.Tensor, logsnr: torch.Tensor) -> torch.Tensor:
    """An imperfect ε̂: the exact one for data of variance 0.5, told data of variance 1."""
    return 0.8 * torch.sigmoid(-logsnr).sqrt() * z


def test_second_moments_at_the_output_follow_the_formula_at_twenty_levels() -> None:
    count, dims, grid = 20_000, 8, SCHEDULE.logsnr
    for level in range(1, 21):
        g = generator(level, "ratio")
        x = 0.5**0.5 * torch.randn(count, dims, generator=g, dtype=torch.float64)
        before, step = torch.randn(2, count, dims, generator=g, dtype=torch.float64)
        draw = literal_sample(torch.full((count,), level), before, step, SCHEDULE)
        prev, now = grid[level - 1], grid[level]
        rho = noise_ratio(prev, now)[0]
        guess = predicted_noise(noised(x, draw.noise, now), now)
        error = ((draw.noise - guess) ** 2).mean()
        # ∂/∂out ‖target − out‖² at out = ρ ε̂, for the raw sample and for its conditional mean.
        raw, mean = ((2 * (out - rho * guess)) ** 2 for out in (step, rho * draw.noise))
        measured = float(raw.mean() / mean.mean())
        assert measured == pytest.approx(float(output_ratio(rho, error)), rel=0.05)
        scale = noise_loss_gradient(SCHEDULE, error.expand(20))
        assert float(raw.mean()) == pytest.approx(float(scale.raw[level - 1]), rel=0.05)
        assert float(mean.mean()) == pytest.approx(float(scale.mean[level - 1]), rel=1e-6)


def test_where_sigma_varies_the_mu_loss_loses_the_equal_scale_and_the_noise_loss_keeps_it() -> None:
    """On log-SNR-linear grids σ_ℓ runs over decades: ∂/∂μ of ‖μ − z_{ℓ−1}‖²/2σ² goes as 1/(α²σ²) of the ε loss."""
    schedule = LogSNRLinear(1000, 13.3, -10.0)
    error = torch.full((1000,), 0.3, dtype=torch.float64)
    mu, noise = (f(schedule, error).raw[1:] for f in (mean_loss_gradient, noise_loss_gradient))
    assert float(noise.max() / noise.min()) < 1.1
    assert float(mu.max() / mu.min()) > 1e4
    grid = schedule.logsnr
    sigma2 = -torch.sigmoid(-grid[2:]) * torch.expm1(grid[2:] - grid[1:-1])
    torch.testing.assert_close(mu, noise / (4 * sigma2 * (1 - sigma2)), rtol=1e-8, atol=0)


def test_targets_of_no_step_have_no_noise_beyond_their_mean() -> None:
    error, weight = torch.full((20,), 0.3).double(), torch.linspace(1, 2, 20).double()
    scale = output_gradient(NOISE, SCHEDULE, error, weight)
    assert torch.equal(scale.raw, scale.mean)
    torch.testing.assert_close(scale.mean, 4 * weight**2 * 0.3)


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layers(z)


def test_jacobians_against_finite_differences() -> None:
    network, z = Small(), torch.randn(2, 3, generator=generator(0, "z"), dtype=torch.float64)
    error = torch.randn(2, 3, generator=generator(1, "e"), dtype=torch.float64)
    whole, pulled = jacobian_squares(network, (z,), error)
    columns = []
    with torch.no_grad():
        for parameter in network.parameters():
            for index in range(parameter.numel()):
                flat = parameter.view(-1)
                kept = float(flat[index])
                flat[index] = kept + 1e-6
                up = network(z)
                flat[index] = kept - 1e-6
                down = network(z)
                flat[index] = kept
                columns.append((up - down) / 2e-6)
    jacobian = torch.stack(columns, -1)
    torch.testing.assert_close(whole, (jacobian**2).sum((1, 2)), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(pulled, (torch.einsum("bi,bip->bp", error, jacobian) ** 2).sum(1), rtol=1e-6, atol=1e-8)


def test_the_first_level_has_nothing_to_rao_blackwellise_and_impossible_values_are_refused() -> None:
    one = torch.ones(1, dtype=torch.float64)
    assert float(output_ratio(one, 0.3 * one)) == 1
    assert STEP_NOISE.residual(torch.tensor([torch.inf]).double(), one)[1] == 0
    for rho in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"rho=.* must lie in \(0, 1\]"):
            parameter_ratio(rho * one, one, one)
    with pytest.raises(ValueError, match="error=0 must be positive"):
        output_ratio(one, 0 * one)
