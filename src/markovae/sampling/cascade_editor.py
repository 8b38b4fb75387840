"""Edits by a cascade: each is one of every stage's band, coarse to fine, given what the coarser stages drew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from markovae.diffusion.cascade import Cascade
from markovae.errors import UserError
from markovae.networks.conditioning import Condition
from markovae.sampling.bands import coarser, given_means, is_exact
from markovae.sampling.editor import Editor, checked_images, checked_mask
from markovae.sampling.generation import SAMPLE_LOGSNR, coarse_condition
from markovae.sampling.guidance import Guidance, guided
from markovae.sampling.inverse import Known, Observation, PosteriorCovariance
from markovae.sampling.plans import Plan

MEANS = math.exp(-SAMPLE_LOGSNR / 2)  # what a stage takes the mean image to be off by, as it is sampled with


@final
class CascadeEditor:
    """Inpainting, inverse problems, variations, interpolation and round trips, as `Editor` does for one stage.

    Args:
        model: the prior.
        plan: of all stages.
        seed: of every draw.
        condition: of the batch, or None; given to every stage.
        guidance: around every stage.
    """

    def __init__(
        self,
        model: Cascade,
        plan: Plan,
        seed: int = 0,
        condition: Condition | None = None,
        guidance: Guidance | None = None,
    ) -> None:
        self.model, self.seed, self.condition = model, seed, condition
        self.guidance, self._plans = guidance or Guidance(), (plan, *plan.details)

    def inpaint(
        self, x: Tensor, known: Tensor, covariance: PosteriorCovariance | None = None, iterations: int = 5
    ) -> Tensor:
        """The unknown pixels drawn given the known ones by moment matching; known pixels are returned exactly.

        Args: as for `Editor.inpaint`.
        """
        known = checked_mask(self.model, known)
        observation = Observation(Known(known), Known(known).apply(checked_images(self.model, x)))
        drawn = self.restore(observation, covariance, iterations)
        return torch.where(known, x.to(self.model.device), drawn.to(x.dtype))

    def restore(
        self, observation: Observation, covariance: PosteriorCovariance | None = None, iterations: int = 5
    ) -> Tensor:
        """A draw of P(x|y), y = A x + noise, (B, C, H, W): each stage given y and the mean image below it.

        What y says of a mean image holds exactly where the details are independent and as wide as the cascade's scales
        (`bands`); where they are not, an image still has what was observed, but is drawn from a wider distribution.
        """
        observations = [observation]
        for scale in reversed(self.model.scales):
            observations.insert(0, coarser(observations[0], scale))
        count, image = len(observation.y), None
        for b, (each, scale) in enumerate(zip(observations, (0.0, *self.model.scales), strict=True)):
            if is_exact(each):
                image = each.y
            elif image is None:
                image = self._stage(0, count).restore(each, covariance, iterations)
            else:
                details, editor = given_means(each, image, scale, MEANS), self._stage(b, count, image)
                drawn = editor.draw(count) if details is None else editor.restore(details, covariance, iterations)
                image = self.model.refined(image, drawn, b)
        assert image is not None, "a cascade has a base"
        return image

    def vary(self, x: Tensor, level: float) -> Tensor:
        """Image to image: x at level ℓ = level·L of the chain and sampled from there, (B, C, H, W).

        At that level one band is partly noise, the finer ones wholly, and the coarser ones are those of x.

        Args:
            level: in (0, 1].
        """
        x = checked_images(self.model, x)
        b, share = self._level(level)
        image = self.model.means(x, b - 1) if b else None
        drawn = self._stage(b, len(x), image).vary(self._data(x, b), share)
        return self._finer(b, drawn if image is None else self.model.refined(image, drawn, b))

    def interpolate(self, first: Tensor, second: Tensor, count: int, level: float) -> Tensor:
        """`count` images between two, mixed as `Editor.interpolate` mixes, at one level of the chain.

        Coarser bands than the one that is partly noise are mixed as they are: a level of the base's lets the picture
        itself change its form.
        """
        pair = checked_images(self.model, torch.stack([first, second]))
        b, share = self._level(level)
        image = None
        if b:
            w = torch.linspace(0, 1, count).reshape(-1, 1, 1, 1).to(pair)
            ends = self.model.means(pair, b - 1)
            image = (1 - w) * ends[0] + w * ends[1]
        bands = self._data(pair, b)
        drawn = self._stage(b, count, image, shared=True).interpolate(bands[0], bands[1], count, share)
        return self._finer(b, drawn if image is None else self.model.refined(image, drawn, b), shared=True)

    def encode(self, x: Tensor) -> list[Tensor]:
        """The latents of each band that the deterministic sampler takes to x, coarse first."""
        x = checked_images(self.model, x)
        images = [None, *(self.model.means(x, b) for b in range(self.model.octaves))]
        return [self._stage(b, len(x), image).encode(self._data(x, b)) for b, image in enumerate(images)]

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """The image at the end of the deterministic trajectories from these, (B, C, H, W)."""
        image = None
        for b, z in enumerate(latents):
            drawn = self._stage(b, len(z), image).decode(z)
            image = drawn if image is None else self.model.refined(image, drawn, b)
        assert image is not None, "a cascade has a base"
        return image

    def round_trip(self, x: Tensor) -> Tensor:
        """x encoded and decoded again, (B, C, H, W)."""
        return self.decode(self.encode(x))

    def _finer(self, b: int, image: Tensor, shared: bool = False) -> Tensor:
        """The image with the bands behind stage b drawn as for any sample."""
        for finer in range(b + 1, self.model.octaves + 1):
            details = self._stage(finer, len(image), image, shared).draw(len(image), shared)
            image = self.model.refined(image, details, finer)
        return image

    def _stage(self, b: int, count: int, image: Tensor | None = None, shared: bool = False) -> Editor:
        """An editor of stage b's data, given the coarser mean image."""
        condition, stage = self.condition, self.model.stage(b)
        if image is not None:
            indices = [0] * count if shared else range(count)
            condition = coarse_condition(self.model, b, image, self.seed, indices, condition)
        return Editor(stage, self._plans[b], self.seed, condition, guided(stage, condition, self.guidance), b)

    def _data(self, x: Tensor, b: int) -> Tensor:
        """Stage b's data of images."""
        return self.model.stage_data(self.model.means(x, b), b)[0] if b else self.model.means(x, 0)

    def _level(self, level: float) -> tuple[int, float]:
        """The stage of the band that level·L moves, and its own level as a share of its levels."""
        if not 0 < level <= 1:
            raise UserError(f"level={level:g} must lie in (0, 1]: 0 is the image itself, 1 is noise")
        stage, own = self.model.locate(torch.tensor([max(1, round(level * self.model.num_levels))]))
        return int(stage), float(own) / self.model.stage(int(stage)).num_levels
