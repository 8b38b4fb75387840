"""What a person may say about a network of the DDPM family: the section [network.ddpm]."""

from __future__ import annotations

from dataclasses import dataclass

from markovae.config.checks import MAX_FACTOR, MAX_WIDTH, above, between, whole_numbers, within
from markovae.errors import UserError
from markovae.strict_json import shown


@dataclass(frozen=True)
class DDPMOptions:
    """The network of Ho et al. and its descendants, as diffusers' UNet2DModel; level 0 is the finest.

    Args:
        widths: channels of each level; each level halves H and W.
        blocks: residual blocks a level going down; one more going up.
        attention, attention_up: levels with self-attention, going down and going up; the latter left out: the same.
        residual_down, residual_up: levels whose change of resolution is a residual block instead of a convolution.
        head_dim: of attention, 0 for one head.   groups: of every normalisation.   eps: added to its variance.
        scale_shift: whether the time scales and shifts the second normalisation, or is added before it.
        dropout: inside the residual blocks, in [0, 1).
        embedding: size of the time embedding; left out: four times the finest width.
        sine_first: order of its features.   shift: in their frequencies.
        padding: of the convolutions that halve: 1 on each side, or 0: one at the right and below.
        middle_attention: whether the coarsest level attends.   middle_groups: of its normalisation, 0 for none; left
            out: as `groups`.   middle_scale: what the middle's residual sums are divided by.
        null_class: whether the network knows "no class" besides its classes; one from elsewhere may not.
    """

    widths: tuple[int, ...] = (128, 256, 256, 256)
    blocks: int = 2
    attention: tuple[int, ...] = (1,)
    attention_up: tuple[int, ...] | None = None
    residual_down: tuple[int, ...] = ()
    residual_up: tuple[int, ...] = ()
    head_dim: int = 0
    groups: int = 32
    eps: float = 1e-6
    scale_shift: bool = False
    dropout: float = 0.0
    embedding: int | None = None
    sine_first: bool = True
    shift: int = 1
    padding: int = 0
    middle_attention: bool = True
    middle_groups: int | None = None
    middle_scale: float = 1.0
    null_class: bool = True

    def __post_init__(self) -> None:
        whole_numbers("network.ddpm.widths", self.widths, MAX_WIDTH, "at least one channel a level")
        within("network.ddpm.blocks", self.blocks, 1, MAX_FACTOR, "it counts residual blocks a level")
        within("network.ddpm.groups", self.groups, 1, MAX_WIDTH, "it counts groups of channels")
        for name in ("head_dim", "shift"):
            within(f"network.ddpm.{name}", getattr(self, name), 0, MAX_WIDTH, "0 is allowed")
        if self.embedding is not None:
            most = 4 * MAX_WIDTH
            within("network.ddpm.embedding", self.embedding, 1, most, "it is the size of the time embedding")
        if self.middle_groups is not None:
            within("network.ddpm.middle_groups", self.middle_groups, 0, MAX_WIDTH, "0 means no normalisation")
        above("network.ddpm.eps", self.eps, 0, "something is divided by it")
        within("network.ddpm.eps", self.eps, 1e-30, 1, "it is added to a variance near 1")
        above("network.ddpm.middle_scale", self.middle_scale, 0, "something is divided by it")
        within("network.ddpm.middle_scale", self.middle_scale, 1e-6, 1e6, "sums are divided by it")
        between("network.ddpm.padding", self.padding, 0, 1, "the convolutions that halve have 3x3 taps")
        if not 0 <= self.dropout < 1:
            raise UserError(f"network.ddpm.dropout={self.dropout:g} must lie in [0, 1): it is the share left out")
        self._check_levels()

    def _check_levels(self) -> None:
        levels = len(self.widths)
        for name in ("attention", "attention_up", "residual_down", "residual_up"):
            wanted = getattr(self, name) or ()
            if any(not 0 <= level < levels for level in wanted):
                raise UserError(
                    f"network.ddpm.{name}={shown(list(wanted))} must name levels 0…{levels - 1}, 0 the finest"
                )
