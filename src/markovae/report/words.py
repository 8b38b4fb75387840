"""What the figures mean, one sentence each."""

from __future__ import annotations

import math

TERMS = {
    "prior": "what level L still tells of the image: nothing, if the noise has drowned it",
    "levels": "what the network's guesses leave to be said at levels 2 to L",
    "reconstruction": "what it takes to name the exact grey values once z_1 is known",
}


def bound_in_words(bins: int) -> str:
    """What bits/dim are."""
    return (
        "An upper bound on the mean length of a code for these images, in bits for each number in them; "
        f"stored plainly each takes {math.log2(bins):.3g}."
    )


def change_in_words(model: float, codec: float) -> str:
    """How the bound compares with a codec."""
    ratio = model / codec
    return f"{abs(1 - ratio):.0%} {'less' if ratio <= 1 else 'more'} than that"
