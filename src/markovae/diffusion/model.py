r"""DDPM as a Markovian VAE: network + schedule + target + reverse variance + decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from markovae.columns import Columns
from markovae.diffusion import forward
from markovae.diffusion.bound import Band
from markovae.diffusion.decoder import Decoder
from markovae.diffusion.derivatives import MAX_DIMS, jacobian
from markovae.diffusion.gaussian import Gaussian
from markovae.diffusion.learned_schedule import LearnedLogSNR
from markovae.diffusion.markovian_vae import Distribution, LevelwiseVAE, checked_level
from markovae.diffusion.objective import NoiseSample, Objective, default_objective
from markovae.diffusion.objective import loss as weighted_loss
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import LearnedVariance, ReverseVariance
from markovae.diffusion.schedule import NoiseSchedule
from markovae.diffusion.target import Target
from markovae.errors import UserError
from markovae.networks.conditioning import Condition, TextConditioner, as_tensor, class_numbers
from markovae.randomness import Source, normal_like, stratified
from markovae.system.tensor_headers import compare_shapes


@final
class Diffusion(LevelwiseVAE):
    """The Markovian VAE with a fixed Gaussian encoder and a network in the prior.

        model = mv.load("runs/photos")
        bound = model.bound(images[:2], condition=mv.Condition(label=torch.tensor([0, 1])))

    Args:
        network: net(z, logsnr, condition) -> out, (B, C·k, *) with k = reverse.channels.
        schedule: the grid of levels.
        target: what `out` means.
        reverse: the variance of the prior's steps.
        decoder: P_pri(z_0|z_1), with the pixel values and their scale.
        shape: of one example, D = (C, H, W) or (d,).
        training_schedule: the grid the network was trained on, if `schedule` is a sub-grid of it.
        clip: x̂ is held to [−clip, clip] wherever it is used; None leaves it alone.
    Its `text_conditioner` turns captions into conditions, where it was trained with them; else None. Its `columns` say
    what columns of a table mean, where it was trained with any. `null_trained` says whether a conditional model was
    trained without its condition now and then, so that it may be used without.
    `class_names` are those of its labels, where they are known.
    `calls` is set for a student (`mv.distill`), which samples in so many evaluations and no other number.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        target: Target,
        reverse: ReverseVariance,
        decoder: Decoder,
        shape: Sequence[int],
        training_schedule: NoiseSchedule | None = None,
        clip: float | None = None,
    ) -> None:
        super().__init__()
        if clip is not None and not clip > 0:
            raise ValueError(f"clip={clip:g} must be positive: x̂ is held to [-clip, clip]")
        self.network, self.schedule, self.target = network, schedule, target
        self.reverse, self.decoder, self.shape = reverse, decoder, tuple(shape)
        self.training_schedule = schedule if training_schedule is None else training_schedule
        self.num_levels, self.clip = schedule.num_levels, clip
        self.precision = torch.float32
        self.text_conditioner: TextConditioner | None = None
        self.columns: Columns | None = None
        self.null_trained = True
        self.class_names: tuple[str, ...] = ()
        self.calls: int | None = None
        self.guidance = 1.0

    @property
    def device(self) -> torch.device:
        """Where the network's weights live."""
        return next((p.device for p in self.network.parameters()), torch.device("cpu"))

    @property
    def pixels(self) -> Pixels:
        """The pixel values of the data and their scale.

        Raises:
            UserError: for a model of continuous data.
        """
        if self.decoder.pixels is None:
            raise UserError("this model has no decoder for pixels: it gives the density of a continuous variable")
        return self.decoder.pixels

    @property
    def level_logsnr(self) -> Tensor:
        """λ_0…λ_L, (L+1,), float64, on the CPU."""
        return self.schedule.logsnr.detach()

    def on_grid(self, schedule: NoiseSchedule) -> Diffusion:
        """The same network on another grid of levels (a sub-grid, say); the training grid is kept."""
        model = Diffusion(
            self.network,
            schedule,
            self.target,
            self.reverse,
            self.decoder,
            self.shape,
            self.training_schedule,
            self.clip,
        )
        model.precision, model.text_conditioner = self.precision, self.text_conditioner
        model.columns = self.columns
        model.null_trained, model.calls = self.null_trained, self.calls
        model.class_names, model.guidance = self.class_names, self.guidance
        return model.train(self.training)

    def with_reverse(self, reverse: ReverseVariance) -> Diffusion:
        """The same network with another variance of the prior's steps; a learned one needs the network's head for it.

        Raises:
            ValueError: for a full covariance in more dimensions than a Jacobian is worked out in.
        """
        if reverse.needs_jacobian and self.dims > MAX_DIMS:
            raise ValueError(
                f"a full covariance in {self.dims} dimensions costs {self.dims} backward passes per step: "
                f"{MAX_DIMS} is the limit"
            )
        model = self.on_grid(self.schedule)
        model.reverse = reverse.to(self.device)
        return model.train(self.training)

    # -- the network -------------------------------------------------------------------------------------------

    def predict(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        """(x̂, head) at z: the network's prediction of z_0, (B, *D), in the type of `z`, and what the variance needs.

        Args:
            z: (B, *D).
            logsnr: (B,) or (), float64.
        Returns: head is the network's second half, or ∂x̂/∂z, (B, d, d), or None (see `ReverseVariance`).
        """
        if not self.reverse.needs_jacobian:
            return self._x_hat(z, logsnr, condition)
        return jacobian(lambda at: self.denoise(at, logsnr, condition), z)

    def denoise(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        """x̂(z, λ) ≈ E[z_0 | z_ℓ], (B, *D)."""
        return self._x_hat(z, logsnr, condition)[0]

    def _x_hat(self, z: Tensor, logsnr: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor | None]:
        each = _each(logsnr, z)
        out, head = self._run(z, each, condition), None
        if out.shape[1] == 2 * z.shape[1]:  # a head for a learned variance, whether it is read or not
            out, head = out.chunk(2, dim=1)
        known = each if logsnr.requires_grad else logsnr
        x_hat = self.target.to_x(out, z, known, self.neighbour(known))
        return x_hat if self.clip is None else x_hat.clamp(-self.clip, self.clip), head

    def loss(
        self,
        x: Tensor,
        condition: Condition | Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        objective: Objective | None = None,
    ) -> Tensor:
        """The mean training loss of a batch, a scalar with gradients: for a training loop of your own.

            loss = model.loss(images, labels)
            loss.backward()

        It is what `fit` minimizes by default: the squared error of the target per dim, at low-discrepancy levels half
        uniform and half normal in log-SNR. Labels are left out now and then by `Condition(label=…).drop(keep)`.

        Args:
            x: integer pixel values, or floats on the model's scale (pixels lie on [−1, 1]), (B, *D).
            condition: what is known of each example; class labels (B,) will do.
            generator: of levels and noise; None is torch's own.
            objective: other tables over the levels.
        Raises:
            UserError: for a learned schedule, which `fit` alone trains.
            ValueError: for another shape, or an
            objective of another number of levels.
        """
        if isinstance(self.schedule, LearnedLogSNR):
            raise UserError("a learned schedule follows the bound by a gradient of its own: train it with mv.fit")
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"data of shape {tuple(x.shape[1:])}: this model takes {self.shape}")
        objective = default_objective(self.schedule) if objective is None else objective
        objective.require_levels(self.num_levels)
        x = x.to(self.device)
        x = x.float() if x.is_floating_point() else self.pixels.to_x(x, torch.float32)
        if condition is not None and not isinstance(condition, Condition):
            condition = Condition(label=class_numbers(condition))
        condition = None if condition is None else condition.to(self.device)
        device = self.device if generator is None else generator.device
        # Low-discrepancy levels rise with the place in the batch, and a loader's order may not be random.
        order = torch.randperm(len(x), generator=generator, device=device).cpu()
        level = objective.draw(stratified(len(x), generator))[order]
        noise = torch.randn(x.shape, generator=generator, device=device).to(x.device)
        draw = NoiseSample(level, noise)
        reverse = self.reverse if isinstance(self.reverse, LearnedVariance) else None
        parts = (objective, self.target, self.schedule, reverse)
        return weighted_loss(self.network, x, draw, condition, *parts, clip=self.clip)[0].mean()

    def neighbour(self, logsnr: Tensor) -> Tensor | None:
        """log-SNR of the level before on the training grid, for the targets that need it, (B,), else None.

        Raises:
            UserError: between the levels of that grid, where such a target means nothing.
        """
        if not self.target.needs_neighbour:
            return None
        grid = self.training_schedule.on(logsnr.device)
        wanted = logsnr.double().contiguous()
        level = torch.searchsorted(-grid[1:].contiguous(), -wanted - 1e-9).clamp(max=len(grid) - 2)
        off = float((grid[level + 1] - wanted).abs().max()) if wanted.numel() else 0.0
        if not off < 1e-6:
            raise UserError(
                f"target {self.target.name!r} is defined by the steps of its training grid, and a log-SNR lies {off:g} "
                "off its levels: use levels of that grid, or a model trained on another target"
            )
        return grid[level]

    def _run(self, z: Tensor, logsnr: Tensor, condition: Condition | None) -> Tensor:
        if self.precision == torch.float32:
            return self.network(z.float(), logsnr, condition)
        if self.precision == torch.float64:
            return self.network(z.double(), logsnr, condition)
        with torch.autocast(z.device.type, dtype=self.precision):
            return self.network(z.float(), logsnr, condition).float()

    # -- the chains --------------------------------------------------------------------------------------------

    def encoder_step(self, z_prev: Tensor, level: int) -> Gaussian:
        """q(z_ℓ | z_{ℓ−1})."""
        logsnr = self._grid(z_prev)
        return forward.step(z_prev, logsnr[checked_level(level, self) - 1], logsnr[level])

    def marginal(self, x: Tensor, level: int) -> Gaussian:
        """q(z_ℓ | z_0)."""
        return forward.marginal(x, self._grid(x)[checked_level(level, self)])

    def posterior(self, x: Tensor, z: Tensor, level: int) -> Gaussian:
        """q(z_{ℓ−1} | z_ℓ, z_0), ℓ ≥ 2."""
        logsnr = self._grid(x)
        return forward.posterior(x, z, logsnr[checked_level(level, self, 2) - 1], logsnr[level])

    def prior_top(self, batch: int) -> Gaussian:
        """P_pri(z_L) = N(0, I)."""
        mean = torch.zeros(batch, *self.shape, device=self.device)
        return Gaussian(mean, torch.ones((), dtype=torch.float64, device=self.device))

    def prior_step(self, z: Tensor, level: int, condition: Condition | None = None) -> Distribution:
        """P_pri(z_{ℓ−1} | z_ℓ); at ℓ = 1 the decoder."""
        logsnr = self._grid(z)
        if checked_level(level, self) == 1:
            x_hat, head = self._x_hat(z, logsnr[1], condition)
            return self.decoder.distribution(x_hat, logsnr, z, head)
        x_hat, head = self.predict(z, logsnr[level], condition)
        return self.reverse.step(x_hat, z, logsnr[level - 1], logsnr[level], head)

    # -- the bound, form E6 ------------------------------------------------------------------------------------

    def to_x(self, images: Any) -> Tensor:
        """Data on the model's scale, (B, *D), float64."""
        return images_to_x(images, self.shape, self.decoder, self.device)

    def prior_nats(self, x: Tensor) -> Tensor:
        """KL(q(z_L|z_0) ‖ N(0, I)), (B,), nats."""
        return self.marginal(x, self.num_levels).kl(self.prior_top(x.shape[0]))

    def level_nats(self, x: Tensor, level: Tensor, source: Source, condition: Condition | None = None) -> Tensor:
        """One unbiased draw of the KL of level ℓ ≥ 2, (B,), nats; level: (B,) int64, its own for each example."""
        logsnr = self._grid(x)
        level = level.to(x.device)
        z = forward.noised(x, normal_like(x, source), logsnr[level])
        x_hat, head = self.predict(z, logsnr[level], condition)
        return self.reverse.kl(x, x_hat, logsnr[level - 1], logsnr[level], head)

    def reconstruction_nats(self, x: Tensor, source: Source, condition: Condition | None = None) -> Tensor:
        """One unbiased draw of −ln P_pri(z_0|z_1), (B,), nats."""
        logsnr = self._grid(x)
        z = forward.noised(x, normal_like(x, source), logsnr[1])
        x_hat, head = self._x_hat(z, logsnr[1], condition)
        return -self.decoder.distribution(x_hat, logsnr, z, head).log_prob(x)

    def bands_of(self, x: Tensor, nats: Tensor) -> tuple[Band, ...]:
        """(): a model of one stage has none."""
        return ()

    def _grid(self, like: Tensor) -> Tensor:
        return self.schedule.on(like.device)


def _each(logsnr: Tensor, z: Tensor) -> Tensor:
    """The log-SNR of each example, (B,), on the device of z; one of the CPU's is filled in without a copy."""
    if logsnr.ndim or logsnr.requires_grad or logsnr.device == z.device:
        return logsnr.to(z.device).expand(len(z))
    return torch.full((len(z),), float(logsnr), dtype=logsnr.dtype, device=z.device)


def images_to_x(images: Any, shape: Sequence[int], decoder: Decoder, device: torch.device) -> Tensor:
    """`LevelwiseVAE.to_x` for a model of this shape and decoder."""
    images = as_tensor(images)
    if tuple(images.shape[1:]) != tuple(shape):
        raise ValueError(f"data of shape {tuple(images.shape[1:])}: this model takes {tuple(shape)}")
    pixels = decoder.pixels
    if pixels is None and not images.is_floating_point():
        raise UserError("this model has no decoder for pixels: it gives the density of a continuous variable")
    if pixels is not None and not images.is_floating_point():
        return pixels.to_x(images.to(device))
    x = images.to(device, torch.float64)
    if pixels is None or not decoder.discrete:
        return x
    off = float((x - pixels.to_x(pixels.to_pixel_values(x))).abs().max()) if x.numel() else 0.0
    if not off < 1e-3 * pixels.half_width + 1e-6:
        raise ValueError(
            f"x lies up to {off:g} off the places of the {pixels.bins} pixel values: pass the integer images, "
            "or scale them with pixels.to_x"
        )
    return x


@torch.no_grad()
def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy named parameters into a model, every one and no other, in the model's types.

    Raises:
        ValueError: naming the first that is missing, left over, or of another shape; nothing is copied then.
    """
    weights = dict(model.named_parameters())
    compare_shapes(*({name: tuple(value.shape) for name, value in table.items()} for table in (weights, tensors)))
    for name, weight in weights.items():
        weight.copy_(tensors[name])
