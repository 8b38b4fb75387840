"""Mixtures with known truth, alone and in the place of a network."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.diffusion import forward
from markovae.diffusion.decoder import DensityDecoder, StepDecoder
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import PosteriorVariance, StepVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA
from markovae.randomness import Streams, generator
from markovae.theory.gaps import gaussian_exact, measured, second_order
from markovae.theory.mixture import (
    Denoiser,
    Mixture,
    Modes,
    correlated_gaussian,
    cosine_basis,
    line_mixture,
    pink_gaussian,
    pink_modes,
    pink_pair,
)
from markovae.theory.pixel_mixture import DigitMixture
from markovae.theory.quadrature import slope

F64 = torch.float64


def plane(seed: int = 0, components: int = 3) -> Mixture:
    source = generator(seed, "plane")
    root = torch.randn(components, 2, 2, generator=source, dtype=F64)
    weights = 0.2 + torch.rand(components, generator=source, dtype=F64)
    means = torch.randn(components, 2, generator=source, dtype=F64)
    return Mixture.full(weights / weights.sum(), means, 0.3 * root @ root.mT + 0.1 * torch.eye(2, dtype=F64))


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=F64)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.floats(-6, 10))
def test_denoiser_and_covariance_are_derivatives_of_the_marginal(seed, logsnr):
    toy, lam = plane(seed), number(logsnr)
    z = toy.marginal(lam, 4).sample(generator(seed, "z"))
    a, s = signal_scale(lam), noise_scale(lam)

    z.requires_grad_(True)
    gradient = torch.autograd.grad(toy.marginal(lam, 4).log_prob(z).sum(), z, create_graph=True)[0]
    columns = [torch.autograd.grad(gradient[:, i].sum(), z, retain_graph=True)[0] for i in range(2)]
    z, gradient, hessian = z.detach(), gradient.detach(), torch.stack(columns, 2)
    torch.testing.assert_close(toy.score(z, lam), gradient, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(toy.denoise(z, lam), (z + s**2 * gradient) / a, rtol=1e-7, atol=1e-7)
    # Second-order Tweedie; s² Hess + 1 loses digits where s is small, so compare on the latent's scale.
    covariance = toy.covariance(z, lam) * (a / s) ** 2
    torch.testing.assert_close(covariance, torch.eye(2, dtype=F64) + s**2 * hessian, rtol=1e-6, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.floats(-6, 8), st.floats(0.01, 5))
def test_reverse_step_obeys_bayes(seed, logsnr, gap):
    toy, before, now = plane(seed), number(logsnr + gap), number(logsnr)
    z_prev = toy.marginal(before, 5).sample(generator(seed, "before"))
    z = forward.step(z_prev, before, now).sample(generator(seed, "step"))
    ahead = forward.step(z_prev, before, now).log_prob(z) + toy.marginal(before, 5).log_prob(z_prev)
    back = toy.reverse(z, before, now).log_prob(z_prev) + toy.marginal(now, 5).log_prob(z)
    torch.testing.assert_close(back, ahead, rtol=0, atol=1e-8)
    clean = toy.reverse(z, number(math.inf), now)
    x = toy.sample(5, generator(seed, "x"))
    torch.testing.assert_close(
        clean.log_prob(x) + toy.marginal(now, 5).log_prob(z), toy.log_prob(x) + forward.marginal(x, now).log_prob(z)
    )


def test_each_example_may_have_its_own_logsnr():
    toy, lam = plane(), torch.tensor([-2.0, 1.0, 5.0], dtype=F64)
    z = torch.randn(3, 2, generator=generator(0, "z"), dtype=F64)
    for method in (toy.denoise, toy.covariance, toy.score):
        one_by_one = torch.cat([method(z[i : i + 1], lam[i]) for i in range(3)])
        torch.testing.assert_close(method(z, lam), one_by_one)


def test_draws_have_the_moments_of_the_law():
    toy, count = plane(), 40_000
    x = toy.sample(count, generator(1, "draws"))
    distribution = toy.distribution(1)
    mean, covariance = distribution.mean()[0], distribution.covariance()[0]
    offset = x - mean
    assert bool((offset.mean(0).abs() < 4 * (covariance.diagonal() / count).sqrt()).all())
    products = offset.unsqueeze(2) * offset.unsqueeze(1)
    assert bool(((products.mean(0) - covariance).abs() < 4 * products.std(0) / math.sqrt(count)).all())


def test_draws_of_streams_do_not_depend_on_the_batch():
    toy = plane()
    whole = toy.sample(4, Streams(0, "toy", range(4)))
    torch.testing.assert_close(toy.sample(2, Streams(0, "toy", [2, 3])), whole[2:], rtol=0, atol=0)


def test_entropy_is_the_mean_of_the_nats():
    for toy in (line_mixture(), plane(), correlated_gaussian()):
        nats = -toy.log_prob(toy.sample(40_000, generator(2, "nats")))
        assert toy.entropy() == pytest.approx(float(nats.mean()), abs=4 * float(nats.std()) / 200)


def test_entropy_of_a_gaussian_is_closed_and_quadrature_agrees():
    covariance = torch.tensor([[1.0, 0.3], [0.3, 0.4]], dtype=F64)
    closed = Mixture.gaussian(torch.zeros(2), covariance).entropy()
    assert closed == pytest.approx(math.log(2 * math.pi * math.e) + 0.5 * float(torch.logdet(covariance)), abs=1e-12)
    # Two components that nearly coincide are integrated on the plane.
    near = Mixture.full(number(0.5).expand(2), torch.zeros(2, 2), torch.stack([covariance, covariance * (1 + 1e-9)]))
    assert near.entropy() == pytest.approx(closed, abs=1e-8)


def test_a_shared_covariance_reduces_the_integral():
    covariance = torch.tensor([[1.0, 0.3], [0.3, 0.4]], dtype=F64)
    weights, means = torch.tensor([0.3, 0.7], dtype=F64), torch.tensor([[1.0, 0.5], [-1.0, 0.8]], dtype=F64)
    shared = Mixture.full(weights, means, covariance.expand(2, 2, 2)).entropy()
    nudged = Mixture.full(weights, means, torch.stack([covariance, covariance * (1 + 1e-9)])).entropy()
    assert shared == pytest.approx(nudged, abs=1e-8)
    # The same in six dimensions, the other four independent.
    wide = torch.block_diag(covariance, 0.2 * torch.eye(4, dtype=F64)).expand(2, 6, 6)
    toy = Mixture.full(weights, torch.cat([means, torch.zeros(2, 4)], 1), wide)
    assert toy.entropy() == pytest.approx(shared + 2 * math.log(2 * math.pi * math.e * 0.2), abs=1e-9)


def test_far_components_add_the_entropy_of_the_choice():
    toy = Mixture.line([0.25, 0.75], [-30.0, 30.0], [1.0, 0.5])
    choice = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    gaussian = 0.5 * math.log(2 * math.pi * math.e)
    assert toy.entropy() == pytest.approx(choice + gaussian + 0.75 * math.log(0.5), abs=1e-10)


def test_noised_is_the_marginal_as_a_toy():
    toy, lam = plane(), number(0.7)
    z = torch.randn(5, 2, generator=generator(3, "z"), dtype=F64)
    torch.testing.assert_close(toy.noised(lam).log_prob(z), toy.marginal(lam, 5).log_prob(z))


def test_third_moment_is_the_third_cumulant():
    toy = line_mixture()
    nodes, weights = toy.nodes(torch.tensor([math.inf], dtype=F64), 800)
    x, distribution = nodes[0, :, 0], toy.distribution(1)
    wanted = (weights[0] * (x - distribution.mean()[0, 0]) ** 3).sum()
    torch.testing.assert_close(distribution.third_moment()[0], wanted, rtol=1e-10, atol=0)


@pytest.mark.parametrize("toy", [line_mixture(), plane()])
def test_nodes_integrate_the_marginal(toy):
    lam = torch.tensor([-8.0, 0.0, 9.0], dtype=F64)
    z, weight = toy.nodes(lam, 301)
    torch.testing.assert_close(weight.sum(1), torch.ones(3, dtype=F64), rtol=1e-10, atol=0)
    mean = (weight.unsqueeze(2) * z).sum(1)
    torch.testing.assert_close(mean, signal_scale(lam).unsqueeze(1) * toy.distribution(1).mean(), rtol=1e-9, atol=1e-12)


def test_float32_is_promoted_and_its_weights_are_accepted():
    toy = Mixture.full(torch.tensor([0.4, 0.6]), torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3))
    assert float(toy.weights.sum()) == pytest.approx(1, abs=1e-15)
    assert toy.denoise(torch.ones(1, 3), torch.tensor(0.5)).dtype == F64
    assert toy.log_prob(torch.ones(1, 3)).dtype == F64


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Mixture.line([0.5, 0.6], [0.0, 1.0], [1.0, 1.0]), "weights sum to 1.1"),
        (lambda: Mixture.line([1.5, -0.5], [0.0, 1.0], [1.0, 1.0]), "must be >= 0 and sum to 1"),
        (lambda: Mixture.line([1.0], [0.0], [0.0]), "must be positive"),
        (lambda: Mixture.line([0.5, 0.5], [0.0], [1.0]), "do not match"),
        (lambda: Mixture.gaussian(torch.zeros(2), torch.zeros(2, 2)), "not positive definite"),
        (lambda: Mixture.gaussian(torch.zeros(3), torch.eye(2)), "do not match"),
        (lambda: statement_in_three_dimensions().entropy(), "needs an integral over all of them"),
        (lambda: statement_in_three_dimensions().nodes(torch.zeros(1), 9), "too many for a grid"),
        (lambda: Mixture.line([0.5, 0.5], [0.0, 1e6], [1e-3, 1.0]).entropy(), "differ too much in width"),
    ],
)
def test_bad_input_is_told_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def statement_in_three_dimensions() -> Mixture:
    return Mixture(torch.tensor([0.5, 0.5]), torch.zeros(2, 3), Modes(torch.tensor([[1.0, 1, 1], [1, 1, 2]])))


def test_cosines_are_orthonormal_and_rise_in_frequency():
    basis = cosine_basis(16)
    torch.testing.assert_close(basis.T @ basis, torch.eye(16, dtype=F64), rtol=0, atol=1e-13)
    crossings = [int((basis[1:, k] * basis[:-1, k] < 0).sum()) for k in range(16)]
    assert crossings == list(range(16))


def test_spectrum_falls_as_one_over_f_in_amplitude():
    modes = pink_modes((1, 64, 64))
    power = modes.variance.reshape(64, 64)
    frequency = torch.arange(64, dtype=F64)
    assert slope(1 + frequency[1:], power[0, 1:]) == pytest.approx(-2, abs=1e-9)
    torch.testing.assert_close(power, power.T)


def test_pixels_have_the_declared_variance_and_channels_their_correlation():
    toy = pink_gaussian((3, 8, 8), std=0.4, color=0.7)
    covariance = toy.distribution(1).covariance()[0].reshape(3, 64, 3, 64)
    assert float(torch.stack([covariance[c, :, c].trace() for c in range(3)]).mean()) == pytest.approx(64 * 0.16)
    ratio = covariance[0, :, 1] / covariance[0, :, 0]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.7), rtol=1e-8, atol=0)
    x = toy.sample(4000, generator(0, "pink"))
    assert float(x.var()) == pytest.approx(0.16, rel=0.1)


def test_entropy_is_that_of_the_dense_gaussian():
    toy = pink_gaussian((1, 4, 4))
    covariance = toy.distribution(1).covariance()[0]
    wanted = 8 * math.log(2 * math.pi * math.e) + 0.5 * float(torch.logdet(covariance))
    assert toy.entropy() == pytest.approx(wanted, abs=1e-9)
    x = toy.sample(5, generator(1, "x"))
    dense = torch.distributions.MultivariateNormal(torch.zeros(16, dtype=F64), covariance)
    torch.testing.assert_close(toy.log_prob(x), dense.log_prob(x.flatten(1)))


def test_pair_has_two_kinds_and_a_known_entropy():
    toy = pink_pair((1, 8, 8), separation=4.0, weight=0.3)
    nats = -toy.log_prob(toy.sample(20_000, generator(2, "pair")))
    assert toy.entropy() == pytest.approx(float(nats.mean()), abs=4 * float(nats.std()) / math.sqrt(20_000))
    choice = -0.3 * math.log(0.3) - 0.7 * math.log(0.7)
    single = pink_gaussian((1, 8, 8)).entropy()
    assert single < toy.entropy() < single + choice
    assert toy.entropy() == pytest.approx(single + choice, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: pink_modes((8, 8)), r"must be \(C, H, W\)"),
        (lambda: pink_modes((1, 8, 8), std=0.0), "std=0 must be positive"),
        (lambda: pink_modes((3, 4, 4), color=1.0), "not positive definite"),
        (lambda: pink_modes((3, 4, 4), color=-0.6), "not positive definite"),
        (lambda: pink_pair((1, 4, 4), weight=1.0), "must lie in"),
    ],
)
def test_images_that_cannot_be_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def rotation(size: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=generator(seed, "axes", size), dtype=F64))[0]


@settings(max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 99))
def test_factors_are_a_kronecker_product(sizes, seed):
    factors = [rotation(size, seed + i) for i, size in enumerate(sizes)]
    whole = torch.ones(1, 1, dtype=F64)
    for factor in factors:
        whole = torch.kron(whole, factor)
    dims = len(whole)
    variance = 0.1 + torch.rand(1, dims, generator=generator(seed, "variance"), dtype=F64)
    modes = Modes(variance, tuple(factor.unsqueeze(0) for factor in factors))
    x = torch.randn(5, 1, dims, generator=generator(seed, "x"), dtype=F64)
    torch.testing.assert_close(modes.into(x), x @ whole)
    torch.testing.assert_close(modes.out_of(modes.into(x)), x)
    torch.testing.assert_close(modes.matrix(variance.unsqueeze(0))[0, 0], whole @ torch.diag(variance[0]) @ whole.T)


def test_matrices_come_back():
    root = torch.randn(3, 4, 4, generator=generator(0, "root"), dtype=F64)
    covariances = root @ root.mT + 0.1 * torch.eye(4, dtype=F64)
    modes = Modes.of_matrices(covariances)
    torch.testing.assert_close(modes.matrix(modes.variance.unsqueeze(0))[0], covariances)
    torch.testing.assert_close(modes.variance.log().sum(1), torch.logdet(covariances))


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        ([[1.0, 2.0], [2.0, 1.0]], "not positive definite"),
        ([[1.0, 1.0], [1.0, 1.0]], "not positive definite"),
        ([[1.0, 0.5], [0.0, 1.0]], "off symmetry"),
        ([[1.0, 0.5, 0.0]], r"must be \(K, d, d\)"),
        ([[float("nan"), 0.0], [0.0, 1.0]], "off symmetry"),
    ],
)
def test_what_is_no_covariance_is_refused(matrix, sentence):
    with pytest.raises(ValueError, match=sentence):
        Modes.of_matrices(torch.tensor([matrix]))


def test_axes_must_span_the_dimensions():
    with pytest.raises(ValueError, match="do not make 3 dimensions"):
        Modes(torch.ones(1, 3), (torch.eye(2).unsqueeze(0),))


def model_of(toy, decoder, reverse, levels=32):
    model = Diffusion(Denoiser(toy), LogSNRLinear(levels), DATA, reverse, decoder, toy.shape)
    model.precision = F64
    return model


@pytest.mark.parametrize("reverse", [PosteriorVariance(), StepVariance()])
def test_bound_of_the_library_is_the_entropy_and_the_closed_gaps(reverse):
    toy = correlated_gaussian()
    model = model_of(toy, DensityDecoder(), reverse)
    x = toy.sample(4000, generator(0, "x"))
    bound = model.bound(x, Streams(0, "bound", range(len(x)))).mean()
    logsnr = model.schedule.logsnr[1:]
    distribution = toy.distribution(1)
    covariance, mean = distribution.covariance()[0], distribution.mean()[0]
    gap = gaussian_exact(covariance, logsnr)
    levels = gap.posterior if isinstance(reverse, PosteriorVariance) else gap.step
    # The decoder N(x̂, s²/a²) where the truth is Cov[x|z_1]; the prior N(0, 1) where the truth is p(z_L).
    eigenvalues = toy.modes.variance[0]
    ratio = 1 / (1 + 1 / (logsnr[0].exp() * eigenvalues))
    decoder = 0.5 * (ratio - 1 - ratio.log()).sum()
    a, s = signal_scale(logsnr[-1]), noise_scale(logsnr[-1])
    top = a**2 * eigenvalues + s**2
    prior = 0.5 * ((top - 1 - top.log()).sum() + a**2 * (mean**2).sum())
    wanted = toy.entropy() + float(levels.sum() + decoder + prior)
    assert bound.value == pytest.approx(wanted, abs=4 * bound.stderr)
    assert bound.stderr < 0.1
    assert float(measured(toy, logsnr).posterior) == pytest.approx(float(gap.posterior.sum()), abs=1e-11)


def test_bound_on_digits_is_their_entropy_and_the_law_of_the_gap():
    means = torch.tensor([[0.3, -0.3], [-0.5, 0.5]])
    toy = DigitMixture.discretised(torch.tensor([0.4, 0.6]), means, torch.full((2, 2), 0.2), Pixels(16))
    model = model_of(toy, StepDecoder(Pixels(16)), PosteriorVariance(), 200)
    x = toy.sample(1500, generator(1, "x"))
    bound = model.bound(x, Streams(1, "bound", range(len(x)))).mean()
    logsnr = model.schedule.logsnr[1:]
    z = torch.cat([toy.marginal(now, 300).sample(generator(1, "z", i)) for i, now in enumerate(logsnr[1:])])
    covariance = toy.covariance(z, logsnr[1:].repeat_interleave(300)).reshape(199, 300, 2, 2)
    weight = torch.full((199, 300), 1 / 300, dtype=F64)
    gap = float(second_order(covariance, weight, logsnr, logsnr[1:]).posterior.sum())
    assert bound.value - toy.entropy() == pytest.approx(gap, abs=4 * bound.stderr + 0.1 * gap)
    assert gap > 5 * bound.stderr


def test_generating_through_the_library_gives_the_toys_digits():
    toy = DigitMixture.discretised(torch.ones(1), torch.full((1, 1), 0.1), torch.full((1, 1), 0.3), Pixels(8))
    model = model_of(toy, StepDecoder(Pixels(8)), PosteriorVariance(), 60)
    digits = Pixels(8).to_pixel_values(model.generate(4000, generator(2, "generate")))
    found = torch.bincount(digits.flatten(), minlength=8) / 4000
    wanted = toy.log_probs[0, 0].exp()
    # Sixty levels are not infinitely many: 4 standard errors and one per cent.
    assert bool(((found - wanted).abs() < 4 * (wanted / 4000).sqrt() + 0.01).all())


@pytest.mark.parametrize("make", [correlated_gaussian, line_mixture])
def test_examples_of_another_shape_are_refused(make):
    toy, wrong, level = make(), torch.zeros(2, 7), torch.tensor(1.0)
    for question in (toy.log_prob, lambda x: toy.denoise(x, level), lambda x: toy.covariance(x, level)):
        with pytest.raises(ValueError, match=r"examples of shape \(7,\): this toy's have shape"):
            question(wrong)


def test_single_precision_is_promoted():
    """A covariance and data in float32 give what the same numbers give in float64."""
    covariance = torch.tensor([[1.0, 0.3], [0.3, 0.5]])
    rough, exact = (Mixture.gaussian(torch.tensor([0.1, -0.2]).to(t), covariance.to(t)) for t in (torch.float32, F64))
    z, level = torch.tensor([[0.3, 0.7]]), torch.tensor(0.5)
    for name in ("denoise", "covariance", "score"):
        found = getattr(rough, name)(z, level)
        assert found.dtype == F64
        torch.testing.assert_close(found, getattr(exact, name)(z.double(), level.double()), rtol=0, atol=0)
    assert rough.log_prob(z).item() == exact.log_prob(z.double()).item()
