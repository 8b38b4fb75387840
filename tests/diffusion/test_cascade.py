"""The cascade: one bound, whatever the number of bands; exact stages lead to the entropy."""

import math
from itertools import pairwise

import pytest
import torch
from tests.diffusion.exact_cascade import draw, entropy, exact_cascade, expected_nats

from markovae.diffusion.cascade import Cascade, one_stage, separated
from markovae.diffusion.forms import FORMS
from markovae.errors import UserError
from markovae.randomness import Streams, generator


def limit(octaves: int, side: int = 8) -> float:
    """The closed form of the bound, extrapolated to steps of width zero."""
    totals = []
    for levels in (1001, 2001, 4001, 8001):
        model, cov = exact_cascade(side, octaves, levels, start=26.0, end=-26.0)
        totals.append(float(expected_nats(model, cov)))
    for order in (1, 2, 3):
        totals = [(2**order * b - a) / (2**order - 1) for a, b in pairwise(totals)]
    return totals[-1]


def test_the_limit_is_the_entropy_and_that_of_one_stage():
    cov = exact_cascade(8, 0, 3)[1]
    one, two, three = (limit(octaves) / 64 for octaves in (0, 1, 2))
    truth = float(entropy(cov)) / 64
    assert abs(one - truth) < 1e-6
    assert abs(two - truth) < 1e-6
    assert abs(three - truth) < 1e-6


def test_the_gap_follows_the_law_of_one_stage():
    # ½ Σ [u − ln(1 + u)] a level, u = Δγ s/(1 + γ s), summed over the bands' own eigenvalues.
    model, cov = exact_cascade(8, 2, 401, start=26.0, end=-26.0)
    gap = torch.zeros((), dtype=torch.float64)
    for stage in (model.stage(b) for b in range(3)):
        grid, values = stage.schedule.logsnr, stage.network.values
        snr = grid[1:].exp()
        u = -(snr[:-1] * torch.expm1(grid[2:] - grid[1:-1]))[:, None] * values / (1 + snr[1:, None] * values)
        gap = gap + 0.5 * (u - u.log1p()).sum()
    assert abs(float(expected_nats(model, cov) - entropy(cov) - gap)) / 64 < 1e-6
    assert float(gap) > 0.1


@pytest.mark.parametrize("octaves", [1, 2])
def test_the_bound_has_the_closed_forms_mean(octaves):
    model, cov = exact_cascade(4, octaves, 12)
    found = model.bound(draw(cov, 4000), generator(0, "noise"))
    mean = found.mean()
    assert abs(mean.value - float(expected_nats(model, cov))) < 4 * mean.stderr
    assert found.levels.shape == (4000, model.num_levels - 1)
    torch.testing.assert_close(sum(band.prior for band in found.bands), found.prior)
    torch.testing.assert_close(sum(band.levels for band in found.bands), found.levels.sum(1))
    assert len(found.bands) == octaves + 1


def test_a_single_band_is_the_model_itself_bit_for_bit():
    cascade, cov = exact_cascade(4, 0, 12)
    model, x = cascade.base, draw(cov, 5)
    ours, theirs = cascade.bound(x), model.bound(x)
    assert torch.equal(ours.total, theirs.total)
    assert torch.equal(ours.levels, theirs.levels)
    path, other = (m.encode(x, Streams(3, "path", range(5))) for m in (cascade, model))
    assert all(torch.equal(a, b) for a, b in zip(path, other, strict=True))
    assert torch.equal(*(m.generate(4, generator(0, "draw")) for m in (cascade, model)))
    for form in FORMS:
        assert torch.equal(form(cascade, path).terms, form(model, path).terms)


def test_the_forms_agree_along_a_path():
    model, cov = exact_cascade(4, 2, 6)
    x = draw(cov, 3)
    path = model.encode(x, Streams(0, "path", range(3)))
    first, *others, last = (form(model, path).nats for form in FORMS)
    for other in others:
        torch.testing.assert_close(first, other, rtol=1e-9, atol=1e-8)
    assert last.shape == (3,)


def test_e6_is_what_the_bound_adds_up():
    model, cov = exact_cascade(4, 1, 6)
    x = draw(cov, 3000)
    form = FORMS[-1](model, model.encode(x, generator(0, "path"))).nats
    bound = model.bound(x, generator(0, "noise")).total
    assert abs(float((form - bound).mean())) < 4 * float((form - bound).std()) / math.sqrt(3000)


def test_what_is_generated_has_the_datas_covariance():
    model, cov = exact_cascade(4, 2, 120)
    x = model.generate(3000, generator(0, "draw")).double().flatten(1)
    assert float((x.T @ x / len(x) - cov).abs().max()) < 0.08
    assert float((torch.linalg.eigvalsh(x.T @ x / len(x)) / torch.linalg.eigvalsh(cov) - 1).abs().max()) < 0.2


def test_the_encoder_moves_one_band_at_a_time():
    model, cov = exact_cascade(8, 2, 5)
    path = model.encode(draw(cov, 2), generator(0, "path"))
    moved = []
    for before, after in pairwise(path[1:]):
        bands = zip(separated(before, 2), separated(after, 2), strict=True)
        moved.append([b for b, (old, new) in enumerate(bands) if float((old - new).abs().max()) > 1e-9])
    assert moved == [[2]] * 4 + [[1]] * 4 + [[0]] * 4
    stages, own = model.locate(torch.arange(1, 14))
    assert stages.tolist() == [2] * 5 + [1] * 4 + [0] * 4
    assert own.tolist() == [1, 2, 3, 4, 5, 2, 3, 4, 5, 2, 3, 4, 5]


def test_stages_that_do_not_meet_are_refused():
    model, _ = exact_cascade(4, 1, 5)
    with pytest.raises(ValueError, match="must meet at one"):
        Cascade([model.stage(0), model.stage(1)], (0.2,), model.decoder)
    with pytest.raises(ValueError, match="must be 1 numbers"):
        Cascade([model.stage(0), model.stage(1)], (), model.decoder)
    with pytest.raises(ValueError, match="detail stage 1 is of shape"):
        Cascade([model.stage(0), model.stage(0)], (0.4,), model.decoder)


def test_what_takes_one_stage_says_so():
    model, _ = exact_cascade(4, 1, 5)
    with pytest.raises(UserError, match="an export takes a model of one stage, and this is a cascade of 2"):
        one_stage(model, "an export")
    alone, _ = exact_cascade(4, 0, 5)
    assert one_stage(alone, "an export") is alone.base
