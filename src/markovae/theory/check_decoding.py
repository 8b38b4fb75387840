"""Pixels and the decoder P_pri(z_0|z_1), and the diffusion model made of all the parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.decoder import (
    DensityDecoder,
    DiscretisedGaussian,
    HoLargeDecoder,
    HoSmallDecoder,
    SoftmaxBins,
    StepDecoder,
)
from markovae.diffusion.forms import e1, e2, e3, e4, e5
from markovae.diffusion.forward import noise_scale, posterior_variance, signal_scale
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA
from markovae.randomness import generator
from markovae.theory.gaps import gaussian_exact
from markovae.theory.mixture import Denoiser, Mixture, correlated_gaussian
from markovae.theory.rows import DECODER, GAUSSIAN, PIXELS, Line, Pair, row, rows

_ROUNDING = 1e-10


def _model(levels: int, end: float = -10.0) -> Diffusion:
    toy: Mixture = correlated_gaussian()
    grid = LogSNRLinear(levels, 6.0, end)
    model = Diffusion(Denoiser(toy), grid, DATA, PosteriorVariance(), DensityDecoder(), toy.shape)
    model.precision = torch.float64
    return model


def _data(count: int) -> Tensor:
    return correlated_gaussian().sample(count, generator(0, "model data"))


def _digit_nats(digit: int, mean: float, scale: float) -> float:
    pixels = Pixels(256)
    at = torch.tensor([[mean]], dtype=torch.float64)
    distribution = DiscretisedGaussian(at, torch.tensor(scale, dtype=torch.float64), pixels)
    return -float(distribution.log_prob(pixels.to_x(torch.tensor([[digit]]))))


@row(GAUSSIAN, "posterior.narrower", "β̃_ℓ = σ_ℓ² s_{ℓ−1}²/s_ℓ², less than σ_ℓ²", 1e-12)
def posterior_is_narrower() -> Pair:
    """The encoder posterior's variance is β̃, not σ²: β̃_ℓ/σ_ℓ² = s_{ℓ−1}²/s_ℓ², at λ = 2, 1.5."""
    before, now = torch.tensor([2.0, 1.5], dtype=torch.float64)
    kept = (1 + math.exp(-2.0)) / (1 + math.exp(-1.5))
    ratio = (1 + math.exp(1.5)) / (1 + math.exp(2.0))
    return ratio, float(posterior_variance(before, now)) / (1 - kept)


@row(GAUSSIAN, "model.forms", "E1 = … = E5 along one path of a diffusion model", _ROUNDING)
def model_forms() -> Pair:
    """E2 … E5 against E1 along paths of a diffusion model: the largest relative difference is 0."""
    model, x = _model(12), _data(20)
    path = model.encode(x, generator(0, "model paths"))
    first = e1(model, path)
    others = torch.stack([form(model, path).nats for form in (e2, e3, e4, e5)])
    return 0.0, float(((others - first.nats).abs() / first.magnitude).max())


@row(GAUSSIAN, "model.prior", "KL(q(z_L|z_0) ‖ N(0,I)) = ½Σ[a²x² + s² − 1 − ln s²]", _ROUNDING)
def model_prior() -> Pair:
    """KL(q(z_L|z_0) ‖ N(0, I)) = ½Σ[a²x² + s² − 1 − ln s²] at λ_L = −2, nats."""
    model, x = _model(12, end=-2.0), _data(20)
    a2, s2 = 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))
    return float((0.5 * (a2 * x**2 + s2 - 1 - math.log(s2))).sum()), float(model.prior_nats(x).sum())


@row(GAUSSIAN, "model.level", "a level costs ½(γ_{ℓ−1} − γ_ℓ)‖z_0 − ẑ_0‖²", _ROUNDING)
def model_terms() -> Pair:
    """A level's nats of the model, drawn, against ½(γ_{ℓ−1} − γ_ℓ)‖x − x̂‖² at the same noise: relative difference 0."""
    model, x = _model(12), _data(6)
    nats = model.level_nats(x, torch.full((6,), 5), generator(0, "term"))
    noise = torch.randn(x.shape, generator=generator(0, "term"), dtype=torch.float64)
    before, now = model.schedule.logsnr[4], model.schedule.logsnr[5]
    z = (now.exp() / (1 + now.exp())).sqrt() * x + (1 / (1 + now.exp())).sqrt() * noise
    error = ((x - correlated_gaussian().denoise(z, now)) ** 2).sum(1)
    return 0.0, float((nats / (0.5 * (before.exp() - now.exp()) * error) - 1).abs().max())


@row(GAUSSIAN, "model.bound", "E[bound] = H(z_0) + gaps of prior, levels and decoder: within 4 standard errors", 4.0)
def model_bound(count: int = 60_000) -> Pair:
    """The mean bound of Gaussian data less its entropy and gaps in closed form, in standard errors, below 4.

    What is averaged is the bound less −ln p(x), which varies less and has the gaps for its mean.
    """
    model, toy, x = _model(16), correlated_gaussian(), _data(count)
    excess = estimate_mean(model.bound(x, generator(0, "bound")).total + toy.log_prob(x))
    values, mean = toy.modes.variance[0], toy.distribution(1).mean()
    covariance = toy.distribution(1).covariance()[0]
    logsnr = model.schedule.logsnr[1:]
    gap = float(gaussian_exact(covariance, logsnr).posterior.sum())
    a2, s2 = signal_scale(logsnr[-1]) ** 2, noise_scale(logsnr[-1]) ** 2
    # The decoder is N(x̂, s²/a²) where the truth is Cov[x|z_1]; the prior N(0, I) where the truth is p(z_L).
    top, ratio = a2 * values + s2, 1 / (1 + 1 / (logsnr[0].exp() * values))
    decoder, prior = (0.5 * float((r - 1 - r.log()).sum()) for r in (ratio, top))
    wanted = gap + decoder + prior + 0.5 * float(a2 * (mean**2).sum())
    return 0.0, abs(excess.value - wanted) / excess.stderr


@rows(
    PIXELS,
    Line("pixels.ends", "x = k/127.5 − 1, half width 1/255 (Ho et al.)", 1e-12),
    Line("pixels.centres", "x = (2k+1)/256 − 1, half width 1/256 (VDM)", 1e-12),
)
def conventions() -> Sequence[Pair]:
    """x = k/127.5 − 1 with half width 1/255, and x = (2k+1)/256 − 1 with half width 1/256: largest difference 0."""
    digits = torch.arange(256)
    ends, centres = Pixels(256), Pixels(256, centred=True)
    ends_off = (ends.to_x(digits) - (digits.double() / 127.5 - 1)).abs().max()
    centres_off = (centres.to_x(digits) - ((2 * digits.double() + 1) / 256 - 1)).abs().max()
    return [
        (0.0, max(float(ends_off), abs(255 * ends.half_width - 1))),
        (0.0, max(float(centres_off), abs(256 * centres.half_width - 1))),
    ]


@rows(
    DECODER,
    Line("decoder.width", "τ = s_1/a_1", 1e-12),
    Line("decoder.density", "p_pri(z_0|z_1) = N(x̂, s_1²/a_1²)", 1e-12),
    Line("decoder.large", "τ = σ_1 = √β_1 (Ho et al., large)", 1e-12),
    Line("decoder.small", "τ = √β̃_2 (Ho et al., small)", 1e-12),
)
def widths() -> Sequence[Pair]:
    """τ of the decoders at λ_1 = 5, λ_2 = 4: s_1/a_1 = e^{−λ_1/2}; σ_1 = s_1; √β̃_2 (Ho et al.)."""
    logsnr, pixels = torch.tensor([math.inf, 5.0, 4.0], dtype=torch.float64), Pixels(256)
    density = DensityDecoder().distribution(torch.zeros(1, 1, dtype=torch.float64), logsnr)
    noise = (1 + math.exp(5)) ** -0.5
    kept = (1 + math.exp(-5)) / (1 + math.exp(-4))
    second = (1 - kept) * noise**2 / (1 / (1 + math.exp(4)))
    return [
        (math.exp(-2.5), float(StepDecoder(pixels).scale(logsnr))),
        (math.exp(-5), float(density.variance)),
        (noise, float(HoLargeDecoder(pixels).scale(logsnr))),
        (math.sqrt(second), float(HoSmallDecoder(pixels).scale(logsnr))),
    ]


@row(DECODER, "decoder.sum", "Σ_k P(k) = 1, end bins open", _ROUNDING)
def digit_probabilities() -> Pair:
    """Σ_k P(k) = 1 with open end bins, for means inside and outside the scale: the largest difference is 0."""
    pixels = Pixels(32)
    places = pixels.to_x(torch.arange(32)).unsqueeze(1)
    sums = [
        DiscretisedGaussian(torch.full_like(places, mean), torch.tensor(scale), pixels).log_prob(places).exp().sum() - 1
        for mean, scale in ((0.1, 0.2), (-1.3, 0.05), (0.9, 2.0))
    ]
    return 0.0, max(abs(float(off)) for off in sums)


@row(DECODER, "decoder.mass", "P(k) = Φ((x_k+h−μ)/τ) − Φ((x_k−h−μ)/τ)", 1e-9)
def digit_mass() -> Pair:
    """P(k) of an inner bin: Φ((x+h−μ)/τ) − Φ((x−h−μ)/τ) by the error function, ln, nats."""
    centre, half, mean, scale = 2 * 140 / 255 - 1, 1 / 255, 0.03, 0.04
    upper, lower = ((centre + side * half - mean) / scale for side in (1, -1))
    wanted = -math.log(0.5 * (math.erf(upper / math.sqrt(2)) - math.erf(lower / math.sqrt(2))))
    return wanted, _digit_nats(140, mean, scale)


@row(DECODER, "decoder.tail", "the same 30 standard deviations out: nothing is clamped", 1e-8)
def digit_tail() -> Pair:
    """The same about 30 standard deviations out, where a clamp at 1e-12 would say 27.6 nats."""
    centre, half, mean, scale = 2 * 250 / 255 - 1, 1 / 255, -0.2, 0.0385
    near, far = ((centre - side * half - mean) / scale for side in (1, -1))
    wanted = -math.log(0.5 * (math.erfc(near / math.sqrt(2)) - math.erfc(far / math.sqrt(2))))
    return wanted, _digit_nats(250, mean, scale)


@row(DECODER, "decoder.softmax", "P(k|z_1) ∝ exp(−(x_k − z_1/a_1)² a_1²/2s_1²)", _ROUNDING)
def softmax_digits() -> Pair:
    """P(k|z_1) ∝ exp(−(x_k − m)²/2τ²): ln P of each of eight digits, largest difference 0."""
    pixels, mean, scale = Pixels(8, centred=True), 0.17, 0.3
    places = [(2 * k + 1) / 8 - 1 for k in range(8)]
    weights = [math.exp(-((x - mean) ** 2) / (2 * scale**2)) for x in places]
    at = torch.tensor(places, dtype=torch.float64).unsqueeze(1)
    distribution = SoftmaxBins(torch.full_like(at, mean), torch.tensor(scale, dtype=torch.float64), pixels)
    wanted = torch.tensor([math.log(w / sum(weights)) for w in weights], dtype=torch.float64)
    return 0.0, float((distribution.log_prob(at) - wanted).abs().max())


CHECKS = (
    posterior_is_narrower,
    model_forms,
    model_prior,
    model_terms,
    model_bound,
    conventions,
    widths,
    digit_probabilities,
    digit_mass,
    digit_tail,
    softmax_digits,
)
