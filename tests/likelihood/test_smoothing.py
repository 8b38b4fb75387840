"""Smoothing: the curve stays, the noise goes, and distant knots are left alone."""

import torch

from markovae.likelihood.statistics import smoothed
from markovae.randomness import generator


def test_smoothing_keeps_the_curve_and_drops_the_noise():
    logsnr = torch.linspace(13, -10, 129, dtype=torch.float64)
    exact = 0.3 / (1 + 0.3 * logsnr.exp())
    count = torch.full((129,), 100)
    assert float((smoothed(logsnr, exact, count, 0.7) / exact).log().abs().max()) < 0.01
    noisy = exact * (0.1 * torch.randn(129, generator=generator(0, "noise"), dtype=torch.float64)).exp()
    left = (smoothed(logsnr, noisy, count, 0.7) / exact).log()
    assert float(left[3:-3].std()) < 0.05
    both = smoothed(logsnr, torch.stack([noisy, exact], 1), count, 0.7)
    torch.testing.assert_close(both[:, 0], smoothed(logsnr, noisy, count, 0.7))
    apart = torch.tensor([20.0, 0.0, -20.0, -40.0], dtype=torch.float64)
    torch.testing.assert_close(smoothed(apart, exact[:4], count[:4], 0.7), exact[:4], rtol=1e-6, atol=0)


def test_an_error_of_nothing_stays_nothing():
    logsnr = torch.linspace(5, -5, 11, dtype=torch.float64)
    found = smoothed(logsnr, torch.zeros(11, 2, dtype=torch.float64), torch.full((11,), 9), 0.7)
    assert float(found.max()) < 1e-20
