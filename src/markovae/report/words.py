"""What the figures mean, one sentence each."""

from __future__ import annotations

import math

TERMS = {
    "prior": "what level L still tells of the image: nothing, if the noise has drowned it",
    "levels": "what the network's predictions leave to be said at levels 2 to L",
    "reconstruction": "what it takes to name the exact grey values once z_1 is known",
}


PER_LEVEL = (
    "Nats that one level costs, averaged over intervals of log-SNR, ± one standard error. Coarse structure is "
    "paid for on the right, the last bits of the grey values on the left: where the curve is high, a better network "
    "would save most."
)
RATE = (
    "An image sent level by level, noise first: how far the prediction is off, root mean square in grey levels, "
    "once so many bits/dim have come. Where the curve is flat, bits buy details that the eye hardly sees; the last "
    "ones make the image exact."
)
PROGRESS = (
    "Held-out images on that way: predictions at some levels, and the image itself. Below, the bits/dim it takes to "
    "get there and the prediction's error in grey levels, both means over images."
)
EXTREMES = (
    "Of the images measured, those that cost the fewest and the most bits/dim, most extreme first. Each figure is "
    "from a few drawn levels and so a little noisy. Simple images are cheap; what is costly the model has seldom "
    "seen, or it is full of detail."
)
HELDOUT = (
    "The bound on a few validation images as training went on, with the same images, levels and noise each time, "
    "so that changes are the model's. While it falls, longer training helps; if it rises, the model memorizes."
)
OUTLOOK = (
    "What training on would bring, extrapolated from the held-out bounds of this run: a power law in the area under "
    "the learning rate, with a 95 % interval, for a run that is continued or made anew with that much more time."
)
TRAINING = (
    "The training loss, averaged over batches (thin) and smoothed (thick). It flattens early by its nature, since "
    "most of the noise cannot be predicted; the held-out bound shows progress."
)
CHANNELS = (
    "Mean of each color channel on 0…255, of the samples and of the training data. Differences of one sign in a "
    "single channel, beyond two or three standard errors, are a tint that the eye may miss."
)
NEIGHBOURS = (
    "How far a sample lies from the nearest training image, beside how far images lie that were never trained on: "
    "samples well below that would be copies of training images."
)


def meanings(bins: int) -> dict[str, str]:
    """What each figure of report.json means, under the figure's own name."""
    return {
        "bits_per_dim": bound_in_words(bins),
        **{f"terms_bits_per_dim.{name}": f"{text[0].upper()}{text[1:]}." for name, text in TERMS.items()},
        "per_level": PER_LEVEL,
        "curves.rate": RATE,
        "extremes": EXTREMES,
        "codecs": codecs_in_words(bins),
        "neighbours": NEIGHBOURS,
        "channels": CHANNELS,
        "curves.training": TRAINING,
        "curves.heldout": HELDOUT,
        "outlook": OUTLOOK,
    }


def codecs_in_words(bins: int) -> str:
    """What PNG and WebP were given."""
    if bins > 256:
        return f"PNG and WebP are left out: these writers hold 8 bits a channel, and the images have {bins:,} values."
    text = (
        "PNG and WebP are lossless, at their smallest settings, and their headers count: much where every small image "
        "is a file, hardly at all in one large image."
    )
    if bins == 256:
        return text
    return (
        f"{text} They were given the pixel values 0…{bins - 1} as 8-bit grey values and must find out that no "
        f"others occur; the model knows that there are {bins}."
    )


def bound_in_words(bins: int) -> str:
    """What bits/dim are."""
    return (
        "An upper bound on the mean length of a code for these images, in bits per pixel value; "
        f"without any code each takes {math.log2(bins):.3g}."
    )


def change_in_words(model: float, codec: float) -> str:
    """How the bound compares with a codec."""
    ratio = model / codec
    return f"{abs(1 - ratio):.0%} {'less' if ratio <= 1 else 'more'} than that"


def left_out_in_words(lines: int) -> str:
    """How many lines of metrics.jsonl are no rows."""
    if lines == 1:
        return "1 line of metrics.jsonl cannot be read and is"
    return f"{lines:,} lines of metrics.jsonl cannot be read and are"
