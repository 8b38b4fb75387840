"""Precision, recall, density and coverage where they can be worked out by hand."""

import pytest
import torch

from markovae.quality import distances
from markovae.quality.distances import precision_recall, radii
from markovae.randomness import generator


def draws(rows: int, dims: int, *key: int | str) -> torch.Tensor:
    return torch.randn(rows, dims, generator=generator(0, "manifold", *key), dtype=torch.float64)


def test_on_a_line_it_can_be_worked_out() -> None:
    real = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    samples = torch.tensor([[0.5], [4.5], [17.5], [30.0]])
    assert radii(real.double(), 1).tolist() == [1, 1, 2, 7]
    found = precision_recall(samples, real, k=1)
    # 0.5 lies in the balls of 0 and 1; 4.5 in those of 3 and 10; 17.5 and 30 in none.
    assert found.precision == 0.5
    assert found.density == pytest.approx((2 + 2) / 4)
    assert found.coverage == 1.0
    # The samples' balls reach 4, 4, 12.5... to either side: 0, 1, 3 and 10 all lie in one.
    assert found.recall == 1.0


def test_equal_populations_and_dropped_modes() -> None:
    real = draws(300, 2, "r")
    same = precision_recall(draws(300, 2, "s"), real)
    assert min(same.precision, same.recall, same.coverage) > 0.85
    assert same.density == pytest.approx(1, abs=0.2)
    half = draws(300, 2, "h")
    half[:, 0] = half[:, 0].abs()
    dropped = precision_recall(half, real)
    assert dropped.precision > 0.85
    assert dropped.recall < 0.75
    wide = precision_recall(4 * draws(300, 2, "w"), real)
    assert wide.precision < 0.5
    far = precision_recall(draws(300, 2, "f") + 50, real)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_blocks_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draws(37, 3, "x"), draws(41, 3, "y")
    whole = precision_recall(x, y)
    monkeypatch.setattr(distances, "BLOCK", 8)
    assert precision_recall(x, y) == whole


def test_too_few_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="k=0"):
        precision_recall(torch.zeros(4, 2), torch.zeros(4, 2), k=0)
    with pytest.raises(ValueError, match="samples has 3 rows and at least 4"):
        precision_recall(torch.zeros(3, 2), torch.zeros(4, 2))
