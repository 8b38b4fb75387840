r"""Guidance: x̂ = x̂_weak + w (x̂_strong − x̂_weak), away from what a weaker prediction shares with a stronger one.

At one z, noise, score and velocity are affine in x̂, so extrapolating any of them is extrapolating x̂.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from markovae.diffusion.cascade import Cascade, Model, one_stage
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.networks.conditioning import Condition, Conditioning, same_text_encoder
from markovae.sampling.conditions import Prompts, num_classes, prompt_condition
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
            raise UserError(f"guidance interval {self.low:g}…{self.high:g} is empty: the lower log-SNR comes first")

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
        coarse = None if condition is None else condition.coarse
        return self.inner.predict(z, logsnr, None if coarse is None else Condition(coarse=coarse))


@final
class NegativePrompt:
    """The same denoiser with one condition in the place of every other: what guidance leads away from.

    Args:
        inner: a denoiser.
        condition: of one example.
    """

    def __init__(self, inner: Denoiser, condition: Condition) -> None:
        self.inner, self.condition = inner, condition

    def predict(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        """(x̂, head) under the fixed condition."""
        other = self.condition.to(z.device)[torch.zeros(len(z), dtype=torch.int64)]
        coarse = None if condition is None else condition.coarse
        return self.inner.predict(z, logsnr, other if coarse is None else replace(other, coarse=coarse))


@final
class Guided:
    """x̂ = x̂_weak + w (x̂_strong − x̂_weak); the head is the strong one's. Weight 1 is `strong` itself, bitwise.

    Classifier-free guidance takes weak = Unconditional(strong); autoguidance takes a smaller or less trained model,
    with the same condition. It takes two network evaluations inside the interval, one outside.

    Args:
        strong, weak: denoisers of one shape of data.
        weight: w, finite; > 1 extrapolates.
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
        weight: 1 is none.
        interval: log-SNRs where it acts; None is everywhere.
        weaker: a smaller or less trained model of the same data (autoguidance); None is the model without its
            condition (classifier-free guidance).
        negative: a condition, of one example, that takes the place of "no condition": a negative prompt.
    """

    weight: float = 1.0
    interval: Interval | None = None
    weaker: Diffusion | None = None
    negative: Condition | None = None


def make_guidance(
    model: Model,
    weight: float | Guidance | None = None,
    *,
    prompt: Prompts = None,
    negative: str | None = None,
    interval: Interval | Sequence[float] | None = None,
    autoguide: Model | None = None,
    classes: bool = False,
) -> Guidance:
    """The guidance asked for; its default is decided here.

    Args:
        weight: of the extrapolation, 1 is none. None is TEXT_GUIDANCE for a prompt that can be guided away from
            something the model was trained on, for classes the weight that the model's run chose, else 1. A
            `Guidance` is taken as it is.
        classes: whether classes are drawn.
        prompt: what is guided to.
        negative: a prompt to be guided away from, in the place of no prompt.
        interval: log-SNRs where it acts.
        autoguide: a weaker model to be guided away from.
    Raises:
        UserError: for what shapes a guidance of weight 1, or a negative prompt without a prompt.
    """
    prompted = any(text.strip() for text in ([prompt] if isinstance(prompt, str) else prompt or ()))
    if isinstance(weight, Guidance):
        if (interval, autoguide) != (None, None):
            raise UserError("a Guidance has its own interval and weaker model: leave interval and autoguide out")
        made = weight
    else:
        away = negative is not None or autoguide is not None or model.null_trained
        if weight is None:
            chosen = model.guidance if classes and away and isinstance(model, Diffusion) else 1.0
            weight = TEXT_GUIDANCE if prompted and away else chosen
        weight = float(weight)
        if interval is not None and not isinstance(interval, Interval):
            interval = Interval(*interval)
        if isinstance(model, Cascade) and autoguide is not None:
            raise UserError("autoguide is for models of one stage, and this is a cascade: leave it out")
        weaker = None if autoguide is None else one_stage(autoguide, "autoguide")
        made = Guidance(weight, interval, weaker)
    if negative is not None and not prompted:
        raise UserError("a negative prompt is what a prompt is guided away from: give a prompt")
    for name, value in (("interval", interval), ("autoguide", autoguide), ("negative", negative)):
        if value is not None and made.weight == 1:
            raise UserError(f"{name} shapes guidance, and guidance=1 is none: name its weight, 2 say")
    return made if negative is None else replace(made, negative=prompt_condition(model, [negative]))


def guided(model: Diffusion, condition: Conditioning | None, guidance: Guidance) -> Denoiser | None:
    """The model with guidance around it; None where the weight is 1.

    Raises:
        UserError: for classifier-free guidance without a condition, or away from a null that was never trained; for a
            weaker model of other images or classes.
    """
    if guidance.weight == 1:
        return None
    weaker, negative = guidance.weaker, guidance.negative
    if weaker is not None:
        _check_weaker(model, weaker)
    elif condition is None:
        takes = num_classes(model)
        remedy = f"name a class, 0…{takes - 1}" if takes else "this model was trained without labels; leave it out"
        remedy = remedy if model.columns is None else f"give {model.columns.names[0]} a value (where)"
        remedy = remedy if model.text_conditioner is None else "give a prompt"
        raise UserError(f"guidance={guidance.weight:g} needs a condition to be guided to: {remedy}, or autoguide")
    elif negative is None and not model.null_trained:
        none = "class" if model.text_conditioner is None else "caption"
        other = "" if model.text_conditioner is None else ", name a negative prompt"
        raise UserError(
            f"guidance={guidance.weight:g} leads away from no {none}, and this model was never trained without one "
            f"(train.label_dropout=0): leave it out{other}, or autoguide with a weaker model"
        )
    strong = model if weaker is None else weaker
    weak: Denoiser = Unconditional(model) if weaker is None else weaker
    if negative is not None:
        weak = NegativePrompt(strong, negative)
    return Guided(model, weak, guidance.weight, guidance.interval)


def _check_weaker(model: Diffusion, weaker: Diffusion) -> None:
    if weaker is model:
        raise UserError("autoguide is the model itself: take a smaller or less trained one")
    if (weaker.text_conditioner is None) != (model.text_conditioner is None):
        raise UserError("only one of the model and the weaker model was trained with captions: take one alike")
    if weaker.shape != model.shape:
        raise UserError(f"the weaker model makes {weaker.shape}, this one {model.shape}: guidance needs one shape")
    if weaker.decoder.pixels != model.decoder.pixels:
        raise UserError(f"the weaker model's pixels are {weaker.decoder.pixels}, this one's {model.decoder.pixels}")
    if not same_text_encoder(weaker.text_conditioner, model.text_conditioner):
        raise UserError("the weaker model reads captions by another text encoder: guidance needs the same")
    if weaker.columns != model.columns:
        raise UserError("the weaker model was trained with other columns, or on another scale of them: take one alike")
    theirs, ours = num_classes(weaker), num_classes(model)
    if theirs != ours:
        raise UserError(f"the weaker model has {theirs} classes, this one {ours}: guidance needs the same")
