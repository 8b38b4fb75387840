"""The flow's likelihood: exact where the truth is known, coupled to nothing, labelled as its own."""

import json
import math

import pytest
import torch
from tests.diffusion.exact_cascade import draw, exact_cascade
from tests.training.test_cascade_training import cascade
from tests.training.test_cascade_training import images as pixel_images

from markovae.diffusion.decoder import DensityDecoder, StepDecoder
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA, MEAN
from markovae.errors import UserError
from markovae.likelihood.ode import DormandPrince, RungeKutta4, TruncatedNormalNoise, UniformNoise, ode_likelihood
from markovae.randomness import generator
from markovae.theory.mixture import Denoiser, Mixture

GAUSS = Mixture.gaussian(torch.tensor([0.2, -0.3]), torch.tensor([[0.5, 0.3], [0.3, 0.4]]))
MIXED = Mixture.full(
    torch.tensor([0.4, 0.6]),
    torch.tensor([[0.8, 0.0], [-0.5, 0.5]]),
    torch.tensor([[[0.2, 0.1], [0.1, 0.3]], [[0.4, -0.1], [-0.1, 0.1]]]),
)


def model(toy: Mixture, first: float, last: float, decoder=None) -> Diffusion:
    decoder = DensityDecoder() if decoder is None else decoder
    made = Diffusion(Denoiser(toy), LogSNRLinear(2, first, last), DATA, PosteriorVariance(), decoder, toy.shape)
    made.precision = torch.float64
    return made


def test_gaussian_data_are_exact_to_a_millionth_of_a_nat():
    # Between log-SNR 30 and −30 the ends leave less than 1e-9; what remains is the integrator.
    x = GAUSS.sample(50, generator(0, "ode"))
    found = ode_likelihood(model(GAUSS, 30, -30), x, probes=None, integrator=DormandPrince(1e-9))
    assert float((found.nats + GAUSS.log_prob(x)).abs().max()) / 2 < 1e-6
    assert not found.probe_stderr.any()


@pytest.mark.parametrize(("first", "last"), [(14.0, -6.0), (6.0, -14.0)])
def test_at_other_ends_the_flow_is_off_by_what_it_should(first, last):
    # The flow is linear, and the law at the last log-SNR is N(0, I) by decree: closed-form at any ends.
    variance = torch.tensor([0.5, 0.2], dtype=torch.float64)
    toy = Mixture.gaussian(torch.zeros(2), variance.diag())
    x = toy.sample(20, generator(0, "ode"))
    found = ode_likelihood(model(toy, first, last), x, probes=None, integrator=RungeKutta4(64))
    stretch = (variance + math.exp(-last)) / (variance + math.exp(-first))
    a_last = torch.sigmoid(torch.tensor(last, dtype=torch.float64)).sqrt()
    z = a_last * stretch.sqrt() * x
    expected = -0.5 * (z**2 + math.log(2 * math.pi)).sum(1) + (a_last * stretch.sqrt()).log().sum()
    assert float((found.nats + expected).abs().max()) / 2 < 1e-6


@pytest.mark.parametrize("octaves", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_bands_of_a_cascade_multiply_to_the_density_of_images(octaves):
    cascade, cov = exact_cascade(4, octaves, 3, start=14.0, end=-14.0)
    x = draw(cov, 6)
    found = ode_likelihood(cascade, x, probes=None, integrator=RungeKutta4(30))
    normal = torch.distributions.MultivariateNormal(torch.zeros(16, dtype=torch.float64), cov)
    assert float((found.nats + normal.log_prob(x.flatten(1))).abs().max()) / 16 < 3e-4
    assert found.calls.tolist() == [120 * (octaves + 1)] * 6
    one, _ = exact_cascade(4, 0, 3, start=14.0, end=-14.0)
    alone = ode_likelihood(one.base, x, probes=None, integrator=RungeKutta4(3))
    assert torch.equal(ode_likelihood(one, x, probes=None, integrator=RungeKutta4(3)).nats, alone.nats)


def test_a_cascade_of_pixels_has_bits_by_probes():
    model, images = cascade(side=8), pixel_images(2, 8)
    found = ode_likelihood(model, images, probes=2, integrator=2)
    assert math.isfinite(found.bits_per_dim.value)
    assert found.calls.tolist() == [16] * 2
    single = ode_likelihood(model, images, probes=2, integrator=2, batch=1).nats
    torch.testing.assert_close(found.nats, single, rtol=1e-4, atol=1e-2)


def test_mixture_meets_its_density():
    x = MIXED.sample(40, generator(0, "ode"))
    found = ode_likelihood(model(MIXED, 20, -20), x, probes=None, integrator=DormandPrince(1e-8))
    assert float((found.nats + MIXED.log_prob(x)).abs().max()) < 1e-4


def test_error_of_the_fixed_grid_is_of_order_four():
    x = MIXED.sample(10, generator(0, "ode"))
    exact = ode_likelihood(model(MIXED, 3, -3), x, probes=None, integrator=RungeKutta4(60)).nats
    errors = [
        float((ode_likelihood(model(MIXED, 3, -3), x, probes=None, integrator=RungeKutta4(n)).nats - exact).abs().max())
        for n in (10, 20)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.5)


def test_examples_are_not_coupled():
    x = MIXED.sample(6, generator(0, "ode"))
    whole = ode_likelihood(model(MIXED, 6, -6), x, probes=2)
    split = ode_likelihood(model(MIXED, 6, -6), x, probes=2, batch=4)
    torch.testing.assert_close(whole.nats, split.nats, rtol=1e-12, atol=1e-12)
    assert torch.equal(whole.calls, split.calls)
    alone = ode_likelihood(model(MIXED, 6, -6), x[:1], probes=2)
    assert float(alone.nats) == pytest.approx(float(whole.nats[0]), rel=1e-12)


def test_probes_are_unbiased_and_tell_their_error():
    x = MIXED.sample(60, generator(0, "ode"))
    # On one grid both take the same way, whatever its steps: they differ by the probes alone.
    exact = ode_likelihood(model(MIXED, 6, -6), x, probes=None, integrator=RungeKutta4(8)).nats
    found = ode_likelihood(model(MIXED, 6, -6), x, probes=8, integrator=RungeKutta4(8))
    error = found.nats - exact
    spread = float((found.probe_stderr**2).sum().sqrt())
    assert abs(float(error.sum())) < 4 * spread
    assert float((error**2).mean().sqrt()) == pytest.approx(float((found.probe_stderr**2).mean().sqrt()), rel=0.35)
    again = ode_likelihood(model(MIXED, 6, -6), x, probes=8, integrator=RungeKutta4(8))
    assert torch.equal(again.nats, found.nats)
    single = ode_likelihood(model(MIXED, 6, -6), x[:2], probes=1, integrator=RungeKutta4(2))
    assert bool(single.probe_stderr.isnan().all())
    assert single.to_dict()["probe_stderr_nats"] is None


@pytest.mark.parametrize(
    ("pixels", "distribution"),
    [
        (Pixels(16), UniformNoise()),
        (Pixels(256), TruncatedNormalNoise(0.002)),
        (Pixels(256, centred=True), UniformNoise()),
    ],
)
def test_digits_are_offset_by_their_own_bins(pixels, distribution):
    """Σ_k P(k) = 1 for the flow, so Σ_k e^{−nats} ≤ 1, near it where the density is smooth across a bin."""
    toy = Mixture.gaussian(torch.zeros(1), torch.tensor([[0.04]]))
    digits = torch.arange(pixels.bins)[:, None]
    made = model(toy, 14, -14, StepDecoder(pixels))
    found = ode_likelihood(
        made, digits, probes=None, dequantization=distribution, integrator=RungeKutta4(56), batch=256
    )
    edges = (pixels.to_x(digits)[:, 0] + torch.tensor([[-1.0], [1.0]]) * pixels.half_width) / 0.2
    exact = torch.special.ndtr(edges[1]) - torch.special.ndtr(edges[0])
    # The expected bound is an average over the noise; many draws of it per digit stand in for the expectation.
    likely = exact > 1e-6
    gap = found.nats[likely] + exact[likely].log()
    weight = exact[likely] / exact[likely].sum()
    mean = float((weight * gap).sum())
    stderr = float((weight**2 * gap**2).sum().sqrt())
    width = 2 * pixels.half_width
    excess = 0.0 if isinstance(distribution, UniformNoise) else narrowness(distribution.scale, pixels.half_width)
    slack = 0.5 * width / 0.2
    assert mean == pytest.approx(excess, abs=4 * stderr + slack**2)


def narrowness(scale: float, half: float) -> float:
    """KL(q ‖ uniform): what a noise narrower than the bin wastes on a flat density, nats."""
    u = torch.linspace(-half, half, 200_001, dtype=torch.float64)
    q = torch.exp(-0.5 * (u / scale) ** 2)
    q = q / q.sum()
    return float((torch.xlogy(q, q)).sum()) + math.log(200_001)


def test_record_is_labelled_as_its_own():
    made = model(GAUSS, 8, -8, StepDecoder(Pixels(256)))
    found = ode_likelihood(made, torch.tensor([[100, 120], [90, 140]]), integrator=RungeKutta4(10))
    record = found.to_dict()
    assert record["model"] == "probability-flow ODE"
    assert record["bits_per_dim"]["mean"] == pytest.approx(record["nats"]["mean"] / 2 / math.log(2))
    assert record["network_calls_per_example"] == 40
    json.dumps(record, allow_nan=False)
    density = ode_likelihood(model(GAUSS, 8, -8), GAUSS.sample(2, generator(0, "ode")), integrator=RungeKutta4(10))
    assert "bits_per_dim" not in density.to_dict()
    assert "density_nats" in density.to_dict()
    with pytest.raises(UserError, match="bin width"):
        _ = density.bits_per_dim


def test_outputs_that_are_no_numbers_are_told():
    made = model(GAUSS, 6, -6)
    made.network.forward = lambda z, logsnr, condition=None: z * torch.nan
    with pytest.raises(UserError, match="image 0 gave nan nats"):
        ode_likelihood(made, GAUSS.sample(3, generator(0, "ode")), integrator=RungeKutta4(3))


def test_targets_of_one_step_are_refused():
    made = Diffusion(Denoiser(GAUSS), LogSNRLinear(9), MEAN, PosteriorVariance(), DensityDecoder(), (2,))
    with pytest.raises(UserError, match="no continuous limit"):
        ode_likelihood(made, GAUSS.sample(2, generator(0, "ode")))
