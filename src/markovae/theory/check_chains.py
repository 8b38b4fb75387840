"""The Markovian VAE and the six forms of its bound: enumerated, in closed form, and along sampled paths."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from markovae.diffusion.bound import Bound
from markovae.diffusion.forms import Form, Path, e1, e2, e3, e4, e5, e6, encoder_given_data
from markovae.diffusion.gaussian import FullGaussian
from markovae.diffusion.markovian_vae import MarkovianVAE
from markovae.randomness import generator
from markovae.theory.categorical import (
    CategoricalChain,
    absorbing_transition,
    categorical_entropy,
    exact_categorical,
    uniform_transition,
)
from markovae.theory.hierarchical import HierarchicalVAE, LearnedStep
from markovae.theory.linear import (
    LinearGaussianChain,
    LinearStep,
    Moments,
    exact_linear,
    expected_e1,
    expected_e6,
    path_kl,
)
from markovae.theory.rows import ELBO, REWRITING, VAE, Pair, row

RATES = (0.2, 0.4, 0.6, 0.9)
_ROUNDING = 1e-10


def letters() -> Tensor:
    """p(z_0) over four letters, the last of which is never data."""
    return torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)


def letter_chain(transition: Callable[[int, float], Tensor] = uniform_transition, *, exact: bool) -> CategoricalChain:
    """Four steps over four letters; the prior is the true reverse, or has nothing to do with the encoder."""
    transitions = torch.stack([transition(4, rate) for rate in RATES])
    if exact:
        return exact_categorical(letters(), transitions)
    rows = 0.05 + torch.rand(5, 4, 4, generator=generator(0, "letters"), dtype=torch.float64)
    rows = rows / rows.sum(-1, keepdim=True)
    return CategoricalChain(transitions, rows[0, 0], rows[1:])


def vectors() -> Moments:
    """Correlated Gaussian data in three dimensions."""
    return _moments(3, generator(0, "vectors"))


def vector_chain(*, exact: bool) -> LinearGaussianChain:
    """Linear steps between 3, 3, 2 and 4 dimensions; the prior as in `letter_chain`."""
    g = generator(0, "chain")
    sizes = ((3, 3), (3, 2), (2, 4))
    encoder = [_step(before, after, g) for before, after in sizes]
    if exact:
        return exact_linear(vectors(), encoder)
    return LinearGaussianChain(encoder, _moments(4, g), [_step(after, before, g) for before, after in sizes])


def _moments(d: int, g: torch.Generator) -> Moments:
    root = torch.randn(d, d + 1, generator=g, dtype=torch.float64) / math.sqrt(d)
    return Moments(root[:, 0], root[:, 1:] @ root[:, 1:].T + 0.1 * torch.eye(d, dtype=torch.float64))


def _step(d_in: int, d_out: int, g: torch.Generator) -> LinearStep:
    noise = _moments(d_out, g)
    matrix = 0.6 * torch.randn(d_out, d_in, generator=g, dtype=torch.float64)
    return LinearStep(matrix, noise.mean, noise.covariance)


def _letter_paths() -> tuple[MarkovianVAE, Path]:
    chain = letter_chain(exact=False)
    return chain, chain.paths(letters())[0]


def _vector_paths() -> tuple[MarkovianVAE, Path]:
    chain, g = vector_chain(exact=False), generator(0, "paths")
    return chain, chain.encode(vectors().batch(200).sample(g), g)


@row(VAE, "generate.mean", "the exact prior generates the data: means within 4 standard errors", 4.0)
def exact_prior_generates_the_data(seed: int = 0, count: int = 400_000) -> Pair:
    """Ancestral sampling of the true reverse chain: the largest miss of a mean, in standard errors, below 4."""
    distribution = vectors()
    drawn = vector_chain(exact=True).generate(count, generator(seed, "generate"))
    miss = (drawn.mean(0) - distribution.mean).abs() / (distribution.covariance.diagonal() / count).sqrt()
    return 0.0, float(miss.max())


@row(VAE, "generate.covariance", "the exact prior generates the data: covariance within 4 standard errors", 4.0)
def generated_covariance(count: int = 400_000) -> Pair:
    """tr S⁻¹ Cov of what the exact prior generates against d = 3, in standard errors √(2d/n): below 4."""
    distribution = vectors()
    drawn = vector_chain(exact=True).generate(count, generator(0, "generate"))
    offset = drawn - distribution.mean
    trace = float(torch.linalg.solve(distribution.covariance, offset.T @ offset / count).trace())
    return 0.0, abs(trace - 3) / (2 * 3 / count) ** 0.5


@row(VAE, "learned-encoder", "E1 = E2 = E3 with a learned encoder", _ROUNDING)
def learned_encoder() -> Pair:
    """E2 and E3 against E1 where encoder and prior are learned networks: the largest relative difference is 0."""
    g = generator(0, "learned encoder")
    chain = HierarchicalVAE(*([LearnedStep(2, 2, 0.8, 16) for _ in range(3)] for _ in range(2)))
    for parameter in chain.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=g, dtype=torch.float64)
    path = chain.encode(torch.randn(50, 2, generator=g, dtype=torch.float64), g)
    first = e1(chain, path)
    others = torch.stack([form(chain, path).nats for form in (e2, e3)])
    return 0.0, float(((others - first.nats).abs() / first.magnitude).detach().max())


@row(ELBO, "e1", "E1 = −ln [ p_pri(z_0…z_L) / p_enc(z_1…z_L|z_0) ]", _ROUNDING)
def ratio_of_joints() -> Pair:
    """E1 against −ln of the quotient of two products of table entries, over every path of letters."""
    chain = letter_chain(exact=False)
    path, _ = chain.paths(letters())
    prior, encoder = chain.top[path[-1]], torch.ones_like(chain.top[path[-1]])
    for level in range(1, chain.num_levels + 1):
        prior = prior * chain.reverse[level - 1][path[level], path[level - 1]]
        encoder = encoder * chain.transitions[level - 1][path[level - 1], path[level]]
    return 0.0, float((e1(chain, path).nats + (prior / encoder).log()).abs().max())


def form_agrees(form: Callable[[MarkovianVAE, Path], Form]) -> Pair:
    """E2 … E5 against E1 along sampled paths of both chains: the largest |difference|/(1 + Σ|terms|) is 0."""
    return 0.0, max(_disagreement(form, *_letter_paths()), _disagreement(form, *_vector_paths()))


def _disagreement(form: Callable[[MarkovianVAE, Path], Form], vae: MarkovianVAE, path: Path) -> float:
    other, first = form(vae, path), e1(vae, path)
    return float(((other.nats - first.nats).abs() / torch.maximum(other.magnitude, first.magnitude)).max())


def letters_exceed_by_the_path_kl(transition: Callable[[int, float], Tensor] = uniform_transition) -> Pair:
    """With another prior: the divergence of the paths, and the bound less H(z_0)."""
    chain = letter_chain(transition, exact=False)
    path, weight = chain.paths(letters())
    return chain.path_kl(letters()), float(weight @ e6(chain, path).nats) - categorical_entropy(letters())


@row(ELBO, "bound.vectors", "bound − H(z_0) = KL of the paths (linear Gaussian)", 1e-9)
def vectors_exceed_by_the_path_kl() -> Pair:
    """With another prior: the divergence of the paths, and the bound less H(z_0)."""
    chain = vector_chain(exact=False)
    return path_kl(chain, vectors()), float(expected_e6(chain, vectors()).total) - vectors().entropy()


@row(ELBO, "exact.letters", "with the exact reverse chain the bound is H(z_0) (letters)", _ROUNDING)
def exact_letters_reach_the_entropy(transition: Callable[[int, float], Tensor] = absorbing_transition) -> Pair:
    """With the true reverse chain the bound is H(z_0), by enumeration."""
    chain = letter_chain(transition, exact=True)
    path, weight = chain.paths(letters())
    return categorical_entropy(letters()), float(weight @ e6(chain, path).nats)


@row(ELBO, "exact.vectors", "with the exact reverse chain the bound is H(z_0) (linear Gaussian)", _ROUNDING)
def exact_vectors_reach_the_entropy() -> Pair:
    """With the true reverse chain the bound is H(z_0), in closed form."""
    return vectors().entropy(), float(expected_e6(vector_chain(exact=True), vectors()).total)


@row(ELBO, "bits", "bits/dim = nats / (d ln 2)", _ROUNDING)
def bits_are_nats_over_dims() -> Pair:
    """A bound in bits/dim: nats/(d ln 2)."""
    bound = expected_e6(vector_chain(exact=False), vectors())
    digits = Bound(bound.prior, bound.levels, bound.reconstruction, bound.dims)
    nats = float(bound.prior + bound.levels.sum() + bound.reconstruction)
    return nats / (3 * 0.6931471805599453), digits.bits_per_dim().value


@row(REWRITING, "markov", "p_enc(z_ℓ|z_{ℓ−1},z_0) = p_enc(z_ℓ|z_{ℓ−1})", _ROUNDING)
def encoder_is_markov() -> Pair:
    """E3: P(z_2|z_1, z_0), by conditioning the joint Gaussian, against P(z_2|z_1): the largest difference is 0."""
    chain, distribution = vector_chain(exact=False), vectors()
    first, second = chain.encoder[:2]
    both = torch.cat([torch.eye(3, dtype=torch.float64), first.matrix])
    known = both @ distribution.covariance @ both.T
    known[3:, 3:] += first.covariance
    cross = second.matrix @ known[3:]
    regression = torch.linalg.solve(known, cross.T).T
    given = encoder_given_data(chain, torch.zeros(3, 3), torch.eye(3, dtype=torch.float64), 2)
    assert isinstance(given, FullGaussian)
    slope = (given.mean - second.offset).T
    left = second.matrix @ known[3:, 3:] @ second.matrix.T + second.covariance - regression @ cross.T
    differences = (regression[:, :3], regression[:, 3:] - slope, left - given.covariance)
    return 0.0, max(float(difference.abs().max()) for difference in differences)


@row(
    REWRITING,
    "bayes.letters",
    "p_enc(z_ℓ|z_{ℓ−1},z_0) p_enc(z_{ℓ−1}|z_0) = p_enc(z_{ℓ−1}|z_ℓ,z_0) p_enc(z_ℓ|z_0), ℓ ≥ 2",
    _ROUNDING,
)
def bayes_over_letters() -> Pair:
    """Q(z_ℓ|z_{ℓ−1}) P(z_{ℓ−1}|z_0) = P(z_{ℓ−1}|z_ℓ,z_0) P(z_ℓ|z_0) for all letters, ℓ ≥ 2: largest difference 0."""
    chain, worst = letter_chain(exact=False), 0.0
    x, before, z = (part.flatten() for part in torch.meshgrid([torch.arange(4)] * 3, indexing="ij"))
    for level in range(2, chain.num_levels + 1):
        left = chain.encoder_step(before, level).log_prob(z) + chain.marginal(x, level - 1).log_prob(before)
        right = chain.posterior(x, z, level).log_prob(before) + chain.marginal(x, level).log_prob(z)
        worst = max(worst, float((left.exp() - right.exp()).abs().max()))
    return 0.0, worst


@row(REWRITING, "e5.mean", "E[E6] = E[E5] (letters)", _ROUNDING)
def fifth_over_letters() -> Pair:
    """E[E5] and E[E6] over the uniform chain, by enumeration."""
    chain = letter_chain(exact=False)
    path, weight = chain.paths(letters())
    return float(weight @ e5(chain, path).nats), float(weight @ e6(chain, path).nats)


@row(REWRITING, "e6.letters", "E[E6] = E[E1] (uniform)", _ROUNDING)
def sixth_form_over_letters() -> Pair:
    """E[E1] and E[E6] by enumeration of every path."""
    chain = letter_chain(exact=False)
    path, weight = chain.paths(letters())
    return float(weight @ e1(chain, path).nats), float(weight @ e6(chain, path).nats)


@row(REWRITING, "e6.absorbing", "E[E6] = E[E1] (absorbing)", _ROUNDING)
def absorbed_letters() -> Pair:
    """E6 and E[E1] over the absorbing chain, by enumeration."""
    return _averages(letter_chain(absorbing_transition, exact=False), letters())


def _averages(chain: CategoricalChain, data: Tensor) -> Pair:
    path, weight = chain.paths(data)
    return float(weight @ e1(chain, path).nats), float(weight @ e6(chain, path).nats)


@row(REWRITING, "e6.vectors", "E[E6] = E[E1] (linear Gaussian)", 1e-9)
def sixth_form_over_vectors() -> Pair:
    """E[E1] and E[E6] in closed form."""
    chain = vector_chain(exact=False)
    return expected_e1(chain, vectors()), float(expected_e6(chain, vectors()).total)


CHECKS = (
    exact_prior_generates_the_data,
    generated_covariance,
    learned_encoder,
    ratio_of_joints,
    row(ELBO, "e2", "E2 = E1 along one path: the log of a ratio", _ROUNDING)(lambda: form_agrees(e2)),
    row(
        ELBO,
        "bound.letters",
        "bound − H(z_0) = KL of the paths (uniform transitions)",
        _ROUNDING,
    )(lambda: letters_exceed_by_the_path_kl(uniform_transition)),
    row(ELBO, "bound.absorbing", "bound − H(z_0) = KL of the paths (absorbing transitions)", _ROUNDING)(
        lambda: letters_exceed_by_the_path_kl(absorbing_transition)
    ),
    vectors_exceed_by_the_path_kl,
    exact_letters_reach_the_entropy,
    exact_vectors_reach_the_entropy,
    bits_are_nats_over_dims,
    encoder_is_markov,
    row(REWRITING, "e3", "E3 = E1 along one path", _ROUNDING)(lambda: form_agrees(e3)),
    bayes_over_letters,
    row(REWRITING, "e4", "E4 = E1 along one path", _ROUNDING)(lambda: form_agrees(e4)),
    row(REWRITING, "e5", "E5 = E1 along one path", _ROUNDING)(lambda: form_agrees(e5)),
    fifth_over_letters,
    sixth_form_over_letters,
    absorbed_letters,
    sixth_form_over_vectors,
)
