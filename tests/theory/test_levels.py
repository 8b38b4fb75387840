"""Measured gaps against their laws: slopes, limits, and how near 512 levels are to the limit."""

import math

import pytest
import torch

from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.schedule import LogSNRLinear, constant
from markovae.randomness import generator
from markovae.theory import gap_statements as statements
from markovae.theory.gaps import gaussian_exact, measured, measured_nats, predicted, spread, truth
from markovae.theory.mixture import Mixture

F64 = torch.float64
KINDS = ("step", "posterior", "isotropic", "level_diagonal")


def plane() -> Mixture:
    covariances = torch.tensor([[[0.3, 0.1], [0.1, 0.15]], [[0.15, -0.08], [-0.08, 0.3]]], dtype=F64)
    means = torch.tensor([[0.8, 0.0], [-0.6, 0.5]], dtype=F64)
    return Mixture.full(torch.tensor([0.4, 0.6], dtype=F64), means, covariances)


@pytest.mark.parametrize(
    "grid", [constant(num_levels=400, delta=0.01), LogSNRLinear(30), constant(sigma=0.6, delta=0.1)]
)
def test_gaussian_gaps_are_the_exact_formulas_on_any_grid(grid):
    exact, found = statements.gaussian_gaps(grid.logsnr[1:])
    for name, value in vars(exact).items():
        assert float(getattr(found, name)) == pytest.approx(float(value), abs=1e-9)


def test_gaussian_of_512_levels_obeys_the_laws_within_three_per_cent():
    toy = statements.correlated_gaussian()
    # As written, with C at z_ℓ: β̃ (remainder −⅔u) on the default grid, all on one with shorter steps.
    assert float(statements.law_ratios(toy, 512, centred=False).posterior) == pytest.approx(1, abs=0.03)
    shorter = statements.law_ratios(toy, 512, 6.0, -6.0, centred=False)
    centred = statements.law_ratios(toy, 512, centred=True)
    for name in (*KINDS, "diagonal"):
        assert float(getattr(shorter, name)) == pytest.approx(1, abs=0.03)
        assert float(getattr(centred, name)) == pytest.approx(1, abs=0.016)


def test_mixture_of_512_levels_obeys_the_laws_within_ten_per_cent():
    ratios = statements.law_ratios(statements.line_mixture(), 512, centred=False)
    for name in (*KINDS, "full"):
        assert float(getattr(ratios, name)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("toy", [statements.correlated_gaussian(), statements.line_mixture()])
def test_laws_hold_in_the_limit(toy):
    ratios = statements.limit_ratios(toy)
    for name in (*KINDS, *(("full",) if toy.dims == 1 else ("diagonal",))):
        assert float(getattr(ratios, name)) == pytest.approx(1, abs=0.002)


def test_slopes_are_minus_one_and_minus_two():
    found = statements.gap_slopes(statements.line_mixture())
    for name in KINDS:
        assert float(getattr(found, name)) == pytest.approx(-1, abs=0.03)
    assert float(found.full) == pytest.approx(-2, abs=0.1)


def test_slopes_of_a_gaussian_are_minus_one_and_its_full_covariance_has_no_gap():
    found = statements.gap_slopes(statements.correlated_gaussian())
    for name in (*KINDS, "diagonal"):
        assert float(getattr(found, name)) == pytest.approx(-1, abs=0.03)
    assert math.isnan(float(found.full))


def test_constant_sigma_keeps_the_full_covariance_at_slope_minus_two():
    found = statements.constant_sigma_slopes(statements.line_mixture(), (2048, 4096), count=240)
    assert float(found.full) == pytest.approx(-2, abs=0.1)
    # β̃ does not fall at all: it rises towards ½γ_Euler.
    assert 0 < float(found.posterior) < 0.1


def test_laws_in_the_plane_tell_the_diagonals_apart():
    toy, logsnr = plane(), LogSNRLinear(65, 4.0, -5.0).logsnr[1:]
    found, law = measured(toy, logsnr, 70), predicted(toy, logsnr, 70, centred=True)
    for name in (*KINDS, "diagonal"):
        assert float(getattr(found, name) / getattr(law, name)) == pytest.approx(1, abs=0.1)
    assert found.posterior > found.isotropic > found.level_diagonal > 1.05 * found.diagonal > 0
    assert 0 < float(found.full) < 0.1 * float(found.diagonal)


def test_a_better_shape_never_costs_more():
    toy, logsnr = statements.line_mixture(), LogSNRLinear(40).logsnr[1:]
    found = measured(toy, logsnr)
    assert found.posterior > found.isotropic > found.full > 0
    assert found.step >= found.isotropic


def test_measured_nats_are_those_of_draws():
    toy, logsnr = statements.line_mixture(), LogSNRLinear(8, 4.0, -4.0).logsnr[1:]
    closed = measured_nats(spread(toy, logsnr)).posterior
    x = toy.sample(40_000, generator(0, "x"))
    for level in (1, 4, 7):
        lam = logsnr[level]
        noise = torch.randn(x.shape, generator=generator(0, "noise", level), dtype=F64)
        z = signal_scale(lam) * x + noise_scale(lam) * noise
        nats = 0.5 * (logsnr[level - 1].exp() - lam.exp()) * ((x - toy.denoise(z, lam)) ** 2)[:, 0]
        assert float(closed[level - 1]) == pytest.approx(float(nats.mean()), abs=4 * float(nats.std()) / 200)


def test_the_truth_of_a_gaussian_does_not_depend_on_the_grid():
    toy = statements.correlated_gaussian()
    coarse, fine = LogSNRLinear(3).logsnr[1:], LogSNRLinear(300).logsnr[1:]
    assert truth(toy, coarse) == pytest.approx(truth(toy, fine), abs=1e-12)
    assert gaussian_exact(toy.law(1).covariance()[0], fine).full.sum() == 0


def test_nodes_do_not_matter():
    toy, logsnr = statements.line_mixture(), LogSNRLinear(64).logsnr[1:]
    coarse, fine = measured(toy, logsnr, 300), measured(toy, logsnr, 900)
    for name, value in vars(fine).items():
        assert float(getattr(coarse, name)) == pytest.approx(float(value), abs=1e-12)
