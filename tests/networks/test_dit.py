"""The diffusion transformer: shapes it accepts, what it depends on, and that it learns."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from markovae.networks.condition import Condition
from markovae.networks.dit import DiT, DiTConfig, rotations, turned

SMALL = {"width": 32, "depth": 2, "head_dim": 16, "expansion": 2, "embedding": 16}
PLAIN = {"differences": False, "frequencies": (), "radius": 0, "octaves": 0}


def lively(**options) -> DiT:
    """A small network whose zero-initialised layers are filled, so that everything shows in the output."""
    torch.manual_seed(5)
    network = DiT(DiTConfig(**{**SMALL, **options}))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.abs().max() == 0:
                weight.normal_(0, 0.3, generator=generator)
    return network.eval()


def latent(batch: int = 3, height: int = 8, width: int = 12, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def text(length: int = 5, batch: int = 3) -> Condition:
    tokens = torch.randn(batch, length, 6, generator=torch.Generator().manual_seed(7))
    return Condition(tokens=tokens, mask=torch.arange(length) < torch.tensor([[1], [3], [length]])[:batch])


def everything() -> Condition:
    return Condition(
        label=torch.tensor([0, 1, 2]),
        vector=torch.randn(3, 2, generator=torch.Generator().manual_seed(9)),
        tokens=text().tokens,
        mask=text().mask,
    )


def test_output_starts_at_zero_and_every_weight_gets_a_gradient_once_it_moves() -> None:
    options = {"num_classes": 4, "vector_dim": 2, "token_dim": 6}
    network = DiT(DiTConfig(**SMALL, **options))
    z, level = latent(), torch.tensor([-3.0, 0.0, 8.0])
    assert network(z, level).eq(0).all()
    network = lively(**options).train()
    network(z, level, everything().drop(torch.tensor([True, False, True]))).square().sum().backward()
    silent = [n for n, w in network.named_parameters() if w.grad is None or w.grad.abs().max() == 0]
    assert silent == []


@settings(max_examples=12, deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), patch=st.sampled_from([1, 2, 4]))
def test_any_multiple_of_the_patch_fits(rows: int, columns: int, patch: int) -> None:
    network = lively(patch=patch, out_channels=6)
    assert network.stride == patch
    z = latent(2, rows * patch, columns * patch)
    assert network(z, torch.zeros(2)).shape == (2, 6, *z.shape[2:])


def test_sizes_that_do_not_fit_are_refused_in_a_sentence() -> None:
    network = lively(patch=4)
    with pytest.raises(ValueError, match=r"30x32 pixels .* multiples of 4"):
        network(latent(1, 30, 32), torch.zeros(1))
    with pytest.raises(ValueError, match=r"must be \(B, 3, H, W\)"):
        network(latent(1, 8, 8, channels=1), torch.zeros(1))
    with pytest.raises(ValueError, match="one for each example"):
        network(latent(2), torch.zeros(1))


@pytest.mark.parametrize("option", [{"width": 0}, {"head_dim": 6}, {"head_dim": 64}, {"dropout": 1.0}, {"depth": 0}])
def test_configurations_that_make_no_network_are_refused(option: dict) -> None:
    with pytest.raises(ValueError, match="must"):
        DiTConfig(**{**SMALL, **option})


@settings(max_examples=20, deadline=None)
@given(level=st.floats(-20, 20) | st.sampled_from([-1e6, 1e6, float("inf"), float("-inf")]))
def test_finite_at_every_log_snr(level: float) -> None:
    assert lively()(latent(), torch.full((3,), level, dtype=torch.float64)).isfinite().all()


def test_examples_do_not_see_each_other() -> None:
    network, condition = lively(num_classes=3, vector_dim=2, token_dim=6), everything()
    z, level = latent(), torch.tensor([-5.0, 0.0, 12.0])
    together = network(z, level, condition)
    for i in range(3):
        alone = network(z[i : i + 1], level[i : i + 1], condition.take(torch.tensor([i])))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)


def test_bf16_autocast_stays_close_and_trains() -> None:
    network, z, level = lively(token_dim=6), latent(), torch.tensor([-3.0, 0.0, 13.0], dtype=torch.float64)
    exact = network(z, level, text())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(z, level, text())
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


# -- conditions ----------------------------------------------------------------------------------------------------


def test_each_condition_acts_and_one_left_out_is_the_learned_null() -> None:
    network, z, level = lively(num_classes=3, vector_dim=2, token_dim=6), latent(), torch.zeros(3)
    nothing, condition = network(z, level), everything()
    fields = {"label": condition.label, "vector": condition.vector}
    for only in (
        Condition(label=fields["label"]),
        Condition(vector=fields["vector"]),
        text(),
    ):
        told = network(z, level, only)
        assert (told - nothing).flatten(1).abs().amax(1).min() > 1e-4
        some = network(z, level, only.drop(torch.tensor([True, False, True])))
        torch.testing.assert_close(some[1], nothing[1])
        torch.testing.assert_close(some[[0, 2]], told[[0, 2]])
        torch.testing.assert_close(network(z, level, only.drop(torch.zeros(3, dtype=torch.bool))), nothing)


def test_what_the_mask_leaves_out_is_never_read() -> None:
    network, z, level = lively(token_dim=6), latent(), torch.zeros(3)
    condition = text()
    other = torch.where(condition.mask[..., None], condition.tokens, 1e4)
    longer = Condition(tokens=F.pad(other, (0, 0, 0, 4), value=-3.0), mask=F.pad(condition.mask, (0, 4)))
    torch.testing.assert_close(network(z, level, longer), network(z, level, condition))


def test_a_condition_that_the_network_does_not_take_is_refused() -> None:
    z, level = latent(), torch.zeros(3)
    with pytest.raises(ValueError, match="takes no labels"):
        lively()(z, level, Condition(label=torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(ValueError, match="tokens of 6 features: this network reads 4"):
        lively(token_dim=4)(z, level, text())


# -- positions -----------------------------------------------------------------------------------------------------


def test_a_product_of_query_and_key_depends_on_their_distance_alone() -> None:
    source = torch.Generator().manual_seed(3)
    q, k = (torch.randn(16, generator=source, dtype=torch.float64) for _ in range(2))
    angles = rotations(5, 7, 16, q)
    products = (turned(q.expand(35, 16), angles) @ turned(k.expand(35, 16), angles).T).reshape(5, 7, 5, 7)
    torch.testing.assert_close(products[:4, :6, :4, :6], products[1:, 1:, 1:, 1:], atol=1e-13, rtol=0)
    torch.testing.assert_close(products[0, 0, 0, 0], q @ k, atol=1e-13, rtol=0)
    row, column = products[1, 0, 0, 0] - q @ k, products[0, 1, 0, 0] - q @ k
    assert min(abs(row), abs(column), abs(row - column)) > 1e-3


def test_like_patches_are_told_apart_by_the_positions_alone() -> None:
    patch = latent(1, 2, 2)
    z = patch.repeat(1, 1, 3, 4)
    apart = {}
    for octaves in (0, 3):
        found = lively(**{**PLAIN, "octaves": octaves})(z, torch.zeros(1))
        tiles = found.unflatten(2, (3, 2)).unflatten(4, (4, 2)).permute(2, 4, 0, 1, 3, 5).reshape(12, -1)
        apart[octaves] = float((tiles - tiles[0]).abs().max().detach())
    assert apart[0] < 1e-5
    assert apart[3] > 1e-2


def test_every_patch_is_heard_by_every_other() -> None:
    network = lively(**PLAIN)
    z = latent(1).requires_grad_()
    network(z, torch.zeros(1))[0, 0, 0, 0].backward()
    assert z.grad.unflatten(2, (4, 2)).unflatten(4, (6, 2)).abs().amax((0, 1, 3, 5)).min() > 0


# -- float64 and learning ------------------------------------------------------------------------------------------


def test_in_float64_it_works_wholly_in_float64() -> None:
    """Float32 anywhere on the way would cost the difference quotient eight of its digits."""
    network = lively(num_classes=3, vector_dim=2, token_dim=6, radius=1)
    z, level = latent(3, 4, 4), torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    condition = everything()
    with torch.no_grad():
        plain = network(z, level, condition)
        network, z = network.double(), z.double()
        whole = network(z, level, condition)
        assert plain.dtype == torch.float32
        assert whole.dtype == torch.float64
        torch.testing.assert_close(plain.double(), whole, rtol=1e-4, atol=1e-4)
        step = 1e-5
        pairs = {
            "z": (network(z + step, level, condition), network(z - step, level, condition)),
            "logsnr": (network(z, level + step, condition), network(z, level - step, condition)),
        }
    at = {"z": z.clone().requires_grad_(), "logsnr": level.clone().requires_grad_()}
    network(at["z"], at["logsnr"], condition).sum().backward()
    for name, (up, down) in pairs.items():
        assert float((up - down).sum()) / (2 * step) == pytest.approx(float(at[name].grad.sum()), rel=1e-7), name


def test_learns_by_heart_which_image_goes_with_which_text() -> None:
    """At log-SNR −12 the latent says nothing: only the tokens tell the four images apart."""
    torch.manual_seed(0)
    network = DiT(DiTConfig(**{**SMALL, **PLAIN, "octaves": 1}, in_channels=1, out_channels=1, token_dim=6))
    source = torch.Generator().manual_seed(2)
    x = torch.randn(4, 1, 8, 8, generator=source)
    condition = Condition(tokens=torch.randn(4, 3, 6, generator=source), mask=torch.ones(4, 3, dtype=torch.bool))
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    level = torch.full((4,), -12.0)
    for step in range(250):
        z = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        loss = (network(z, level, condition) - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.05  # the mean of the four images alone leaves 3/4 of their variance
    with torch.no_grad():
        swapped = network(z, level, condition.take(torch.tensor([1, 2, 3, 0])))
    assert float((swapped - x.roll(-1, 0)).square().mean()) < 0.05


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
