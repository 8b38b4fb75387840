r"""The statements about the Markovian VAE as numbers: each function returns (expected, measured).

Small and without training; a check and a test call the same function. Where the expected number is 0 the measured
one is a largest difference, relative to what is added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from markovae.diffusion.forms import Form, Path, e1, e6, encoder_given_data
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
from markovae.theory.linear import (
    LinearGaussianChain,
    LinearStep,
    Moments,
    exact_linear,
    expected_e1,
    expected_e6,
    path_kl,
)

Pair = tuple[float, float]
RATES = (0.2, 0.4, 0.6, 0.9)


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


# -- the six forms ---------------------------------------------------------------------------------------------


def form_agrees(form: Callable[[MarkovianVAE, Path], Form]) -> Pair:
    """E2 … E5 against E1 along sampled paths of both chains: the largest |difference|/(1 + Σ|terms|) is 0."""
    return 0.0, max(_disagreement(form, *_letter_paths()), _disagreement(form, *_vector_paths()))


def sixth_form_over_letters() -> Pair:
    """E[E1] and E[E6] by enumeration of every path."""
    chain = letter_chain(exact=False)
    path, weight = chain.paths(letters())
    return float(weight @ e1(chain, path).nats), float(weight @ e6(chain, path).nats)


def sixth_form_over_vectors() -> Pair:
    """E[E1] and E[E6] in closed form."""
    chain = vector_chain(exact=False)
    return expected_e1(chain, vectors()), float(expected_e6(chain, vectors()).total)


def encoder_is_markov() -> Pair:
    """E3: P(z_2|z_1, z_0), by conditioning the joint Gaussian, against P(z_2|z_1): the largest difference is 0."""
    chain, law = vector_chain(exact=False), vectors()
    first, second = chain.encoder[:2]
    both = torch.cat([torch.eye(3, dtype=torch.float64), first.matrix])
    known = both @ law.covariance @ both.T
    known[3:, 3:] += first.covariance
    cross = second.matrix @ known[3:]
    regression = torch.linalg.solve(known, cross.T).T
    given = encoder_given_data(chain, torch.zeros(3, 3), torch.eye(3, dtype=torch.float64), 2)
    assert isinstance(given, FullGaussian)
    slope = (given.mean - second.offset).T
    left = second.matrix @ known[3:, 3:] @ second.matrix.T + second.covariance - regression @ cross.T
    differences = (regression[:, :3], regression[:, 3:] - slope, left - given.covariance)
    return 0.0, max(float(difference.abs().max()) for difference in differences)


# -- the bound and H(z_0) --------------------------------------------------------------------------------------


def exact_letters_reach_the_entropy(transition: Callable[[int, float], Tensor] = absorbing_transition) -> Pair:
    """With the true reverse chain the bound is H(z_0), by enumeration."""
    chain = letter_chain(transition, exact=True)
    path, weight = chain.paths(letters())
    return categorical_entropy(letters()), float(weight @ e6(chain, path).nats)


def exact_vectors_reach_the_entropy() -> Pair:
    """With the true reverse chain the bound is H(z_0), in closed form."""
    return vectors().entropy(), float(expected_e6(vector_chain(exact=True), vectors()).total)


def letters_exceed_by_the_path_kl(transition: Callable[[int, float], Tensor] = uniform_transition) -> Pair:
    """With another prior: the divergence of the paths, and the bound less H(z_0)."""
    chain = letter_chain(transition, exact=False)
    path, weight = chain.paths(letters())
    return chain.path_kl(letters()), float(weight @ e6(chain, path).nats) - categorical_entropy(letters())


def vectors_exceed_by_the_path_kl() -> Pair:
    """With another prior: the divergence of the paths, and the bound less H(z_0)."""
    chain = vector_chain(exact=False)
    return path_kl(chain, vectors()), float(expected_e6(chain, vectors()).total) - vectors().entropy()


def exact_prior_generates_the_data(seed: int = 0, count: int = 20_000) -> Pair:
    """Ancestral sampling of the true reverse chain: the largest miss of a mean, in standard errors, below 4."""
    law = vectors()
    drawn = vector_chain(exact=True).generate(count, generator(seed, "generate"))
    miss = (drawn.mean(0) - law.mean).abs() / (law.covariance.diagonal() / count).sqrt()
    return 0.0, float(miss.max())


def _letter_paths() -> tuple[MarkovianVAE, Path]:
    chain = letter_chain(exact=False)
    return chain, chain.paths(letters())[0]


def _vector_paths() -> tuple[MarkovianVAE, Path]:
    chain, g = vector_chain(exact=False), generator(0, "paths")
    return chain, chain.encode(vectors().batch(200).sample(g), g)


def _disagreement(form: Callable[[MarkovianVAE, Path], Form], vae: MarkovianVAE, path: Path) -> float:
    other, first = form(vae, path), e1(vae, path)
    return float(((other.nats - first.nats).abs() / torch.maximum(other.magnitude, first.magnitude)).max())


def _moments(d: int, g: torch.Generator) -> Moments:
    root = torch.randn(d, d + 1, generator=g, dtype=torch.float64) / math.sqrt(d)
    return Moments(root[:, 0], root[:, 1:] @ root[:, 1:].T + 0.1 * torch.eye(d, dtype=torch.float64))


def _step(d_in: int, d_out: int, g: torch.Generator) -> LinearStep:
    noise = _moments(d_out, g)
    matrix = 0.6 * torch.randn(d_out, d_in, generator=g, dtype=torch.float64)
    return LinearStep(matrix, noise.mean, noise.covariance)
