import math

import pytest
import torch
from torch import Tensor, nn

from markovae.diffusion.decoder import Decoder, DensityDecoder
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import PosteriorVariance, ReverseVariance
from markovae.diffusion.schedule import LogSNRLinear, NoiseSchedule
from markovae.diffusion.target import DATA

VARIANCE = torch.tensor([1.0, 0.3, 0.05, 0.6], dtype=torch.float64)


class Linear(nn.Module):
    """A denoiser of N(0, diag(VARIANCE)), off by a factor; what it costs is known in closed form."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def gain(self, logsnr: Tensor) -> Tensor:
        a, s = signal_scale(logsnr), noise_scale(logsnr)
        a, s = a.reshape(-1, 1), s.reshape(-1, 1)
        return self.factor * a * VARIANCE / (a**2 * VARIANCE + s**2)

    def forward(self, z: Tensor, logsnr: Tensor, condition: object = None) -> Tensor:
        return self.gain(logsnr) * z


class Gauss:
    """The toy's data, models and truth."""

    variance = VARIANCE

    def data(self, n: int, generator: torch.Generator) -> Tensor:
        return VARIANCE.sqrt() * torch.randn(n, 4, generator=generator, dtype=torch.float64)

    def model(
        self,
        factor: float = 1.0,
        levels: int = 33,
        *,
        ends: tuple[float, float] = (6.0, -6.0),
        reverse: ReverseVariance | None = None,
        decoder: Decoder | None = None,
        schedule: NoiseSchedule | None = None,
    ) -> Diffusion:
        schedule = LogSNRLinear(levels, *ends) if schedule is None else schedule
        reverse = PosteriorVariance() if reverse is None else reverse
        decoder = DensityDecoder() if decoder is None else decoder
        made = Diffusion(Linear(factor), schedule, DATA, reverse, decoder, (4,))
        made.precision = torch.float64
        return made

    def errors(self, model: Diffusion, logsnr: Tensor) -> Tensor:
        """E(x_i − x̂_i)², (N, 4)."""
        gain = model.network.gain(logsnr).detach()
        a, s = signal_scale(logsnr)[:, None], noise_scale(logsnr)[:, None]
        return (1 - a * gain) ** 2 * VARIANCE + (gain * s) ** 2

    def truth(self, model: Diffusion) -> float:
        """The expected bound with variance β̃ and the density decoder, nats an example."""
        grid = model.schedule.logsnr
        error = self.errors(model, grid[1:]).sum(1)
        snr = grid[1:].exp()
        levels = 0.5 * float(((snr[:-1] - snr[1:]) * error[1:]).sum())
        reconstruction = 0.5 * float(error[0] * snr[0]) + 2 * (math.log(2 * math.pi) - float(grid[1]))
        a, s = signal_scale(grid[-1]) ** 2, noise_scale(grid[-1]) ** 2
        prior = 0.5 * float((a * VARIANCE + s - 1 - s.log()).sum())
        return prior + levels + reconstruction

    def information(self, model: Diffusion) -> float:
        """What the levels cost at least: ½ Σ ln[(1+γ_1 s)/(1+γ_L s)], nats."""
        snr = model.schedule.logsnr.exp()
        return 0.5 * float(((1 + snr[1] * VARIANCE) / (1 + snr[-1] * VARIANCE)).log().sum())

    def table(self, model: Diffusion, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """nats[image, level] of levels 2…L, each with noise of its own, and prior + reconstruction."""
        with torch.no_grad():
            levels = range(2, model.num_levels + 1)
            nats = [model.level_nats(x, torch.full((len(x),), level), generator) for level in levels]
            return torch.stack(nats, 1), model.prior_nats(x) + model.reconstruction_nats(x, generator)


@pytest.fixture
def gauss() -> Gauss:
    return Gauss()
