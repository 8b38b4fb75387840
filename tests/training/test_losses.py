"""What training minimises, against the model's own terms of the bound."""

import copy
from dataclasses import replace

import pytest
import torch

from markovae.build import create
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion import forward
from markovae.errors import UserError
from markovae.training.losses import create_loss
from markovae.training.trainer import Training

LEARNED = ["schedule.kind=learned", "train.objective=bound"]


def training(config: Config, data: ImageData, settings: list[str]) -> Training:
    config = config.with_settings(settings)
    model = create(config, data.shape, num_classes=len(data.class_names))
    return Training(model, data, config.train)


@pytest.fixture
def unlabelled(tiny_data: ImageData) -> ImageData:
    return replace(tiny_data, labels=None, class_names=())


@pytest.mark.parametrize("draw", ["uniform", "normal", "importance"])
@pytest.mark.parametrize("reverse", ["posterior", "step"])
@pytest.mark.parametrize("decoder", ["step", "softmax"])
def test_the_mean_loss_of_the_bound_is_the_bound(
    tiny_config: Config, unlabelled: ImageData, draw: str, reverse: str, decoder: str
):
    """Loss of each draw · p · nats = this level's own KL (or the decoder's nats), but for σ²'s constant."""
    settings = ["train.objective=bound", f"train.level_sampling={draw}", "train.batch=20", "train.level_width=9"]
    run = training(tiny_config, unlabelled, [*settings, f"target.reverse={reverse}", f"target.decoder={decoder}"])
    model, batch, objective = run.model, run.batches.at(0), run.objective
    level = batch.draw.level.clone()
    level[0] = 1
    batch = replace(batch, draw=replace(batch.draw, level=level))
    found = run.loss.backward(model.network, batch, 20, torch.float32)
    grid, x = model.schedule.logsnr, batch.x
    with torch.no_grad():
        z = forward.noised(x, batch.draw.noise, grid[level])
        x_hat = model.denoise(z, grid[level])
        prev, now = grid[level - 1], grid[level]
        kl = model.reverse.kl(x, x_hat, prev, now) - model.reverse.kl(x, x, prev, now)
        kl[0] = -model.decoder.distribution(x_hat[:1], grid, z[:1]).log_prob(x[:1])
    share = found.loss[:, 0].double() * objective.probability[level - 1] * objective.nats * model.dims
    torch.testing.assert_close(share, kl, rtol=2e-4, atol=1e-6)


def test_the_bounds_gradient_does_not_know_the_law(tiny_config: Config, unlabelled: ImageData):
    """Σ_ℓ p_ℓ ∇loss_ℓ is one vector under every law."""
    gradients = []
    for distribution in ("uniform", "normal", "importance"):
        settings = [
            "train.objective=bound",
            f"train.level_sampling={distribution}",
            "train.level_width=9",
            "train.batch=1",
        ]
        run = training(tiny_config, unlabelled, [*settings, "schedule.num_levels=12"])
        head = run.model.network.head.weight
        torch.nn.init.normal_(head, generator=torch.Generator().manual_seed(0), std=0.1)
        batch, total = run.batches.at(0), torch.zeros_like(head)
        for level in range(1, 13):
            head.grad = None
            at = replace(batch, draw=replace(batch.draw, level=torch.tensor([level])))
            run.loss.backward(run.model.network, at, 1, torch.float32)
            total += float(run.objective.probability[level - 1]) * head.grad
        gradients.append(total)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-4, atol=1e-6)


def test_a_law_that_leaves_a_level_out_is_no_bound(tiny_config: Config, tiny_data: ImageData):
    distribution = ["train.level_sampling=table", "train.level_logsnr=[-10.0, 0.0]", "train.level_density=[1.0, 0.0]"]
    with pytest.raises(
        UserError, match=r"train\.level_sampling=table does not go .* never draws level 1, and the bound counts"
    ):
        training(tiny_config, tiny_data, ["train.objective=bound", *distribution])


def test_a_learned_variance_is_taught_in_training(tiny_config: Config, tiny_data: ImageData):
    run = training(tiny_config, tiny_data, ["target.reverse=learned", "train.steps=3"])
    plain = training(tiny_config, tiny_data, ["train.steps=3"])
    before = run.model.network.head.weight.detach().clone()
    first, other = run.advance(), plain.advance()
    assert first.loss > other.loss  # the head's own term
    half = len(before) // 2
    moved = (run.model.network.head.weight - before).flatten(1).norm(dim=1) > 0
    # Folded pixels interleave the channels: of every (mean, head) pair both move.
    assert bool(moved.all())
    assert half * 2 == len(before)
    bound = training(tiny_config, tiny_data, ["target.reverse=learned", "train.objective=bound"])
    assert bound.advance().loss > 0


# -- the learned schedule ------------------------------------------------------------------------------------------


def test_a_learned_schedule_is_the_continuous_bound(tiny_config: Config, unlabelled: ImageData):
    """Every image's loss is its levels' draw, its prior term and, for one in four, four times its reconstruction."""
    run = training(tiny_config, unlabelled, LEARNED)
    model, batch = run.model, run.batches.at(0)
    found = run.loss.backward(model.network, batch, 8, torch.float32)
    schedule, u = model.schedule, batch.quantile
    with torch.no_grad():
        step = 1e-5
        rate = (schedule.at(u + step) - schedule.at(u - step)) / (2 * step)
        logsnr, grid = schedule.at(u), schedule.logsnr
        x_hat = model.denoise(forward.noised(batch.x, batch.draw.noise, logsnr), logsnr)
        error = ((batch.x.double() - x_hat.double()) ** 2).flatten(1).sum(1)
        levels = -0.5 * rate * logsnr.exp() * error
        z = forward.noised(batch.x, batch.draw.noise, grid[1])
        reconstruction = -model.decoder.distribution(model.denoise(z, grid[1]), grid, z).log_prob(batch.x)
        reconstruction[torch.arange(8) % 4 > 0] = 0
        expected = levels + model.prior_nats(batch.x.double()) + 4 * reconstruction
    torch.testing.assert_close(found.nats, levels, rtol=1e-4, atol=1e-6)
    unit = model.dims * run.objective.nats
    torch.testing.assert_close(found.loss[:, 0], expected / unit, rtol=1e-4, atol=1e-6)


def test_the_ends_follow_the_bound_and_the_shape_the_variance(tiny_config: Config, unlabelled: ImageData):
    """By difference quotients of the losses themselves."""
    run = training(tiny_config, unlabelled, [*LEARNED, "network.dropout=0.0"])
    run.model.double()
    run.model.precision = torch.float64
    model, batch = run.model, run.batches.at(0)
    batch = replace(batch, x=batch.x.double(), draw=replace(batch.draw, noise=batch.draw.noise.double()))
    run.loss.backward(model.network, batch, 8, torch.float32)
    schedule, unit = model.schedule, model.dims * run.objective.nats
    grads = {name: value.grad.clone() for name, value in schedule.named_parameters()}

    def values(name: str, shift: float) -> tuple[float, float]:
        other = copy.deepcopy(model)
        with torch.no_grad():
            dict(other.schedule.named_parameters())[name].view(-1)[0] += shift
        again = Training(other, run.batches.data, run.config)
        again.loss._unit = unit
        found = again.loss.backward(other.network, batch, 8, torch.float32)
        return float(found.loss.mean()), float(((found.nats / unit) ** 2).mean())

    for name, which in (("start", 0), ("log_span", 0), ("weight", 1), ("centre", 1), ("slope", 1)):
        up, down = values(name, 1e-5), values(name, -1e-5)
        slope = (up[which] - down[which]) / 2e-5
        assert float(grads[name].flatten()[0]) == pytest.approx(slope, rel=1e-4, abs=1e-9), name


def test_a_learned_schedule_moves_and_the_networks_clipping_does_not_know(tiny_config: Config, tiny_data: ImageData):
    run = training(tiny_config, tiny_data, [*LEARNED, "train.accumulate=3"])
    before = {name: value.detach().clone() for name, value in run.model.schedule.named_parameters()}
    norm = run.advance().grad_norm
    weights = [value.grad for value in run.model.network.parameters() if value.grad is not None]
    assert float(torch.stack([w.norm() for w in weights]).norm()) == pytest.approx(min(norm, 1.0), rel=1e-3)
    moved = {n for n, value in run.model.schedule.named_parameters() if not torch.equal(value, before[n])}
    assert moved == set(before)
    parts, whole = (training(tiny_config, tiny_data, [*LEARNED, f"train.accumulate={k}"]) for k in (4, 1))
    assert parts.advance().loss == pytest.approx(whole.advance().loss, rel=1e-5)
    for name, value in parts.model.schedule.named_parameters():
        torch.testing.assert_close(
            value.grad, dict(whole.model.schedule.named_parameters())[name].grad, rtol=1e-3, atol=1e-7
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.objective=weighted"], "set train.objective=bound and leave train.level_sampling and train.draw"),
        (["train.level_sampling=normal"], "and leave train.level_sampling and train.draw at their defaults"),
        (
            ["target.name=mean"],
            r"target\.name=mean is defined by the steps of a grid, .* grid: take velocity, flow, noise, data",
        ),
        (["target.reverse=learned"], "set target.reverse to posterior, isotropic or diagonal"),
    ],
)
def test_what_does_not_go_with_a_learned_schedule(
    tiny_config: Config, tiny_data: ImageData, settings: list[str], message: str
):
    with pytest.raises(UserError, match=message):
        training(tiny_config, tiny_data, [*LEARNED, *settings])


def test_what_is_minimised_is_chosen_by_the_configuration(tiny_config: Config, tiny_data: ImageData):
    model = create(tiny_config, tiny_data.shape, num_classes=2)
    assert create_loss(model, tiny_config.train).objective.nats is None
    assert create_loss(model, tiny_config.with_settings(["train.objective=bound"]).train).objective.nats > 0
