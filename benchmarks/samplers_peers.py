"""The same network driven by the schedulers of diffusers (`pip install diffusers`; without it the peers are left out).

They walk their own grids over the model's schedule, given as the betas of its levels. The network is asked at the
log-SNR of the scheduler's own noise ratio, λ = −2 ln(s/a), from the noise of the same seeds; so only the steps differ.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from markovae.diffusion.model import Diffusion
from markovae.networks.conditioning import Condition
from markovae.randomness import Streams
from samplers_cells import NoiseSample

MULTISTEP, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DPM++ 2M": (MULTISTEP, {}),
    "DPM++ 2M, lu": (MULTISTEP, {"use_lu_lambdas": True}),
    "DPM++ 2M, karras": (MULTISTEP, {"use_karras_sigmas": True}),
    "SDE-DPM++ 2M": (MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}),
    "SDE-DPM++ 2M, lu": (MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "use_lu_lambdas": True}),
    "SDE-DPM++ 2M, karras": (MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    "UniPC": (UNIPC, {}),
    "UniPC, exponential": (UNIPC, {"use_exponential_sigmas": True}),
    "UniPC, karras": (UNIPC, {"use_karras_sigmas": True}),
}
STOCHASTIC = tuple(name for name, (_, options) in PEERS.items() if "algorithm_type" in options)


def available() -> str | None:
    """The version of diffusers, or None."""
    try:
        import diffusers
    except ImportError:
        return None
    return str(diffusers.__version__)


def scheduler_of(model: Diffusion, name: str) -> Any:
    """The scheduler over the model's levels 1…L, told that the network gives x̂."""
    import diffusers

    kind, options = PEERS[name]
    kept = torch.sigmoid(model.schedule.logsnr[1:])
    betas = 1 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    return getattr(diffusers, kind)(
        num_train_timesteps=model.num_levels, trained_betas=betas.numpy(), prediction_type="sample", **options
    )


def by_scheduler(model: Diffusion, name: str, calls: int, seed: int) -> NoiseSample:
    """Samples as the scheduler draws them in so many calls."""

    def draw(numbers: range, labels: Tensor | None) -> Tensor:
        scheduler = scheduler_of(model, name)
        scheduler.set_timesteps(calls)
        source = Streams(seed, "sample", numbers)
        z = source.normal(model.shape, torch.float32).to(model.device)
        condition = None if labels is None else Condition(label=labels)
        condition = None if condition is None else condition.to(model.device)
        for place, moment in enumerate(scheduler.timesteps):
            with torch.no_grad():
                x_hat = model.denoise(z, -2 * scheduler.sigmas[place].double().log(), condition)
            fresh = {}
            if name in STOCHASTIC:
                fresh["variance_noise"] = source.normal(model.shape, torch.float32).to(model.device)
            z = scheduler.step(x_hat, moment, z, **fresh).prev_sample
        return z

    return draw
