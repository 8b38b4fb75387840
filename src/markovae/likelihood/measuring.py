"""`measure`: what is fitted on other images before it (variance, grid, levels by importance), and the record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from markovae.data.conversion import as_images
from markovae.data.images import ImageData
from markovae.diffusion.cascade import Cascade, Model, stages_of
from markovae.diffusion.model import Diffusion
from markovae.diffusion.reverse import DiagonalVariance, IsotropicVariance, ReverseVariance
from markovae.errors import UserError
from markovae.likelihood.estimators import (
    Estimator,
    LevelDistribution,
    Levels,
    evaluate_batches,
    from_table,
    on_levels,
    summarize,
    to_table,
)
from markovae.likelihood.fitting import fit_stages, stage_examples
from markovae.likelihood.inputs import (
    Array,
    Labels,
    arrays_of,
    checked_images,
    checked_model,
    labels_taken,
    refuse_shared,
    require_condition,
)
from markovae.likelihood.measurement import Measurement
from markovae.likelihood.method import Method
from markovae.likelihood.statistics import LevelStatistics, collect_level_statistics
from markovae.likelihood.subgrid import diagonal_costs, isotropic_costs, search, share_steps
from markovae.log import log, track
from markovae.system.distributed import Ranks

KNOTS = {"isotropic": 129, "diagonal": 65}


@dataclass(frozen=True)
class Prepared:
    """A model on the levels and with the variance it is measured with, and the estimator.

    Args:
        model: this one.
        estimator: with its distribution over levels.
        levels: which of the original grid's levels, (K,), int64; None for all.
        grid: even, optimal or named.
        fitted_on: how many other images.
        fit_calls: NFE spent on them.
    """

    model: Model
    estimator: Estimator
    levels: Tensor | None = None
    grid: str = "even"
    fitted_on: int = 0
    fit_calls: int = 0


def prepare(model: Model, method: Method, fit: Array | None = None, fit_labels: Labels | None = None) -> Prepared:
    """Fit what the method needs on images that will not be measured; nothing of the model given is changed.

    Args:
        fit, fit_labels: those images, pixel values as in `measure`; none for a method that needs none.
    Raises:
        UserError: for images that are missing or do not fit the model, or more levels than the grid has.
    """
    if not isinstance(method.levels, int | None):
        named = on_levels(model, method.levels)
        found = prepare(named, replace(method, levels=None), fit, fit_labels)
        return replace(found, levels=torch.as_tensor(method.levels).flatten(), grid="named")
    if not method.needs_fit:
        count = method.levels if method.levels is not None and method.levels < model.num_levels else None
        on = on_levels(model, method.levels)
        levels = None if count is None else _sublevels(model, count)
        return Prepared(on, Estimator(method.number_of_draws, None, method.replicates), levels)
    if fit is None:
        raise UserError("this measurement is fitted on other images first: give images that will not be measured")
    fitted_on = checked_images(model, fit)
    model, levels, calls = _on_grid(model, method, fitted_on, fit_labels)
    distribution = None
    if method.estimator == "importance" and model.num_levels > 1:
        statistics = _stage_statistics(model, method, fitted_on, fit_labels, KNOTS["diagonal"])
        squares = torch.cat([each.nats_squares() for each in reversed(statistics)])
        distribution = LevelDistribution.importance(squares)
        calls += sum(each.calls for each in statistics)
    estimator = Estimator(method.number_of_draws, distribution, method.replicates)
    return Prepared(model, estimator, levels, method.grid, len(fitted_on), calls)


def prepare_pair(
    a: Model,
    b: Model,
    method: Method,
    fit: Array | None = None,
    fit_labels: Labels | None = None,
) -> tuple[Prepared, Prepared]:
    """Two models made ready for a comparison: on equal grids they share one distribution over levels, the mean."""
    first, second = (prepare(model, method, fit, labels_taken(model, fit_labels)) for model in (a, b))
    each = first.estimator.distribution, second.estimator.distribution
    if each[0] is None or each[1] is None or not same_levels(first.model, second.model):
        return first, second
    common = LevelDistribution((each[0].probability + each[1].probability) / 2)
    first, second = (replace(p, estimator=replace(p.estimator, distribution=common)) for p in (first, second))
    return first, second


def same_levels(a: Model, b: Model) -> bool:
    """Whether two models are measured at the same log-SNRs."""
    return torch.equal(a.level_logsnr.cpu(), b.level_logsnr.cpu())


def _on_grid(model: Model, method: Method, images: Tensor, labels: Labels | None) -> tuple[Model, Tensor | None, int]:
    """The model with the method's variance on the method's levels, these levels, and the NFE of fitting."""
    assert isinstance(method.levels, int | None), "named levels are a grid of their own"
    kind, found, calls = method.variance, None, 0
    if kind == "own" and method.grid == "optimal" and not _adapts(model.reverse):
        kind = "isotropic"
    if kind != "own" and model.num_levels > 1:  # a single level is the decoder's
        model = _with_variance(model, kind)
        found = fit_stages(model, images, labels, knots=KNOTS[kind], seed=method.seed, batch=method.batch)
        calls = sum(each.calls for each in found)
    if method.levels in (None, model.num_levels):
        return model, None, calls
    if method.grid != "optimal":
        return on_levels(model, method.levels), _sublevels(model, method.levels), calls
    if found is None:
        found = _stage_statistics(model, method, images, labels, KNOTS["isotropic"])
        calls = sum(each.calls for each in found)
    best = optimal_levels(model, found, method.levels)
    return model.only(best) if isinstance(model, Cascade) else on_levels(model, best.tolist()), best, calls


def _stage_statistics(
    model: Model, method: Method, images: Tensor, labels: Labels | None, knots: int
) -> list[LevelStatistics]:
    """Of every stage, the base first; of the model itself, where it has one stage."""
    seed, batch = method.seed, method.batch
    stages = stage_examples(model, images, labels, seed)
    return [collect_level_statistics(*stage, knots=knots, seed=seed, batch=batch) for stage in stages]


def _with_variance(model: Model, kind: str) -> Model:
    """The model, each of its stages, with an isotropic or diagonal variance that is not fitted yet."""
    made = [
        stage.with_reverse(
            IsotropicVariance(KNOTS[kind]) if kind == "isotropic" else DiagonalVariance(stage.shape, KNOTS[kind])
        )
        for stage in stages_of(model)
    ]
    return model.with_stages(made) if isinstance(model, Cascade) else made[0]


def _sublevels(model: Model, levels: int) -> Tensor:
    """Which levels a sub-grid of so many has."""
    return model.sublevels(levels) if isinstance(model, Cascade) else model.schedule.sublevels(levels)


def _adapts(reverse: ReverseVariance) -> bool:
    """Whether a variance is already the best of its kind on any grid: fitted, learned, or from the Jacobian."""
    if isinstance(reverse, IsotropicVariance | DiagonalVariance):
        return True
    return reverse.channels == 2 or reverse.needs_jacobian


def optimal_levels(model: Model, found: Sequence[LevelStatistics], num_levels: int) -> Tensor:
    """The K levels of the least bound by their statistics, (K,), int64, increasing: see `subgrid.search`.

    Those of a cascade are shared out among its stages: the bound is the sum of theirs.

    Args:
        found: of each stage, the base first.
    Raises:
        UserError: for more levels than the grid has, or fewer than one step of each stage.
    """
    stages = stages_of(model)
    if len(stages) == 1:
        return search(_step_costs(stages[0], found[0]), num_levels).levels(num_levels)
    if not len(stages) < num_levels <= model.num_levels:
        raise UserError(f"num_levels={num_levels} must lie in {len(stages) + 1}…{model.num_levels}")
    most = num_levels - len(stages) + 1
    searched = [
        search(_step_costs(stage, each), min(most, stage.num_levels)) for stage, each in zip(stages, found, strict=True)
    ]
    kept, begin = [torch.ones(1, dtype=torch.int64)], 0
    shares = share_steps(searched, num_levels - 1)
    for stage, grids, steps in reversed(list(zip(stages, searched, shares, strict=True))):
        kept.append(begin + grids.levels(steps + 1)[1:])
        begin += stage.num_levels - 1
    return torch.cat(kept)


def _step_costs(model: Diffusion, found: LevelStatistics) -> Tensor:
    """Expected nats of every step of a stage, (L, L)."""
    grid = model.schedule.logsnr.detach().cpu()
    if isinstance(model.reverse, DiagonalVariance):
        return diagonal_costs(found.errors_at(grid[1:], per_coordinate=True), grid)
    return isotropic_costs(found.errors_at(grid[1:]), grid, model.dims)


def measure(
    model: Model,
    images: Array,
    labels: Labels | None = None,
    *,
    draws: int | str | None = "auto",
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
    progress: bool = False,
    ranks: Ranks | None = None,
) -> Measurement:
    """Measure the bound on −ln P of integer images; every image counts exactly once.

        found = mv.measure(mv.load("runs/photos"), mv.load_data("photos").test.images)
        found.bits_per_dim, found.bits_per_dim.ci95

    Args:
        images: pixel values, (n, C, H, W), as the data hold them; never augmented, scaled or dropped. Floats on the
            model's scale where the decoder is a density. Also a list of images, of PIL too; `ImageData` or `Splits`
            (their test part), with what they know of each image; or a path, whose images are brought to the model's
            shape.
        labels: classes by number or name, (n,), or conditioning of each image, for a model that was trained with it.
            Without, such a model is measured under its learned null, if that was trained.
        draws: levels drawn per image (cost: draws + 1 NFE); auto is 16, None or "all" takes every level (L NFE).
        levels: measure on the sub-grid of so many levels, or of these levels; None is the model's own grid.
        limit: the first so many images only.
        seed: of the draws; noise is keyed by (seed, image, level).
        batch: draws per network evaluation; no figure depends on it beyond rounding.
        estimator, replicates, grid, variance: see `Method`.
        fit, fit_labels: other images, for the estimator importance, an optimal grid or a refitted variance.
        progress: tell on stderr how far it is.
        ranks: processes that share the work; all of them get the same record.
    Raises:
        UserError: for no images, draws or limit below 1, more levels than the grid has, unknown words, settings that
            contradict one another, data that do not fit the model, weights that are NaN or Inf, images that are
            measured and fitted on at once, or a model measured without labels that never trained without.
    """
    method = Method(estimator, draws, replicates, levels, grid, variance, limit, seed, batch)
    return measure_alike([model], images, labels, method, fit, fit_labels, progress, ranks)[0][0]


def measure_alike(
    models: Sequence[Model],
    images: Array,
    labels: Labels | None,
    method: Method,
    fit: Array | None,
    fit_labels: Labels | None,
    progress: bool,
    ranks: Ranks | None,
) -> tuple[list[Measurement], bool]:
    """Measure one model, or the two of `compare`, on common images; arguments as for `measure`.

    Returns: the measurements, and whether levels and noise were common draw by draw too.
    """
    if fit is None and fit_labels is not None:
        raise UserError("fit_labels was given without fit: give both or neither")
    if fit is not None and not method.needs_fit:
        raise UserError("images to fit on are given and nothing is fitted: name an estimator, a grid or a variance")
    limit, seed, batch = method.limit, method.seed, method.batch
    images = as_images(images, models[0].shape, "test")
    files = images.files and images.files[:limit] if isinstance(images, ImageData) else None
    images, labels = arrays_of(models[0], images, labels)
    if fit is not None:
        fit, fit_labels = arrays_of(models[0], fit, fit_labels)
    each = [labels_taken(model, labels) if len(models) > 1 else labels for model in models]
    for model, known in zip(models, each, strict=True):
        checked_model(model)
        if require_condition(model, known):
            log("measuring without labels or captions: every image under the model's learned null")
    images = checked_images(models[0], images, limit)
    if fit is not None:
        refuse_shared(images, checked_images(models[0], fit))
    began = time.monotonic()
    if len(models) == 1:
        ready = [prepare(models[0], method, fit, fit_labels)]
    else:
        ready = list(prepare_pair(models[0], models[1], method, fit, fit_labels))
    found = []
    for number, (prepared, known) in enumerate(zip(ready, each, strict=True)):
        model, estimator = prepared.model, prepared.estimator
        rank = None if ranks is None else ranks.here
        work = evaluate_batches(
            model, images, known, estimator=estimator, seed=seed, batch=batch, rank=rank, limit=limit
        )
        every = estimator.evaluations(model.num_levels, len(images), seed)
        if progress:
            processes = 1 if ranks is None else ranks.size
            label = "measuring" if number == 0 else "measuring the other model"
            work = track(work, label, -(-len(every) // (batch * processes)))
        batches = list(work)
        if ranks is not None and not ranks.alone:
            batches = [from_table(ranks.sum(to_table(batches, len(every))), every)]
        result = _with_tops(summarize(model, batches, seed, estimator), model, images, batch)
        found.append(replace(_described(result, prepared, time.monotonic() - began), files=files))
    return found, same_levels(ready[0].model, ready[-1].model)


def _with_tops(found: Measurement, model: Model, images: Tensor, batch: int) -> Measurement:
    """A cascade's figures with what each band's top level costs."""
    if not isinstance(model, Cascade):
        return found
    tops = torch.cat([model.band_tops(model.to_x(part)).cpu() for part in images.split(batch)])
    sizes = tuple(stage.shape[1:] for stage in stages_of(model))
    return replace(found, band_tops=tops, band_sizes=sizes)


def _described(found: Measurement, prepared: Prepared, seconds: float) -> Measurement:
    """The figures with how they were made."""
    model, levels, fitted = prepared.model, prepared.levels, prepared.fitted_on
    return replace(
        found,
        grid="all" if levels is None else prepared.grid,
        grid_levels=None if levels is None else tuple(levels.tolist()),
        reverse_variance=type(model.reverse).__name__.removesuffix("Variance").lower(),
        fit={"images": fitted, "network_calls": prepared.fit_calls} if fitted else None,
        precision=str(model.precision).removeprefix("torch."),
        device=str(model.device),
        seconds=seconds,
    )
