"""What a run decides before it begins, and says: its condition, presets for few images or little time."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import replace

import numpy as np
import torch

from markovae.build import create, with_columns
from markovae.config import Config
from markovae.data.images import ImageData, count_uncaptioned
from markovae.diffusion.cascade import stages_of
from markovae.diffusion.cascade_config import LARGEST_BASE
from markovae.networks.network_config import NetworkConfig
from markovae.quality.memorization import nearest
from markovae.system.processes import current_rank
from markovae.text.sentence_encoder import PACKAGE
from markovae.training.train_config import TrainConfig

BUILT_IN = ("faces", "digits")


def choices(
    config: Config, data: ImageData, device: torch.device, theirs: NetworkConfig | None = None
) -> tuple[Config, list[str]]:
    """The configuration with everything decided, and lines that say what was.

    train.preset=auto is decided where the shape of the network is left at its defaults: few for a folder of the user's
    own of fewer than 2,000 training images, short where the time is too little for the default network on this
    processor, which is timed. Settings that were changed stay.

    Args:
        data: the training part.
        device: that the run is trained on.
        theirs: the network of the run whose weights this one begins with: taken where none is asked for, whatever the
            time and the number of images.
    """
    config = with_columns(
        replace(config, condition=replace(config.condition, kind=_condition_kind(config, data))), data
    )
    preset = config.train.preset
    plain = preset == "auto" and _has_default_shape(config.network)
    own = data.files is not None and config.data.source not in BUILT_IN
    few = preset == "few" or (plain and own and len(data) < FEW)
    color = theirs is None and _is_in_color(config, data)
    short = preset == "short" or (plain and theirs is None and _is_short(config, data, device, color))
    if theirs is not None:
        config = replace(config, network=_beginning_with(theirs, config.network))
    config = replace(config, train=replace(config.train, preset="few" if few else "short" if short else "none"))
    lines = []
    if short:
        config, line = _for_short(config)
        lines.append(line)
    if few:
        config, line = _for_few(config, data, theirs is None)
        lines.append(line)
    if color:
        config, line = _for_color(config)
        lines.append(line)
    return config, lines


SHAPELESS = ("dropout", "detail", "radius", "octaves", "spectral", "classes")  # settings beside a network's shape


def _has_default_shape(network: NetworkConfig) -> bool:
    default = NetworkConfig()
    return replace(network, **{name: getattr(default, name) for name in SHAPELESS}) == default


def _condition_kind(config: Config, data: ImageData) -> str:
    """What condition.kind=auto is: text where half of the images have a caption and its encoder is installed, else
    class. The embedded faces, whose model is to be small, are conditioned on nothing.
    """
    if config.condition.kind != "auto":
        return config.condition.kind
    captions = len(data) - count_uncaptioned(data)
    reads = config.network.kind in ("unet", "dit") and config.data.source not in BUILT_IN
    return "text" if reads and 0 < len(data) <= 2 * captions and _encoder_is_there(config) else "class"


def _encoder_is_there(config: Config) -> bool:
    """Whether captions can be read: a folder was named, or the packages of the default encoder are installed."""
    if config.condition.encoder != type(config.condition).encoder:
        return True
    return all(importlib.util.find_spec(name) is not None for name in ("tokenizers", PACKAGE))


# -- little time ------------------------------------------------------------------------------------------------------

SHORT = 60_000  # images: a training that sees fewer learns more with the smaller network
SHORT_BLOCKS, SHORT_WIDTH, SHORT_BATCH = 1, 48, 16


def _is_short(config: Config, data: ImageData, device: torch.device, color: bool) -> bool:
    """Whether the default network would see too few images in the time there is, by a timed pass of a batch.

    Asked of one process on a CPU. Of the recipes for the bound, of that of color images alone: the others gain by a
    network that sees fewer.
    """
    train = config.train
    alone = current_rank().size == 1 and device.type == "cpu"
    asked = train.objective == "weighted" or color
    if train.seconds is None or not alone or not asked or train.batch != TrainConfig.batch:
        return False
    return train.seconds / seconds_per_image(config, data.shape) < SHORT


def seconds_per_image(config: Config, shape: tuple[int, ...]) -> float:
    """Seconds of an image forward and backward through the network of one stage, in float32; the second of two passes.

    Args:
        shape: of the images, (C, H, W); a cascade's base has half the sides until they are at most 48 pixels.
    """
    channels, height, width = shape
    while max(height, width) > LARGEST_BASE:
        height, width = height // 2, width // 2
    model = stages_of(create(Config(network=config.network), (channels, height, width)))[0]
    images, took = torch.zeros(SHORT_BATCH, channels, height, width), 0.0
    for _ in range(2):
        started = time.perf_counter()
        model.loss(images, generator=torch.Generator().manual_seed(0)).backward()
        took = time.perf_counter() - started
    return took / SHORT_BATCH


def _for_short(config: Config) -> tuple[Config, str]:
    """The settings of train.preset=short, and a line that says them."""
    network = replace(config.network, blocks=SHORT_BLOCKS, width=SHORT_WIDTH, head_dim=SHORT_WIDTH)
    config = replace(config, network=network, train=replace(config.train, batch=SHORT_BATCH))
    said = f"network.blocks={SHORT_BLOCKS}, network.width={SHORT_WIDTH}, train.batch={SHORT_BATCH}"
    return config, f"little time for this processor: {said}; train.preset=none leaves this out"


# -- color images -----------------------------------------------------------------------------------------------------

SPECTRAL = 3  # linear estimates of the noise: docs/records.md and docs/choices.md have what they pay


def _is_in_color(config: Config, data: ImageData) -> bool:
    """Whether a run is of color images of 256 values; for the bound, of such as are not drawn here, at one stage.

    What else the bound would gain is not measured.
    """
    network = config.network
    left_out = network.kind == "unet" and network.spectral is None
    color = data.shape[0] == 3 and data.bins == 256
    if config.train.objective != "bound":
        return left_out and color
    stages = config.cascade.stages or (1 if max(data.shape[1:]) <= LARGEST_BASE else 2)
    return left_out and color and config.data.source not in BUILT_IN and stages == 1


def _beginning_with(theirs: NetworkConfig, asked: NetworkConfig) -> NetworkConfig:
    """The network that takes the weights of another run: its own, or the one asked for, with what a run decides."""
    if asked == NetworkConfig():
        return theirs
    if asked.spectral is not None or asked.kind != theirs.kind:
        return asked
    radius = theirs.radius if asked.radius == NetworkConfig.radius else asked.radius
    return replace(asked, spectral=theirs.spectral, radius=radius)


def _for_color(config: Config) -> tuple[Config, str]:
    """Estimates of the noise, for the bound in place of the window of detail, and a line that says so."""
    network, said = replace(config.network, spectral=SPECTRAL), f"network.spectral={SPECTRAL}"
    if config.train.objective == "bound":
        network, said = replace(network, radius=0), f"{said}, network.radius=0"
    return replace(config, network=network), f"color images: {said}; network.spectral=0 leaves this out"


# -- few images -------------------------------------------------------------------------------------------------------

FEW, VERY_FEW = 2000, 500
DROPOUT, SMALL_WIDTH, EVALUATIONS = 0.1, 48, 10
COMPARED, LEAST_COMPARED = 256, 64
MIRRORED = 0.65


def _for_few(config: Config, data: ImageData, fresh: bool) -> tuple[Config, str]:
    """The settings of train.preset=few, and a line that says them: dropout, below 500 images a smaller network where
    its weights are fresh, flips where the images are symmetric, and the checkpoint of the best held-out bound is what
    the run is opened by.
    """
    network = config.network
    said = []
    if network.kind == "unet" and not network.dropout:
        network, said = replace(network, dropout=DROPOUT), [f"dropout {DROPOUT}"]
    if fresh and network.kind == "unet" and network.width == NetworkConfig.width and len(data) < VERY_FEW:
        network, said = replace(network, width=SMALL_WIDTH, head_dim=SMALL_WIDTH), [*said, f"width {SMALL_WIDTH}"]
    flip = config.data.flip or symmetric(data)
    said.append("flips, since the images are symmetric" if flip and not config.data.flip else "")
    evaluations = config.train.evaluations and EVALUATIONS
    train = replace(config.train, keep_best=evaluations > 0, evaluations=evaluations)
    said.append("the checkpoint of the best held-out bound is used (train.keep_best)" if train.keep_best else "")
    line = f"few images ({len(data):,}): {', '.join(filter(None, said))}; train.preset=none leaves this out"
    return replace(config, network=network, train=train, data=replace(config.data, flip=flip)), line


def symmetric(data: ImageData) -> bool:
    """Whether mirrored images look like others of the set: they lie no further from them than the images themselves do.

    Of up to 256 images and their mirror images, the share of those whose mirror image lies further from the rest than
    they do: ½ where mirroring changes nothing, a little more where images come in series, 0.92 of the digits, 0.83 of
    the embedded faces. Fewer than 64 images tell nothing.
    """
    some = np.asarray(data.images[:: max(1, len(data) // COMPARED)][:COMPARED])
    if len(some) < LEAST_COMPARED:
        return False
    coarse = max(1, max(some.shape[2:]) // 16)
    some = some[..., ::coarse, ::coarse]
    first, rest = some[::2], some[1::2]
    own, mirrored = (nearest(images, rest, data.bins).distance for images in (first, first[..., ::-1]))
    further = float((np.sign(mirrored - own).mean() + 1) / 2)
    return further <= MIRRORED
