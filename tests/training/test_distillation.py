"""Students: a Gaussian's consistency function is known, so the loss has its minimum there and the sampler is exact."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.decoder import DensityDecoder
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.gaussian import expand
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear, Tabulated
from markovae.diffusion.target import DATA, NOISE, VELOCITY, Target
from markovae.errors import UserError
from markovae.networks.conditioning import Condition
from markovae.randomness import Streams, generator, stratified
from markovae.sampling.generation import sample
from markovae.sampling.grids import student_grid
from markovae.training.distillation import Distillation, trajectory_grid
from markovae.training.distillation_config import DistillConfig

SHAPE = (2, 3)
MEAN, VARIANCE = 0.3, 0.4
GRID = LogSNRLinear(50, 12.0, -9.0)


def scales(logsnr: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(expand(f(logsnr), z).to(z) for f in (signal_scale, noise_scale))


class Known(nn.Module):
    """x̂ of N(m, v): the teacher's, E[x|z], or the student's, whose step ends where the flow does; and a mixture."""

    def __init__(self, target: Target, calls: int | None, mixed: float = 0.0) -> None:
        super().__init__()
        self.target = target
        self.ends = None if calls is None else student_grid(GRID, calls)
        self.mixed = nn.Parameter(torch.tensor(mixed, dtype=torch.float64))

    def forward(self, z: Tensor, logsnr: Tensor, condition: object = None) -> Tensor:
        z = z.double()
        a, s = scales(logsnr, z)
        taught = MEAN + VARIANCE * a * (z - a * MEAN) / (a**2 * VARIANCE + s**2)
        x_hat = taught
        if self.ends is not None:
            end = torch.stack([self.ends[self.ends > value].min() for value in logsnr.expand(len(z))])
            b, r = scales(end, z)
            where = b * MEAN + ((b**2 * VARIANCE + r**2) / (a**2 * VARIANCE + s**2)).sqrt() * (z - a * MEAN)
            x_hat = (where - r / s * z) / (b - a * r / s)
        return self.target.of_x(x_hat + self.mixed * (taught - x_hat), z, logsnr.expand(len(z)))


def model(calls: int | None, target: Target = VELOCITY, mixed: float = 0.0) -> Diffusion:
    made = Diffusion(Known(target, calls, mixed), GRID, target, PosteriorVariance(), DensityDecoder(), SHAPE)
    made.calls, made.precision = calls, torch.float64
    return made


def data(count: int = 256) -> Tensor:
    return MEAN + VARIANCE**0.5 * torch.randn(count, *SHAPE, generator=generator(0, "students"), dtype=torch.float64)


def drawn(count: int, step: int = 0) -> tuple[Tensor, Tensor]:
    """Noise and quantiles."""
    g = generator(0, "drawn", step)
    return torch.randn(count, *SHAPE, generator=g, dtype=torch.float64), stratified(count, g)


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_a_sample_of_the_exact_student_is_the_end_of_the_flow(calls: int) -> None:
    """x = m + √v (z_L − a m)/√(a² v + s²), in K evaluations."""
    student = model(calls)
    count, seen = 20, []
    student.network.register_forward_hook(lambda *_: seen.append(1))
    images = sample(student, count, raw=True, batch=count)
    assert len(seen) == calls
    start = student_grid(GRID, calls)[-1]
    z = Streams(0, "sample", range(count)).normal(SHAPE, torch.float64)
    a, s = float(signal_scale(start)), float(noise_scale(start))
    wanted = MEAN + VARIANCE**0.5 * (z - a * MEAN) / math.sqrt(a * a * VARIANCE + s * s)
    np.testing.assert_allclose(images, wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize(("calls", "target"), [(1, VELOCITY), (2, NOISE), (4, DATA)])
def test_the_loss_has_its_minimum_at_the_exact_student(calls: int, target: Target) -> None:
    teacher, x = model(None, target), data()

    def loss(mixed: float, substeps: int = 96) -> float:
        distill = Distillation(model(calls, target, mixed), teacher, DistillConfig(calls, substeps=substeps))
        return float(distill.draws(x, *drawn(len(x)))[0].detach().mean())

    assert loss(0.0) < 1e-3 * loss(1.0)
    assert loss(0.0) < 0.1 * loss(0.0, 24)
    assert loss(0.0) < min(loss(0.1), loss(-0.1))


@pytest.mark.parametrize("calls", [1, 4])
def test_training_finds_the_exact_student(calls: int) -> None:
    """From the teacher (mixed = 1) the semi-gradient leads to the flow's own function (0)."""
    teacher, student, x = model(None), model(calls, mixed=1.0), data(64)
    distill = Distillation(student, teacher, DistillConfig(calls, substeps=32))
    optimizer = torch.optim.Adam(student.parameters(), 0.1)
    for step in range(60):
        optimizer.zero_grad()
        distill.draws(x, *drawn(len(x), step))[0].mean().backward()
        optimizer.step()
    assert abs(student.network.mixed.item()) < 0.05


def test_grids_of_students() -> None:
    assert student_grid(GRID, 1).tolist() == [math.inf, -9.0]
    torch.testing.assert_close(student_grid(GRID, 2), torch.tensor([math.inf, 0.0, -9.0]).double())
    with pytest.raises(UserError, match=r"distill\.calls=3 must be 1, 2 or 4"):
        DistillConfig(3)


def test_the_way_of_the_teacher() -> None:
    """From the beginning of a segment, the last of its grid, to its end: two evaluations or more, six for a third."""
    start, end, data_end = (torch.tensor(value).double() for value in (-4.0, 2.0, math.inf))
    assert trajectory_grid(start, end, 12.0, 18).tolist() == [2, 1, 0, -1, -2, -3, -4]
    assert trajectory_grid(start, end, 12.0, 2).tolist() == [2, -1, -4]
    torch.testing.assert_close(trajectory_grid(start, data_end, 12.0, 6)[1:], torch.tensor([8, 4, 0, -4.0]).double())
    assert trajectory_grid(start, data_end, 5.0, 6).tolist() == [math.inf, 5, 0.5, -4], "no nearer than level 1"
    assert trajectory_grid(torch.tensor(9.0).double(), data_end, 12.0, 6)[-1] == 9, "beyond where it ends"


def test_the_nats_of_its_draws_are_the_bound_on_its_own_levels() -> None:
    """Of the teacher itself: the levels ℓ ≥ 2 of the bound on the student's log-SNRs, with the posterior variance."""
    teacher, x = model(None), data(4000)
    distill = Distillation(teacher, teacher, DistillConfig(4))
    nats = distill.draws(x, *drawn(len(x)))[1]
    bound = teacher.on_grid(Tabulated(student_grid(GRID, 4)[1:])).bound(x)
    levels, expected = estimate_mean(nats), estimate_mean(bound.levels.sum(1))
    assert levels.value == pytest.approx(expected.value, abs=4 * math.hypot(levels.stderr, expected.stderr))


def test_the_guidance_of_the_teacher_is_built_in() -> None:
    class Shifted(nn.Module):
        """x̂ = 1 of class 0, 0.25 of the null."""

        def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
            assert condition is not None
            kept = torch.ones(len(z), dtype=torch.bool) if condition.keep is None else condition.keep
            return torch.where(kept[:, None, None], 1.0, 0.25).expand_as(z).to(z)

    teacher = Diffusion(Shifted(), GRID, DATA, PosteriorVariance(), DensityDecoder(), SHAPE)
    distill = Distillation(teacher, teacher, DistillConfig(1, guidance=3.0))
    z, condition = torch.zeros(2, *SHAPE), Condition(label=torch.zeros(2, dtype=torch.int64))
    guided = torch.full((2, *SHAPE), 0.25 + 3 * 0.75)
    assert torch.equal(distill.predict(z, torch.tensor(2.0), condition)[0], guided)
    torch.testing.assert_close(distill._wanted(z, 0, condition), guided)
