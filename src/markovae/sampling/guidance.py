r"""Guidance: x̂ = x̂_weak + w (x̂_strong − x̂_weak), away from what a weaker guess shares with a stronger one.

At one z, noise, score and velocity are affine in x̂, so extrapolating any of them is extrapolating x̂.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.networks.conditioning import Condition, same_text_encoder
from markovae.sampling.conditions import num_classes
from markovae.sampling.denoiser import Denoiser

STRONGEST = 1e6
TEXT_GUIDANCE = 2.0  # the default for a prompt


@dataclass(frozen=True)
class Interval:
    """The log-SNRs where guidance acts, low ≤ λ ≤ high; outside them the weight is 1.

    Source: Kynkäänniemi et al. 2024 (there as an interval of σ = e^{−λ/2}).
    """

    low: float = -torch.inf
    high: float = torch.inf

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"guidance interval {self.low:g}…{self.high:g} is empty: the lower log-SNR comes first")

    def __contains__(self, logsnr: float) -> bool:
        return self.low <= logsnr <= self.high


@final
class Unconditional:
    """The same denoiser with every condition replaced by the network's learned null.

    Args:
        inner: a denoiser whose network was trained with conditions dropped now and then.
    """

    def __init__(self, inner: Denoiser) -> None:
        self.inner = inner

    def predict(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        """(x̂, head) without the condition."""
        return self.inner.predict(z, logsnr, None)


@final
class NegativePrompt:
    """The same denoiser with one condition in the place of every other: what guidance leads away from.

    Args:
        inner: a denoiser.   condition: of one example.
    """

    def __init__(self, inner: Denoiser, condition: Condition) -> None:
        self.inner, self.condition = inner, condition

    def predict(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        """(x̂, head) under the fixed condition."""
        return self.inner.predict(z, logsnr, self.condition.to(z.device)[torch.zeros(len(z), dtype=torch.int64)])


@final
class Guided:
    """x̂ = x̂_weak + w (x̂_strong − x̂_weak); the head is the strong one's. Weight 1 is `strong` itself, bitwise.

    Classifier-free guidance takes weak = Unconditional(strong); autoguidance takes a smaller or less trained model,
    with the same condition. A call costs two network calls inside the interval, one outside.

    Args:
        strong, weak: denoisers of one shape of data.   weight: w, finite; > 1 extrapolates.
        interval: log-SNRs where the weight holds.
    Source: Ho & Salimans 2021; Karras et al. 2024 (autoguidance).
    """

    def __init__(self, strong: Denoiser, weak: Denoiser, weight: float, interval: Interval | None = None) -> None:
        if not abs(weight) <= STRONGEST:
            raise UserError(f"guidance={weight:g} must lie within ±{STRONGEST:g}: 1 is no guidance, 2 to 5 are usual")
        self.strong, self.weak, self.weight = strong, weak, weight
        self.interval = Interval() if interval is None else interval

    def predict(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        """(guided x̂, head); logsnr is one for the batch."""
        x_hat, head = self.strong.predict(z, logsnr, condition)
        if self.weight == 1 or float(logsnr) not in self.interval:
            return x_hat, head
        weak, _ = self.weak.predict(z, logsnr, condition)
        return torch.lerp(weak, x_hat, self.weight), head


@dataclass(frozen=True)
class Guidance:
    """How far x̂ is pushed, where, and away from what.

    Args:
        weight: 1 is none.   interval: log-SNRs where it acts; None is everywhere.
        weaker: a smaller or less trained model of the same data (autoguidance); None is the model without its
            condition (classifier-free guidance).
        negative: a condition, of one example, that takes the place of "no condition": a negative prompt.
    """

    weight: float = 1.0
    interval: Interval | None = None
    weaker: Diffusion | None = None
    negative: Condition | None = None


def guided(model: Diffusion, condition: Condition | None, guidance: Guidance) -> Denoiser | None:
    """The model with guidance around it; None where the weight is 1.

    Raises:
        UserError: for classifier-free guidance without a condition, or a weaker model of other images or classes.
    """
    if guidance.weight == 1:
        return None
    weaker = guidance.weaker
    if weaker is None and condition is None:
        takes = num_classes(model)
        remedy = f"name a class, 0…{takes - 1}" if takes else "this model was trained without labels; leave it out"
        remedy = remedy if model.text_conditioner is None else "give a prompt"
        raise UserError(f"guidance={guidance.weight:g} needs a condition to be guided to: {remedy}")
    if weaker is not None:
        _check_weaker(model, weaker)
    try:
        weak: Denoiser = Unconditional(model) if weaker is None else weaker
        weak = (
            weak
            if guidance.negative is None
            else NegativePrompt(model if weaker is None else weaker, guidance.negative)
        )
        return Guided(model, weak, guidance.weight, guidance.interval)
    except ValueError as error:
        raise UserError(str(error)) from None


def _check_weaker(model: Diffusion, weaker: Diffusion) -> None:
    if weaker.shape != model.shape:
        raise UserError(f"the weaker model makes {weaker.shape}, this one {model.shape}: guidance needs one shape")
    if weaker.decoder.pixels != model.decoder.pixels:
        raise UserError(f"the weaker model's pixels are {weaker.decoder.pixels}, this one's {model.decoder.pixels}")
    if not same_text_encoder(weaker.text_conditioner, model.text_conditioner):
        raise UserError("the weaker model reads captions by another text encoder: guidance needs the same")
    theirs, ours = num_classes(weaker), num_classes(model)
    if theirs != ours:
        raise UserError(f"the weaker model has {theirs} classes, this one {ours}: guidance needs the same")
