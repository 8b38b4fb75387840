"""`markovae import` and `markovae export`, from a folder made without diffusers to images, bits and back."""

import json
import shutil
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.interop.pipelines import write_pipeline

import markovae as mv
from markovae.cli.entry import main
from markovae.errors import UserError


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "theirs", in_channels=1, out_channels=1)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a folder and the run that was made of it; tests leave them as they are."""
    folder = tmp_path_factory.mktemp("imported")
    mv.import_run(write_pipeline(folder / "theirs", in_channels=1, out_channels=1), folder / "run")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8))
    return path


def test_from_their_folder_to_images_bits_more_training_and_back(
    theirs: Path, images: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    run, new = str(tmp_path / "run"), str(tmp_path / "new")
    assert main(["import", str(theirs), "--out", run]) == 0
    said = capsys.readouterr().out
    assert "images of 8x8, 1 channels; 30 levels from log-SNR" in said
    assert "the network predicts the noise; x̂ held to ±1" in said
    assert (
        main(["sample", run, "--n", "2", "--sampler", "ancestral", "--steps", "5", "--out", str(tmp_path / "s")]) == 0
    )
    assert (tmp_path / "s" / "00001.png").exists()
    capsys.readouterr()
    measure = ["measure", run, str(images), "--split", "all", "--draws", "2", "--json"]
    assert main(measure) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 30
    train = ["train", str(images), "--init", run, "--out", new, "--steps", "2", "--no-report", "--set", "train.batch=4"]
    assert main([*train, "--set", "train.grids=0", "--set", "train.eval_images=2"]) == 0
    assert "its configuration is taken, for fine-tuning (AdamW at 0.0001)" in capsys.readouterr().err
    for source, target in ((run, tmp_path / "back"), (new, tmp_path / "tuned")):
        assert main(["export", source, "--to", "diffusers", str(target)]) == 0
        assert "DiffusionPipeline.from_pretrained" in capsys.readouterr().out
    name = "unet/diffusion_pytorch_model.safetensors"
    first, back, tuned = (
        safetensors.torch.load_file(p / name) for p in (theirs, tmp_path / "back", tmp_path / "tuned")
    )
    assert all(torch.equal(first[key], back[key]) for key in first)
    assert any(not torch.equal(first[key], tuned[key]) for key in first)


def test_python_and_the_command_write_one_folder(theirs: Path, tmp_path: Path) -> None:
    assert main(["import", str(theirs), "--out", str(tmp_path / "command")]) == 0
    mv.import_run(theirs, tmp_path / "python")
    assert main(["export", str(tmp_path / "command"), "--to", "diffusers", str(tmp_path / "a" / "back")]) == 0
    assert mv.export(tmp_path / "python", tmp_path / "b" / "back") == tmp_path / "b" / "back"
    files = [path.relative_to(tmp_path / "a") for path in sorted((tmp_path / "a").rglob("*")) if path.is_file()]
    assert "back/README.md" in map(str, files)
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    with pytest.raises(UserError, match="to='onnx' must be one of diffusers, torch"):
        mv.export(tmp_path / "python", tmp_path / "c", to="onnx")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["measure", "RUN"], "has no images of its own: name DATA"),
        (["quality", "RUN"], "has no images of its own: name DATA"),
        (["train", "--resume", "--out", "RUN"], "has no images of its own: name DATA"),
        (["train", "--resume", "--out", "RUN", "--minutes", "3"], "has no images of its own"),
        (["import", "RUN", "--out", "OTHER"], "holds no diffusers model"),
        (["import", "THEIRS", "--out", "RUN"], "is not empty: name a new folder"),
        (["export", "RUN", "--to", "difusers", "OTHER"], "did you mean diffusers"),
        (["export", "RUN", "OTHER"], "--to is missing"),
        (["export", "THEIRS", "--to", "diffusers", "OTHER"], "is not a run"),
        (["import", "THEIRS"], "--out is missing"),
    ],
)
def test_bad_input_is_one_sentence(imported: Path, tmp_path: Path, capsys, words: list, message: str) -> None:
    folder = shutil.copytree(imported, tmp_path / "both")
    places = {"RUN": folder / "run", "THEIRS": folder / "theirs", "OTHER": tmp_path / "other"}
    assert main([str(places.get(word, word)) for word in words]) == 2
    out = capsys.readouterr()
    assert message in out.err
    assert out.err.count("\n") == 1
    assert not (tmp_path / "other").exists()


class Api:
    """Stands in for huggingface_hub's: what is asked of it, or what it refuses."""

    asked: ClassVar[list] = []
    refuses = False

    def create_repo(self, name: str, exist_ok: bool) -> object:
        if self.refuses:
            raise OSError("no token\nanywhere")
        self.asked.append((name, exist_ok))
        return types.SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self, repo_id: str, folder_path: str) -> str:
        self.asked.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
        return f"https://hub/{repo_id}"


def test_push_uploads_the_folder_and_a_refusal_keeps_it(theirs: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    run = str(tmp_path / "run")
    assert main(["import", str(theirs), "--out", run]) == 0
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=Api))
    assert main(["export", run, "--to", "diffusers", str(tmp_path / "a"), "--push", "digits"]) == 0
    assert Api.asked == [
        ("digits", True),
        ("me/digits", ["README.md", "model_index.json", "scheduler", "unet"]),
    ]
    assert "https://hub/me/digits" in capsys.readouterr().out
    monkeypatch.setattr(Api, "refuses", True)
    assert main(["export", run, "--to", "diffusers", str(tmp_path / "b"), "--push", "digits"]) == 2
    assert "was written but could not be pushed to digits (no token anywhere)" in capsys.readouterr().err
    assert (tmp_path / "b" / "model_index.json").exists()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["export", run, "--to", "diffusers", str(tmp_path / "c"), "--push", "digits"]) == 2
    assert "pip install 'markovae[hub]'" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
    assert 'from_pretrained("digits")' in (tmp_path / "b" / "README.md").read_text()


def test_a_model_without_classes_is_trained_on_with_a_folder_of_classes(theirs: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "two.npz", rng.integers(0, 256, (30, 8, 8), dtype=np.uint8), np.arange(30) % 2)
    run, new = str(tmp_path / "run"), str(tmp_path / "new")
    assert main(["import", str(theirs), "--out", run]) == 0
    train = ["train", str(tmp_path / "two.npz"), "--init", run, "--out", new, "--steps", "2", "--no-report"]
    sets = ["train.batch=4", "train.grids=0", "train.eval_images=2"]
    assert main([*train, *(word for one in sets for word in ("--set", one))]) == 0
