"""The judge of faces: what it learns, what it counts, and the command end to end on a few faces."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from markovae.data.faces import attributes, values
from markovae.data.faceset import render

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.mark.slow
def test_the_judge_learns_what_faces_show_and_is_kept(monkeypatch):
    import attributes as judging

    recipe = judging.JudgeRecipe(faces=48, steps=60, batch=32, width=8)
    judge = judging.judge_of(recipe)
    numbers = range(recipe.first, recipe.first + recipe.faces)
    truth = judging.labels_of([attributes(number) for number in numbers])
    pictures = np.stack([render(number, 32) for number in numbers])
    found = judging.accuracies(judge.tell(pictures), truth)
    assert found["background"]["mean"] > 0.9
    assert found["shirt"]["mean"] > 0.7
    features = judge.features(pictures)
    torch.testing.assert_close(features.mean(1), torch.zeros(48), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.var(1, unbiased=False), torch.ones(48), atol=1e-2, rtol=0)
    assert torch.equal(judge.tell_by(features), judge.tell(pictures))
    monkeypatch.setattr(judging, "trained", None)
    again = judging.judge_of(recipe)
    assert torch.equal(again.tell(pictures), judge.tell(pictures))
    assert judging.judge_of(recipe).digest == judge.digest


def test_labels_are_places_of_words():
    import attributes as judging

    faces = [attributes(number) for number in range(20)]
    for face, row in zip(faces, judging.labels_of(faces).tolist(), strict=True):
        assert {name: words[i] for (name, words), i in zip(values().items(), row, strict=True)} == {
            name: getattr(face, name) for name in values()
        }


def test_shares_and_confusions_are_counted():
    import attributes as judging

    share = judging.share(torch.tensor([True, True, True, False]))
    assert share == {"mean": 0.75, "stderr": pytest.approx(0.25)}
    truth = torch.tensor([[0], [0], [1], [2], [2]])
    told = torch.tensor([[0], [1], [1], [0], [0]])
    assert judging.confusions(told, truth, {"shape": ("ball", "box", "cone")}) == [
        {"attribute": "shape", "shown": "cone", "told": "ball", "times": 2, "of": 2},
        {"attribute": "shape", "shown": "ball", "told": "box", "times": 1, "of": 2},
    ]


def test_spoilt_images_are_what_they_are_called():
    import attributes as judging

    grey = np.full((4, 3, 32, 32), 120, np.uint8)
    dot = grey.copy()
    dot[:, :, 10, 10] = 156
    found = judging.spoilt(dot)
    assert float((found["noise of 13 grey values"].astype(float) - dot).std()) == pytest.approx(13, rel=0.03)
    assert np.array_equal(found["blur"][0, 0, 9:12, 9:12], 120 + np.outer([1, 4, 1], [1, 4, 1]))
    assert np.array_equal(judging.spoilt(grey)["blur"], grey)


def test_the_command_writes_a_record(tmp_path, monkeypatch):
    import attributes as judging

    monkeypatch.setattr(judging, "face_numbers", lambda size: ([0], [1], list(range(100, 130))))
    out = tmp_path / "a" / "attributes.json"
    judging.main(["--out", str(out), "--n", "25", "--faces", "8", "--steps", "2", "--width", "8"])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["n"] == 25
    assert list(record["accuracy"]) == list(values())
    wrong = {name: 25 * (1 - found["mean"]) for name, found in record["accuracy"].items()}
    for name, count in wrong.items():
        assert sum(c["times"] for c in record["confusions"] if c["attribute"] == name) == round(count)
