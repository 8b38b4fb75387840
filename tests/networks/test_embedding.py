import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.networks.embedding import Detail, LogSNREmbedding, positions, smoothed_difference


@given(st.floats(allow_nan=False))
def test_features_are_bounded_everywhere(level: float) -> None:
    found = LogSNREmbedding(8).features(torch.tensor([level], dtype=torch.float64))
    assert found.dtype == torch.float32
    assert found.abs().max() <= 2.4 + 1e-6


def test_features_tell_near_and_far_levels_apart() -> None:
    grid = torch.linspace(-20, 20, 401, dtype=torch.float64)
    features = LogSNREmbedding(8).features(grid)
    apart = torch.cdist(features, features) + 10 * torch.eye(len(grid))
    assert apart.min() > 0.05


def test_differences_are_in_units_of_the_noise() -> None:
    detail = Detail(1)
    step = 1e-3
    for level in (8.0, 11.0, 13.3):
        noise = math.sqrt(1 / (1 + math.exp(level)))
        z = torch.zeros(1, 1, 4, 4)
        z[..., 2:] = step * noise
        found = detail(z, torch.tensor([level], dtype=torch.float64))
        torch.testing.assert_close(found[0, 1, :, 1], torch.full((4,), step / 2), rtol=1e-4, atol=0.0)
        assert found[0, 2].abs().max() == 0
    rows = detail(z.mT, torch.tensor([level]))
    torch.testing.assert_close(rows[0, 2], found[0, 1].T)


def test_grid_phase_shows_only_where_the_noise_lets_it() -> None:
    detail = Detail(1, differences=False, frequencies=(127.5,))
    digits = torch.arange(256.0).reshape(1, 1, 16, 16)
    level = torch.tensor([30.0])
    signal = torch.sigmoid(level).sqrt()
    found = detail(signal * (digits / 127.5 - 1), level)
    # On the grid of x/127.5 − 1 every value has the phase of −1: 2π·127.5 is 255 half turns, so cos = −1.
    torch.testing.assert_close(found[0, 2], torch.full((16, 16), -1.0), atol=1e-2, rtol=0.0)
    assert found[0, 1].abs().max() < 0.05
    assert detail(digits / 127.5 - 1, torch.tensor([5.0]))[:, 1:].abs().max() < 1e-30


@settings(max_examples=20, deadline=None)
@given(st.floats(-30, 30))
def test_detail_is_bounded_and_keeps_the_latent(level: float) -> None:
    z = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    detail = Detail(3, frequencies=(1.0, 127.5), radius=2)
    found = detail(z, torch.full((2,), level, dtype=torch.float64))
    assert found.shape == (2, detail.channels, 4, 6)
    assert torch.equal(found[:, :3], z)
    assert found[:, 3:].abs().max() <= max(1.0, math.log(25))


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9))
def test_positions_are_relative_and_all_different(height: int, width: int) -> None:
    found = positions(height, width, 2, torch.zeros(2, 1))
    assert found.shape == (2, 10, height, width)
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[:, :2], -found[:, :2].flip(2, 3))
    cells = found[0].flatten(1).T
    apart = torch.cdist(cells, cells) + 10 * torch.eye(len(cells))
    assert apart.min() > 0.2
    assert positions(height, width, 0, torch.zeros(2, 1)).shape == (2, 0, height, width)


@pytest.mark.parametrize("radius", [1, 2, 6])  # 6 reaches beyond the image on every side
def test_smoothed_difference_equals_its_definition(radius: int) -> None:
    generator = torch.Generator().manual_seed(0)
    z, s = torch.randn(2, 3, 5, 4, generator=generator), torch.tensor([0.3, 0.8])
    found, weight = smoothed_difference(z, s[:, None, None, None], radius)

    def rows(at: int, size: int) -> range:
        return range(max(at - radius, 0), min(at + radius + 1, size))

    for b, i, j in ((0, 0, 0), (0, 2, 1), (1, 4, 3), (1, 3, 0)):
        here = z[b, :, i, j]
        near = [z[b, :, k, m] for k in rows(i, 5) for m in rows(j, 4)]
        weights = torch.stack([torch.exp(-(other - here).square().sum() / (12 * s[b] ** 2)) for other in near])
        moves = torch.stack([(here - other) / s[b] for other in near])
        expected = (weights[:, None] * moves).sum(0) / weights.sum()
        torch.testing.assert_close(found[b, :, i, j], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            weight[b, 0, i, j], (weights.sum() / (2 * radius + 1) ** 2).log(), atol=1e-5, rtol=1e-4
        )


def test_smoothed_difference_finds_small_noise_on_flat_areas_and_keeps_edges() -> None:
    s = 1.3e-3
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    x = torch.zeros(1, 3, 32, 32)
    x[..., 16:] = 0.7
    found, _ = smoothed_difference(x + s * noise, torch.full((1, 1, 1, 1), s), 2)
    assert (found - noise).square().mean() < 0.25
    assert (found - noise)[..., 14:18].square().mean() < 0.35
