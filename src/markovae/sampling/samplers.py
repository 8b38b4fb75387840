"""All samplers, each beside its paper, and `trajectory`, the one loop that runs them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from markovae.diffusion.forward import noise_scale, posterior_variance, signal_scale
from markovae.diffusion.reverse import ReverseVariance
from markovae.networks.conditioning import Condition
from markovae.randomness import Source, normal_like
from markovae.sampling.denoiser import Denoiser


@dataclass(frozen=True)
class State:
    """Where a sample is on its way: what is shown of a trajectory.

    Args:
        logsnr: λ, (), float64, on the CPU.
        z: latent, (B, *D).
        x_hat: the prediction of z_0, (B, *D).
        head: the network's second half, if the reverse variance is learned.
    """

    logsnr: Tensor
    z: Tensor
    x_hat: Tensor
    head: Tensor | None = None


Evaluate = Callable[[Tensor, Tensor], State]
"""evaluate(z, λ): one network evaluation, and the state it gives."""


class Stepper(ABC):
    """A rule that takes a state to the latent at the next log-SNR; the loop itself ends at λ = ∞ with z_0 = x̂.

    `history` is how many earlier states it reads; `evaluations_per_step` counts the denoiser's calls in a step, the one
    that made `now` among them; `draws` says whether it draws random numbers.
    """

    history: int = 0
    evaluations_per_step: int = 1
    draws: bool = False

    @abstractmethod
    def step(
        self, now: State, past: Sequence[State], logsnr_next: Tensor, evaluate: Evaluate, source: Source
    ) -> Tensor:
        """z at the finite `logsnr_next`, (B, *D).

        Args:
            now: the state to step from.
            past: earlier states, newest first; fewer than `history` at the start.
            logsnr_next: (), float64.
            evaluate: for further calls.
            source: of every random number.
        """


class Corrector(ABC):
    """A rule that betters a state at its own log-SNR, after a step and before the next.

    `history` and `calls` count the earlier states it reads and the denoiser's calls it adds; `draws` says whether it
    draws random numbers.
    """

    history: int = 0
    calls: int = 0
    draws: bool = False

    @abstractmethod
    def correct(self, now: State, past: Sequence[State], evaluate: Evaluate, source: Source) -> State:
        """The bettered state at now.logsnr; `past` holds earlier states, newest first."""


@final
class Ancestral(Stepper):
    """A draw from P_pri(z_{ℓ−1}|z_ℓ); the loop ends with the decoder's mode.

    Args:
        reverse: the prior's variance, any.
    Source: Ho et al. 2020, algorithm 2; lecture, "Generating".
    """

    draws: bool = True

    def __init__(self, reverse: ReverseVariance) -> None:
        self.reverse = reverse

    def step(
        self, now: State, past: Sequence[State], logsnr_next: Tensor, evaluate: Evaluate, source: Source
    ) -> Tensor:
        """P_pri(z_{ℓ−1}|z_ℓ).sample()."""
        distribution = self.reverse.step(now.x_hat, now.z, logsnr_next, now.logsnr, now.head)
        return distribution.sample(source).to(now.z.dtype)


@final
class DDIM(Stepper):
    r"""z' = a' x̂ + √(s'² − η²β̃) ε̂ + η √β̃ ε, with ε̂ = (z − a x̂)/s.

    Args:
        eta: 0 is deterministic, of first order; 1 has the ancestral step's variance β̃.
    Source: Song, Meng & Ermon 2021, eq. 12.
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta:g} must lie in [0, 1]: 0 is deterministic, 1 ancestral")
        self.eta, self.draws = eta, eta > 0

    def step(
        self, now: State, past: Sequence[State], logsnr_next: Tensor, evaluate: Evaluate, source: Source
    ) -> Tensor:
        """One DDIM step."""
        fresh = self.eta**2 * posterior_variance(logsnr_next, now.logsnr) if self.eta else 0.0
        # z' = c_z z + c_x x̂: no division of a small difference by a small s.
        c_z = (noise_scale(logsnr_next) ** 2 - fresh).sqrt() / noise_scale(now.logsnr)
        c_x = signal_scale(logsnr_next) - c_z * signal_scale(now.logsnr)
        z = combine(float(c_z), now.z, (float(c_x), now.x_hat))
        return z.add(normal_like(z, source), alpha=float(fresh) ** 0.5) if self.eta else z


@final
class Euler(Stepper):
    r"""y' = y + (σ' − σ)(y − x̂)/σ = r y + (1 − r) x̂: first order, and the same step as DDIM with η = 0.

    Source: Karras et al. 2022, algorithm 1 without its lines 6–8.
    """

    def step(
        self, now: State, past: Sequence[State], logsnr_next: Tensor, evaluate: Evaluate, source: Source
    ) -> Tensor:
        """One Euler step."""
        return _euler(now, logsnr_next)


@final
class Heun(Stepper):
    r"""The trapezoid rule: y' = y + ½(σ' − σ)(d + d'), d = (y − x̂)/σ, d' taken at Euler's y'; second order.

    = r y + ½(1 − r)[(2 − 1/r) x̂ + x̂'/r]: two calls per step.
    Source: Karras et al. 2022, algorithm 1.
    """

    evaluations_per_step: int = 2

    def step(
        self, now: State, past: Sequence[State], logsnr_next: Tensor, evaluate: Evaluate, source: Source
    ) -> Tensor:
        """One Heun step."""
        ahead = evaluate(_euler(now, logsnr_next), logsnr_next)
        fade, gain, width = leap(now.logsnr, logsnr_next)
        ratio = math.exp(-width)
        half = -0.5 * gain * math.expm1(-width)
        return combine(fade, now.z, (half * (2 - 1 / ratio), now.x_hat), (half / ratio, ahead.x_hat))


def _euler(now: State, logsnr_next: Tensor) -> Tensor:
    fade, gain, width = leap(now.logsnr, logsnr_next)
    return combine(fade, now.z, (gain * (1 - math.exp(-width)), now.x_hat))


def leap(logsnr: Tensor, logsnr_next: Tensor) -> tuple[float, float, float]:
    """(s'/s, a', H) of the step λ -> λ'; H < 0 towards noise."""
    fade = float(noise_scale(logsnr_next) / noise_scale(logsnr))
    return fade, float(signal_scale(logsnr_next)), float(logsnr_next - logsnr) / 2


def combine(fade: float, z: Tensor, *terms: tuple[float, Tensor]) -> Tensor:
    """fade·z + Σ c_j x̂_j, (B, *D), in the type of `z`."""
    total = fade * z
    for weight, x_hat in terms:
        total = total.add(x_hat, alpha=weight)
    return total


def held_step(now_z: Tensor, x_hat: Tensor, logsnr: Tensor, logsnr_next: Tensor) -> Tensor:
    """One step with x̂ held: z' = (s'/s) z + a' (1 − e^{−H}) x̂, (B, *D); first order, and DDIM with η = 0."""
    fade, gain, width = leap(logsnr, logsnr_next)
    return combine(fade, now_z, (-gain * math.expm1(-width), x_hat))


def moments(width: float, count: int) -> list[float]:
    r"""μ_k = ∫₀^H e^{u−H} (u/H)^k du for k = 0…count−1.

    μ_0 = 1 − e^{−H}, μ_k = 1 − k μ_{k−1}/H; for |H| < 1 the series H Σ_j (−H)^j k!/(k+j+1)! loses no digits.
    """
    if abs(width) < 1:
        return [_series(width, k) for k in range(count)]
    values = [-math.expm1(-width)]
    for k in range(1, count):
        values.append(1 - k * values[-1] / width)
    return values


def weights(nodes: Sequence[float], width: float) -> list[float]:
    r"""w_j = ∫₀^H e^{u−H} ℓ_j(u/H) du: the integral of the polynomial through x̂ at `nodes`, in units of H from now.

    ℓ_j(v) = ∏_{i≠j} (v − v_i)/(v_j − v_i) is multiplied out, and v^k integrates to μ_k. (Plain numbers: a solve of a
    3×3 system by tensors costs as much time as the rest of a step.)
    """
    mu = moments(width, len(nodes))
    found = []
    for j, own in enumerate(nodes):
        polynomial, scale = [1.0], 1.0
        for i, other in enumerate(nodes):
            if i != j:
                shifted, constant = [0.0, *polynomial], [*(-other * c for c in polynomial), 0.0]
                polynomial = [a + b for a, b in zip(shifted, constant, strict=True)]
                scale *= own - other
        found.append(sum(c * m for c, m in zip(polynomial, mu, strict=True)) / scale)
    return found


def retaken(now: State, past: Sequence[State]) -> Tensor:
    """z of `now`, where the first step led to it: that step again by the trapezoid rule, (B, *D); else z as it is.

    A first step holds x̂, an error of second order in its width that would bound a third-order solver which starts
    part-way down the chain. x̂ at its end, known by then, mends it at no further call.
    """
    if len(past) != 1:
        return now.z
    start = past[0]
    fade, gain, width = leap(start.logsnr, now.logsnr)
    mu_0, mu_1 = moments(width, 2)
    return combine(fade, start.z, (gain * (mu_0 - mu_1), start.x_hat), (gain * mu_1, now.x_hat))


def _series(width: float, k: int) -> float:
    term = width / (k + 1)
    total = term
    for j in range(1, 20):
        term *= -width / (k + j + 1)
        total += term
    return total


@final
class DPMSolverPP2S(Stepper):
    r"""u at h + H/2 by first order, then z' = (s'/s) z + a'(1 − e^{−H}) x̂(u): the midpoint rule, two calls per step.

    Source: Lu et al. 2022 (DPM-Solver++), algorithm 1 with r = 1/2.
    """

    evaluations_per_step: int = 2

    def step(
        self, now: State, past: Sequence[State], logsnr_next: Tensor, evaluate: Evaluate, source: Source
    ) -> Tensor:
        """One singlestep update of second order."""
        middle = (now.logsnr + logsnr_next) / 2
        half = evaluate(held_step(now.z, now.x_hat, now.logsnr, middle), middle)
        return held_step(now.z, half.x_hat, now.logsnr, logsnr_next)


@final
class DPMSolverPP3S(Stepper):
    r"""Stages at h + H/3 and h + 2H/3; three calls per step, third order.

    u_1 = first order to H/3;  u_2 = first order to 2H/3 plus 2 a_2 μ_1(2H/3) (x̂_1 − x̂);
    z' = (s'/s) z + a' [μ_0 x̂ + (3/2) μ_1 (x̂_2 − x̂)].
    Source: Lu et al. 2022 (DPM-Solver++), singlestep third order; Lu et al. 2022 (DPM-Solver), algorithm 2.
    """

    evaluations_per_step: int = 3

    def step(
        self, now: State, past: Sequence[State], logsnr_next: Tensor, evaluate: Evaluate, source: Source
    ) -> Tensor:
        """One singlestep update of third order."""
        third, two_thirds = (now.logsnr + part * (logsnr_next - now.logsnr) for part in (1 / 3, 2 / 3))
        one = evaluate(held_step(now.z, now.x_hat, now.logsnr, third), third)
        fade, gain, width = leap(now.logsnr, two_thirds)
        bend = 2 * gain * moments(width, 2)[1]
        start = -gain * math.expm1(-width)
        two = evaluate(combine(fade, now.z, (start - bend, now.x_hat), (bend, one.x_hat)), two_thirds)
        fade, gain, width = leap(now.logsnr, logsnr_next)
        mu = moments(width, 2)
        bend = 1.5 * gain * mu[1]
        return combine(fade, now.z, (gain * mu[0] - bend, now.x_hat), (bend, two.x_hat))


@final
class DPMSolverPP2M(Stepper):
    r"""z' = (s'/s) z + a'(1 − e^{−H}) D,  D = x̂ + (x̂ − x̂_1)/(2 r_0): second order.

    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2.
    """

    history: int = 1

    def step(
        self, now: State, past: Sequence[State], logsnr_next: Tensor, evaluate: Evaluate, source: Source
    ) -> Tensor:
        """One multistep update of second order."""
        return held_step(now.z, extrapolated(now, past, logsnr_next), now.logsnr, logsnr_next)


@final
class DPMSolverPP3M(Stepper):
    r"""z' = (s'/s) z + a' [μ_0 x̂ + μ_1 D_1 + μ_2 D_2], μ_k = ∫₀^H e^{u−H}(u/H)^k du: third order.

    With d_0 = (x̂ − x̂_1)/r_0, d_1 = (x̂_1 − x̂_2)/r_1:  D_2 = (d_0 − d_1)/(r_0 + r_1) = H² x̂''/2, D_1 = d_0 + r_0 D_2.
    Widely copied code weighs D_2 by μ_2/2 (as if it were H² x̂''), which leaves second order.
    Source: Lu et al. 2022 (DPM-Solver++), appendix B.
    """

    history: int = 2

    def step(
        self, now: State, past: Sequence[State], logsnr_next: Tensor, evaluate: Evaluate, source: Source
    ) -> Tensor:
        """One multistep update of third order."""
        if len(past) < 2:
            return held_step(retaken(now, past), extrapolated(now, past, logsnr_next), now.logsnr, logsnr_next)
        fade, gain, width = leap(now.logsnr, logsnr_next)
        r_0, r_1 = ratio(now, past[0], width), ratio(past[0], past[1], width)
        d_0, d_1 = (now.x_hat - past[0].x_hat) / r_0, (past[0].x_hat - past[1].x_hat) / r_1
        second = (d_0 - d_1) / (r_0 + r_1)
        mu = moments(width, 3)
        first = d_0 + r_0 * second
        return combine(fade, now.z, (gain * mu[0], now.x_hat), (gain * mu[1], first), (gain * mu[2], second))


@final
class SDEDPMSolverPP2M(Stepper):
    r"""z' = (s'/s) e^{−H} z + a'(1 − e^{−2H}) D + s' √(1 − e^{−2H}) ε, D as in 2M: for the reverse SDE.

    Source: Lu et al. 2022 (DPM-Solver++), appendix on SDE-DPM-Solver++(2M).
    """

    history: int = 1
    draws: bool = True

    def step(
        self, now: State, past: Sequence[State], logsnr_next: Tensor, evaluate: Evaluate, source: Source
    ) -> Tensor:
        """One multistep update with fresh noise."""
        fade, gain, width = leap(now.logsnr, logsnr_next)
        renewed = -math.expm1(-2 * width)
        direction = extrapolated(now, past, logsnr_next)
        z = combine(fade * math.exp(-width), now.z, (gain * renewed, direction))
        return z.add(normal_like(z, source), alpha=float(noise_scale(logsnr_next)) * math.sqrt(renewed))


def ratio(now: State, before: State, width: float) -> float:
    """Width of the step before → now in units of the coming one."""
    return float(now.logsnr - before.logsnr) / (2 * width)


def extrapolated(now: State, past: Sequence[State], logsnr_next: Tensor) -> Tensor:
    """D = x̂ + (x̂ − x̂_1)/(2 r_0): x̂ half a step ahead, (B, *D); x̂ itself without a past."""
    if not past:
        return now.x_hat
    r_0 = ratio(now, past[0], float(logsnr_next - now.logsnr) / 2)
    return combine(1 + 0.5 / r_0, now.x_hat, (-0.5 / r_0, past[0].x_hat))


def integrated(start: State, states: Sequence[State], logsnr: Tensor) -> tuple[float, list[tuple[float, Tensor]]]:
    """s'/s from `start` to a log-SNR, and a' w_j with x̂_j: the integral of the polynomial through these states."""
    fade, gain, width = leap(start.logsnr, logsnr)
    nodes = [float(state.logsnr - start.logsnr) / (2 * width) for state in states]
    return fade, [(gain * w, state.x_hat) for w, state in zip(weights(nodes, width), states, strict=True)]


@final
class AdamsBashforth(Stepper):
    r"""z' = (s'/s) z + a' Σ_j w_j x̂_j, w_j = ∫₀^H e^{u−H} ℓ_j(u) du over the last `order` states; one call per step.

    DEIS fits its polynomial to ε̂ in time; this one to x̂ in half log-SNR, in which x̂ is smooth at both ends. It is
    also UniP of the same order, solved exactly (then its free function B(h) drops out), and at order 3 it is
    DPM-Solver++(3M).

    Args:
        order: number of states, 1…3; 1 is DDIM with η = 0.
    Source: Zhang & Chen 2023 (DEIS), section 3.3; Hochbruck & Ostermann 2010, section 2.5.
    """

    def __init__(self, order: int) -> None:
        if not 1 <= order <= 3:
            raise ValueError(f"order={order} must lie in 1…3: higher extrapolations only amplify the network's error")
        self.order, self.history = order, order - 1

    def step(
        self, now: State, past: Sequence[State], logsnr_next: Tensor, evaluate: Evaluate, source: Source
    ) -> Tensor:
        """One multistep update of `order`, lower at the start."""
        fade, terms = integrated(now, [now, *past[: self.order - 1]], logsnr_next)
        return combine(fade, now.z if self.order < 3 else retaken(now, past), *terms)


@final
class UniC(Corrector):
    r"""z = (s/s_1) z_1 + a Σ_j w_j x̂_j over the new x̂, and the `order` states before it: implicit Adams–Moulton.

    It raises the order of any solver of order p by one. x̂ stays that of the uncorrected z, which is within the
    order reached.

    Args:
        order: p of the solver before it, 1…3.
    Source: Zhao et al. 2023 (UniPC), eq. 9 and algorithm 1, solved exactly.
    """

    def __init__(self, order: int) -> None:
        if not 1 <= order <= 3:
            raise ValueError(f"order={order} must lie in 1…3: it is that of the solver to be corrected")
        self.order, self.history = order, order

    def correct(self, now: State, past: Sequence[State], evaluate: Evaluate, source: Source) -> State:
        """`now` with the corrected z."""
        fade, terms = integrated(past[0], [now, *past[: self.order]], now.logsnr)
        return State(now.logsnr, combine(fade, past[0].z, *terms), now.x_hat, now.head)


@final
class Langevin(Corrector):
    r"""z ← z + δ ∇ln p(z) + √(2δ) ε with δ = f s²: z ← (1 − f) z + f a x̂ + s √(2f) ε, `calls` times.

    Song et al. set δ = 2 (r ‖ε‖/‖∇ln p‖)² from norms over a batch; the score has norm ≈ ‖ε‖/s, which gives
    f = 2 r² and leaves the examples of a batch alone.

    Args:
        calls: corrections at each log-SNR, one call each.
        ratio: Song et al.'s signal-to-noise ratio r.
    Source: Song et al. 2021 (score SDE), algorithms 4 and 5.
    """

    draws: bool = True

    def __init__(self, calls: int = 1, ratio: float = 0.16) -> None:
        if calls < 1:
            raise ValueError(f"calls={calls} must be at least 1: each is one correction")
        if not 0 < ratio < 0.7:
            raise ValueError(f"ratio={ratio:g} must lie in (0, 0.7): beyond, a step overshoots")
        self.calls, self.ratio = calls, ratio

    def correct(self, now: State, past: Sequence[State], evaluate: Evaluate, source: Source) -> State:
        """The state after `calls` Langevin steps."""
        a, s = float(signal_scale(now.logsnr)), float(noise_scale(now.logsnr))
        fraction = 2 * self.ratio**2
        for _ in range(self.calls):
            z = combine(1 - fraction, now.z, (fraction * a, now.x_hat))
            now = evaluate(z.add(normal_like(z, source), alpha=s * math.sqrt(2 * fraction)), now.logsnr)
        return now


@torch.no_grad()
def trajectory(
    model: Denoiser,
    z: Tensor,
    grid: Tensor,
    stepper: Stepper,
    source: Source,
    condition: Condition | None = None,
    corrector: Corrector | None = None,
) -> Iterator[State]:
    """Follow the grid from its last log-SNR to its first: from noise to data, or, on a rising grid, back.

    Yields the state at each log-SNR that is left, and last the end: z_0 = x̂ where the grid begins with λ = ∞,
    else the latent at its first log-SNR, with the x̂ before it; a grid of one log-SNR ends where it begins. Only
    the states that the sampler reads are alive, so memory does not grow with the number of steps.

    Args:
        model: what predicts x̂ (a model, or a wrapper around one).
        z: latent at grid[-1], (B, *D); its type is that of all latents.
        grid: (K+1,), float64, monotone; λ = ∞ first, or finite.
        corrector: applied after each evaluation but the first.
    """

    def evaluate(z: Tensor, logsnr: Tensor) -> State:
        return State(logsnr, z, *model.predict(z, logsnr, condition))

    grid = grid.cpu()
    past: deque[State] = deque(maxlen=max(stepper.history, corrector.history if corrector else 0))
    now = evaluate(z, grid[-1])
    yield now
    for place in range(len(grid) - 2, 0, -1):
        z = stepper.step(now, tuple(past), grid[place], evaluate, source)
        past.appendleft(now)
        now = evaluate(z, grid[place])
        if corrector is not None:
            now = corrector.correct(now, tuple(past), evaluate, source)
        yield now
    if torch.isinf(grid[0]):
        yield State(grid[0], now.x_hat, now.x_hat)
    elif len(grid) == 1:
        yield now  # nowhere to go
    else:
        yield State(grid[0], stepper.step(now, tuple(past), grid[0], evaluate, source), now.x_hat)
