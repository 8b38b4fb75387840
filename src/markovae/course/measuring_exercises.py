"""Chapters 7, 9 and 10: bits where they go, nats of a caption, and the length of a file."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from markovae.course.exercise import Draw, Exercise, Mistake
from markovae.diffusion.bound import Bound, estimate_mean
from markovae.diffusion.decoder import DiscretisedGaussian
from markovae.diffusion.pixels import Pixels

PIXELS = Pixels(256)


def _pixel_inputs(draw: Draw) -> tuple[Tensor, Tensor, float]:
    """The end bins too: one pixel of the first row is 0, one 255."""
    values = torch.tensor([[draw.whole(0, 256) for _ in range(4)] for _ in range(2)])
    values[0, 0], values[0, 1] = 0, 255
    x = PIXELS.to_x(values)
    return x, (x + 0.02 * draw.normal(2, 4)).clamp(-0.99, 0.99), draw.number(0.005, 0.05)


def _pixel_log_prob(x: Tensor, mean: Tensor, scale: float) -> Tensor:
    return DiscretisedGaussian(mean, torch.full((1, 1), scale, dtype=torch.float64), PIXELS).log_probs(x)


def _naive_pixel(x: Tensor, mean: Tensor, scale: float, half: float = 1 / 255) -> Tensor:
    cdf = torch.distributions.Normal(0.0, 1.0).cdf
    return (cdf((x + half - mean) / scale) - cdf((x - half - mean) / scale)).log()


def _drawn_levels(draw: Draw) -> tuple[Tensor, Tensor]:
    """Costs of drawn levels and the probabilities that they were drawn with."""
    count = draw.whole(3, 9)
    return draw.uniform(0.1, 5, count), draw.uniform(0.01, 0.5, count)


def _pairs(draw: Draw) -> tuple[Tensor, Tensor]:
    count = draw.whole(4, 12)
    return draw.uniform(50, 60, count), draw.uniform(40, 50, count)


def _deviation(values: Tensor) -> Tensor:
    return values.std() / math.sqrt(len(values))


MEASURING_EXERCISES = (
    Exercise(
        "bits_per_dim",
        7,
        "nats, dims",
        "Bits per dimension of an example of `dims` numbers that costs `nats`. nats: (B,). dims: a whole number",
        lambda draw: (draw.uniform(10, 500, 3), draw.whole(2, 300)),
        lambda nats, dims: nats / (dims * math.log(2)),
        (
            Mistake("these are nats per dimension: divide by ln 2", lambda nats, dims: nats / dims),
            Mistake(
                "multiplied by ln 2: bits are smaller than nats, so there are more",
                lambda nats, dims: nats * math.log(2) / dims,
            ),
            Mistake("these are bits of the whole example", lambda nats, dims: nats / math.log(2)),
        ),
    ),
    Exercise(
        "bound_total",
        7,
        "prior, levels, reconstruction",
        "The whole bound of each example, nats, (B,): prior (B,), levels (B, L−1), reconstruction (B,)",
        lambda draw: (draw.uniform(0, 2, 3), draw.uniform(0, 2, 3, 5), draw.uniform(0, 2, 3)),
        lambda prior, levels, reconstruction: Bound(prior, levels, reconstruction, 1).total,
        (
            Mistake("the levels are averaged: the bound is their sum", lambda p, v, r: p + v.mean(1) + r),
            Mistake("the term at the top is missing", lambda p, v, r: v.sum(1) + r),
            Mistake("the decoder's term is missing", lambda p, v, r: p + v.sum(1)),
        ),
    ),
    Exercise(
        "pixel_log_prob",
        7,
        "x, mean, scale",
        "ln of the probability of each pixel's bin under N(mean, scale²), nats, (B, D), on Ho et al.'s scale: a bin is "
        "x ± 1/255, and the bins at −1 and 1 are open outwards. scale: a number",
        _pixel_inputs,
        _pixel_log_prob,
        (
            Mistake("the two end bins are not open", _naive_pixel),
            Mistake(
                "this is the density's logarithm: the probability is its integral over the bin",
                lambda x, m, s: torch.distributions.Normal(m, s).log_prob(x),
            ),
            Mistake("the bin's half-width is 1/255, not 1/256", lambda x, m, s: _naive_pixel(x, m, s, 1 / 256)),
        ),
    ),
    Exercise(
        "estimate_levels",
        7,
        "costs, probabilities",
        "An unbiased estimate of the sum over all levels from levels drawn independently: costs (M,), each drawn with "
        "probability probabilities (M,)",
        _drawn_levels,
        lambda costs, probabilities: (costs / probabilities).mean(),
        (
            Mistake("the costs are multiplied by the probabilities: divide", lambda c, p: (c * p).mean()),
            Mistake("a sum over the draws: it grows with their number; take the mean", lambda c, p: (c / p).sum()),
            Mistake(
                "normalized weights are biased: divide by the number of draws",
                lambda c, p: (c / p).sum() / (1 / p).sum(),
            ),
        ),
    ),
    Exercise(
        "standard_error",
        7,
        "values",
        "The standard error of the mean of independent values, (N,)",
        lambda draw: (draw.normal(draw.whole(3, 12)),),
        lambda values: estimate_mean(values).stderr,
        (
            Mistake("this is the standard deviation of one value: divide by √N", lambda v: v.std()),
            Mistake("divided by N: the error falls with √N", lambda v: v.std() / len(v)),
            Mistake(
                "the variance is divided by N: with N − 1 it is unbiased",
                lambda v: v.std(unbiased=False) / math.sqrt(len(v)),
            ),
        ),
    ),
    Exercise(
        "noise_error_nats",
        7,
        "error, width",
        "Nats per dimension of narrow bands of log-SNR, `width` wide, where the cumulative noise is predicted with "
        "mean squared error `error` per dimension: ½ error · width. Both (N,); returns their sum, ()",
        lambda draw: (draw.uniform(0.01, 1, 5), draw.uniform(0.01, 0.3, 5)),
        lambda error, width: 0.5 * (error * width).sum(),
        (Mistake("a half is missing", lambda error, width: (error * width).sum()),),
    ),
    Exercise(
        "caption_gain",
        9,
        "without, with_caption",
        "What captions tell of their images, nats: (mean gain, its standard error) of paired bounds (N,), as a tuple",
        _pairs,
        lambda a, b: (lambda e: (e.value, e.stderr))(estimate_mean(a - b)),
        (
            Mistake(
                "the two errors are added as if the bounds were unpaired: take the error of the differences",
                lambda a, b: ((a - b).mean(), (_deviation(a) ** 2 + _deviation(b) ** 2).sqrt()),
            ),
            Mistake(
                "the sign: a caption that helps has a positive gain", lambda a, b: ((b - a).mean(), _deviation(a - b))
            ),
            Mistake(
                "the spread of one image is not the error of the mean: divide by √N",
                lambda a, b: ((a - b).mean(), (a - b).std()),
            ),
        ),
    ),
    Exercise(
        "bits_back",
        10,
        "log_joint, log_encoder",
        "The net length of a bits-back code in bits, (B,): log_joint = ln p_pri(z_0 … z_L), log_encoder = "
        "ln p_enc(z_1 … z_L | z_0), nats",
        lambda draw: (-draw.uniform(80, 120, 4), -draw.uniform(30, 60, 4)),
        lambda joint, encoder: (encoder - joint) / math.log(2),
        (
            Mistake(
                "the bits that the latents gave back are not taken off", lambda joint, encoder: -joint / math.log(2)
            ),
            Mistake(
                "the encoder's bits are paid twice: they come back",
                lambda joint, encoder: -(joint + encoder) / math.log(2),
            ),
        ),
    ),
    Exercise(
        "coder_overhead",
        10,
        "probabilities, counts",
        "Bits per symbol that a coder with integer counts (K,) wastes on symbols of these probabilities (K,): "
        "KL(p ‖ counts/total), in bits",
        lambda draw: (
            draw.distribution(4),
            torch.tensor([float(draw.whole(1, 9)) for _ in range(4)], dtype=torch.float64),
        ),
        lambda p, counts: (p * (p / (counts / counts.sum())).log2()).sum(),
        (
            Mistake("these are nats: use log2", lambda p, c: (p * (p / (c / c.sum())).log()).sum()),
            Mistake(
                "this is the length of the code: the entropy is not taken off",
                lambda p, c: -(p * (c / c.sum()).log2()).sum(),
            ),
            Mistake("the counts are not divided by their total", lambda p, c: (p * (p / c).log2()).sum()),
        ),
    ),
)
