"""The state of everything random in a run. Every draw is keyed, so it is a position."""

from __future__ import annotations

from typing import Any


def draws_record(seed: int, batch: int, images: int | None, step: int, skipped: int) -> dict[str, Any]:
    """The state of all draws after `step` steps: orders, levels, noise, flips, labels left out, dropout.

    Each is a function of (seed, purpose, example, step), so there is no generator whose state could be kept or lost.
    Batch number step + skipped comes next; it takes places (step + skipped)·batch and on of the endless sequence of
    epochs, each in an order of its own.

    Args:
        images: of the training set, None where it is not known.
        skipped: batches left out, by rollbacks.
    """
    batches = step + skipped
    epoch, place = divmod(batches * batch, images) if images else (None, None)
    return {
        "law": "each draw is a function of (seed, purpose, example, step): no generator's state is carried on",
        "seed": seed,
        "batch": batch,
        "images": images,
        "skipped": skipped,
        "next_batch": batches,
        "next_epoch": epoch,
        "next_place": place,
    }
