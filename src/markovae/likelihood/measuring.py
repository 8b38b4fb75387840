"""How a measurement is made, and what is fitted on other images before it: variance, grid, levels by importance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import DiagonalVariance, IsotropicVariance, ReverseVariance
from markovae.errors import UserError
from markovae.likelihood.estimators import Estimator, Levels, measure_with, on_levels
from markovae.likelihood.inputs import (
    Array,
    Labels,
    at_least_one,
    checked_images,
    checked_labels,
    checked_model,
    labels_taken,
    refuse_shared,
)
from markovae.likelihood.level_sampling import LevelDistribution
from markovae.likelihood.measurement import Measurement
from markovae.likelihood.statistics import LevelStatistics, fit_reverse, level_statistics, levels_each
from markovae.likelihood.subgrid import diagonal_costs, isotropic_costs, search
from markovae.networks.conditioning import Conditioning

ESTIMATORS = ("full", "stratified", "importance")
GRIDS = ("even", "optimal")
VARIANCES = ("own", "isotropic", "diagonal")
KNOTS = {"isotropic": 129, "diagonal": 65}


@dataclass(frozen=True)
class Method:
    """What is asked of a measurement, in words and numbers.

    Args:
        estimator: full (every level), stratified, or importance (levels by √E[nats²]).
        draws: levels drawn an image; full takes none of it.
        replicates: independent randomisations of each image.
        levels: measure on so many levels; None is all.
        grid: which, even strides or those of the least bound.
        variance: of the prior's steps: the model's own, or isotropic or diagonal, refitted. An optimal grid of a
            model whose own variance images neither fit nor teach takes the isotropic one.
    Raises:
        ValueError: for another word.   UserError: for a number below 1.
    """

    estimator: str = "stratified"
    draws: int = 16
    replicates: int = 1
    levels: int | None = None
    grid: str = "even"
    variance: str = "own"

    def __post_init__(self) -> None:
        at_least_one(draws=self.draws, replicates=self.replicates, levels=self.levels)
        for name, known in (("estimator", ESTIMATORS), ("grid", GRIDS), ("variance", VARIANCES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(known)}")

    @property
    def needs_fit(self) -> bool:
        """Whether something is fitted on other images."""
        return self.estimator == "importance" or self.grid == "optimal" or self.variance != "own"


@dataclass(frozen=True)
class Prepared:
    """A model on the levels and with the variance it is measured with, and the estimator.

    Args:
        model: this one.   estimator: with its distribution over levels.
        levels: which of the original grid's levels, (K,), int64; None for all.
        grid: even or optimal.   fitted_on: how many other images.   fit_calls: network calls spent on them in all.
    """

    model: Diffusion
    estimator: Estimator
    levels: Tensor | None = None
    grid: str = "even"
    fitted_on: int = 0
    fit_calls: int = 0


def prepare(
    model: Diffusion,
    method: Method,
    fit: Array | None = None,
    fit_labels: Labels | None = None,
    *,
    seed: int = 0,
    batch: int = 64,
) -> Prepared:
    """Fit what the method needs on images that will not be measured; nothing of the model given is changed.

    Args:
        fit, fit_labels: those images, digits as in `measure`; none for a method that needs none.
        seed: of the draws of the fit.   batch: of its network calls.
    Raises:
        UserError: for images that are missing or do not fit the model, or more levels than the grid has.
    """
    if not method.needs_fit:
        chosen = None if method.levels in (None, model.num_levels) else method.levels
        on = on_levels(model, chosen)
        levels = None if chosen is None else model.schedule.sublevels(chosen)
        return Prepared(on, _unfitted(method), levels)
    if fit is None:
        raise UserError("this measurement is fitted on other images first: give images that will not be measured")
    checked_model(model)
    images = checked_images(model, fit)
    labels = checked_labels(fit_labels, len(images))
    stage = _Stage(images, labels, seed, batch)
    varied, levels = _on_grid(model, method, stage)
    estimator = _estimator(varied, method, stage)
    return Prepared(varied, estimator, levels, method.grid, len(images), stage.calls)


def prepare_pair(
    a: Diffusion,
    b: Diffusion,
    method: Method,
    fit: Array | None = None,
    fit_labels: Labels | None = None,
    **options: int,
) -> tuple[Prepared, Prepared]:
    """Two models made ready for a paired comparison: on equal grids they draw their levels by one law, their mean.

    Args:
        options: seed and batch, as for `prepare`.
    """
    first, second = (prepare(model, method, fit, labels_taken(model, fit_labels), **options) for model in (a, b))
    laws = first.estimator.distribution, second.estimator.distribution
    if laws[0] is None or laws[1] is None or not same_levels(first.model, second.model):
        return first, second
    common = LevelDistribution((laws[0].probability + laws[1].probability) / 2)
    first, second = (replace(p, estimator=replace(p.estimator, distribution=common)) for p in (first, second))
    return first, second


def same_levels(a: Diffusion, b: Diffusion) -> bool:
    """Whether two models are measured at the same log-SNRs."""
    return torch.equal(a.schedule.logsnr, b.schedule.logsnr)


class _Stage:
    """The images that are fitted on, and the network calls spent on them."""

    def __init__(self, images: Tensor, labels: Conditioning | None, seed: int, batch: int) -> None:
        self.images, self.labels, self.seed, self.batch = images, labels, seed, batch
        self.calls = 0

    def level_statistics(self, model: Diffusion, knots: int) -> LevelStatistics:
        """One pass; every surveyed level is drawn."""
        knots, per_image = self._size(model, knots)
        return level_statistics(
            model,
            self.images,
            self.labels,
            per_image=per_image,
            knots=knots,
            seed=self.seed,
            batch=self.batch,
        )

    def fit(self, model: Diffusion, knots: int) -> LevelStatistics:
        """One pass that fits the model's variance in place."""
        knots, per_image = self._size(model, knots)
        options = {"per_image": per_image, "knots": knots, "seed": self.seed, "batch": self.batch}
        return fit_reverse(model, self.images, self.labels, **options)

    def _size(self, model: Diffusion, knots: int) -> tuple[int, int]:
        """Levels surveyed, and of each image; the calls are counted."""
        knots = min(knots, model.num_levels)
        per_image = levels_each(knots, len(self.images))
        self.calls += len(self.images) * per_image
        return knots, per_image


def _unfitted(method: Method) -> Estimator:
    return Estimator(None if method.estimator == "full" else method.draws, replicates=method.replicates)


def _on_grid(model: Diffusion, method: Method, stage: _Stage) -> tuple[Diffusion, Tensor | None]:
    """The model with the method's variance on the method's levels, and these levels."""
    optimal = method.grid == "optimal" and method.levels not in (None, model.num_levels)
    kind = method.variance
    if kind == "own" and method.grid == "optimal" and not _adapts(model.reverse):
        kind = "isotropic"
    found = None
    if kind != "own" and model.num_levels > 1:  # a single level is the decoder's
        variance = IsotropicVariance(KNOTS[kind]) if kind == "isotropic" else DiagonalVariance(model.shape, KNOTS[kind])
        model = model.with_reverse(variance)
        found = stage.fit(model, KNOTS[kind])
    if method.levels in (None, model.num_levels):
        return model, None
    if not optimal:
        return on_levels(model, method.levels), model.schedule.sublevels(int(method.levels or 0))
    found = stage.level_statistics(model, KNOTS["isotropic"]) if found is None else found
    levels = optimal_levels(model, found, int(method.levels or 0))
    return on_levels(model, levels.tolist()), levels


def _adapts(reverse: ReverseVariance) -> bool:
    """Whether a variance is already the best of its kind on any grid: fitted, learned, or from the Jacobian."""
    if isinstance(reverse, IsotropicVariance | DiagonalVariance):
        return True
    return reverse.channels == 2 or reverse.needs_jacobian


def optimal_levels(model: Diffusion, found: LevelStatistics, num_levels: int) -> Tensor:
    """The K levels of the least bound by a survey, (K,), int64, increasing: see `subgrid.search`.

    Raises:
        UserError: for more levels than the grid has.
    """
    grid = model.schedule.logsnr.detach().cpu()
    if isinstance(model.reverse, DiagonalVariance):
        costs = diagonal_costs(found.errors_at(grid[1:], per_coordinate=True), grid)
    else:
        costs = isotropic_costs(found.errors_at(grid[1:]), grid, model.dims)
    return search(costs, num_levels).levels(num_levels)


def _estimator(model: Diffusion, method: Method, stage: _Stage) -> Estimator:
    if method.estimator in ("full", "stratified") or model.num_levels < 2:
        return _unfitted(method)
    return Estimator(method.draws, stage.level_statistics(model, KNOTS["diagonal"]).distribution(), method.replicates)


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
        fit, fit_labels: other images, for the estimator importance, an optimal grid or a refitted variance.
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
