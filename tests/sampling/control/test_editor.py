"""Edits on image-shaped Gaussian data with an exact denoiser."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.sampling.conftest import make_model

from markovae.diffusion.forward import noised
from markovae.diffusion.reverse import FullVariance
from markovae.errors import UserError
from markovae.sampling.denoiser import Clipped
from markovae.sampling.editor import Editor
from markovae.sampling.generation import sample
from markovae.sampling.inverse import Blur, BoxDown, Grey, IsotropicCovariance, Observation
from markovae.sampling.plans import Plan, plan
from markovae.theory.mixture import Denoiser, pink_gaussian, pink_pair
from markovae.theory.quadrature import slope

SHAPE = (3, 4, 4)


@pytest.fixture
def model(model_of):
    return model_of(pink_gaussian(SHAPE))


@pytest.fixture
def editor(model):
    return Editor(model, plan(model, "dpmpp2m", 12))


@pytest.fixture(scope="module")
def images():
    """Four that the model draws; tests leave them as they are."""
    model = make_model(Denoiser(pink_gaussian(SHAPE)), SHAPE)
    return model.to_x(torch.from_numpy(sample(model, 4, steps=40, seed=3)))


KNOWN = torch.arange(16).reshape(4, 4) < 7


@pytest.mark.parametrize("method", ["inpaint", "repaint"])
def test_known_pixels_are_returned_exactly_and_others_drawn(method, model, editor, images):
    drawn = {"inpaint": editor.inpaint, "repaint": editor.repaint}[method](images, KNOWN)
    digits, before = model.pixels.to_pixel_values(drawn), model.pixels.to_pixel_values(images)
    assert torch.equal(digits[..., KNOWN], before[..., KNOWN])
    assert torch.equal(drawn[..., KNOWN], images[..., KNOWN])
    assert float((drawn - images)[..., ~KNOWN].abs().mean()) > 0.02


def test_unknown_pixels_are_not_read(editor, images):
    other = torch.where(KNOWN, images, torch.full_like(images, torch.nan))
    for method in (editor.inpaint, editor.repaint):
        assert torch.equal(method(images, KNOWN), method(other, KNOWN))


def test_inpainting_follows_what_is_known(model):
    """The drawn half correlates with the truth as its posterior mean does; two seeds differ."""
    images = model.to_x(torch.from_numpy(sample(model, 64, steps=40, seed=3)))
    first, second = (Editor(model, plan(model, "dpmpp2m", 12), seed) for seed in (0, 1))
    one = first.inpaint(images, KNOWN, None, 25)
    assert not torch.equal(one[:2], second.inpaint(images[:2], KNOWN, None, 25))
    error = float((one - images)[..., ~KNOWN].square().mean())
    unrelated = float((one.flip(0) - images)[..., ~KNOWN].square().mean())
    assert error < 0.8 * unrelated


def test_edits_depend_on_seed_and_number_only(editor, images):
    whole, first = editor.inpaint(images, KNOWN), editor.inpaint(images[:2], KNOWN)
    torch.testing.assert_close(whole[:2], first, rtol=0, atol=1e-9)
    torch.testing.assert_close(editor.vary(images, 0.5)[:1], editor.vary(images[:1], 0.5), rtol=0, atol=1e-9)


@pytest.mark.parametrize("operator", [BoxDown(2), BoxDown(4), Blur(4, 4, 0.8), Grey()])
def test_restored_images_have_what_was_observed(operator, editor, images):
    y = operator.apply(images)
    restored = editor.restore(Observation(operator, y), iterations=30)
    torch.testing.assert_close(operator.apply(restored), y, rtol=0, atol=2e-3)
    # A mild blur loses nothing, so that without noise its posterior is the image itself.
    invertible = isinstance(operator, Blur)
    assert (float((restored - images).abs().mean()) < 1e-6) == invertible
    quick = editor.restore(Observation(operator, y), IsotropicCovariance(0.25), iterations=30)
    torch.testing.assert_close(operator.apply(quick), y, rtol=0, atol=2e-2)


def test_variations_leave_the_image_as_the_level_rises(editor, images):
    distance = [float((editor.vary(images, level) - images).square().mean().sqrt()) for level in (0.1, 0.4, 0.7, 1.0)]
    assert distance == sorted(distance)
    assert distance[0] < 0.02
    assert distance[-1] == pytest.approx(float((images[[1, 2, 3, 0]] - images).square().mean().sqrt()), rel=0.5)


def test_variations_of_data_are_data(model):
    """Noising data and walking back keeps the law: the variance of the pixels stays the data's."""
    data = model.network.toy.sample(400, torch.Generator().manual_seed(0))
    varied = Editor(model, plan(model, "dpmpp2m", 40)).vary(data, 0.6)
    assert float(varied.var()) == pytest.approx(0.25, rel=0.12)


def test_interpolation_begins_and_ends_at_the_variations_of_its_ends(editor, images):
    path = editor.interpolate(images[0], images[1], 5, 0.3)
    assert path.shape == (5, *SHAPE)
    for place, image in ((0, images[0]), (-1, images[1])):
        assert float((path[place] - image).square().mean().sqrt()) < 0.1
    steps = (path[1:] - path[:-1]).flatten(1).norm(dim=1)
    assert float(steps.max()) < 3 * float(steps.min())


def test_interpolated_noise_keeps_its_strength_unless_told_otherwise(model, images, monkeypatch):
    strengths = []

    def watch(x, eps, logsnr):
        strengths.append(eps.square().flatten(1).mean(1).sqrt())
        return noised(x, eps, logsnr)

    monkeypatch.setattr("markovae.sampling.editor.noised", watch)
    editor = Editor(model, plan(model, "ddim", 3))
    for rescale in (True, False):
        editor.interpolate(images[0], images[1], 3, 0.5, rescale)
    assert float(strengths[0][1]) == pytest.approx(1, abs=0.25)
    assert float(strengths[1][1]) == pytest.approx(float(strengths[0][1]) / 2**0.5)


def test_a_strip_ends_in_the_samples(model, editor):
    strip = editor.strip(3, 4)
    assert strip.shape == (4, 3, *SHAPE)
    torch.testing.assert_close(
        strip[-1].float(), torch.from_numpy(sample(model, 3, steps=12, sampler="dpmpp2m", raw=True))
    )
    assert [float((picture - strip[-1]).norm()) for picture in strip] == sorted(
        [float((picture - strip[-1]).norm()) for picture in strip], reverse=True
    )
    assert editor.strip(1, 1).shape == (1, 1, *SHAPE)


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpmpp2m", 3), ("heun", 3), ("dpmpp3s", 3)])
def test_the_round_trip_returns_at_the_samplers_order(sampler, order, model_of):
    """One more where the order is even: there the leading errors of the two ways, ∝ h^p and (−h)^p, cancel."""
    model = model_of(pink_pair((1, 4, 4)))
    images = model.network.toy.sample(8, torch.Generator().manual_seed(1))
    log_snrs, errors = (64, 160), []
    for count in log_snrs:
        stepper = plan(model, sampler, 2).stepper
        editor = Editor(model, Plan(stepper, plan(model, "ddim", count, "uniform").grid))
        errors.append(float((editor.decode(editor.encode(images)) - images).square().mean().sqrt()))
    assert -slope(torch.tensor(log_snrs), torch.tensor(errors)) == pytest.approx(order, abs=0.3)
    assert errors[-1] < 0.05


def test_encoded_images_look_like_noise(model_of):
    model = model_of(pink_gaussian(SHAPE))
    images = model.network.toy.sample(200, torch.Generator().manual_seed(2))
    z = Editor(model, plan(model, "dpmpp2m", 60, "uniform")).encode(images)
    covariance = z.flatten(1).T.cov()
    assert float(covariance.diagonal().mean()) == pytest.approx(1, abs=0.06)
    assert float((covariance - covariance.diagonal().diag()).abs().mean()) < 0.1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda e, x: e.inpaint(x, torch.ones(5, 4)), r"the mask is \(5, 4\)"),
        (lambda e, x: e.repaint(x, torch.ones(3, 3)), r"the mask is \(3, 3\)"),
        (lambda e, x: e.vary(x[..., :3], 0.5), "images of shape"),
        (lambda e, x: e.vary(x, 0.0), "level=0"),
        (lambda e, x: e.vary(x, 1.2), "level=1.2"),
        (lambda e, x: e.interpolate(x[0], x[1], 1, 0.5), "count=1"),
        (lambda e, x: e.strip(0, 3), "n=0"),
        (lambda e, x: Editor(e.model, plan(e.model, "ancestral", 5)).encode(x), "draws random numbers"),
        (lambda e, x: Editor(e.model, plan(e.model, "pc", 5)).decode(x), "draws random numbers"),
    ],
)
def test_bad_requests_are_one_sentence(call, sentence, editor, images):
    with pytest.raises(UserError, match=sentence):
        call(editor, images)


def test_the_plans_threshold_holds_in_every_edit(model, images):
    held = replace(plan(model, "dpmpp2m", 8), threshold=partial(Clipped, limit=0.05))
    assert float(Editor(model, held).vary(images, 0.8).abs().max()) <= 0.05
    assert float(Editor(model, plan(model, "dpmpp2m", 8)).vary(images, 0.8).abs().max()) > 0.1


def test_a_model_with_a_full_variance_is_edited_as_any(model, images):
    full = model.with_reverse(FullVariance())
    one, two = (Editor(m, plan(m, "dpmpp2m", 5)).inpaint(images, KNOWN) for m in (full, model))
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("sampler", ["ddim", "deis2", "deis3", "unipc3"])
def test_one_log_snr_is_walked_nowhere(sampler, model, images):
    editor = Editor(model, plan(model, sampler, 1))
    torch.testing.assert_close(editor.decode(editor.encode(images)), images)


def test_digits_are_no_numbers_on_the_scale(editor):
    with pytest.raises(UserError, match=r"model\.to_x"):
        editor.vary(torch.full((1, *SHAPE), 200, dtype=torch.uint8), 0.1)
