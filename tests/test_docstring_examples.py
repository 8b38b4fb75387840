"""Every public name has an example in its docstring, and it runs."""

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import markovae as mv
import markovae.diffusion.schedule

NEEDS_MORE = {
    "import_run": "a model of somebody else; tests/interop",
    "export": "a network that diffusers has; tests/interop",
    "caption_information": "a model of captions; tests/likelihood",
    "column_information": "a model of columns; tests/run/test_column_run.py",
}
SETTINGS = [
    *("network.width=8", "network.multipliers=[1]", "network.blocks=1", "network.attention=[]", "network.patch=1"),
    *("network.embedding=16", "schedule.num_levels=8", "train.steps=2", "train.precision=float32", "train.batch=8"),
    *("train.eval_images=4", "train.eval_draws=2", "train.grids=0"),
]


def code_of(name: str) -> str:
    """The paragraphs of a docstring that are indented as a whole."""
    paragraphs = re.split(r"\n\s*\n", inspect.getdoc(getattr(mv, name)) or "")
    blocks = [p for p in paragraphs if all(line.startswith("    ") for line in p.strip("\n").split("\n"))]
    return "\n".join(textwrap.dedent(block.strip("\n")) for block in blocks).replace("minutes=10", "steps=2")


NAMES = [name for name in mv.__all__ if not name.startswith("__")]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example(name: str) -> None:
    assert code_of(name), f"mv.{name} has no example in its docstring"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of two classes, and two runs of them."""
    folder = tmp_path_factory.mktemp("examples")
    chance = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (folder / "photos" / kind).mkdir(parents=True)
        for place in range(60):
            pixels = chance.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / kind / f"{place}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKOVAE_CACHE", str(folder / "cache"))
        for name in ("photos", "a", "b"):
            mv.train(folder / "photos", folder / "runs" / name, mv.Config().with_settings(SETTINGS), progress=False)
    samples = chance.integers(0, 256, (50, 8, 8, 3)).astype(np.uint8)
    (folder / "others").mkdir()
    np.savez(folder / "others" / "samples.npz", samples)
    Image.fromarray(samples[0]).save(folder / "photo.jpg")
    Image.fromarray(np.tile(np.uint8([[0], [255]]), (4, 8))).save(folder / "brushed.png")
    return folder


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NEEDS_MORE])
def test_the_example_runs(name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in folder.iterdir():
        if not (name == "train" and path.name == "runs"):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARKOVAE_CACHE", str(folder / "cache"))
    run = mv.load_run(folder / "runs" / "photos", device="cpu")
    data = mv.load_data("photos")
    images, labels = np.asarray(data.test.images), data.test.labels
    scope: dict[str, Any] = {
        "mv": mv,
        "torch": torch,
        "markovae": markovae,
        "run": run,
        "model": run.model,
        "data": data,
        "images": images,
        "labels": labels,
        "loader": [images],
        "step": None,
        "optimizer": Optimizer(),
    }
    scope["step"] = next(iter(mv.fit(run.model, data, steps=1))) if name == "save" else None
    exec(compile(code_of(name), f"mv.{name}", "exec"), scope)


class Optimizer:
    """Takes no step."""

    def step(self) -> None:
        """None."""
