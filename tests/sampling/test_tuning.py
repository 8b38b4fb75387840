"""The tuned grid: nearer to the fine walk on seeds it has not seen, within its budget."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from markovae.errors import UserError
from markovae.sampling.denoiser import Clipped
from markovae.sampling.generation import final_latents, sample_trajectory
from markovae.sampling.grids import rho_grid
from markovae.sampling.plans import Plan, plan
from markovae.sampling.samplers import AdamsBashforth, UniC
from markovae.sampling.tuning import tune


@pytest.mark.parametrize(("sampler", "steps"), [("dpmpp2m", 6), ("unipc2", 10)])
def test_tuning_helps_on_other_samples(sampler, steps, mixture, model_of):
    model = model_of(mixture)
    start = plan(model, sampler, steps)
    found = tune(model, start, samples=64, trials=25)
    assert found.rmse < 0.75 * found.rmse_before
    assert found.tried <= 25
    assert len(found.plan.grid) == len(start.grid)
    fine = Plan(AdamsBashforth(3), rho_grid(13.3, -10.0, 200), UniC(3))
    reference = final_latents(sample_trajectory(model, range(64), fine, seed=9))
    errors = [
        float((final_latents(sample_trajectory(model, range(64), p, seed=9)) - reference).square().mean().sqrt())
        for p in (start, found.plan)
    ]
    assert errors[1] < 0.8 * errors[0]


def test_the_same_seeds_give_the_same_grid(mixture, model_of):
    model = model_of(mixture)
    grids = [tune(model, plan(model, "ddim", 5), samples=8, trials=10, fine=40).plan.grid for _ in range(2)]
    assert torch.equal(*grids)


def test_time_ends_the_search(mixture, model_of):
    model = model_of(mixture)
    found = tune(model, plan(model, "ddim", 5), samples=4, fine=20, seconds=0.0)
    assert found.tried <= 2
    assert found.rmse <= found.rmse_before


def test_a_sampler_with_fresh_noise_takes_the_grid_of_the_one_without(mixture, model_of):
    model = model_of(mixture)
    found = [tune(model, plan(model, f"{kind}dpmpp2m", 6), samples=8, trials=10, fine=40) for kind in ("", "sde-")]
    assert torch.equal(found[0].plan.grid, found[1].plan.grid)
    assert found[1].plan.stepper.draws


def test_a_threshold_is_kept(mixture, model_of):
    model = model_of(mixture)
    start = replace(plan(model, "dpmpp2m", 5), threshold=partial(Clipped, limit=0.1))
    found = tune(model, start, samples=8, trials=4, fine=20)
    assert float(final_latents(sample_trajectory(model, range(8), found.plan)).abs().max()) <= 0.1


def test_what_cannot_be_tuned_is_refused(mixture, model_of):
    model = model_of(mixture)
    for sampler in ("ancestral", "pc"):
        with pytest.raises(UserError, match="draws random numbers"):
            tune(model, plan(model, sampler, 10))
    with pytest.raises(UserError, match="2 log-SNRs"):
        tune(model, plan(model, "ddim", 2))
