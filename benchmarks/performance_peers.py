"""diffusers' unconditional example, its loop written out: what it computes a step, at its defaults and at its best.

Left out is what could only slow it: the data loader (its images lie ready in memory), accelerate and logging.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import markovae as mv
from markovae.diffusion.model import Diffusion
from markovae.diffusion.schedule import linear


@dataclass(frozen=True)
class Setting:
    """How the example is run.

    Args:
        use_bf16: bfloat16 autocast instead of float32.   last: channels-last memory format.
        fused: the fused AdamW and the foreach average instead of the defaults.
        rate: of AdamW; the example's default is 1e-4.
    """

    use_bf16: bool = False
    last: bool = False
    fused: bool = False
    rate: float = 1e-4


DEFAULT = Setting()
BEST = {
    "bf16": Setting(use_bf16=True, fused=True),
    "bf16, channels last": Setting(use_bf16=True, last=True, fused=True),
}
BETAS, DECAY, EPS, CLIP = (0.95, 0.999), 1e-6, 1e-8, 1.0  # of the example


@final
class Peer:
    """A network in training as the example trains it.

    Args:
        unet: trained in place.   x: the training set on [−1, 1], (N, C, H, W), float32.   batch: B.
        setting: how.   seed: of its own draws.
    """

    def __init__(self, unet: nn.Module, x: Tensor, batch: int, setting: Setting = DEFAULT, seed: int = 0) -> None:
        from diffusers import DDPMScheduler
        from diffusers.training_utils import EMAModel

        self.unet, self.batch, self.setting = unet.train(), batch, setting
        self._format = torch.channels_last if setting.last else torch.contiguous_format
        self.unet.to(memory_format=self._format)
        self._x, self._device = x, next(unet.parameters()).device
        self._rng, self._order = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.int64)
        self.scheduler: Any = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        self.average: Any = EMAModel(
            list(unet.parameters()), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=setting.fused
        )
        self.optimizer = torch.optim.AdamW(
            unet.parameters(), setting.rate, betas=BETAS, weight_decay=DECAY, eps=EPS, fused=setting.fused or None
        )

    def step(self) -> float:
        """One step on the next images in a random order, its draws as the example makes them; the loss."""
        if len(self._order) < self.batch:
            self._order = torch.randperm(len(self._x), generator=self._rng)
        chosen, self._order = self._order[: self.batch], self._order[self.batch :]
        x = self._x[chosen].to(self._device)
        t = torch.randint(0, 1000, (len(x),), generator=self._rng).to(self._device)
        noise = torch.randn(x.shape, generator=self._rng).to(self._device)
        return self.step_on(x, noise, t)

    def step_on(self, x: Tensor, noise: Tensor, t: Tensor) -> float:
        """One step on these images, with this noise at these steps t = 0…999; the loss before it."""
        z = self.scheduler.add_noise(x, noise, t).contiguous(memory_format=self._format)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.setting.use_bf16):
            out = self.unet(z, t).sample
        loss = F.mse_loss(out.float(), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(self.unet.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.step(self.unet.parameters())
        return float(loss.detach())

    def averaged(self) -> Diffusion:
        """Its averaged weights as a model of its schedule."""
        unet = copy.deepcopy(self.unet)
        self.average.copy_to(unet.parameters())
        return mv.wrap(unet, tuple(self._x.shape[1:]), linear())
