"""What a run decides by its data before it begins, and says: its condition, a preset for few images, a forecast."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np

from markovae.config import Config
from markovae.data.images import ImageData, count_uncaptioned
from markovae.log import duration
from markovae.networks.network_config import NetworkConfig
from markovae.quality.memorization import nearest
from markovae.text.encoders import PACKAGE

BUILT_IN = ("faces", "digits")


def choices(config: Config, data: ImageData) -> tuple[Config, list[str]]:
    """The configuration with everything decided, and lines that say what was.

    Args:
        data: the training part.
    """
    condition = replace(config.condition, kind=_condition_kind(config, data))
    return _for_few(replace(config, condition=condition), data)


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


# -- few images -------------------------------------------------------------------------------------------------------

FEW, VERY_FEW = 2000, 500
DROPOUT, SMALL_WIDTH, EVALUATIONS = 0.1, 48, 10
COMPARED, LEAST_COMPARED = 256, 64
MIRRORED = 0.65


def _for_few(config: Config, data: ImageData) -> tuple[Config, list[str]]:
    """The settings of train.preset for these images, and a line that says them. Settings that were changed stay.

    auto is `few` for a folder of the user's own of fewer than 2,000 training images, where the section network is left
    at its defaults. few: dropout, below 500 images a smaller network, flips where the images are symmetric, and the
    checkpoint of the best held-out bound is what the run is opened by (train.keep_best).
    """
    preset, network, train = config.train.preset, config.network, config.train
    if preset == "auto":
        own = data.files is not None and config.data.source not in BUILT_IN
        preset = "few" if own and len(data) < FEW and network == NetworkConfig() else "none"
    config = replace(config, train=replace(train, preset=preset))
    if preset != "few":
        return config, []
    said = []
    if network.kind == "unet" and not network.dropout:
        network, said = replace(network, dropout=DROPOUT), [f"dropout {DROPOUT}"]
    if network.kind == "unet" and network.width == NetworkConfig.width and len(data) < VERY_FEW:
        network, said = replace(network, width=SMALL_WIDTH, head_dim=SMALL_WIDTH), [*said, f"width {SMALL_WIDTH}"]
    flip = config.data.flip or symmetric(data)
    said.append("flips, since the images are symmetric" if flip and not config.data.flip else "")
    train = replace(config.train, keep_best=train.evaluations > 0, evaluations=train.evaluations and EVALUATIONS)
    said.append("the checkpoint of the best held-out bound is used (train.keep_best)" if train.keep_best else "")
    line = f"few images ({len(data):,}): {', '.join(filter(None, said))}; train.preset=none leaves this out"
    return replace(config, network=network, train=train, data=replace(config.data, flip=flip)), [line]


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


# -- the forecast -----------------------------------------------------------------------------------------------------

# Images seen until samples show what the data are, about, a pixel: the demo's faces took 42,400 at 32x32 pixels.
SEEN_PER_PIXEL, LEAST_SEEN = 40, 20_000
NOISE = 0.25


def forecast(total: int, batch: int, data: ImageData, octaves: int, pace: float) -> str:
    """How often a run of `total` steps sees each image, and whether that is enough.

    Args:
        batch: images a step.
        data: the training part.
        octaves: doublings of the sides behind a cascade's base, whose pixels decide what the images show.
        pace: seconds a step.
    """
    seen, (_, height, width) = total * batch, data.shape
    needed = max(LEAST_SEEN, SEEN_PER_PIXEL * height * width >> 2 * octaves)
    passes = seen / len(data)
    text = f"{passes:,.{1 if passes < 10 else 0}f} passes over your images"
    if seen >= needed:
        return text
    what = "noise" if seen < NOISE * needed else "rough samples"
    longer = duration(needed / batch * pace)
    return f"{text}: expect {what}; {height}x{width} pixels need about {longer} here ({needed:,} images seen)"
