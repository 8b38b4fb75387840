"""Integrators: their order, and that no example feels its neighbours."""

import math

import pytest
import torch

from markovae.likelihood.ode import DormandPrince, RungeKutta4


def swing(active, time, state):
    """y' = −y sin t + cos(2t) y²/10, unlike at every time; rates differ by example through the state."""
    return -state * torch.sin(time)[:, None] + 0.1 * torch.cos(2 * time)[:, None] * state**2


START = torch.tensor([[0.5, 1.0], [2.0, -1.0], [8.0, 3.0]], dtype=torch.float64)


def test_runge_kutta_is_of_order_four():
    exact = RungeKutta4(500).solve(swing, START, 0.0, 3.0).state
    errors = [float((RungeKutta4(n).solve(swing, START, 0.0, 3.0).state - exact).abs().max()) for n in (40, 80)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.3)
    assert RungeKutta4(40).solve(swing, START, 0.0, 3.0).calls.tolist() == [160] * 3


def test_dormand_prince_step_is_of_order_five():
    rule = DormandPrince()
    time = torch.full((3,), 0.3, dtype=torch.float64)

    def error(h: float) -> float:
        width = torch.full((3,), h, dtype=torch.float64)
        exact = RungeKutta4(100).solve(swing, START, 0.3, 0.3 + h).state
        return float((rule._step(swing, torch.arange(3), time, START, width)[0] - exact).abs().max())

    assert math.log2(error(0.4) / error(0.2)) == pytest.approx(6, abs=0.7)  # local error, one order more


def test_tolerance_is_kept():
    exact = RungeKutta4(1000).solve(swing, START, 0.0, 3.0).state
    for tolerance in (1e-4, 1e-7, 1e-10):
        found = DormandPrince(tolerance).solve(swing, START, 0.0, 3.0)
        assert float((found.state - exact).abs().max()) < 100 * tolerance


@pytest.mark.parametrize("end", [3.0, -3.0])
def test_examples_never_feel_each_other(end):
    rule = DormandPrince(1e-6)
    together = rule.solve(swing, START, 0.0, end)
    for i in range(3):
        alone = rule.solve(swing, START[i : i + 1], 0.0, end)
        assert torch.equal(alone.state[0], together.state[i])
        assert int(alone.calls) == int(together.calls[i])
    assert len(set(together.calls.tolist())) > 1


def test_hopeless_equations_are_one_sentence():
    def explode(active, time, state):
        return state**2

    with pytest.raises(ValueError, match="did not reach its end"):
        DormandPrince(max_calls=500).solve(explode, torch.ones(1, 1).double(), 0.0, 2.0)
    with pytest.raises(ValueError, match="did not reach its end"):
        DormandPrince().solve(lambda active, time, state: state * torch.nan, torch.ones(1, 1).double(), 0.0, 2.0)


@pytest.mark.parametrize("make", [lambda: RungeKutta4(0), lambda: DormandPrince(0.0), lambda: DormandPrince(2.0)])
def test_bad_settings(make):
    with pytest.raises(ValueError, match="must"):
        make()
