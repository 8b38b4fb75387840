"""What the network's output means, and how wide the prior's steps are, in a configuration: the section [target].

The words here are the only lists of them: what they stand for is in target.py, reverse.py, decoder.py and pixels.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from markovae.errors import UserError
from markovae.tables import one_of, within

TARGET_NAMES = ("noise", "data", "velocity", "flow", "score", "step_noise", "mean")
REVERSES = ("posterior", "step", "isotropic", "diagonal", "learned", "full")
DECODERS = ("step", "ho_small", "ho_large", "softmax", "learned")
PIXELS = ("ends", "centres")


@dataclass(frozen=True)
class TargetConfig:
    """What the network's output means and how the prior's steps end.

    Args:
        name: noise, data, velocity, flow (ε − x, flow matching's), score, step_noise or mean.
        reverse: variance of P_pri(z_{ℓ−1}|z_ℓ): posterior (β̃_ℓ); step (σ_ℓ²); isotropic or diagonal, fitted to
            training images, one number per level, or per level and coordinate; learned, a head of the network; or full,
            from its Jacobian, up to 1,024 dimensions.
        decoder: P_pri(z_0|z_1): step; Ho et al.'s ho_small, ho_large; VDM's softmax over the bins, which reads z_1
            alone; or learned, of a width between the two of Ho et al., by the head of reverse=learned.
        pixels: where the pixel values lie on [−1, 1]: ends or centres of their bins.
        clip: x̂ is held to [−clip, clip], 1e-6…1e6, in sampling as in measuring: another model than the one without.
    """

    name: str = "velocity"
    reverse: str = "posterior"
    decoder: str = "step"
    pixels: str = "ends"
    clip: float | None = None

    def __post_init__(self) -> None:
        one_of("target.name", self.name, TARGET_NAMES)
        one_of("target.reverse", self.reverse, REVERSES)
        one_of("target.decoder", self.decoder, DECODERS)
        one_of("target.pixels", self.pixels, PIXELS)
        if self.decoder == "learned" and self.reverse != "learned":
            raise UserError(f"target.decoder=learned reads the head of target.reverse=learned, not of {self.reverse}")
        if self.clip is not None:
            within("target.clip", self.clip, 1e-6, 1e6, "1 is the range of the pixels")
