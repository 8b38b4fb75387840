"""How large gradients are at the output and at the parameters: the formulas against draws."""

import pytest
import torch

from markovae.diffusion.forward import noised
from markovae.diffusion.objective import literal_sample
from markovae.diffusion.schedule import LogSNRLinear, constant
from markovae.diffusion.target import NOISE, STEP_NOISE, noise_ratio
from markovae.randomness import generator
from markovae.theory.regression import (
    jacobian_squares,
    mean_loss_gradient,
    noise_loss_gradient,
    output_gradient,
    output_ratio,
    parameter_ratio,
)

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


def test_the_lectures_equal_scale_is_that_of_the_noisy_target() -> None:
    """At L = 1000 raw gradients keep one scale within 4 % from level 20 on, while their means fall a hundredfold."""
    schedule = constant(num_levels=1000, delta=0.01)
    error = torch.full((1000,), 0.3, dtype=torch.float64)
    for scale in (noise_loss_gradient(schedule, error), mean_loss_gradient(schedule, error)):
        assert float(scale.raw[20:].max() / scale.raw[20:].min()) < 1.04
        assert float(scale.mean[1] / scale.mean[-1]) > 50
    noise = noise_loss_gradient(schedule, error)
    rho = noise_ratio(schedule.logsnr[:-1], schedule.logsnr[1:])[0]
    torch.testing.assert_close(noise.mean, 4 * rho**2 * 0.3, rtol=1e-10, atol=0)
    torch.testing.assert_close(noise.raw / noise.mean, output_ratio(rho, error), rtol=1e-9, atol=0)


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


def test_gradients_at_the_parameters_follow_their_own_ratio() -> None:
    """Gradients example by example of ‖ε − ρ ε̂‖² and ‖ρ ε̄ − ρ ε̂‖², by autograd; R at the output is not their ratio."""
    network, count, level = Small(), 1500, 12
    g = generator(0, "parameters")
    x, before, step = torch.randn(3, count, 3, generator=g, dtype=torch.float64)
    draw = literal_sample(torch.full((count,), level), before, step, SCHEDULE)
    prev, now = SCHEDULE.logsnr[level - 1], SCHEDULE.logsnr[level]
    z, rho = noised(x, draw.noise, now), noise_ratio(prev, now)[0]

    def gradient_square(wanted: torch.Tensor) -> float:
        total = 0.0
        for one, target in zip(z, wanted, strict=True):
            loss = ((target - rho * network(one[None])[0]) ** 2).sum()
            grads = torch.autograd.grad(loss, list(network.parameters()))
            total += sum(float((part**2).sum()) for part in grads)
        return total / count

    measured = gradient_square(step) / gradient_square(rho * draw.noise)
    error = (draw.noise - network(z)).detach()
    whole, pulled = jacobian_squares(network, (z,), error)
    predicted = float(parameter_ratio(rho, whole.mean(), pulled.mean()))
    assert measured == pytest.approx(predicted, rel=0.1)
    at_output = float(output_ratio(rho, (error**2).mean()))
    assert abs(predicted / at_output - 1) > 0.05


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
