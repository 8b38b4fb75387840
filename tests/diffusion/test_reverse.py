"""The variances of the prior's steps: σ² and β̃, fitted, learned and full."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from markovae.diffusion.decoder import DensityDecoder, StepDecoder
from markovae.diffusion.forward import posterior, posterior_variance, step_variance
from markovae.diffusion.gaussian import FullGaussian, Gaussian
from markovae.diffusion.model import Diffusion
from markovae.diffusion.objective import NoiseSample, Objective, loss, uniform_levels
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import (
    DiagonalVariance,
    ErrorTable,
    FullVariance,
    IndependentVariance,
    IsotropicVariance,
    LearnedVariance,
    PosteriorVariance,
    StepVariance,
)
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA, NOISE, VELOCITY
from markovae.errors import UserError
from markovae.likelihood.measuring import measure
from markovae.randomness import generator
from markovae.theory.mixture import Denoiser, Mixture

both = pytest.mark.parametrize("reverse", [StepVariance(), PosteriorVariance()], ids=lambda r: type(r).__name__)


def three(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 4, 2, 3, generator=generator(seed, "reverse"), dtype=torch.float64)


@both
@given(now=st.floats(-8, 8), fall=st.floats(0.05, 5), seed=st.integers(0, 99))
def test_the_divergence_is_that_of_the_two_gaussians(reverse, now: float, fall: float, seed: int) -> None:
    x, x_hat, z = three(seed)
    level = torch.full((4,), now, dtype=torch.float64)
    encoder = posterior(x, z, level + fall, level)
    prior = reverse.step(x_hat, z, level + fall, level)
    assert isinstance(prior, Gaussian)
    got = reverse.kl(x, x_hat, level + fall, level)
    torch.testing.assert_close(got, encoder.kl(prior), rtol=1e-8, atol=1e-9)
    assert bool((got >= 0).all())


@pytest.mark.parametrize("before", [33.0, 36.5, 37.5, 60.0])
def test_a_step_over_all_of_the_grid_keeps_its_digits(before: float) -> None:
    """With an exact guess and the step's variance a coordinate costs ½(r − 1 − ln r), r = s²_{ℓ−1}/s²_ℓ."""
    before_level, level = torch.tensor([before, -10.0]).double()
    x = torch.zeros(1, 1, dtype=torch.float64)
    r = math.exp(-before) / (1 + math.exp(-before)) * (1 + math.exp(-10.0))
    expected = 0.5 * (r - 1 - math.log(r))
    assert float(StepVariance().kl(x, x, before_level, level)) == pytest.approx(expected, rel=1e-12)


@given(now=st.floats(-20, 20), fall=st.floats(1e-4, 5), seed=st.integers(0, 99))
def test_with_the_posterior_variance_it_is_half_the_fall_of_the_snr_times_the_square(
    now: float, fall: float, seed: int
) -> None:
    x, x_hat, _ = three(seed)
    level = torch.tensor(now, dtype=torch.float64)
    # γ_{ℓ−1} − γ_ℓ = −γ_{ℓ−1} expm1(λ_ℓ − λ_{ℓ−1})
    before = level + fall
    weight = -0.5 * before.exp() * torch.expm1(level - before)
    expected = weight * ((x - x_hat) ** 2).flatten(1).sum(1)
    torch.testing.assert_close(PosteriorVariance().kl(x, x_hat, before, level), expected, rtol=1e-10, atol=0)


def test_an_exact_guess_costs_the_variances_difference_alone() -> None:
    x, _, _ = three()
    before, level = torch.tensor([1.0, 0.0]).double()
    assert torch.equal(PosteriorVariance().kl(x, x, before, level), torch.zeros(4, dtype=torch.float64))
    ratio = float(torch.sigmoid(-before) / torch.sigmoid(-level))
    expected = 3 * (ratio - 1 - torch.tensor(ratio, dtype=torch.float64).log())
    torch.testing.assert_close(StepVariance().kl(x, x, before, level), expected.expand(4), rtol=1e-12, atol=0)


def test_the_steps_variance_is_the_encoders() -> None:
    _, x_hat, z = three()
    before, level = torch.tensor([1.0, 0.0]).double()
    assert torch.equal(StepVariance().step(x_hat, z, before, level).variance, step_variance(before, level))


KNOTS = torch.linspace(6, -6, 13, dtype=torch.float64)


class Fixed(IndependentVariance):
    """A variance times a factor, to look around an optimum."""

    def __init__(self, of: IndependentVariance, factor: float) -> None:
        super().__init__()
        self.of, self.factor = of, factor

    def variance(self, logsnr_prev, logsnr, head):
        return self.factor * self.of.variance(logsnr_prev, logsnr, head)


def draws(n: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Errors of unequal spread by coordinate, as data x around x̂ = 0."""
    spread = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    x = spread * torch.randn(n, 3, generator=generator(0, "fitted"), dtype=torch.float64)
    return x, torch.zeros_like(x)


def fitted(x: torch.Tensor) -> list[IndependentVariance]:
    isotropic, diagonal = IsotropicVariance(13), DiagonalVariance((3,), 13)
    isotropic.errors.fit(KNOTS, (x**2).mean().expand(13))
    diagonal.errors.fit(KNOTS, (x**2).mean(0).expand(13, 3))
    return [isotropic, diagonal]


@pytest.mark.parametrize("which", [0, 1])
@settings(max_examples=20, deadline=None)
@given(logsnr=st.floats(-5, 5), step=st.floats(0.01, 5))
def test_expected_kl_is_least(which, logsnr, step):
    x, x_hat = draws()
    now = torch.tensor(logsnr, dtype=torch.float64).expand(len(x))
    best = fitted(x)[which]
    nats = {f: float(Fixed(best, f).kl(x, x_hat, now + step, now).mean()) for f in (0.99, 1.0, 1.01)}
    assert nats[1.0] < nats[0.99]
    assert nats[1.0] < nats[1.01]


@settings(max_examples=30, deadline=None)
@given(logsnr=st.floats(-5, 5), step=st.floats(0.01, 5))
def test_expected_kl_in_closed_form(logsnr, step):
    x, x_hat = draws()
    now = torch.tensor(logsnr, dtype=torch.float64).expand(len(x))
    width = (now + step).exp() - now.exp()
    isotropic, diagonal = (float(v.kl(x, x_hat, now + step, now).mean()) for v in fitted(x))
    error = (x**2).mean(0)
    assert isotropic == pytest.approx(float(1.5 * torch.log1p(width[0] * error.mean())), rel=1e-9)
    assert diagonal == pytest.approx(float(0.5 * torch.log1p(width[0] * error).sum()), rel=1e-9)
    posterior = float(PosteriorVariance().kl(x, x_hat, now + step, now).mean())
    assert diagonal < isotropic < posterior


def test_a_coordinate_without_error_takes_the_posterior_variance():
    diagonal = DiagonalVariance((2,), 2)
    diagonal.errors.fit(torch.tensor([3.0, -3.0]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    now = torch.zeros(1, dtype=torch.float64)
    variance = diagonal.variance(now + 1, now, None)
    assert float(variance[0, 0]) == pytest.approx(float(posterior_variance(now + 1, now)), rel=1e-12)
    assert float(variance[0, 1]) > float(variance[0, 0])


def test_table_is_exact_at_its_knots_and_smooth_between():
    error = 1 / (1 + KNOTS.exp())  # data of unit variance
    table = ErrorTable(13).fit(KNOTS, error)
    torch.testing.assert_close(table.at(KNOTS), error)
    between = torch.linspace(6, -6, 200, dtype=torch.float64)
    assert float((table.at(between) * (1 + between.exp()) - 1).abs().max()) < 0.035  # h²/8 · max p(1−p), h = 1
    # Beyond the ends the last slope goes on: errors keep falling with the noise.
    assert float(table.at(torch.tensor([8.0]))) == pytest.approx(float(1 / (1 + torch.tensor(8.0).exp())), rel=0.05)


def test_table_is_saved_with_the_model():
    one, other = IsotropicVariance(13), IsotropicVariance(13)
    one.errors.fit(KNOTS, torch.rand(13, generator=generator(0, "table"), dtype=torch.float64))
    other.load_state_dict(one.state_dict())
    now = torch.tensor([0.3], dtype=torch.float64)
    assert torch.equal(one.variance(now + 1, now, None), other.variance(now + 1, now, None))


def test_bad_tables_are_one_sentence():
    now = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(UserError, match="not fitted"):
        IsotropicVariance().variance(now + 1, now, None)
    with pytest.raises(ValueError, match="at least 2"):
        ErrorTable(1)
    with pytest.raises(ValueError, match="13"):
        ErrorTable(13).fit(KNOTS[:5], torch.ones(5))
    with pytest.raises(ValueError, match="fall"):
        ErrorTable(13).fit(-KNOTS, torch.ones(13))
    with pytest.raises(ValueError, match="finite"):
        ErrorTable(13).fit(KNOTS, torch.full((13,), torch.nan))


def test_batch_and_single_level_agree():
    x, _ = draws(5)
    now = torch.full((5,), 0.4, dtype=torch.float64)
    for variance in fitted(x):
        many = variance.variance(now + 1, now, None)
        one = variance.variance(now[0] + 1, now[0], None)
        torch.testing.assert_close(many, one.expand_as(many))


NOW = torch.tensor([2.0, -1.0], dtype=torch.float64)
PREV = NOW + torch.tensor([0.5, 2.0], dtype=torch.float64)


@pytest.mark.parametrize(("head", "share"), [(-1.0, 0.0), (0.0, 0.5), (1.0, 1.0), (3.0, 2.0), (-3.0, -1.0)])
def test_named_places_and_beyond(head, share):
    found = LearnedVariance().variance(PREV, NOW, torch.full((2, 3), head))
    low, high = posterior_variance(PREV, NOW), step_variance(PREV, NOW)
    torch.testing.assert_close(found, (low * (high / low) ** share)[:, None].expand(2, 3))


def test_loss_leaves_the_mean_alone():
    x = torch.randn(2, 3, generator=generator(0, "learned"))
    x_hat, head = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    reverse = LearnedVariance()
    reverse.head_loss(x, x_hat, PREV, NOW, head).sum().backward()
    assert x_hat.grad is None
    assert bool((head.grad != 0).all())
    torch.testing.assert_close(reverse.head_loss(x, x_hat, PREV, NOW, head), reverse.kl(x, x_hat, PREV, NOW, head))


def test_loss_finds_the_best_variance_even_beyond_both():
    # An error wider than σ² allows: the optimum v = β̃ + c_x² e lies beyond the ends.
    spread = torch.tensor([0.05, 1.0, 30.0], dtype=torch.float64)
    x = spread * torch.randn(4000, 3, generator=generator(0, "learned"), dtype=torch.float64)
    now = torch.zeros(4000, dtype=torch.float64)
    head = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    reverse = LearnedVariance()
    optimizer = torch.optim.LBFGS([head], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = reverse.head_loss(x, torch.zeros_like(x), now + 1, now, head.expand(4000, 3)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    width = float(torch.expm1(torch.tensor(1.0, dtype=torch.float64)))
    floor = posterior_variance(now[:1] + 1, now[:1])
    expected = floor * (1 + width * (x**2).mean(0))
    torch.testing.assert_close(
        reverse.variance(now[:1] + 1, now[:1], head[None].detach())[0], expected, rtol=1e-4, atol=0
    )
    assert float(head.detach()[2]) > 1


def test_needs_a_head():
    with pytest.raises(ValueError, match="second half"):
        LearnedVariance().variance(PREV, NOW, None)


class TwoHeads(nn.Module):
    """Out and head from two linear maps of z."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.head = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.1))

    def forward(self, z, logsnr, condition=None):
        return torch.cat([self.out * z, self.head * z], 1)


def test_training_loss_teaches_the_head_without_touching_the_mean():
    network, schedule = TwoHeads(), LogSNRLinear(20, 6.0, -6.0)
    objective = Objective(uniform_levels(schedule), torch.ones(20, dtype=torch.float64))
    x = torch.randn(20, 3, 2, 2, generator=generator(0, "learned"))
    draw = NoiseSample(torch.arange(1, 21), torch.randn(20, 3, 2, 2, generator=generator(1, "learned")))
    weighted, plain = loss(network, x, draw, None, objective, VELOCITY, schedule, LearnedVariance())
    extra = weighted - plain
    assert float(extra.detach()[0]) == 0  # level 1 is the decoder's
    assert bool((extra.detach()[1:] > 0).all())
    grads = torch.autograd.grad(extra.sum(), [network.out, network.head], allow_unused=True, retain_graph=True)
    assert grads[0] is None or not grads[0].any()
    assert bool(grads[1] != 0)
    # The added term is L/1000 of the KL that a measurement counts, per dim.
    model = Diffusion(network, schedule, VELOCITY, LearnedVariance(), DensityDecoder(), (3, 2, 2))
    logsnr = schedule.logsnr
    level = torch.arange(2, 21)
    z = torch.sigmoid(logsnr[level]).sqrt().reshape(-1, 1, 1, 1) * x[1:]
    z = z + torch.sigmoid(-logsnr[level]).sqrt().reshape(-1, 1, 1, 1) * draw.noise[1:]
    x_hat, head = model.predict(z.float(), logsnr[level])
    kl = model.reverse.kl(x[1:], x_hat, logsnr[level - 1], logsnr[level], head)
    torch.testing.assert_close(extra[1:].double(), 0.02 * kl / 12, rtol=1e-4, atol=1e-7)


def test_a_model_with_a_head_is_measured_on_every_grid():
    model = Diffusion(TwoHeads(), LogSNRLinear(20), NOISE, LearnedVariance(), StepDecoder(Pixels()), (1, 2, 2))
    digits = torch.randint(256, (3, 1, 2, 2), generator=generator(2, "learned"))
    whole, few = measure(model, digits, draws=None), measure(model, digits, draws=None, levels=5)
    assert bool(whole.total.isfinite().all())
    assert few.num_levels == 5
    torch.testing.assert_close(whole.reconstruction, few.reconstruction)


GAUSS = Mixture.gaussian(torch.tensor([0.2, -0.3]), torch.tensor([[0.5, 0.3], [0.3, 0.4]]))
MIXED = Mixture.full(
    torch.tensor([0.4, 0.6]),
    torch.tensor([[1.0, 0.0], [-0.5, 0.5]]),
    torch.tensor([[[0.2, 0.1], [0.1, 0.3]], [[0.4, -0.1], [-0.1, 0.1]]]),
)


def model(toy: Mixture, levels: int = 9) -> Diffusion:
    made = Diffusion(Denoiser(toy), LogSNRLinear(levels, 6.0, -6.0), DATA, FullVariance(), DensityDecoder(), (2,))
    made.precision = torch.float64
    return made


@pytest.mark.parametrize("toy", [GAUSS, MIXED])
def test_jacobian_gives_the_posterior_covariance(toy):
    diffusion = model(toy)
    z = torch.randn(6, 2, generator=generator(0, "full"), dtype=torch.float64)
    logsnr = torch.linspace(3, -3, 6, dtype=torch.float64)
    _, head = diffusion.predict(z, logsnr)
    values, vectors = diffusion.reverse.covariance(logsnr, head)
    found = (vectors * values[:, None]) @ vectors.mT
    torch.testing.assert_close(found, toy.covariance(z, logsnr), rtol=1e-9, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(step=st.floats(0.05, 8), logsnr=st.floats(-5, 5))
def test_step_is_the_truth_for_gaussian_data(step, logsnr):
    diffusion = model(GAUSS)
    z = torch.randn(4, 2, generator=generator(0, "full"), dtype=torch.float64)
    now = torch.tensor(logsnr, dtype=torch.float64)
    x_hat, head = diffusion.predict(z, now)
    z_prev = torch.randn(4, 2, generator=generator(1, "full"), dtype=torch.float64)
    found = diffusion.reverse.step(x_hat, z, now + step, now, head).log_prob(z_prev)
    expected = GAUSS.reverse(z, now + step, now).log_prob(z_prev)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_kl_is_that_of_full_gaussians():
    diffusion = model(MIXED)
    z = torch.randn(5, 2, generator=generator(0, "full"), dtype=torch.float64)
    x = torch.randn(5, 2, generator=generator(1, "full"), dtype=torch.float64)
    now = torch.full((5,), 0.5, dtype=torch.float64)
    x_hat, head = diffusion.predict(z, now)
    found = diffusion.reverse.kl(x, x_hat, now + 1, now, head)
    step = diffusion.reverse.step(x_hat, z, now + 1, now, head)
    posterior = PosteriorVariance().step(x, z, now + 1, now)
    eye = torch.eye(2, dtype=torch.float64)
    expected = FullGaussian(posterior.mean, posterior.variance[..., None] * eye).kl(step.flat)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_draws_keep_the_shape_and_type():
    toy = Mixture.gaussian(torch.zeros(1, 2, 2), torch.eye(4) + 0.5)
    diffusion = Diffusion(Denoiser(toy), LogSNRLinear(5), DATA, FullVariance(), DensityDecoder(), (1, 2, 2))
    diffusion.precision = torch.float64
    z = torch.zeros(20_000, 1, 2, 2, dtype=torch.float64)
    now = torch.tensor(0.0, dtype=torch.float64)
    x_hat, head = diffusion.predict(z, now)
    drawn = diffusion.reverse.step(x_hat, z, now + 1, now, head).sample(generator(0, "draw"))
    assert drawn.shape == z.shape
    expected = toy.reverse(z[:1], now + 1, now)
    covariance = torch.cov(drawn.flatten(1).T)
    torch.testing.assert_close(covariance, expected.covariance()[0], rtol=0.1, atol=0.01)


def test_needs_a_jacobian():
    now = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="Jacobian"):
        FullVariance().kl(torch.zeros(1, 2), torch.zeros(1, 2), now + 1, now)
