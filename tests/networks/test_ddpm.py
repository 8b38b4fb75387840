"""The networks of the DDPM family by themselves; that they are diffusers' own is in tests/interop/test_weights.py."""

import pytest
import torch
from torch.nn import functional as F

from markovae.diffusion.schedule import linear
from markovae.networks.conditioning import Condition
from markovae.networks.ddpm import DDPMUNet, GridStep
from markovae.networks.kernels import doubled_convolution
from markovae.networks.network_config import DataSpec, DDPMConfig
from markovae.training.optimizers import split_weights

SMALL = {"widths": (8, 16), "blocks": 1, "groups": 4, "embedding": 16, "attention": (1,), "attention_up": (0, 1)}
GRID = linear(100).logsnr[1:]


def lively(num_classes: int = 0, **options) -> DDPMUNet:
    """A small network whose zero-initialised layers are filled, so that everything shows in the output."""
    torch.manual_seed(5)
    network = DDPMUNet(DDPMConfig(**{**SMALL, **options}), DataSpec(num_classes=num_classes), GRID)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.abs().max() == 0:
                weight.normal_(0, 0.1)
    return network.eval()


def latent(batch: int = 3, height: int = 8, width: int = 12) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_output_starts_at_zero_and_every_weight_gets_a_gradient_once_it_moves() -> None:
    fresh = DDPMUNet(DDPMConfig(**SMALL), DataSpec(), GRID)
    assert fresh(latent(), torch.tensor([-3.0, 0.0, 8.0])).eq(0).all()
    network = lively(num_classes=4, null_class=True, residual_down=(0,), residual_up=(1,), scale_shift=True).train()
    condition = Condition(label=torch.tensor([0, 1, 2]), keep=torch.tensor([True, False, True]))
    network(latent(), torch.tensor([-3.0, 0.0, 8.0]), condition).square().sum().backward()
    assert [n for n, w in network.named_parameters() if w.grad is None or w.grad.abs().max() == 0] == []


def test_a_levels_step_is_whole_and_between_levels_it_is_linear() -> None:
    step = GridStep(GRID)
    assert torch.equal(step(GRID), torch.arange(100, dtype=torch.float64))
    middle = 0.25 * GRID[3] + 0.75 * GRID[4]
    ends = torch.tensor([torch.inf, float(GRID[0]) + 1, -torch.inf], dtype=torch.float64)
    assert float(step(middle[None])) == pytest.approx(3.75, abs=1e-12)
    assert step(ends).tolist() == [0, 0, 99]


def test_a_grid_that_does_not_fall_or_end_is_refused() -> None:
    for grid in (GRID.flip(0), GRID[:1], torch.tensor([1.0, -torch.inf])):
        with pytest.raises(ValueError, match="finite and falling"):
            GridStep(grid)


def test_the_step_reaches_the_output_at_every_level_and_examples_do_not_see_each_other() -> None:
    network, z = lively(), latent(4)
    out = network(z, GRID[[0, 1, 50, 99]])
    alone = torch.cat([network(z[i : i + 1], GRID[[k]]) for i, k in enumerate((0, 1, 50, 99))])
    torch.testing.assert_close(out, alone, rtol=1e-5, atol=1e-6)
    same = network(z[:1].expand(4, -1, -1, -1), GRID[[0, 1, 50, 99]])
    assert (same.diff(dim=0).abs().amax((1, 2, 3)) > 1e-5).all()


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 1, 1), (5, 4, 6), (2, 7, 3)])
def test_a_convolution_of_doubled_pixels_by_its_definition(channels: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(3)
    h = torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(4, channels, 3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    bias = torch.randn(4, generator=generator, dtype=torch.float64).requires_grad_()
    plain = F.conv2d(F.interpolate(h, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    ours = doubled_convolution(h, weight, bias)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    seed = torch.randn(plain.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(*(torch.autograd.grad(out, (h, weight, bias), seed) for out in (ours, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_float64_weights_give_float64_and_the_same_numbers() -> None:
    network, z, level = lively(scale_shift=True), latent(), GRID[[0, 40, 99]]
    single = network(z, level)
    double = network.double()(z.double(), level)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_near_float32() -> None:
    network, z, level = lively(scale_shift=True), latent(), GRID[[0, 40, 99]]
    exact = network(z, level)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(z, level)
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() < 0.03 * exact.norm()


def test_a_network_without_a_null_class_asks_for_a_class() -> None:
    network, z, level = lively(num_classes=2, null_class=False), latent(2), GRID[:2]
    network(z, level, Condition(label=torch.tensor([0, 1])))
    for condition in (None, Condition(label=torch.tensor([0, 1])).drop(torch.tensor([True, False]))):
        with pytest.raises(ValueError, match=r"needs a class of every image, 0…1"):
            network(z, level, condition)


def test_outer_weights_are_left_to_adamw() -> None:
    network = lively(num_classes=2)
    hidden = {id(weight) for weight in split_weights(network)[0]}
    names = {name for name, weight in network.named_parameters() if id(weight) in hidden}
    outer = {"stem.weight", "head.weight", "time.first.weight", "condition.label.weight"}
    assert not names & outer
    assert {"down.0.blocks.0.first.weight", "middle.attention.0.qkv.weight", "time.second.weight"} <= names


def test_sizes_that_do_not_fit_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"9x12 pixels .* multiples of 2"):
        lively()(latent(1, 9), torch.zeros(1))
