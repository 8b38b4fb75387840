"""The limit σ → 0: the process, its reverse, the flow and the bound in continuous time."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from markovae.diffusion import forward
from markovae.diffusion.schedule import time
from markovae.randomness import generator
from markovae.theory.mixture import line_mixture
from markovae.theory.quadrature import slope
from markovae.theory.sde import (
    LinearVP,
    continuous_nats,
    euler,
    euler_moments,
    flow,
    logsnr_at,
    moments_at,
    reverse,
    reverse_euler,
    reverse_moments,
    simulate,
    transition,
    weak_order,
)

F64 = torch.float64


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=F64)


@given(st.floats(1e-6, 20))
def test_clock_and_logsnr_are_inverse(t):
    assert float(time(logsnr_at(number(t)))) == pytest.approx(t, rel=1e-9)
    assert float(forward.signal_scale(logsnr_at(number(t)))) == pytest.approx(math.exp(-t), rel=1e-12)


def test_clean_data_is_time_zero():
    assert float(logsnr_at(number(0.0))) == math.inf
    with pytest.raises(ValueError, match="must not be negative"):
        logsnr_at(number(-0.1))


@given(st.floats(0.01, 2), st.floats(0.01, 2))
def test_transitions_compose(first, second):
    z = torch.ones(1, 1)
    one, two = transition(z, number(first)), transition(z, number(second))
    both = transition(z, number(first + second))
    torch.testing.assert_close(both.mean, one.mean * two.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(both.variance, math.exp(-2 * second) * one.variance + two.variance)


def test_float32_data_are_promoted():
    assert transition(torch.ones(2, 3), number(0.1)).mean.dtype == F64
    assert next(simulate(torch.ones(2, 3), torch.ones(1), generator(0))).dtype == F64


def test_euler_is_the_transition_to_first_order():
    z, steps = torch.tensor([[1.3]], dtype=F64), (1e-2, 5e-3, 2.5e-3)
    pairs = [(euler(z, number(h)), transition(z, number(h))) for h in steps]
    for field in ("mean", "variance"):
        errors = torch.stack([(getattr(a, field) - getattr(b, field)).abs().squeeze() for a, b in pairs])
        assert slope(torch.tensor(steps), errors) == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize("t", [0.2, 1.0])
def test_reverse_euler_is_the_true_reverse_step_to_first_order(t):
    """P(z_{t−h} | z_t) of a mixture, from responsibilities, against the drift z + 2∇ln p and the noise 2h."""
    toy, z, steps = line_mixture(), torch.tensor([[0.9]], dtype=F64), (4e-3, 2e-3, 1e-3)
    means, variances = [], []
    for h in steps:
        found = reverse_euler(z, number(t), number(h), toy.score)
        c_z, c_x = forward.posterior_coefficients(logsnr_at(number(t - h)), logsnr_at(number(t)))
        floor = forward.posterior_variance(logsnr_at(number(t - h)), logsnr_at(number(t)))
        distribution = toy.posterior(z, logsnr_at(number(t))).blurred(c_z * z, c_x.reshape(1), floor.reshape(1))
        means.append((found.mean - distribution.mean()).abs().squeeze())
        variances.append((found.variance - distribution.covariance().squeeze()).abs())
    assert slope(torch.tensor(steps), torch.stack(means)) == pytest.approx(2, abs=0.05)
    assert slope(torch.tensor(steps), torch.stack(variances)) == pytest.approx(2, abs=0.05)


def test_simulated_euler_follows_its_exact_moments():
    count, steps = 40_000, torch.full((20,), 0.05, dtype=F64)
    *_, z = simulate(torch.full((count, 1), 2.0), steps, generator(4, "euler"))
    mean, variance = euler_moments(number(2.0), number(0.0), steps)
    assert float(z.mean()) == pytest.approx(float(mean), abs=4 * math.sqrt(float(variance) / count))
    assert float(z.var()) == pytest.approx(float(variance), abs=4 * float(variance) * math.sqrt(2 / count))


def test_euler_settles_at_its_own_variance():
    # v = (1−h)² v + 2h has the fixed point 1/(1 − h/2), which is not 1: the bias is of first order in h.
    _, variance = euler_moments(number(0.0), number(1.0), torch.full((500,), 0.1, dtype=F64))
    assert float(variance) == pytest.approx(1 / (1 - 0.05), abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.floats(-2, 2), st.floats(0, 3))
@example(0.25, 2.65625)
def test_weak_order_is_one_for_other_data(mean, variance):
    # The error of E z² is h (½ − ½ e^(−2t) − t e^(−2t) (E z_0² − 1)) + O(h²): of no first order where that vanishes.
    time, moment = 0.5, mean**2 + variance
    if abs(0.5 - math.exp(-2 * time) * (0.5 + time * (moment - 1))) > 0.03:
        assert weak_order(mean, variance, time, (512, 1024)) == pytest.approx(1, abs=0.03)


def test_vp_is_the_process_on_another_clock():
    vp, grid = LinearVP(), torch.linspace(0, 1, 20_001, dtype=F64)
    steps = vp.euler_steps(grid)
    assert float(steps.sum()) == pytest.approx(float(vp.time(number(1.0))), rel=1e-3)
    # Song et al. print ∫β = β_min u + ½u²(β_max − β_min), and the mean decays as exp(−½∫β).
    assert float(vp.time(number(0.5))) == pytest.approx(0.5 * (0.1 * 0.5 + 0.5 * 0.25 * 19.9))
    mean, variance = euler_moments(number(1.5), number(0.2), steps[:5000])
    exact = moments_at(number(1.5), number(0.2), vp.time(grid[5000]))
    torch.testing.assert_close(torch.stack([mean, variance]), torch.stack(exact), rtol=3e-4, atol=0)


def test_reverse_sde_recovers_the_data_of_a_mixture():
    toy, count = line_mixture(), 20_000
    times = torch.cat([torch.linspace(3, 0.1, 150, dtype=F64), torch.linspace(0.09, 1e-3, 80, dtype=F64)])
    z = toy.marginal(logsnr_at(times[0]), count).sample(generator(5, "top"))
    x = reverse(z, times, toy.score, generator(5, "reverse"))
    distribution = toy.distribution(1)
    mean, variance = moments_at(distribution.mean()[0, 0], distribution.covariance()[0, 0, 0], times[-1])
    # The bias of 230 Euler steps is known from Gaussian data of the same moments, and stays below one standard error.
    bias = reverse_moments(distribution.mean()[0, 0], distribution.covariance()[0, 0, 0], times)
    assert float(x.mean()) == pytest.approx(float(mean), abs=4 * math.sqrt(float(variance) / count) + 0.01)
    assert abs(float(bias[1] - variance)) < 0.03
    spread = float(((x - x.mean()) ** 2).std()) / math.sqrt(count)
    assert float(x.var()) == pytest.approx(float(variance), abs=4 * spread + abs(float(bias[1] - variance)))
    third = float(((x - x.mean()) ** 3).mean())
    sharp = toy.sample(200_000, generator(6, "data"))
    assert third == pytest.approx(float(((sharp - sharp.mean()) ** 3).mean()), abs=0.05)


def test_reverse_moments_follow_the_simulation():
    mean, variance, times = number(0.5), number(0.3), torch.linspace(2, 0.1, 21, dtype=F64)

    def score(z, logsnr):
        centre, width = moments_at(mean, variance, time(logsnr))
        return -(z - centre) / width

    m, v = moments_at(mean, variance, times[0])
    z = m + v.sqrt() * torch.randn(50_000, 1, generator=generator(7, "z"), dtype=F64)
    z = reverse(z, times, score, generator(7, "noise"))
    wanted_mean, wanted_variance = reverse_moments(mean, variance, times)
    assert float(z.mean()) == pytest.approx(float(wanted_mean), abs=4 * math.sqrt(float(wanted_variance) / 50_000))
    assert float(z.var()) == pytest.approx(float(wanted_variance), rel=4 * math.sqrt(2 / 50_000))


def test_flow_runs_both_ways():
    toy, times = line_mixture(), torch.linspace(2, 0.05, 201, dtype=F64)
    z = torch.linspace(-2, 2, 9, dtype=F64).unsqueeze(1)
    back = flow(flow(z, times, toy.score), times.flip(0), toy.score)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: transition(torch.ones(1), number(-0.1)), "must not be negative"),
        (lambda: euler(torch.ones(1), number(-0.1)), "must not be negative"),
        (lambda: LinearVP(0.0, 1.0), "must be positive"),
        (lambda: continuous_nats(torch.sigmoid, -1.0, 1.0), "must exceed"),
        (lambda: reverse(torch.ones(1, 1), torch.tensor([0.1, 0.2]), lambda z, _: z, generator(0)), "must fall"),
        (lambda: flow(torch.ones(1, 1), torch.tensor([0.2, 0.0]), lambda z, _: z), "must be above 0"),
    ],
)
def test_bad_input_is_told_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
