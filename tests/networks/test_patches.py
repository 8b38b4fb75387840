"""What holds of every network of patches: shapes it accepts, what it depends on, and what it is told."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.networks.small import (
    TOLD,
    everything,
    fresh_dit,
    fresh_unet,
    latent,
    lively_dit,
    lively_unet,
    text,
)
from torch.nn import functional as F

from markovae.networks.conditioning import Condition
from markovae.networks.patch_network import PatchNetwork

Made = Callable[..., PatchNetwork]
REUSED = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["unet", "dit"])
def family(request) -> tuple[Made, Made]:
    """(fresh, lively) of one family."""
    return {"unet": (fresh_unet, lively_unet), "dit": (fresh_dit, lively_dit)}[request.param]


@pytest.fixture
def fresh(family: tuple[Made, Made]) -> Made:
    return family[0]


@pytest.fixture
def lively(family: tuple[Made, Made]) -> Made:
    return family[1]


def test_output_starts_at_zero_and_every_weight_gets_a_gradient_once_it_moves(fresh: Made, lively: Made) -> None:
    z, level = latent(), torch.tensor([-3.0, 0.0, 8.0])
    assert fresh(**TOLD)(z, level).eq(0).all()
    network = lively(**TOLD).train()
    network(z, level, everything().drop(torch.tensor([True, False, True]))).square().sum().backward()
    silent = [n for n, w in network.named_parameters() if w.grad is None or w.grad.abs().max() == 0]
    assert silent == []


@REUSED
@given(height=st.integers(1, 21), width=st.integers(1, 21), patch=st.sampled_from([1, 2, 4]))
def test_any_size_fits(lively: Made, height: int, width: int, patch: int) -> None:
    network = lively(patch=patch, out_channels=6)
    z = latent(2, height, width)
    out = network(z, torch.zeros(2))
    assert out.shape == (2, 6, height, width)


def test_a_size_off_the_stride_is_padded_with_zeros_and_cropped(lively: Made) -> None:
    network, z = lively(detail=False, patch=4), latent(1, 7, 9)
    assert network.stride >= 4
    padded = F.pad(z, (0, -9 % network.stride, 0, -7 % network.stride))
    assert torch.equal(network(z, torch.zeros(1)), network(padded, torch.zeros(1))[..., :7, :9])


def test_latents_that_do_not_fit_are_refused_in_a_sentence(lively: Made) -> None:
    network = lively()
    with pytest.raises(ValueError, match=r"must be \(B, 3, H, W\)"):
        network(latent(1, 8, 8, channels=1), torch.zeros(1))
    with pytest.raises(ValueError, match="one for each example"):
        network(latent(2), torch.zeros(1))


@pytest.mark.parametrize("ends", [(), (-1e6, 1e6, float("inf"), float("-inf"))], ids=["usual", "extreme"])
def test_finite_at_every_log_snr(lively: Made, ends: tuple[float, ...]) -> None:
    levels = torch.tensor(ends or torch.linspace(-20, 20, 81).tolist(), dtype=torch.float64)
    assert lively()(latent(len(levels), 4, 4), levels).isfinite().all()


def test_output_depends_on_log_snr_smoothly_but_visibly(lively: Made) -> None:
    network, z = lively(), latent(1)
    near = network(z, torch.tensor([1.0])) - network(z, torch.tensor([1.0 + 1e-4]))
    far = network(z, torch.tensor([1.0])) - network(z, torch.tensor([4.0]))
    assert 0 < near.abs().max() < 1e-2
    assert far.abs().max() > 20 * near.abs().max()


def test_examples_do_not_see_each_other(lively: Made) -> None:
    network, condition = lively(**TOLD), everything()
    z, level = latent(), torch.tensor([-5.0, 0.0, 12.0])
    together = network(z, level, condition)
    for i in range(3):
        alone = network(z[i : i + 1], level[i : i + 1], condition.take(torch.tensor([i])))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)


def test_bf16_autocast_stays_close_and_trains(lively: Made) -> None:
    network, z, level = lively(token_dim=6), latent(), torch.tensor([-3.0, 0.0, 13.0], dtype=torch.float64)
    exact = network(z, level, text())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(z, level, text())
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() < 0.05 * exact.norm()
    rough.square().mean().backward()
    assert all(weight.grad.isfinite().all() for weight in network.parameters() if weight.grad is not None)


def test_draws_no_randomness_outside_dropout(lively: Made) -> None:
    network, z = lively(), latent()
    state = torch.get_rng_state()
    network.train()(z, torch.zeros(3))
    assert torch.equal(state, torch.get_rng_state())
    dropped = lively(dropout=0.5)
    assert torch.equal(dropped(z, torch.zeros(3)), dropped(z, torch.zeros(3)))
    assert not torch.equal(dropped.train()(z, torch.zeros(3)), dropped(z, torch.zeros(3)))


def test_each_condition_acts_and_one_left_out_is_the_learned_null(lively: Made) -> None:
    network, z, level, condition = lively(**TOLD), latent(), torch.zeros(3), everything()
    nothing = network(z, level)
    for only in (Condition(label=condition.label), Condition(vector=condition.vector), text()):
        told = network(z, level, only)
        assert (told - nothing).flatten(1).abs().amax(1).min() > 1e-4
        some = network(z, level, only.drop(torch.tensor([True, False, True])))
        torch.testing.assert_close(some[1], nothing[1])
        torch.testing.assert_close(some[[0, 2]], told[[0, 2]])
        torch.testing.assert_close(network(z, level, only.drop(torch.zeros(3, dtype=torch.bool))), nothing)


def test_what_the_mask_leaves_out_is_never_read(lively: Made) -> None:
    network, z, level, condition = lively(token_dim=6), latent(), torch.zeros(3), text()
    other = torch.where(condition.mask[..., None], condition.tokens, 1e4)
    longer = Condition(tokens=F.pad(other, (0, 0, 0, 4), value=-3.0), mask=F.pad(condition.mask, (0, 4)))
    torch.testing.assert_close(network(z, level, longer), network(z, level, condition))


def test_a_condition_that_the_network_does_not_take_is_refused(lively: Made) -> None:
    z, level = latent(), torch.zeros(3)
    with pytest.raises(ValueError, match="takes no labels"):
        lively()(z, level, Condition(label=torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(ValueError, match="tokens of 6 features: this network reads 4"):
        lively(token_dim=4)(z, level, text())
    with pytest.raises(ValueError, match="takes no image"):
        lively()(z, level, Condition(image=torch.zeros(3, 2, 8, 12)))
    with pytest.raises(ValueError, match=r"image of shape \(3, 2, 4, 6\): this network takes \(3, 2, 8, 12\)"):
        lively(image_channels=2)(z, level, Condition(image=torch.zeros(3, 2, 4, 6)))


def test_an_image_beside_the_latent_is_seen_and_one_left_out_is_the_learned_null(lively: Made) -> None:
    network, z, level = lively(image_channels=2), latent(), torch.zeros(3)
    image = torch.randn(3, 2, 8, 12, generator=torch.Generator().manual_seed(4))
    nothing, told = network(z, level), network(z, level, Condition(image=image))
    assert (told - nothing).flatten(1).abs().amax(1).min() > 1e-4
    some = network(z, level, Condition(image=image).drop(torch.tensor([True, False, True])))
    torch.testing.assert_close(some[1], nothing[1])
    torch.testing.assert_close(some[[0, 2]], told[[0, 2]])
    null = network.condition.null_image.detach()[None, :, None, None].expand(3, -1, 8, 12)
    torch.testing.assert_close(network(z, level, Condition(image=null)), nothing)
    double = network.double()(z.double(), level, Condition(image=image.double()))
    torch.testing.assert_close(double.float(), told, atol=1e-4, rtol=1e-4)


def test_in_float64_it_works_wholly_in_float64(lively: Made) -> None:
    """Float32 anywhere on the way would cost the difference quotient eight of its digits."""
    network, condition = lively(**TOLD, radius=1), everything()
    z, level = latent(3, 4, 4), torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    with torch.no_grad():
        plain = network(z, level, condition)
        network, z = network.double(), z.double()
        whole = network(z, level, condition)
        assert plain.dtype == torch.float32
        assert whole.dtype == torch.float64
        torch.testing.assert_close(plain.double(), whole, rtol=1e-4, atol=1e-5)
        step = 1e-5
        pairs = {
            "z": (network(z + step, level, condition), network(z - step, level, condition)),
            "logsnr": (network(z, level + step, condition), network(z, level - step, condition)),
        }
    at = {"z": z.clone().requires_grad_(), "logsnr": level.clone().requires_grad_()}
    network(at["z"], at["logsnr"], condition).sum().backward()
    for name, (up, down) in pairs.items():
        assert float((up - down).sum()) / (2 * step) == pytest.approx(float(at[name].grad.sum()), rel=1e-7), name
