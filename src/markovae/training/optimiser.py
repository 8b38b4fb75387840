"""The optimiser that a configuration asks for."""

from __future__ import annotations

from markovae.config import TrainConfig
from markovae.diffusion import Diffusion
from markovae.networks.network import Network
from markovae.optim import MuonAdamW, split_weights


def create_optimiser(model: Diffusion, config: TrainConfig) -> MuonAdamW:
    """Muon for the hidden matrices and AdamW for the rest, or AdamW for all."""
    network = model.network
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    hidden = split_weights(network)[0] if config.optimiser == "muon" and isinstance(network, Network) else []
    chosen = {id(weight) for weight in hidden}
    return MuonAdamW(
        hidden,
        [weight for weight in trained if id(weight) not in chosen],
        lr=config.lr,
        rest_lr=config.rest_lr,
        momentum=config.momentum,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )
