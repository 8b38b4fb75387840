import itertools
import math

import pytest
import torch

from markovae.diffusion import forward
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.pixels import Pixels
from markovae.randomness import generator
from markovae.theory.pixel_mixture import DigitMixture

F64 = torch.float64
PIXELS = Pixels(8)


def pair() -> DigitMixture:
    weights, means = torch.tensor([0.3, 0.7], dtype=F64), torch.tensor([[0.5, -0.6], [-0.4, 0.2]], dtype=F64)
    return DigitMixture.discretised(weights, means, torch.tensor([[0.3, 0.2], [0.5, 0.1]], dtype=F64), PIXELS)


def every_image() -> torch.Tensor:
    return PIXELS.to_x(torch.tensor(list(itertools.product(range(8), repeat=2))))


def test_probabilities_of_all_images_sum_to_one_and_give_the_entropy():
    toy = pair()
    logs = toy.log_prob(every_image())
    assert float(logs.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert toy.entropy() == pytest.approx(-float((logs.exp() * logs).sum()), abs=1e-12)


def test_one_component_needs_no_enumeration():
    shape = (3, 4, 4)
    one = DigitMixture.discretised(torch.ones(1), torch.zeros(1, *shape), torch.full((1, *shape), 0.4), Pixels(256))
    single = DigitMixture.discretised(torch.ones(1), torch.zeros(1, 1), torch.full((1, 1), 0.4), Pixels(256))
    assert one.entropy() == pytest.approx(48 * single.entropy(), rel=1e-12)
    # Many bins approach the differential entropy less ln(bin), here with bins of 2/255.
    differential = 0.5 * math.log(2 * math.pi * math.e * 0.4**2) - math.log(2 / 255)
    assert single.entropy() == pytest.approx(differential, abs=0.05)


@pytest.mark.parametrize("logsnr", [-4.0, 0.0, 3.0, 9.0])
def test_posterior_is_bayes_over_all_images(logsnr):
    toy, lam, images = pair(), torch.tensor(logsnr, dtype=F64), every_image()
    z = toy.marginal(lam, 3).sample(generator(0, "z"))
    a, s = signal_scale(lam), noise_scale(lam)
    joint = toy.log_prob(images) - 0.5 * ((z.unsqueeze(1) - a * images) ** 2 / s**2).sum(2)
    evidence = joint.logsumexp(1)
    torch.testing.assert_close(
        toy.marginal(lam, 3).log_prob(z), evidence - torch.log(2 * math.pi * s**2), rtol=1e-10, atol=1e-10
    )
    weight = (joint - evidence.unsqueeze(1)).exp()
    mean = weight @ images
    torch.testing.assert_close(toy.denoise(z, lam), mean)
    offset = images - mean.unsqueeze(1)
    torch.testing.assert_close(
        toy.covariance(z, lam), torch.einsum("bn,bni,bnj->bij", weight, offset, offset), rtol=1e-8, atol=1e-10
    )
    decoder = toy.reverse(z, torch.tensor(math.inf, dtype=F64), lam)
    for image, column in zip(images, weight.T, strict=True):
        torch.testing.assert_close(decoder.log_prob(image.expand(3, 2)).exp(), column, rtol=1e-9, atol=1e-12)


def test_reverse_step_obeys_bayes():
    toy, before, now = pair(), torch.tensor(1.0, dtype=F64), torch.tensor(0.4, dtype=F64)
    z_prev = toy.marginal(before, 6).sample(generator(1, "before"))
    z = forward.step(z_prev, before, now).sample(generator(1, "step"))
    ahead = forward.step(z_prev, before, now).log_prob(z) + toy.marginal(before, 6).log_prob(z_prev)
    back = toy.reverse(z, before, now).log_prob(z_prev) + toy.marginal(now, 6).log_prob(z)
    torch.testing.assert_close(back, ahead, rtol=0, atol=1e-10)


def test_draws_have_the_probabilities():
    toy, count = pair(), 40_000
    digits = PIXELS.to_pixel_values(toy.sample(count, generator(2, "draws")))
    found = torch.bincount(digits[:, 0] * 8 + digits[:, 1], minlength=64) / count
    wanted = toy.log_prob(every_image()).exp()
    error = (wanted * (1 - wanted) / count).sqrt()
    # 64 cells at once: 4.5 standard errors, and half a count for cells that expect none.
    assert bool(((found - wanted).abs() <= 4.5 * error + 1 / count).all())
    z = toy.marginal(torch.tensor(0.5, dtype=F64), count).sample(generator(2, "z"))
    a, s = signal_scale(torch.tensor(0.5)), noise_scale(torch.tensor(0.5))
    variance = a**2 * toy.distribution(1).covariance()[0].diagonal() + s**2
    assert bool(((z.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / count)).all())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: DigitMixture(torch.ones(1), torch.full((1, 2, 8), 0.2), PIXELS), "miss one by"),
        (lambda: DigitMixture(torch.ones(2), torch.full((2, 2, 8), 0.125), PIXELS), "weights sum to 2"),
        (lambda: DigitMixture(torch.ones(1), torch.full((1, 2, 4), 0.25), PIXELS), "bins=8"),
        (lambda: DigitMixture.discretised(torch.ones(1), torch.zeros(1, 2), torch.zeros(1, 2), PIXELS), "positive"),
        (lambda: wide().entropy(), "too many images"),
    ],
)
def test_bad_input_is_told_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def wide() -> DigitMixture:
    return DigitMixture.discretised(torch.tensor([0.5, 0.5]), torch.zeros(2, 9), torch.ones(2, 9), PIXELS)
