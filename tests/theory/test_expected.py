"""The linear-Gaussian bound in closed form: no sampling but where it is checked against sampling."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.forms import e6
from markovae.diffusion.gaussian import FullGaussian
from markovae.randomness import generator
from markovae.theory.linear import (
    LinearGaussianChain,
    LinearStep,
    Moments,
    exact_linear,
    expected_e1,
    expected_e6,
    path_kl,
)

DIMS = st.lists(st.integers(1, 4), min_size=2, max_size=5)


def random_chain(seed: int, dims: list[int]) -> tuple[Moments, LinearGaussianChain]:
    g = generator(seed, "expected")

    def covariance(d: int) -> torch.Tensor:
        root = torch.randn(d, d, generator=g, dtype=torch.float64)
        return root @ root.T / d + 0.1 * torch.eye(d, dtype=torch.float64)

    def moments(d: int) -> Moments:
        return Moments(torch.randn(d, generator=g, dtype=torch.float64), covariance(d))

    def step(a: int, b: int) -> LinearStep:
        law = moments(b)
        return LinearStep(0.6 * torch.randn(b, a, generator=g, dtype=torch.float64), law.mean, law.covariance)

    pairs = list(pairwise(dims))
    data = moments(dims[0])
    return data, LinearGaussianChain([step(a, b) for a, b in pairs], moments(dims[-1]), [step(b, a) for a, b in pairs])


@settings(max_examples=25)
@given(seed=st.integers(0, 999), dims=DIMS)
def test_with_the_exact_reverse_the_bound_is_the_entropy(seed: int, dims: list[int]) -> None:
    data, chain = random_chain(seed, dims)
    exact = exact_linear(data, chain.encoder)
    assert expected_e1(exact, data) == pytest.approx(data.entropy(), abs=1e-10)
    assert float(expected_e6(exact, data).total) == pytest.approx(data.entropy(), abs=1e-10)
    assert path_kl(exact, data) == pytest.approx(0, abs=1e-10)


@settings(max_examples=25)
@given(seed=st.integers(0, 999), dims=DIMS)
def test_any_other_prior_lies_above_by_the_divergence_of_the_paths(seed: int, dims: list[int]) -> None:
    data, chain = random_chain(seed, dims)
    gap = path_kl(chain, data)
    assert gap > 0
    assert expected_e1(chain, data) - data.entropy() == pytest.approx(gap, rel=1e-9)
    assert float(expected_e6(chain, data).total) - data.entropy() == pytest.approx(gap, rel=1e-9)


def test_the_divergence_of_the_paths_is_that_of_the_two_joint_gaussians() -> None:
    """Both joints of (z_0, z_1) written out as one Gaussian each."""
    data, chain = random_chain(3, [2, 3])
    up, down, top = chain.encoder[0], chain.prior[0], chain.top
    z = up.push(data)
    cross = data.covariance @ up.matrix.T
    encoder = FullGaussian(
        torch.cat([data.mean, z.mean])[None],
        torch.cat([torch.cat([data.covariance, cross], 1), torch.cat([cross.T, z.covariance], 1)]),
    )
    x = down.push(top)
    cross = down.matrix @ top.covariance
    prior = FullGaussian(
        torch.cat([x.mean, top.mean])[None],
        torch.cat([torch.cat([x.covariance, cross], 1), torch.cat([cross.T, top.covariance], 1)]),
    )
    assert path_kl(chain, data) == pytest.approx(float(encoder.kl(prior)), rel=1e-10)


def test_each_term_is_what_sampling_finds() -> None:
    data, chain = random_chain(5, [2, 3, 2, 2])
    x = data.batch(6000).sample(generator(0, "x"))
    drawn = e6(chain, chain.encode(x, generator(0, "path"))).terms
    bound = expected_e6(chain, data)
    exact = torch.cat([bound.prior[:, None], bound.levels, bound.reconstruction[:, None]], 1)[0]
    for term, value in zip(drawn.T, exact, strict=True):
        found = estimate_mean(term)
        assert abs(found.value - float(value)) < 4 * found.stderr


def test_one_level_has_a_prior_and_a_decoder() -> None:
    data, chain = random_chain(1, [2, 2])
    bound = expected_e6(chain, data)
    assert bound.levels.shape == (1, 0)
    assert float(bound.total) == pytest.approx(expected_e1(chain, data), rel=1e-12)
