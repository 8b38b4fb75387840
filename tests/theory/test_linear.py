"""The linear-Gaussian bound in closed form: no sampling but where it is checked against sampling."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.forms import FORMS, draw_form, e1, e6
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


def random_covariance(d: int, g: torch.Generator) -> torch.Tensor:
    root = torch.randn(d, d, generator=g, dtype=torch.float64)
    return root @ root.T / d + 0.1 * torch.eye(d, dtype=torch.float64)


def random_step(d_in: int, d_out: int, g: torch.Generator) -> LinearStep:
    matrix = 0.6 * torch.randn(d_out, d_in, generator=g, dtype=torch.float64)
    return LinearStep(matrix, torch.randn(d_out, generator=g, dtype=torch.float64), random_covariance(d_out, g))


def random_moments(d: int, g: torch.Generator) -> Moments:
    return Moments(torch.randn(d, generator=g, dtype=torch.float64), random_covariance(d, g))


def random_chain(seed: int, dims: tuple[int, ...] = (3, 3, 2, 4)) -> tuple[Moments, LinearGaussianChain]:
    """Data and a chain whose prior has nothing to do with its encoder; levels may differ in size."""
    g = generator(seed, "chain")
    data = random_moments(dims[0], g)
    pairs = list(pairwise(dims))
    encoder = [random_step(a, b, g) for a, b in pairs]
    return data, LinearGaussianChain(encoder, random_moments(dims[-1], g), [random_step(b, a, g) for a, b in pairs])


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_along_one_path_the_first_five_forms_agree(seed: int) -> None:
    data, chain = random_chain(seed)
    path = chain.encode(data.batch(20).sample(generator(seed, "x")), generator(seed, "path"))
    forms = [form(chain, path) for form in FORMS[:5]]
    for form in forms[1:]:
        assert bool(((form.nats - forms[0].nats).abs() <= 1e-10 * forms[0].magnitude).all())


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_with_the_exact_reverse_every_path_gives_minus_log_p_of_its_data(seed: int) -> None:
    data, chain = random_chain(seed)
    exact = exact_linear(data, chain.encoder)
    x = data.batch(20).sample(generator(seed, "x"))
    nats = e1(exact, exact.encode(x, generator(seed, "path"))).nats
    torch.testing.assert_close(nats, -data.batch(20).log_prob(x), rtol=1e-9, atol=1e-9)


def test_steps_compose_and_reverse_as_joint_gaussians_do() -> None:
    g = generator(0, "joint")
    distribution, first, second = random_moments(2, g), random_step(2, 3, g), random_step(3, 2, g)
    once, twice = first.then(second).push(distribution), second.push(first.push(distribution))
    torch.testing.assert_close(once.mean, twice.mean)
    torch.testing.assert_close(once.covariance, twice.covariance)
    back = first.reverse(distribution)
    z = distribution.batch(5).sample(g)
    y = first.given(z).sample(g)
    left = distribution.batch(5).log_prob(z) + first.given(z).log_prob(y)
    right = first.push(distribution).batch(5).log_prob(y) + back.given(y).log_prob(z)
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_the_entropy_of_a_gaussian() -> None:
    distribution = Moments(torch.ones(2), torch.diag(torch.tensor([4.0, 0.25])))
    assert distribution.entropy() == pytest.approx(math.log(2 * math.pi * math.e))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda e, t, p: (e, t, p[:1]), "2 encoder steps and 1 prior steps"),
        (lambda e, t, p: ([], t, []), "L >= 1 steps"),
        (lambda e, t, p: (e, t, p[::-1]), "level 1: the encoder maps 2 dimensions to 3, the prior 4 to 3"),
        (lambda e, t, p: (e, Moments(t.mean[:2], t.covariance[:2, :2]), p), "do not join"),
        (lambda e, t, p: (e[::-1], t, p[::-1]), "do not join"),
        (lambda e, t, p: (e, Moments(t.mean, -t.covariance), p), "not positive definite"),
    ],
)
def test_chains_that_do_not_fit_are_refused(make, message: str) -> None:
    _, chain = random_chain(0, (2, 3, 4))
    with pytest.raises(ValueError, match=message):
        LinearGaussianChain(*make(list(chain.encoder), chain.top, list(chain.prior)))


def test_steps_that_are_no_distribution_are_refused() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="not positive definite"):
        LinearStep(eye, eye[0], torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(ValueError, match="off symmetry"):
        LinearStep(eye, eye[0], torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"must be \(d', d\), \(d',\) and \(d', d'\)"):
        LinearStep(eye, torch.zeros(3), eye)


def test_single_precision_is_promoted() -> None:
    """The bound of a chain given in float32 is that of the same numbers in float64."""
    values = {}
    for kind in (torch.float32, torch.float64):
        eye, data = torch.eye(2, dtype=kind), Moments(torch.zeros(2, dtype=kind), 2 * torch.eye(2, dtype=kind))
        step = LinearStep(0.5 * eye, torch.zeros(2, dtype=kind), 0.75 * eye)
        chain = LinearGaussianChain([step, step], Moments(torch.zeros(2, dtype=kind), eye), [step, step])
        x = torch.randn(3, 2, generator=generator(0, "x")).to(kind)
        draws = torch.stack([draw_form(form, chain, x, generator(1, "path"))[0] for form in FORMS])
        assert draws.dtype == torch.float64
        values[kind] = torch.cat([draws.flatten(), torch.tensor([expected_e1(chain, data), path_kl(chain, data)])])
        assert float(exact_linear(data, [step]).prior_top(1).covariance[0, 0]) == 1.25
    torch.testing.assert_close(values[torch.float32], values[torch.float64], rtol=0, atol=0)


def test_levels_and_vectors_that_do_not_fit_are_refused() -> None:
    eye = torch.eye(2)
    step = LinearStep(0.5 * eye, torch.zeros(2), eye)
    chain, z = LinearGaussianChain([step, step], Moments(torch.zeros(2), eye), [step, step]), torch.zeros(3, 2)
    for level in (0, 3):
        for step_of in (chain.encoder_step, chain.prior_step, chain.marginal):
            with pytest.raises(ValueError, match=rf"level={level} must lie in 1…2"):
                step_of(z, level)
    with pytest.raises(ValueError, match="level=1 must lie in 2…2"):
        chain.posterior(z, z, 1)
    with pytest.raises(ValueError, match=r"vectors of shape \(3, 5\) must be \(B, 2\)"):
        chain.encode(torch.zeros(3, 5), generator(0, "x"))
    with pytest.raises(ValueError, match="not positive definite"):
        Moments(torch.zeros(2), -eye)
    with pytest.raises(ValueError, match=r"must be \(d,\) and \(d, d\)"):
        Moments(torch.zeros(3), eye)


DIMS = st.lists(st.integers(1, 4), min_size=2, max_size=5)


def other_chain(seed: int, dims: list[int]) -> tuple[Moments, LinearGaussianChain]:
    g = generator(seed, "expected")

    def covariance(d: int) -> torch.Tensor:
        root = torch.randn(d, d, generator=g, dtype=torch.float64)
        return root @ root.T / d + 0.1 * torch.eye(d, dtype=torch.float64)

    def moments(d: int) -> Moments:
        return Moments(torch.randn(d, generator=g, dtype=torch.float64), covariance(d))

    def step(a: int, b: int) -> LinearStep:
        distribution = moments(b)
        return LinearStep(
            0.6 * torch.randn(b, a, generator=g, dtype=torch.float64), distribution.mean, distribution.covariance
        )

    pairs = list(pairwise(dims))
    data = moments(dims[0])
    return data, LinearGaussianChain([step(a, b) for a, b in pairs], moments(dims[-1]), [step(b, a) for a, b in pairs])


def test_the_divergence_of_the_paths_is_that_of_the_two_joint_gaussians() -> None:
    """Both joints of (z_0, z_1) written out as one Gaussian each."""
    data, chain = other_chain(3, [2, 3])
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
    data, chain = other_chain(5, [2, 3, 2, 2])
    x = data.batch(6000).sample(generator(0, "x"))
    drawn = e6(chain, chain.encode(x, generator(0, "path"))).terms
    bound = expected_e6(chain, data)
    exact = torch.cat([bound.prior[:, None], bound.levels, bound.reconstruction[:, None]], 1)[0]
    for term, value in zip(drawn.T, exact, strict=True):
        found = estimate_mean(term)
        assert abs(found.value - float(value)) < 4 * found.stderr


def test_one_level_has_a_prior_and_a_decoder() -> None:
    data, chain = other_chain(1, [2, 2])
    bound = expected_e6(chain, data)
    assert bound.levels.shape == (1, 0)
    assert float(bound.total) == pytest.approx(expected_e1(chain, data), rel=1e-12)
