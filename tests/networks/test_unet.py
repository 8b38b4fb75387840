"""The U-Net: shapes it accepts, what it depends on, and that it learns."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from markovae.networks.condition import Condition
from markovae.networks.unet import UNet, UNetConfig

SMALL = {"width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "embedding": 16, "head_dim": 16}


def lively(**options) -> UNet:
    """A small network whose zero-initialised layers are filled, so that everything shows in the output."""
    torch.manual_seed(5)
    network = UNet(UNetConfig(**{**SMALL, **options}))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.abs().max() == 0:
                weight.normal_(0, 0.1, generator=generator)
    return network.eval()


def latent(batch: int = 3, height: int = 8, width: int = 12, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def test_output_starts_at_zero_and_every_weight_gets_a_gradient_once_it_moves() -> None:
    network = UNet(UNetConfig(**SMALL, num_classes=4, vector_dim=2))
    z, level = latent(), torch.tensor([-3.0, 0.0, 8.0])
    assert network(z, level).eq(0).all()
    network = lively(num_classes=4, vector_dim=2).train()
    condition = Condition(
        label=torch.tensor([0, 1, 2]), vector=torch.ones(3, 2), keep=torch.tensor([True, False, True])
    )
    network(z, level, condition).square().sum().backward()
    silent = [n for n, w in network.named_parameters() if w.grad is None or w.grad.abs().max() == 0]
    assert silent == []


@settings(max_examples=12, deadline=None)
@given(rows=st.integers(1, 4), columns=st.integers(1, 4), patch=st.sampled_from([1, 2, 4]))
def test_any_multiple_of_the_stride_fits(rows: int, columns: int, patch: int) -> None:
    network = lively(patch=patch, out_channels=6)
    z = latent(2, rows * network.stride, columns * network.stride)
    assert network(z, torch.zeros(2)).shape == (2, 6, *z.shape[2:])


def test_sizes_that_do_not_fit_are_refused_in_a_sentence() -> None:
    network = lively()
    assert network.stride == 4
    with pytest.raises(ValueError, match=r"30x32 pixels .* multiples of 4"):
        network(latent(1, 30, 32), torch.zeros(1))
    with pytest.raises(ValueError, match=r"must be \(B, 3, H, W\)"):
        network(latent(1, 8, 8, channels=1), torch.zeros(1))
    with pytest.raises(ValueError, match="one for each example"):
        network(latent(2), torch.zeros(1))


@settings(max_examples=20, deadline=None)
@given(level=st.floats(-20, 20) | st.sampled_from([-1e6, 1e6, float("inf"), float("-inf")]))
def test_finite_at_every_log_snr(level: float) -> None:
    network = lively()
    logsnr = torch.full((3,), level, dtype=torch.float64)
    assert network(latent(), logsnr).isfinite().all()


def test_output_depends_on_log_snr_smoothly_but_visibly() -> None:
    network, z = lively(), latent(1)
    near = network(z, torch.tensor([1.0])) - network(z, torch.tensor([1.0 + 1e-4]))
    far = network(z, torch.tensor([1.0])) - network(z, torch.tensor([4.0]))
    assert 0 < near.abs().max() < 1e-2
    assert far.abs().max() > 20 * near.abs().max()


def test_examples_do_not_see_each_other() -> None:
    network = lively(num_classes=3)
    z, level, label = latent(4), torch.tensor([-5.0, 0.0, 5.0, 12.0]), torch.tensor([0, 1, 2, 0])
    together = network(z, level, Condition(label=label))
    for i in range(4):
        alone = network(z[i : i + 1], level[i : i + 1], Condition(label=label[i : i + 1]))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)


def test_layouts_agree() -> None:
    network, z, level = lively(), latent(), torch.tensor([-3.0, 0.0, 8.0])
    expected = network(z, level)
    other = lively().to(memory_format=torch.channels_last)
    found = other(z.contiguous(memory_format=torch.channels_last), level)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_bf16_autocast_stays_close_and_trains() -> None:
    network, z, level = lively(), latent(), torch.tensor([-3.0, 0.0, 13.0], dtype=torch.float64)
    exact = network(z, level)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(z, level)
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() < 0.05 * exact.norm()
    rough.square().mean().backward()
    assert all(weight.grad.isfinite().all() for weight in network.parameters() if weight.grad is not None)


def test_draws_no_randomness_outside_dropout() -> None:
    network, z = lively(), latent()
    state = torch.get_rng_state()
    network.train()(z, torch.zeros(3))
    assert torch.equal(state, torch.get_rng_state())
    dropped = lively(dropout=0.5)
    assert torch.equal(dropped(z, torch.zeros(3)), dropped(z, torch.zeros(3)))
    assert not torch.equal(dropped.train()(z, torch.zeros(3)), dropped(z, torch.zeros(3)))


def test_labels_act_and_dropped_labels_are_the_null() -> None:
    network, z, level = lively(num_classes=3, vector_dim=2), latent(), torch.zeros(3)
    condition = Condition(label=torch.tensor([0, 1, 2]), vector=torch.ones(3, 2))
    with_label, without = network(z, level, condition), network(z, level)
    assert (with_label - without).abs().amax((1, 2, 3)).min() > 1e-4
    mixed = network(z, level, condition.drop(torch.tensor([True, False, True])))
    torch.testing.assert_close(mixed[1], without[1])
    torch.testing.assert_close(mixed[::2], with_label[::2])


def test_learns_a_denoiser_of_flat_images() -> None:
    torch.manual_seed(0)
    network = UNet(UNetConfig(**SMALL, in_channels=1, out_channels=1))
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(150):
        generator = torch.Generator().manual_seed(step)
        x = torch.rand(16, 1, 1, 1, generator=generator) * 2 - 1
        noise = torch.randn(16, 1, 8, 8, generator=generator)
        level = torch.full((16,), 9.0)
        z = (
            torch.sigmoid(level)[:, None, None, None].sqrt() * x
            + torch.sigmoid(-level)[:, None, None, None].sqrt() * noise
        )
        loss = (network(z, level) - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.35  # predicting zero costs 1; the flat colour is all that hides the noise


@pytest.mark.parametrize(
    "option", [{"width": 0}, {"attention": (2,)}, {"multipliers": ()}, {"dropout": 1.0}, {"patch": 0}]
)
def test_configurations_that_make_no_network_are_refused(option: dict) -> None:
    with pytest.raises(ValueError, match="must"):
        UNetConfig(**{**SMALL, **option})


def test_in_float64_it_works_wholly_in_float64() -> None:
    """Float32 anywhere on the way would cost the difference quotient eight of its digits."""
    network = lively(num_classes=3, vector_dim=2, radius=1)
    z, level = latent(2, 4, 4), torch.tensor([3.0, -2.0], dtype=torch.float64)
    condition = Condition(label=torch.tensor([0, 2]), vector=torch.ones(2, 2))
    with torch.no_grad():
        plain = network(z, level, condition)
        network = network.double()
        z = z.double()
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


def text(length: int = 5, batch: int = 3) -> Condition:
    tokens = torch.randn(batch, length, 6, generator=torch.Generator().manual_seed(7))
    return Condition(tokens=tokens, mask=torch.arange(length) < torch.tensor([[1], [3], [length]])[:batch])


def test_tokens_left_out_are_the_learned_null() -> None:
    network, z, level = lively(token_dim=6), latent(), torch.zeros(3)
    nothing = network(z, level)
    torch.testing.assert_close(network(z, level, text().drop(torch.zeros(3, dtype=torch.bool))), nothing)
    some = network(z, level, text().drop(torch.tensor([True, False, True])))
    told = network(z, level, text())
    torch.testing.assert_close(some[1], nothing[1])
    torch.testing.assert_close(some[[0, 2]], told[[0, 2]])
    assert (told - nothing).flatten(1).abs().amax(1).min() > 1e-4


def test_what_the_mask_leaves_out_is_never_read() -> None:
    network, z, level = lively(token_dim=6), latent(), torch.zeros(3)
    condition = text()
    other = torch.where(condition.mask[..., None], condition.tokens, 1e4)
    longer = Condition(tokens=F.pad(other, (0, 0, 0, 4), value=-3.0), mask=F.pad(condition.mask, (0, 4)))
    torch.testing.assert_close(network(z, level, longer), network(z, level, condition))


def test_every_weight_that_reads_a_text_is_trained() -> None:
    network = lively(token_dim=6)
    network(latent(), torch.zeros(3), text()).square().mean().backward()
    reading = [w for name, w in network.named_parameters() if "text" in name or "null_token" in name]
    assert len(reading) > 10
    assert all(w.grad is not None and bool(w.grad.abs().sum() > 0) for w in reading)


def test_tokens_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens of 6 features: this network reads 4"):
        lively(token_dim=4)(latent(), torch.zeros(3), text())


def test_an_image_beside_the_latent_is_seen_and_one_left_out_is_the_learned_null() -> None:
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


def test_images_that_do_not_fit_are_refused() -> None:
    z, level = latent(), torch.zeros(3)
    with pytest.raises(ValueError, match=r"image of shape \(3, 2, 4, 6\): this network takes \(3, 2, 8, 12\)"):
        lively(image_channels=2)(z, level, Condition(image=torch.zeros(3, 2, 4, 6)))
    with pytest.raises(ValueError, match="takes no image"):
        lively()(z, level, Condition(image=torch.zeros(3, 2, 8, 12)))
