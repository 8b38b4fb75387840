"""Edits on the model's scale: inpainting, inverse problems, variations, interpolation, strips and round trips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from markovae.diffusion import forward
from markovae.diffusion.cascade import Model
from markovae.diffusion.forward import noised, signal_scale
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.networks.conditioning import Condition
from markovae.randomness import Source, Streams, normal_like
from markovae.sampling.conditions import check_condition
from markovae.sampling.denoiser import Denoiser, MeanOnly
from markovae.sampling.generation import final_latents, ignores_head, sample_trajectory, working_type
from markovae.sampling.grids import partial_grid
from markovae.sampling.inverse import Known, MomentMatched, Observation, PosteriorCovariance
from markovae.sampling.plans import Plan, where_defined
from markovae.sampling.samplers import Corrector, Evaluate, State, Stepper, trajectory


@final
class RePaint(Stepper):
    r"""z' from the inner step, its known pixels replaced by a draw of q(z'|x); then back by q(z|z') and again.

    Going back and forth lets the unknown pixels meet the known ones: the error falls with `resampling`, at as many
    calls per step. One step is also the jump; on a grid of few, wide steps this is the paper's longer jump.

    Args:
        inner: the unconditional step; its past is not read, for the latents it comes from are replaced.
        x: the known image, (B, *D).
        known: True where it is known, broadcastable to (B, *D).
        resampling: times that each step is taken, ≥ 1.
    Source: Lugmayr et al. 2022, algorithm 1.
    """

    draws: bool = True

    def __init__(self, inner: Stepper, x: Tensor, known: Tensor, resampling: int = 10) -> None:
        if resampling < 1:
            raise ValueError(f"resampling={resampling} must be at least 1: it is how often each step is taken")
        self.inner, self.x, self.known, self.resampling = inner, x, known.bool(), resampling
        self.evaluations_per_step = resampling * inner.evaluations_per_step

    def step(
        self, now: State, past: Sequence[State], logsnr_next: Tensor, evaluate: Evaluate, source: Source
    ) -> Tensor:
        """z at `logsnr_next`, its known pixels those of the noised image."""
        z = self._step(now, logsnr_next, evaluate, source)
        for _ in range(self.resampling - 1):
            again = forward.step(z, logsnr_next, now.logsnr).sample(source)
            z = self._step(evaluate(again, now.logsnr), logsnr_next, evaluate, source)
        return z

    def _step(self, now: State, logsnr_next: Tensor, evaluate: Evaluate, source: Source) -> Tensor:
        z = self.inner.step(now, (), logsnr_next, evaluate, source)
        known = forward.noised(self.x.to(z), normal_like(z, source), logsnr_next)
        return torch.where(self.known.to(z.device), known, z)


@final
class Editor:
    """Inpainting, inverse problems, variations, interpolation, strips and round trips.

    Images are (B, *D) on the model's scale (`model.to_x` of digits). Edit i of a batch is a function of (seed, i).

    Args:
        model: the prior.
        plan: sampler and grid.
        seed: of every draw.
        condition: of the batch, or None.
        denoiser: guidance around the model, or None.
        stage: of a cascade, that the model is; each has noise of its own.
    """

    def __init__(
        self,
        model: Diffusion,
        plan: Plan,
        seed: int = 0,
        condition: Condition | None = None,
        denoiser: Denoiser | None = None,
        stage: int = 0,
    ) -> None:
        check_condition(model, condition)
        self.model, self.plan, self.seed, self.condition = model, plan, seed, condition
        self._key = (stage,) if stage else ()
        self._guide: Denoiser = denoiser or (MeanOnly(model) if ignores_head(model, plan) else model)
        self.denoiser = self._guide if plan.threshold is None else plan.threshold(self._guide)

    def inpaint(
        self, x: Tensor, known: Tensor, covariance: PosteriorCovariance | None = None, iterations: int = 5
    ) -> Tensor:
        """The unknown pixels drawn given the known ones by moment matching; known pixels are returned exactly.

        Args:
            x: (B, *D); unknown pixels are not read.
            known: bool, broadcastable to (B, *D).
            covariance, iterations: see `MomentMatched`.
        """
        known = checked_mask(self.model, known)
        observation = Observation(Known(known), Known(known).apply(self._latent(x)))
        drawn = self.restore(observation, covariance, iterations)
        return torch.where(known, x.to(self.model.device), drawn.to(x.dtype))

    def repaint(self, x: Tensor, known: Tensor, resampling: int = 10) -> Tensor:
        """The same by RePaint; each step is taken `resampling` times."""
        known = checked_mask(self.model, known)
        stepper = RePaint(self.plan.stepper, torch.where(known, self._latent(x), 0.0), known, resampling)
        drawn = self._run(self.denoiser, self._noise(len(x)), self.plan.grid, stepper, None)
        return torch.where(known, x.to(self.model.device), drawn.to(x.dtype))

    def restore(
        self, observation: Observation, covariance: PosteriorCovariance | None = None, iterations: int = 5
    ) -> Tensor:
        """A draw of P(x|y), y = A x + noise: super-resolution, deblurring, colorization, (B, *D)."""
        given = MomentMatched(self.denoiser, observation, covariance, iterations)
        z = self._noise(len(observation.y))
        return self._run(given, z, self.plan.grid, self.plan.stepper, self.plan.corrector)

    def draw(self, count: int, shared: bool = False) -> Tensor:
        """`count` images, given nothing but the condition, (count, *D); all of the first one's noise where `shared`."""
        z, source = self._noise(count, shared), self._streams("edit", count, shared)
        return self._run(self.denoiser, z, self.plan.grid, self.plan.stepper, self.plan.corrector, source)

    def vary(self, x: Tensor, level: float) -> Tensor:
        """Image to image: x noised to level ℓ = level·L and sampled from there, (B, *D).

        Args:
            level: in (0, 1]; 0.3 keeps the picture, 0.9 little more than its colors.
        Source: Meng et al. 2022 (SDEdit).
        """
        x = self._latent(x)
        return self._from(noised(x, normal_like(x, self._streams("vary", len(x))), self._logsnr(level)), level)

    def interpolate(self, first: Tensor, second: Tensor, count: int, level: float, rescale: bool = True) -> Tensor:
        r"""`count` images between two, their latents at one level mixed and sampled from there, (count, *D).

        z = a [(1−w) x_1 + w x_2] + s [(1−w) ε_1 + w ε_2]/c, w = 0…1, c = √((1−w)²+w²); c = 1 without `rescale`, which
        is Ho et al.'s mix of latents and leaves too little noise half-way. All share the noise of their way back.

        Args:
            first, second: (*D).
        Source: Ho et al. 2020, section 4.3.
        """
        if count < 2:
            raise UserError(f"count={count} must be at least 2: both ends are shown")
        pair = self._latent(torch.stack([first, second]))
        noise = normal_like(pair, self._streams("interpolate", 2))
        w = torch.linspace(0, 1, count).reshape(-1, *[1] * first.ndim).to(pair)
        scale = ((1 - w) ** 2 + w**2).sqrt() if rescale else torch.ones_like(w)
        x, eps = ((1 - w) * both[0] + w * both[1] for both in (pair, noise))
        return self._from(noised(x, eps / scale, self._logsnr(level)), level, shared=True)

    def strip(self, n: int, count: int) -> Tensor:
        """x̂ of samples 0…n−1 at `count` moments evenly spread over the trajectory, the last z_0, (count, n, *D)."""
        if n < 1 or count < 1:
            raise UserError(f"n={n} and count={count} must be at least 1: images, and moments of each")
        total = len(self.plan.grid)
        wanted = torch.linspace(0, total - 1, count).round().long() if count > 1 else torch.tensor([total - 1])
        kept: dict[int, Tensor] = {}
        with evaluating(self.model):
            states = sample_trajectory(self.model, range(n), self.plan, self.seed, self.condition, self._guide)
            for place, state in enumerate(states):
                if place in wanted:
                    kept[place] = state.x_hat
        return torch.stack([kept[int(place)] for place in wanted])

    def encode(self, x: Tensor) -> Tensor:
        """The latent z_L that the deterministic sampler takes to x: the trajectory backwards, from z = a x, (B, *D).

        Raises:
            UserError: for a sampler that draws random numbers.
        Source: Song, Meng & Ermon 2021 (DDIM), section 5.4.
        """
        grid = self._deterministic()
        z = float(signal_scale(grid[0])) * self._latent(x)
        return self._run(self.denoiser, z, grid.flip(0), self.plan.stepper, self.plan.corrector)

    def decode(self, z: Tensor) -> Tensor:
        """The image at the end of the deterministic trajectory from z_L, (B, *D): its last latent over a."""
        grid = self._deterministic()
        z = self._run(self.denoiser, self._latent(z), grid, self.plan.stepper, self.plan.corrector)
        return z / float(signal_scale(grid[0]))

    def round_trip(self, x: Tensor) -> Tensor:
        """x encoded and decoded again, (B, *D)."""
        return self.decode(self.encode(x))

    # -- shared ------------------------------------------------------------------------------------------------

    def _from(self, z: Tensor, level: float, shared: bool = False) -> Tensor:
        grid = where_defined(self.model, partial_grid(self.plan.grid, float(self._logsnr(level))))
        source = self._streams("edit", len(z), shared)
        return self._run(self.denoiser, z, grid, self.plan.stepper, self.plan.corrector, source)

    def _run(
        self,
        denoiser: Denoiser,
        z: Tensor,
        grid: Tensor,
        stepper: Stepper,
        corrector: Corrector | None,
        source: Streams | None = None,
    ) -> Tensor:
        source = self._streams("edit", len(z)) if source is None else source
        with evaluating(self.model):
            states: Iterator[State] = trajectory(denoiser, z, grid, stepper, source, self.condition, corrector)
            return final_latents(states)

    def _deterministic(self) -> Tensor:
        """The finite part of the grid, where no step draws a number."""
        if self.plan.draws:
            raise UserError(
                "this sampler draws random numbers, so its trajectory has no way back: take ddim or dpmpp2m"
            )
        return self.plan.grid[1:]

    def _logsnr(self, level: float) -> Tensor:
        if not 0 < level <= 1:
            raise UserError(f"level={level:g} must lie in (0, 1]: 0 is the image itself, 1 is noise")
        levels = self.model.num_levels
        return self.model.schedule.logsnr[max(1, round(level * levels))]

    def _latent(self, x: Tensor) -> Tensor:
        return checked_images(self.model, x)

    def _noise(self, batch: int, shared: bool = False) -> Tensor:
        z = self._streams("start", batch, shared).normal(self.model.shape, torch.float32)
        return z.to(self.model.device, working_type(self.model))

    def _streams(self, purpose: str, batch: int, shared: bool = False) -> Streams:
        return Streams(self.seed, purpose, [0] * batch if shared else range(batch), *self._key)


def checked_mask(model: Model, known: Tensor) -> Tensor:
    """The mask as bool on the model's device. Raises: UserError where it is of no image of the model's."""
    try:
        torch.broadcast_tensors(known, known.new_empty((1, *model.shape)))
    except RuntimeError:
        raise UserError(
            f"the mask is {tuple(known.shape)} but the model's images are {model.shape}: give one value a pixel"
        ) from None
    return known.bool().to(model.device)


def checked_images(model: Model, x: Tensor) -> Tensor:
    """Images on the model's scale, as latents are kept, (B, *D). Raises: UserError for others."""
    if tuple(x.shape[1:]) != model.shape:
        raise UserError(f"images of shape {tuple(x.shape[1:])}: this model makes {model.shape}")
    if not x.is_floating_point():
        raise UserError(
            f"images of type {x.dtype} are pixel values: an edit takes them on the scale, model.to_x(images)"
        )
    return x.to(model.device, working_type(model))
