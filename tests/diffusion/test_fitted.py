"""The fitted variances: least expected KL, the closed form of it, and one table for every sub-grid."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.diffusion.forward import posterior_variance
from markovae.diffusion.reverse import (
    DiagonalVariance,
    ErrorTable,
    IndependentVariance,
    IsotropicVariance,
    PosteriorVariance,
)
from markovae.errors import UserError
from markovae.randomness import generator

KNOTS = torch.linspace(6, -6, 13, dtype=torch.float64)


class Fixed(IndependentVariance):
    """A variance times a factor, to look around an optimum."""

    def __init__(self, of: IndependentVariance, factor: float) -> None:
        super().__init__()
        self.of, self.factor = of, factor

    def variance(self, logsnr_prev, logsnr, head):
        return self.factor * self.of.variance(logsnr_prev, logsnr, head)


def draws(n: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Errors of unequal spread by coordinate, as data x around x̂ = 0."""
    spread = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    x = spread * torch.randn(n, 3, generator=generator(0, "fitted"), dtype=torch.float64)
    return x, torch.zeros_like(x)


def fitted(x: torch.Tensor) -> list[IndependentVariance]:
    isotropic, diagonal = IsotropicVariance(13), DiagonalVariance((3,), 13)
    isotropic.errors.fit(KNOTS, (x**2).mean().expand(13))
    diagonal.errors.fit(KNOTS, (x**2).mean(0).expand(13, 3))
    return [isotropic, diagonal]


@pytest.mark.parametrize("which", [0, 1])
@settings(max_examples=20, deadline=None)
@given(logsnr=st.floats(-5, 5), step=st.floats(0.01, 5))
def test_expected_kl_is_least(which, logsnr, step):
    x, x_hat = draws()
    now = torch.tensor(logsnr, dtype=torch.float64).expand(len(x))
    best = fitted(x)[which]
    nats = {f: float(Fixed(best, f).kl(x, x_hat, now + step, now).mean()) for f in (0.99, 1.0, 1.01)}
    assert nats[1.0] < nats[0.99]
    assert nats[1.0] < nats[1.01]


@settings(max_examples=30, deadline=None)
@given(logsnr=st.floats(-5, 5), step=st.floats(0.01, 5))
def test_expected_kl_in_closed_form(logsnr, step):
    x, x_hat = draws()
    now = torch.tensor(logsnr, dtype=torch.float64).expand(len(x))
    width = (now + step).exp() - now.exp()
    isotropic, diagonal = (float(v.kl(x, x_hat, now + step, now).mean()) for v in fitted(x))
    error = (x**2).mean(0)
    assert isotropic == pytest.approx(float(1.5 * torch.log1p(width[0] * error.mean())), rel=1e-9)
    assert diagonal == pytest.approx(float(0.5 * torch.log1p(width[0] * error).sum()), rel=1e-9)
    posterior = float(PosteriorVariance().kl(x, x_hat, now + step, now).mean())
    assert diagonal < isotropic < posterior


def test_a_coordinate_without_error_takes_the_posterior_variance():
    diagonal = DiagonalVariance((2,), 2)
    diagonal.errors.fit(torch.tensor([3.0, -3.0]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    now = torch.zeros(1, dtype=torch.float64)
    variance = diagonal.variance(now + 1, now, None)
    assert float(variance[0, 0]) == pytest.approx(float(posterior_variance(now + 1, now)), rel=1e-12)
    assert float(variance[0, 1]) > float(variance[0, 0])


def test_table_is_exact_at_its_knots_and_smooth_between():
    error = 1 / (1 + KNOTS.exp())  # data of unit variance
    table = ErrorTable(13).fit(KNOTS, error)
    torch.testing.assert_close(table.at(KNOTS), error)
    between = torch.linspace(6, -6, 200, dtype=torch.float64)
    assert float((table.at(between) * (1 + between.exp()) - 1).abs().max()) < 0.035  # h²/8 · max p(1−p), h = 1
    # Beyond the ends the last slope goes on: errors keep falling with the noise.
    assert float(table.at(torch.tensor([8.0]))) == pytest.approx(float(1 / (1 + torch.tensor(8.0).exp())), rel=0.05)


def test_table_is_saved_with_the_model():
    one, other = IsotropicVariance(13), IsotropicVariance(13)
    one.errors.fit(KNOTS, torch.rand(13, generator=generator(0, "table"), dtype=torch.float64))
    other.load_state_dict(one.state_dict())
    now = torch.tensor([0.3], dtype=torch.float64)
    assert torch.equal(one.variance(now + 1, now, None), other.variance(now + 1, now, None))


def test_bad_tables_are_one_sentence():
    now = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(UserError, match="not fitted"):
        IsotropicVariance().variance(now + 1, now, None)
    with pytest.raises(ValueError, match="at least 2"):
        ErrorTable(1)
    with pytest.raises(ValueError, match="13"):
        ErrorTable(13).fit(KNOTS[:5], torch.ones(5))
    with pytest.raises(ValueError, match="fall"):
        ErrorTable(13).fit(-KNOTS, torch.ones(13))
    with pytest.raises(ValueError, match="finite"):
        ErrorTable(13).fit(KNOTS, torch.full((13,), torch.nan))


def test_batch_and_single_level_agree():
    x, _ = draws(5)
    now = torch.full((5,), 0.4, dtype=torch.float64)
    for variance in fitted(x):
        many = variance.variance(now + 1, now, None)
        one = variance.variance(now[0] + 1, now[0], None)
        torch.testing.assert_close(many, one.expand_as(many))
