"""The measurement's table and extremes, and what a randomization more tells."""

import csv
import io
import math
from dataclasses import replace

import pytest
import torch

from markovae.diffusion.decoder import StepDecoder
from markovae.diffusion.pixels import Pixels
from markovae.errors import UserError
from markovae.likelihood.estimators import Estimator, LevelDistribution, evaluate_batches, summarize
from markovae.likelihood.measurement import level_table
from markovae.likelihood.measuring import measure
from markovae.randomness import generator


def digits(n: int) -> torch.Tensor:
    return torch.randint(256, (n, 4), generator=generator(0, "digits"))


def test_every_image_has_one_row(gauss):
    measured = measure(gauss.model(decoder=StepDecoder(Pixels())), digits(7))
    rows = list(csv.DictReader(io.StringIO(measured.to_csv())))
    assert [int(r["image"]) for r in rows] == list(range(7))
    for row, total in zip(rows, measured.total.tolist(), strict=True):
        terms = sum(float(row[f"{name}_nats"]) for name in ("prior", "levels", "reconstruction"))
        assert float(row["total_nats"]) == total
        assert terms == pytest.approx(total)
        assert float(row["bits_per_dim"]) == pytest.approx(total / 4 / math.log(2))
    density = measure(gauss.model(), gauss.data(2, generator(0, "x")))
    assert "bits_per_dim" not in density.rows()[0]


def test_extremes_are_the_ends_of_the_order(gauss):
    measured = measure(gauss.model(decoder=StepDecoder(Pixels())), digits(9))
    most, least = measured.extremes(2)
    assert float(measured.total[most[0]]) == float(measured.total.min())
    assert float(measured.total[least[0]]) == float(measured.total.max())
    assert float(measured.total[least[0]]) > float(measured.total[least[1]]) > float(measured.total[most[1]])


@pytest.mark.parametrize("draws", [None, 5])
def test_randomizations_average_to_the_figure(gauss, draws):
    x = gauss.data(30, generator(0, "x"))
    measured = measure(gauss.model(), x, draws=draws, replicates=3)
    assert measured.randomizations.shape == (30, 3)
    torch.testing.assert_close(measured.randomizations.mean(1), measured.total)
    assert not torch.equal(measured.randomizations[:, 0], measured.randomizations[:, 1])
    first = measure(gauss.model(), x, draws=draws)
    torch.testing.assert_close(measured.randomizations[:, 0], first.total)
    assert measured.noise_nats.value == pytest.approx(measured.density_nats.value)
    assert 0 < measured.noise_nats.stderr < measured.density_nats.stderr
    assert measured.to_dict()["noise_stderr_nats"] == measured.noise_nats.stderr
    assert measured.network_calls_per_example == 3 * (33 if draws is None else 6)
    with pytest.raises(UserError, match="replicates >= 2"):
        _ = first.noise_nats


def test_importance_is_named_and_unbiased(gauss):
    model = gauss.model(factor=0.9)
    other, _ = gauss.table(model, gauss.data(500, generator(1, "x")), generator(1, "n"))
    x = gauss.data(1500, generator(0, "x"))
    estimator = Estimator(6, LevelDistribution.importance((other**2).mean(0)))
    measured = summarize(model, list(evaluate_batches(model, x, estimator=estimator)), 0, estimator)
    assert measured.estimator == "importance"
    assert measured.density_nats.value == pytest.approx(gauss.truth(model), abs=4 * measured.density_nats.stderr)
    assert measure(model, x[:2], draws=None).to_dict()["estimator"] == "every level"


def test_a_distribution_of_another_grid_is_refused(gauss):
    x = gauss.data(2, generator(0, "x"))
    with pytest.raises(UserError, match="distribution over 17 levels"):
        list(evaluate_batches(gauss.model(), x, estimator=Estimator(distribution=LevelDistribution.uniform(17))))


def test_broken_weights_and_digits_are_one_sentence(gauss):
    broken = gauss.model(factor=math.nan)
    with pytest.raises(UserError, match="'factor' hold NaN"):
        measure(broken, gauss.data(2, generator(0, "x")))
    coarse = gauss.model(decoder=StepDecoder(Pixels(16)))
    with pytest.raises(UserError, match="declares 16 bins"):
        measure(coarse, digits(5))
    with pytest.raises(UserError, match="replicates=0"):
        measure(gauss.model(), gauss.data(2, generator(0, "x")), replicates=0)


def test_one_level_is_a_chain_too(gauss):
    measured = measure(gauss.model(), gauss.data(3, generator(0, "x")), levels=1)
    assert not measured.levels.any()
    assert measured.per_level == ()
    assert measured.network_calls_per_example == 1


def test_a_levels_error_is_over_images_not_over_their_draws(gauss):
    """Each image's draws moved together: the error of the mean is that of the images' own means."""
    image = torch.arange(30).repeat(4)
    level = torch.full((120,), 2)
    offset = torch.randn(30, generator=generator(0, "offset"), dtype=torch.float64)
    nats = offset[image] + 0.01 * torch.randn(120, generator=generator(1, "offset"), dtype=torch.float64)
    (row,) = level_table(image, level, nats, torch.linspace(3, -3, 4))
    each = nats.reshape(4, 30).mean(0)
    assert (row.nats, row.draws) == (pytest.approx(float(nats.mean())), 120)
    assert row.stderr == pytest.approx(float(each.std()) / math.sqrt(30), rel=1e-9)
    (alone,) = level_table(image[:1].repeat(4), level[:4], nats[:4], torch.linspace(3, -3, 4))
    assert math.isnan(alone.stderr)
    (usual,) = level_table(torch.arange(120), level, nats, torch.linspace(3, -3, 4))
    assert usual.stderr == pytest.approx(float(nats.std()) / math.sqrt(120), rel=1e-9)


def test_unequal_draws_make_a_ratio_whose_error_is_calibrated():
    """Images drawn one to three times a level: over many repetitions the stated error is the one found."""
    random = generator(2, "ratio")
    found, stated = [], []
    for _ in range(400):
        count = torch.randint(1, 4, (40,), generator=random)
        own = torch.randn(40, generator=random, dtype=torch.float64)
        image = torch.arange(40).repeat_interleave(count)
        nats = own[image] + 0.3 * torch.randn(len(image), generator=random, dtype=torch.float64)
        (row,) = level_table(image, torch.full_like(image, 2), nats, torch.linspace(3, -3, 4))
        found.append(row.nats)
        stated.append(row.stderr)
    spread = float(torch.tensor(found).std())
    assert sum(stated) / len(stated) == pytest.approx(spread, rel=0.12)


def test_one_image_of_two_draws_has_one_degree_of_freedom(gauss):
    repeats = torch.tensor([[108.97550972695163, 101.24722901973557]], dtype=torch.float64)
    measured = replace(measure(gauss.model(), gauss.data(1, generator(0, "x"))), randomizations=repeats)
    assert measured.noise_nats.dof == pytest.approx(1.0)
    assert math.isfinite(measured.noise_nats.ci95[0])
