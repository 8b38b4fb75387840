"""E1…E6 on a Gaussian chain with a prior that is not its reverse; other chains have tests of their own."""

import pytest
import torch

from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.forms import FORMS, divergence, draw_form, e1, e2, e3, e4, e5, e6, encoder_given_data
from markovae.diffusion.gaussian import FullGaussian, Gaussian
from markovae.diffusion.markovian_vae import TractableEncoder
from markovae.randomness import Streams, generator
from markovae.theory.hierarchical import FixedStep, HierarchicalVAE, LearnedStep
from markovae.theory.linear import LinearGaussianChain, LinearStep, Moments


def chain(levels: int = 3) -> LinearGaussianChain:
    g = generator(levels, "forms")

    def step() -> LinearStep:
        matrix, offset, root = (torch.randn(2, n, generator=g, dtype=torch.float64) for n in (2, 1, 2))
        return LinearStep(0.5 * matrix, offset[:, 0], root @ root.T + 0.2 * torch.eye(2, dtype=torch.float64))

    top = Moments(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    return LinearGaussianChain([step() for _ in range(levels)], top, [step() for _ in range(levels)])


def data(count: int) -> torch.Tensor:
    return torch.randn(count, 2, generator=generator(0, "data"), dtype=torch.float64)


@pytest.mark.parametrize("levels", [1, 2, 6])
def test_the_first_five_forms_agree_along_every_path(levels: int) -> None:
    vae = chain(levels)
    path = vae.encode(data(200), generator(0, "path"))
    first = e1(vae, path)
    for form in (e2, e3, e4, e5):
        other = form(vae, path)
        assert bool(((other.nats - first.nats).abs() <= 1e-10 * other.magnitude).all()), form.__name__


def test_the_first_form_is_the_ratio_of_the_joint_densities() -> None:
    """Both joints written as one Gaussian over all the latents at once."""
    vae, x = chain(2), data(5)
    path = vae.encode(x, generator(0, "path"))
    (a1, a2), (b1, b2), eye = vae.encoder, vae.prior, torch.eye(2, dtype=torch.float64)
    # z_1, z_2 given z_0
    mean = torch.cat([x @ a1.matrix.T + a1.offset, (x @ a1.matrix.T + a1.offset) @ a2.matrix.T + a2.offset], 1)
    mix = torch.cat([torch.cat([eye, 0 * eye], 1), torch.cat([a2.matrix, eye], 1)])
    encoder = FullGaussian(mean, mix @ torch.block_diag(a1.covariance, a2.covariance) @ mix.T)
    # z_0, z_1, z_2 from the top down
    top = vae.top.mean
    one = b2.matrix @ top + b2.offset
    lower = torch.cat(
        [
            torch.cat([eye, b1.matrix, b1.matrix @ b2.matrix], 1),
            torch.cat([0 * eye, eye, b2.matrix], 1),
            torch.cat([0 * eye, 0 * eye, eye], 1),
        ]
    )
    joint = lower @ torch.block_diag(b1.covariance, b2.covariance, vae.top.covariance) @ lower.T
    prior = FullGaussian(torch.cat([b1.matrix @ one + b1.offset, one, top])[None].expand(5, -1), joint)
    expected = encoder.log_prob(torch.cat(path[1:], 1)) - prior.log_prob(torch.cat(path, 1))
    torch.testing.assert_close(e1(vae, path).nats, expected, rtol=1e-9, atol=1e-9)


def test_the_encoder_is_markov() -> None:
    """P(z_2 | z_1, z_0) from the joint law of (z_0, z_1, z_2) by conditioning does not move with z_0."""
    vae, s = chain(2), torch.eye(2, dtype=torch.float64)
    a, b = vae.encoder
    c01, c11 = s @ a.matrix.T, a.matrix @ s @ a.matrix.T + a.covariance
    known = torch.cat([torch.cat([s, c01], 1), torch.cat([c01.T, c11], 1)])
    cross = torch.cat([b.matrix @ c01.T, b.matrix @ c11], 1)
    regression = torch.linalg.solve(known, cross.T).T
    torch.testing.assert_close(regression[:, :2], 0 * s, rtol=0, atol=1e-12)
    left = b.matrix @ c11 @ b.matrix.T + b.covariance - regression @ cross.T
    x, z = data(3), data(6)[3:]
    given = encoder_given_data(vae, x, z, 2)
    assert isinstance(given, FullGaussian)
    torch.testing.assert_close(given.covariance, left, rtol=1e-10, atol=1e-12)
    mean = z @ regression[:, 2:].T + b.offset
    torch.testing.assert_close(given.mean, mean, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="3 examples of z_0 with 2"):
        encoder_given_data(vae, x, z[:2], 2)


def test_the_sixth_form_is_the_fifths_mean() -> None:
    vae, x = chain(3), data(4000)
    path = vae.encode(x, generator(0, "path"))
    fifth, sixth = e5(vae, path), e6(vae, path)
    assert fifth.terms.shape == sixth.terms.shape == (4000, 4)
    for term in range(3):
        difference = estimate_mean(fifth.terms[:, term] - sixth.terms[:, term])
        assert abs(difference.value) < 4 * difference.stderr
        assert bool((sixth.terms[:, term] >= 0).all())
    assert torch.equal(fifth.terms[:, -1], sixth.terms[:, -1])


def test_the_sixth_forms_first_term_does_not_depend_on_the_path() -> None:
    vae, x = chain(3), data(10)
    terms = [e6(vae, vae.encode(x, generator(seed, "path"))).terms[:, 0] for seed in (0, 1)]
    assert torch.equal(*terms)


def test_single_precision_paths_are_promoted() -> None:
    vae = chain(3)
    path = [z.float() for z in vae.encode(data(50), generator(0, "path"))]
    first = e1(vae, path)
    assert first.nats.dtype == torch.float64
    assert bool(((e5(vae, path).nats - first.nats).abs() <= 1e-10 * first.magnitude).all())
    assert vae.encode(data(3).float(), generator(0, "p"))[0].dtype == torch.float64


def test_draws_in_any_form_have_one_mean() -> None:
    vae, x = chain(2), data(300)
    means = [estimate_mean(draw_form(form, vae, x, generator(k, "draw"), 4).mean(0)) for k, form in enumerate(FORMS)]
    spread = max(m.value for m in means) - min(m.value for m in means)
    assert spread < 6 * max(m.stderr for m in means)
    same = draw_form(e1, vae, x[:5], Streams(0, "s", range(5)))
    alone = draw_form(e1, vae, x[2:3], Streams(0, "s", [2]))
    torch.testing.assert_close(same[:, 2], alone[:, 0])
    with pytest.raises(ValueError, match="draws=0 must be at least 1"):
        draw_form(e1, vae, x, generator(0, "none"), 0)


def test_an_encoder_without_marginals_says_which_forms_remain() -> None:
    vae = HierarchicalVAE([FixedStep(2, 0.8)], [LearnedStep(2, 2, 0.8)])
    assert not isinstance(vae, TractableEncoder)
    path = vae.encode(data(3), generator(0, "h"))
    torch.testing.assert_close(e1(vae, path).nats, e3(vae, path).nats)
    for form in (e4, e5, e6):
        with pytest.raises(
            ValueError, match=rf"{form.__name__.upper()} needs .* no `marginal` and `posterior`: use E1"
        ):
            form(vae, path)


def test_paths_of_another_length_are_refused() -> None:
    vae = chain(3)
    path = vae.encode(data(3), generator(0, "short"))[:-1]
    for form in FORMS:
        with pytest.raises(ValueError, match="a path of 3 latents: a chain of 3 levels has 4"):
            form(vae, path)


def test_divergences_without_a_closed_form_are_refused() -> None:
    point = torch.zeros(1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="Gaussian ‖ FullGaussian"):
        divergence(Gaussian(point, torch.ones(1)), FullGaussian(point, torch.eye(1)))
