"""Oddness: an order, p-values and a false discovery rate, of known scores; and ranks of a model's own images."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import markovae as mv
from markovae.data.image_codecs import predictive_bits
from markovae.data.images import ImageData
from markovae.errors import UserError
from markovae.likelihood.anomalies import AnomalyRanking, ScoredImages, rank_anomalies
from markovae.likelihood.measuring import measure
from markovae.randomness import generator


def scored(score: torch.Tensor, bands: torch.Tensor | None = None) -> ScoredImages:
    """Images of these scores beyond 100 bits of complexity."""
    bands = torch.randn(len(score), 4, generator=generator(0, "bands"), dtype=torch.float64) if bands is None else bands
    return ScoredImages(score + 100, torch.full_like(score, 100), bands)


def ranking(score: torch.Tensor, heldout: torch.Tensor, **parts: object) -> AnomalyRanking:
    ends = torch.tensor([[4.0, 1.0], [1.0, -1.0], [-1.0, -3.0], [-3.0, -5.0]])
    return AnomalyRanking(scored(score), scored(heldout), ends, 64, 4, 0, 5, **parts)


def test_p_values_are_uniform_under_the_models_own_images():
    heldout, score = torch.randn(2, 999, generator=generator(1, "scores"), dtype=torch.float64)
    p = ranking(score, heldout).p_value
    assert float(p.min()) >= 1 / 1000
    assert float((p <= 0.1).double().mean()) == pytest.approx(0.1, abs=0.03)
    assert ranking(score, heldout).flagged <= 3


def test_what_is_odd_comes_first_and_is_counted():
    heldout = torch.randn(999, generator=generator(2, "scores"), dtype=torch.float64)
    score = torch.cat([torch.zeros(40, dtype=torch.float64), torch.full((10,), 9.0, dtype=torch.float64)])
    found = ranking(score, heldout, files=[f"{number}.png" for number in range(50)])
    assert sorted(found.order[:10].tolist()) == list(range(40, 50))
    assert found.flagged == 10
    rows = found.rows()
    assert [row["rank"] for row in rows] == list(range(1, 51))
    assert rows[0]["file"] == f"{rows[0]['image']}.png"
    assert rows[0]["p_value"] == 1 / 1000
    assert rows[0]["score_bits_per_dim"] == pytest.approx(9 / 64)
    assert [row["file"] for row in csv.DictReader(io.StringIO(found.to_csv()))] == [row["file"] for row in rows]
    assert "10 odd" in repr(found)
    assert found._repr_html_().count("<tr>") == 10


def test_the_band_where_an_image_is_unusual_is_told():
    bands = torch.randn(500, 4, generator=generator(3, "bands"), dtype=torch.float64) * torch.tensor([1.0, 2, 3, 4])
    odd = torch.tensor([[0.0, 0.0, 30.0, 0.0]], dtype=torch.float64)
    zero = torch.zeros(500, dtype=torch.float64)
    found = AnomalyRanking(scored(zero[:1], odd), scored(zero, bands), torch.zeros(4, 2), 64, 4, 0, 5)
    assert found.band_deviations[0].abs().argmax() == 2
    assert float(found.band_deviations[0, 2]) == pytest.approx(10, rel=0.1)


def test_scores_are_the_bound_less_the_complexity(tiny_model, tiny_data: ImageData):
    images, labels = tiny_data.images, tiny_data.labels
    found = rank_anomalies(tiny_model, images, images, labels, labels, draws=3, seed=2, limit=5)
    own = measure(tiny_model, images, labels, draws=3, seed=2, limit=5)
    torch.testing.assert_close(found.images.bits * np.log(2), own.total, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.images.bands.sum(1), own.levels)
    assert found.images.complexity.tolist() == predictive_bits(images[:5]).tolist()
    again = mv.rank_anomalies(tiny_model, tiny_data, images, labels, labels, draws=3, seed=2, limit=5)
    assert {**again.to_dict(), "seconds": 0} == {**found.to_dict(), "seconds": 0}
    json.dumps(found.to_dict(), allow_nan=False)


def test_files_are_named_in_python_too(tiny_model, tiny_data: ImageData):
    files = tuple(f"{number}.png" for number in range(len(tiny_data)))
    named = replace(tiny_data, files=files)
    ranked = rank_anomalies(tiny_model, named, tiny_data, draws=1, limit=3)
    assert {row["file"] for row in ranked.rows()} == set(files[:3])
    measured = measure(tiny_model, named, draws=1, limit=3)
    assert [row["file"] for row in measured.rows()] == list(files[:3])


def test_what_gives_no_ranks_is_one_sentence(tiny_model, tiny_data: ImageData, gauss):
    with pytest.raises(UserError, match="at least 20 are needed"):
        rank_anomalies(tiny_model, tiny_data.images[:5], tiny_data.images[5:9])
    with pytest.raises(UserError, match="densities have no bits"):
        rank_anomalies(gauss.model(), torch.zeros(30, 4), torch.zeros(30, 4))
