"""denoising-diffusion-pytorch's trainer at its defaults, its loop written out: what it computes a step.

    pip install --no-deps --target FOLDER denoising-diffusion-pytorch einops ema-pytorch torch-einops-utils

is the environment it is taken from, beside this one and its torch. It imports torchvision, accelerate and scipy, of
which the loop written out here needs nothing: stand-ins take their places while it is imported. Left out, as of the
other peers, is what could only slow it: its data loader, progress and samples.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, final
from unittest import mock

import torch
from torch import Tensor, nn

import markovae as mv
from markovae.diffusion.model import Diffusion
from markovae.diffusion.schedule import from_betas

UNUSED = ("accelerate", "ot", "scipy", "scipy.optimize", "torchvision")
BATCH, RATE, BETAS, CLIP = 16, 1e-4, (0.9, 0.99), 1.0  # of its Trainer
DECAY, EVERY = 0.995, 10  # of its average


def imported(folder: Path, *names: str) -> list[Any]:
    """Packages of a folder by their names, with stand-ins for what they import without needing it here.

    Raises:
        SystemExit: where they are not there.
    """
    absent = [name for name in UNUSED if name not in sys.modules]
    sys.path.append(str(folder))
    sys.modules.update(dict.fromkeys(absent, mock.MagicMock()))
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise SystemExit(f"{folder} does not have {' and '.join(names)}: {error}") from None
    finally:
        for name in absent:
            del sys.modules[name]


@final
class DDPPeer:
    """Its U-Net in training as its Trainer does it: float32, Adam, v-prediction on the sigmoid schedule, flips.

    Args:
        folder: with the packages.   x: the training set on [0, 1], (N, C, S, S), float32.
        width: of its U-Net, the default's being 64.   seed: of its own draws.
    """

    def __init__(self, folder: Path, x: Tensor, width: int, seed: int = 0) -> None:
        ddp, ema = imported(folder, "denoising_diffusion_pytorch", "ema_pytorch")
        self.version: str = ddp.version.__version__
        self.batch, self.shape = BATCH, tuple(x.shape[1:])
        self.unet: nn.Module = ddp.Unet(width, channels=self.shape[0])
        self.diffusion: Any = ddp.GaussianDiffusion(self.unet, image_size=self.shape[1:]).train()
        self.average: Any = ema.EMA(self.diffusion, beta=DECAY, update_every=EVERY)
        self.optimizer = torch.optim.Adam(self.diffusion.parameters(), RATE, betas=BETAS)
        self._x, self._order = x, torch.empty(0, dtype=torch.int64)
        self._rng = torch.Generator().manual_seed(seed)

    def step(self) -> float:
        """One step on the next images in a random order, each turned round with chance 1/2; the loss before it."""
        if len(self._order) < self.batch:
            self._order = torch.randperm(len(self._x), generator=self._rng)
        chosen, self._order = self._order[: self.batch], self._order[self.batch :]
        x = self._x[chosen]
        flipped = torch.rand(len(x), 1, 1, 1, generator=self._rng) < 0.5
        loss: Tensor = self.diffusion(torch.where(flipped, x.flip(-1), x))
        loss.backward()
        nn.utils.clip_grad_norm_(self.diffusion.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()
        return float(loss.detach())

    def averaged(self) -> Diffusion:
        """Its averaged weights as a model of its schedule."""
        average = self.average.ema_model
        return mv.wrap(average.model, self.shape, from_betas(average.betas.double()), predicts="velocity")
