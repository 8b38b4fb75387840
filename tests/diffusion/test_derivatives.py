"""Jacobians and traces against what is known of a linear map and of a small net."""

import pytest
import torch
from torch import nn

from markovae.diffusion.derivatives import jacobian, traces
from markovae.randomness import generator


def test_of_a_linear_map_it_is_the_matrix():
    matrix = torch.randn(6, 6, generator=generator(0, "jacobian"), dtype=torch.float64)
    z = torch.randn(3, 1, 2, 3, generator=generator(1, "jacobian"), dtype=torch.float64)
    out, found = jacobian(lambda at: (at.flatten(1) @ matrix.T).reshape(at.shape), z)
    torch.testing.assert_close(found, matrix.expand(3, 6, 6))
    torch.testing.assert_close(out.flatten(1), z.flatten(1) @ matrix.T)
    assert not out.requires_grad


def test_works_where_gradients_are_off_and_through_attention():
    attention = nn.MultiheadAttention(4, 2, batch_first=True).double()
    z = torch.randn(2, 3, 4, generator=generator(0, "jacobian"), dtype=torch.float64)

    def function(at):
        return attention(at, at, at, need_weights=False)[0]

    with torch.no_grad():
        _, found = jacobian(function, z)
    direction = torch.randn(2, 3, 4, generator=generator(1, "jacobian"), dtype=torch.float64)
    moved = (function(z + 1e-6 * direction) - function(z - 1e-6 * direction)) / 2e-6
    expected = (found @ direction.flatten(1)[..., None])[..., 0]
    torch.testing.assert_close(moved.flatten(1), expected, rtol=1e-5, atol=1e-8)
    exact = traces(function, z, None)[1][0]
    torch.testing.assert_close(exact, found.diagonal(dim1=1, dim2=2).sum(1))


def test_probes_are_unbiased_and_exact_for_diagonal_maps():
    gain = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    z = torch.zeros(4, 3, dtype=torch.float64)
    probes = [torch.tensor([1.0, -1.0, 1.0]).double().expand(4, 3) for _ in range(2)]
    torch.testing.assert_close(traces(lambda at: gain * at, z, probes)[1], torch.full((2, 4), 1.5).double())
    matrix = torch.randn(3, 3, generator=generator(0, "jacobian"), dtype=torch.float64)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3)
    every = [v.expand(4, 3) for v in signs]
    found = traces(lambda at: at @ matrix.T, z, every)[1].mean(0)
    torch.testing.assert_close(found, matrix.trace().expand(4))


def test_a_constant_has_no_slope():
    assert not traces(lambda at: torch.ones_like(at), torch.zeros(2, 3), None)[1].any()


def test_too_many_dimensions_are_refused():
    with pytest.raises(ValueError, match="1025 dimensions"):
        jacobian(lambda at: at, torch.zeros(1, 1025))
