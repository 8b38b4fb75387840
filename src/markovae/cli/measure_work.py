"""The measuring itself, with progress on stderr."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from markovae.cli.measure_data import Chosen, labels_for, others, trained_on
from markovae.cli.measure_options import DEFAULT_BATCH, DEFAULT_DRAWS
from markovae.cli.running import Opened
from markovae.errors import UserError
from markovae.likelihood.comparison import Comparison, refuse_other_data
from markovae.likelihood.continuous import continuous_bound
from markovae.likelihood.estimators import finish, from_table, measuring, to_table
from markovae.likelihood.inputs import checked_images, checked_model, labels_taken, refuse_shared
from markovae.likelihood.measurement import Measurement
from markovae.likelihood.measuring import Method, Prepared, prepare, prepare_pair, same_levels
from markovae.likelihood.ode import (
    DormandPrince,
    OdeLikelihood,
    RungeKutta4,
    TruncatedNormalNoise,
    UniformNoise,
    ode_likelihood,
)
from markovae.log import log, track
from markovae.system.distributed import Ranks


@dataclass(frozen=True)
class Outcome:
    """All that one command measured.

    Args:
        opened: the run.   rival: the other one of --against.   chosen: the images.
        prepared: how it was measured.   measured: the bound.   comparison: with the rival's.
        continuous: the bound of infinitely many levels.   ode: the flow's likelihood.   seconds: in all.
    """

    opened: Opened
    rival: Opened | None
    chosen: Chosen
    prepared: Prepared
    measured: Measurement
    comparison: Comparison | None
    continuous: Measurement | None
    ode: OdeLikelihood | None
    seconds: float

    def record(self, options: argparse.Namespace) -> dict[str, Any]:
        """The JSON object."""
        made = self.measured.to_dict() if self.comparison is None else self.comparison.to_dict()
        made |= {
            "replicates": options.replicates,
            "grid": _grid(self.prepared),
            "reverse_variance": variance_word(self.prepared),
            "fit": _fit(self.prepared),
            "data": {"source": self.chosen.source, "split": self.chosen.split, "matches_run": self.chosen.matches},
            "checkpoint": _checkpoint(self.opened),
            "precision": self.opened.precision,
            "device": str(self.opened.model.device),
            "seconds": self.seconds,
        }
        if self.rival is not None:
            made["against"]["checkpoint"] = _checkpoint(self.rival)
        if self.continuous is not None:
            whole = self.continuous.to_dict()
            names = ("network_calls_per_example", "bits_per_dim", "nats", "terms_bits_per_dim")
            made["continuous"] = {name: whole[name] for name in names}
        if self.ode is not None:
            made["ode"] = self.ode.to_dict() | {"probes": options.probes, "dequantisation": options.dequantise}
        return made


def perform(opened: Opened, rival: Opened | None, chosen: Chosen, options: argparse.Namespace, ranks: Ranks) -> Outcome:
    """Fit, measure, compare, as the options ask; of several processes each measures its batches, and all learn all.

    Raises:
        UserError: for data that do not fit the models, or models that cannot be compared.
    """
    began = time.monotonic()
    images, labels = np.asarray(chosen.data.images[: options.limit]), _labels(opened, rival, chosen, options.limit)
    pair = _prepared(opened, rival, chosen, images, options)
    measured = [
        _measured(p, images, labels, options, ranks, "measuring" if i == 0 else "measuring the other run")
        for i, p in enumerate(pair)
    ]
    comparison = None
    if rival is not None:
        comparison = Comparison(measured[0], measured[1], same_levels(pair[0].model, pair[1].model))
    own = labels_taken(opened.model, labels)
    continuous = _continuous(opened, images, own, options) if options.continuous else None
    ode = _ode(opened, images, own, options) if options.ode else None
    seconds = time.monotonic() - began
    return Outcome(opened, rival, chosen, pair[0], measured[0], comparison, continuous, ode, seconds)


def method_of(options: argparse.Namespace) -> Method:
    """What the options ask for."""
    return Method(
        options.estimator,
        DEFAULT_DRAWS if options.draws == "all" else options.draws,
        options.replicates,
        options.levels,
        options.grid,
        options.variance,
    )


def variance_word(prepared: Prepared) -> str:
    """What the variance of the prior's steps is: step, posterior, isotropic, diagonal, learned or full."""
    return type(prepared.model.reverse).__name__.removesuffix("Variance").lower()


def _labels(opened: Opened, rival: Opened | None, chosen: Chosen, limit: int | None) -> Any:
    """The classes of the images, checked for every model that takes them."""
    if rival is not None and {bool(opened.num_classes), rival.model.text_conditioner is not None} == {True}:
        raise UserError(f"{opened.path} takes classes and {rival.path} captions: name them the other way round")
    both = chosen.data.labels is not None and opened.num_classes and rival is not None and rival.num_classes
    if rival is not None and both and opened.checkpoint.class_names != rival.checkpoint.class_names:
        raise UserError(f"{opened.path} and {rival.path} have different classes: measure each by itself")
    some = chosen.data.take(slice(0, limit))
    found = [labels_for(run, some) for run in (opened, rival) if run is not None]
    return next((labels for labels in found if labels is not None), None)


def _prepared(
    opened: Opened, rival: Opened | None, chosen: Chosen, images: Any, options: argparse.Namespace
) -> list[Prepared]:
    """The run, and the other one, made ready."""
    method, fit, fit_labels = method_of(options), None, None
    sized = {"seed": options.seed, "batch": options.batch or DEFAULT_BATCH}
    for run in (opened, rival):
        if run is not None:
            checked_model(run.model)
    if rival is not None:
        refuse_other_data(opened.model, rival.model)
        if options.data is None and chosen.splits is not None and not trained_on(chosen.splits, rival):
            log(f"{rival.path} may have been trained on images of this part")
    if method.needs_fit:
        other = others(chosen, opened, options.data is None, options.fit_images)
        fit, fit_labels = other.images, _labels(opened, rival, Chosen(other, "", "", None, chosen.splits), None)
        refuse_shared(checked_images(opened.model, images), checked_images(opened.model, fit))
        log(f"fitting on {len(other):,} other images")
    if rival is None:
        return [prepare(opened.model, method, fit, labels_taken(opened.model, fit_labels), **sized)]
    return list(prepare_pair(opened.model, rival.model, method, fit, fit_labels, **sized))


def _measured(
    prepared: Prepared, images: Any, labels: Any, options: argparse.Namespace, ranks: Ranks, label: str
) -> Measurement:
    model, estimator, batch = prepared.model, prepared.estimator, options.batch or DEFAULT_BATCH
    given = labels_taken(model, labels)
    work = measuring(model, images, given, estimator=estimator, seed=options.seed, batch=batch, place=ranks.place)
    task = estimator.task(model.num_levels, len(images), options.seed)
    drawn = list(track(work, label, -(-len(task) // (batch * ranks.size))))
    if not ranks.alone:
        drawn = [from_table(ranks.sum(to_table(drawn, len(task))), task)]
    return finish(model, drawn, options.seed, estimator)


def _continuous(opened: Opened, images: Any, labels: Any, options: argparse.Namespace) -> Measurement:
    log("measuring the bound of infinitely many levels")
    draws = DEFAULT_DRAWS if options.draws == "all" else options.draws
    batch = options.batch or DEFAULT_BATCH
    return continuous_bound(opened.model, images, labels, draws=draws, seed=options.seed, batch=batch)


def _ode(opened: Opened, images: Any, labels: Any, options: argparse.Namespace) -> OdeLikelihood:
    images = images[: options.ode_images]
    log(f"measuring the likelihood of the flow: {len(images):,} images")
    first = opened.model.schedule.logsnr.detach()[1]
    distribution = (
        UniformNoise() if options.dequantise == "uniform" else TruncatedNormalNoise(float((-first / 2).exp()))
    )
    return ode_likelihood(
        opened.model,
        images,
        None if labels is None else labels[: options.ode_images],
        integrator=DormandPrince() if options.ode_steps is None else RungeKutta4(options.ode_steps),
        probes=None if options.probes == "exact" else options.probes,
        dequantisation=distribution,
        seed=options.seed,
        batch=options.batch or DEFAULT_BATCH,
    )


def _grid(prepared: Prepared) -> dict[str, Any]:
    levels = prepared.levels
    return {"kind": "all" if levels is None else prepared.grid, "levels": None if levels is None else levels.tolist()}


def _fit(prepared: Prepared) -> dict[str, int] | None:
    if not prepared.fitted_on:
        return None
    return {"images": prepared.fitted_on, "network_calls": prepared.fit_calls}


def _checkpoint(opened: Opened) -> dict[str, Any]:
    made = opened.checkpoint
    return {"path": str(made.path), "step": made.step, "digest": made.digest}
