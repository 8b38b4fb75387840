import math

import pytest
import torch

from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.forms import draw_form, e1
from markovae.diffusion.pixels import Pixels
from markovae.randomness import Streams, generator
from markovae.theory.hierarchical import DigitStep, FixedStep, HierarchicalVAE, LearnedStep, TrainStep, train_through_e1

KEEPS = (0.8, 0.6, 0.3)


def ring(count: int, purpose: str) -> torch.Tensor:
    """A blurred circle: no Gaussian step leads back to it from a wide step of the fixed encoder."""
    g = generator(0, purpose)
    angle = 2 * math.pi * torch.rand(count, generator=g, dtype=torch.float64)
    radius = 1.2 * (1 + 0.1 * torch.randn(count, generator=g, dtype=torch.float64))
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


def vae(*, learned: bool) -> HierarchicalVAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = [LearnedStep(2, 2, keep, 32) for keep in KEEPS]
        encoder: list[TrainStep] = [LearnedStep(2, 2, k, 32) if learned else FixedStep(2, k) for k in KEEPS]
    return HierarchicalVAE(encoder, prior)


@pytest.mark.slow
def test_learning_the_encoder_improves_the_bound_beyond_its_interval() -> None:
    """The same prior, data, draws and steps; only the encoder may learn. Compared example by example."""
    data, held_out = ring(4000, "train"), ring(2000, "test")
    nats = {}
    for learned in (False, True):
        model = vae(learned=learned)
        history = list(train_through_e1(model, data, steps=500, batch=128, lr=5e-3))
        assert sum(history[-50:]) < sum(history[:50])
        with torch.no_grad():
            nats[learned] = draw_form(e1, model, held_out, Streams(1, "held out", range(2000)), 4).mean(0)
    gain = estimate_mean(nats[False] - nats[True])
    assert gain.value - 4 * gain.stderr > 0.1
    # H(ring) = ln 2π + H(r) + E ln r, r ~ N(1.2, 0.12²), E ln r ≈ ln 1.2 − 0.01/2: no bound lies below it.
    entropy = math.log(2 * math.pi) + 0.5 * math.log(2 * math.pi * math.e * 0.12**2) + math.log(1.2) - 0.005
    best = estimate_mean(nats[True])
    assert best.value > entropy - 4 * best.stderr


def test_before_training_the_learned_encoder_is_the_fixed_one() -> None:
    x = ring(50, "x")
    fixed, learned = vae(learned=False), vae(learned=True)
    values = [draw_form(e1, model, x, Streams(0, "p", range(50))) for model in (fixed, learned)]
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_e1_reaches_the_encoder_and_is_that_of_the_expectation() -> None:
    """One learned scale in a chain of one level: d/dθ of the closed-form bound against the reparameterised gradient."""

    class Scale(TrainStep):
        def __init__(self) -> None:
            super().__init__(1, 1)
            self.mean = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def given(self, z: torch.Tensor):
            from markovae.diffusion.gaussian import Gaussian

            return Gaussian(self.mean * z, torch.tensor(0.5, dtype=torch.float64))

    encoder, model_prior = Scale(), FixedStep(1, 0.6)
    model = HierarchicalVAE([encoder], [model_prior])
    x = torch.randn(40_000, 1, generator=generator(0, "x"), dtype=torch.float64)
    e1(model, model.encode(x, generator(0, "p"))).nats.mean().backward()
    # E −ln N(z; 0, 1) = ½(θ² + ½) and E −ln N(x; 0.6 z, 0.64) = ½(1 − 1.2 θ + 0.36 (θ² + ½))/0.64, up to constants.
    expected = 0.7 + (0.36 * 0.7 - 0.6) / 0.64
    assert float(encoder.mean.grad) == pytest.approx(expected, abs=0.03)


def test_training_is_a_function_of_its_seed() -> None:
    data = ring(100, "train")
    runs = [list(train_through_e1(vae(learned=True), data, steps=3, batch=16, seed=s)) for s in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_pixels_can_be_decoded_from_latents_of_another_size() -> None:
    pixels = Pixels(17)
    torch.manual_seed(0)
    model = HierarchicalVAE(
        [LearnedStep(6, 2, 0.5, 16), LearnedStep(2, 2, 0.5, 16)],
        [DigitStep(2, 6, pixels, 16), LearnedStep(2, 2, 0.5, 16)],
    )
    digits = torch.randint(17, (200, 1), generator=generator(0, "digits")).expand(-1, 6)
    x = pixels.to_x(digits)
    history = list(train_through_e1(model, x, steps=150, batch=64, lr=1e-2))
    # Six equal pixels of 17 digits carry ln 17 = 2.83 nats; six independent ones would carry 17.
    assert history[0] > 17
    assert math.log(17) < sum(history[-10:]) / 10 < 15
    drawn = model.generate(20, generator(0, "generate"))
    torch.testing.assert_close(pixels.to_x(pixels.to_pixel_values(drawn)), drawn)


@pytest.mark.parametrize(
    ("encoder", "prior", "message"),
    [
        ([FixedStep(2, 0.5)], [], "1 encoder steps and 0 prior steps"),
        ([], [], "L >= 1 steps"),
        ([FixedStep(2, 0.5)], [FixedStep(3, 0.5)], "level 1: the encoder maps 2 dimensions to 2, the prior 3 to 3"),
        ([FixedStep(2, 0.5), FixedStep(3, 0.5)], [FixedStep(2, 0.5), FixedStep(3, 0.5)], "do not join"),
    ],
)
def test_chains_that_do_not_fit_are_refused(encoder: list[TrainStep], prior: list[TrainStep], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HierarchicalVAE(encoder, prior)


def test_bad_arguments_are_refused() -> None:
    for keep in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"keep=.* must lie in \(0, 1\)"):
            FixedStep(2, keep)
    with pytest.raises(ValueError, match="steps=0"):
        next(train_through_e1(vae(learned=True), ring(5, "x"), steps=0))
    nothing = HierarchicalVAE([FixedStep(2, 0.5)], [FixedStep(2, 0.5)])
    with pytest.raises(ValueError, match="0 parameters"):
        next(train_through_e1(nothing, ring(5, "x"), steps=1))


def test_levels_and_vectors_that_do_not_fit_are_refused() -> None:
    model = vae(learned=True)
    with pytest.raises(ValueError, match=r"vectors of shape \(3, 5\) must be \(B, 2\): flatten images first"):
        model.encode(torch.zeros(3, 5), generator(0, "x"))
    for level in (0, 4):
        with pytest.raises(ValueError, match=rf"level={level} must lie in 1…3"):
            model.encoder_step(torch.zeros(3, 2), level)
        with pytest.raises(ValueError, match=rf"level={level} must lie in 1…3"):
            model.prior_step(torch.zeros(3, 2), level)
