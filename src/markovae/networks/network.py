"""What every network of the prior is: out = net(z, log-SNR, condition)."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from markovae.networks.condition import Condition


class Network(nn.Module, ABC):
    """A function of the latent, its log-SNR and an optional condition; it knows no schedule and no target."""

    @property
    @abstractmethod
    def stride(self) -> int:
        """Height and width of the latent must be multiples of this (1 where it does not matter)."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Labels taken: 0…num_classes − 1; 0 takes none."""

    @abstractmethod
    def outer_weights(self) -> tuple[Tensor, ...]:
        """Matrices next to the data (first and last layers, embeddings), which Muon must leave to AdamW."""

    @abstractmethod
    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the target of the latent.

        Args:
            z: latent, (B, *D).
            logsnr: log-SNR of each example, (B,), float64 preferred; ±inf is allowed.
            condition: what is known about each example, or None for the learned null.
        Returns: (B, C_out, *rest of D), float32; float64 where the weights are (`network.double()`).
        """
