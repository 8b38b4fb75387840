"""The learned variance: its named places, its freedom beyond them, and what its loss teaches."""

import pytest
import torch
from torch import nn

from markovae.forward import posterior_variance, step_variance
from markovae.randomness import generator
from markovae.reverse import LearnedVariance

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
    optimiser = torch.optim.LBFGS([head], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = reverse.head_loss(x, torch.zeros_like(x), now + 1, now, head.expand(4000, 3)).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
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
