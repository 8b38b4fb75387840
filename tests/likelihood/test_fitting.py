"""Reverse variances by name, and the fit: one pass over training images, for every grid."""

import pytest
import torch
from torch import nn

from markovae.data.images import ImageData
from markovae.diffusion.decoder import DensityDecoder, StepDecoder
from markovae.diffusion.fitted_variance import fitted_tensors, is_fitted_kind, load_fitted, variance_named
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA
from markovae.errors import UserError
from markovae.likelihood.fitting import fit_reverse, with_reverse
from markovae.likelihood.measuring import measure
from markovae.randomness import generator

SPREAD = torch.tensor([0.05, 0.3, 1.0, 0.6], dtype=torch.float64)


class Wiener(nn.Module):
    """The exact denoiser of independent Gaussian coordinates of unequal spread, times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def forward(self, z, logsnr, condition=None):
        a, s = signal_scale(logsnr)[:, None], noise_scale(logsnr)[:, None]
        return self.factor * a * SPREAD**2 / (a**2 * SPREAD**2 + s**2) * z


def gaussian(levels: int = 40, factor: float = 0.9) -> Diffusion:
    model = Diffusion(
        Wiener(factor), LogSNRLinear(levels, 8.0, -8.0), DATA, PosteriorVariance(), DensityDecoder(), (4,)
    )
    model.precision = torch.float64
    return model


def data(n: int, seed: int) -> torch.Tensor:
    return SPREAD * torch.randn(n, 4, generator=generator(seed, "fitting"), dtype=torch.float64)


def test_each_variance_can_stand_in_for_another_and_the_bound_falls_as_it_knows_more():
    x, other, plain = data(200, 0), data(2000, 1), gaussian(factor=1.0)
    levels = {"step": with_reverse(plain, "step"), "posterior": plain, "full": with_reverse(plain, "full")}
    levels |= {kind: with_reverse(plain, kind, other, batch=4096) for kind in ("isotropic", "diagonal")}
    nats = {kind: float(measure(model, x, draws=None, batch=4096).levels.mean()) for kind, model in levels.items()}
    assert nats["diagonal"] < nats["isotropic"] < nats["posterior"]
    # Coordinates that are independent Gaussians: the diagonal is the whole covariance.
    assert nats["diagonal"] == pytest.approx(nats["full"], rel=1e-3)
    assert isinstance(plain.reverse, PosteriorVariance)
    assert all(model.network is plain.network for model in levels.values())


@pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
def test_one_fit_serves_every_sub_grid(kind):
    """On 9 of 40 levels: within 1 % of the least expected nats, ½ Σ ln(1 + Δγ e), with the exact errors."""
    model = with_reverse(gaussian(), kind, data(2000, 1), batch=4096)
    few = model.on_grid(model.schedule.subgrid(9))
    logsnr = few.schedule.logsnr[1:]
    a2, s2, power = torch.sigmoid(logsnr)[:, None], torch.sigmoid(-logsnr)[:, None], SPREAD**2
    gain = 0.9 * power / (a2 * power + s2)
    error = (1 - gain * a2) ** 2 * power + gain**2 * a2 * s2
    error = error if kind == "diagonal" else error.mean(1, keepdim=True).expand_as(error)
    steps = (logsnr[:-1].exp() - logsnr[1:].exp())[:, None]
    expected = float((0.5 * torch.log1p(steps * error[1:])).sum())
    assert float(measure(few, data(3000, 2), draws=None, batch=4096).levels.mean()) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("count", [3, 20])
def test_few_images_are_enough_to_fit(tiny_model, tiny_data: ImageData, count: int):
    model = with_reverse(tiny_model, "isotropic", tiny_data.images[:count], tiny_data.labels[:count])
    assert float(measure(model, tiny_data.images, tiny_data.labels, draws=4).nats.value) > 0


@pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
def test_a_fit_is_kept_and_taken_bit_for_bit(kind):
    model = with_reverse(gaussian(), kind, data(300, 1))
    other = gaussian().with_reverse(variance_named(kind, (4,)))
    assert fitted_tensors(other) == {}
    load_fitted(other, {})
    with pytest.raises(UserError, match="not fitted yet"):
        measure(other, data(3, 0))
    kept = fitted_tensors(model)
    assert set(kept) == {"reverse.errors.logsnr", "reverse.errors.error"}
    load_fitted(other, kept)
    x = data(20, 0)
    assert torch.equal(measure(other, x).total, measure(model, x).total)
    load_fitted(other, {})
    assert fitted_tensors(other) == {}


def test_tables_of_another_model_are_refused():
    kept = fitted_tensors(with_reverse(gaussian(), "isotropic", data(300, 1)))
    diagonal = gaussian().with_reverse(variance_named("diagonal", (4,)))
    with pytest.raises(ValueError, match=r"'reverse\.errors\.error' has shape \(65,\), not \(65, 4\)"):
        load_fitted(diagonal, kept)
    with pytest.raises(ValueError, match=r"'reverse\.errors\.error' is none of this reverse variance"):
        load_fitted(gaussian(), kept)
    with pytest.raises(ValueError, match=r"'reverse\.errors\.logsnr' is missing"):
        load_fitted(diagonal, {"reverse.errors.error": kept["reverse.errors.error"]})


def test_what_makes_no_sense_is_one_sentence():
    plain = gaussian()
    with pytest.raises(UserError, match="isotropic reverse variance is fitted to images: give training images"):
        with_reverse(plain, "isotropic")
    with pytest.raises(UserError, match="step reverse variance is not fitted to images: leave them out"):
        with_reverse(plain, "step", data(3, 0))
    with pytest.raises(UserError, match="'isotrop' is unknown: take one of posterior, step"):
        with_reverse(plain, "isotrop", data(3, 0))
    large = Diffusion(Wiener(), LogSNRLinear(9), DATA, PosteriorVariance(), StepDecoder(Pixels()), (3, 32, 32))
    with pytest.raises(UserError, match="these images have 3,072: 1,024 is the limit"):
        with_reverse(large, "full")
    assert not is_fitted_kind(plain)
    with pytest.raises(UserError, match="not fitted to images"):
        fit_reverse(plain, data(3, 0))
