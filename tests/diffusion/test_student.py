import math

import pytest

from markovae.diffusion.bound import student_quantile


def test_quantiles_against_their_closed_forms_and_tables() -> None:
    assert student_quantile(1) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-9)
    assert student_quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-9)
    # Abramowitz & Stegun 1964, table 26.10.
    for dof, quantile in ((3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (120, 1.980)):
        assert student_quantile(dof) == pytest.approx(quantile, abs=5.1e-4)
    assert student_quantile(math.inf) == pytest.approx(1.959964, abs=1e-5)
    assert 3.182 < student_quantile(2.5) < 4.303
    with pytest.raises(ValueError, match="at least 1"):
        student_quantile(0.5)
