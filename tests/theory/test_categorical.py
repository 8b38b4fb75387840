"""Everything about a small alphabet can be written out: these equalities hold to rounding, with no sampling."""

import math

import pytest
import torch

from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.forms import FORMS, e1, e5, e6
from markovae.randomness import Streams, generator
from markovae.theory.categorical import (
    Categorical,
    CategoricalChain,
    absorbing_transition,
    categorical_entropy,
    cumulative,
    exact_categorical,
    uniform_transition,
)

DATA = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
UNIFORM = torch.stack([uniform_transition(4, rate) for rate in (0.2, 0.4, 0.6, 0.9)])
ABSORBING = torch.stack([absorbing_transition(4, rate) for rate in (0.2, 0.4, 0.6, 0.9)])
TO_THE_END = torch.stack([absorbing_transition(4, rate) for rate in (0.3, 1.0)])
kinds = pytest.mark.parametrize("transitions", [UNIFORM, ABSORBING, TO_THE_END], ids=["uniform", "absorbing", "whole"])


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    draws = torch.rand(shape, generator=generator(seed, "rows"), dtype=torch.float64) + 0.05
    return draws / draws.sum(-1, keepdim=True)


def other_prior(transitions: torch.Tensor, seed: int = 0) -> CategoricalChain:
    return CategoricalChain(transitions, rows(4, seed=seed), rows(len(transitions), 4, 4, seed=seed + 1))


def expected(chain: CategoricalChain, data: torch.Tensor = DATA) -> list[float]:
    path, weight = chain.paths(data)
    return [float((weight * form(chain, path).nats).sum()) for form in FORMS]


@kinds
def test_with_the_exact_reverse_every_form_is_the_entropy(transitions: torch.Tensor) -> None:
    chain = exact_categorical(DATA, transitions)
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert categorical_entropy(DATA) == pytest.approx(entropy, abs=1e-14)
    for value in expected(chain):
        assert value == pytest.approx(entropy, abs=1e-12)
    assert chain.path_kl(DATA) == pytest.approx(0, abs=1e-14)


@kinds
def test_with_the_exact_reverse_every_path_gives_minus_log_p_of_its_data(transitions: torch.Tensor) -> None:
    chain = exact_categorical(DATA, transitions)
    path, _ = chain.paths(DATA)
    torch.testing.assert_close(e1(chain, path).nats, -DATA[path[0]].log(), rtol=0, atol=1e-12)


@kinds
def test_along_every_path_the_first_five_forms_agree(transitions: torch.Tensor) -> None:
    chain = other_prior(transitions)
    path, weight = chain.paths(DATA)
    assert float(weight.sum()) == pytest.approx(1, abs=1e-13)
    forms = [form(chain, path) for form in FORMS[:5]]
    for form in forms[1:]:
        assert bool(((form.nats - forms[0].nats).abs() <= 1e-10 * forms[0].magnitude).all())


def test_the_sixth_form_differs_along_a_path_and_agrees_term_by_term_on_average() -> None:
    chain = other_prior(UNIFORM)
    path, weight = chain.paths(DATA)
    fifth, sixth = e5(chain, path).terms, e6(chain, path).terms
    assert float((fifth - sixth).abs().max()) > 0.1
    torch.testing.assert_close(weight @ fifth, weight @ sixth, rtol=1e-12, atol=1e-12)


def test_the_bound_by_sampling_meets_the_bound_by_enumeration() -> None:
    chain = other_prior(ABSORBING)
    x = Categorical(DATA.expand(8000, 4)).sample(generator(0, "x"))
    drawn = estimate_mean(e1(chain, chain.encode(x, generator(0, "path"))).nats)
    assert abs(drawn.value - expected(chain)[0]) < 4 * drawn.stderr


def test_marginals_and_posteriors_are_those_of_the_enumerated_joint() -> None:
    chain = other_prior(UNIFORM[:3])
    joint = torch.einsum("ij,jk,kl->ijkl", *UNIFORM[:3])
    x = torch.arange(4)
    torch.testing.assert_close(chain.marginal(x, 3).probability, joint.sum((1, 2)))
    conditional = joint.sum(1)[0]  # z_0 = 0: (z_2, z_3)
    z = torch.arange(4)
    got = chain.posterior(torch.zeros(4, dtype=torch.int64), z, 3).probability
    torch.testing.assert_close(got, (conditional / conditional.sum(0)).T)
    assert torch.equal(cumulative(UNIFORM, 0), torch.eye(4, dtype=torch.float64))


def test_transitions_do_what_their_names_say() -> None:
    step = uniform_transition(5, 0.4)
    assert step.diagonal().tolist() == pytest.approx([0.68] * 5)
    assert float(step[0, 1]) == pytest.approx(0.08)
    absorbing = absorbing_transition(3, 0.4)
    assert absorbing.tolist() == [[0.6, 0.0, 0.4], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]]


def test_letters_of_probability_zero_are_never_drawn_and_the_rest_by_their_share() -> None:
    distribution = torch.tensor([0.0, 0.7, 0.0, 0.3, 0.0], dtype=torch.float64)
    drawn = Categorical(distribution.expand(8000, 5)).sample(Streams(0, "letters", range(8000)))
    counts = torch.bincount(drawn, minlength=5) / 8000
    assert counts[[0, 2, 4]].tolist() == [0, 0, 0]
    assert abs(float(counts[1]) - 0.7) < 4 * (0.21 / 8000) ** 0.5


def test_a_divergence_is_infinite_where_the_prior_excludes_a_letter() -> None:
    half, one = torch.tensor([[0.5, 0.5]]).double(), torch.tensor([[1.0, 0.0]]).double()
    assert float(Categorical(half).kl(Categorical(one))) == math.inf
    assert float(Categorical(one).kl(Categorical(half))) == pytest.approx(math.log(2))


def test_what_is_no_chain_is_refused() -> None:
    good, top = rows(2, 3, 3), rows(3)
    with pytest.raises(ValueError, match="both chains have the same levels and letters"):
        CategoricalChain(good, top, rows(3, 3, 3))
    with pytest.raises(ValueError, match="both chains have the same levels and letters"):
        CategoricalChain(good, rows(4), good)
    with pytest.raises(ValueError, match="L at least 1"):
        CategoricalChain(good[:0], top, good[:0])
    for place in range(3):
        parts = [good, top, good]
        parts[place] = parts[place] * 1.001
        with pytest.raises(ValueError, match=r"sum to one only within 0.001: they must be >= 0 and sum to 1"):
            CategoricalChain(*parts)
    with pytest.raises(ValueError, match=">= 0"):
        Categorical(torch.tensor([[1.5, -0.5]]))
    with pytest.raises(ValueError, match="only within nan"):
        Categorical(torch.tensor([[torch.nan, 1.0]]))
    with pytest.raises(ValueError, match=r"data over \(4,\) letters: this chain has 3"):
        CategoricalChain(good, top, good).paths(DATA)
    with pytest.raises(ValueError, match="cannot be reached"):
        exact_categorical(DATA, ABSORBING).posterior(torch.tensor([0]), torch.tensor([1]), 2)
    long = exact_categorical(DATA, torch.stack([uniform_transition(4, 0.1)] * 11))
    with pytest.raises(ValueError, match="more than 4194304 paths"):
        long.paths(DATA)
    for wrong in ((1, 0.5), (3, 1.5), (3, math.nan)):
        with pytest.raises(ValueError, match=r"letters=1|rate="):
            absorbing_transition(*wrong)


def test_single_precision_is_promoted_and_scaled() -> None:
    """Thirds in float32 miss one by 3e-8: they become float64 that sums to one to the last digit."""
    rough = rows(2, 3, 3).float()
    chain = CategoricalChain(rough, torch.ones(3) / 3, rough)
    for part in (chain.transitions, chain.top, chain.reverse):
        assert part.dtype == torch.float64
        torch.testing.assert_close(part.sum(-1), torch.ones_like(part.sum(-1)), rtol=0, atol=1e-15)
    data = torch.ones(3) / 3
    exact = exact_categorical(data, rough)
    path, weight = exact.paths(data)
    bound = float((weight * e1(exact, path).nats).sum())
    assert bound == pytest.approx(categorical_entropy(data), abs=1e-12)


def test_letters_and_levels_that_do_not_exist_are_refused() -> None:
    chain = CategoricalChain(rows(2, 3, 3), rows(3), rows(2, 3, 3))
    z = torch.tensor([0, 2])
    for bad in (torch.tensor([0, 3]), torch.tensor([-1, 0])):
        with pytest.raises(ValueError, match=r"letters .* must lie in 0…2"):
            chain.encoder_step(bad, 1)
    with pytest.raises(ValueError, match="must be integers"):
        chain.prior_step(torch.tensor([0.0, 1.0]), 1)
    for level in (0, 3):
        for step in (chain.encoder_step, chain.prior_step, chain.marginal):
            with pytest.raises(ValueError, match=rf"level={level} must lie in 1…2"):
                step(z, level)
    with pytest.raises(ValueError, match="level=1 must lie in 2…2"):
        chain.posterior(z, z, 1)
    with pytest.raises(ValueError, match=r"must be .* with K=4"):
        exact_categorical(torch.full((4,), 0.25), rows(2, 3, 3))


def test_letters_in_bytes_are_letters() -> None:
    chain = exact_categorical(DATA, torch.stack([uniform_transition(4, 0.4)] * 2))
    for letters in ([1, 1], [1, 0]):
        bytes_, wide = (torch.tensor(letters, dtype=kind) for kind in (torch.uint8, torch.int64))
        assert torch.equal(chain.encoder_step(bytes_, 1).probability, chain.encoder_step(wide, 1).probability)
        assert torch.equal(chain.posterior(bytes_, bytes_, 2).probability, chain.posterior(wide, wide, 2).probability)
