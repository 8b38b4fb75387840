"""What an observation of an image says of its mean image of half the side, and of the details given that one.

A cascade draws the mean image before the details. With details that are independent of it, each N(0, scale²), an
observation y = A x of the image is one of the mean image m: y = A (m, repeated) + A (details), whose noise has a
covariance that is known. Of single pixels that noise stays within each square, so that a square's pixels are one
number and its standard deviation; means of squares and grey values are the same of a mean image. An observation thus
goes down the octaves one by one, and each stage draws given all of y.
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from markovae.diffusion import haar
from markovae.sampling.inverse import BoxDown, Grey, Known, LinearOperator, Observation


@final
class OfMeans(LinearOperator):
    """A of images that are their mean image, each pixel four times.

    Args:
        operator: A, of the images.
    """

    def __init__(self, operator: LinearOperator) -> None:
        self.operator = operator

    def apply(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, *observation)."""
        return self.operator.apply(repeated(x))

    def transpose(self, y: Tensor) -> Tensor:
        """(B, *observation) -> (B, C, h, w)."""
        return 2 * haar.split(self.operator.transpose(y))[0]


@final
class OfDetails(LinearOperator):
    """A of images whose mean image is zero, from a detail stage's data.

    Args:
        operator: A, of the images.
        scale: what the details of the mean image are divided by.
    """

    def __init__(self, operator: LinearOperator, scale: float) -> None:
        self.operator, self.scale = operator, scale

    def apply(self, x: Tensor) -> Tensor:
        """(B, 3C, h, w) -> (B, *observation)."""
        flat = x.new_zeros(len(x), x.shape[1] // 3, *x.shape[2:])
        return self.operator.apply(haar.merge(flat, self.scale * x))

    def transpose(self, y: Tensor) -> Tensor:
        """(B, *observation) -> (B, 3C, h, w)."""
        return self.scale * haar.split(self.operator.transpose(y))[1]


def repeated(x: Tensor) -> Tensor:
    """Each pixel as a square of four, (B, C, h, w) -> (B, C, 2h, 2w)."""
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def coarser(observation: Observation, scale: float) -> Observation:
    """What an observation says of the mean image of half the side, whose details are independent and N(0, scale²)."""
    operator, y = observation.operator, observation.y
    if observation.covariance is None:
        if isinstance(operator, Known):
            return _squares(operator, y, observation.noise, scale)
        if isinstance(operator, BoxDown) and operator.factor == 2:
            return replace(observation, operator=Known(torch.ones((), dtype=torch.bool)))
        if isinstance(operator, BoxDown) and operator.factor % 2 == 0:
            return replace(observation, operator=BoxDown(operator.factor // 2))
        if isinstance(operator, Grey) and not isinstance(observation.noise, Tensor):
            return Observation(operator, haar.split(y)[0] / 2, observation.noise / 2)
    details = OfDetails(operator, scale)

    def covariance(w: Tensor) -> Tensor:
        spread = details.apply(details.transpose(w))
        return spread if observation.covariance is None else spread + observation.covariance(w)

    return Observation(OfMeans(operator), y, observation.noise, covariance)


def given_means(observation: Observation, means: Tensor, scale: float, doubt: float = 0.0) -> Observation | None:
    """What an observation says of the details of images whose mean image is known; None where it is nothing.

    Args:
        means: (B, C, h, w).
        scale: of the detail stage.
        doubt: standard deviation of what is wrong with the means. Where A mixes squares, details would otherwise be
            bent to make up for it.
    """
    operator = observation.operator
    if isinstance(operator, BoxDown) and operator.factor % 2 == 0:
        return None
    y = observation.y - operator.apply(repeated(means)).to(observation.y)
    of_details = replace(observation, operator=OfDetails(operator, scale), y=y)
    if not doubt or isinstance(operator, Known | Grey):
        return of_details
    of_means = OfMeans(operator)

    def covariance(w: Tensor) -> Tensor:
        spread = doubt**2 * of_means.apply(of_means.transpose(w))
        return spread if observation.covariance is None else spread + observation.covariance(w)

    return replace(of_details, covariance=covariance)


def is_exact(observation: Observation) -> bool:
    """Whether it is the image itself."""
    operator, noise = observation.operator, observation.noise
    exact = observation.covariance is None and not bool(torch.as_tensor(noise).any())
    return exact and isinstance(operator, Known) and bool(operator.known.all())


def _squares(operator: Known, y: Tensor, noise: float | Tensor, scale: float) -> Observation:
    """Of each square of 2x2 its mean, as far as its known pixels say.

    The details give a square's pixels the covariance scale² (I − J/4), J of ones. With w = 1/(noise² + scale²) of each
    known pixel and S = Σ w, the likelihood of the mean is a Gaussian around Σ w y/S of variance 1/S − scale²/4: zero of
    a whole square without noise, ¾ scale² of a single pixel.
    """
    known = operator.known.to(y.device).expand(y.shape)
    spread = torch.as_tensor(noise, device=y.device).double().expand(y.shape)
    weights = torch.where(known, 1 / (spread**2 + scale**2), 0.0)
    total, sums = (2 * haar.split(x)[0] for x in (weights, weights * y.double()))
    some = total > 0
    divisor = torch.where(some, total, 1.0)
    variance = (1 / divisor - scale**2 / 4).clamp(min=0)
    whole = 2 * haar.split((known & (spread == 0)).double())[0] == 4
    width = torch.where(some & ~whole, variance.sqrt(), 0.0)
    return Observation(Known(some), torch.where(some, sums / divisor, 0.0).to(y), width)
