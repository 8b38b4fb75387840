"""Guidance on two classes on a line, and its refusals."""

import numpy as np
import pytest
import torch
from torch import nn

from markovae.diffusion.decoder import DensityDecoder
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA
from markovae.errors import UserError
from markovae.networks.conditioning import Condition
from markovae.randomness import Streams
from markovae.sampling.generation import final_latents, network_evaluations, sample, sample_trajectory
from markovae.sampling.grids import uniform_grid
from markovae.sampling.guidance import Guidance, Guided, Interval, Unconditional
from markovae.sampling.plans import Plan, plan
from markovae.sampling.samplers import AdamsBashforth, UniC, trajectory
from markovae.theory.mixture import Mixture
from markovae.theory.quadrature import slope

LOGSNR = torch.tensor(0.4, dtype=torch.float64)


def some(batch=6):
    z = torch.linspace(-1.5, 1.5, batch, dtype=torch.float64)[:, None]
    return z, Condition(label=torch.arange(batch) % 2)


def test_weight_one_is_no_guidance_bitwise(class_model):
    whole = sample(class_model, 8, steps=6, labels=1, raw=True)
    assert np.array_equal(sample(class_model, 8, steps=6, labels=1, guidance=1.0, raw=True), whole)
    z, condition = some()
    guided = Guided(class_model, Unconditional(class_model), 1.0)
    assert torch.equal(guided.predict(z, LOGSNR, condition)[0], class_model.predict(z, LOGSNR, condition)[0])


def test_guidance_extrapolates_from_the_unconditional_guess(class_model):
    z, condition = some()
    with_class, without = class_model.denoise(z, LOGSNR, condition), class_model.denoise(z, LOGSNR)
    for weight in (0.0, 0.5, 3.0):
        found, _ = Guided(class_model, Unconditional(class_model), weight).predict(z, LOGSNR, condition)
        torch.testing.assert_close(found, without + weight * (with_class - without))


def test_guidance_acts_inside_its_interval_alone(class_model, counting):
    strong = counting(Mixture.line([1.0], [0.2], [0.3]))
    weak = counting(Mixture.line([1.0], [-0.2], [0.3]))
    guided = Guided(strong, weak, 2.0, Interval(-1.0, 3.0))
    z, _ = some()
    for logsnr, inside in ((-1.5, False), (-1.0, True), (2.9, True), (3.1, False)):
        logsnr = torch.tensor(logsnr, dtype=torch.float64)
        before = weak.calls
        differs = not torch.equal(guided.predict(z, logsnr)[0], strong.predict(z, logsnr)[0])
        assert differs == inside == (weak.calls > before)


def test_labels_lead_to_their_class_and_guidance_further(class_model):
    labels = [0, 1] * 100
    plain = sample(class_model, 200, steps=40, labels=labels, raw=True)[:, 0]
    assert plain[0::2].mean() == pytest.approx(-0.6, abs=4 * 0.1 / 10)
    assert plain[1::2].mean() == pytest.approx(0.6, abs=4 * 0.1 / 10)
    pushed = sample(class_model, 200, steps=40, labels=labels, guidance=4.0, raw=True)[:, 0]
    assert pushed[1::2].mean() > plain[1::2].mean()
    assert pushed[0::2].mean() < plain[0::2].mean()


def test_labels_belong_to_their_sample_whatever_the_batch(class_model):
    labels = [0, 1, 1, 0, 1]
    whole = sample(class_model, 5, steps=5, labels=labels, guidance=2.0, raw=True)
    parts = sample(class_model, 5, steps=5, labels=labels, guidance=2.0, batch=2, raw=True)
    np.testing.assert_allclose(whole, parts, rtol=0, atol=1e-12)


def test_autoguidance_moves_away_from_the_weaker_model(model_of):
    strong, weak = model_of(Mixture.line([1.0], [0.3], [0.2])), model_of(Mixture.line([1.0], [0.1], [0.4]))
    plain = sample(strong, 300, steps=10, raw=True)
    pushed = sample(strong, 300, steps=10, guidance=Guidance(2.0, weaker=weak), raw=True)
    assert pushed.std() < plain.std()
    assert pushed.mean() > plain.mean()


def test_a_condition_stands_for_labels(class_model):
    labels = [0, 1, 1]
    wanted = sample(class_model, 3, steps=5, labels=labels, guidance=2.0, raw=True)
    given = sample(class_model, 3, steps=5, condition=Condition(label=torch.tensor(labels)), guidance=2.0, raw=True)
    assert np.array_equal(given, wanted)
    for_all = sample(class_model, 3, steps=5, condition=Condition(label=torch.tensor([1])), raw=True)
    assert np.array_equal(for_all, sample(class_model, 3, steps=5, labels=1, raw=True))
    nothing = sample(class_model, 3, steps=5, condition=Condition(), raw=True)
    assert np.array_equal(nothing, sample(class_model, 3, steps=5, labels="none", raw=True))


def test_a_model_of_classes_draws_each_in_turn(class_model):
    wanted = sample(class_model, 5, steps=5, labels=[0, 1, 0, 1, 0], raw=True)
    for labels in (None, "all"):
        assert np.array_equal(sample(class_model, 5, steps=5, labels=labels, raw=True), wanted)


def test_a_null_that_was_never_trained_is_refused_not_sampled(class_model):
    class_model.null_trained = False
    sample(class_model, 3, steps=2)
    for options in ({"labels": "none"}, {"condition": Condition()}):
        with pytest.raises(UserError, match="never trained without classes"):
            sample(class_model, 3, steps=2, **options)
    with pytest.raises(UserError, match="never trained without one"):
        sample(class_model, 3, steps=2, guidance=2.0)
    with pytest.raises(UserError, match="never trained without classes"):
        list(sample_trajectory(class_model, range(3), plan(class_model, "ddim", 2)))


def test_guidance_converges_at_the_solvers_order(class_model):
    """At few calls 2M overshoots, for the guided x̂ turns sharply where the class is decided; more calls mend it."""
    condition, weight = Condition(label=torch.zeros(64, dtype=torch.int64)), 3.0
    denoiser = Guided(class_model, Unconditional(class_model), weight)

    def ends(chosen):
        return final_latents(sample_trajectory(class_model, range(64), chosen, condition=condition, denoiser=denoiser))

    reference = ends(Plan(AdamsBashforth(3), uniform_grid(13.3, -10.0, 600), UniC(3)))
    counts = (80, 200)
    errors = [(ends(plan(class_model, "dpmpp2m", n)) - reference).square().mean().sqrt() for n in counts]
    assert -slope(torch.tensor(counts), torch.stack(errors)) == pytest.approx(2, abs=0.15)
    few = [ends(plan(class_model, name, 12)) for name in ("dpmpp2m", "unipc2")]
    pulled, corrected = (float((end - reference).square().mean().sqrt()) for end in few)
    assert float((few[0] - reference).mean()) > 0, "away from class 0, the wrong way"
    assert corrected < 0.5 * pulled


def test_bad_guidance_is_one_sentence(class_model, gaussian, model_of):
    plain = model_of(gaussian)
    with pytest.raises(UserError, match=r"guidance=3 needs a condition.*without labels"):
        sample(plain, 2, guidance=3.0)
    with pytest.raises(UserError, match=r"guidance=3 needs a condition.*0…1"):
        sample(class_model, 2, labels="none", guidance=3.0)
    with pytest.raises(UserError, match=r"class 2 is unknown: this model has classes 0, 1"):
        sample(class_model, 2, labels=2)
    with pytest.raises(UserError, match="trained without labels"):
        sample(plain, 2, labels=0)
    with pytest.raises(UserError, match=r"3 labels for n=2"):
        sample(class_model, 2, labels=[0, 1, 0])
    with pytest.raises(UserError, match=r"3 conditions for n=2"):
        sample(class_model, 2, condition=Condition(label=torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(UserError, match=r"class 2 is unknown"):
        sample(class_model, 1, condition=Condition(label=torch.tensor([2])))
    with pytest.raises(UserError, match="keep one"):
        sample(class_model, 1, labels=0, condition=Condition(label=torch.tensor([0])))
    weaker = model_of(Mixture.line([1.0], [0.0], [1.0]))
    with pytest.raises(UserError, match="the weaker model has 0 classes, this one 2"):
        sample(class_model, 1, labels=0, guidance=Guidance(2.0, weaker=weaker))
    with pytest.raises(UserError, match="one shape"):
        sample(plain, 2, guidance=Guidance(2.0, weaker=class_model))
    with pytest.raises(UserError, match="must lie within"):
        sample(class_model, 2, labels=0, guidance=float("inf"))
    with pytest.raises(ValueError, match="empty"):
        Interval(2.0, -2.0)


class Counted:
    """A denoiser of zeros that counts."""

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, z, logsnr, condition=None):
        self.calls += 1
        return torch.zeros_like(z), None


@pytest.mark.parametrize("sampler", ["dpmpp2m", "heun", "dpmpp3s", "unipc3", "pc"])
@pytest.mark.parametrize("interval", [None, Interval(-3.0, 2.0)])
def test_the_calls_that_are_told_are_those_that_are_made(sampler: str, interval: Interval | None):
    model = Diffusion(nn.Identity(), LogSNRLinear(100, 8.0, -8.0), DATA, PosteriorVariance(), DensityDecoder(), (2,))
    sample_trajectory = plan(model, sampler, 9)
    strong, weak = Counted(), Counted()
    guided = Guided(strong, weak, 2.0, interval)
    z = torch.zeros(1, 2, dtype=torch.float64)
    for _ in trajectory(
        guided,
        z,
        sample_trajectory.grid,
        sample_trajectory.stepper,
        Streams(1, "x", [0]),
        None,
        sample_trajectory.corrector,
    ):
        pass
    assert strong.calls == sample_trajectory.nfe
    assert network_evaluations(sample_trajectory, Guidance(2.0, interval)) == strong.calls + weak.calls
    assert network_evaluations(sample_trajectory, Guidance()) == sample_trajectory.nfe
    assert (interval is None) == (weak.calls == strong.calls)
