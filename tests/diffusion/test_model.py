"""Diffusion against closed forms: with Gaussian data every term of the bound is known."""

import math

import pytest
import torch

from markovae.build import create
from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.decoder import DensityDecoder, StepDecoder
from markovae.diffusion.forms import FORMS, draw_form, e1, e5, e6
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.gaussian import Gaussian
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import FullVariance, LearnedVariance, PosteriorVariance, ReverseVariance, StepVariance
from markovae.diffusion.schedule import LogSNRLinear, NoiseSchedule, constant
from markovae.diffusion.target import DATA, MEAN, NOISE, STEP_NOISE, TARGETS, Target
from markovae.errors import UserError
from markovae.networks.mlp import MLP, MLPConfig
from markovae.randomness import Streams, generator

VARIANCE, MEAN_OF_DATA, DIMS = 0.3, 0.4, 3
SCHEDULE = LogSNRLinear(12, 5.0, -4.0)
variances = pytest.mark.parametrize("reverse", [StepVariance(), PosteriorVariance()], ids=lambda r: type(r).__name__)


class Exact(torch.nn.Module):
    """E[x|z] of x ~ N(m, v) in the place of a network, told in any of the parameterisations of its grid."""

    def __init__(self, target: Target = DATA, grid: torch.Tensor | None = None, variance: float = VARIANCE) -> None:
        super().__init__()
        self.target, self.grid, self.variance = target, grid, variance

    def forward(self, z: torch.Tensor, logsnr: torch.Tensor, condition: object = None) -> torch.Tensor:
        a, s = (f(logsnr).reshape(-1, *[1] * (z.ndim - 1)) for f in (signal_scale, noise_scale))
        x_hat = (MEAN_OF_DATA * s**2 + self.variance * a * z) / (a**2 * self.variance + s**2)
        if self.grid is None:
            return self.target.of_x(x_hat, z, logsnr)
        level = (self.grid[None] - logsnr[:, None]).abs().argmin(1)
        return self.target.of_x(x_hat, z, logsnr, self.grid[level - 1])


def model(
    reverse: ReverseVariance | None = None,
    schedule: NoiseSchedule = SCHEDULE,
    target: Target = DATA,
    network: torch.nn.Module | None = None,
) -> Diffusion:
    net = Exact(target, schedule.logsnr) if network is None else network
    made = Diffusion(net, schedule, target, reverse or PosteriorVariance(), DensityDecoder(), (DIMS,))
    made.precision = torch.float64
    return made


def data(count: int, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(count, DIMS, generator=generator(seed, "data"), dtype=torch.float64)
    return MEAN_OF_DATA + math.sqrt(VARIANCE) * noise


@variances
def test_every_term_of_the_bound_against_its_closed_form(reverse: ReverseVariance) -> None:
    """mmse = v s²/(a² v + s²) per dim; a level costs ½[r − 1 − ln r + c_x² mmse/σ²], r = β̃ over the variance."""
    bound = model(reverse).bound(data(6000), generator(1, "bound"))
    snr = SCHEDULE.logsnr[1:].exp()
    mmse = VARIANCE / (1 + snr * VARIANCE)
    gap = 0.5 * (snr[:-1] - snr[1:]) * mmse[1:]
    if isinstance(reverse, StepVariance):
        ratio = (1 + snr[1:]) / (1 + snr[:-1])  # s_{ℓ−1}²/s_ℓ²
        gap = 0.5 * (ratio - 1 - ratio.log()) + ratio * gap
    levels, stderr = bound.levels.mean(0) / DIMS, bound.levels.std(0) / DIMS / len(bound.prior) ** 0.5
    assert bool(((levels - gap).abs() < 4.5 * stderr).all())
    a2, s2 = snr[-1] / (1 + snr[-1]), 1 / (1 + snr[-1])
    top = 0.5 * (a2 * (VARIANCE + MEAN_OF_DATA**2) + s2 - 1 - s2.log())
    prior = estimate_mean(bound.prior / DIMS)
    assert abs(prior.value - float(top)) < 4 * prior.stderr
    decoder = 0.5 * (math.log(2 * math.pi) - math.log(float(snr[0])) + float(snr[0] * mmse[0]))
    reconstruction = estimate_mean(bound.reconstruction / DIMS)
    assert abs(reconstruction.value - decoder) < 4 * reconstruction.stderr
    entropy = 0.5 * DIMS * math.log(2 * math.pi * math.e * VARIANCE)
    assert bound.mean().value > entropy


@variances
def test_a_levels_nats_are_the_divergence_of_posterior_and_prior_step(reverse: ReverseVariance) -> None:
    made, x = model(reverse), data(5)
    for level in (2, 7, 12):
        z = made.marginal(x, level).sample(Streams(0, "z", range(5)))
        nats = made.level_nats(x, torch.full((5,), level), Streams(0, "z", range(5)))
        prior = made.prior_step(z, level)
        assert isinstance(prior, Gaussian)
        torch.testing.assert_close(nats, made.posterior(x, z, level).kl(prior), rtol=1e-9, atol=1e-10)


@variances
def test_along_one_path_the_first_five_forms_agree_and_the_sixth_in_expectation(reverse: ReverseVariance) -> None:
    made, x = model(reverse), data(3000)
    path = made.encode(x, generator(2, "path"))
    forms = [form(made, path) for form in FORMS]
    for form in forms[1:5]:
        assert bool(((form.nats - forms[0].nats).abs() <= 1e-10 * forms[0].magnitude).all())
    difference = estimate_mean(forms[5].nats - forms[4].nats)
    assert difference.stderr > 0
    assert abs(difference.value) < 4 * difference.stderr


def test_the_bound_is_the_sixth_form() -> None:
    made, x = model(), data(4000)
    bound, sixth = made.bound(x, generator(3, "a")).mean(), estimate_mean(draw_form(e6, made, x, generator(4, "b"))[0])
    assert abs(bound.value - sixth.value) < 4 * math.hypot(bound.stderr, sixth.stderr)


def test_digits_with_an_untrained_network_agree_in_all_forms() -> None:
    """Single-precision data and a single-precision network: latents and nats are promoted, so the forms still meet."""
    torch.manual_seed(0)
    network = MLP(MLPConfig(4, 4, width=16, depth=1))
    torch.nn.init.normal_(network.head.weight, std=0.1)
    made = Diffusion(network, LogSNRLinear(30), NOISE, StepVariance(), StepDecoder(Pixels(17)), (4,))
    digits = torch.randint(17, (50, 4), generator=generator(0, "digits"))
    path = made.encode(made.to_x(digits).float(), generator(0, "path"))
    forms = [form(made, [z.float() for z in path] if i else path) for i, form in enumerate((e1, e1, e5))]
    assert path[-1].dtype == torch.float64
    # The rounded path is another path; on it E1 and E5 meet as closely as on the first.
    assert bool(((forms[1].nats - forms[2].nats).abs() <= 1e-10 * forms[1].magnitude).all())
    whole = estimate_mean(e5(made, path).nats)
    assert abs(whole.value - made.bound(digits).mean().value) < 4 * math.hypot(whole.stderr, whole.stderr)


@variances
def test_with_exact_networks_all_targets_give_the_same_nats(reverse: ReverseVariance) -> None:
    x = data(20)
    for schedule in (SCHEDULE, constant(num_levels=15, delta=0.05)):
        totals = [
            model(reverse, schedule, target).bound(x, Streams(0, "six", range(20))).total.detach() for target in TARGETS
        ]
        for other in totals[1:]:
            assert float((other - totals[0]).abs().max()) < 1e-9


@pytest.mark.parametrize("target", [STEP_NOISE, MEAN], ids=lambda t: t.name)
def test_on_a_sub_grid_targets_of_one_step_keep_the_training_grids_neighbour(target: Target) -> None:
    x = data(20)
    coarse = SCHEDULE.subgrid(5)
    expected = model(schedule=coarse).bound(x, Streams(0, "sub", range(20))).total
    told = model(target=target).on_grid(coarse).bound(x, Streams(0, "sub", range(20))).total
    torch.testing.assert_close(told, expected, rtol=0, atol=1e-9)


def test_a_sub_grid_bounds_from_above_and_one_level_is_prior_and_decoder() -> None:
    x = data(2000)
    fine, coarse, one = (model().on_grid(SCHEDULE.subgrid(k)).bound(x, generator(5, "k")) for k in (12, 4, 1))
    assert coarse.mean().value > fine.mean().value + 3 * math.hypot(coarse.mean().stderr, fine.mean().stderr)
    assert one.levels.shape == (2000, 0)
    torch.testing.assert_close(one.total, one.prior + one.reconstruction)


@variances
def test_generated_data_have_the_chains_exact_moments(reverse: ReverseVariance) -> None:
    """Run backwards in closed form: mean and variance of each level follow from x̂ being affine in z."""
    made, count = model(reverse), 20_000
    mean, variance = 0.0, 1.0
    probe = torch.tensor([[0.0] * DIMS, [1.0] * DIMS], dtype=torch.float64)
    for level in range(12, 0, -1):
        step = made.prior_step(probe, level)
        assert isinstance(step, Gaussian)
        offset, slope = float(step.mean[0, 0]), float(step.mean[1, 0] - step.mean[0, 0])
        mean, variance = offset + slope * mean, slope**2 * variance + float(step.variance)
    drawn = made.generate(count, generator(6, "generate"))
    assert abs(float(drawn.mean()) - mean) < 4 * (variance / drawn.numel()) ** 0.5
    assert abs(float(drawn.double().var()) / variance - 1) < 4 * (2 / drawn.numel()) ** 0.5


def test_the_bound_of_an_example_does_not_depend_on_its_batch() -> None:
    x = data(6)
    whole = model().bound(x).total
    parts = torch.cat([model().bound(x[i : i + 1], Streams(0, "bound", [i])).total for i in range(6)])
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=0)


def test_a_learned_or_full_variance_says_what_e6_lacks() -> None:
    network = MLP(MLPConfig(DIMS, 2 * DIMS, width=8, depth=1)).double()
    learned = Diffusion(network.float(), SCHEDULE, NOISE, LearnedVariance(), DensityDecoder(), (DIMS,))
    path = learned.encode(data(4), generator(0, "l"))
    first = e1(learned, path)
    assert bool(((first.nats - e5(learned, path).nats).abs() <= 1e-10 * first.magnitude).all())
    full = model(FullVariance())
    path = full.encode(data(4), generator(0, "f"))
    first = e1(full, path)
    assert bool(((first.nats - e5(full, path).nats).abs() <= 1e-10 * first.magnitude).all())
    with pytest.raises(ValueError, match=r"KL\(Gaussian ‖ \w+\) in closed form.*use E5"):
        e6(full, path)


def test_images_are_digits_or_their_places_and_nothing_else() -> None:
    made = Diffusion(Exact(), SCHEDULE, DATA, StepVariance(), StepDecoder(Pixels(17)), (DIMS,))
    digits = torch.tensor([[0, 8, 16]], dtype=torch.uint8)
    places = Pixels(17).to_x(digits)
    assert torch.equal(made.to_x(digits), places)
    assert torch.equal(made.to_x(places.float()), places)
    assert torch.equal(made.to_x(digits.numpy()), places)
    assert made.bound(places.float()).total.dtype == torch.float64
    with pytest.raises(ValueError, match="off the places of the 17 pixel values"):
        made.to_x(places + 0.03)
    with pytest.raises(ValueError, match=r"data of shape \(2,\): this model takes \(3,\)"):
        made.to_x(digits[:, :2])
    with pytest.raises(ValueError, match="must lie in 0…16"):
        made.to_x(digits + 1)
    with pytest.raises(UserError, match="no decoder for pixels"):
        _ = model().pixels
    with pytest.raises(ValueError, match="no decoder for pixels"):
        model().bound(digits)


def test_densities_have_no_bits() -> None:
    with pytest.raises(ValueError, match="bin width"):
        model().bound(data(3)).bits_per_dim()


@pytest.mark.parametrize("target", [STEP_NOISE, MEAN], ids=lambda t: t.name)
def test_between_the_levels_targets_of_one_step_mean_nothing(target: Target) -> None:
    made, z = model(target=target), data(3)
    for level in (1, 6, 12):
        made.denoise(z, SCHEDULE.logsnr[level])
    for wrong in (0.5 * (SCHEDULE.logsnr[6] + SCHEDULE.logsnr[7]), SCHEDULE.logsnr[12] - 1, SCHEDULE.logsnr[1] + 1):
        with pytest.raises(UserError, match="off its levels"):
            made.denoise(z, wrong)
    model().denoise(z, SCHEDULE.logsnr[12] - 1)


@pytest.mark.parametrize("level", [-1, 0, 13])
def test_levels_that_the_chain_has_not_are_refused(level: int) -> None:
    made, x = model(), data(2)
    for step in (made.encoder_step, made.marginal, made.prior_step):
        with pytest.raises(ValueError, match=rf"level={level} must lie in 1…12"):
            step(x, level)
    with pytest.raises(ValueError, match=r"level=1 must lie in 2…12"):
        made.posterior(x, x, 1)


def test_a_bound_drops_no_features_and_leaves_the_model_as_it_was(tiny_config, tiny_data) -> None:
    made = create(tiny_config.with_settings(["network.dropout=0.5"]), tiny_data.shape)
    torch.nn.init.normal_(made.network.outer_weights()[-1], generator=torch.Generator().manual_seed(0))
    one, two = (made.bound(tiny_data.images[:2]).total for _ in range(2))
    assert made.training
    assert torch.equal(one, two)
    with pytest.raises(ValueError, match="at least one"):
        made.bound(tiny_data.images[:0])
