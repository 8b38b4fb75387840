import math

import pytest
import torch

from markovae.diffusion.decoder import StepDecoder
from markovae.diffusion.forward import noised, step_alpha, step_variance
from markovae.diffusion.model import Diffusion
from markovae.diffusion.objective import (
    LiteralNoise,
    MeanNoise,
    NoiseSample,
    Objective,
    RawNoise,
    as_error_of,
    bound_loss,
    bound_objective,
    literal_sample,
    loss,
    nats_weight,
    residual_variance,
    uniform_levels,
)
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import LearnedVariance, PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear, linear
from markovae.diffusion.target import DATA, MEAN, NOISE, STEP_NOISE, TARGETS, Target
from markovae.randomness import Streams, generator

SCHEDULE = LogSNRLinear(12, 6.0, -6.0)
by_name = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)


def draws() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, noise, guess = torch.randn(3, 12, 5, generator=generator(0, "objective"), dtype=torch.float64)
    return x, noise, guess


def errors(target: Target) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared errors of a target's output, for the same x̂ at every level, and x̂'s own, both per dim."""
    x, noise, x_hat = draws()
    level = torch.arange(1, 13)
    grid = SCHEDULE.logsnr
    z = noised(x, noise, grid[level])
    out = target.of_x(x_hat, z, grid[level], grid[level - 1])
    wanted = target.of(x, noise, grid[level], grid[level - 1])
    return ((out - wanted) ** 2).mean(1), ((x - x_hat) ** 2).mean(1)


@by_name
def test_the_bounds_weight_turns_every_targets_error_into_its_levels_nats(target: Target) -> None:
    squares, _ = errors(target)
    x, _, x_hat = draws()
    grid = SCHEDULE.logsnr
    nats = PosteriorVariance().kl(x, x_hat, grid[:-1], grid[1:])[1:]
    got = (nats_weight(target, SCHEDULE) * squares * x.shape[1])[1:]
    torch.testing.assert_close(got, nats, rtol=1e-8, atol=1e-10)


def test_on_even_steps_of_log_snr_the_simple_loss_of_the_noise_is_the_bounds_levels() -> None:
    even = torch.full((11,), math.expm1(12 / 11) / 2, dtype=torch.float64)
    torch.testing.assert_close(nats_weight(NOISE, SCHEDULE)[1:], even, rtol=1e-12, atol=0)
    hos = nats_weight(NOISE, linear(1000))
    assert (round(float(hos[1]), 2), round(float(hos[499]), 4)) == (0.60, 0.0055), "the figures of docs/derivation.md"


def test_the_bounds_weight_is_half_the_fall_of_the_snr_for_data() -> None:
    snr = SCHEDULE.logsnr[1:].exp()
    torch.testing.assert_close(nats_weight(DATA, SCHEDULE)[1:], 0.5 * (snr[:-1] - snr[1:]), rtol=1e-12, atol=0)
    assert nats_weight(DATA, SCHEDULE)[0] == nats_weight(DATA, SCHEDULE)[1]
    assert nats_weight(DATA, LogSNRLinear(1)).shape == (1,)


@by_name
def test_one_targets_error_can_be_counted_as_anothers(target: Target) -> None:
    squares, as_data = errors(target)
    torch.testing.assert_close(as_error_of(target, DATA, SCHEDULE) * squares, as_data, rtol=1e-8, atol=1e-10)


def test_an_output_scaled_by_rho_is_the_noise_target_weighted_by_rho_squared() -> None:
    """Rao–Blackwell with output ρ·net: ‖ρ ε̄ − ρ net‖² = ρ² ‖ε̄ − net‖²."""
    grid = SCHEDULE.logsnr
    rho_squared = step_variance(grid[:-1], grid[1:]) * (1 + grid[1:].exp())
    torch.testing.assert_close(as_error_of(NOISE, STEP_NOISE, SCHEDULE), rho_squared, rtol=1e-10, atol=0)


def test_levels_are_drawn_by_their_probabilities() -> None:
    objective = Objective(torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64), torch.ones(4))
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    counts = torch.bincount(objective.draw(u), minlength=5)
    assert counts.tolist() == [0, 100, 0, 600, 300]
    assert objective.draw(torch.tensor([0.0, 0.1, 1 - 1e-16])).tolist() == [1, 3, 4]
    uniform = Objective(uniform_levels(SCHEDULE), torch.ones(12))
    assert torch.bincount(uniform.draw(u)).min() == 0
    assert torch.bincount(uniform.draw(u))[1:].float().std() < 1


def test_what_is_no_law_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sum to 0\.9"):
        Objective(torch.tensor([0.4, 0.5]), torch.ones(2))
    with pytest.raises(ValueError, match=">= 0 and sum to 1"):
        Objective(torch.tensor([1.5, -0.5]), torch.ones(2))
    with pytest.raises(ValueError, match="sum to nan"):
        Objective(torch.tensor([torch.nan, 1.0]), torch.ones(2))
    for weight in (-1.0, torch.nan, torch.inf):
        with pytest.raises(ValueError, match="weights must be finite"):
            Objective(torch.tensor([0.5, 0.5]), torch.tensor([1.0, weight]))
    with pytest.raises(ValueError, match="2 probabilities for 3 weights"):
        Objective(torch.tensor([0.5, 0.5]), torch.ones(3))


class Constant(torch.nn.Module):
    def __init__(self, out: torch.Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, z: torch.Tensor, logsnr: torch.Tensor, condition: object = None) -> torch.Tensor:
        return self.out


@by_name
def test_the_loss_is_the_weighted_error_of_the_target(target: Target) -> None:
    x, noise, out = (v.float() for v in draws())
    level = torch.arange(12) % 12 + 1
    weight = torch.linspace(0.5, 2, 12, dtype=torch.float64)
    objective = Objective(uniform_levels(SCHEDULE), weight)
    weighted, plain = loss(Constant(out), x, NoiseSample(level, noise), None, objective, target, SCHEDULE)
    grid = SCHEDULE.logsnr
    wanted = target.of(x.double(), noise.double(), grid[level], grid[level - 1])
    expected = ((out.double() - wanted) ** 2).mean(1)
    torch.testing.assert_close(plain.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weighted.double(), weight * expected, rtol=1e-5, atol=1e-6)


def test_the_lectures_literal_draw() -> None:
    """(z_0, ℓ, z_{ℓ−1}, ε): the loss' latent is α z_{ℓ−1} + σ ε and its targets are ε and z_{ℓ−1} themselves."""
    x, before, step = draws()
    level, grid = torch.arange(1, 13), SCHEDULE.logsnr
    prev, now = grid[level - 1], grid[level]
    draw = literal_sample(level, before, step, SCHEDULE)
    z_prev = noised(x, before, prev)
    z = step_alpha(prev, now)[:, None] * z_prev + step_variance(prev, now).sqrt()[:, None] * step
    assert draw.fresh is not None
    torch.testing.assert_close(noised(x, draw.noise, now), z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(STEP_NOISE.of_sample(x, draw.noise, draw.fresh, now, prev), step, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(MEAN.of_sample(x, draw.noise, draw.fresh, now, prev), z_prev, rtol=1e-8, atol=1e-8)
    objective = Objective(uniform_levels(SCHEDULE), torch.ones(12, dtype=torch.float64))
    out = torch.zeros(12, 5)
    _, plain = loss(Constant(out), x.float(), draw, None, objective, STEP_NOISE, SCHEDULE)
    torch.testing.assert_close(plain.double(), (step**2).mean(1), rtol=1e-4, atol=1e-5)


def test_a_fresh_noise_changes_nothing_for_targets_of_no_step() -> None:
    x, noise, fresh = (v.float() for v in draws())
    level, objective = torch.arange(1, 13), Objective(uniform_levels(SCHEDULE), torch.ones(12, dtype=torch.float64))
    for target in TARGETS:
        plain = [
            loss(Constant(x), x, NoiseSample(level, noise, ξ), None, objective, target, SCHEDULE)[1]
            for ξ in (None, fresh)
        ]
        assert torch.equal(plain[0], plain[1]) != target.needs_neighbour


class Linear(torch.nn.Module):
    """out = W z at every level, a network whose gradient has 25 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(0.3 * torch.randn(5, 5, generator=generator(0, "linear")))

    def forward(self, z: torch.Tensor, logsnr: torch.Tensor, condition: object = None) -> torch.Tensor:
        return z @ self.weight.T


def gradient(target: Target, x: torch.Tensor, draw: NoiseSample) -> torch.Tensor:
    network = Linear()
    objective = Objective(uniform_levels(SCHEDULE), torch.linspace(0.5, 2, 12, dtype=torch.float64))
    loss(network, x, draw, None, objective, target, SCHEDULE)[0].mean().backward()
    assert network.weight.grad is not None
    return network.weight.grad


of_a_step = pytest.mark.parametrize("target", [STEP_NOISE, MEAN], ids=lambda t: t.name)


@of_a_step
def test_over_fresh_noise_the_raw_gradient_is_the_rao_blackwellised_one(target: Target) -> None:
    """The gradient is linear in ξ, so the mean of those at ξ and −ξ has no ξ left: equal at every weight, so the two
    losses have one minimiser."""
    x, noise, fresh = (v.float() for v in draws())
    level = torch.arange(1, 13)
    pair = [gradient(target, x, NoiseSample(level, noise, sign * fresh)) for sign in (1, -1)]
    wanted = gradient(target, x, NoiseSample(level, noise))
    torch.testing.assert_close(sum(pair) / 2, wanted, rtol=1e-4, atol=1e-6)
    assert float((pair[0] - wanted).norm()) > 0.01 * float(wanted.norm())


@pytest.mark.parametrize(
    ("target", "drawn"), [(STEP_NOISE, RawNoise()), (MEAN, LiteralNoise(SCHEDULE))], ids=["raw", "literal"]
)
def test_every_way_to_draw_has_one_expected_gradient_and_its_own_scatter(
    target: Target, drawn: RawNoise | LiteralNoise
) -> None:
    """Within 4 standard errors over 100 batches of 60; the plain error exceeds the mean draw's by t_ξ²."""
    objective = Objective(uniform_levels(SCHEDULE), torch.ones(12, dtype=torch.float64))
    level = torch.arange(60) % 12 + 1
    difference, excess = [], []
    for batch in range(100):
        x, draws_, others = (Streams(batch, purpose, range(60)) for purpose in ("x", "draws", "others"))
        images, draw, other = (
            x.normal((5,), torch.float32),
            drawn.at(level, draws_, (5,)),
            MeanNoise().at(level, others, (5,)),
        )
        difference.append(gradient(target, images, draw) - gradient(target, images, other))
        plain = [
            loss(Linear(), images, one, None, objective, target, SCHEDULE)[1].double().detach() for one in (draw, other)
        ]
        excess.append((plain[0] - plain[1] - residual_variance(target, SCHEDULE)[level - 1]).mean())
    for values in (torch.stack(difference).double(), torch.stack(excess)):
        assert bool((values.mean(0).abs() < 4 * values.std(0) / len(values) ** 0.5).all())


def test_the_raw_draw_adds_a_noise_and_the_literal_one_turns_two() -> None:
    level = torch.arange(1, 13)
    mean, raw, literal = (
        drawn.at(level, Streams(3, "draws", range(12)), (5,))
        for drawn in (MeanNoise(), RawNoise(), LiteralNoise(SCHEDULE))
    )
    assert mean.fresh is None
    assert raw.fresh is not None
    assert literal.fresh is not None
    assert torch.equal(mean.noise, raw.noise)
    turned = literal_sample(level, raw.noise, raw.fresh, SCHEDULE)
    assert torch.equal(literal.noise, turned.noise)
    torch.testing.assert_close(literal.noise**2 + literal.fresh**2, raw.noise**2 + raw.fresh**2, rtol=1e-4, atol=1e-5)


def test_a_draw_cut_or_moved_keeps_its_fresh_noise() -> None:
    _, noise, fresh = draws()
    cut = NoiseSample(torch.arange(12), noise, fresh).part(3, 7).to(torch.device("cpu"))
    assert cut.fresh is not None
    assert torch.equal(cut.fresh, fresh[3:7])
    assert torch.equal(cut.noise, noise[3:7])
    assert cut.level.tolist() == [3, 4, 5, 6]
    assert NoiseSample(torch.arange(12), noise).part(0, 2).to(torch.device("cpu")).fresh is None


def test_what_a_raw_draw_scatters() -> None:
    grid = SCHEDULE.logsnr
    rho_squared = step_variance(grid[:-1], grid[1:]) * (1 + grid[1:].exp())
    torch.testing.assert_close(residual_variance(STEP_NOISE, SCHEDULE), 1 - rho_squared, rtol=1e-9, atol=1e-12)
    assert not residual_variance(NOISE, SCHEDULE).any()
    assert residual_variance(MEAN, SCHEDULE)[0] == 0


@pytest.mark.parametrize("target", [DATA, NOISE], ids=lambda t: t.name)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_the_bounds_loss_is_the_models_bound_level_by_level(target: Target, clip: float | None) -> None:
    network = Constant(3 * draws()[2])
    model = Diffusion(network, SCHEDULE, target, PosteriorVariance(), StepDecoder(Pixels()), (5,), clip=clip)
    model.precision = torch.float64
    objective = bound_objective(uniform_levels(SCHEDULE), target, SCHEDULE, model.reverse)
    digits = torch.randint(256, (12, 5), generator=generator(0, "digits"))
    x, noise, level = model.to_x(digits), draws()[1], torch.arange(1, 13)
    weighted, _ = bound_loss(network, x, NoiseSample(level, noise), None, objective, model)
    assert objective.nats is not None
    found = weighted * objective.nats * model.dims / 12
    grid = SCHEDULE.logsnr
    z = noised(x, noise, grid[level])
    x_hat = model.denoise(z, grid[level])
    wanted = model.reverse.kl(x[1:], x_hat[1:], grid[:-1][1:], grid[1:][1:])
    first = -model.decoder.distribution(x_hat[:1], grid, z[:1]).log_prob(x[:1])
    torch.testing.assert_close(found[1:].double(), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[:1].double(), first, rtol=1e-6, atol=1e-6)


def test_a_learned_variance_tells_the_error_of_the_clipped_guess() -> None:
    """The model serves the clipped x̂; the weighted error stays that of the network's own output."""
    x = torch.zeros(4, 1, 2, 2)
    draw = NoiseSample(torch.tensor([2, 3, 4, 5]), torch.ones(4, 1, 2, 2))
    objective, reverse = Objective(uniform_levels(SCHEDULE), torch.ones(12)), LearnedVariance()

    def head_share(guess: float, clip: float | None) -> torch.Tensor:
        out = torch.full((4, 2, 2, 2), guess)
        plain, _ = loss(lambda *_: out[:, :1], x, draw, None, objective, DATA, SCHEDULE)
        return loss(lambda *_: out, x, draw, None, objective, DATA, SCHEDULE, reverse, clip=clip)[0] - plain

    def told(guess: float) -> torch.Tensor:
        now, before = SCHEDULE.logsnr[draw.level], SCHEDULE.logsnr[draw.level - 1]
        kl = reverse.head_loss(x, torch.full_like(x, guess), before, now, torch.full_like(x, 3.0))
        return (12 / 1000 * kl / 4).float()

    torch.testing.assert_close(head_share(3.0, 1.0), told(1.0))
    torch.testing.assert_close(head_share(3.0, None), told(3.0))
    assert not torch.allclose(told(1.0), told(3.0))
