"""Edits by a cascade, on Gaussian images with exact denoisers, and through `mv.edit`."""

from itertools import cycle

import numpy as np
import pytest
import torch
from tests.diffusion.exact_cascade import SCALES, draw, exact_cascade, white_details
from tests.training.test_cascade_training import cascade, images

import markovae as mv
from markovae.diffusion import haar
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.errors import UserError
from markovae.networks.conditioning import Condition
from markovae.randomness import generator
from markovae.sampling.bands import OfDetails, OfMeans, coarser, given_means, is_exact
from markovae.sampling.cascade_editor import CascadeEditor
from markovae.sampling.inverse import Blur, BoxDown, Grey, Known, MomentMatched, Observation
from markovae.sampling.plans import plan

SIDE, DIMS = 8, 64
MASK = torch.rand(SIDE, SIDE, generator=generator(0, "mask")) < 0.5
MASK[:4, :4], MASK[4:, 4:] = True, False


@pytest.fixture(scope="module")
def white():
    """A cascade of images whose details are independent, and their covariance."""
    return exact_cascade(SIDE, 2, 50, start=16.0, end=-12.0, cov=white_details(SIDE, 2))


def observations():
    x = torch.randn(1, 1, SIDE, SIDE, generator=generator(1, "x"), dtype=torch.float64) / 2
    kinds = {"mask": (Known(MASK), 0.0), "noisy mask": (Known(MASK), 0.1), "blur": (Blur(SIDE, SIDE, 0.6), 0.1)}
    kinds |= {f"squares of {f}": (BoxDown(f), 0.0) for f in (2, 4, 8)} | {"noisy squares": (BoxDown(4), 0.1)}
    return {name: Observation(operator, operator.apply(x), noise) for name, (operator, noise) in kinds.items()}


def rows(linear) -> torch.Tensor:
    """The matrix of a linear map of images."""
    return linear(torch.eye(DIMS, dtype=torch.float64).reshape(DIMS, 1, SIDE, SIDE)).flatten(1).T


def conditional_mean(cov, wanted, known, values, noise):
    """E[wanted x | known x + noise n = values] of x ~ N(0, cov)."""
    inner = known @ cov @ known.T + torch.diag(noise**2)
    return values @ (wanted @ cov @ known.T @ torch.linalg.pinv(inner, hermitian=True, rtol=1e-12)).T


@pytest.mark.parametrize(("name", "logsnr"), list(zip(observations(), cycle([-4.0, 3.0]), strict=False)))
def test_each_stage_knows_all_that_is_observed(name, logsnr, white):
    """x̂ of every stage is E[its data | z, the mean image below, y], in closed form, where details are independent."""
    model, cov = white
    told = [observations()[name]]
    for scale in reversed(SCALES):
        told.insert(0, coarser(told[0], scale))
    observe, y, noise = told[-1].operator.apply, told[-1].y.flatten(), told[-1].noise
    x = draw(cov, 1, seed=2)
    if not noise:  # a mean image is known beforehand, and must be one of those that y leaves
        x = torch.linalg.lstsq(rows(observe), y, driver="gelsd").solution.reshape(x.shape)
    a, s = (f(torch.tensor(logsnr, dtype=torch.float64)) for f in (signal_scale, noise_scale))
    at = torch.tensor(logsnr, dtype=torch.float64)
    for b in range(3):
        own = rows(lambda v, b=b: model.bands(v)[b])
        z = torch.randn(1, *model.stage(b).shape, generator=generator(3, b), dtype=torch.float64)
        known, values, widths = (
            [a * own, rows(observe)],
            [z.flatten(), y],
            [s.expand(len(own)), y.new_full(y.shape, noise)],
        )
        observation, condition = told[0], None
        if b:
            image = model.means(x, b - 1)
            condition = model.refining(None, image, model.coarse_logsnr(b), torch.zeros_like(image))
            observation = given_means(told[b], image, SCALES[b - 1])
            known.append(rows(lambda v, b=b: model.means(v, b - 1)))
            values.append(image.flatten())
            widths.append(torch.zeros(image.numel(), dtype=torch.float64))
        wanted = conditional_mean(cov, own, torch.cat(known), torch.cat(values), torch.cat(widths))
        stage = model.stage(b)
        found = (
            stage.denoise(z, at, condition)
            if observation is None
            else MomentMatched(stage, observation, iterations=64).predict(z, at, condition)[0]
        )
        torch.testing.assert_close(found.flatten(), wanted, rtol=1e-6, atol=1e-6)


def test_what_is_drawn_has_the_moments_of_the_posterior(white):
    model, cov = white
    known = MASK.flatten()
    x = draw(cov, 1, seed=4)
    gain = cov[:, known] @ torch.linalg.inv(cov[known][:, known])
    mean, left = x.flatten()[known] @ gain.T, (cov - gain @ cov[known])[~known][:, ~known]
    editor = CascadeEditor(model, plan(model, "dpmpp2m", 60))
    drawn = editor.inpaint(x.expand(1500, -1, -1, -1), MASK).flatten(1)
    assert torch.equal(drawn[:, known], x.flatten()[known].expand(1500, -1))
    drawn = drawn[:, ~known]
    assert float((drawn.mean(0) - mean[~known]).norm() / left.trace().sqrt()) < 0.06
    assert float((drawn.T.cov() - left).norm() / left.norm()) < 0.12
    assert float(drawn.var(0).sum() / left.trace()) == pytest.approx(1, abs=0.04)


def test_unknown_pixels_are_not_read_and_seeds_differ(white):
    model, cov = white
    x = draw(cov, 2)
    one, two = (CascadeEditor(model, plan(model, "dpmpp2m", 12), seed) for seed in (0, 1))
    blind = torch.where(MASK, x, torch.nan)
    assert torch.equal(one.inpaint(x, MASK), one.inpaint(blind, MASK))
    torch.testing.assert_close(one.inpaint(x, MASK)[:1], one.inpaint(x[:1], MASK), rtol=0, atol=1e-9)
    assert float((one.inpaint(x, MASK) - two.inpaint(x, MASK))[..., ~MASK].abs().mean()) > 0.02
    with pytest.raises(UserError, match=r"the mask is \(5, 4\)"):
        one.inpaint(x, torch.ones(5, 4))


@pytest.mark.parametrize(
    "operator", [BoxDown(2), BoxDown(4), BoxDown(8), Blur(SIDE, SIDE, 0.5)], ids=["2", "4", "8", "blur"]
)
def test_restored_images_have_what_was_observed(operator):
    """Also where details depend on the coarse image, as in images of a 1/f spectrum."""
    model, cov = exact_cascade(SIDE, 2, 50, start=16.0, end=-12.0)
    x = draw(cov, 2)
    y = operator.apply(x)
    restored = CascadeEditor(model, plan(model, "dpmpp2m", 16)).restore(Observation(operator, y), iterations=20)
    torch.testing.assert_close(operator.apply(restored), y, rtol=0, atol=1e-2)


def test_details_do_not_make_up_for_what_is_wrong_with_the_means(white):
    """An operator that mixes squares leaves details that nearly vanish in y: those would take any size."""
    model, cov = white
    x, blur, at = draw(cov, 20, seed=3), Blur(SIDE, SIDE, 1.5), torch.tensor(-4.0, dtype=torch.float64)
    means = model.means(x, 1)
    wrong = means + 0.05 * torch.randn(means.shape, generator=generator(2), dtype=torch.float64)
    known = Observation(blur, blur.apply(x))
    given = model.refining(None, wrong, model.coarse_logsnr(2), torch.zeros_like(wrong))
    z = torch.randn(20, 3, 4, 4, generator=generator(3), dtype=torch.float64)
    sizes = []
    for doubt in (0.0, 0.05):
        told = given_means(known, wrong, SCALES[1], doubt)
        sizes.append(float(MomentMatched(model.stage(2), told, iterations=40).predict(z, at, given)[0].std()))
    assert sizes[1] < 1.2, "details are of size 1"
    assert sizes[0] > 1.5 * sizes[1]


def test_grey_stays_grey_in_every_mean_image():
    x = torch.rand(2, 3, SIDE, SIDE, generator=generator(0, "x"), dtype=torch.float64)
    told = coarser(Observation(Grey(), Grey().apply(x), 0.2), 0.3)
    assert isinstance(told.operator, Grey)
    torch.testing.assert_close(told.y, Grey().apply(haar.split(x)[0] / 2))
    assert told.noise == 0.1


@pytest.mark.parametrize("operator", [Known(MASK), BoxDown(2), Blur(SIDE, SIDE, 1.0)], ids=lambda o: type(o).__name__)
def test_operators_of_bands_have_their_transposes(operator):
    for linear, shape in ((OfMeans(operator), (1, 4, 4)), (OfDetails(operator, 0.3), (3, 4, 4))):
        x = torch.randn(2, *shape, generator=generator(0, "x"), dtype=torch.float64)
        y = linear.apply(x)
        other = torch.randn(y.shape, generator=generator(0, "y"), dtype=torch.float64)
        torch.testing.assert_close((y * other).sum(), (x * linear.transpose(other)).sum())


def test_a_square_that_is_known_is_known_exactly_and_one_that_is_not_says_nothing():
    known = torch.tensor([[True, True, True, False], [True, True, False, False]]).repeat(1, 1)
    y = torch.tensor([[1.0, 2.0, 5.0, 7.0], [3.0, 4.0, 8.0, 9.0]], dtype=torch.float64)[None, None]
    told = coarser(Observation(Known(known), Known(known).apply(y)), 0.3)
    assert told.y.flatten().tolist() == pytest.approx([2.5, 5.0])
    assert told.noise.flatten().tolist() == pytest.approx([0.0, 0.3 * 0.75**0.5])
    assert not is_exact(told)
    assert is_exact(coarser(Observation(BoxDown(2), y), 0.3))


@pytest.mark.parametrize("level", [0.3, 0.8])
def test_variations_of_data_are_data(level):
    model, cov = exact_cascade(4, 1, 60)
    x = CascadeEditor(model, plan(model, "dpmpp2m", 60)).vary(draw(cov, 1500), level).flatten(1)
    found = torch.linalg.eigvalsh(x.T @ x / len(x)) / torch.linalg.eigvalsh(cov)
    assert float((found - 1).abs().max()) < 0.2


def test_variations_leave_the_image_band_by_band(white):
    model, cov = white
    x, editor = draw(cov, 8), CascadeEditor(model, plan(model, "dpmpp2m", 24))
    varied = [editor.vary(x, level) for level in (0.2, 0.33, 0.6, 0.8, 1.0)]
    distance = [float((made - x).square().mean().sqrt()) for made in varied]
    assert distance == sorted(distance)
    for made, band in zip(varied, (1, 1, 0), strict=False):
        torch.testing.assert_close(model.means(made, band), model.means(x, band), rtol=0, atol=1e-6)
    with pytest.raises(UserError, match=r"level=1.2 must lie in \(0, 1\]"):
        editor.vary(x, 1.2)


def test_interpolation_begins_and_ends_near_its_ends(white):
    model, cov = white
    x, editor = draw(cov, 2), CascadeEditor(model, plan(model, "dpmpp2m", 24))
    for level in (0.1, 0.7):
        path = editor.interpolate(x[0], x[1], 5, level)
        assert path.shape == (5, 1, SIDE, SIDE)
        for place, image in ((0, x[0]), (-1, x[1])):
            torch.testing.assert_close(model.means(path, 0)[place], model.means(image[None], 0)[0], rtol=0, atol=0.05)
        steps = (path[1:] - path[:-1]).flatten(1).norm(dim=1)
        assert float(steps.max()) < 3 * float(steps.min())


def test_the_round_trip_returns(white):
    model, cov = white
    x, errors = draw(cov, 4), []
    for steps in (16, 64):
        editor = CascadeEditor(model, plan(model, "dpmpp2m", steps))
        errors.append(float((editor.round_trip(x) - x).abs().max()))
    assert errors[1] < min(0.1 * errors[0], 0.1)
    assert [tuple(z.shape[1:]) for z in editor.encode(x)] == [(1, 2, 2), (3, 2, 2), (3, 4, 4)]


@pytest.fixture(scope="module")
def two_stages():
    return cascade()


WAYS = [
    {"mask": np.arange(256).reshape(16, 16) < 99},
    {"degrade": "sr2"},
    {"degrade": "sr4"},
    {"degrade": "grey"},
    {"degrade": "blur", "quick": True},
    {"from_level": 0.3},
    {"from_level": 0.9},
    {"to": images(2)[1]},
    {"round_trip": True},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(map(str, way)))
def test_every_edit_takes_a_cascade(way, two_stages):
    model, image = two_stages, images(1)[0]
    count = 1 if "round_trip" in way else 2
    steps = 15 if "round_trip" in way else 4
    made = mv.edit(model, image, n=count, steps=steps, **way)
    assert made.images.shape == (count, 3, 16, 16)
    assert made.plan.nfe == steps
    if "mask" in way:
        kept = np.broadcast_to(~way["mask"], image.shape)
        assert (made.images[0][kept] == image[kept]).all()
    assert (made.images == mv.edit(model, image, n=count, steps=steps, **way).images).all()


def test_what_a_cascade_cannot_edit_is_said():
    model, image = cascade(), images(1)[0]
    with pytest.raises(UserError, match=r"method repaint takes a model of one stage.*take moments"):
        mv.edit(model, image, mask=np.eye(16, dtype=bool), method="repaint")
    with pytest.raises(UserError, match="steps=2 leaves no step to noise and back"):
        mv.edit(model, image, round_trip=True, steps=2)


def test_classes_and_guidance_reach_every_stage_of_an_edit():
    model, seen = cascade(num_classes=3), []
    for b, stage in enumerate(model.stages):
        stage.network.register_forward_pre_hook(lambda _, inputs, b=b: seen.append((b, inputs[2])))
    mv.edit(model, images(1)[0], mask=np.eye(16, dtype=bool), n=1, steps=2, labels=1, guidance=2.0)
    known: dict[int, list[Condition | None]] = {0: [], 1: []}
    for b, condition in seen:
        known[b].append(condition)
    for conditions in known.values():
        assert {None if c is None or c.label is None else int(c.label) for c in conditions} == {None, 1}
    assert all(c is not None and c.coarse is not None for c in known[1])
