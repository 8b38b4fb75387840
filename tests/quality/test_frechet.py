"""The Fréchet distance against closed forms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from markovae.quality.distances import covariance, frechet_distance, gaussian_distance
from markovae.randomness import generator


def draws(rows: int, dims: int, *key: int | str) -> torch.Tensor:
    return torch.randn(rows, dims, generator=generator(0, "frechet", *key), dtype=torch.float64)


@given(st.integers(1, 6), st.integers(0, 10**6))
def test_commuting_covariances_have_a_closed_form(dims: int, seed: int) -> None:
    turn = torch.linalg.qr(draws(dims, dims, "q", seed)).Q
    s, t = draws(dims, 1, "s", seed)[:, 0].exp(), draws(dims, 1, "t", seed)[:, 0].exp()
    means = draws(2, dims, "m", seed)
    found = gaussian_distance(means[0], turn * s @ turn.T, means[1], turn * t @ turn.T)
    exact = float(((means[0] - means[1]) ** 2).sum() + ((s.sqrt() - t.sqrt()) ** 2).sum())
    assert found == pytest.approx(exact, rel=1e-7, abs=1e-7)


def test_two_dimensions_have_another() -> None:
    # tr (AB)^½ = √(tr AB + 2 √(det AB)) for two by two.
    a, b = covariance(draws(9, 2, "a")), covariance(draws(9, 2, "b") * torch.tensor([1.0, 3.0]))
    zero = torch.zeros(2, dtype=torch.float64)
    cross = ((a @ b).trace() + 2 * (a @ b).det().sqrt()).sqrt()
    assert gaussian_distance(zero, a, zero, b) == pytest.approx(float(a.trace() + b.trace() - 2 * cross), rel=1e-9)


def test_it_is_zero_of_equal_sets_and_of_singular_ones() -> None:
    x = draws(30, 8, "x")
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-6)
    few = draws(5, 40, "few")  # four directions of forty
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(few, few + 2) == pytest.approx(4 * 40, rel=1e-6)


def test_it_is_symmetric_and_turns_with_the_features() -> None:
    x, y = draws(30, 5, "x"), 2 * draws(40, 5, "y") + 1
    turn = torch.linalg.qr(draws(5, 5, "q")).Q
    whole = frechet_distance(x, y)
    assert frechet_distance(y, x) == pytest.approx(whole, rel=1e-9)
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(whole, rel=1e-9)
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * whole, rel=1e-9)


def test_few_images_push_it_up() -> None:
    # Expected value of equal populations at n each is above zero and falls with n: why it needs its floor.
    means = [
        sum(frechet_distance(draws(n, 6, "u", n, r), draws(n, 6, "v", n, r)) for r in range(40)) / 40 for n in (20, 80)
    ]
    assert means[0] > 2.5 * means[1] > 0


def test_one_row_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(4, 3))
