"""Mixtures: every closed form against differentiation, Bayes, integration or draws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.diffusion import forward
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.randomness import Streams, generator
from markovae.theory.gap_statements import correlated_gaussian, line_mixture
from markovae.theory.mixture import Mixture, Modes

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
    law = toy.law(1)
    mean, covariance = law.mean()[0], law.covariance()[0]
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
    x, law = nodes[0, :, 0], toy.law(1)
    wanted = (weights[0] * (x - law.mean()[0, 0]) ** 3).sum()
    torch.testing.assert_close(law.third_moment()[0], wanted, rtol=1e-10, atol=0)


@pytest.mark.parametrize("toy", [line_mixture(), plane()])
def test_nodes_integrate_the_marginal(toy):
    lam = torch.tensor([-8.0, 0.0, 9.0], dtype=F64)
    z, weight = toy.nodes(lam, 301)
    torch.testing.assert_close(weight.sum(1), torch.ones(3, dtype=F64), rtol=1e-10, atol=0)
    mean = (weight.unsqueeze(2) * z).sum(1)
    torch.testing.assert_close(mean, signal_scale(lam).unsqueeze(1) * toy.law(1).mean(), rtol=1e-9, atol=1e-12)


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
