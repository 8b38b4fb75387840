"""The optimiser that a configuration asks for."""

from __future__ import annotations

from markovae.config import TrainConfig
from markovae.diffusion import Diffusion
from markovae.optim import MuonAdamW, split_model


def create_optimiser(model: Diffusion, config: TrainConfig) -> MuonAdamW:
    """Muon for the hidden matrices and AdamW for the rest, or AdamW for all."""
    return MuonAdamW(
        *split_model(model, model.network, config.optimiser),
        lr=config.lr,
        rest_lr=config.rest_lr,
        momentum=config.momentum,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )
