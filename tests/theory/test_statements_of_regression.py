"""Each statement holds as it stands, and breaks when one per cent is planted in what it is about."""

from dataclasses import replace

import pytest
import torch

from markovae.diffusion import forward
from markovae.diffusion.gaussian import Gaussian
from markovae.theory import target_statements as statements
from markovae.theory.regression import Affine

# Statement, and what to multiply by 1.01 (in statements, or in `forward`) so that it fails.
EXACT = {
    "endpoint_at_a_tie": None,
    "endpoint_against_rationals": None,
    "sigma_of_the_lecture": "endpoint_sigma",
    "steps_make_the_marginal": "forward.marginal",
    "bayes_rule": "forward.posterior",
    "posterior_moments": "forward.posterior",
    "level_kl": "forward.posterior",
    "mean_onto_a_sample": "on_mean",
    "noise_onto_a_sample": "on_step_noise",
    "mean_from_noise": "on_step_noise",
    "six_targets_one_denoiser": "TARGETS",
    "six_targets_one_nats": "TARGETS",
    "chain_makes_the_raw_targets": "one_step_noise",
    "output_gradients": "output_ratio",
    "parameter_gradients": "parameter_ratio",
    "mean_gradients_fall": "noise_loss_gradient",
    "mean_loss_is_the_noise_loss": "mean_loss_gradient",
}


def holds(pair: tuple[float, float], tolerance: float = 1e-9) -> bool:
    expected, measured = pair
    return abs(measured - expected) <= tolerance * (1 + abs(expected))


def scaled(value):
    if isinstance(value, Affine):
        return Affine(1.01 * value.weight, value.offset)
    if isinstance(value, Gaussian):
        return Gaussian(1.01 * value.mean, value.variance)
    if isinstance(value, tuple):
        return type(value)(
            *(v * (1.01 if i % 2 == 0 else torch.linspace(1, 1.01, len(v))) for i, v in enumerate(value))
        )
    return 1.01 * value


@pytest.mark.parametrize("name", EXACT)
def test_statements_hold_to_rounding(name: str) -> None:
    assert holds(getattr(statements, name)())


@pytest.mark.parametrize(("name", "place"), [(n, p) for n, p in EXACT.items() if p])
def test_one_per_cent_in_the_formula_breaks_the_statement(
    name: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "TARGETS":
        first, *rest = statements.TARGETS
        # To the map and not to its inverse: the network would be told one thing and read as another.
        off = replace(first, pair=lambda *levels: (first.pair(*levels)[0] + 0.01, first.pair(*levels)[1]))

        class Crooked:
            name = first.name
            of_x, pair = staticmethod(first.of_x), staticmethod(first.pair)
            to_x = staticmethod(off.to_x)

        monkeypatch.setattr(statements, "TARGETS", (Crooked(), *rest))
    else:
        home = forward if place.startswith("forward.") else statements
        right = getattr(home, place.removeprefix("forward."))
        monkeypatch.setattr(home, place.removeprefix("forward."), lambda *a, **k: scaled(right(*a, **k)))
    assert not holds(getattr(statements, name)())


def test_an_endpoint_one_level_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = statements.endpoint_levels
    for off in (-1, 1):
        monkeypatch.setattr(statements, "endpoint_levels", lambda *a, off=off: max(1, right(*a) + off))
        assert statements.endpoint_against_rationals(50)[1] > 25
        assert not holds(statements.endpoint_at_a_tie())


def test_sampled_targets_lie_within_four_predicted_standard_errors() -> None:
    assert statements.sampled_targets()[1] < 4


def test_raw_gradients_keep_one_scale_within_four_per_cent() -> None:
    expected, measured = statements.raw_gradients_are_equal()
    assert measured == pytest.approx(expected, abs=0.04)
