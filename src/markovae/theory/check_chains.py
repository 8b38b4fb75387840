"""The Markovian VAE and the six forms of its bound: enumerated, in closed form, and along sampled paths."""

from __future__ import annotations

import torch
from torch import Tensor

from markovae.diffusion.bound import Bound
from markovae.diffusion.forms import e1, e2, e3, e4, e5, e6
from markovae.randomness import generator
from markovae.theory import chain_statements as claims
from markovae.theory.categorical import CategoricalChain, absorbing_transition
from markovae.theory.hierarchical import HierarchicalVAE, LearnedStep
from markovae.theory.linear import expected_e6
from markovae.theory.rows import ELBO, REWRITING, VAE, Pair, single

_ROUNDING = 1e-10


def generated_covariance(count: int = 400_000) -> Pair:
    """tr S⁻¹ Cov of what the exact prior generates against d = 3, in standard errors √(2d/n): below 4."""
    law = claims.vectors()
    drawn = claims.vector_chain(exact=True).generate(count, generator(0, "generate"))
    offset = drawn - law.mean
    trace = float(torch.linalg.solve(law.covariance, offset.T @ offset / count).trace())
    return 0.0, abs(trace - 3) / (2 * 3 / count) ** 0.5


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


def ratio_of_joints() -> Pair:
    """E1 against −ln of the quotient of two products of table entries, over every path of letters."""
    chain = claims.letter_chain(exact=False)
    path, _ = chain.paths(claims.letters())
    prior, encoder = chain.top[path[-1]], torch.ones_like(chain.top[path[-1]])
    for level in range(1, chain.num_levels + 1):
        prior = prior * chain.reverse[level - 1][path[level], path[level - 1]]
        encoder = encoder * chain.transitions[level - 1][path[level - 1], path[level]]
    return 0.0, float((e1(chain, path).nats + (prior / encoder).log()).abs().max())


def bayes_over_letters() -> Pair:
    """Q(z_ℓ|z_{ℓ−1}) P(z_{ℓ−1}|z_0) = P(z_{ℓ−1}|z_ℓ,z_0) P(z_ℓ|z_0) for all letters, ℓ ≥ 2: largest difference 0."""
    chain, worst = claims.letter_chain(exact=False), 0.0
    x, before, z = (part.flatten() for part in torch.meshgrid([torch.arange(4)] * 3, indexing="ij"))
    for level in range(2, chain.num_levels + 1):
        left = chain.encoder_step(before, level).log_prob(z) + chain.marginal(x, level - 1).log_prob(before)
        right = chain.posterior(x, z, level).log_prob(before) + chain.marginal(x, level).log_prob(z)
        worst = max(worst, float((left.exp() - right.exp()).abs().max()))
    return 0.0, worst


def absorbed_letters() -> Pair:
    """E6 and E[E1] over the absorbing chain, by enumeration."""
    return _averages(claims.letter_chain(absorbing_transition, exact=False), claims.letters())


def fifth_over_letters() -> Pair:
    """E[E5] and E[E6] over the uniform chain, by enumeration."""
    chain = claims.letter_chain(exact=False)
    path, weight = chain.paths(claims.letters())
    return float(weight @ e5(chain, path).nats), float(weight @ e6(chain, path).nats)


def bits_are_nats_over_dims() -> Pair:
    """A bound in bits/dim: nats/(d ln 2)."""
    bound = expected_e6(claims.vector_chain(exact=False), claims.vectors())
    digits = Bound(bound.prior, bound.levels, bound.reconstruction, bound.dims)
    nats = float(bound.prior + bound.levels.sum() + bound.reconstruction)
    return nats / (3 * 0.6931471805599453), digits.bits_per_dim().value


def _averages(chain: CategoricalChain, data: Tensor) -> Pair:
    path, weight = chain.paths(data)
    return float(weight @ e1(chain, path).nats), float(weight @ e6(chain, path).nats)


CHECKS = (
    single(
        VAE,
        "generate.mean",
        "the exact prior generates the data: means within 4 standard errors",
        4.0,
        lambda: claims.exact_prior_generates_the_data(count=400_000),
    ),
    single(
        VAE,
        "generate.covariance",
        "the exact prior generates the data: covariance within 4 standard errors",
        4.0,
        generated_covariance,
    ),
    single(VAE, "learned-encoder", "E1 = E2 = E3 with a learned encoder", _ROUNDING, learned_encoder),
    single(ELBO, "e1", "E1 = −ln [ p_pri(z_0…z_L) / p_enc(z_1…z_L|z_0) ]", _ROUNDING, ratio_of_joints),
    single(ELBO, "e2", "E2 = E1 along one path: the log of a ratio", _ROUNDING, lambda: claims.form_agrees(e2)),
    single(
        ELBO,
        "bound.letters",
        "bound − H(z_0) = KL of the paths (uniform transitions)",
        _ROUNDING,
        claims.letters_exceed_by_the_path_kl,
    ),
    single(
        ELBO,
        "bound.absorbing",
        "bound − H(z_0) = KL of the paths (absorbing transitions)",
        _ROUNDING,
        lambda: claims.letters_exceed_by_the_path_kl(absorbing_transition),
    ),
    single(
        ELBO,
        "bound.vectors",
        "bound − H(z_0) = KL of the paths (linear Gaussian)",
        1e-9,
        claims.vectors_exceed_by_the_path_kl,
    ),
    single(
        ELBO,
        "exact.letters",
        "with the exact reverse chain the bound is H(z_0) (letters)",
        _ROUNDING,
        claims.exact_letters_reach_the_entropy,
    ),
    single(
        ELBO,
        "exact.vectors",
        "with the exact reverse chain the bound is H(z_0) (linear Gaussian)",
        _ROUNDING,
        claims.exact_vectors_reach_the_entropy,
    ),
    single(ELBO, "bits", "bits/dim = nats / (d ln 2)", _ROUNDING, bits_are_nats_over_dims),
    single(
        REWRITING,
        "markov",
        "p_enc(z_ℓ|z_{ℓ−1},z_0) = p_enc(z_ℓ|z_{ℓ−1})",
        _ROUNDING,
        claims.encoder_is_markov,
    ),
    single(REWRITING, "e3", "E3 = E1 along one path", _ROUNDING, lambda: claims.form_agrees(e3)),
    single(
        REWRITING,
        "bayes.letters",
        "p_enc(z_ℓ|z_{ℓ−1},z_0) p_enc(z_{ℓ−1}|z_0) = p_enc(z_{ℓ−1}|z_ℓ,z_0) p_enc(z_ℓ|z_0), ℓ ≥ 2",
        _ROUNDING,
        bayes_over_letters,
    ),
    single(REWRITING, "e4", "E4 = E1 along one path", _ROUNDING, lambda: claims.form_agrees(e4)),
    single(REWRITING, "e5", "E5 = E1 along one path", _ROUNDING, lambda: claims.form_agrees(e5)),
    single(REWRITING, "e5.mean", "E[E6] = E[E5] (letters)", _ROUNDING, fifth_over_letters),
    single(REWRITING, "e6.letters", "E[E6] = E[E1] (uniform)", _ROUNDING, claims.sixth_form_over_letters),
    single(REWRITING, "e6.absorbing", "E[E6] = E[E1] (absorbing)", _ROUNDING, absorbed_letters),
    single(REWRITING, "e6.vectors", "E[E6] = E[E1] (linear Gaussian)", 1e-9, claims.sixth_form_over_vectors),
)
