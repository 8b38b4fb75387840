"""The curve of rate and distortion, and its pictures."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.training.test_cascade_training import cascade, images

import markovae as mv
from markovae.data.loading import load_data
from markovae.data.pictures import viewable
from markovae.likelihood.measuring import measure
from markovae.report.curves import COLUMNS, rate_curve
from markovae.report.image_sheets import extreme_facts, pictured, sheet


@pytest.fixture(scope="module")
def way(digits_run):
    test = load_data("digits").test
    return rate_curve(mv.load(digits_run), test.images[:40], test.labels[:40], 2)


def test_the_curve_runs_from_noise_to_the_exact_image(way):
    curve = way.to_dict()
    assert curve[0]["level"] == 50
    assert curve[-1] == {"level": 0, "logsnr": None, "bits_per_dim": way.points[-1].rate_bits_per_dim, "rmse": 0.0}
    assert all(a["bits_per_dim"] <= b["bits_per_dim"] for a, b in pairwise(curve))
    assert all(a["level"] > b["level"] for a, b in pairwise(curve))


def test_its_end_is_the_bound(digits_run, way):
    test = load_data("digits").test
    measured = measure(mv.load(digits_run), test.images[:40], test.labels[:40], draws=None)
    assert way.points[-1].rate_bits_per_dim == pytest.approx(measured.bits_per_dim.value, rel=0.05)


def test_pictures_end_with_the_images_themselves(way):
    assert 3 <= len(way.shown) == len(way.pictures) <= COLUMNS
    assert way.shown[-1].level == 0
    assert np.array_equal(way.pictures[-1], viewable(load_data("digits").test.images[:2], 17))
    far, near = (
        np.abs(picture.astype(float) - way.pictures[-1]).mean() for picture in (way.pictures[0], way.pictures[-2])
    )
    assert near < far


def test_extremes_are_in_one_list_only_and_carry_their_figures(digits_run):
    test = load_data("digits").test
    measured = measure(mv.load(digits_run), test.images[:7], test.labels[:7], draws=None)
    facts = extreme_facts(measured, 9)
    assert [len(rows) for rows in facts.values()] == [3, 3]
    places = [[row["image"] for row in rows] for rows in facts.values()]
    assert not set(places[0]) & set(places[1])
    bits = measured.total / 64 / math.log(2)
    assert facts["cheapest"][0]["bits_per_dim"] == float(bits.min())
    assert facts["dearest"][0]["bits_per_dim"] == float(bits.max())
    pictures = pictured(test.images, facts, 17)
    assert np.array_equal(pictures["dearest"], viewable(test.images[places[1]], 17))
    assert sheet(test.images, places[0], 17).shape[0] >= 256


def test_a_report_shows_a_cascades_curve_in_full_size():
    model = cascade("cascade.stages=3", side=32, num_classes=2)
    curve = rate_curve(model, images(24, 32), torch.arange(24) % 2, 2)
    assert curve.points[-1].level == 0
    assert len(curve.shown) == len(curve.pictures)
    assert {picture.shape for picture in curve.pictures} == {(2, 32, 32, 3)}
