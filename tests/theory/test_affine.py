"""Affine predictors of Gaussian data, level by level: every form of the regression finds the same one."""

import pytest
import torch

from markovae.diffusion.forward import noised, step_alpha, step_variance
from markovae.diffusion.objective import literal_sample
from markovae.diffusion.schedule import LogSNRLinear, NoiseSchedule, constant
from markovae.diffusion.target import MEAN, STEP_NOISE, TARGETS
from markovae.randomness import generator
from markovae.theory.regression import Affine, Data, least_squares, on_mean, on_previous, on_step_noise

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
def test_the_mean_may_be_regressed_onto_a_sample(schedule: NoiseSchedule) -> None:
    """argmin E‖μ − posterior mean‖² = argmin E‖μ − z_{ℓ−1}‖²."""
    for prev, now in pairs(schedule):
        assert_same(on_mean(data(), MEAN, prev, now), on_previous(data(), prev, now))


@schedules
def test_the_noise_forms_agree_raw_and_rao_blackwellised(schedule: NoiseSchedule) -> None:
    for prev, now in pairs(schedule):
        assert_same(on_mean(data(), STEP_NOISE, prev, now), on_step_noise(data(), prev, now))


@schedules
def test_the_mean_from_the_noise_is_the_mean(schedule: NoiseSchedule) -> None:
    """μ_pri = (z_ℓ − σ ε_pri)/√(1−σ²): the step from the μ-prior to the ε-prior."""
    identity = torch.eye(3, dtype=torch.float64)
    for prev, now in pairs(schedule):
        sigma, alpha = step_variance(prev, now).sqrt(), step_alpha(prev, now)
        noise = on_step_noise(data(), prev, now)
        mean = Affine((identity - sigma * noise.weight) / alpha, -sigma * noise.offset / alpha)
        assert_same(mean, on_previous(data(), prev, now))


@schedules
def test_all_six_targets_imply_the_exact_denoiser(schedule: NoiseSchedule) -> None:
    """E[x|z] = m + a S (a² S + s² I)⁻¹ (z − a m) for Gaussian data."""
    law = data()
    for prev, now in pairs(schedule)[:: max(1, schedule.num_levels // 40)]:
        a = torch.sigmoid(now).sqrt()
        weight = a * torch.linalg.solve(law.latent_covariance(now), law.covariance).T
        exact = Affine(weight, law.mean - a * weight @ law.mean)
        for target in TARGETS:
            assert_same(on_mean(law, target, prev, now).as_x(target, prev, now), exact)


@pytest.mark.parametrize("level", [2, 10, 25, 40])
def test_sampled_targets_find_it_within_four_predicted_standard_errors(level: int) -> None:
    """From the lecture's literal draws; the raw target's wider interval is predicted too."""
    schedule, law, count = LogSNRLinear(40, 6.0, -6.0), data(), 20_000
    g = generator(level, "sampled")
    x = law.mean + torch.randn(count, 3, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(law.covariance).T
    before, step = torch.randn(2, count, 3, generator=g, dtype=torch.float64)
    draw = literal_sample(torch.full((count,), level), before, step, schedule)
    assert draw.fresh is not None
    prev, now = schedule.logsnr[level - 1], schedule.logsnr[level]
    z = noised(x, draw.noise, now)
    for target, truth in ((MEAN, on_previous(law, prev, now)), (STEP_NOISE, on_step_noise(law, prev, now))):
        raw = least_squares(z, target.of_sample(x, draw.noise, draw.fresh, now, prev))
        blackwell = least_squares(z, target.of(x, draw.noise, now, prev))
        assert float(raw.deviation(truth).abs().max()) < 4
        assert float(blackwell.deviation(truth).abs().max()) < 4
        assert bool((raw.stderr > blackwell.stderr).all())


def test_deviations_are_of_order_one() -> None:
    """The predicted standard errors are neither too wide nor too narrow: over many fits their squares average one."""
    law = data()
    prev, now = torch.tensor(1.0).double(), torch.tensor(0.5).double()
    squares = []
    for seed in range(200):
        g = generator(seed, "repeat")
        x = law.mean + torch.randn(300, 3, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(law.covariance).T
        noise, fresh = torch.randn(2, 300, 3, generator=g, dtype=torch.float64)
        fit = least_squares(noised(x, noise, now), STEP_NOISE.of_sample(x, noise, fresh, now, prev))
        squares.append((fit.deviation(on_step_noise(law, prev, now)) ** 2).mean())
    assert float(torch.stack(squares).mean()) == pytest.approx(1, abs=0.1)


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="4 draws for 4 unknowns"):
        least_squares(torch.zeros(4, 3), torch.zeros(4, 3))
