"""Names to plans: ranges, budgets, and a default grid that is nearer to the flow than the whole range is."""

import pytest
import torch

from markovae.diffusion.model import Diffusion
from markovae.diffusion.target import MEAN, STEP_NOISE
from markovae.errors import UserError
from markovae.sampling.editor import Editor
from markovae.sampling.generation import final_latents, sample_trajectory
from markovae.sampling.grids import rho_grid, uniform_grid
from markovae.sampling.plans import Plan, logsnr_range, plan
from markovae.sampling.sampler_table import DEFAULT_SAMPLER, SEARCHED, SPACINGS
from markovae.sampling.samplers import AdamsBashforth, UniC
from markovae.theory.mixture import pink_pair


class OfTarget(torch.nn.Module):
    """The exact denoiser's output in the words of a target of one step."""

    def __init__(self, exact, target):
        super().__init__()
        self.exact, self.target = exact, target

    def forward(self, z, logsnr, condition=None):
        grid = self.exact.schedule.logsnr
        level = (grid[1:] - logsnr[:, None]).abs().argmin(1) + 1
        return self.target.of_x(self.exact.denoise(z, logsnr), z, logsnr, grid[level - 1])


@pytest.mark.parametrize(
    ("start", "last", "few", "drawn", "more", "whole"),
    [
        (13.3, -10.0, (4.0, -8.0), (9.0, -8.0), (8.5, -10.0), (13.3, -10.0)),
        (20.0, -18.0, (4.0, -8.0), (9.0, -8.0), (8.5, -10.0), (13.3, -10.0)),
        (4.7, -6.0, (4.0, -6.0), (4.7, -6.0), (4.7, -6.0), (4.7, -6.0)),
        (20.0, 10.0, (13.3, 10.0), (13.3, 10.0), (13.3, 10.0), (13.3, 10.0)),
    ],
)
def test_the_range_is_cut_for_few_calls_and_whole_in_the_limit(start, last, few, drawn, more, whole, mixture, model_of):
    model = model_of(mixture, 100, start, last)
    assert logsnr_range(model, 1) == logsnr_range(model, 5) == pytest.approx(few)
    assert logsnr_range(model, 20) == pytest.approx(more)
    assert logsnr_range(model) == pytest.approx(whole)
    assert logsnr_range(model, 37) == logsnr_range(model, 10**6) == logsnr_range(model)
    for sampler, spacing, steps, found in (
        ("dpmpp2m", None, 5, few),
        ("dpmpp2m", "karras", 20, more),
        ("heun", None, 40, more),
        ("unipc2", "karras", 37, whole),
        ("sde-dpmpp2m", None, 10, drawn),
        ("sde-dpmpp2m", None, 20, whole),
        ("sde-dpmpp2m", "uniform", 21, whole),
    ):
        grid = plan(model, sampler, steps, spacing).grid[1:]
        assert (grid[[0, -1]] - torch.tensor(found)).abs().max() < 1e-6


def test_the_default_grid_is_nearer_to_the_flow_than_the_whole_range(model_of):
    model = model_of(pink_pair((1, 8, 8)))

    def images(chosen):
        return final_latents(sample_trajectory(model, range(32), chosen, seed=2))

    reference = images(Plan(AdamsBashforth(3), uniform_grid(13.3, -10.0, 300), UniC(3)))
    for steps in (5, 10, 20):
        default = plan(model, "dpmpp2m", steps)
        others = (rho_grid(13.3, -10.0, steps), uniform_grid(13.3, -10.0, steps))
        plans = (default, *(Plan(default.stepper, grid) for grid in others))
        error, usual, whole = (float((images(p) - reference).square().mean().sqrt()) for p in plans)
        assert error < 0.5 * usual
        assert error < 0.7 * whole


def test_walks_converge_to_the_flow_over_the_whole_range(mixture, model_of):
    model = model_of(mixture)
    fine = Plan(AdamsBashforth(3), uniform_grid(13.3, -10.0, 800), UniC(3))
    plans = (fine, *(plan(model, "unipc3", steps) for steps in (20, 80, 320)))
    reference, *ends_of = (final_latents(sample_trajectory(model, range(32), chosen)) for chosen in plans)
    errors = [float((end - reference).abs().max()) for end in ends_of]
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 2


@pytest.mark.parametrize("target", [MEAN, STEP_NOISE], ids=lambda t: t.name)
def test_a_target_of_steps_is_sampled_on_its_own_levels(target, mixture, model_of):
    exact = model_of(mixture, 50)
    levels = set(exact.schedule.logsnr[1:].tolist())
    model = Diffusion(
        OfTarget(exact, target), exact.schedule, target, exact.reverse, exact.decoder, exact.shape, clip=exact.clip
    )
    model.precision = torch.float64
    for spacing in set(SPACINGS) - set(SEARCHED):
        for steps in (1, 5, 20, 50):
            grid = plan(model, DEFAULT_SAMPLER, steps, spacing).grid[1:]
            assert len(grid) == steps == len(set(grid.tolist()) & levels)
            assert bool((grid.diff() < 0).all())
    chosen = plan(model, "dpmpp2m", 30)
    here, there = (
        final_latents(sample_trajectory(m, range(8), Plan(chosen.stepper, chosen.grid), seed=1)) for m in (model, exact)
    )
    torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-6)
    varied = Editor(model, chosen).vary(here, 0.6)
    assert bool(varied.isfinite().all())
    with pytest.raises(UserError, match="51 steps exceed the 50 levels"):
        plan(model, "ddim", 51)
