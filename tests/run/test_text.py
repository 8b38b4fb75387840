"""Runs on captions: bitwise resume, several processes, what the checkpoint says, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from markovae.checkpoints.manifest import CheckpointError
from markovae.checkpoints.reading import load, open_checkpoint
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.data.loading import load_data
from markovae.errors import UserError
from markovae.report.report_writing import write_report
from markovae.run.start import resume_run, train_run
from markovae.system.jsonlines import read_rows

from .test_together import distance, tensors


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """Thirty images of 8x8 pixels, two captions each, one image without."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    rows = [{"file_name": f"{i:02d}.png", "text": [f"number {i}", f"it is {i % 3}"]} for i in range(1, 30)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def config(text_config: Config, captioned: Path, words) -> Config:
    return text_config.with_settings([f"data.source={captioned}", "train.label_dropout=0.3", "train.keep_every=6"])


def test_a_run_on_captions_resumes_bitwise_and_knows_its_encoder(config: Config, tmp_path: Path, words, capsys):
    run = train_run(config, tmp_path / "run")
    said = capsys.readouterr().err
    assert "captions condition the model (all-MiniLM-L6-v2)" in said
    assert "1 of 30 images have no caption (00.png)" in said
    state = open_checkpoint(run).state["text"]
    assert (state["encoder"], state["sha256"]) == ("all-MiniLM-L6-v2", words.hash)
    assert [row["kind"] for row in read_rows(run / "metrics.jsonl").rows].count("heldout") == 2
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    shutil.rmtree(cut / "checkpoints" / "step-00000012")
    resume_run(cut)
    one, other = tensors(run), tensors(cut)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert load(run).text_conditioner.prompts(["number 3"]).tokens.shape == (1, 3, 384)


def test_two_processes_train_the_one_processs_run(together, config: Config, tmp_path: Path):
    config = config.with_settings(["train.steps=4", "train.evaluations=1"])
    train_run(config, tmp_path / "one")
    ended = together(lambda: train_run(config, tmp_path / "two") and None)
    assert [end.code for end in ended] == [0, 0], [end.said for end in ended]
    assert distance(tmp_path / "one", tmp_path / "two") < 1e-4


def test_other_captions_and_another_encoder_are_refused_at_resume(
    config: Config, tmp_path: Path, captioned: Path, monkeypatch: pytest.MonkeyPatch
):
    run = train_run(config, tmp_path / "run")
    table = captioned / "metadata.jsonl"
    kept = table.read_text()
    table.write_text(kept.replace("it is", "it was"))
    with pytest.raises(UserError, match=r"captions of .* changed since the run was made"):
        resume_run(run, steps=15)
    table.write_text(kept)
    monkeypatch.setattr("markovae.text.conditioner.encoder_hash", lambda name: "99" * 32)
    with pytest.raises(UserError, match=r"trained with the text encoder .* and the one installed has 9999"):
        resume_run(run, steps=15)


def test_weights_of_another_encoder_are_refused_at_init(config: Config, tmp_path: Path, monkeypatch):
    config = config.with_settings(["train.steps=1", "train.evaluations=0", "train.grids=0"])
    run = train_run(config, tmp_path / "run")
    again = train_run(config, tmp_path / "again", init=run)
    assert open_checkpoint(again).text == open_checkpoint(run).text
    monkeypatch.setattr("markovae.text.conditioner.encoder_hash", lambda name: "99" * 32)
    with pytest.raises(UserError, match="trained with the text encoder"):
        train_run(config, tmp_path / "other", init=run)


def test_a_bundle_that_names_no_encoder_is_refused(config: Config, tmp_path: Path):
    checkpoint = open_checkpoint(train_run(config.with_settings(["train.steps=1"]), tmp_path / "run"))
    state = json.loads(checkpoint.contents["state.json"])
    del state["text"]
    bare = replace(checkpoint, contents={**checkpoint.contents, "state.json": json.dumps(state).encode()})
    with pytest.raises(CheckpointError, match="names no text encoder"):
        bare.model()


def test_data_without_captions_are_one_sentence(config: Config, tmp_path: Path, captioned: Path):
    (captioned / "metadata.jsonl").unlink()
    with pytest.raises(UserError, match="photos has no captions"):
        train_run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("bare", ["validation", "test"])
def test_a_part_without_captions_is_looked_at_without(config: Config, tmp_path: Path, captioned: Path, bare: str):
    splits = load_data(config.data)
    hashes = getattr(splits, bare).content_hashes()
    own = ImageData(np.stack([np.asarray(Image.open(p))[None] for p in sorted(captioned.glob("*.png"))]))
    rows = [json.loads(line) for line in (captioned / "metadata.jsonl").read_text().splitlines()]
    kept = [row for row in rows if own.content_hashes()[int(row["file_name"][:2])] not in hashes]
    (captioned / "metadata.jsonl").write_text("\n".join(map(json.dumps, kept)))
    run = train_run(config.with_settings(["train.steps=2", "train.evaluations=1"]), tmp_path / "run")
    assert [row for row in read_rows(run / "metrics.jsonl").rows if row["kind"] == "heldout"]
    if bare == "test":
        assert write_report(run)["run"]
        assert (run / "report.html").exists()


def test_captions_of_every_part_are_those_that_the_run_was_made_with(config: Config, tmp_path: Path, captioned: Path):
    run = train_run(config, tmp_path / "run")
    record = open_checkpoint(run).split_record
    hashes = load_data(config.data).test.content_hashes()
    own = ImageData(np.stack([np.asarray(Image.open(p))[None] for p in sorted(captioned.glob("*.png"))]))
    rows = [json.loads(line) for line in (captioned / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        if own.content_hashes()[int(row["file_name"][:2])] in hashes:
            row["text"] = ["another"]
    (captioned / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    changed = load_data(config.data)
    changed.verify(record)
    with pytest.raises(UserError, match=r"the captions of the test part of .*photos changed"):
        changed.verify(record, captions=True)
    with pytest.raises(UserError, match=r"the captions of the test part of .*photos changed"):
        resume_run(run, steps=20)


def test_weights_of_another_run_bring_their_encoder(config: Config, tmp_path: Path, words, monkeypatch):
    monkeypatch.setattr("markovae.text.conditioner.token_width", lambda name: 384)
    run = train_run(config.with_settings(["train.steps=1", "condition.encoder=words"]), tmp_path / "run")
    new = train_run(config.with_settings(["train.steps=1"]), tmp_path / "new", init=run)
    assert Config.from_toml(new / "config.toml").condition.encoder == "words"
    monkeypatch.setattr("markovae.text.conditioner.encoder_hash", lambda name: "cd" * 32)
    with pytest.raises(UserError, match="was trained with the text encoder other of SHA-256 abab"):
        train_run(config.with_settings(["train.steps=1", "condition.encoder=other"]), tmp_path / "other", init=run)


def test_a_run_begins_with_weights_of_captions_or_of_none_whatever_its_images_have(
    config: Config, run_config: Config, captioned: Path, tmp_path: Path, capsys
):
    first = train_run(config.with_settings(["train.steps=1"]), tmp_path / "first")
    bare = run_config.with_settings(["condition.kind=auto", "train.steps=1"])
    with pytest.raises(UserError, match=r"has no captions, which condition\.kind=text needs: write captions"):
        train_run(bare, tmp_path / "bare", init=first)
    plain = train_run(bare, tmp_path / "plain")
    capsys.readouterr()
    size = load(plain).shape[1]
    train_run(bare.with_settings([f"data.source={captioned}", f"data.size={size}"]), tmp_path / "next", init=plain)
    assert "do not reach the model" in capsys.readouterr().err
