"""Shapes of the networks: the sections [network], [network.ddpm], [network.dit] and [condition], and `DataSpec`.

A network is built from its section and from what the data decide:
`UNet(NetworkConfig(width=96), DataSpec(size=(64, 64)))`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields

from markovae.columns import MAX_COLUMNS, Columns
from markovae.errors import UserError
from markovae.strict_json import parse_object, shown
from markovae.tables import MAX_FACTOR, MAX_WIDTH, above, between, one_of, whole_numbers, within

MAX_DEPTH = 512


@dataclass(frozen=True)
class DataSpec:
    """What the data decide about a network of images.

    Args:
        in_channels: channels of the latent.
        out_channels: C, or 2C where the reverse variance is learned.
        size: height and width of the images, pixels: they decide how many levels a U-Net has.
        frequency: cycles per unit of data of the grid of pixel values; 127.5 is that of x/127.5 − 1.
        num_classes, vector_dim, token_dim, image_channels, column_dim: the conditions taken, 0 for none. The
            condition's image is concatenated with the latent.
        plain_channels: further channels behind those of the latent, seen as they are: no noise, no detail features.
    """

    in_channels: int = 3
    out_channels: int = 3
    size: tuple[int, int] = (32, 32)
    frequency: float = 127.5
    num_classes: int = 0
    vector_dim: int = 0
    token_dim: int = 0
    image_channels: int = 0
    plain_channels: int = 0
    column_dim: int = 0

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class DDPMConfig:
    """The network of Ho et al. and its descendants, as diffusers' UNet2DModel; level 0 is the finest.

    Args:
        widths: channels of each level; each level halves H and W.
        blocks: residual blocks a level going down; one more going up.
        attention: levels with self-attention, going down.
        attention_up: levels with self-attention, going up; left out: the same.
        residual_down: levels that are left downwards by a residual block instead of a convolution.
        residual_up: levels that are left upwards by a residual block instead of a convolution.
        head_dim: size of a head of attention, 0 for one head.
        groups: groups of every normalization.
        eps: number added to the variance in a normalization.
        scale_shift: whether the time scales and shifts the second normalization, or is added before it.
        dropout: inside the residual blocks, in [0, 1).
        embedding: size of the time embedding; left out: four times the finest width.
        sine_first: order of the features of time.
        shift: of the n frequencies of time, 10000^(−i/(n − shift)): 0 or 1 as a rule.
        padding: of the convolutions that halve: 1 on each side, or 0: one at the right and below.
        middle_attention: whether the coarsest level attends.
        middle_groups: groups of the normalization before that attention, 0 for none; left out: as `groups`.
        middle_scale: what the middle's residual sums are divided by.
        null_class: whether one more class stands for "no class"; a network from elsewhere may lack it.
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
            within("network.ddpm.middle_groups", self.middle_groups, 0, MAX_WIDTH, "0 means no normalization")
        above("network.ddpm.eps", self.eps, 0, "something is divided by it")
        within("network.ddpm.eps", self.eps, 1e-30, 1, "it is added to a variance near 1")
        above("network.ddpm.middle_scale", self.middle_scale, 0, "something is divided by it")
        within("network.ddpm.middle_scale", self.middle_scale, 1e-6, 1e6, "sums are divided by it")
        between("network.ddpm.padding", self.padding, 0, 1, "the convolutions that halve have 3x3 taps")
        if not 0 <= self.dropout < 1:
            raise UserError(f"network.ddpm.dropout={self.dropout:g} must lie in [0, 1): it is the share left out")
        self._check_levels()
        self._check_splits()

    def _check_levels(self) -> None:
        levels = len(self.widths)
        for name in ("attention", "attention_up", "residual_down", "residual_up"):
            wanted = getattr(self, name) or ()
            if any(not 0 <= level < levels for level in wanted):
                raise UserError(
                    f"network.ddpm.{name}={shown(list(wanted))} must name levels 0…{levels - 1}, 0 the finest"
                )

    def _check_splits(self) -> None:
        for width in self.widths:
            if width % self.groups:
                raise UserError(
                    f"network.ddpm: a width of {width} does not split into groups={self.groups}: take a divisor"
                )
        attending = {*self.attention, *self.up_attention, *([len(self.widths) - 1] if self.middle_attention else [])}
        for width in (self.widths[level] for level in sorted(attending)):
            if self.head_dim and width % self.head_dim:
                raise UserError(
                    f"network.ddpm: a width of {width} does not split into heads of head_dim={self.head_dim}"
                )
        groups = self.middle_norm_groups
        if groups and self.widths[-1] % groups:
            raise UserError(f"network.ddpm: a width of {self.widths[-1]} does not split into middle_groups={groups}")
        if self.widths[0] // 2 <= self.shift:
            raise UserError(
                f"network.ddpm: shift={self.shift} leaves no frequency: it must lie below half the width "
                f"{self.widths[0]}"
            )

    @property
    def up_attention(self) -> tuple[int, ...]:
        """`attention_up`, or `attention` where it is left out."""
        return self.attention if self.attention_up is None else self.attention_up

    @property
    def time_dim(self) -> int:
        """`embedding`, or four times the finest width where it is left out."""
        return self.embedding or 4 * self.widths[0]

    @property
    def middle_norm_groups(self) -> int:
        """`middle_groups`, or `groups` where it is left out."""
        return self.groups if self.middle_groups is None else self.middle_groups

    def stride(self, size: tuple[int, int]) -> int:
        """Height and width of the latent must be multiples of this, whatever their size."""
        return 2 ** (len(self.widths) - 1)

    def least_weights(self, size: tuple[int, int]) -> int:
        """A lower bound on the number of weight tensors, by arithmetic alone."""
        return 16 * len(self.widths) * self.blocks


@dataclass(frozen=True)
class DiTConfig:
    """The diffusion transformer of Peebles and Xie.

    Args:
        width: features of a patch.
        depth: how many blocks.
        head_dim: of attention, a multiple of 4 that divides the width.
        expansion: hidden units of a block's perceptron, in widths.
        patch: side of the squares of pixels that are one position.
        embedding: size of the embedding of log-SNR and condition.
        dropout: inside the perceptrons, in [0, 1).
        detail: whether the network sees fixed features of the finest detail.
        radius: pixels that the window of these features reaches to each side, 0 for none.
        octaves: of the fixed features of the position in the image, 0 for none.
        spectral: how many linear estimates of a photograph's noise the network sees, 0 or left out for none.
    """

    width: int = 256
    depth: int = 8
    head_dim: int = 64
    expansion: int = 4
    patch: int = 2
    embedding: int = 256
    dropout: float = 0.0
    detail: bool = True
    radius: int = 2
    octaves: int = 3
    spectral: int | None = None

    def __post_init__(self) -> None:
        for name in ("width", "head_dim", "embedding"):
            within(f"network.dit.{name}", getattr(self, name), 1, MAX_WIDTH, "it counts features")
        for name in ("expansion", "patch"):
            within(f"network.dit.{name}", getattr(self, name), 1, MAX_FACTOR, "it counts widths, or pixels a side")
        within("network.dit.depth", self.depth, 1, MAX_DEPTH, "it counts blocks")
        _check_features(self, "network.dit")
        if self.head_dim % 4 or self.width % self.head_dim:
            raise UserError(
                f"network.dit.head_dim={self.head_dim} must be a multiple of 4 that divides "
                f"network.dit.width={self.width}"
            )

    def stride(self, size: tuple[int, int]) -> int:
        """The patch: height and width of the latent are padded to multiples of it."""
        return self.patch

    def least_weights(self, size: tuple[int, int]) -> int:
        """A lower bound on the number of weight tensors, by arithmetic alone."""
        return 10 * self.depth


def _check_features(config: NetworkConfig | DiTConfig, section: str) -> None:
    """The settings that the U-Net and the transformer share: fixed features, and dropout."""
    for name in ("radius", "octaves", "spectral"):
        if (value := getattr(config, name)) is not None:
            between(f"{section}.{name}", value, 0, 8, "0 means none")
    if not 0 <= config.dropout < 1:
        raise UserError(f"{section}.dropout={config.dropout:g} must lie in [0, 1): it is the share left out")


KINDS = ("auto", "class", "text", "none")


@dataclass(frozen=True)
class ConditionConfig:
    """What conditions the network.

    Args:
        kind: class, the labels of the data where there are any; text, their captions; none; or auto: in a run the
            captions where most images have one and their encoder is installed, else class.
        encoder: text encoder of captions: all-MiniLM-L6-v2, or the folder of a CLIP or T5 as transformers saves it.
        columns: columns of the table beside the images (metadata.csv) that condition the network too, such as
            [age,smiling].
        encoding: what those columns are and their scale; training writes it.

    train.label_dropout is the share of labels, captions or columns left out in training.
    """

    kind: str = "auto"
    encoder: str = "all-MiniLM-L6-v2"
    columns: tuple[str, ...] | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        one_of("condition.kind", self.kind, KINDS)
        names = self.columns or ()
        if self.columns is not None and not 1 <= len(set(names)) == len(names) <= MAX_COLUMNS:
            raise UserError(
                f"condition.columns={shown(list(names))} must name 1…{MAX_COLUMNS} different columns; leave it out for "
                "none"
            )
        if self.known is not None and self.known.names != names:
            raise UserError("condition.encoding does not match condition.columns: leave condition.encoding out")

    @property
    def known(self) -> Columns | None:
        """The columns as training found them, or None."""
        return None if self.encoding is None else Columns.from_json(self.encoding)


NETWORKS = ("unet", "ddpm", "dit", "own")


@dataclass(frozen=True)
class OwnOptions:
    """A network of the caller's own, imported only where the caller trusts it by name.

    Args:
        name: "package.module:Class", a torch.nn.Module with forward(z, logsnr, condition).
        arguments: of its constructor, a JSON object.
        predicts: the convention of one with another forward, as for `mv.wrap`: noise, velocity, edm, flow, …
        data_range: what black and white are for that one.
        channels_last: it takes (B, H, W, C).
        self_conditioning: its last argument is its own x̂ of a first call.
    """

    name: str = ""
    arguments: str = "{}"
    predicts: str = ""
    data_range: tuple[float, ...] = (-1.0, 1.0)
    channels_last: bool = False
    self_conditioning: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.name):
            raise UserError(f"network.own.name={shown(self.name)} must be a class, package.module:Class")
        try:
            parse_object(self.arguments.encode())
        except ValueError as error:
            raise UserError(f"network.own.arguments must be a JSON object: it {error}") from None
        if len(self.data_range) != 2 or not -1e6 <= self.data_range[0] < self.data_range[1] <= 1e6:
            raise UserError(f"network.own.data_range={shown(list(self.data_range))} must be [0, 1] or [-1, 1]")
        foreign = self.channels_last or self.self_conditioning or self.data_range != (-1.0, 1.0)
        if foreign and not self.predicts:
            raise UserError("network.own.predicts must name the convention of a network with a range of its own")


@dataclass(frozen=True)
class NetworkConfig:
    """The section [network]: which network, and the shape of the U-Net.

    Args:
        kind: unet, shaped by the settings below; ddpm, the family of Ho et al., shaped by [network.ddpm] alone;
            dit, a transformer, shaped by [network.dit] alone; or own, [network.own].
        width: channels at the finest level.
        multipliers: of the width, one per level, each level half the size of the one before; left out: as many as lead
            to at most 8 positions a side.
        blocks: residual blocks per level, down and again up; at the coarsest level each also attends to captions.
        attention: levels with self-attention, 0 the finest; left out: the coarsest.
        head_dim: size of a head of attention.
        patch: side of the squares of pixels folded into channels first.
        embedding: size of the embedding of log-SNR and condition.
        dropout: share left out inside the residual blocks, in [0, 1).
        detail: whether the network sees fixed features of the finest detail.
        radius: pixels that the window of these features reaches to each side, 0 for none.
        octaves: how many fixed features of the position in the image, 0 for none.
        spectral: how many linear estimates of a photograph's noise the network sees, 0 for none; left out: 3 for
            color images, of a cascade in its base, else none.
        classes: whether the labels of the data, where there are any, condition the network (any kind).
        ddpm, dit: the sections [network.ddpm], [network.dit]; left out with that kind: its defaults.
        own: the section [network.own].
    """

    kind: str = "unet"
    width: int = 64
    multipliers: tuple[int, ...] | None = None
    blocks: int = 2
    attention: tuple[int, ...] | None = None
    head_dim: int = 64
    patch: int = 2
    embedding: int = 128
    dropout: float = 0.0
    detail: bool = True
    radius: int = 2
    octaves: int = 3
    spectral: int | None = None
    classes: bool = True
    ddpm: DDPMConfig | None = None
    dit: DiTConfig | None = None
    own: OwnOptions | None = None

    def __post_init__(self) -> None:
        one_of("network.kind", self.kind, NETWORKS)
        self._check_kind()
        for name in ("width", "head_dim", "embedding"):
            within(f"network.{name}", getattr(self, name), 1, MAX_WIDTH, "it counts channels or features")
        for name in ("blocks", "patch"):
            within(f"network.{name}", getattr(self, name), 1, MAX_FACTOR, "it counts blocks a level, or pixels a side")
        _check_features(self, "network")
        if self.multipliers is not None:
            whole_numbers(
                "network.multipliers", self.multipliers, MAX_FACTOR, "it must name a factor of at least 1 a level"
            )
            self._check_attention(len(self.multipliers))

    def _check_kind(self) -> None:
        if self.kind == "own" and self.own is None:
            raise UserError("network.kind=own needs network.own.name, a class of yours, package.module:Class")
        for name in ("ddpm", "dit", "own"):
            if self.kind != name and getattr(self, name) is not None:
                raise UserError(f"[network.{name}] belongs to network.kind={name}: set it, or leave the section out")
        for field in fields(self):
            any_kind = self.kind == "unet" or field.name in ("kind", "classes", self.kind)
            if not any_kind and getattr(self, field.name) != field.default:
                raise UserError(
                    f"network.{field.name} belongs to network.kind=unet: the settings of kind={self.kind} are in "
                    f"[network.{self.kind}]"
                )

    @property
    def shape(self) -> NetworkConfig | DDPMConfig | DiTConfig:
        """The section that the network of this kind is built from."""
        if self.kind == "ddpm":
            return self.ddpm or DDPMConfig()
        return self.dit or DiTConfig() if self.kind == "dit" else self

    @staticmethod
    def of(shape: NetworkConfig | DDPMConfig | DiTConfig) -> NetworkConfig:
        """The section [network] whose `shape` this is."""
        if isinstance(shape, DDPMConfig):
            return NetworkConfig("ddpm", ddpm=shape)
        return NetworkConfig("dit", dit=shape) if isinstance(shape, DiTConfig) else shape

    def levels(self, size: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(multipliers, attention) for images of size (height, width).

        Left out, the factors are 1, 2, 2, … down to a level of at most 8 pixels a side, two levels or more, unless one
        of its positions would be larger than the image; attention is at the coarsest, where its reach is wanted and it
        costs little.

        Raises:
            UserError: for attention at a level that is not there.
        """
        height, width = size
        factors = self.multipliers
        if factors is None:
            count = max(2, math.ceil(math.log2(max(height, width) / (8 * self.patch))) + 1)
            while count > 1 and self.patch * 2 ** (count - 1) > min(height, width):
                count -= 1
            factors = (1, *(2,) * (count - 1))
        self._check_attention(len(factors))
        return factors, (len(factors) - 1,) if self.attention is None else self.attention

    def stride(self, size: tuple[int, int]) -> int:
        """Height and width of the latent are padded to multiples of this, for images of size (height, width)."""
        return int(self.patch * 2 ** (len(self.levels(size)[0]) - 1))

    def least_weights(self, size: tuple[int, int]) -> int:
        """A lower bound on the number of weight tensors, by arithmetic alone."""
        return 16 * len(self.levels(size)[0]) * self.blocks

    def _check_attention(self, levels: int) -> None:
        wanted = self.attention or ()
        if any(not 0 <= level < levels for level in wanted):
            raise UserError(f"network.attention={shown(list(wanted))} must name levels 0…{levels - 1}, 0 the finest")
