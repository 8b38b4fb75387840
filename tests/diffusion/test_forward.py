import math
from itertools import pairwise

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from markovae.diffusion import forward
from markovae.randomness import generator

INF = torch.tensor(torch.inf, dtype=torch.float64)
logsnrs = st.floats(-30, 30)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@given(logsnrs)
def test_scales_against_fifty_digits(value: float) -> None:
    a, s = float(forward.signal_scale(scalar(value))), float(forward.noise_scale(scalar(value)))
    with mpmath.workdps(50):
        snr = mpmath.exp(mpmath.mpf(value))
        assert abs(a / float(mpmath.sqrt(snr / (1 + snr))) - 1) < 1e-14
        assert abs(s / float(mpmath.sqrt(1 / (1 + snr))) - 1) < 1e-14


@given(logsnrs, st.floats(1e-6, 20))
def test_one_step_against_fifty_digits(value: float, fall: float) -> None:
    """σ², β̃, α and the posterior's coefficients lose no digits to 1 − ᾱ at either end."""
    prev, now = scalar(value + fall), scalar(value)
    with mpmath.workdps(50):
        snr_prev, snr = mpmath.exp(mpmath.mpf(float(prev))), mpmath.exp(mpmath.mpf(value))
        a2, b2 = snr_prev / (1 + snr_prev), snr / (1 + snr)
        variance = 1 - b2 / a2
        posterior = variance * (1 - a2) / (1 - b2)
        c_z, c_x = mpmath.sqrt(b2 / a2) * (1 - a2) / (1 - b2), mpmath.sqrt(a2) * variance / (1 - b2)
        expected = [float(v) for v in (variance, posterior, mpmath.sqrt(b2 / a2), c_z, c_x)]
    got = [
        forward.step_variance(prev, now),
        forward.posterior_variance(prev, now),
        forward.step_alpha(prev, now),
        *forward.posterior_coefficients(prev, now),
    ]
    for mine, exact in zip(got, expected, strict=True):
        assert abs(float(mine) / exact - 1) < 1e-13


@given(st.lists(st.floats(0.05, 5), min_size=2, max_size=6), logsnrs)
def test_steps_compose_to_the_marginal(falls: list[float], start: float) -> None:
    x, levels = torch.tensor([[1.5]], dtype=torch.float64), [INF, scalar(start)]
    for fall in falls:
        levels.append(levels[-1] - fall)
    mean, variance = x, scalar(0.0)
    for prev, now in pairwise(levels):
        one = forward.step(mean, prev, now)
        mean, variance = one.mean, forward.step_alpha(prev, now) ** 2 * variance + one.variance
    marginal = forward.marginal(x, levels[-1])
    torch.testing.assert_close(mean, marginal.mean, rtol=1e-12, atol=1e-300)
    torch.testing.assert_close(variance, marginal.variance, rtol=1e-12, atol=0)


@given(st.floats(-6, 6), st.floats(0.01, 4), st.integers(0, 100))
def test_bayes_rule(value: float, fall: float, seed: int) -> None:
    """q(z_ℓ|z_{ℓ−1}) q(z_{ℓ−1}|x) = q(z_{ℓ−1}|z_ℓ, x) q(z_ℓ|x) at any three points."""
    prev, now = scalar(value + fall), scalar(value)
    x, z_prev, z = torch.randn(3, 4, 2, 2, generator=generator(seed, "bayes"), dtype=torch.float64)
    left = forward.step(z_prev, prev, now).log_prob(z) + forward.marginal(x, prev).log_prob(z_prev)
    right = forward.posterior(x, z, prev, now).log_prob(z_prev) + forward.marginal(x, now).log_prob(z)
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


def test_level_zero_is_the_data() -> None:
    x, z = torch.randn(2, 3, 4, generator=generator(0, "zero"), dtype=torch.float64)
    now = scalar(2.0)
    at_zero = forward.posterior(x, z, INF, now)
    assert torch.equal(at_zero.mean, x)
    assert float(at_zero.variance) == 0
    torch.testing.assert_close(forward.step(x, INF, now).mean, forward.marginal(x, now).mean)
    torch.testing.assert_close(forward.step(x, INF, now).variance, forward.marginal(x, now).variance)
    assert torch.equal(forward.noised(x, z, INF), x)


def test_each_example_has_its_own_level_and_the_noise_its_scale() -> None:
    x, noise = torch.randn(2, 3, 2, 2, generator=generator(0, "own"), dtype=torch.float64)
    levels = torch.tensor([3.0, 0.0, -3.0], dtype=torch.float64)
    z = forward.noised(x, noise, levels)
    for i, level in enumerate(levels.tolist()):
        a, s = math.sqrt(1 / (1 + math.exp(-level))), math.sqrt(1 / (1 + math.exp(level)))
        torch.testing.assert_close(z[i], a * x[i] + s * noise[i], rtol=1e-14, atol=1e-14)
    assert forward.noised(x.float(), noise.float(), levels).dtype == torch.float32
    assert forward.marginal(x, levels).variance.shape == (3, 1, 1)


@pytest.mark.parametrize("start", [13.3, 20.0])
def test_first_levels_add_noise_that_single_precision_would_lose(start: float) -> None:
    """At log-SNR 20 the signal's square is 1 to nine digits, yet a step of 0.02 still adds its 4e-11 of variance."""
    variance = forward.step_variance(scalar(start), scalar(start - 0.02))
    assert float(variance) == pytest.approx(0.02 * math.exp(-start), rel=0.02)


@pytest.mark.parametrize("now", [1.0, 2.0])
def test_a_log_snr_that_does_not_fall_is_refused(now: float) -> None:
    z, before, after = torch.zeros(1, 2), torch.tensor(1.0), torch.tensor(now)
    with pytest.raises(ValueError, match=f"log-SNR changes by {now - 1:g} in a step: it must fall"):
        forward.step(z, before, after)
    with pytest.raises(ValueError, match="must fall from level to level"):
        forward.posterior(z, z, before, after)


def test_digits_are_not_taken_for_data() -> None:
    """The scales would be cast to whole numbers, which is zero."""
    digits = torch.ones(1, 2, dtype=torch.uint8)
    for make in (
        lambda: forward.step(digits, INF, torch.tensor(1.0)),
        lambda: forward.marginal(digits, torch.tensor(1.0)),
    ):
        with pytest.raises(ValueError, match=r"torch\.uint8 must be real numbers on the model's scale"):
            make()
