"""The Haar transform is orthonormal, and its low band is the mean image."""

import torch
from torch.nn import functional as F

from markovae.diffusion import haar
from markovae.diffusion.cascade import merged, separated
from markovae.randomness import generator


def matrix(octaves: int, channels: int, height: int, width: int) -> torch.Tensor:
    dims = channels * height * width
    units = torch.eye(dims, dtype=torch.float64).reshape(dims, channels, height, width)
    return torch.cat([band.flatten(1) for band in separated(units, octaves)], 1).T


def test_w_is_orthonormal_to_1e_12():
    for octaves, shape in ((1, (3, 4, 6)), (2, (1, 8, 4)), (3, (2, 8, 8))):
        w = matrix(octaves, *shape)
        assert float((w @ w.T - torch.eye(len(w), dtype=torch.float64)).abs().max()) < 1e-12


def test_merging_is_the_inverse():
    x = torch.randn(2, 3, 16, 24, generator=generator(0, "x"), dtype=torch.float64)
    torch.testing.assert_close(merged(separated(x, 3)), x, rtol=0, atol=1e-12)


def test_low_band_is_twice_the_mean():
    x = torch.randn(2, 3, 6, 4, generator=generator(0, "x"), dtype=torch.float64)
    low, details = haar.split(x)
    torch.testing.assert_close(low, 2 * F.avg_pool2d(x, 2), rtol=0, atol=1e-12)
    assert details.shape == (2, 9, 3, 2)
    assert float(haar.split(torch.ones_like(x))[1].abs().max()) == 0
