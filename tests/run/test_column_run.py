"""Runs on the columns of a table: what is said, bitwise resume, changed cells, sampling, measuring, editing."""

import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

from markovae.build import create
from markovae.checkpoints.manifest import CheckpointError
from markovae.checkpoints.reading import load, open_checkpoint
from markovae.checkpoints.saving import save
from markovae.config import Config
from markovae.data.loading import load_data
from markovae.errors import UserError
from markovae.likelihood.caption_information import shared_nats
from markovae.likelihood.column_information import column_information
from markovae.likelihood.estimators import Estimator
from markovae.likelihood.measuring import measure
from markovae.report.report_writing import write_report
from markovae.run.start import resume_run, train_run
from markovae.sampling.editing import edit
from markovae.sampling.generation import sample
from markovae.text.conditioner import attach_conditioning

from .test_together import distance, tensors

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty images of 8x8 pixels; light says how bright, hair is black or red, boxes are nothing to go by."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    rows = ["file_name,light,hair,number"]
    for i in range(40):
        light = int(rng.integers(50, 250))
        pixels = np.clip(rng.normal(light, 3, (8, 8)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        rows.append(f"{i:02d}.png,{light if i % 9 else ''},{'red' if i % 3 else 'black'},photo {i}")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def config(tiny_config: Config, photos: Path) -> Config:
    settings = ["data.size=8", "condition.columns=[light, hair]", "train.keep_every=6", "train.steps=12"]
    return tiny_config.with_settings([f"data.source={photos}", *settings])


def test_a_run_on_columns_is_told_resumed_bitwise_and_loaded(config: Config, tmp_path: Path, capsys):
    run = train_run(config, tmp_path / "run")
    said = capsys.readouterr().err
    assert "columns condition the model: light (" in said
    assert " missing; hair (black, red)" in said
    kept = open_checkpoint(run).config.condition
    assert kept.columns == ("light", "hair")
    known = kept.known
    assert known is not None
    train = load_data(config.data).train
    light = np.array([float(cell) for cell in train.columns["light"] if cell is not None])
    assert abs(known["light"].mean - light.mean()) < 1e-9
    assert abs(known["light"].std - light.std()) < 1e-9
    model = load(run)
    assert model.columns == known
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    shutil.rmtree(cut / "checkpoints" / "step-00000012")
    resume_run(cut)
    one, other = tensors(run), tensors(cut)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_of_columns_is_used(config: Config, tmp_path: Path, capsys):
    data = load_data(config.data)
    model = create(config, data.train)
    assert model.columns is not None
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    draw = [sample(model, 2, steps=2, where=where) for where in (None, {"light": 60}, {"light": "60"}, {"light": 200})]
    assert not np.array_equal(draw[0], draw[1])
    assert np.array_equal(draw[1], draw[2])
    assert not np.array_equal(draw[1], draw[3])
    both = sample(model, 2, steps=2, where={"light": [60, 200]})
    assert np.array_equal(both, np.stack([draw[1][0], draw[3][1]]))
    assert np.array_equal(sample(model, 2, steps=2, where={"light": None}), draw[0])
    sample(model, 1, steps=2, where={"light": 1000})
    assert "light=1000 lies outside of what training has seen" in capsys.readouterr().err
    own = measure(model, data.test, draws=4)
    bare = measure(model, data.test.images, draws=4)
    assert own.bits_per_dim.value != bare.bits_per_dim.value
    made = [edit(model, data.test.images[0], from_level=0.5, n=1, steps=2, where=w).images for w in ({"light": 50}, {})]
    assert not np.array_equal(*made)
    path = save(model, tmp_path / "kept")
    assert load(path).columns == model.columns
    again = sample(load(path), 2, steps=2, where={"light": 60})
    assert np.array_equal(again, draw[1])


def test_columns_are_weighed_each_alone_and_beyond_the_others(config: Config):
    data = load_data(config.data)
    model = create(config, data.train)
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    found = column_information(model, data.train, candidates=4, draws=2, limit=16)
    light, hair = found.columns
    assert (len(light.alone), len(hair.alone)) == (sum(c is not None for c in data.train.columns["light"][:16]), 16)
    # With two columns, alone and beyond add up to what both say, image by image.
    rows = torch.tensor([c is not None for c in data.train.columns["light"][:16]])
    both = (found.without - found.given)[rows]
    assert torch.allclose(light.alone + hair.beyond[rows], both)
    assert torch.allclose(light.beyond + hair.alone[rows], both)
    bare = attach_conditioning(model, data.train).conditioning.without()
    assert torch.allclose(found.without, shared_nats(model, data.train.images[:16], bare[:16], estimator=Estimator(2)))
    record = json.loads(json.dumps(found.to_dict()))
    assert [row["column"] for row in record["columns"]] == ["light", "hair"]
    assert record["information_lower_bound"]["n"] == 16
    plain = create(config.with_settings(["condition.columns="]), data.train)
    with pytest.raises(UserError, match="trained without columns: there is nothing to weigh"):
        column_information(plain, data.train)


def test_two_processes_train_on_columns_as_one_does(together, config: Config, tmp_path: Path):
    """Which columns are left out follows the example and the step, never the process."""
    config = config.with_settings(["train.label_dropout=0.5", "train.steps=3", "train.evaluations=1", "train.batch=6"])
    train_run(config, tmp_path / "one")
    ended = together(lambda: train_run(config, tmp_path / "two") and None)
    assert [end.code for end in ended] == [0, 0], [end.said for end in ended]
    assert distance(tmp_path / "one", tmp_path / "two") < 2e-5
    one, two = (open_checkpoint(tmp_path / name).config.condition for name in ("one", "two"))
    assert one == two
    assert open_checkpoint(tmp_path / "two").model().columns == one.known


def test_a_report_says_what_each_column_says(config: Config, tmp_path: Path):
    settings = ["data.test_fraction=0.5", "data.validation_fraction=0.1", "train.batch=4", "train.steps=2"]
    run = train_run(config.with_settings(settings), tmp_path / "run")
    record = write_report(run, minutes=0.02)
    jsonschema.validate(record, json.loads((SCHEMAS / "report.schema.json").read_text(encoding="utf-8")))
    nats = record["column_nats"]
    assert [row["column"] for row in nats["columns"]] == ["light", "hair"]
    assert nats["n"] >= 16
    assert "What columns say" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"where": {"lihgt": 3}}, "the column lihgt is unknown: .* did you mean light"),
        ({"where": {"hair": "rde"}}, "hair=rde is unknown"),
        ({"where": {"light": [1, 2, 3]}}, "3 values of light for n=2 samples"),
        ({"where": {"hair": [["black"], [1]]}}, "where: hair has a list"),
        ({"where": {"hair": "red"}, "guidance": 2.0, "n": 0}, "n=0"),
        ({"guidance": 2.0}, r"needs a condition to be guided to: give light a value \(where\)"),
    ],
)
def test_wrong_values_are_a_sentence(config: Config, options: dict, sentence: str):
    model = create(config, load_data(config.data).train)
    with pytest.raises(UserError, match=sentence):
        sample(model, **{"n": 2, "steps": 2, **options})


def test_a_model_that_never_trained_without_its_columns_needs_each(config: Config, photos: Path):
    data = load_data(config.data).train
    model = create(config.with_settings(["train.label_dropout=0"]), data)
    with pytest.raises(UserError, match="never trained without its columns"):
        sample(model, 1, steps=2)
    with pytest.raises(UserError, match="never trained without hair"):
        sample(model, 1, steps=2, where={"light": 60})
    sample(model, 1, steps=2, where={"light": 60, "hair": "red"})
    other = create(config.with_settings(["condition.columns="]), data)
    with pytest.raises(UserError, match="where names light, and this model was trained without columns"):
        sample(other, 1, where={"light": 60})


def test_what_is_there_and_not_used_is_told(config: Config, tmp_path: Path, capsys):
    train_run(config.with_settings(["condition.columns=[hair]", "train.steps=1"]), tmp_path / "run")
    said = capsys.readouterr().err
    assert "the columns light (" in said
    assert "do not reach the model: --set condition.columns=[light] uses them" in said
    assert "the column number cannot condition a model: 3" in said
    assert "are no categories; if they are captions, call it text" in said
    with pytest.raises(UserError, match=r"number cannot condition a model: .* different texts"):
        train_run(config.with_settings(["condition.columns=[number]"]), tmp_path / "other")


def test_changed_cells_and_a_changed_scale_are_refused(config: Config, tmp_path: Path, photos: Path):
    run = train_run(config, tmp_path / "run")
    table = photos / "metadata.csv"
    kept = table.read_text()
    table.write_text(kept.replace("red", "black", 1))
    with pytest.raises(UserError, match=r"the columns light, hair of .* changed since the run was made"):
        resume_run(run, steps=15)
    path = save(load(run), tmp_path / "saved")
    toml = (path / "config.toml").read_text()
    (path / "config.toml").write_text(toml.replace('\\"red\\"', '\\"red\\", \\"grey\\"'))
    with pytest.raises(CheckpointError):
        load(path)
