"""A toy's denoiser in the place of a network: the library's own bound and sampling against the truth."""

import pytest
import torch

from markovae.diffusion.decoder import DensityDecoder, StepDecoder
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import PosteriorVariance, StepVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA
from markovae.randomness import Streams, generator
from markovae.theory.gap_statements import correlated_gaussian, line_mixture
from markovae.theory.gaps import gaussian_exact, measured, second_order
from markovae.theory.mixture import Denoiser, Mixture
from markovae.theory.pixel_mixture import DigitMixture

F64 = torch.float64


def model_of(toy, decoder, reverse, levels=64):
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
    law = toy.law(1)
    covariance, mean = law.covariance()[0], law.mean()[0]
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
