"""The kernel distance: unbiased, its variance too, and its interval covers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from markovae.quality import distances as room
from markovae.quality.distances import kid, kid_difference, sums
from markovae.randomness import generator


def draws(rows: int, dims: int, *key: int | str, shift: float = 0.0) -> Tensor:
    return torch.randn(rows, dims, generator=generator(0, "kid", *key), dtype=torch.float64) + shift


def plain(x: Tensor, y: Tensor) -> float:
    """The definition, pair by pair."""
    d = x.shape[1]
    k = lambda a, b: (float(a @ b) / d + 1) ** 3  # noqa: E731
    within = [np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    return float(sum(within) - 2 * np.mean([k(a, b) for a in x for b in y]))


def truth(shift: float, dims: int) -> float:
    """KID of N(shift·1, I) from N(0, I): with u = a·b/d, E (1+u)³ = 1 + 3 E u + 3 E u² + E u³."""

    def mean(p: float, q: float) -> float:
        # One coordinate's product has moments pq, (1+p²)(1+q²) and (p³+3p)(q³+3q).
        m1, m2, m3 = p * q, (1 + p**2) * (1 + q**2), (p**3 + 3 * p) * (q**3 + 3 * q)
        n = dims
        first = m1
        second = (n * m2 + n * (n - 1) * m1**2) / n**2
        third = (n * m3 + 3 * n * (n - 1) * m2 * m1 + n * (n - 1) * (n - 2) * m1**3) / n**3
        return 1 + 3 * first + 3 * second + third

    return mean(shift, shift) + mean(0, 0) - 2 * mean(shift, 0)


@given(st.integers(4, 7), st.integers(4, 9), st.integers(1, 4), st.integers(0, 10**6))
def test_it_is_the_definition(m: int, n: int, dims: int, seed: int) -> None:
    x, y = draws(m, dims, "x", seed), draws(n, dims, "y", seed, shift=0.5)
    assert kid(x, y).value == pytest.approx(plain(x, y), rel=1e-9, abs=1e-9)


def test_blocks_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draws(23, 3, "x"), draws(31, 3, "y")
    whole = kid(x, y)
    monkeypatch.setattr(room, "BLOCK", 7)
    parts = kid(x, y)
    assert parts.value == pytest.approx(whole.value, rel=1e-12)
    assert parts.stderr == pytest.approx(whole.stderr, rel=1e-9)


@pytest.mark.parametrize(("m", "n", "shift"), [(100, 150, 0.0), (150, 100, 0.2)])
def test_it_is_unbiased_and_its_interval_covers(m: int, n: int, shift: float) -> None:
    repeats, dims = 250, 32
    found = [kid(draws(m, dims, "x", m, r, shift=shift), draws(n, dims, "y", m, r)) for r in range(repeats)]
    values = torch.tensor([e.value for e in found], dtype=torch.float64)
    error = float(values.std()) / repeats**0.5
    assert abs(float(values.mean()) - truth(shift, dims)) < 4 * error
    covered = np.mean([low <= truth(shift, dims) <= high for low, high in (e.ci95 for e in found)])
    assert covered > 0.95 - 4 * (0.95 * 0.05 / repeats) ** 0.5
    # The floor under the first order makes it larger for equal populations, at most twice the variance.
    ratio = np.mean([e.stderr**2 for e in found]) / float(values.var())
    assert 0.8 < ratio < (2.0 if shift == 0 else 1.25)


def test_the_second_order_is_estimated_without_bias() -> None:
    # Of scalars with E x² = 1 and no odd moments, k̃ = 3xy + 3(x²−1)(y²−1) + x³y³; uniform ones have E x⁴ = 9/5 and
    # E x⁶ = 27/7.
    exact = 9 + 9 * (9 / 5 - 1) ** 2 + (27 / 7) ** 2 + 6 * (9 / 5) ** 2
    flat = (torch.rand(2000, 2, 6, 1, generator=generator(0, "flat"), dtype=torch.float64) * 2 - 1) * 3**0.5
    for found in (
        [room.degenerate_within(sums(x)) for x, _ in flat],
        [room.degenerate_across(sums(x, y[:5])) for x, y in flat],
    ):
        assert abs(np.mean(found) - exact) < 4 * float(np.std(found)) / len(found) ** 0.5


def test_a_paired_difference_is_the_difference_and_knows_more() -> None:
    y = draws(80, 6, "y")
    x = draws(60, 6, "x", shift=0.4)
    other = x + 0.05 * draws(60, 6, "e")
    paired = kid_difference(other, x, y)
    one, two = kid(other, y), kid(x, y)
    assert paired.value == pytest.approx(one.value - two.value, rel=1e-8)
    assert paired.stderr < 0.3 * (one.stderr**2 + two.stderr**2) ** 0.5


def test_blocks_change_no_figure(monkeypatch) -> None:
    x, y = draws(61, 6, "x", shift=0.4), draws(80, 6, "y")
    other = x + 0.05 * draws(61, 6, "e")
    whole = kid_difference(other, x, y), kid(x, y)
    monkeypatch.setattr(room, "BLOCK", 7)
    for found, expected in zip((kid_difference(other, x, y), kid(x, y)), whole, strict=True):
        assert found.value == pytest.approx(expected.value, rel=1e-9)
        assert found.stderr == pytest.approx(expected.stderr, rel=1e-9)


def test_the_paired_interval_covers_given_the_reference() -> None:
    y, repeats = draws(200, 32, "y"), 300
    found = []
    for r in range(repeats):
        x = draws(200, 32, "x", r, shift=0.2)
        found.append(kid_difference(1.1 * x, x, y))
    values = np.array([e.value for e in found])
    ratio = np.mean([e.stderr**2 for e in found]) / values.var(ddof=1)
    assert 0.8 < ratio < 1.25
    covered = np.mean([low <= values.mean() <= high for low, high in (e.ci95 for e in found)])
    assert covered > 0.95 - 4 * (0.95 * 0.05 / repeats) ** 0.5


def test_order_rows_and_turns_do_not_matter() -> None:
    x, y = draws(20, 5, "x"), draws(25, 5, "y", shift=0.2)
    whole = kid(x, y).value
    turn = torch.linalg.qr(draws(5, 5, "q")).Q
    assert kid(x.flip(0), y).value == pytest.approx(whole)
    assert kid(y, x).value == pytest.approx(whole)
    assert kid(x @ turn, y @ turn).value == pytest.approx(whole)
    assert kid(x.numpy(), y.float()).value == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.zeros(3, 2), torch.zeros(9, 2), "samples has 3 rows and at least 4"),
        (torch.zeros(9, 2), torch.zeros(9, 3), "width 2 and 3"),
        (torch.zeros(9), torch.zeros(9, 3), "must be features"),
        (torch.full((9, 3), torch.nan), torch.zeros(9, 3), "not finite"),
    ],
)
def test_what_has_no_distance_is_refused(x: Tensor, y: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kid(x, y)


def test_unpaired_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="do not pair"):
        kid_difference(torch.zeros(5, 2), torch.zeros(6, 2), torch.zeros(9, 2))
