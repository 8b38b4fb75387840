r"""The cascade: a Markovian VAE whose encoder destroys an image band by band, so that generation goes coarse to fine.

W, the orthonormal Haar transform applied K times to the low band, turns an image x into bands: the coarse image, and
K bands of details, each of twice the side. Level 1 has all bands at one log-SNR λ_1, so z_1 = a_1 x + s_1 ε in pixels.
From there the finest band goes to noise, then the next, the coarse image last; a band that stands still takes identity
steps, which cost nothing. Down the chain a stage draws each band given the coarser ones as they stand at λ_1. The bound
is E6 of this chain: nothing is approximated, and no band is rounded.

Source: W-PCDM (arXiv 2501.06999); Ho et al. 2021 (cascaded diffusion) for noise on the coarse image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from markovae.columns import Columns
from markovae.diffusion import forward, haar
from markovae.diffusion.bound import Band
from markovae.diffusion.decoder import Decoder
from markovae.diffusion.detail_network import coarse_planes
from markovae.diffusion.gaussian import Gaussian, expand
from markovae.diffusion.learned_schedule import LearnedLogSNR
from markovae.diffusion.markovian_vae import Distribution, LevelwiseVAE, checked_level
from markovae.diffusion.model import Diffusion, images_to_x
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import ReverseVariance
from markovae.diffusion.schedule import NoiseSchedule, Tabulated
from markovae.diffusion.target import Target
from markovae.errors import UserError
from markovae.networks.conditioning import Condition, TextConditioner
from markovae.networks.network import Network
from markovae.randomness import Source, Streams, normal_like


@final
class StageNetworks(nn.ModuleList):
    """The networks of the stages, coarse first, where one network is asked about."""

    @property
    def num_classes(self) -> int:
        """Labels taken, by all of them alike."""
        return int(getattr(self[0], "num_classes", 0))

    def outer_weights(self) -> tuple[Tensor, ...]:
        """Those of every stage."""
        found: list[Tensor] = []
        for network in self:
            assert isinstance(network, Network), "a stage's network is one of this library"
            found += network.outer_weights()
        return tuple(found)


@dataclass(frozen=True)
class Bands:
    """A distribution of a latent, band by band; a band that is a tensor stands still, and has no density.

    Args:
        parts: of each band in pixels' units (W z), coarse first, (B, *D_b).
    """

    parts: tuple[Distribution | Tensor, ...]

    def sample(self, source: Source) -> Tensor:
        """A draw, in pixels, (B, C, H, W)."""
        return merged([part if isinstance(part, Tensor) else part.sample(source) for part in self.parts])

    def log_prob(self, z: Tensor) -> Tensor:
        """ln of the density of the bands that move, nats, (B,), float64."""
        bands = separated(z, len(self.parts) - 1)
        moving = [part.log_prob(z) for part, z in zip(self.parts, bands, strict=True) if not isinstance(part, Tensor)]
        return torch.stack(moving).sum(0)

    def kl(self, other: Bands) -> Tensor:
        """KL(self ‖ other) of the bands that move, nats, (B,), float64."""
        pairs = zip(self.parts, other.parts, strict=True)
        return torch.stack([a.kl(b) for a, b in pairs if isinstance(a, Gaussian) and isinstance(b, Gaussian)]).sum(0)


def separated(x: Tensor, octaves: int) -> list[Tensor]:
    """W x: the low band and the details, coarse first, (B, C, H/2^K, W/2^K), then (B, 3C, h, w) each."""
    bands: list[Tensor] = []
    for _ in range(octaves):
        x, details = haar.split(x)
        bands.append(details)
    return [x, *reversed(bands)]


def merged(bands: Sequence[Tensor]) -> Tensor:
    """Wᵀ: the image of its bands."""
    x = bands[0]
    for details in bands[1:]:
        x = haar.merge(x, details)
    return x


@final
class Cascade(LevelwiseVAE):
    """Stages that draw an image coarse to fine; each is a `Diffusion` of one band.

    Args:
        stages: the base first, of the mean image (C, H/2^K, W/2^K); then of details (3C, h, w), coarse to fine, whose
            networks read the coarse image from `Condition.coarse`. Alone, the base is the model itself.
        scales: what the details of each stage's mean image are divided by, K numbers > 0.
        decoder: P_pri(z_0|z_1) of the pixels; that of the base, where it is alone.
    Raises:
        ValueError: for stages of other shapes, or that do not meet at one log-SNR of the pixels.
    """

    def __init__(self, stages: Sequence[Diffusion], scales: Sequence[float], decoder: Decoder) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.scales, self.decoder = tuple(float(scale) for scale in scales), decoder
        if len(self.scales) != self.octaves or not all(scale > 0 for scale in self.scales):
            raise ValueError(f"scales={self.scales} must be {self.octaves} numbers > 0: one a detail stage")
        channels, height, width = stages[0].shape
        self.shape = (channels, height << self.octaves, width << self.octaves)
        for number, stage in enumerate(stages[1:]):
            wanted = (3 * channels, height << number, width << number)
            if stage.shape != wanted:
                raise ValueError(f"detail stage {number + 1} is of shape {stage.shape}: it must be {wanted}")
        for stage in stages:
            if isinstance(stage.schedule, LearnedLogSNR) or stage.reverse.needs_jacobian:
                raise ValueError("a stage has a fixed schedule, and a variance that needs no Jacobian")
        firsts = [float(stage.schedule.logsnr[1]) - unit for stage, unit in zip(stages, self.units, strict=True)]
        if not max(firsts) - min(firsts) < 1e-6:
            raise ValueError(f"the stages end at log-SNRs {firsts} of the pixels: they must meet at one, level 1")
        self.first_logsnr = stages[-1].schedule.logsnr[1] - self.units[-1]
        self._finest = Tabulated(stages[-1].schedule.logsnr[1:] - self.units[-1])
        self.num_levels = 1 + sum(stage.num_levels - 1 for stage in stages)

    # -- what it is ----------------------------------------------------------------------------------------------

    @property
    def base(self) -> Diffusion:
        """The coarsest stage."""
        return self.stage(0)

    def stage(self, number: int) -> Diffusion:
        """The stage with this number, 0 the base."""
        stage = self.stages[number]
        assert isinstance(stage, Diffusion), "a stage is one"
        return stage

    @property
    def octaves(self) -> int:
        """K, how many bands of details there are."""
        return len(self.stages) - 1

    @property
    def units(self) -> list[float]:
        """2 ln c_b: what the log-SNR of each stage's data lies above that of the pixels, since W x = c_b y."""
        factors = [1.0, *self.scales]
        return [2 * math.log(factor * 2.0 ** (self.octaves - b)) for b, factor in enumerate(factors)]

    @property
    def network(self) -> StageNetworks:
        """The stages' networks."""
        return StageNetworks(stage.network for stage in stages_of(self))

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.base.device

    @property
    def pixels(self) -> Pixels:
        """The pixel values of the data and their scale."""
        assert self.decoder.pixels is not None, "a cascade is of pixels"
        return self.decoder.pixels

    @property
    def precision(self) -> torch.dtype:
        """Of the networks."""
        return self.base.precision

    @precision.setter
    def precision(self, precision: torch.dtype) -> None:
        for stage in stages_of(self):
            stage.precision = precision

    @property
    def schedule(self) -> NoiseSchedule:
        """The finest band's levels, in units of the pixels: its level 1 is the cascade's."""
        return self._finest

    @property
    def target(self) -> Target:
        """What the networks' outputs mean, of all stages alike."""
        return self.base.target

    @property
    def reverse(self) -> ReverseVariance:
        """The variance of the base's steps; the other stages have one of the same kind."""
        return self.base.reverse

    @property
    def text_conditioner(self) -> TextConditioner | None:
        """What turns captions into conditions, of all stages alike."""
        return self.base.text_conditioner

    @text_conditioner.setter
    def text_conditioner(self, conditioner: TextConditioner | None) -> None:
        for stage in stages_of(self):
            stage.text_conditioner = conditioner

    @property
    def columns(self) -> Columns | None:
        """The columns of a table that condition every stage."""
        return self.base.columns

    @columns.setter
    def columns(self, columns: Columns | None) -> None:
        for stage in stages_of(self):
            stage.columns = columns

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the labels, where they are known."""
        return self.base.class_names

    @class_names.setter
    def class_names(self, names: tuple[str, ...]) -> None:
        for stage in stages_of(self):
            stage.class_names = names

    @property
    def null_trained(self) -> bool:
        """Whether the stages were trained without their condition now and then."""
        return self.base.null_trained

    @null_trained.setter
    def null_trained(self, trained: bool) -> None:
        for stage in stages_of(self):
            stage.null_trained = trained

    def with_stages(self, stages: Sequence[Diffusion]) -> Cascade:
        """The same bands with other stages: on other grids, or of other variances."""
        return Cascade(stages, self.scales, self.decoder).train(self.training)

    def on_levels(self, num_levels: int) -> Cascade:
        """The same stages on `num_levels` levels in all: of each stage even strides of its own, about as many.

        Raises:
            ValueError: for fewer than K + 2 levels, or more than there are.
        """
        return self.only(self.sublevels(num_levels))

    def only(self, levels: Tensor) -> Cascade:
        """The same stages on these of the levels 1…L, level 1 and at least one of each stage's among them.

        Raises:
            ValueError: for levels that are not there, or do not increase, or leave a stage out.
        """
        if not len(levels) or int(levels[0]) != 1 or int(levels[-1]) > self.num_levels:
            raise ValueError(f"levels {levels.tolist()} must begin with 1 and lie in 1…{self.num_levels}")
        places, own = self.locate(levels[1:])
        kept = [torch.cat([levels[:1], own[places == b]]) for b in range(self.octaves + 1)]
        if min(len(each) for each in kept) < 2:
            raise ValueError(f"levels {levels.tolist()} leave a stage without any")
        return self.with_stages(
            [stage.on_grid(stage.schedule.only(each)) for stage, each in zip(stages_of(self), kept, strict=True)]
        )

    def sublevels(self, num_levels: int) -> Tensor:
        """The levels that `on_levels` keeps, (num_levels,), int64, increasing."""
        kept, begin = [torch.ones(1, dtype=torch.int64)], 0
        for stage, count in reversed(list(zip(stages_of(self), self._counts(num_levels), strict=True))):
            kept.append(begin + stage.schedule.sublevels(count)[1:])
            begin += stage.num_levels - 1
        return torch.cat(kept)

    def _counts(self, num_levels: int) -> list[int]:
        """Levels of each stage's own grid, of so many in all; as many steps for each as can be."""
        most = [stage.num_levels - 1 for stage in stages_of(self)]
        left, counts = num_levels - 1, [0] * len(most)
        if not len(most) <= left <= sum(most):
            raise ValueError(f"num_levels={num_levels} must lie in {len(most) + 1}…{sum(most) + 1}")
        for place in sorted(range(len(most)), key=most.__getitem__):
            rest = sum(1 for count in counts if not count)
            counts[place] = min(most[place], left // rest)
            left -= counts[place]
        return [count + 1 for count in counts]

    # -- levels --------------------------------------------------------------------------------------------------

    def locate(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(stage, its own level) that each level 1…L belongs to, (B,) int64 each; level 1 is the finest stage's."""
        steps = torch.tensor([stage.num_levels - 1 for stage in reversed(stages_of(self))], device=level.device)
        ends = steps.cumsum(0)
        place = torch.searchsorted(ends, level - 1)
        return self.octaves - place, level - (ends - steps)[place]

    @property
    def level_logsnr(self) -> Tensor:
        """log-SNR of the band that moves to each level, in units of the pixels, λ_0…λ_L, (L+1,), float64."""
        stages = [stage.schedule.logsnr[2:] - unit for stage, unit in zip(stages_of(self), self.units, strict=True)]
        first = self.stage(-1).schedule.logsnr[:2] - self.units[-1]
        return torch.cat([first, *reversed(stages)]).detach()

    def _place(self, level: int) -> tuple[int, int]:
        stage, own = self.locate(torch.tensor([level]))
        return int(stage), int(own)

    def _own_levels(self, level: int) -> list[int]:
        """Each stage's own level, coarse first: the finer ones are at their top, the coarser ones at level 1."""
        moving, own = self._place(level)
        return [1 if b < moving else own if b == moving else self.stage(b).num_levels for b in range(self.octaves + 1)]

    def unit_ratio(self, b: int, own: int) -> Tensor:
        """s/s': the pixels' units in stage b's, at its own level."""
        logsnr = self.stage(b).schedule.logsnr[own]
        return forward.noise_scale(logsnr - self.units[b]) / forward.noise_scale(logsnr)

    def _in_pixels(self, b: int, own: int, step: Distribution) -> Gaussian:
        """A stage's Gaussian at its own level, in the pixels' units."""
        assert isinstance(step, Gaussian), "the stages' steps are independent Gaussians"
        ratio = self.unit_ratio(b, own).to(step.mean.device)
        return Gaussian(step.mean * ratio.to(step.mean), step.variance * ratio**2)

    def _of_stage(self, b: int, own: int, band: Tensor) -> Tensor:
        """The band of a latent at a stage's own level, in the stage's units."""
        return band / self.unit_ratio(b, own).to(band)

    # -- bands ---------------------------------------------------------------------------------------------------

    def bands(self, x: Tensor) -> list[Tensor]:
        """Each stage's data of images on the model's scale: the mean image, and details over their scale."""
        low, *details = separated(x, self.octaves)
        found = [low / 2.0**self.octaves]
        for number, (band, scale) in enumerate(zip(details, self.scales, strict=True)):
            found.append(band / (scale * 2.0 ** (self.octaves - 1 - number)))
        return found

    def refined(self, image: Tensor, details: Tensor, b: int) -> Tensor:
        """The mean image of stage b, (B, C, 2h, 2w), of the coarser one, (B, C, h, w), and the stage's data."""
        return haar.merge(2 * image, details * self.scales[b - 1])

    def means(self, x: Tensor, b: int) -> Tensor:
        """The mean image of stage b, (B, C, h, w): b = K is `x` itself."""
        for _ in range(self.octaves - b):
            x = haar.split(x)[0] / 2
        return x

    def stage_data(self, image: Tensor, b: int) -> tuple[Tensor, Tensor]:
        """(stage b's data, the coarser mean image) of the stage's own mean image, or of a crop of it; b ≥ 1."""
        low, details = haar.split(image)
        return details / self.scales[b - 1], low / 2

    def coarse_logsnr(self, b: int) -> Tensor:
        """log-SNR of the mean image that stage b refines, where the pixels have λ_1."""
        return self.first_logsnr + 2 * (self.octaves - b + 1) * math.log(2)

    def refining(self, condition: Condition | None, image: Tensor, logsnr: Tensor, noise: Tensor) -> Condition:
        """The condition of a detail stage, with the coarse mean image at a log-SNR of its own.

        Args:
            image: (B, C, h, w).
            logsnr: (B,) or ().
            noise: of the image's shape.
        """
        width = expand(torch.exp(-0.5 * logsnr.to(image.device)), image).to(image)
        coarse = coarse_planes(image + width * noise, logsnr)
        return replace(condition or Condition(), coarse=coarse)

    # -- the chains ----------------------------------------------------------------------------------------------

    def encoder_step(self, z_prev: Tensor, level: int) -> Distribution:
        """q(z_ℓ | z_{ℓ−1}): one band moves, the others stand still; at ℓ = 1 all pixels."""
        if checked_level(level, self) == 1 or not self.octaves:
            grid = self.level_logsnr.to(z_prev.device)
            return forward.step(z_prev, grid[level - 1], grid[level])
        moving, own = self._place(level)
        parts: list[Distribution | Tensor] = list(separated(z_prev, self.octaves))
        before = self._of_stage(moving, own - 1, separated(z_prev, self.octaves)[moving])
        parts[moving] = self._in_pixels(moving, own, self.stage(moving).encoder_step(before, own))
        return Bands(tuple(parts))

    def marginal(self, x: Tensor, level: int) -> Distribution:
        """q(z_ℓ | z_0)."""
        if checked_level(level, self) == 1 or not self.octaves:
            return forward.marginal(x, self.level_logsnr[level].to(x.device))
        levels = self._own_levels(level)
        parts = [
            self._in_pixels(b, own, self.stage(b).marginal(band, own))
            for b, (own, band) in enumerate(zip(levels, self.bands(x), strict=True))
        ]
        return Bands(tuple(parts))

    def posterior(self, x: Tensor, z: Tensor, level: int) -> Distribution:
        """q(z_{ℓ−1} | z_ℓ, z_0), ℓ ≥ 2."""
        if not self.octaves:
            return self.base.posterior(x, z, level)
        moving, own = self._place(checked_level(level, self, 2))
        latents = separated(z, self.octaves)
        step = self.stage(moving).posterior(self.bands(x)[moving], self._of_stage(moving, own, latents[moving]), own)
        parts: list[Distribution | Tensor] = list(latents)
        parts[moving] = self._in_pixels(moving, own - 1, step)
        return Bands(tuple(parts))

    def prior_top(self, batch: int) -> Distribution:
        """P_pri(z_L): N(0, I), in the units of the stages."""
        if not self.octaves:
            return self.base.prior_top(batch)
        tops = [self._in_pixels(b, s.num_levels, s.prior_top(batch)) for b, s in enumerate(stages_of(self))]
        return Bands(tuple(tops))

    def prior_step(self, z: Tensor, level: int, condition: Condition | None = None) -> Distribution:
        """P_pri(z_{ℓ−1} | z_ℓ): the stage of the band that moves; at ℓ = 1 the decoder."""
        if not self.octaves:
            return self.base.prior_step(z, level, condition)
        if checked_level(level, self) == 1:
            grid = self.level_logsnr.to(z.device)
            return self.decoder.distribution(self._decode(z, condition), grid, z)
        moving, own = self._place(level)
        latents = separated(z, self.octaves)
        given = condition if moving == 0 else self.given_latents(latents[:moving], condition)
        step = self.stage(moving).prior_step(self._of_stage(moving, own, latents[moving]), own, given)
        parts: list[Distribution | Tensor] = list(latents)
        parts[moving] = self._in_pixels(moving, own - 1, step)
        return Bands(tuple(parts))

    def given_latents(self, coarser: Sequence[Tensor], condition: Condition | None) -> Condition:
        """The condition of the stage above these bands of a latent, which stand at λ_1."""
        b = len(coarser)
        signal = float(forward.signal_scale(self.first_logsnr)) * 2.0 ** (self.octaves - b + 1)
        image = merged(coarser) / signal
        return self.refining(condition, image, self.coarse_logsnr(b), torch.zeros_like(image))

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """x̂ at level 1, (B, C, H, W)."""
        latents = separated(z, self.octaves)
        stage = self.stage(-1)
        at = self._of_stage(self.octaves, 1, latents[-1])
        given = self.given_latents(latents[:-1], condition)
        return self.decoded(latents, stage.denoise(at, stage.schedule.logsnr[1].to(z.device), given))

    def decoded(self, latents: Sequence[Tensor], details: Tensor) -> Tensor:
        """x̂ at level 1, (B, C, H, W): the finest stage's x̂, and the coarse image as z_1 has it.

        Args:
            latents: the bands of z_1, coarse first.
            details: x̂ of the finest stage.
        """
        image = merged(latents[:-1]) / (2 * float(forward.signal_scale(self.first_logsnr)))
        return self.refined(image, details, self.octaves)

    # -- the bound, form E6 ---------------------------------------------------------------------------------------

    def to_x(self, images: Any) -> Tensor:
        """Data on the model's scale, (B, C, H, W), float64."""
        return images_to_x(images, self.shape, self.decoder, self.device)

    def prior_nats(self, x: Tensor) -> Tensor:
        """KL(q(z_L|z_0) ‖ N(0, I)), (B,), nats: the sum over bands."""
        return self.band_tops(x).sum(1)

    def band_tops(self, x: Tensor) -> Tensor:
        """What each band's top level costs, coarse first, (B, K+1), nats."""
        return torch.stack([self.stage(b).prior_nats(band) for b, band in enumerate(self.bands(x))], 1)

    def level_nats(self, x: Tensor, level: Tensor, source: Source, condition: Condition | None = None) -> Tensor:
        """One unbiased draw of the KL of level ℓ ≥ 2, (B,), nats; level: (B,) int64, its own for each example."""
        if not self.octaves:
            return self.base.level_nats(x, level, source, condition)
        stages, own = self.locate(level.to(x.device))
        nats = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for b in stages.unique().tolist():
            rows = (stages == b).nonzero().flatten()
            some = source.take(rows.tolist()) if isinstance(source, Streams) else source
            given = None if condition is None else condition.take(rows)
            image = self.means(x[rows], b)
            if b:
                band, coarse = self.stage_data(image, b)
                noise = normal_like(coarse, some)
                given = self.refining(given, coarse, self.coarse_logsnr(b), noise)
            else:
                band = image
            nats[rows] = self.stage(b).level_nats(band, own[rows], some, given)
        return nats

    def reconstruction_nats(self, x: Tensor, source: Source, condition: Condition | None = None) -> Tensor:
        """One unbiased draw of −ln P_pri(z_0|z_1), (B,), nats."""
        if not self.octaves:
            return self.base.reconstruction_nats(x, source, condition)
        grid = self.level_logsnr.to(x.device)
        z = forward.noised(x, normal_like(x, source), grid[1])
        return -self.decoder.distribution(self._decode(z, condition), grid, z).log_prob(x)

    def bands_of(self, x: Tensor, nats: Tensor) -> tuple[Band, ...]:
        """Each band's top and levels, coarse first; () of a single stage."""
        if not self.octaves:
            return ()
        tops, parts = self.band_tops(x), nats.split([s.num_levels - 1 for s in reversed(stages_of(self))], 1)
        return tuple(Band(self.stage(b).shape[1:], tops[:, b], part.sum(1)) for b, part in enumerate(reversed(parts)))


Model = Diffusion | Cascade
"""What is trained, sampled and measured."""


def stages_of(model: Model) -> list[Diffusion]:
    """The stages of a cascade, the base first; the model itself where it has one."""
    return [model] if isinstance(model, Diffusion) else [model.stage(b) for b in range(model.octaves + 1)]


def one_stage(model: Model, what: str) -> Diffusion:
    """The model, where it has one stage; a cascade of one stage is its base.

    Args:
        what: cannot be done with more, in words.
    Raises:
        UserError: for a cascade.
    """
    if isinstance(model, Diffusion):
        return model
    if model.octaves:
        raise UserError(
            f"{what} takes a model of one stage, and this is a cascade of {model.octaves + 1}: train one with "
            "cascade.stages=1"
        )
    return model.base
