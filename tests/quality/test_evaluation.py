"""A model assessed end to end, and records compared or refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import markovae as mv
from markovae.build import create
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.data.split import Splits
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.quality.evaluation import evaluate, given_samples, reference_for
from markovae.quality.extractors import open_extractor
from markovae.quality.quality_record import Conditions, Quality, compare
from markovae.sampling.generation import sample
from markovae.sampling.guidance import Guidance
from markovae.sampling.plans import plan


@pytest.fixture(scope="module")
def found(tiny_config: Config, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Quality:
    """Of `tiny_model`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKOVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return evaluate(create(tiny_config, splits.train.shape, num_classes=2), splits, 12, steps=3)


def test_a_record_holds_its_conditions_and_its_figures(found: Quality, tiny_model: Diffusion, splits: Splits) -> None:
    shown = found.conditions
    assert (shown.n, shown.steps, shown.seed, shown.sampler) == (12, 3, 0, "sde-dpmpp2m")
    assert (shown.extractor, shown.extractor_sha256) == ("small", open_extractor().digest)
    assert (shown.reference_n, shown.resize) == (70, "bicubic-antialiased-stretched-1")
    assert found.kid_excess.value == pytest.approx(found.kid.value - found.kid_floor.value, rel=1e-6)
    # An untrained model is far off, and the floor is where real images are.
    assert found.kid.value - 4 * found.kid.stderr > found.kid_floor.value
    assert abs(found.kid_floor.value) < 4 * found.kid_floor.stderr
    assert found.frechet > found.frechet_floor > 0
    assert found.memorization.searched == 120
    assert repr(found).startswith("Quality(KID ")
    assert "\n" not in repr(found)
    assert found._repr_html_().count("<tr>") == 8
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["conditions"]["n"] == 12
    assert evaluate(tiny_model, splits, 12, steps=3).to_dict() == found.to_dict()


def replace_files(splits: Splits) -> Splits:
    files = tuple(f"{number}.jpg" for number in range(len(splits.train)))
    return Splits(replace(splits.train, files=files), splits.validation, splits.test, splits.method)


def test_samples_are_evaluated_whoever_drew_them(splits: Splits, tmp_path: Path) -> None:
    real = np.asarray(splits.train.images[-20:])
    same = evaluate(real, splits)
    assert same.conditions.sampler is None
    assert abs(same.kid_excess.value) < 4 * same.kid_excess.stderr
    assert same.memorization.copies == 20
    assert evaluate(torch.from_numpy(real), splits).to_dict() == same.to_dict()
    np.savez(tmp_path / "samples.npz", real.transpose(0, 2, 3, 1))
    for number, image in enumerate(real):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(image[0]).save(tmp_path / "pictures" / f"{number:02d}.png")
    for source in (tmp_path, tmp_path / "samples.npz"):
        assert evaluate(source, splits).to_dict() == same.to_dict()
    named = evaluate(str(tmp_path / "pictures"), replace_files(splits)).to_dict()
    pairs, plain = named["memorisation"].pop("nearest"), same.to_dict()
    assert [(pair["file"], pair["train_file"]) for pair in pairs] == [
        (f"{pair.sample:02d}.png", f"{pair.train_index}.jpg") for pair in same.memorization.nearest
    ]
    assert [pair.train_index for pair in same.memorization.nearest] == list(range(100, 110))
    plain["memorisation"].pop("nearest")
    assert named == plain
    assert evaluate(tmp_path, splits, 12).conditions.n == 12


def test_more_samples_than_training_images_are_measured_as_far_as_the_floor_goes(
    splits: Splits, capsys: pytest.CaptureFixture[str]
) -> None:
    """pytorch-fid issue 42, clean-fid issue 66: a folder against itself; the parts of the data are fewer than it."""
    real = np.concatenate([part.images for part in (splits.train, splits.validation, splits.test)])
    found = evaluate(real, splits, progress=False)
    assert found.conditions.n == len(splits.train) < len(real)
    assert f"{len(splits.train)} of the {len(real)} samples are measured, chosen at random" in capsys.readouterr().err
    assert all(pair.file == f"sample {pair.sample}" or pair.file for pair in found.memorization.nearest)


def test_samples_of_another_kind_are_refused(splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not compare"):
        evaluate(np.zeros((20, 3, 4, 4), np.uint8), splits)
    with pytest.raises(UserError, match="whole pixel values below 256"):
        evaluate(np.zeros((20, 1, 4, 4), np.float32), splits)
    for side in (4, 5):
        Image.fromarray(np.full((side, side), side, np.uint8)).save(tmp_path / f"{side}.png")
    with pytest.raises(UserError, match="images of 2 sizes"):
        evaluate(tmp_path, splits)


def test_a_folder_of_large_samples_is_not_resized(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 70, 80)).astype(np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number:02d}.png")
    assert np.array_equal(given_samples(tmp_path).images[:, 0], images)


def test_a_plan_is_a_sampler_and_a_source_is_brought_to_the_model(
    tiny_model: Diffusion, splits, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", np.asarray(splits.train.images[:, 0]))
    named = evaluate(tiny_model, tmp_path / "images.npy", 12, sampler="ddim", steps=3, spacing="levels")
    made = plan(tiny_model, "ddim", 3, "levels")
    by_plan = evaluate(tiny_model, str(tmp_path / "images.npy"), 12, sampler=made, guidance=Guidance())
    assert named.conditions.spacing == "levels"
    assert (named.kid, named.conditions.steps) == (by_plan.kid, by_plan.conditions.steps)


def test_conditions_that_differ_are_refused_before_anything_is_drawn(
    found: Quality, tiny_model: Diffusion, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = found.to_dict()
    assert evaluate(tiny_model, splits, 12, steps=3, comparable_to=record).to_dict() == record
    monkeypatch.setattr("markovae.quality.evaluation.sample", lambda *_, **__: pytest.fail("it was drawn"))
    with pytest.raises(UserError, match=r"differ in steps \(2 and 3\)"):
        evaluate(tiny_model, splits, 12, steps=2, comparable_to=record)


def test_data_of_another_kind_are_refused(tiny_model: Diffusion, splits: Splits) -> None:
    parts = [replace(p, bins=17, images=p.images // 16) for p in (splits.train, splits.validation, splits.test)]
    with pytest.raises(UserError, match=r"halves has images of .* with 17 values per pixel"):
        evaluate(tiny_model, Splits(*parts, "by hand"), 12, steps=3)


def test_equal_records_compare_and_others_name_what_differs(found: Quality) -> None:
    less = compare(found, found)
    assert less.value == 0
    assert less.stderr == pytest.approx(2**0.5 * found.kid.stderr)
    for name in Conditions.__dataclass_fields__:
        changed = found.to_dict()
        changed["conditions"] = {**changed["conditions"], name: "another"}
        with pytest.raises(UserError, match=rf"differ in {name} \("):
            compare(found, changed)
        assert compare(found, changed, varying=[name]).value == 0


@pytest.mark.parametrize("record", [{}, {"schema_version": 1, "conditions": {}}, [], {"kid": {}, "conditions": {}}])
def test_what_is_no_record_is_refused(found: Quality, record: object) -> None:
    with pytest.raises(UserError, match="no quality record"):
        compare(found, record)


def test_a_record_without_a_distance_and_an_unknown_condition_are_refused(found: Quality) -> None:
    empty = found.to_dict() | {"kid": {"value": None, "stderr": None}}
    with pytest.raises(UserError, match="no KID"):
        compare(found, empty)
    with pytest.raises(UserError, match="'colour' is no condition"):
        compare(found, found, varying=["colour"])


def test_the_public_names() -> None:
    assert mv.evaluate is evaluate
    assert mv.Quality is Quality


def test_samples_of_a_model_of_captions_are_given_those_of_the_stand_ins(text_model, splits):
    told = ("bright at the left", "bright at the right")

    def captioned(part: ImageData) -> ImageData:
        return replace(part, captions=tuple(told[label] for label in part.labels), labels=None, class_names=())

    data = Splits(*(captioned(part) for part in (splits.train, splits.validation, splits.test)), "by hand")
    real = reference_for(text_model, data, 30)
    prompts = [told[int(image[0, :, 2:].mean() > image[0, :, :2].mean())] for image in real.floor_samples]
    drawn = sample(text_model, 30, steps=3, sampler="ddim", prompt=prompts, guidance=1, batch=30)
    assert evaluate(text_model, data, 30, steps=3, sampler="ddim", batch=30).kid == evaluate(drawn, data).kid


def test_a_model_of_captions_is_measured_on_images_without_any(text_model: Diffusion, splits: Splits, capsys) -> None:
    assert evaluate(text_model, splits, 12, steps=2, progress=False).conditions.n == 12
    assert "halves has no captions: samples are drawn without any" in capsys.readouterr().err
    text_model.null_trained = False
    with pytest.raises(UserError, match="has no captions"):
        reference_for(text_model, splits, 12)
