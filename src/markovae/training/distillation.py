r"""Distillation: a student that crosses a segment of the way from noise to data in one network evaluation.

The way of the probability flow, log-SNR −10 to the data, is cut into K segments. At the beginning λ of each, the
student's x̂ at z_λ is asked to be the one whose deterministic step comes, at once, to where the flow is at its end e:

    x̂(z_λ, λ) = (z_e − c_z z_λ)/c_x,      c_z = s_e/s_λ,   c_x = a_e − a_λ c_z;      in the last segment the image.

z_e is the teacher's: it follows the segment in several steps of second order. K evaluations of the student are a
sample. The loss is the squared error of the model's own target, as in training. The right side has no gradient and
knows nothing of the student, so there is nothing that could run away.

A student that learns from itself one substep nearer the data (consistency) needs every log-SNR on the way, and many
steps until what is learned near the data has reached the noise: after as long a training it was far behind
(docs/sampling.md).
Source: Luhman & Luhman 2021; Salimans & Ho 2022 (progressive distillation, whose last round this is).
"""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor, nn

from markovae.diffusion.forward import noise_scale, noised, signal_scale
from markovae.diffusion.model import Diffusion
from markovae.diffusion.objective import Objective, default_objective
from markovae.networks.conditioning import Condition
from markovae.randomness import generator
from markovae.sampling.grids import student_grid, uniform_grid
from markovae.sampling.samplers import AdamsBashforth, trajectory
from markovae.training.batches import Batch, BatchIndices
from markovae.training.distillation_config import DistillConfig
from markovae.training.losses import Loss, Losses, autocast

NEAREST = 8.0  # the teacher's last evaluation: noise of 2 of 255 grey values is left, which its x̂ is without
WAY = 18.0  # log-SNRs from −10 to there
FEWEST = 2  # evaluations of the teacher in a segment: one would be the student's own step


def trajectory_grid(start: Tensor, end: Tensor, schedule_first: float, substeps: int) -> Tensor:
    """Log-SNRs of the teacher's steps in a segment, its end first, float64; `substeps` would cover the whole way.

    Args:
        start, end: λ and e, (), float64; e = ∞ for the data.
        schedule_first: log-SNR of level 1.
    """
    near = min(schedule_first, NEAREST) if end.isinf() else float(end)
    near = max(near, float(start) + 1e-3)
    count = max(FEWEST, math.ceil((near - float(start)) * substeps / WAY - 1e-9))
    if end.isinf():
        return uniform_grid(near, float(start), count)
    return uniform_grid(near, float(start), count + 1)[1:]


@final
class Distillation(Loss):
    """The loss of a student; it learns nothing but the weights.

    Args:
        student: in training.
        teacher: of its shape; for evaluation, and never changed.
        config: the section [distill].
    """

    def __init__(self, student: Diffusion, teacher: Diffusion, config: DistillConfig) -> None:
        self.student, self.teacher, self.config = student, teacher.eval().requires_grad_(False), config
        self._ends = student_grid(teacher.schedule, config.calls)
        first = float(teacher.schedule.logsnr.detach()[1])
        pairs = zip(self._ends[1:], self._ends[:-1], strict=True)
        self._grids = [trajectory_grid(start, end, first, config.substeps) for start, end in pairs]
        self._objective = default_objective(student.schedule)

    @property
    def objective(self) -> Objective:
        """Its levels name a step that is not taken, and nothing else: the segments are drawn alike."""
        return self._objective

    def backward(self, network: nn.Module, batch: Batch, size: int, dtype: torch.dtype) -> Losses:
        """One backward pass, after the teacher's way through each segment."""
        with autocast(self.student, dtype):
            losses, nats = self.draws(batch.x, batch.draw.noise, batch.quantile, batch.condition, network)
        (losses.sum() / size).backward()
        return Losses(losses.detach()[:, None], nats.cpu())

    def draws(
        self,
        x: Tensor,
        noise: Tensor,
        quantile: Tensor,
        condition: Condition | None = None,
        network: nn.Module | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(squared error of the student's target per dim, with gradients, and nats, float64) of a segment, (B,) each.

        Args:
            x: data on the model's scale, (B, *D).
            noise: ε̄, (B, *D).
            quantile: of the segment, in [0, 1), (B,).
            network: the student's, perhaps wrapped.
        Returns: the mean of the nats is the levels' of the student's chain, with the posterior variance.
        """
        student, count = self.student, len(self._grids)
        segment = (quantile.cpu().double() * count).long().clamp(max=count - 1)
        now, after = (ends[segment].to(x.device) for ends in (self._ends[1:], self._ends[:-1]))
        z = noised(x, noise, now)
        wanted = torch.empty_like(z)
        for number in segment.unique().tolist():
            rows = (segment == number).nonzero().flatten()
            known = None if condition is None else condition.take(rows)
            wanted[rows] = self._wanted(z[rows.to(x.device)], number, known)
        out = (network or student.network)(z, now, condition)
        # The head of a learned variance stays the teacher's.
        out = (out if out.dtype == torch.float64 else out.float())[:, : z.shape[1]]
        error = (x - student.target.to_x(out.detach(), z, now)).double().square().flatten(1).sum(1)
        nats = torch.where(after.isinf(), 0.0, 0.5 * count * (after.exp() - now.exp()) * error)
        return ((out - student.target.of_x(wanted, z, now)) ** 2).flatten(1).mean(1), nats

    def note(self, indices_of: BatchIndices, losses: Tensor) -> None:
        """Nothing is learned from losses."""

    def capture(self) -> dict[str, Any] | None:
        """Nothing beside the weights."""
        return None

    def restore(self, record: Any) -> None:
        """Nothing beside the weights."""

    @torch.no_grad()
    def _wanted(self, z: Tensor, number: int, condition: Condition | None) -> Tensor:
        """x̂ that leads from z at the beginning of a segment to the teacher's end of it at once, (B, *D)."""
        start, end = self._ends[number + 1], self._ends[number]
        # The steps draw nothing.
        *_, last = trajectory(self, z, self._grids[number], AdamsBashforth(2), generator(0, "none"), condition)
        if end.isinf():
            return last.x_hat
        c_z = float(noise_scale(end) / noise_scale(start))
        return (last.z - c_z * z) / (float(signal_scale(end)) - c_z * float(signal_scale(start)))

    def predict(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> tuple[Tensor, None]:
        """(the teacher's x̂ with the guidance that is built in, None): what its steps are made of."""
        x_hat = self.teacher.denoise(z, logsnr, condition)
        if self.config.guidance == 1 or condition is None:
            return x_hat, None
        null = self.teacher.denoise(z, logsnr, condition.drop(torch.zeros(len(z), dtype=torch.bool, device=z.device)))
        return null + self.config.guidance * (x_hat - null), None
