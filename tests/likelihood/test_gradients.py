"""The bound has gradients, in the images and in the weights, as docs/measuring.md shows."""

import torch

from markovae.build import create
from markovae.config import Config
from markovae.diffusion.model import Diffusion
from markovae.randomness import generator

SMALL = ["network.width=8", "network.blocks=1", "network.multipliers=[1]", "network.patch=1", "schedule.num_levels=20"]


def test_one_draw_of_the_levels_has_the_gradient_of_its_differences() -> None:
    model = create(Config().with_settings([*SMALL, "network.radius=0"]), (1, 4, 4)).double()
    assert isinstance(model, Diffusion)
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator(1, "weights"), dtype=torch.float64))
    images = torch.randint(0, 256, (3, 1, 4, 4), generator=generator(0, "images"))
    level = torch.tensor([2, 9, 20])

    def nats(x: torch.Tensor) -> torch.Tensor:
        source = generator(0, "noise")
        return model.prior_nats(x) + (model.num_levels - 1) * model.level_nats(x, level, source)

    x = model.to_x(images).requires_grad_()
    (nats(x).sum() + model.reconstruction_nats(x, generator(0, "first")).sum()).backward()
    assert all(weight.grad is not None for weight in model.network.head.parameters())
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(nats(x).sum(), x)
    along = torch.randn(x.shape, generator=generator(2, "along"), dtype=torch.float64)
    step = 1e-5
    with torch.no_grad():
        measured = (nats(x + step * along) - nats(x - step * along)).sum() / (2 * step)
    torch.testing.assert_close((slope * along).sum(), measured, rtol=1e-4, atol=1e-6)
