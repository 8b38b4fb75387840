r"""The likelihood of the probability-flow ODE: a model of its own, not the chain that E6 bounds.

With z = a x̂ + s ε̂ the flow in log-SNR is dz/dλ = ½(a x̂ − a² z), and along it d ln p/dλ = −½(a tr ∂x̂/∂z − a² d). From
level 1 down to level L, where P(z_L) = N(0, I):
    ln p(z_1) = ln N(z_L; 0, I) + ∫_{λ_1}^{λ_L} ½(a tr ∂x̂/∂z − a² d) dλ,   ln p(z_1/a_1) = ln p(z_1) + d ln a_1.
Source: Chen et al. 2018 (instantaneous change of variables); Song et al. 2021, section 4.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.forward import signal_scale
from markovae.gaussian import Gaussian
from markovae.likelihood.dequantise import Dequantisation, UniformNoise
from markovae.likelihood.inputs import (
    Array,
    Labels,
    at_least_one,
    checked_images,
    checked_labels,
    checked_model,
    conditions,
    require_numbers,
)
from markovae.likelihood.integrate import DormandPrince, Integrator
from markovae.likelihood.record import finite
from markovae.networks.condition import Condition
from markovae.randomness import Streams
from markovae.reverse import traces
from markovae.vae import Estimate, estimate_mean, evaluating


@dataclass(frozen=True)
class OdeLikelihood:
    """The flow's own figures; the name says that they are not the bound's.

    Args:
        nats: of each example, averaged over probes, (n,), float64: a bound on −ln P of digits, or −ln p of floats.
        probe_stderr: standard error that the trace's probes leave in each, (n,); nan for one probe, 0 if exact.
        dims: d.   discrete: True for digits.   calls: network calls of each example, (n,).
        first, last: the log-SNRs where the flow began and ended.
    """

    nats: Tensor
    probe_stderr: Tensor
    dims: int
    discrete: bool
    calls: Tensor
    first: float
    last: float

    @property
    def bits_per_dim(self) -> Estimate:
        """Mean bits per dimension ± standard error over examples.

        Raises:
            UserError: for a density, which has no bits until a bin width is named.
        """
        if not self.discrete:
            raise UserError("bits per dimension of a density depend on a bin width: dequantise digits")
        return estimate_mean(self.nats / (self.dims * math.log(2)))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object; a density has `density_nats` and no bits."""
        nats = estimate_mean(self.nats)
        figures: dict[str, Any] = {
            "nats" if self.discrete else "density_nats": {"mean": finite(nats.value), "stderr": finite(nats.stderr)}
        }
        if self.discrete:
            bits = self.bits_per_dim
            ends = [finite(end) for end in bits.ci95]
            figures["bits_per_dim"] = {"mean": finite(bits.value), "stderr": finite(bits.stderr), "ci95": ends}
        return {
            "model": "probability-flow ODE",
            "n": len(self.nats),
            "dims": self.dims,
            **figures,
            "probe_stderr_nats": finite(float((self.probe_stderr**2).sum().sqrt()) / len(self.nats)),
            "network_calls_per_example": float(self.calls.double().mean()),
            "logsnr": [self.first, self.last],
        }


def ode_likelihood(
    model: Diffusion,
    images: Array,
    labels: Labels | None = None,
    *,
    integrator: Integrator | None = None,
    probes: int | None = 4,
    dequantisation: Dequantisation | None = None,
    seed: int = 0,
    batch: int = 64,
) -> OdeLikelihood:
    """−ln of the flow's density at dequantised digits, less ln of the noise's: a bound on −ln P of the ODE model.

    Args:
        images: digits, or floats for a model of continuous data.
        integrator: None is `DormandPrince()`, each example on its own steps.
        probes: Rademacher probes of the trace, keyed by (seed, image, probe); None is the exact trace.
        dequantisation: of digits; None is uniform. Its noise is keyed by (seed, image).
    Raises:
        UserError: as `measure`; or for a target that is defined by one step of a grid.
    """
    at_least_one(probes=probes, batch=batch)
    refuse_steps(model)
    checked_model(model)
    images = checked_images(model, images)
    labels = checked_labels(labels, len(images))
    grid = model.schedule.logsnr
    rule = DormandPrince() if integrator is None else integrator
    flow = _Flow(model, rule, float(grid[1]), float(grid[-1]))
    nats, calls = [], []
    with evaluating(model):
        for part in torch.arange(len(images)).split(batch):
            y, offset = _continuous(model, images[part], part, dequantisation, seed)
            directions = None if probes is None else _probes(part, probes, y, seed)
            condition = conditions(model, None if labels is None else labels[part])
            log_density, used = flow.log_density(y, directions, condition)
            nats.append(offset.cpu() - log_density.cpu())
            require_numbers(nats[-1], part)
            calls.append(used)
    each = torch.cat(nats, 1)
    stderr = each.std(0) / math.sqrt(len(each)) if len(each) > 1 else torch.full_like(each[0], math.nan)
    stderr = torch.zeros_like(stderr) if probes is None else stderr
    return OdeLikelihood(
        each.mean(0), stderr, model.dims, model.decoder.discrete, torch.cat(calls), flow.first, flow.last
    )


def refuse_steps(model: Diffusion) -> None:
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
    """The probability flow of a model between two log-SNRs."""

    model: Diffusion
    integrator: Integrator
    first: float
    last: float

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

        a_first = float(signal_scale(torch.tensor(self.first)))
        begin = torch.cat([a_first * y.double().cpu().flatten(1), torch.zeros(len(y), count, dtype=torch.float64)], 1)
        solution = self.integrator.solve(derivative, begin, self.first, self.last)
        z_last = solution.state[:, :dims]
        top = Gaussian(torch.zeros_like(z_last), torch.ones((), dtype=torch.float64)).log_prob(z_last)
        return top + solution.state[:, dims:].T + dims * math.log(a_first), solution.calls


def _continuous(
    model: Diffusion, images: Tensor, index: Tensor, dequantisation: Dequantisation | None, seed: int
) -> tuple[Tensor, Tensor]:
    """Real numbers for the images, (B, *D), and ln q of their noise, (B,)."""
    x = model.to_x(images).double()
    if not model.decoder.discrete:
        return x, x.new_zeros(len(x))
    law = UniformNoise() if dequantisation is None else dequantisation
    quantile = Streams(seed, "ode dequantisation", index.tolist()).uniform(model.shape)
    noise, log_density = law.noise(quantile.to(x.device), model.pixels)
    return x + noise, log_density


def _probes(index: Tensor, count: int, like: Tensor, seed: int) -> list[Tensor]:
    """`count` Rademacher probes, each (B, *D)."""
    draws = [Streams(seed, "ode probe", index.tolist(), k).uniform(like.shape[1:]) for k in range(count)]
    return [(2 * (u < 0.5).double() - 1).to(like.dtype) for u in draws]
