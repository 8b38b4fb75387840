"""Each statement holds as it stands, and breaks when one per cent is planted in what it is about."""

from dataclasses import replace

import pytest
import torch

from markovae.diffusion.forms import Form, e2, e3, e4, e5
from markovae.diffusion.gaussian import FullGaussian
from markovae.theory import chain_statements as statements
from markovae.theory.categorical import CategoricalChain, absorbing_transition, uniform_transition
from markovae.theory.linear import LinearStep

EXACT = [
    statements.sixth_form_over_letters,
    statements.sixth_form_over_vectors,
    statements.encoder_is_markov,
    statements.exact_letters_reach_the_entropy,
    statements.exact_vectors_reach_the_entropy,
    statements.letters_exceed_by_the_path_kl,
    statements.vectors_exceed_by_the_path_kl,
]


def holds(pair: tuple[float, float], tolerance: float = 1e-10) -> bool:
    expected, measured = pair
    return abs(measured - expected) <= tolerance * (1 + abs(expected))


@pytest.mark.parametrize("statement", EXACT, ids=lambda s: s.__name__)
def test_statements_hold_to_rounding(statement) -> None:
    assert holds(statement())


@pytest.mark.parametrize("form", [e2, e3, e4, e5])
@pytest.mark.parametrize("planted", [1.0, 1.01])
def test_forms_agree_unless_one_of_their_terms_is_off_by_a_per_cent(form, planted: float) -> None:
    def off(vae, path) -> Form:
        terms = form(vae, path).terms.clone()
        terms[:, 1] *= planted
        return Form(terms)

    assert holds(statements.form_agrees(off)) == (planted == 1.0)


@pytest.mark.parametrize("transition", [uniform_transition, absorbing_transition])
def test_both_transitions_are_covered(transition) -> None:
    assert holds(statements.exact_letters_reach_the_entropy(transition))
    assert holds(statements.letters_exceed_by_the_path_kl(transition))


def test_generated_data_are_the_data() -> None:
    assert statements.exact_prior_generates_the_data()[1] < 4


def test_a_wrong_posterior_breaks_what_rests_on_bayes(monkeypatch: pytest.MonkeyPatch) -> None:
    right = statements.LinearGaussianChain.posterior_step

    def off(self, level: int):
        matrix, back = right(self, level)
        return 1.01 * matrix, back

    monkeypatch.setattr(statements.LinearGaussianChain, "posterior_step", off)
    assert not holds(statements.form_agrees(e5))
    assert not holds(statements.sixth_form_over_vectors())
    assert not holds(statements.exact_vectors_reach_the_entropy())
    assert not holds(statements.vectors_exceed_by_the_path_kl())


def test_a_wrong_reverse_chain_breaks_the_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    right = LinearStep.reverse

    def off(self, law) -> LinearStep:
        step = right(self, law)
        return replace(step, covariance=1.01 * step.covariance)

    monkeypatch.setattr(LinearStep, "reverse", off)
    assert not holds(statements.exact_vectors_reach_the_entropy())


def test_a_wrong_marginal_of_letters_breaks_the_sixth_form(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(self, x: torch.Tensor, level: int):
        rows = 1.01 * self.transitions[level - 1] + 0.01
        return statements.letter_chain(exact=True).prior_top(len(x)).__class__((rows / rows.sum(-1, keepdim=True))[x])

    monkeypatch.setattr(CategoricalChain, "marginal", off)
    assert not holds(statements.sixth_form_over_letters())
    assert not holds(statements.form_agrees(e4))


def test_an_encoder_that_remembers_the_data_is_not_markov(monkeypatch: pytest.MonkeyPatch) -> None:
    right = statements.encoder_given_data

    def off(vae, x, z, level):
        law = right(vae, x, z, level)
        return FullGaussian(1.01 * law.mean, law.covariance)

    monkeypatch.setattr(statements, "encoder_given_data", off)
    assert not holds(statements.encoder_is_markov())
