"""`measure`: from a model and images to their cost, in one call."""

from __future__ import annotations

from markovae.diffusion import Diffusion
from markovae.errors import UserError
from markovae.likelihood.estimators import Levels, measure_with, on_levels
from markovae.likelihood.inputs import Array, Labels, checked_images, refuse_shared
from markovae.likelihood.method import Method, prepare
from markovae.likelihood.record import Measurement


def measure(
    model: Diffusion,
    images: Array,
    labels: Labels | None = None,
    *,
    draws: int | str | None = 16,
    levels: Levels = None,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 64,
    estimator: str = "stratified",
    replicates: int = 1,
    grid: str = "even",
    variance: str = "own",
    fit: Array | None = None,
    fit_labels: Labels | None = None,
) -> Measurement:
    """Measure the bound on −ln P of integer images; every image counts exactly once.

    Args:
        images: digits, (n, C, H, W), as the data hold them; never augmented, scaled or dropped. Floats on the
            model's scale where the decoder is a density.
        labels: classes, (n,), for a model that was trained with them.
        draws: levels drawn an image (cost: draws + 1 network calls); None or "all" takes every level (L calls).
        levels: measure on the sub-grid of so many levels, or of these levels; None is the model's own grid.
        limit: the first so many images only.
        seed: of the draws; noise is keyed by (seed, image, level).
        batch: draws a network call; no figure depends on it beyond rounding.
        estimator, replicates, grid, variance: see `Method`.
        fit, fit_labels: other images, for estimators importance and control, an optimal grid or a refitted variance.
    Raises:
        UserError: for no images, draws or limit below 1, more levels than the grid has, data that do not fit the
            model, weights that are no numbers, or images that are measured and fitted on at once.
        ValueError: for words that `Method` does not know.
    """
    if isinstance(draws, str):
        if draws != "all":
            raise UserError(f"draws={draws!r} must be a whole number, None or 'all'")
        draws = None
    if not isinstance(levels, int | None):
        model, levels = on_levels(model, levels), None
    method = Method(
        "full" if draws is None and estimator == "stratified" else estimator,
        16 if draws is None else draws,
        replicates,
        levels,
        grid,
        variance,
    )
    if draws is None and method.estimator != "full":
        raise ValueError(f"draws=None takes every level, estimator={estimator!r} draws some: give draws")
    prepared = prepare(model, method, fit, fit_labels, seed=seed, batch=batch)
    if fit is not None and method.needs_fit:
        refuse_shared(checked_images(model, images, limit), checked_images(model, fit))
    return measure_with(
        prepared.model, images, labels, estimator=prepared.estimator, limit=limit, seed=seed, batch=batch
    )
