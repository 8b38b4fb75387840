"""The learned variance: its named places, its freedom beyond them, and what its loss teaches."""

import pytest
import torch
from torch import nn

from markovae.diffusion.decoder import DensityDecoder, StepDecoder
from markovae.diffusion.forward import posterior_variance, step_variance
from markovae.diffusion.model import Diffusion
from markovae.diffusion.objective import NoiseSample, Objective, loss, uniform_levels
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import LearnedVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import NOISE, VELOCITY
from markovae.likelihood.measuring import measure
from markovae.randomness import generator

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
