"""Each row holds as it stands, and fails when one per cent is planted in what it is about."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch

from markovae.theory.categorical import Categorical
from markovae.theory.checks import CHECKS
from markovae.theory.rows import Check

Change = Callable[[Any], Any]


def scaled(value: Any) -> Any:
    """1.01 times the value."""
    return value * 1.01


def less(value: Any) -> Any:
    """0.99 times the value."""
    return value * 0.99


def part(which: int | str, change: Change = scaled) -> Change:
    """One part of a tuple, or one field of a dataclass, through `change`."""

    def changed(value: Any) -> Any:
        if isinstance(which, str):
            assert is_dataclass(value)
            assert which in [field.name for field in fields(value)]
            return replace(value, **{which: change(getattr(value, which))})
        parts = [change(v) if i == which else v for i, v in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)

    return changed


def term(column: int) -> Change:
    """One term of a form of the bound."""

    def changed(form: Any) -> Any:
        terms = form.terms.clone()
        terms[:, column] = 1.01 * terms[:, column]
        return replace(form, terms=terms)

    return changed


def more(value: int) -> int:
    """One per cent more, and at least one more."""
    return value + max(1, value // 100)


def mixed(law: Categorical) -> Categorical:
    """One per cent of the probability spread over all letters."""
    return Categorical(0.99 * law.probability + 0.01 / law.probability.shape[1])


def tilted(values: torch.Tensor) -> torch.Tensor:
    """From nothing at the first level to one per cent more at the last."""
    return values * torch.linspace(1, 1.01, len(values), dtype=values.dtype)


# Rows of one check, the formulas, of which each row feels its own alone or all the same one, and what is done to their
# results. One computation shows that all of the rows fail.
PLANTS: list[tuple[str, str, Change]] = [
    ("generate.mean", "theory.linear.LinearStep.given", part("mean")),
    ("generate.covariance", "theory.linear.LinearStep.given", part("covariance")),
    ("learned-encoder", "diffusion.forms.e2", term(1)),
    ("learned-encoder", "diffusion.forms.e3", term(1)),
    ("e1", "diffusion.forms.e1", term(0)),
    ("e1", "diffusion.forms.e1", term(1)),
    ("e1", "diffusion.forms.e1", term(5)),
    ("e1", "theory.categorical.Categorical.log_prob", scaled),
    ("e2", "diffusion.forms.e2", term(0)),
    ("e2", "diffusion.forms.e2", term(2)),
    ("bound.letters", "theory.categorical.CategoricalChain.path_kl", scaled),
    ("bound.letters", "diffusion.forms.e6", term(3)),
    ("bound.absorbing", "theory.categorical.categorical_entropy", scaled),
    ("bound.vectors", "theory.linear.path_kl", scaled),
    ("bound.vectors", "theory.linear._cost", scaled),
    ("exact.letters", "theory.categorical.categorical_entropy", scaled),
    ("exact.letters", "diffusion.forms.e6", term(2)),
    ("exact.vectors", "theory.linear.LinearStep.reverse", part("covariance")),
    ("exact.vectors", "theory.linear.Moments.entropy", scaled),
    ("bits", "diffusion.bound.Bound.bits_per_dim", part("value")),
    ("markov", "diffusion.forms.encoder_given_data", part("mean")),
    ("markov", "diffusion.forms.encoder_given_data", part("covariance")),
    ("e3", "diffusion.forms.e3", term(0)),
    ("e3", "diffusion.forms.e3", term(1)),
    ("e3", "diffusion.forms.encoder_given_data", lambda law: mixed(law) if isinstance(law, Categorical) else law),
    ("bayes.letters", "theory.categorical.CategoricalChain.marginal", mixed),
    ("bayes.letters", "theory.categorical.CategoricalChain.posterior", mixed),
    ("e4", "diffusion.forms.e4", term(1)),
    ("e4", "diffusion.forms.e4", term(2)),
    ("e4", "theory.categorical.CategoricalChain.posterior", mixed),
    ("e5", "diffusion.forms.e5", term(0)),
    ("e5", "diffusion.forms.e5", term(1)),
    ("e5", "diffusion.forms.e5", term(3)),
    ("e5", "theory.categorical.CategoricalChain.posterior", mixed),
    ("e5.mean", "diffusion.forms.e5", term(1)),
    ("e5.mean", "theory.categorical.Categorical.kl", scaled),
    ("e6.letters", "diffusion.forms.e6", term(0)),
    ("e6.letters", "diffusion.forms.e6", term(1)),
    ("e6.letters", "diffusion.forms.e6", term(4)),
    ("e6.letters", "diffusion.forms.divergence", scaled),
    ("e6.absorbing", "diffusion.forms.divergence", scaled),
    ("e6.vectors", "theory.linear._kl", scaled),
    ("e6.vectors", "theory.linear.expected_e1", scaled),
    ("density", "diffusion.gaussian.Gaussian.log_prob", scaled),
    ("kl", "diffusion.gaussian.Gaussian.kl", scaled),
    ("density.full", "diffusion.gaussian.FullGaussian.log_prob", scaled),
    ("density.full", "diffusion.gaussian.FullGaussian.kl", scaled),
    ("scales", "diffusion.forward.signal_scale", scaled),
    ("scales", "diffusion.forward.noise_scale", scaled),
    ("step.unit", "diffusion.forward.step_alpha", scaled),
    ("step.unit", "diffusion.forward.step_variance", scaled),
    ("step.digits", "diffusion.forward.step_variance", scaled),
    ("marginal", "diffusion.forward.step", part("mean")),
    ("marginal", "diffusion.forward.step", part("variance")),
    ("marginal", "diffusion.forward.marginal", part("mean")),
    ("marginal", "diffusion.forward.marginal", part("variance")),
    ("marginal", "diffusion.forward.signal_scale", scaled),
    ("marginal", "diffusion.forward.noise_scale", scaled),
    ("marginal.powers", "diffusion.forward.marginal", part("mean")),
    ("marginal.powers", "diffusion.schedule.logsnr_of_log_signal", scaled),
    ("marginal.draw", "diffusion.forward.noised", scaled),
    ("marginal.draw", "diffusion.forward.noise_scale", scaled),
    ("endpoint.lecture", "diffusion.schedule.endpoint_levels", more),
    ("endpoint.lecture", "diffusion.schedule._log_ratio", lambda ratio: ratio * 101 / 100),
    ("endpoint.tie", "diffusion.schedule.endpoint_levels", more),
    ("endpoint.rational", "diffusion.schedule.endpoint_levels", more),
    ("endpoint.sigma", "diffusion.schedule.endpoint_sigma", scaled),
    ("schedule.linear", "diffusion.schedule.logsnr_of_log_signal", scaled),
    ("schedule.cosine", "diffusion.schedule.logsnr_of_log_signal", scaled),
    ("schedule.logsnr", "diffusion.schedule.LogSNRLinear.at", scaled),
    ("clock", "diffusion.schedule.time", scaled),
    ("process.marginal", "theory.sde.logsnr_at", scaled),
    ("process.transition", "theory.sde.transition", part("mean")),
    ("process.transition", "theory.sde.transition", part("variance")),
    ("process.chain", "theory.sde.transition", part("mean")),
    ("process.chain", "diffusion.forward.step_variance", scaled),
    ("process.euler", "theory.sde.euler", part("mean")),
    ("process.euler", "theory.sde.euler", part("variance")),
    ("process.simulated", "theory.sde.moments_at", part(0)),
    ("process.simulated", "theory.sde.moments_at", part(1)),
    ("process.order", "theory.sde.euler_moments", part(0)),
    ("process.order", "theory.sde.euler_moments", part(1)),
    ("reverse.drift", "theory.sde.reverse_euler", part("mean")),
    ("reverse.drift", "theory.mixture.Toy.score", scaled),
    ("reverse.order", "theory.sde.reverse_moments", part(1)),
    ("reverse.std", "diffusion.forward.posterior_variance", scaled),
    ("reverse.shift", "diffusion.forward.posterior_coefficients", part(1)),
    ("reverse.shift", "diffusion.forward.posterior_coefficients", part(0)),
    ("step.order.plain step.order.mean step.order.full", "theory.quadrature.slope", scaled),
    ("step.constant.plain step.constant.mean step.constant.full", "theory.gaps.leading_divergences", scaled),
    ("score", "theory.sde.score_of", lambda score: lambda z, logsnr: 1.01 * score(z, logsnr)),
    ("score", "theory.mixture.MixtureDistribution.mean", scaled),
    ("flow.drift", "theory.sde.flow_drift", scaled),
    ("flow.quantiles", "theory.sde.flow_drift", scaled),
    ("vp.clock", "theory.sde.LinearVP.time", scaled),
    ("vp.steps", "theory.sde.LinearVP.euler_steps", scaled),
    ("continuous", "theory.sde.continuous_nats", scaled),
    ("continuous", "theory.information.information", scaled),
    ("continuous.gaussian", "theory.gaps.gaussian_levels", scaled),
    ("continuous.gaussian", "theory.sde.continuous_nats", scaled),
    ("variance.kept", "diffusion.forward.step_variance", scaled),
    ("variance.other", "diffusion.forward.step_alpha", scaled),
    ("variance.unit-interval", "theory.sde.moments_at", part(1)),
    ("mean.onto-sample", "theory.regression.on_previous", part("weight")),
    ("mean.onto-sample", "theory.regression.on_mean", part("offset")),
    ("mean.scatter", "target.mean.spread", scaled),
    ("posterior.narrower", "diffusion.forward.posterior_variance", scaled),
    ("model.forms", "diffusion.model.Diffusion.posterior", part("mean")),
    ("model.forms", "diffusion.model.Diffusion.posterior", part("variance")),
    ("model.forms", "diffusion.model.Diffusion.marginal", part("variance")),
    ("model.prior", "diffusion.model.Diffusion.prior_nats", scaled),
    ("model.prior", "diffusion.gaussian.Gaussian.kl", scaled),
    ("model.level", "diffusion.reverse.IndependentVariance.kl", scaled),
    ("model.bound", "diffusion.reverse.IndependentVariance.kl", scaled),
    ("mean.from-noise", "theory.regression.on_step_noise", part("weight")),
    ("mean.from-noise", "theory.regression.on_step_noise", part("offset")),
    ("map.noise", "target.noise.pair", part(1)),
    ("map.data", "target.data.pair", part(0)),
    ("map.velocity", "target.velocity.pair", part(0)),
    ("map.velocity", "target.velocity.pair", part(1)),
    ("map.flow", "target.flow.pair", part(0)),
    ("map.flow", "target.flow.pair", part(1)),
    ("flow-matching", "target.flow.pair", part(0)),
    ("flow-matching", "diffusion.forward.noised", scaled),
    ("map.score", "target.score.pair", part(1)),
    ("map.step-noise", "target.step_noise.pair", part(1)),
    ("map.mean", "target.mean.pair", part(0)),
    ("map.mean", "target.mean.pair", part(1)),
    ("rho", "diffusion.target.noise_ratio", part(0)),
    ("rho", "diffusion.target.noise_ratio", part(1)),
    ("raw-targets", "diffusion.target.one_step_noise", scaled),
    ("raw-targets", "target.mean.spread", scaled),
    ("raw-targets", "target.mean.pair", part(1)),
    ("noise.onto-mean", "theory.regression.on_step_noise", part("weight")),
    ("noise.onto-mean", "target.step_noise.pair", part(1)),
    ("noise.scatter", "target.step_noise.spread", scaled),
    ("noise.scatter", "target.step_noise.pair", part(1)),
    ("noise.sampled", "theory.regression.on_step_noise", part("weight")),
    ("noise.sampled", "target.step_noise.pair", part(1)),
    ("targets.denoiser", "diffusion.target.Target.to_x", scaled),
    ("targets.nats", "diffusion.target.Target.of_x", scaled),
    ("draw", "diffusion.objective.literal_sample", part("noise")),
    ("draw", "diffusion.objective.literal_sample", part("fresh")),
    ("level-kl", "diffusion.gaussian.Gaussian.kl", scaled),
    ("level-kl", "diffusion.forward.posterior", part("mean")),
    ("rao-blackwell.mean rao-blackwell.variance", "diffusion.gaussian.Gaussian.kl", scaled),
    ("rao-blackwell.ratio", "diffusion.gaussian.Gaussian.kl", scaled),
    ("bayes", "diffusion.forward.posterior", part("mean")),
    ("bayes", "diffusion.forward.posterior_variance", scaled),
    ("bayes", "diffusion.forward.step_variance", scaled),
    ("posterior", "diffusion.forward.posterior", part("mean")),
    ("posterior", "diffusion.forward.posterior_coefficients", part(0)),
    ("posterior", "diffusion.forward.posterior_coefficients", part(1)),
    ("posterior", "diffusion.forward.posterior_variance", scaled),
    ("posterior.width", "diffusion.forward.posterior_variance", scaled),
    ("weights", "diffusion.objective.nats_weight", scaled),
    ("gradient.output", "theory.regression.output_ratio", scaled),
    ("gradient.parameters", "theory.regression.parameter_ratio", scaled),
    ("gradient.raw", "theory.regression.noise_loss_gradient", part(0, tilted)),
    ("gradient.mean", "theory.regression.noise_loss_gradient", part(1, tilted)),
    ("gradient.mu", "theory.regression.mean_loss_gradient", part(0)),
    ("decoder.width", "diffusion.decoder.StepDecoder.scale", scaled),
    ("decoder.density", "diffusion.decoder.DensityDecoder.distribution", part("variance")),
    ("decoder.large", "diffusion.decoder.HoLargeDecoder.scale", scaled),
    ("decoder.small", "diffusion.decoder.HoSmallDecoder.scale", scaled),
    ("decoder.small", "diffusion.forward.posterior_variance", scaled),
    ("decoder.sum", "diffusion.decoder.DiscretisedGaussian.log_probs", scaled),
    ("decoder.mass", "diffusion.decoder.log_difference", scaled),
    ("decoder.mass", "diffusion.pixels.Pixels.half_width", scaled),
    ("decoder.tail", "diffusion.decoder.DiscretisedGaussian.log_probs", scaled),
    ("decoder.softmax", "diffusion.decoder.SoftmaxBins.log_probs", scaled),
    ("pixels.ends", "diffusion.pixels.Pixels.half_width", scaled),
    ("pixels.ends pixels.centres", "diffusion.pixels.Pixels.to_x", scaled),
    *[
        (f"gap.exact.{grid}.{name}", where, scaled)
        for grid in ("even", "constant")
        for name, where in (
            ("step", "diffusion.reverse.StepVariance.variance"),
            ("posterior", "diffusion.reverse.PosteriorVariance.variance"),
            ("isotropic", "diffusion.reverse.IsotropicVariance.variance"),
            ("level_diagonal", "diffusion.reverse.DiagonalVariance.variance"),
            ("diagonal", "diffusion.reverse.LearnedVariance.variance"),
            ("full", "diffusion.reverse.FullVariance.kl"),
        )
    ],
    *[
        (f"gap.exact.{grid}.{name}", "theory.gaps.gaussian_exact", part(name))
        for grid in ("even", "constant")
        for name in ("step", "posterior", "isotropic", "level_diagonal", "diagonal")
    ],
    *[
        (
            " ".join(f"gap.law.{data}.{name}" for name in names),
            " ".join(f"theory.gaps.{name}_law" for name in names),
            scaled,
        )
        for data, names in (
            ("gaussian", ("step", "posterior", "isotropic", "level_diagonal", "diagonal")),
            ("mixture", ("step", "posterior", "isotropic", "full")),
        )
    ],
    ("gap.slope.posterior gap.slope.isotropic gap.slope.full", "theory.quadrature.slope", scaled),
    ("gap.slope.constant", "theory.quadrature.slope", scaled),
    ("gap.trap.smooth", "theory.gaps.smooth_gap", scaled),
    ("gap.trap.points", "theory.gaps.point_gap", scaled),
    ("exact.mixture", "diffusion.forward.posterior_variance", scaled),
    ("exact.mixture", "theory.mixture.Toy.log_prob", scaled),
    ("exact.digits", "diffusion.forward.posterior_coefficients", part(1)),
    ("i-mmse", "theory.information.mean_error", scaled),
    ("i-mmse", "theory.information.nats_of_error", scaled),
    ("i-mmse.point", "theory.information.point_error", scaled),
]


def failing(row: str) -> set[str]:
    """The rows of the check that has this one which do not hold."""
    (check,) = [check for check in CHECKS if row in [line.name for line in check.lines]]
    return {each.name for each in check.rows() if not each.passed}


def test_every_row_has_a_plant() -> None:
    planted = {row for rows, _, _ in PLANTS for row in rows.split()}
    assert planted == {line.name for check in CHECKS for line in check.lines}


@pytest.mark.parametrize(("rows", "where", "change"), PLANTS, ids=[f"{rows}-{where}" for rows, where, _ in PLANTS])
def test_one_per_cent_makes_the_rows_fail(
    rows: str, where: str, change: Change, plant: Callable[[str, Change], None]
) -> None:
    for formula in where.split():
        plant(formula, change)
    assert set(rows.split()) <= failing(rows.split()[0])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.lines[0].name)
def test_every_row_holds(check: Check) -> None:
    assert not failing(check.lines[0].name)
