import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from markovae.diffusion.forward import noised, posterior, step_alpha, step_variance
from markovae.diffusion.target import (
    DATA,
    MEAN,
    NOISE,
    SCORE,
    STEP_NOISE,
    TARGETS,
    VELOCITY,
    Target,
    noise_ratio,
    one_step_noise,
)
from markovae.randomness import generator

levels = st.floats(-12, 12)
falls = st.floats(0.01, 5)
by_name = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def draws(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, noise, fresh = torch.randn(3, 4, 2, 2, generator=generator(seed, "target"), dtype=torch.float64)
    return x, noise, fresh


def design_formula(name: str, z: float, out: float, prev: float, now: float) -> float:
    """x̂ as section 2 of the design prints it, term by term, with fifty digits."""
    snr_prev, snr = mpmath.exp(mpmath.mpf(prev)), mpmath.exp(mpmath.mpf(now))
    a_prev, a, s = mpmath.sqrt(snr_prev / (1 + snr_prev)), mpmath.sqrt(snr / (1 + snr)), 1 / mpmath.sqrt(1 + snr)
    alpha = a / a_prev
    sigma = mpmath.sqrt(1 - alpha**2)
    as_x = {
        "noise": lambda: (z - s * out) / a,
        "data": lambda: mpmath.mpf(out),
        "velocity": lambda: a * z - s * out,
        "flow": lambda: (z - s * out) / (a + s),
        "score": lambda: (z + s**2 * out) / a,
        "step_noise": lambda: (z - s**2 / sigma * out) / a,
        "mean": lambda: (z - s**2 / sigma**2 * (z - alpha * out)) / a,
    }
    return as_x[name]()


@by_name
@given(now=levels, fall=falls, z=st.floats(-3, 3), out=st.floats(-3, 3))
def test_the_maps_against_their_formulas(target: Target, now: float, fall: float, z: float, out: float) -> None:
    prev = float(scalar(now) + fall)
    got = target.to_x(scalar(out).reshape(1, 1), scalar(z).reshape(1, 1), scalar(now), scalar(prev))
    with mpmath.workdps(50):
        expected = design_formula(target.name, z, out, prev, now)
        slopes = [abs(design_formula(target.name, *unit, prev, now)) for unit in ((1, 0), (0, 1))]
        scale = 1e-3 + slopes[0] * abs(z) + slopes[1] * abs(out)
        assert abs(mpmath.mpf(float(got)) - expected) < 1e-12 * scale


@by_name
@given(now=levels, fall=falls, seed=st.integers(0, 99))
def test_the_right_output_gives_back_the_data(target: Target, now: float, fall: float, seed: int) -> None:
    x, noise, _ = draws(seed)
    level, prev = scalar(now), scalar(now + fall)
    z = noised(x, noise, level)
    out = target.of(x, noise, level, prev)
    torch.testing.assert_close(target.of_x(x, z, level, prev), out, rtol=1e-8, atol=1e-8)
    # Data out of a nearly pure noise, and out of a mean that hardly moves, cost digits: s/a and 1/c_x of them.
    torch.testing.assert_close(target.to_x(out, z, level, prev), x, rtol=1e-6, atol=1e-6)


def test_the_targets_are_what_their_names_say() -> None:
    x, noise, _ = draws()
    now, prev = scalar(0.3), scalar(0.9)
    z = noised(x, noise, now)
    assert torch.equal(NOISE.of(x, noise, now), noise)
    assert torch.equal(DATA.of(x, noise, now), x)
    a, s = torch.sigmoid(now).sqrt(), torch.sigmoid(-now).sqrt()
    torch.testing.assert_close(VELOCITY.of(x, noise, now), a * noise - s * x)
    torch.testing.assert_close(SCORE.of(x, noise, now), -(z - a * x) / s**2)
    torch.testing.assert_close(MEAN.of(x, noise, now, prev), posterior(x, z, prev, now).mean)
    torch.testing.assert_close(STEP_NOISE.of(x, noise, now, prev), step_variance(prev, now).sqrt() / s * noise)


@given(now=st.floats(-8, 8), fall=falls, seed=st.integers(0, 99))
def test_the_chain_itself_makes_the_sampled_targets(now: float, fall: float, seed: int) -> None:
    """With ε_ℓ from (ε̄, ξ), z_{ℓ−1} = (z_ℓ − σ ε_ℓ)/α: what μ regresses onto, and ε_ℓ what ε regresses onto."""
    x, noise, fresh = draws(seed)
    level, prev = scalar(now), scalar(now + fall)
    step = one_step_noise(noise, fresh, prev, level)
    torch.testing.assert_close(STEP_NOISE.of_sample(x, noise, fresh, level, prev), step, rtol=1e-12, atol=1e-12)
    z_prev = (noised(x, noise, level) - step_variance(prev, level).sqrt() * step) / step_alpha(prev, level)
    torch.testing.assert_close(MEAN.of_sample(x, noise, fresh, level, prev), z_prev, rtol=1e-9, atol=1e-9)


@given(now=levels, fall=falls)
def test_one_steps_noise_is_a_rotation(now: float, fall: float) -> None:
    rho, rest = noise_ratio(scalar(now + fall), scalar(now))
    assert float(rho**2 + rest**2) == pytest.approx(1, abs=1e-13)
    assert 0 < float(rho) <= 1


def test_the_mean_of_one_steps_noise_given_both_ends_is_rho_times_the_cumulative_noise() -> None:
    """Simulated step by step: ε_ℓ − ρ ε̄ has the variance 1 − ρ² and no covariance with z_ℓ, z_0 or ε̄."""
    count, prev, now = 40_000, scalar(1.0), scalar(0.2)
    x, before, step = torch.randn(3, count, 1, generator=generator(0, "steps"), dtype=torch.float64)
    z_prev = noised(x, before, prev)
    z = step_alpha(prev, now) * z_prev + step_variance(prev, now).sqrt() * step
    noise = (z - torch.sigmoid(now).sqrt() * x) / torch.sigmoid(-now).sqrt()
    rho = float(noise_ratio(prev, now)[0])
    rest = step - rho * noise
    assert abs(float(rest.var()) / (1 - rho**2) - 1) < 4 * (2 / count) ** 0.5
    for other in (z, x, noise):
        assert abs(float((rest * other).mean())) < 4 * float((rest * other).std()) / count**0.5


def test_at_the_first_level_one_step_is_all_the_noise() -> None:
    x, noise, fresh = draws()
    clean, now = scalar(torch.inf), scalar(4.0)
    torch.testing.assert_close(one_step_noise(noise, fresh, clean, now), noise)
    torch.testing.assert_close(MEAN.of_sample(x, noise, fresh, now, clean), x)


@by_name
@given(now=st.floats(-8, 8), fall=falls, seed=st.integers(0, 99))
def test_residuals_are_the_errors_of_the_noise_scaled(target: Target, now: float, fall: float, seed: int) -> None:
    x, noise, guess = draws(seed)
    level, prev = scalar(now), scalar(now + fall)
    z = noised(x, noise, level)
    x_hat = (z - torch.sigmoid(-level).sqrt() * guess) / torch.sigmoid(level).sqrt()
    error = target.of(x, noise, level, prev) - target.of_x(x_hat, z, level, prev)
    gain, spread = target.residual(prev, level)
    torch.testing.assert_close(error.abs(), gain * (noise - guess).abs(), rtol=1e-7, atol=1e-7)
    assert (float(spread) > 0) == target.needs_neighbour


@pytest.mark.parametrize("target", [STEP_NOISE, MEAN], ids=lambda t: t.name)
def test_targets_of_one_step_refuse_the_continuous_limit(target: Target) -> None:
    x, noise, fresh = draws()
    for call in (
        lambda: target.of(x, noise, scalar(0.0)),
        lambda: target.to_x(x, noise, scalar(0.0)),
        lambda: target.of_sample(x, noise, fresh, scalar(0.0)),
        lambda: target.residual(None, scalar(0.0)),
    ):
        with pytest.raises(ValueError, match="no continuous limit"):
            call()


def test_single_precision_latents_stay_single_and_double_double() -> None:
    x, noise, _ = draws()
    for kind in (torch.float32, torch.float64):
        assert VELOCITY.to_x(noise.to(kind), x.to(kind), scalar(0.0)).dtype == kind
        assert MEAN.of(x.to(kind), noise.to(kind), scalar(0.0), scalar(1.0)).dtype == kind
