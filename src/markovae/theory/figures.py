"""The derivation's convergence plots, as SVG text: measured points, and the slope that is claimed behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from markovae.diffusion.reverse import StepVariance
from markovae.diffusion.schedule import LogSNRLinear, NoiseSchedule, constant, linear
from markovae.diffusion.target import NOISE
from markovae.report.plots import Line, alone, plot
from markovae.theory.gaps import gaussian_exact, measured, point_gap, smooth_gap, step_divergences
from markovae.theory.mixture import line_mixture
from markovae.theory.regression import gaussian_data, mean_loss_gradient, noise_loss_gradient, on_mean
from markovae.theory.sde import euler_moments, moments_at


def figures() -> Iterator[tuple[str, str]]:
    """(file name, SVG) of each plot."""
    yield "gap.svg", alone(gap())
    yield "step.svg", alone(step())
    yield "euler.svg", alone(euler())
    yield "traps.svg", alone(traps())
    yield "gradients.svg", alone(gradients(constant(num_levels=1000, delta=0.01), "constant σ"))
    yield "gradients-linear.svg", alone(gradients(linear(1000), "Ho et al.'s linear β"))


def gap() -> str:
    """The gap between the bound of L levels and the truth, against L, on grids even in log-SNR."""
    counts, toy = (32, 64, 128, 256, 512), line_mixture()
    gaps = [measured(toy, LogSNRLinear(count).logsnr[1:]) for count in counts]
    names = {"posterior": "variance β̃", "isotropic": "best isotropic", "full": "full covariance"}
    lines = [Line(counts, [float(getattr(g, name)) for g in gaps], label=label) for name, label in names.items()]
    slopes = [_slope(counts, line.y[-1], order) for line, order in zip(lines, (-1, -1, -2), strict=True)]
    words = "Gaps fall as 1/L under the variance β̃ and the best isotropic one, as 1/L² under the full covariance."
    return plot([*lines, *slopes], "levels L", "gap, nats", words, log_x=True, log_y=True)


def step() -> str:
    """KL of a true reverse step to three Gaussians, against σ."""
    sigmas, toy = (0.01, 0.02, 0.05, 0.1, 0.2), line_mixture()
    at = torch.tensor(1.0, dtype=torch.float64)
    nats = torch.stack([step_divergences(toy, at, sigma) for sigma in sigmas]).T.tolist()
    labels = ("to N(z, σ²)", "to N(true mean, σ²)", "to N(true mean, true variance)")
    lines = [Line(sigmas, column, label=label) for column, label in zip(nats, labels, strict=True)]
    slopes = [
        Line(sigmas, [line.y[0] * (s / sigmas[0]) ** order for s in sigmas], faint=True)
        for line, order in zip(lines, (2, 4, 6), strict=True)
    ]
    words = "The KL of one true reverse step to each Gaussian falls as σ², σ⁴ and σ⁶."
    return plot([*lines, *slopes], "σ of the step", "KL, nats", words, log_x=True, log_y=True)


def euler() -> str:
    """Euler–Maruyama's error in E z², against the number of steps."""
    counts = (8, 16, 32, 64, 128, 256, 512)
    start, end = torch.tensor([1.0, 0.3], dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    mean, variance = moments_at(start[0], start[1], end)
    errors = []
    for count in counts:
        m, v = euler_moments(start[0], start[1], (end / count).expand(count))
        errors.append(float((m**2 + v - mean**2 - variance).abs()))
    words = "The error in the second moment falls as 1/steps: weak order 1."
    lines = [Line(counts, errors), _slope(counts, errors[-1], -1)]
    return plot(lines, "Euler–Maruyama steps", "error in E z²", words, log_x=True, log_y=True)


def traps() -> str:
    """What a constant σ leaves however many levels there are."""
    counts = (10, 30, 100, 300, 1000, 3000, 10_000)
    smooth = [smooth_gap(count, 0.01) for count in counts]
    points = [point_gap(StepVariance(), constant(num_levels=count, delta=0.01).logsnr[1:]) for count in counts]
    unit = torch.ones(1, 1, dtype=torch.float64)
    even = [float(gaussian_exact(unit, LogSNRLinear(count).logsnr[1:]).posterior.sum()) for count in counts]
    lines = [
        Line(counts, smooth, label="β̃, smooth data, constant σ"),
        Line(counts, points, label="σ², points, constant σ"),
        Line(counts[2:], even[2:], label="β̃, smooth data, even log-SNR"),
    ]
    words = "At constant σ the gaps tend to 0.2886 and 0.2114 nats/dim; on an even log-SNR grid the gap vanishes."
    return plot(lines, "levels L", "gap, nats/dim", words, log_x=True)


def gradients(schedule: NoiseSchedule, name: str) -> str:
    """Second moments of ∂loss/∂output against the level, each over its value at the last level.

    The predictor is the best affine one of correlated Gaussian data.
    """
    data, logsnr = gaussian_data(), schedule.logsnr
    levels = torch.unique(torch.logspace(0, 3, 40).round().long())
    errors = torch.ones(schedule.num_levels, dtype=torch.float64)
    for level in range(1, schedule.num_levels + 1):
        predictor, now = on_mean(data, NOISE, logsnr[level - 1], logsnr[level]), logsnr[level]
        # E‖ε̄ − Wz‖²/d = 1 − tr(W Cov(z, ε̄))/d with Cov(ε̄, z) = s I.
        errors[level - 1] = 1 - float(predictor.weight.trace() * torch.sigmoid(-now).sqrt()) / len(data.mean)
    curves = {
        "ε loss, one step's sample": noise_loss_gradient(schedule, errors).raw,
        "ε loss, Rao–Blackwellised": noise_loss_gradient(schedule, errors).mean,
        "μ loss, one step's sample": mean_loss_gradient(schedule, errors).raw,
        "μ loss, posterior mean": mean_loss_gradient(schedule, errors).mean,
    }
    lines = [
        Line(levels[1:].tolist(), (values / values[-1])[levels[1:] - 1].tolist(), label=label)
        for label, values in curves.items()
    ]
    words = f"Second moments of the gradient at the output over that of the last level, {name}."
    return plot(lines, f"level ℓ ({name})", "over the last level's", words, log_x=True, log_y=True)


def _slope(counts: Sequence[int], last: float, order: int) -> Line:
    return Line(counts, [last * (count / counts[-1]) ** order for count in counts], faint=True)
