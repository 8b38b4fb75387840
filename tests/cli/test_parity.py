"""The verbs that make files: what the command writes is what the library makes by the same arguments."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.conftest import TINY, settings

import markovae as mv
from markovae.cli import compress
from markovae.cli.entry import main
from markovae.compression.codec import CodecSettings
from markovae.data.digits import digits

SHORT = {"train__evaluations": "0", "train__grids": "0"}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(mv.load(run).named_parameters())


def same_weights(one: Path, other: Path) -> bool:
    theirs = weights(other)
    return all(torch.equal(weight, theirs[name]) for name, weight in weights(one).items())


def test_train_and_resume(tmp_path: Path):
    told, short = tmp_path / "told", settings(**SHORT)
    assert main(["train", "digits", "--out", str(told), "--steps", "2", "--no-report", *short]) == 0
    assert main(["train", "--resume", "--out", str(told), "--steps", "3", "--no-report"]) == 0
    config = mv.Config().with_settings(["train.steps=2", *short[1::2]])
    mv.train("digits", tmp_path / "python", config, progress=False)
    assert mv.resume(tmp_path / "python", steps=3, progress=False).checkpoint.step == 3
    assert same_weights(told, tmp_path / "python")
    assert len({path.read_text() for path in tmp_path.glob("*/config.toml")}) == 1


def test_distill(digits_run: Path, tmp_path: Path):
    words = ["--calls", "2", "--steps", "2", "--guidance", "1.5", "--no-report", "--set", "train.evaluations=0"]
    assert main(["distill", str(digits_run), "--out", str(tmp_path / "told"), *words]) == 0
    asked = {"steps": 2, "guidance": 1.5, "settings": ["train.evaluations=0"]}
    mv.distill(digits_run, tmp_path / "python", 2, **asked, progress=False)
    assert same_weights(tmp_path / "told", tmp_path / "python")


def test_compress_and_decompress(digits_run: Path, tmp_path: Path, json_of):
    pytest.importorskip("constriction", reason="the extra codec is not installed")
    images, model, file = digits().images[:3], mv.load(digits_run), tmp_path / "a.mvz"
    np.save(tmp_path / "a.npy", images)
    words = ["--model", digits_run, "--levels", "all", "--out"]
    record = json_of("compress", "compress", tmp_path / "a.npy", *words, file)
    train = mv.load_data("digits").train.images
    fit = train[np.linspace(0, len(train) - 1, compress.FIT_IMAGES).round().astype(np.int64)]
    assert mv.compress(model, images, levels=None, fit=fit) == file.read_bytes()
    assert (record["count"], record["bytes"]) == (3, file.stat().st_size)
    json_of("decompress", "decompress", file, "--model", digits_run, "--out", tmp_path / "b")
    assert np.array_equal(np.load(tmp_path / "b" / "images.npy"), mv.decompress(model, file.read_bytes()))
    assert (CodecSettings().levels, CodecSettings().group) == (compress.LEVELS, compress.GROUP)


def test_export(digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def weights_alone(model: mv.Diffusion, names: tuple[str, ...]) -> dict[str, bytes]:  # the graph takes seconds
        content = b"".join(weight.detach().numpy().tobytes() for weight in model.parameters())
        return {"w": content + repr(names).encode()}

    monkeypatch.setattr("markovae.interop.exporting.torch_files", weights_alone)
    assert main(["export", str(digits_run), "--to", "torch", str(tmp_path / "told")]) == 0
    mv.export(digits_run, tmp_path / "python", to="torch")
    assert (tmp_path / "told" / "w").read_bytes() == (tmp_path / "python" / "w").read_bytes()


def test_import_of_a_file(digits_run: Path, tmp_path: Path):
    mv.save(mv.load(digits_run), tmp_path / "bundle")
    file, shape = tmp_path / "bundle" / "ema.safetensors", [f"{name}={value}" for name, value in TINY.items()]
    shape = [text for text in shape if text.startswith(("network.", "schedule."))] + [
        "data.size=8",
        "data.channels=grey",
    ]
    words = [word for text in shape for word in ("--set", text)]
    out = str(tmp_path / "told")
    assert main(["import", str(file), "--as", "unet", "--classes", "10", *words, "--out", out]) == 0
    mv.import_run(file, tmp_path / "python", mv.Config().with_settings(["network.kind=unet", *shape]), classes=10)
    assert same_weights(tmp_path / "told", tmp_path / "python")
    states = [json.loads(next(tmp_path.glob(f"{k}/checkpoints/*/state.json")).read_text()) for k in ("told", "python")]
    assert states[0] == states[1]
