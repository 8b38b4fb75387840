"""A small network for vectors: the toys whose likelihood is known."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from markovae.networks.conditioning import Condition, ConditionEmbedding
from markovae.networks.embedding import LogSNREmbedding, working_type
from markovae.networks.layers import zeroed
from markovae.networks.network import Network


@dataclass(frozen=True)
class MLPConfig:
    """Shape of an MLP: (B, dims) -> (B, out_dims), `depth` residual layers of `width` units.

    Attributes:
        dims: D.   out_dims: D, or 2D where the reverse variance is learned.
        num_classes, vector_dim: the conditions taken; 0 is none.
    """

    dims: int
    out_dims: int
    width: int = 128
    depth: int = 3
    num_classes: int = 0
    vector_dim: int = 0

    def __post_init__(self) -> None:
        for name in ("dims", "out_dims", "width", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


class MLP(Network):
    """Residual MLP, h + W₂ silu(W₁ h ⊙ (1 + gain) + offset), modulated by log-SNR and condition."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        self.stride, self.num_classes = 1, config.num_classes
        width, count = config.width, range(config.depth)
        self.level = LogSNREmbedding(width)
        self.condition = ConditionEmbedding(width, config.num_classes, config.vector_dim)
        self.stem = nn.Linear(config.dims, width)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in count)
        self.modulation = nn.ModuleList(nn.Linear(width, 2 * width) for _ in count)
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in count)
        self.head = zeroed(nn.Linear(width, config.out_dims))

    def outer_weights(self) -> tuple[Tensor, ...]:
        """Weights of the stem, the head, the first log-SNR layer and the condition's layers."""
        return (self.stem.weight, self.head.weight, self.level.first.weight, *self.condition.parameters())

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        """Predict the target: (B, D), (B,) -> (B, D_out), in the working type."""
        if z.ndim != 2 or z.shape[1] != self.config.dims:
            raise ValueError(f"latent of shape {tuple(z.shape)} must be (B, {self.config.dims})")
        if logsnr.shape != (len(z),):
            raise ValueError(f"logsnr of shape {tuple(logsnr.shape)} must be ({len(z)},): one for each example")
        embedding = F.silu(self.level(logsnr) + self.condition(condition, len(z)))
        h = self.stem(z)
        for first, modulation, second in zip(self.first, self.modulation, self.second, strict=True):
            gain, offset = modulation(embedding).chunk(2, dim=1)
            h = h + second(F.silu(first(h) * (1 + gain) + offset))
        out: Tensor = self.head(F.silu(h))
        return out.to(working_type(self.stem.weight))
