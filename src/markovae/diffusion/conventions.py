"""The conventions that denoisers are written in: what each is given at (z, log-SNR), and what its output means here.

A network of any of them is f(c z, t) with a factor c and a time t of the log-SNR λ, and its output is one of our
targets or an affine map of it. z = a x + s ε with a² + s² = 1; σ = s/a = e^(−λ/2); flow's time is t = s/(a + s).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.schedule import LogSNRLinear, NoiseSchedule, fine_logsnr
from markovae.diffusion.target import DATA, FLOW, MEAN, NOISE, SCORE, STEP_NOISE, VELOCITY, Target
from markovae.tables import one_of

Number = Callable[[Tensor], Tensor]
BETA_MIN, BETA_MAX = 0.1, 20.0  # of the VP SDE: Song et al. 2021, appendix C
SIGMA_DATA = 0.5  # of EDM's preconditioning: Karras et al. 2022, table 1
SIGMAS = (0.002, 80.0)  # EDM's range


@dataclass(frozen=True)
class Convention:
    """What f(c z, t) = out is.

    Args:
        name: the word for it.
        call: f with its arguments, as a person would write it.
        meaning: of its output.
        target: what `gain` · out + `skip` · z is.
        time: λ, (B,), float64 -> t, (B,); None is the step ℓ − 1 of a grid.
        scale, gain, skip: λ, (B,), float64 -> factors, (B,); None is 1, 1 and 0.
        ends: log-SNR of the first and the last level where it has no grid of its own.
        one_hot: labels are vectors of zeros and a one.
        also: other words for it.
    """

    name: str
    call: str
    meaning: str
    target: Target
    time: Number | None = None
    scale: Number | None = None
    gain: Number | None = None
    skip: Number | None = None
    ends: tuple[float, float] = (fine_logsnr(1 / 255), -10.0)
    one_hot: bool = False
    also: tuple[str, ...] = ()

    def default_grid(self) -> NoiseSchedule | None:
        """1,000 levels even in log-SNR; None for one that counts the steps of a grid, which has to be named."""
        return None if self.time is None else LogSNRLinear(1000, *self.ends)


def _sigma(logsnr: Tensor) -> Tensor:
    return (-logsnr / 2).exp()


def _one_over_signal(logsnr: Tensor) -> Tensor:
    return 1 / signal_scale(logsnr)


def _edm_scale(logsnr: Tensor) -> Tensor:
    """c_in/a: F is given c_in (z/a), c_in = 1/√(σ² + σ_data²)."""
    return 1 / (noise_scale(logsnr) ** 2 + (SIGMA_DATA * signal_scale(logsnr)) ** 2).sqrt()


def _edm_gain(logsnr: Tensor) -> Tensor:
    """c_out = σ σ_data/√(σ² + σ_data²)."""
    return noise_scale(logsnr) * SIGMA_DATA * _edm_scale(logsnr)


def _edm_skip(logsnr: Tensor) -> Tensor:
    """c_skip/a, c_skip = σ_data²/(σ² + σ_data²)."""
    return SIGMA_DATA**2 * signal_scale(logsnr) * _edm_scale(logsnr) ** 2


def _edm_time(logsnr: Tensor) -> Tensor:
    return -logsnr / 8


def _vp_time(logsnr: Tensor) -> Tensor:
    """t of −ln a² = β_min t + ½(β_max − β_min) t²."""
    lost, rise = torch.nn.functional.softplus(-logsnr), BETA_MAX - BETA_MIN
    return 2 * lost / (BETA_MIN + (BETA_MIN**2 + 2 * rise * lost).sqrt())


def _flow_scale(logsnr: Tensor) -> Tensor:
    return 1 / (signal_scale(logsnr) + noise_scale(logsnr))


def _flow_time(logsnr: Tensor) -> Tensor:
    return torch.sigmoid(-logsnr / 2)


def _data_time(logsnr: Tensor) -> Tensor:
    return torch.sigmoid(logsnr / 2)


def _minus(logsnr: Tensor) -> Tensor:
    return -torch.ones_like(logsnr)


_EDM = (-2 * math.log(SIGMAS[0]), -2 * math.log(SIGMAS[1]))
_VP_END = -math.log(math.expm1((BETA_MIN + BETA_MAX) / 2))
CONVENTIONS = (
    Convention("noise", "f(z, step)", "ε (DDPM)", NOISE, also=("epsilon", "eps", "pred_noise")),
    Convention("data", "f(z, step)", "x", DATA, also=("sample", "x0", "pred_x0", "x_start")),
    Convention("velocity", "f(z, step)", "a ε − s x", VELOCITY, also=("v", "v_prediction", "pred_v")),
    Convention("score", "f(z, step)", "∇ ln p(z)", SCORE),
    Convention("step_noise", "f(z, step)", "the noise of one step (the lecture)", STEP_NOISE),
    Convention("mean", "f(z, step)", "the mean of z at the step before", MEAN),
    Convention("score_vp", "f(z, t), 0 < t ≤ 1", "∇ ln p(z) of the VP SDE, β from 0.1 to 20", SCORE, _vp_time,
               ends=(fine_logsnr(1 / 255), _VP_END)),
    Convention("score_ve", "f(x + σ ε, σ)", "∇ ln p(x + σ ε) of the VE SDE", SCORE, _sigma, _one_over_signal,
               _one_over_signal, ends=(-2 * math.log(0.01), -2 * math.log(50.0))),
    Convention("edm", "D(x + σ ε, σ)", "x (EDM's denoiser)", DATA, _sigma, _one_over_signal, ends=_EDM, one_hot=True),
    Convention("edm_network", "F(c_in · (x + σ ε), ln σ / 4)", "F of x = c_skip · (x + σ ε) + c_out F, σ_data = 0.5",
               DATA, _edm_time, _edm_scale, _edm_gain, _edm_skip, ends=_EDM, one_hot=True),
    Convention("flow", "f((1−t) x + t ε, t)", "ε − x: t = 1 is noise", FLOW, _flow_time, _flow_scale),
    Convention("flow_negative", "f((1−t) x + t ε, t)", "x − ε: t = 1 is noise", FLOW, _flow_time, _flow_scale, _minus),
    Convention("rectified_flow", "f(t x + (1−t) ε, t)", "x − ε: t = 1 is data", FLOW, _data_time, _flow_scale, _minus),
    Convention("rectified_flow_negative", "f(t x + (1−t) ε, t)", "ε − x: t = 1 is data", FLOW, _data_time,
               _flow_scale),
)  # fmt: skip


def convention_named(name: str) -> Convention:
    """The convention with this name, or one of its other names.

    Raises:
        UserError: for another word, naming the nearest.
    """
    words = {word: each for each in CONVENTIONS for word in (each.name, *each.also)}
    one_of("predicts", name, tuple(words))
    return words[name]


def conventions_markdown() -> str:
    """The table of docs/interop.md."""
    rows = ["| `predicts` | the denoiser | its output | also called |", "| --- | --- | --- | --- |"]
    for each in CONVENTIONS:
        also = ", ".join(f"`{word}`" for word in each.also)
        rows.append(f"| `{each.name}` | {each.call} | {each.meaning} | {also} |")
    return "\n".join(rows) + "\n"
