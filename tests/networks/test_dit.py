"""The diffusion transformer: where its patches are, and that it learns."""

import pytest
import torch
from tests.networks.small import fresh_dit, latent, lively_dit

from markovae.networks.conditioning import Condition
from markovae.networks.dit import rotations, turned

PLAIN = {"detail": False, "octaves": 0}


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_its_stride_is_its_patch(patch: int) -> None:
    assert lively_dit(patch=patch).stride == patch


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
        found = lively_dit(**{**PLAIN, "octaves": octaves})(z, torch.zeros(1))
        tiles = found.unflatten(2, (3, 2)).unflatten(4, (4, 2)).permute(2, 4, 0, 1, 3, 5).reshape(12, -1)
        apart[octaves] = float((tiles - tiles[0]).abs().max().detach())
    assert apart[0] < 1e-5
    assert apart[3] > 1e-2


def test_every_patch_is_heard_by_every_other() -> None:
    network = lively_dit(**PLAIN)
    z = latent(1).requires_grad_()
    network(z, torch.zeros(1))[0, 0, 0, 0].backward()
    assert z.grad.unflatten(2, (4, 2)).unflatten(4, (6, 2)).abs().amax((0, 1, 3, 5)).min() > 0


def test_learns_by_heart_which_image_goes_with_which_text() -> None:
    """At log-SNR −12 the latent says nothing: only the tokens tell the four images apart."""
    network = fresh_dit(**{**PLAIN, "octaves": 1}, in_channels=1, out_channels=1, token_dim=6)
    source = torch.Generator().manual_seed(2)
    x = torch.randn(4, 1, 8, 8, generator=source)
    condition = Condition(tokens=torch.randn(4, 3, 6, generator=source), mask=torch.ones(4, 3, dtype=torch.bool))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    level = torch.full((4,), -12.0)
    for step in range(80):
        z = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        loss = (network(z, level, condition) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05  # the mean of the four images alone leaves 3/4 of their variance
    with torch.no_grad():
        swapped = network(z, level, condition.take(torch.tensor([1, 2, 3, 0])))
    assert float((swapped - x.roll(-1, 0)).square().mean()) < 0.05
