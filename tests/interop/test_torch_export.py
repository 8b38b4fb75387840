"""`export --to torch`: the graph and its twenty lines make the images that the model makes here."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import markovae as mv
from markovae.cli.entry import main
from markovae.config import Config
from markovae.errors import UserError
from markovae.interop.exporting import export
from markovae.randomness import Streams

TINY = ["network.width=8", "network.multipliers=[1]", "network.blocks=1", "network.attention=[]", "data.size=8"]


def served(folder: Path):
    spec = importlib.util.spec_from_file_location("serve", folder / "serve.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("classes", "calls"),
    [(3, None), pytest.param(0, 2, marks=pytest.mark.slow)],
    ids=["classes", "student"],
)
def test_the_loop_makes_the_same_images(classes: int, calls: int | None, tmp_path: Path) -> None:
    config = Config().with_settings([*TINY, *([f"distill.calls={calls}"] if calls else [])])
    model = mv.create(config, (1, 8, 8), num_classes=classes).eval()
    mv.save(model, tmp_path / "run")
    folder = export(tmp_path / "run", tmp_path / "out", "torch")
    labels = torch.arange(8) % 3 if classes else None
    options = {} if labels is None else {"labels": labels}
    ours = mv.sample(model, 8, sampler="ddim", batch=8, **options)
    loop = served(folder)
    assert len(loop.spec["steps"]) == (calls or 20)
    assert "markovae" not in (folder / "serve.py").read_text()
    z = Streams(0, "sample", range(8)).normal((1, 8, 8), torch.float32)
    theirs = loop.images(z, labels)
    assert np.abs(theirs.numpy() - ours.astype(int)).max() <= 1
    level = torch.full((8,), -1.0).double()
    known = () if labels is None else (labels,)
    condition = None if labels is None else mv.Condition(label=labels)
    torch.testing.assert_close(loop.network(z, level, *known), model.denoise(z, level, condition), rtol=1e-5, atol=1e-5)


def test_the_command_and_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    mv.save(mv.create(Config().with_settings(TINY), (1, 8, 8)), tmp_path / "run")
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    assert main(["export", run, "--to", "torch", out, "--push", "me/x"]) == 2
    assert "--push uploads a diffusers pipeline" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"export it --to torch, or train with network\.kind=ddpm"):
        export(run, out)

    cascade = mv.create(Config().with_settings([*TINY, "cascade.stages=2"]), (1, 16, 16))
    mv.save(cascade, tmp_path / "cascade")
    with pytest.raises(UserError, match=r"a cascade draws with several.* train with cascade\.stages=1"):
        export(tmp_path / "cascade", out, "torch")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no graph\nlong story")

    monkeypatch.setattr(torch.export, "export", broken)
    assert main(["export", run, "--to", "torch", out]) == 2
    assert "torch.export cannot write this network down: no graph" in capsys.readouterr().err
    assert not Path(out).exists()
