"""Each row holds as it stands, and fails when one per cent is planted in what it is about."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch

from markovae.theory import CHECKS
from markovae.theory.categorical import Categorical
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


# Row, the formula, and what is done to its result.
PLANTS: list[tuple[str, str, Change]] = [
    ("generate.mean", "chains.linear.LinearStep.given", part("mean")),
    ("generate.covariance", "chains.linear.LinearStep.given", part("covariance")),
    ("learned-encoder", "vae.forms.e2", term(1)),
    ("learned-encoder", "vae.forms.e3", term(1)),
    ("e1", "vae.forms.e1", term(0)),
    ("e1", "vae.forms.e1", term(1)),
    ("e1", "vae.forms.e1", term(5)),
    ("e1", "chains.categorical.Categorical.log_prob", scaled),
    ("e2", "vae.forms.e2", term(0)),
    ("e2", "vae.forms.e2", term(2)),
    ("bound.letters", "chains.categorical.CategoricalChain.path_kl", scaled),
    ("bound.letters", "vae.forms.e6", term(3)),
    ("bound.absorbing", "chains.categorical.categorical_entropy", scaled),
    ("bound.vectors", "chains.expected.path_kl", scaled),
    ("bound.vectors", "chains.expected._cost", scaled),
    ("exact.letters", "chains.categorical.categorical_entropy", scaled),
    ("exact.letters", "vae.forms.e6", term(2)),
    ("exact.vectors", "chains.linear.LinearStep.reverse", part("covariance")),
    ("exact.vectors", "chains.linear.Moments.entropy", scaled),
    ("bits", "vae.bound.Bound.bits_per_dim", part("value")),
    ("markov", "vae.forms.encoder_given_data", part("mean")),
    ("markov", "vae.forms.encoder_given_data", part("covariance")),
    ("e3", "vae.forms.e3", term(0)),
    ("e3", "vae.forms.e3", term(1)),
    ("e3", "vae.forms.encoder_given_data", lambda law: mixed(law) if isinstance(law, Categorical) else law),
    ("bayes.letters", "chains.categorical.CategoricalChain.marginal", mixed),
    ("bayes.letters", "chains.categorical.CategoricalChain.posterior", mixed),
    ("e4", "vae.forms.e4", term(1)),
    ("e4", "vae.forms.e4", term(2)),
    ("e4", "chains.categorical.CategoricalChain.posterior", mixed),
    ("e5", "vae.forms.e5", term(0)),
    ("e5", "vae.forms.e5", term(1)),
    ("e5", "vae.forms.e5", term(3)),
    ("e5", "chains.categorical.CategoricalChain.posterior", mixed),
    ("e5.mean", "vae.forms.e5", term(1)),
    ("e5.mean", "chains.categorical.Categorical.kl", scaled),
    ("e6.letters", "vae.forms.e6", term(0)),
    ("e6.letters", "vae.forms.e6", term(1)),
    ("e6.letters", "vae.forms.e6", term(4)),
    ("e6.letters", "vae.forms.divergence", scaled),
    ("e6.absorbing", "vae.forms.divergence", scaled),
    ("e6.vectors", "chains.expected._kl", scaled),
    ("e6.vectors", "chains.expected.expected_e1", scaled),
    ("density", "gaussian.Gaussian.log_prob", scaled),
    ("kl", "gaussian.Gaussian.kl", scaled),
    ("density.full", "gaussian.FullGaussian.log_prob", scaled),
    ("density.full", "gaussian.FullGaussian.kl", scaled),
    ("scales", "forward.signal_scale", scaled),
    ("scales", "forward.noise_scale", scaled),
    ("step.unit", "forward.step_alpha", scaled),
    ("step.unit", "forward.step_variance", scaled),
    ("step.digits", "forward.step_variance", scaled),
    ("marginal", "forward.step", part("mean")),
    ("marginal", "forward.step", part("variance")),
    ("marginal", "forward.marginal", part("mean")),
    ("marginal", "forward.marginal", part("variance")),
    ("marginal", "forward.signal_scale", scaled),
    ("marginal", "forward.noise_scale", scaled),
    ("marginal.powers", "forward.marginal", part("mean")),
    ("marginal.powers", "schedule.logsnr_of_log_signal", scaled),
    ("marginal.draw", "forward.noised", scaled),
    ("marginal.draw", "forward.noise_scale", scaled),
    ("endpoint.lecture", "endpoint.endpoint_levels", more),
    ("endpoint.lecture", "endpoint._log_ratio", lambda ratio: ratio * 101 / 100),
    ("endpoint.tie", "endpoint.endpoint_levels", more),
    ("endpoint.rational", "endpoint.endpoint_levels", more),
    ("endpoint.sigma", "endpoint.endpoint_sigma", scaled),
    ("schedule.linear", "schedule.logsnr_of_log_signal", scaled),
    ("schedule.cosine", "schedule.logsnr_of_log_signal", scaled),
    ("schedule.logsnr", "schedule.LogSNRLinear.at", scaled),
    ("clock", "schedule.time", scaled),
    ("process.marginal", "sde.logsnr_at", scaled),
    ("process.transition", "sde.transition", part("mean")),
    ("process.transition", "sde.transition", part("variance")),
    ("process.chain", "sde.transition", part("mean")),
    ("process.chain", "forward.step_variance", scaled),
    ("process.euler", "sde.euler", part("mean")),
    ("process.euler", "sde.euler", part("variance")),
    ("process.simulated", "sde.moments_at", part(0)),
    ("process.simulated", "sde.moments_at", part(1)),
    ("process.order", "sde.euler_moments", part(0)),
    ("process.order", "sde.euler_moments", part(1)),
    ("reverse.drift", "sde.reverse_euler", part("mean")),
    ("reverse.drift", "toys.law.Toy.score", scaled),
    ("reverse.order", "sde.reverse_moments", part(1)),
    ("reverse.std", "forward.posterior_variance", scaled),
    ("reverse.shift", "forward.posterior_coefficients", part(1)),
    ("reverse.shift", "forward.posterior_coefficients", part(0)),
    ("step.order.plain", "quadrature.slope", scaled),
    ("step.order.mean", "quadrature.slope", scaled),
    ("step.order.full", "quadrature.slope", scaled),
    ("step.constant.plain", "gaps.steps.leading_divergences", scaled),
    ("step.constant.mean", "gaps.steps.leading_divergences", scaled),
    ("step.constant.full", "gaps.steps.leading_divergences", scaled),
    ("score", "sde.score_of", lambda score: lambda z, logsnr: 1.01 * score(z, logsnr)),
    ("score", "toys.mixture.MixtureLaw.mean", scaled),
    ("flow.drift", "sde.flow_drift", scaled),
    ("flow.quantiles", "sde.flow_drift", scaled),
    ("vp.clock", "sde.LinearVP.time", scaled),
    ("vp.steps", "sde.LinearVP.euler_steps", scaled),
    ("continuous", "sde.continuous_nats", scaled),
    ("continuous", "toys.information.information", scaled),
    ("continuous.gaussian", "gaps.laws.gaussian_levels", scaled),
    ("continuous.gaussian", "sde.continuous_nats", scaled),
    ("variance.kept", "forward.step_variance", scaled),
    ("variance.other", "forward.step_alpha", scaled),
    ("variance.unit-interval", "sde.moments_at", part(1)),
    ("mean.onto-sample", "regression.affine.on_previous", part("weight")),
    ("mean.onto-sample", "regression.affine.on_mean", part("offset")),
    ("mean.scatter", "target.mean.spread", scaled),
    ("posterior.narrower", "forward.posterior_variance", scaled),
    ("model.forms", "diffusion.Diffusion.posterior", part("mean")),
    ("model.forms", "diffusion.Diffusion.posterior", part("variance")),
    ("model.forms", "diffusion.Diffusion.marginal", part("variance")),
    ("model.prior", "diffusion.Diffusion.prior_nats", scaled),
    ("model.prior", "gaussian.Gaussian.kl", scaled),
    ("model.level", "reverse.base.IndependentVariance.kl", scaled),
    ("model.bound", "reverse.base.IndependentVariance.kl", scaled),
    ("mean.from-noise", "regression.affine.on_step_noise", part("weight")),
    ("mean.from-noise", "regression.affine.on_step_noise", part("offset")),
    ("map.noise", "target.noise.pair", part(1)),
    ("map.data", "target.data.pair", part(0)),
    ("map.velocity", "target.velocity.pair", part(0)),
    ("map.velocity", "target.velocity.pair", part(1)),
    ("map.score", "target.score.pair", part(1)),
    ("map.step-noise", "target.step_noise.pair", part(1)),
    ("map.mean", "target.mean.pair", part(0)),
    ("map.mean", "target.mean.pair", part(1)),
    ("rho", "target.noise_ratio", part(0)),
    ("rho", "target.noise_ratio", part(1)),
    ("raw-targets", "target.one_step_noise", scaled),
    ("raw-targets", "target.mean.spread", scaled),
    ("raw-targets", "target.mean.pair", part(1)),
    ("noise.onto-mean", "regression.affine.on_step_noise", part("weight")),
    ("noise.onto-mean", "target.step_noise.pair", part(1)),
    ("noise.scatter", "target.step_noise.spread", scaled),
    ("noise.scatter", "target.step_noise.pair", part(1)),
    ("noise.sampled", "regression.affine.on_step_noise", part("weight")),
    ("noise.sampled", "target.step_noise.pair", part(1)),
    ("targets.denoiser", "target.Target.to_x", scaled),
    ("targets.nats", "target.Target.of_x", scaled),
    ("draw", "objective.literal_draw", part("noise")),
    ("draw", "objective.literal_draw", part("fresh")),
    ("level-kl", "gaussian.Gaussian.kl", scaled),
    ("level-kl", "forward.posterior", part("mean")),
    ("bayes", "forward.posterior", part("mean")),
    ("bayes", "forward.posterior_variance", scaled),
    ("bayes", "forward.step_variance", scaled),
    ("posterior", "forward.posterior", part("mean")),
    ("posterior", "forward.posterior_coefficients", part(0)),
    ("posterior", "forward.posterior_coefficients", part(1)),
    ("posterior", "forward.posterior_variance", scaled),
    ("posterior.width", "forward.posterior_variance", scaled),
    ("weights", "objective.nats_weight", scaled),
    ("gradient.output", "regression.scales.output_ratio", scaled),
    ("gradient.parameters", "regression.scales.parameter_ratio", scaled),
    ("gradient.raw", "regression.scales.noise_loss_gradient", part(0, tilted)),
    ("gradient.mean", "regression.scales.noise_loss_gradient", part(1, tilted)),
    ("gradient.mu", "regression.scales.mean_loss_gradient", part(0)),
    ("decoder.width", "decoder.gaussian.StepDecoder.scale", scaled),
    ("decoder.density", "decoder.density.DensityDecoder.distribution", part("variance")),
    ("decoder.large", "decoder.gaussian.HoLargeDecoder.scale", scaled),
    ("decoder.small", "decoder.gaussian.HoSmallDecoder.scale", scaled),
    ("decoder.small", "forward.posterior_variance", scaled),
    ("decoder.sum", "decoder.discretised.DiscretisedGaussian.log_probs", scaled),
    ("decoder.mass", "decoder.discretised.log_difference", scaled),
    ("decoder.mass", "pixels.Pixels.half_width", scaled),
    ("decoder.tail", "decoder.discretised.DiscretisedGaussian.log_probs", scaled),
    ("decoder.softmax", "decoder.softmax.SoftmaxBins.log_probs", scaled),
    ("pixels.ends", "pixels.Pixels.half_width", scaled),
    ("pixels.ends", "pixels.Pixels.to_x", scaled),
    ("pixels.centres", "pixels.Pixels.to_x", scaled),
    *[
        (f"gap.exact.{grid}.{name}", where, scaled)
        for grid in ("even", "constant")
        for name, where in (
            ("step", "reverse.base.StepVariance.variance"),
            ("posterior", "reverse.base.PosteriorVariance.variance"),
            ("isotropic", "reverse.fitted.IsotropicVariance.variance"),
            ("level_diagonal", "reverse.fitted.DiagonalVariance.variance"),
            ("diagonal", "reverse.learned.LearnedVariance.variance"),
            ("full", "reverse.full.FullVariance.kl"),
        )
    ],
    *[
        (f"gap.exact.{grid}.{name}", "gaps.laws.gaussian_exact", part(name))
        for grid in ("even", "constant")
        for name in ("step", "posterior", "isotropic", "level_diagonal", "diagonal")
    ],
    *[
        (f"gap.law.{data}.{name}", f"gaps.laws.{name}_law", scaled)
        for data, names in (
            ("gaussian", ("step", "posterior", "isotropic", "level_diagonal", "diagonal")),
            ("mixture", ("step", "posterior", "isotropic", "full")),
        )
        for name in names
    ],
    ("gap.slope.posterior", "quadrature.slope", scaled),
    ("gap.slope.isotropic", "quadrature.slope", scaled),
    ("gap.slope.full", "quadrature.slope", scaled),
    ("gap.slope.constant", "quadrature.slope", scaled),
    ("gap.trap.smooth", "gaps.limits.smooth_gap", scaled),
    ("gap.trap.points", "gaps.limits.point_gap", scaled),
    ("exact.mixture", "forward.posterior_variance", scaled),
    ("exact.mixture", "toys.law.Toy.log_prob", scaled),
    ("exact.digits", "forward.posterior_coefficients", part(1)),
    ("i-mmse", "toys.information.mean_error", scaled),
    ("i-mmse", "toys.information.nats_of_error", scaled),
    ("i-mmse.point", "toys.information.point_error", scaled),
]


def check_of(row: str) -> Check:
    (found,) = [check for check in CHECKS if row in [line.name for line in check.lines]]
    return found


def passes(row: str) -> bool:
    (found,) = [each for each in check_of(row).rows() if each.name == row]
    return found.passed


def test_every_row_has_a_plant() -> None:
    assert {row for row, _, _ in PLANTS} == {line.name for check in CHECKS for line in check.lines}


@pytest.mark.parametrize(("row", "where", "change"), PLANTS, ids=[f"{row}-{where}" for row, where, _ in PLANTS])
def test_one_per_cent_makes_the_row_fail(
    row: str, where: str, change: Change, plant: Callable[[str, Change], None]
) -> None:
    plant(where, change)
    assert not passes(row)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.lines[0].name)
def test_every_row_holds(check: Check) -> None:
    assert not [row for row in check.rows() if not row.passed]
