r"""Distillation: a student that crosses a segment of the way from noise to data in one network evaluation.

The way of the probability flow, log-SNR −10 to 13.3 and on to the data, is cut into K segments. The student's x̂ at z_λ
is the one whose deterministic step z_e = (s_e/s) z + (a_e − a s_e/s) x̂ comes, at once, to where the flow is at the end
e of the segment (∞ in the last: the image). K evaluations are a sample; with ever more segments x̂ becomes E[x|z], the
teacher. Where the teacher goes from λ to r, one of N substeps, consistency asks of the student

    x̂(z_λ, λ) = w x̄ + (1 − w) x̂(z_r, r),      w = (1/σ_r − 1/σ_λ)/(1/σ_e − 1/σ_λ),      σ = s/a = e^{−λ/2}

with x̄ the teacher's mean over the substep (second order). The weights are those of two consecutive deterministic steps,
so nothing is divided by a small number, and where r = e it is the teacher alone. The loss is the squared error of the
model's own target, as in training; the right side has no gradient.
Source: Song et al. 2023 (consistency models); Heek et al. 2024 (multistep consistency models).
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from markovae.diffusion.forward import noise_scale, noised, signal_scale
from markovae.diffusion.gaussian import expand
from markovae.diffusion.model import Diffusion
from markovae.diffusion.objective import Objective, default_objective
from markovae.networks.conditioning import Condition
from markovae.sampling.grids import student_grid, substep_grid
from markovae.training.batches import Batch
from markovae.training.distillation_config import DistillConfig
from markovae.training.losses import Loss, Losses, autocast


def ddim_step(z: Tensor, x_hat: Tensor, logsnr: Tensor, logsnr_next: Tensor) -> Tensor:
    """z' = (s'/s) z + (a' − a s'/s) x̂, (B, *D); log-SNRs (B,), the next one ∞ for the data.

    Source: Song, Meng & Ermon 2021, eq. 12, η = 0.
    """
    c_z = noise_scale(logsnr_next) / noise_scale(logsnr)
    c_x = signal_scale(logsnr_next) - c_z * signal_scale(logsnr)
    return expand(c_z, z).to(z) * z + expand(c_x, z).to(z) * x_hat


def teacher_share(logsnr: Tensor, logsnr_next: Tensor, logsnr_end: Tensor) -> Tensor:
    """w, the share of the substep λ → r in the segment λ → e, (B,), float64; 1 where r = e."""
    here, after, end = ((value / 2).exp() for value in (logsnr, logsnr_next, logsnr_end))
    share = torch.where(end.isinf(), 0.0, (after - here) / torch.where(end.isinf(), 2 * after, end - here))
    return torch.where(logsnr_next == logsnr_end, 1.0, share)


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
        self._nodes = substep_grid(teacher.schedule, config.calls, config.substeps)
        self._objective = default_objective(student.schedule)

    @property
    def objective(self) -> Objective:
        """Its levels name a step that is not taken, and nothing else: the substeps are drawn alike."""
        return self._objective

    def backward(self, network: nn.Module, batch: Batch, size: int, dtype: torch.dtype) -> Losses:
        """One backward pass, after two evaluations of the teacher and one of the student."""
        with autocast(self.student, dtype):
            losses, nats = self.draws(batch.x, batch.draw.noise, batch.quantile, batch.condition, network)
        (losses.sum() / size).backward()
        return Losses(losses.detach(), nats.cpu())

    def draws(
        self,
        x: Tensor,
        noise: Tensor,
        quantile: Tensor,
        condition: Condition | None = None,
        network: nn.Module | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(squared error of the student's target per dim, with gradients, and nats, float64) of a substep, (B,) each.

        Args:
            x: data on the model's scale, (B, *D).
            noise: ε̄, (B, *D).
            quantile: of the substep, in [0, 1), (B,).
            network: the student's, perhaps wrapped.
        Returns: the mean of the nats is the bound's levels on the substeps, with the posterior variance.
        """
        student, count = self.student, len(self._nodes) - 1
        place = 1 + (quantile.cpu().double() * count).long().clamp(max=count - 1)
        now, after = self._nodes[place], self._nodes[place - 1]
        end = torch.stack([self._ends[self._ends > value].min() for value in now])
        now, after, end = (value.to(x.device) for value in (now, after, end))
        z = noised(x, noise, now)
        wanted = self._wanted(z, now, after, end, condition)
        out = (network or student.network)(z, now, condition)
        # The head of a learned variance stays the teacher's.
        out = (out if out.dtype == torch.float64 else out.float())[:, : z.shape[1]]
        error = (x - student.target.to_x(out.detach(), z, now)).double().square().flatten(1).sum(1)
        nats = torch.where(after.isinf(), 0.0, 0.5 * count * (after.exp() - now.exp()) * error)
        return ((out - student.target.of_x(wanted, z, now)) ** 2).flatten(1).mean(1), nats

    def note(self, level: Tensor, losses: Tensor) -> None:
        """Nothing is learned from losses."""

    def capture(self) -> dict[str, Any] | None:
        """Nothing beside the weights."""
        return None

    def restore(self, record: Any) -> None:
        """Nothing beside the weights."""

    @torch.no_grad()
    def _wanted(self, z: Tensor, now: Tensor, after: Tensor, end: Tensor, condition: Condition | None) -> Tensor:
        """w x̄ + (1 − w) x̂(z_r, r), (B, *D)."""
        first = self._taught(z, now, condition)
        # Where the next node is the data there is nothing to evaluate there: any finite log-SNR will do.
        finite = torch.where(after.isinf(), now, after)
        second = self._taught(ddim_step(z, first, now, finite), finite, condition)
        mean = torch.where(expand(after.isinf(), z), first, (first + second) / 2)
        later = self.student.denoise(ddim_step(z, mean, now, finite), finite, condition)
        share = expand(teacher_share(now, after, end), z).to(z)
        return share * mean + (1 - share) * later

    def _taught(self, z: Tensor, logsnr: Tensor, condition: Condition | None) -> Tensor:
        """The teacher's x̂ with the guidance that is built in."""
        x_hat = self.teacher.denoise(z, logsnr, condition)
        if self.config.guidance == 1 or condition is None:
            return x_hat
        null = self.teacher.denoise(z, logsnr, condition.drop(torch.zeros(len(z), dtype=torch.bool, device=z.device)))
        return null + self.config.guidance * (x_hat - null)
