"""The decoders P_pri(z_0|z_1): widths, probabilities of pixel values, and a density."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.decoder import (
    DensityDecoder,
    DiscretisedGaussian,
    HoLargeDecoder,
    HoSmallDecoder,
    LearnedDecoder,
    SoftmaxBins,
    SoftmaxDecoder,
    StepDecoder,
    log_difference,
)
from markovae.diffusion.forward import noised, step_variance
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import FullVariance, LearnedVariance
from markovae.diffusion.schedule import LogSNRLinear, linear
from markovae.diffusion.target import DATA, NOISE
from markovae.diffusion.target_config import TargetConfig
from markovae.errors import UserError
from markovae.likelihood.measuring import measure
from markovae.randomness import Streams, generator
from markovae.theory.mixture import Denoiser, Mixture


def test_the_step_decoder_is_as_wide_as_what_level_one_leaves_unknown() -> None:
    """τ = s_1/a_1 = e^{−λ_1/2}: then ln P(x_k|z_1) with x̂ = z_1/a_1 is Bayes' rule under a flat law of pixels."""
    grid = LogSNRLinear(10, 3.0, -3.0).logsnr
    assert float(StepDecoder(Pixels()).scale(grid)) == pytest.approx(math.exp(-1.5), rel=1e-14)


def test_ho_et_als_widths_are_the_first_beta_and_the_second_levels_posterior() -> None:
    grid = linear(1000).logsnr
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bars = (1 - betas).cumprod(0)
    assert float(HoLargeDecoder(Pixels()).scale(grid)) == pytest.approx(math.sqrt(1e-4), rel=1e-9)
    posterior = float(betas[1] * (1 - bars[0]) / (1 - bars[1]))
    assert float(HoSmallDecoder(Pixels()).scale(grid)) == pytest.approx(math.sqrt(posterior), rel=1e-9)
    assert float(step_variance(grid[0], grid[1])) == pytest.approx(1e-4, rel=1e-9)


def test_the_small_width_needs_a_second_level() -> None:
    with pytest.raises(ValueError, match="measure on at least 2 levels"):
        HoSmallDecoder(Pixels()).scale(LogSNRLinear(1).logsnr)


@pytest.mark.parametrize("kind", [StepDecoder, HoLargeDecoder, HoSmallDecoder])
@pytest.mark.parametrize("centred", [False, True])
def test_each_gives_probabilities_around_x_hat_that_sum_to_one(kind, centred: bool) -> None:
    pixels = Pixels(256, centred)
    x_hat = torch.tensor([[-1.3, -0.2, 0.51, 1.0]], dtype=torch.float64)
    distribution = kind(pixels).distribution(x_hat, LogSNRLinear(10, 9.0, -3.0).logsnr, z=None)
    assert isinstance(distribution, DiscretisedGaussian)
    places = pixels.to_x(torch.arange(256))[:, None].expand(256, 4)
    one = DiscretisedGaussian(x_hat.expand(256, 4), distribution.scale, pixels)
    logs = one.log_probs(places)
    assert float((logs.exp().sum(0) - 1).abs().max()) < 1e-12
    assert torch.equal(places[logs.argmax(0), torch.arange(4)], distribution.mode()[0])


BINS = st.sampled_from([2, 3, 16, 256, 1000, 65_536])


def truth(pixels: Pixels, digit: int, mean: float, scale: float) -> mpmath.mpf:
    """ln P with enough digits for what cancels: exponents of the tails reach 10^10."""
    with mpmath.workdps(60):
        # The bin's edges as the library sees them: float64 numbers, from there on exact.
        centre = float(pixels.to_x(torch.tensor([digit]))[0]) - mean
        upper = mpmath.mpf((centre + pixels.half_width) / scale)
        lower = mpmath.mpf((centre - pixels.half_width) / scale)
        root = mpmath.sqrt(2)
        if digit == pixels.bins - 1:
            return mpmath.log(mpmath.erfc(lower / root) / 2)
        if digit == 0:
            return mpmath.log(mpmath.erfc(-upper / root) / 2)
        if lower > 0:
            return mpmath.log((mpmath.erfc(lower / root) - mpmath.erfc(upper / root)) / 2)
        if upper < 0:
            return mpmath.log((mpmath.erfc(-upper / root) - mpmath.erfc(-lower / root)) / 2)
        return mpmath.log((mpmath.erf(upper / root) - mpmath.erf(lower / root)) / 2)


@settings(max_examples=50, deadline=None)
@given(bins=BINS, centred=st.booleans(), place=st.floats(0, 1), mean=st.floats(-1.5, 1.5), scale=st.floats(1e-3, 3))
def test_log_probability_is_right_to_ten_digits(bins, centred, place, mean, scale):
    pixels = Pixels(bins, centred)
    digit = min(int(place * bins), bins - 1)
    x = pixels.to_x(torch.tensor([[digit]]))
    found = DiscretisedGaussian(
        torch.tensor([[mean]], dtype=torch.float64), torch.tensor(scale, dtype=torch.float64), pixels
    )
    expected = float(truth(pixels, digit, mean, scale))
    assert float(found.log_prob(x)) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("digit", [0, 40, 128, 215, 255])
@pytest.mark.parametrize("scale", [1e-3, 1e-2])
def test_hundreds_of_standard_deviations_out_nothing_is_capped(digit, scale):
    pixels = Pixels(256)
    for mean in (-1.0, 1.0):
        x = pixels.to_x(torch.tensor([[digit]]))
        found = DiscretisedGaussian(
            torch.tensor([[mean]]).double(), torch.tensor(scale, dtype=torch.float64), pixels
        ).log_prob(x)
        expected = float(truth(pixels, digit, mean, scale))
        assert float(found) == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert expected < -1000 or digit > 200


@settings(max_examples=50, deadline=None)
@given(bins=BINS, place=st.floats(0, 1), mean=st.floats(-40, 40), exponent=st.floats(-4, 45))
def test_a_bin_far_narrower_than_the_gaussian_keeps_its_mass(bins, place, mean, exponent):
    pixels, scale = Pixels(bins, True), math.exp(exponent)
    digit = min(int(place * bins), bins - 1)
    mean *= min(scale, 10.0)
    at = torch.tensor([[mean]], dtype=torch.float64, requires_grad=True)
    found = DiscretisedGaussian(at, torch.tensor(scale, dtype=torch.float64), pixels).log_prob(
        pixels.to_x(torch.tensor([[digit]]))
    )
    assert float(found.detach()) == pytest.approx(float(truth(pixels, digit, mean, scale)), rel=1e-10, abs=1e-12)
    found.sum().backward()
    assert at.grad.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(bins=BINS, centred=st.booleans(), mean=st.floats(-3, 3), scale=st.floats(1e-4, 10))
def test_bins_sum_to_one(bins, centred, mean, scale):
    pixels = Pixels(bins, centred)
    x = pixels.to_x(torch.arange(bins))[:, None]
    found = DiscretisedGaussian(
        torch.full((bins, 1), mean, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64), pixels
    )
    assert float(found.log_prob(x).exp().sum()) == pytest.approx(1, abs=1e-12)


def test_end_bins_are_open():
    pixels = Pixels(4)
    far = DiscretisedGaussian(torch.full((2, 1), 50.0), torch.tensor(0.5), pixels)
    ends = far.log_prob(pixels.to_x(torch.tensor([[3], [0]])))
    assert float(ends[0]) == 0.0
    assert float(ends[1]) < -4000


def test_draws_have_the_probabilities():
    pixels = Pixels(5)
    distribution = DiscretisedGaussian(torch.full((40_000, 1), 0.3), torch.tensor(0.4), pixels)
    drawn = (
        pixels.to_pixel_values(distribution.sample(torch.Generator().manual_seed(0))).flatten().bincount(minlength=5)
        / 40_000
    )
    expected = distribution.log_prob(pixels.to_x(torch.arange(5)).repeat(8000)[:, None])[:5].exp()
    assert float((drawn - expected).abs().max()) < 0.01


@given(st.floats(-700, 0), st.floats(1e-12, 50))
def test_log_difference(larger, gap):
    found = float(
        log_difference(torch.tensor(larger, dtype=torch.float64), torch.tensor(larger, dtype=torch.float64) - gap)
    )
    with mpmath.workdps(50):
        exact = larger + mpmath.log(-mpmath.expm1(mpmath.mpf(larger - gap) - mpmath.mpf(larger)))
    assert found == pytest.approx(float(exact), rel=1e-12, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    bins=st.sampled_from([2, 7, 256, 65_536]),
    centred=st.booleans(),
    mean=st.floats(-2, 2),
    scale=st.floats(1e-4, 5),
)
def test_bins_sum_to_one_of_softmax(bins, centred, mean, scale):
    pixels = Pixels(bins, centred)
    distribution = SoftmaxBins(
        torch.full((1, 1), mean, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64), pixels
    )
    x = pixels.to_x(torch.arange(bins))
    normalizer = distribution._log_normalizer(distribution.mean)
    total = (-0.5 * ((x - mean) / scale) ** 2).logsumexp(0)
    assert float(normalizer) == pytest.approx(float(total), rel=1e-12, abs=1e-12)
    assert float(distribution.log_probs(x[:1, None])) == pytest.approx(
        float(-0.5 * ((x[0] - mean) / scale) ** 2 - total), rel=1e-10, abs=1e-10
    )


def test_is_bayes_rule_for_the_latent_under_even_digits():
    pixels, schedule = Pixels(8, centred=True), LogSNRLinear(4, start=2.0)
    logsnr = schedule.logsnr
    z = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    distribution = SoftmaxDecoder(pixels).distribution(torch.zeros_like(z), logsnr, z)
    a, s = math.sqrt(torch.sigmoid(logsnr[1])), math.sqrt(torch.sigmoid(-logsnr[1]))
    centres = pixels.to_x(torch.arange(8))
    for i in range(2):
        likelihood = torch.exp(-0.5 * ((z[0, i] - a * centres) / s) ** 2)
        for digit in range(8):
            x = pixels.to_x(torch.full((1, 2), digit))
            expected = float((likelihood[digit] / likelihood.sum()).log())
            assert float(distribution.log_probs(x)[0, i]) == pytest.approx(expected, rel=1e-10)


def test_splitting_the_bins_changes_nothing(monkeypatch):
    pixels = Pixels(300)
    distribution = SoftmaxBins(
        torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double(), torch.tensor(0.1), pixels
    )
    x = pixels.to_x(torch.randint(300, (4, 5), generator=torch.Generator().manual_seed(1)))
    whole, drawn = distribution.log_prob(x), distribution.sample(Streams(0, "test", range(4)))
    monkeypatch.setattr("markovae.diffusion.decoder._MAX_TERMS", 20 * 7)
    torch.testing.assert_close(distribution.log_prob(x), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(distribution.sample(Streams(0, "test", range(4))), drawn)


def test_draws_have_the_probabilities_of_softmax():
    pixels = Pixels(5)
    distribution = SoftmaxBins(torch.full((40_000, 1), 0.2), torch.tensor(0.5), pixels)
    drawn = (
        pixels.to_pixel_values(distribution.sample(torch.Generator().manual_seed(0))).flatten().bincount(minlength=5)
        / 40_000
    )
    expected = distribution.log_prob(pixels.to_x(torch.arange(5)).repeat(8000)[:, None])[:5].exp()
    assert float((drawn - expected).abs().max()) < 0.01
    assert float(pixels.to_pixel_values(distribution.mode()).double().mean()) == float(expected.argmax())


def test_needs_the_latent():
    with pytest.raises(ValueError, match="reads the latent"):
        SoftmaxDecoder(Pixels()).distribution(torch.zeros(1, 1), LogSNRLinear(3).logsnr)


TOY = Mixture.gaussian(torch.tensor([0.2, -0.3]), torch.tensor([[0.5, 0.3], [0.3, 0.4]]))


def model(levels: int = 65) -> Diffusion:
    made = Diffusion(Denoiser(TOY), LogSNRLinear(levels, 12.0, -12.0), DATA, FullVariance(), DensityDecoder(), (2,))
    made.precision = torch.float64
    return made


def test_nats_meet_the_density_of_each_example():
    # Full covariance, exact denoiser: the levels have no gap, and level 1 almost none at log-SNR 12.
    x = TOY.sample(10_000, generator(0, "density"))
    excess = estimate_mean(model().bound(x, generator(1, "density")).total + TOY.log_prob(x))
    assert excess.value == pytest.approx(0, abs=4 * excess.stderr)
    assert excess.stderr < 0.03


def test_measuring_agrees_with_the_bound():
    x = TOY.sample(300, generator(0, "density"))
    measured = measure(model(9), x, draws=None)
    excess = estimate_mean(measured.total - model(9).bound(x).total)
    assert excess.value == pytest.approx(0, abs=4 * excess.stderr)
    assert measured.density_nats.value == pytest.approx(float(measured.total.mean()))


def test_refuses_bits_and_digits():
    x = TOY.sample(3, generator(1, "density"))
    measured = measure(model(5), x, draws=None)
    with pytest.raises(UserError, match="bin width"):
        _ = measured.bits_per_dim
    with pytest.raises(ValueError, match="bin width"):
        model(5).bound(x).bits_per_dim()
    with pytest.raises(UserError, match="no decoder for pixels"):
        measure(model(5), torch.zeros(3, 2, dtype=torch.uint8))
    with pytest.raises(UserError, match="no decoder for pixels"):
        _ = model(5).pixels


def test_record_names_a_density():
    record = measure(model(5), TOY.sample(3, generator(1, "density")), draws=None).to_dict()
    assert record["nats"]["mean"] is None
    assert record["bits_per_dim"]["mean"] is None
    assert math.isfinite(record["density_nats"]["mean"])


def test_digits_have_no_density():
    made = Diffusion(Denoiser(TOY), LogSNRLinear(5), DATA, FullVariance(), StepDecoder(Pixels()), (2,))
    made.precision = torch.float64
    measured = measure(made, torch.full((2, 2), 100))
    with pytest.raises(UserError, match="no density"):
        _ = measured.density_nats


def test_a_learned_width_lies_between_those_of_ho_and_is_read_from_the_head() -> None:
    """Head −1 is √β̃_2, 1 is σ_1, 0 their geometric mean (Nichol & Dhariwal's code at t = 0), in the bound as well."""
    grid, pixels = linear(40).logsnr, Pixels()
    low, high = (float(decoder(pixels).scale(grid)) for decoder in (HoSmallDecoder, HoLargeDecoder))
    head = torch.tensor([-1.0, 0.0, 1.0, 2.0]).reshape(1, 1, 2, 2)
    wanted = torch.tensor([low, (low * high) ** 0.5, high, high * (high / low) ** 0.5]).double()
    torch.testing.assert_close(LearnedDecoder(pixels).scale(grid, head).flatten(), wanted)
    with pytest.raises(ValueError, match="needs the second half"):
        LearnedDecoder(pixels).scale(grid)

    def network(z: torch.Tensor, logsnr: torch.Tensor, condition: object = None) -> torch.Tensor:
        return torch.cat([0.1 * z, head.expand_as(z).to(z)], 1)

    class Net(torch.nn.Module):
        forward = staticmethod(network)

    model = Diffusion(Net(), linear(40), NOISE, LearnedVariance(), LearnedDecoder(pixels), (1, 2, 2))
    images = torch.randint(0, 256, (3, 1, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    x, source = model.to_x(images), Streams(0, "r", range(3))
    z = noised(x, Streams(0, "r", range(3)).normal((1, 2, 2), x.dtype), grid[1])
    made = DiscretisedGaussian(model.denoise(z, grid[1]), wanted.reshape(1, 1, 2, 2), pixels)
    torch.testing.assert_close(model.reconstruction_nats(x, source), -made.log_prob(x))
    measured = measure(model, images, draws=None).nats
    assert measured.value == pytest.approx(float(model.bound(images).total.mean()), abs=3 * measured.stderr)
    with pytest.raises(UserError, match=r"target\.decoder=learned reads the head of target\.reverse=learned"):
        TargetConfig(decoder="learned")
