"""The one loop: what it yields, keeps and calls."""

import weakref

import pytest
import torch

from markovae.randomness import Streams, generator
from markovae.sampling.generation import final_latents
from markovae.sampling.grids import rho_grid, uniform_grid
from markovae.sampling.plans import Plan, plan
from markovae.sampling.sampler_table import SAMPLERS
from markovae.sampling.samplers import DDIM, AdamsBashforth, Ancestral, DPMSolverPP3M, UniC, trajectory


def start(batch=4, dims=2, dtype=torch.float64):
    return torch.randn(batch, dims, generator=generator(0, "start"), dtype=dtype)


def test_states_are_at_the_grid_and_the_last_is_the_data(mixture, counting):
    grid = rho_grid(9.0, -8.0, 6)
    states = list(trajectory(counting(mixture), start(), grid, DDIM(), generator(0)))
    assert [float(s.logsnr) for s in states] == grid.flip(0).tolist()
    for state in states[:-1]:
        torch.testing.assert_close(state.x_hat, mixture.denoise(state.z, state.logsnr))
    assert torch.equal(states[-1].z, states[-2].x_hat)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_steps_are_a_budget_of_network_calls(sampler, steps, mixture, counting, model_of):
    chosen, model = plan(model_of(mixture), sampler, steps), counting(mixture)
    final_latents(trajectory(model, start(), chosen.grid, chosen.stepper, generator(0), corrector=chosen.corrector))
    assert model.calls == chosen.nfe
    assert steps - 2 <= chosen.nfe <= steps


@pytest.mark.parametrize(("stepper", "corrector"), [(DDIM(), None), (DPMSolverPP3M(), None), (DDIM(), UniC(3))])
def test_memory_is_flat_in_the_number_of_steps(stepper, corrector, mixture, counting):
    references, most = [], 0
    sample_trajectory = trajectory(
        counting(mixture), start(), uniform_grid(9.0, -8.0, 60), stepper, generator(0), None, corrector
    )
    for state in sample_trajectory:
        references.append(weakref.ref(state))
        del state
        most = max(most, sum(reference() is not None for reference in references))
    assert most <= 2 + max(stepper.history, corrector.history if corrector else 0)


def test_no_gradient_is_recorded(mixture, counting):
    z = start().requires_grad_()
    assert all(not s.x_hat.requires_grad for s in trajectory(counting(mixture), z, rho_grid(9, -8, 4), DDIM(), None))


def test_ancestral_through_all_levels_is_generate(gaussian, model_of):
    model = model_of(gaussian, 30)
    z = start()
    source, again = Streams(5, "t", range(4)), Streams(5, "t", range(4))
    end = final_latents(trajectory(model, z, model.schedule.logsnr, Ancestral(model.reverse), source))
    for level in range(30, 1, -1):
        z = model.prior_step(z, level).sample(again)
    assert torch.equal(model.prior_step(z, 1).mean, end)


@pytest.mark.parametrize("name", [s for s in SAMPLERS if s not in ("ancestral", "sde-dpmpp2m", "pc")])
def test_float32_keeps_its_digits_near_the_data(name, mixture, counting, model_of):
    """From log-SNR 13 on, where (z − a x̂)/s would lose three digits of seven."""
    chosen = plan(model_of(mixture), name, 60)
    grid = uniform_grid(13.3, 2.0, len(chosen.grid) - 1)[1:]
    ends = []
    for dtype in (torch.float64, torch.float32):
        z = start(64).float().to(dtype)
        ends.append(
            final_latents(
                trajectory(counting(mixture), z, grid, chosen.stepper, None, corrector=chosen.corrector)
            ).double()
        )
    assert float((ends[0] - ends[1]).abs().max()) < 2e-6


def test_a_corrector_sees_every_state_but_the_first(mixture, counting):
    grid = uniform_grid(9.0, -8.0, 5)
    plain = list(trajectory(counting(mixture), start(), grid, AdamsBashforth(1), generator(0)))
    mended = list(trajectory(counting(mixture), start(), grid, AdamsBashforth(1), generator(0), None, UniC(1)))
    differs = [not torch.equal(a.z, b.z) for a, b in zip(plain, mended, strict=True)]
    assert differs == [False, True, True, True, True, True]


def test_plans_count_the_calls_of_their_parts(mixture, model_of):
    assert Plan(DDIM(), rho_grid(9, -8, 7)).nfe == 7
    assert plan(model_of(mixture), "heun", 20).nfe == 19
    assert plan(model_of(mixture), "dpmpp3s", 20).nfe == 19
    assert plan(model_of(mixture), "unipc3", 20).nfe == 20
    assert len(plan(model_of(mixture, 10), "ancestral", None).grid) == 11
