"""Every deterministic solver against the exact flow of Gaussian and mixture data: its order, measured."""

import functools

import pytest
import torch

from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.randomness import generator
from markovae.sampling import samplers as dpm_multi
from markovae.sampling.samplers import (
    DDIM,
    AdamsBashforth,
    DPMSolverPP2M,
    DPMSolverPP2S,
    DPMSolverPP3M,
    DPMSolverPP3S,
    Euler,
    Heun,
    UniC,
    trajectory,
)
from markovae.theory.quadrature import slope

SOLVERS = {
    "ddim": (DDIM(), None, 1),
    "euler": (Euler(), None, 1),
    "heun": (Heun(), None, 2),
    "dpmpp2m": (DPMSolverPP2M(), None, 2),
    "dpmpp2s": (DPMSolverPP2S(), None, 2),
    "deis2": (AdamsBashforth(2), None, 2),
    "unic1": (AdamsBashforth(1), UniC(1), 2),
    "dpmpp3m": (DPMSolverPP3M(), None, 3),
    "dpmpp3s": (DPMSolverPP3S(), None, 3),
    "deis3": (AdamsBashforth(3), None, 3),
    "unipc2": (DPMSolverPP2M(), UniC(2), 3),
    "unipc2, solved exactly": (AdamsBashforth(2), UniC(2), 3),
    "unipc3": (AdamsBashforth(3), UniC(3), 3),
}
COUNTS = (80, 160)
NOISE, MIDDLE, CLEAN = -6.0, 0.5, 6.0


def walked(model, z, start, count, stepper, corrector=None):
    # The clean end is left out: its last step is x̂ itself.
    grid = torch.linspace(CLEAN, start, count + 1, dtype=torch.float64)
    *_, end = trajectory(model, z, grid, stepper, generator(0), corrector=corrector)
    return end.z


def starts(toy):
    return torch.randn(32, *toy.shape, generator=generator(0, "test"), dtype=torch.float64)


def order_of(model, z, start, stepper, corrector, wanted):
    errors = [(walked(model, z, start, n, stepper, corrector) - wanted).square().mean().sqrt() for n in COUNTS]
    return -slope(torch.tensor(COUNTS), torch.stack(errors))


@functools.cache
def finest(toy, start):
    return walked(_Exact(toy), starts(toy), start, 800, AdamsBashforth(3), UniC(3))


class _Exact:
    def __init__(self, toy):
        self.toy = toy

    def predict(self, z, logsnr, condition=None):
        return self.toy.denoise(z, logsnr), None


def gaussian_flow(toy, z, start):
    """The flow keeps each principal coordinate's standard score."""
    modes = toy.modes
    ends = []
    for logsnr in (start, CLEAN):
        logsnr = torch.tensor(logsnr, dtype=torch.float64)
        a, s = signal_scale(logsnr), noise_scale(logsnr)
        ends.append((a * toy.means, (a**2 * modes.variance + s**2).sqrt()))
    (mean, width), (mean_end, width_end) = ends
    scores = modes.into((z - mean).unsqueeze(1)) / width
    return mean_end + modes.out_of(scores * width_end)[:, 0]


@pytest.mark.parametrize("name", SOLVERS)
def test_order_on_gaussian_data(name, gaussian):
    stepper, corrector, order = SOLVERS[name]
    z = starts(gaussian)
    measured = order_of(_Exact(gaussian), z, NOISE, stepper, corrector, gaussian_flow(gaussian, z, NOISE))
    # Where a higher order still shows through, the solver is better than it promises, never worse.
    assert order - 0.15 < measured < order + (0.15 if order < 3 else 1.1)


# Gaussian data above is from the noise: here each solver starts at one of the two, and each order at both.
@pytest.mark.parametrize(
    ("name", "start"),
    [
        *((name, MIDDLE) for name in ("ddim", "heun", "dpmpp2s", "unic1", "dpmpp3m", "deis3")),
        *((name, NOISE) for name in ("euler", "dpmpp2m", "deis2", "dpmpp3s", "unipc2", "unipc2, solved exactly")),
    ],
)
def test_order_on_mixture_data_from_the_noise_and_from_part_way(name, start, mixture):
    stepper, corrector, order = SOLVERS[name]
    toy = _same(mixture)
    assert order_of(_Exact(toy), starts(toy), start, stepper, corrector, finest(toy, start)) == pytest.approx(
        order, abs=0.15
    )


def test_unipc3_starts_with_third_order_and_goes_on_with_fourth(mixture):
    toy, (stepper, corrector, _) = _same(mixture), SOLVERS["unipc3"]
    part_way = order_of(_Exact(toy), starts(toy), MIDDLE, stepper, corrector, finest(toy, MIDDLE))
    from_noise = order_of(_Exact(toy), starts(toy), NOISE, stepper, corrector, finest(toy, NOISE))
    assert part_way == pytest.approx(3, abs=0.15)
    assert 3.2 < from_noise < 4.2


_KEPT = []


def _same(toy):
    """One toy for all tests, so that its finest walk is made once."""
    if not _KEPT:
        _KEPT.append(toy)
    return _KEPT[0]


def test_the_halved_second_difference_of_published_code_is_of_second_order(mixture, monkeypatch):
    toy = _same(mixture)
    whole = dpm_multi.moments
    monkeypatch.setattr(dpm_multi, "moments", lambda width, count: [*whole(width, 2), whole(width, 3)[2] / 2][:count])
    measured = order_of(_Exact(toy), starts(toy), MIDDLE, DPMSolverPP3M(), None, finest(toy, MIDDLE))
    assert 1.6 < measured < 2.15


def test_first_order_solvers_are_one_and_the_same(mixture):
    z = starts(mixture)
    ends = [walked(_Exact(mixture), z, NOISE, 9, s) for s in (DDIM(), Euler(), AdamsBashforth(1))]
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-12, atol=1e-12)


def test_third_order_multistep_is_adams_bashforth(mixture):
    z, grid = starts(mixture), torch.tensor([5.0, 3.2, 2.9, 1.0, -0.4, -3.0], dtype=torch.float64)
    ends = []
    for stepper in (DPMSolverPP3M(), AdamsBashforth(3)):
        states = list(trajectory(_Exact(mixture), z, grid, stepper, generator(0)))
        ends.append(states[-1].z)
    # The start-up steps differ: 2M extrapolates to the middle of the step, Adams–Bashforth integrates.
    assert 0 < float((ends[0] - ends[1]).abs().max()) < 2e-2
    past = list(trajectory(_Exact(mixture), z, grid, DPMSolverPP3M(), generator(0)))
    now, before = past[2], (past[1], past[0])
    both = [s.step(now, before, grid[2], None, generator(0)) for s in (DPMSolverPP3M(), AdamsBashforth(3))]
    torch.testing.assert_close(both[0], both[1], rtol=1e-12, atol=1e-12)


def test_a_solver_walks_back_the_way_it_came(mixture):
    z = starts(mixture)
    errors = []
    for count in COUNTS:
        grid = torch.linspace(CLEAN, MIDDLE, count + 1, dtype=torch.float64)
        *_, there = trajectory(_Exact(mixture), z, grid, DPMSolverPP2M(), generator(0))
        *_, back = trajectory(_Exact(mixture), there.z, grid.flip(0), DPMSolverPP2M(), generator(0))
        errors.append(float((back.z - z).square().mean().sqrt()))
    assert -slope(torch.tensor(COUNTS), torch.tensor(errors)) == pytest.approx(2, abs=0.25)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("order", [0, 4])
def test_orders_out_of_range_are_refused(order):
    for kind in (AdamsBashforth, UniC):
        with pytest.raises(ValueError, match=f"order={order}"):
            kind(order)
