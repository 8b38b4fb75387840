r"""Ordinary differential equations for a batch of examples that never see one another.

A state is a tensor (B, n); the derivative is asked for with each example's own time, (B,).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor

from markovae.diffusion.bound import Estimate, estimate_mean, html_table
from markovae.diffusion.cascade import Cascade, Model, stages_of
from markovae.diffusion.derivatives import traces
from markovae.diffusion.forward import signal_scale
from markovae.diffusion.gaussian import Gaussian, sum_dims
from markovae.diffusion.markovian_vae import evaluating
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.errors import UserError
from markovae.likelihood.inputs import (
    Array,
    Labels,
    checked_images,
    checked_labels,
    checked_model,
    conditions,
    require_condition,
    require_finite,
)
from markovae.likelihood.measurement import estimate_dict
from markovae.likelihood.method import DEQUANTIZATIONS
from markovae.networks.conditioning import Condition
from markovae.randomness import Streams
from markovae.strict_json import finite
from markovae.tables import at_least_one

Derivative = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(examples, time, state) -> d state/d time: places in the batch (B',), their times (B',) and states (B', n)."""


@dataclass(frozen=True)
class Solution:
    """State at the end, (B, n), and how often the derivative was asked for, (B,), int64."""

    state: Tensor
    calls: Tensor


class Integrator(ABC):
    """A rule that carries states from one time to another."""

    @abstractmethod
    def solve(self, derivative: Derivative, state: Tensor, start: float, end: float) -> Solution:
        """The state at `end` from that at `start`, (B, n), float64."""


@final
class RungeKutta4(Integrator):
    """The classical rule of order 4 on a fixed even grid.

    Args:
        steps: of the grid; 4 calls each.
    """

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        self.steps = steps

    def solve(self, derivative: Derivative, state: Tensor, start: float, end: float) -> Solution:
        """k1…k4 on each step."""
        everyone = torch.arange(len(state))
        grid = torch.linspace(start, end, self.steps + 1, dtype=torch.float64)
        for now, after in pairwise(grid):
            h = after - now
            times = [t.expand(len(state)) for t in (now, now + h / 2, after)]
            first = derivative(everyone, times[0], state)
            second = derivative(everyone, times[1], state + h / 2 * first)
            third = derivative(everyone, times[1], state + h / 2 * second)
            fourth = derivative(everyone, times[2], state + h * third)
            state = state + h / 6 * (first + 2 * second + 2 * third + fourth)
        return Solution(state, torch.full((len(state),), 4 * self.steps))


@final
class DormandPrince(Integrator):
    """Order 5 with an embedded order 4: each example takes its own steps until its own error is small enough.

    Args:
        tolerance: on the root mean square of error/(1 + |state|) per step.
        max_calls: per example.
    Source: Dormand & Prince 1980.
    """

    _NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
    _ROWS = (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    )
    _FOURTH = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)

    def __init__(self, tolerance: float = 1e-5, max_calls: int = 20_000) -> None:
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance={tolerance:g} must lie in (0, 1)")
        self.tolerance, self.max_calls = tolerance, max_calls

    def solve(self, derivative: Derivative, state: Tensor, start: float, end: float) -> Solution:
        """Steps, accepted or shortened example by example.

        Raises:
            ValueError: where an example needs more than `max_calls` calls, or its derivative is NaN or Inf.
        """
        state = state.clone()
        time = torch.full((len(state),), start, dtype=torch.float64)
        width = torch.full_like(time, (end - start) / 50)
        calls = torch.zeros(len(state), dtype=torch.int64)
        active = torch.arange(len(state))
        while len(active):
            remaining = end - time[active]
            h = torch.where(width[active].abs() < remaining.abs(), width[active], remaining)
            proposed, error = self._step(derivative, active, time[active], state[active], h)
            calls[active] += len(self._NODES)
            if not bool(error.isfinite().all()) or int(calls.max()) > self.max_calls:
                raise ValueError(
                    f"the flow did not reach its end in {self.max_calls} calls at tolerance {self.tolerance:g}: "
                    "raise the tolerance, or look whether the network's output is finite"
                )
            good = error <= 1
            done = active[good]
            reached = h[good] == remaining[good]
            time[done] = torch.where(reached, torch.full_like(time[done], end), time[done] + h[good])
            state[done] = proposed[good]
            growth = (0.9 * error.clamp(min=1e-10) ** -0.2).clamp(0.2, 5.0)
            width[active] = h * growth
            active = active[time[active] != end]
        return Solution(state, calls)

    def _step(
        self, derivative: Derivative, active: Tensor, time: Tensor, state: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The proposed state and its error in units of the tolerance, (B',)."""
        slopes: list[Tensor] = []
        for node, row in zip(self._NODES, self._ROWS, strict=True):
            at = state
            for weight, slope in zip(row, slopes, strict=True):
                at = at + h[:, None] * weight * slope
            slopes.append(derivative(active, time + node * h, at))
        # The last row is the step of order 5 itself, so `at` is the proposal.
        fourth = state
        for weight, slope in zip(self._FOURTH, slopes, strict=True):
            fourth = fourth + h[:, None] * weight * slope
        scaled = (at - fourth) / (1 + torch.maximum(state.abs(), at.abs()))
        return at, (scaled**2).mean(1).sqrt() / self.tolerance


class Dequantization(ABC):
    """A distribution q of the noise within a bin."""

    @abstractmethod
    def noise(self, quantile: Tensor, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """(u, ln q(u)) at quantiles in [0, 1), (B, *D) each way: u, and the log-density summed over D, (B,), nats."""


@final
class UniformNoise(Dequantization):
    """U(−h, h): q = 1/2h, so the offset is −d ln 2h.

    Source: Theis et al. 2016, section 3.1.
    """

    def noise(self, quantile: Tensor, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """u = (2q − 1) h."""
        half = pixels.half_width
        u = (2 * quantile.double() - 1) * half
        return u, torch.full((len(u),), -u[0].numel() * math.log(2 * half), dtype=torch.float64, device=u.device)


@final
class TruncatedNormalNoise(Dequantization):
    """N(0, τ²) held within (−h, h): with τ = s_1/a_1 dequantized pixel values look like the latents of level 1.

    Args:
        scale: τ > 0.
    Source: Zheng et al. 2023, section 4.
    """

    def __init__(self, scale: float) -> None:
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale={scale:g} must be positive: it is the noise's standard deviation")
        self.scale = scale

    def noise(self, quantile: Tensor, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """U = τ Φ⁻¹(Φ(−r) + q(1 − 2Φ(−r))), r = h/τ; symmetric, and never at an end."""
        reach = pixels.half_width / self.scale
        mass = math.erf(reach / math.sqrt(2))
        # Φ⁻¹(½ + (q − ½) mass) = √2 erf⁻¹((2q − 1) mass); quantiles are multiples of 2⁻⁵³, here taken at their middles.
        standard = math.sqrt(2) * torch.erfinv((2 * quantile.double() - 1 + 2.0**-53) * mass)
        log_density = -0.5 * standard**2 - math.log(math.sqrt(2 * math.pi) * self.scale * mass)
        return self.scale * standard, sum_dims(log_density)


@dataclass(frozen=True, repr=False)
class OdeLikelihood:
    """The flow's own figures; the name says that they are not the bound's.

    Args:
        nats: of each example, averaged over probes, (n,), float64: a bound on −ln P, or −ln p of floats.
        probe_stderr: standard error that the trace's probes leave in each, (n,); nan for one probe, 0 if exact.
        dims: d.
        discrete: True for pixel values.
        calls: network calls of each example, (n,).
        first, last: the log-SNRs where the flow began and ended.
        probes: of the trace; None is exact.
        dequantization: uniform or normal.
    """

    nats: Tensor
    probe_stderr: Tensor
    dims: int
    discrete: bool
    calls: Tensor
    first: float
    last: float
    probes: int | None = None
    dequantization: str = "uniform"

    def __repr__(self) -> str:
        return f"OdeLikelihood({self._figure}, {len(self.nats):,} images)"

    def _repr_html_(self) -> str:
        """The figures as a table, for notebooks."""
        calls = f"{float(self.calls.double().mean()):,.0f}"
        return html_table([("flow", self._figure), ("images", f"{len(self.nats):,}"), ("NFE per image", calls)])

    @property
    def _figure(self) -> str:
        return f"{self.bits_per_dim} bits/dim" if self.discrete else f"{estimate_mean(self.nats)} nats"

    @property
    def bits_per_dim(self) -> Estimate:
        """Mean bits per dimension ± standard error over examples.

        Raises:
            UserError: for a density, which has no bits until a bin width is named.
        """
        if not self.discrete:
            raise UserError("bits per dimension of a density depend on a bin width: dequantize pixel values")
        return estimate_mean(self.nats / (self.dims * math.log(2)))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object; a density has `density_nats` and no bits."""
        nats = estimate_mean(self.nats)
        figures: dict[str, Any] = {
            "nats" if self.discrete else "density_nats": {"mean": finite(nats.value), "stderr": finite(nats.stderr)}
        }
        if self.discrete:
            figures["bits_per_dim"] = estimate_dict(self.bits_per_dim)
        return {
            "model": "probability-flow ODE",
            "n": len(self.nats),
            "dims": self.dims,
            **figures,
            "probe_stderr_nats": finite(float((self.probe_stderr**2).sum().sqrt()) / len(self.nats)),
            "network_calls_per_example": float(self.calls.double().mean()),
            "logsnr": [self.first, self.last],
            "probes": "exact" if self.probes is None else self.probes,
            "dequantization": self.dequantization,
        }


def ode_likelihood(
    model: Model,
    images: Array,
    labels: Labels | None = None,
    *,
    integrator: Integrator | int | None = None,
    probes: int | str | None = 4,
    dequantization: Dequantization | str | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 64,
) -> OdeLikelihood:
    """−ln of the flow's density at dequantized pixel values, less ln of the noise's: a bound on −ln P of the ODE model.

    Of a cascade each band flows given the mean image below it as it is; the densities of the bands multiply.

        mv.ode_likelihood(model, images[:2], labels[:2]).bits_per_dim

    Args:
        images: pixel values, or floats for a model of continuous data.
        integrator: None is `DormandPrince()`, each example on its own steps; a number is so many steps of order 4.
        probes: Rademacher probes of the trace, keyed by (seed, image, probe); None or "exact" is the exact trace.
        dequantization: of pixel values: uniform (None) or normal, N(0, (s_1/a_1)²) truncated to the bin. Its noise is
            keyed by (seed, image).
        limit: the first so many images only.
    Raises:
        UserError: as `measure`; or for a target that is defined by one step of a grid.
    """
    if isinstance(probes, str):
        if probes != "exact":
            raise UserError(f"probes={probes!r} must be a whole number or 'exact'")
        probes = None
    steps = integrator if isinstance(integrator, int) else None
    at_least_one(probes=probes, batch=batch, limit=limit, steps=steps)
    refuse_steps(model)
    checked_model(model)
    require_condition(model, labels)
    images = checked_images(model, images, limit)
    labels = checked_labels(labels, len(images), limit)
    dequantization = _dequantization(dequantization, model)
    rule = (
        integrator if isinstance(integrator, Integrator) else DormandPrince() if steps is None else RungeKutta4(steps)
    )
    grid, nats, calls = model.level_logsnr, [], []
    with evaluating(model):
        for part in torch.arange(len(images)).split(batch):
            y, offset = _continuous(model, images[part], part, dequantization, seed)
            condition = conditions(model, None if labels is None else labels[part])
            total, used = offset.cpu(), torch.zeros(len(part), dtype=torch.int64)
            for b, (stage, band, given) in enumerate(_bands(model, y, condition)):
                directions = None if probes is None else _probes(part, probes, band, seed, b)
                log_density, own = _Flow(stage, rule).log_density(band, directions, given)
                total, used = total - log_density.cpu(), used + own
            nats.append(total)
            require_finite(nats[-1], part)
            calls.append(used)
    each = torch.cat(nats, 1)
    stderr = each.std(0) / math.sqrt(len(each)) if len(each) > 1 else torch.full_like(each[0], math.nan)
    stderr = torch.zeros_like(stderr) if probes is None else stderr
    return OdeLikelihood(
        each.mean(0),
        stderr,
        model.dims,
        model.decoder.discrete,
        torch.cat(calls),
        float(grid[1]),
        float(grid[-1]),
        probes,
        "normal" if isinstance(dequantization, TruncatedNormalNoise) else "uniform",
    )


def _dequantization(asked: Dequantization | str | None, model: Model) -> Dequantization:
    if isinstance(asked, Dequantization):
        return asked
    if asked in (None, "uniform"):
        return UniformNoise()
    if asked != "normal":
        raise UserError(f"dequantization={asked!r} must be one of {', '.join(DEQUANTIZATIONS)}")
    first = model.schedule.logsnr.detach()[1]
    return TruncatedNormalNoise(float((-first / 2).exp()))


def refuse_steps(model: Model) -> None:
    """Refuse targets that exist only on a grid.

    Raises:
        UserError: for the mean and the one-step noise.
    """
    if model.target.needs_neighbour:
        raise UserError(
            f"target {model.target.name!r} is defined by one step of a grid and has no continuous limit: measure the "
            "model on its levels"
        )


@dataclass(frozen=True)
class _Flow:
    """The probability flow of a model, from level 1 to its last."""

    model: Diffusion
    integrator: Integrator

    def log_density(self, y: Tensor, probes: list[Tensor] | None, condition: Condition | None) -> tuple[Tensor, Tensor]:
        """ln p(y) by each probe, (P, B), or exactly, (1, B), and the calls of each example, (B,)."""
        dims, device = y[0].numel(), self.model.device
        count = 1 if probes is None else len(probes)

        def derivative(active: Tensor, logsnr: Tensor, state: Tensor) -> Tensor:
            z = state[:, :dims].reshape(-1, *y.shape[1:]).to(device)
            some = None if probes is None else [v[active].to(device) for v in probes]
            given = None if condition is None else condition.take(active)
            x_hat, trace = traces(lambda at: self.model.denoise(at, logsnr.to(device), given), z, some)
            a = signal_scale(logsnr)[:, None]
            drift = 0.5 * a * (x_hat.double().cpu().flatten(1) - a * state[:, :dims])
            divergence = 0.5 * a * (trace.T.double().cpu() - a * dims)
            return torch.cat([drift, divergence], 1)

        first, last = (float(self.model.schedule.logsnr[level]) for level in (1, -1))
        a_first = float(signal_scale(torch.tensor(first)))
        begin = torch.cat([a_first * y.double().cpu().flatten(1), torch.zeros(len(y), count, dtype=torch.float64)], 1)
        solution = self.integrator.solve(derivative, begin, first, last)
        z_last = solution.state[:, :dims]
        top = Gaussian(torch.zeros_like(z_last), torch.ones((), dtype=torch.float64)).log_prob(z_last)
        return top + solution.state[:, dims:].T + dims * math.log(a_first), solution.calls


def _bands(
    model: Model, y: Tensor, condition: Condition | None
) -> Iterator[tuple[Diffusion, Tensor, Condition | None]]:
    """(stage, its data, what it is given) of images, (B, *D), coarse first; one stage is the model itself."""
    if not isinstance(model, Cascade) or not model.octaves:
        yield stages_of(model)[0], y, condition
        return
    for b, (stage, band) in enumerate(zip(stages_of(model), model.bands(y), strict=True)):
        if not b:
            yield stage, band, condition
            continue
        image = model.means(y, b - 1)
        yield stage, band, model.refining(condition, image, model.coarse_logsnr(b), torch.zeros_like(image))


def _continuous(
    model: Model, images: Tensor, index: Tensor, dequantization: Dequantization, seed: int
) -> tuple[Tensor, Tensor]:
    """Real numbers for the images, (B, *D), and ln q of their noise, (B,), with what the bands' scales add."""
    x = model.to_x(images).double()
    volume = 0.0  # ln of that of the bands' data in units of the pixels'
    if isinstance(model, Cascade):
        volume = sum(math.prod(s.shape) * unit / 2 for s, unit in zip(stages_of(model), model.units, strict=True))
    if not model.decoder.discrete:
        return x, x.new_full((len(x),), volume)
    # The name is part of the key: another spelling would be other noise.
    quantile = Streams(seed, "ode dequantisation", index.tolist()).uniform(model.shape)
    noise, log_density = dequantization.noise(quantile.to(x.device), model.pixels)
    return x + noise, log_density + volume


def _probes(index: Tensor, count: int, like: Tensor, seed: int, stage: int) -> list[Tensor]:
    """`count` Rademacher probes of a stage, each (B, *D)."""
    key = (stage,) if stage else ()
    draws = [Streams(seed, "ode probe", index.tolist(), k, *key).uniform(like.shape[1:]) for k in range(count)]
    return [(2 * (u < 0.5).double() - 1).to(like.dtype) for u in draws]
