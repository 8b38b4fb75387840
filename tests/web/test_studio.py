"""What the page shows is what the library computes, and what it takes is checked."""

import base64
import io
import shlex
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import markovae as mv
from markovae.cli.entry import main
from markovae.data.pictures import viewable
from markovae.diffusion.bound import estimate_mean
from markovae.errors import UserError
from markovae.likelihood.pixel_nats import pixel_nats
from markovae.web.studio import MAX_UPLOAD, Studio

from .conftest import SETTINGS


def uri(image: Image.Image, kind: str = "PNG") -> str:
    stream = io.BytesIO()
    image.save(stream, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(stream.getvalue()).decode()


def pixels(source: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


DIGIT = uri(Image.fromarray(viewable(mv.load_data("digits").test.images[:1], 17)[0, ..., 0]))


def test_the_command_that_a_drawing_names_draws_the_same_images(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"n": 3, "steps": 4, "seed": 5, "label": 2, "guidance": 1.5}
    *frames, done = studio.sample(asked)
    words = done["command"].split()[1:]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    files = [tmp_path / "out" / f"{place:05d}.png" for place in range(3)]
    assert all(
        np.array_equal(pixels(image), np.asarray(Image.open(file)))
        for image, file in zip(done["images"], files, strict=True)
    )
    assert [frame["done"] for frame in frames] == list(range(1, 6))
    assert frames[-1]["logsnr"] is None  # data
    text = Image.open(io.BytesIO(base64.b64decode(done["images"][1].partition(",")[2]))).info
    assert text["markovae:command"] == done["command"]
    assert text["markovae:index"] == "1"


def test_nats_of_pixels_sum_to_the_bound_within_their_error(studio: Studio) -> None:
    model = studio.model
    x = model.pixels.to_x(torch.from_numpy(mv.load_data("digits").test.images[:1]).long(), torch.float32)
    estimates = list(islice(pixel_nats(model, x, draws=3), 100))
    mean = estimate_mean(torch.stack([estimate.nats.sum() for estimate in estimates]))
    bounds = torch.cat([model.bound(x, torch.Generator().manual_seed(k)).total for k in range(25)])
    truth = estimate_mean(bounds)
    assert abs(mean.value - truth.value) < 4 * (mean.stderr**2 + truth.stderr**2) ** 0.5
    assert estimates[0].nats.shape == model.shape
    assert len(estimates[0].levels) == 3


def test_bits_of_an_image_come_with_an_interval_that_holds_them(studio: Studio) -> None:
    done = list(studio.measure({"image": DIGIT, "replicates": 3, "label": 1}))[-1]
    assert done["low"] < done["bits"] < done["high"]
    assert done["note"] == ""
    assert len(done["levels"]) == 7
    assert done["neighbours"][0]["distance"] <= done["neighbours"][1]["distance"]
    larger = uri(Image.new("RGBA", (40, 30), (200, 10, 10, 128)), "WEBP")
    assert "40×30" in list(studio.measure({"image": larger, "replicates": 2}))[-1]["note"]


@pytest.mark.parametrize("way", ["inpaint", "vary", "interpolate"])
def test_an_edit_answers_with_pictures(studio: Studio, way: str) -> None:
    half = Image.new("L", (8, 8))
    half.paste(255, (0, 0, 4, 8))
    done = list(studio.edit({"way": way, "image": DIGIT, "to": DIGIT, "mask": uri(half), "n": 2, "steps": 3}))[-1]
    assert len(done["images"]) == 2
    if way == "inpaint":
        assert np.array_equal(pixels(done["images"][0])[:, 4:], pixels(DIGIT)[:, 4:])


@pytest.mark.parametrize(
    ("job", "asked"),
    [
        ("sample", {"n": 65}),
        ("sample", {"n": True}),
        ("sample", {"n": "4"}),
        ("sample", {"steps": 251}),
        ("sample", {"seed": -1}),
        ("sample", {"sampler": "x" * 600}),
        ("sample", {"sampler": "none"}),
        ("sample", {"guidance": float("nan")}),
        ("sample", {"label": 10}),
        ("sample", {"prompt": "a cat"}),
        ("measure", {}),
        ("measure", {"image": "data:image/png;base64,####"}),
        ("measure", {"image": "data:image/png;base64," + base64.b64encode(b"%!PS-Adobe").decode()}),
        ("measure", {"image": "data:image/png;base64," + "A" * (4 * MAX_UPLOAD // 3 + 8)}),
        ("measure", {"image": uri(Image.new("1", (5000, 4000)))}),
        ("edit", {"way": "inpaint", "image": DIGIT, "mask": uri(Image.new("L", (8, 8)))}),
        ("edit", {"way": "sharpen", "image": DIGIT}),
        ("edit", {"way": "vary", "image": DIGIT, "level": 2}),
    ],
)
def test_what_cannot_be_done_is_one_sentence(studio: Studio, job: str, asked: dict[str, Any]) -> None:
    with pytest.raises(UserError) as told:
        list(getattr(studio, job)(asked))
    assert len(str(told.value)) < 300


@pytest.fixture(scope="module")
def column_studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """A model of two columns: how bright, and the hair."""
    folder, rng = tmp_path_factory.mktemp("columns"), np.random.default_rng(0)
    rows = ["file_name,light,hair"]
    (folder / "photos").mkdir()
    for number in range(24):
        light = int(rng.integers(50, 250))
        pixels = np.clip(rng.normal(light, 3, (8, 8)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number:02}.png")
        rows.append(f"{number:02}.png,{light},{'red' if number % 3 else 'dark brown'}")
    (folder / "photos" / "metadata.csv").write_text("\n".join(rows))
    settings = [*SETTINGS, "condition.columns=[light, hair]", f"data.source={folder / 'photos'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKOVAE_CACHE", str(folder / "cache"))
        mv.train(folder / "photos", folder / "run", mv.Config().with_settings(settings), progress=False)
    return Studio(mv.load_run(folder / "run", device="cpu"))


def test_a_drawing_takes_values_of_columns_and_names_the_same_command(column_studio: Studio, tmp_path: Path) -> None:
    about = column_studio.about()["columns"]
    assert [(one["name"], one["kind"]) for one in about] == [("light", "number"), ("hair", "category")]
    assert list(about[1]["values"]) == ["dark brown", "red"]
    asked = {"n": 2, "steps": 4, "where": {"light": "200", "hair": "dark brown"}}
    *_, done = column_studio.sample(asked)
    assert done["command"].endswith("--where light=200 --where 'hair=dark brown' --batch 2")
    assert main([*shlex.split(done["command"])[1:], "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    for place, image in enumerate(done["images"]):
        assert np.array_equal(pixels(image), np.asarray(Image.open(tmp_path / "out" / f"{place:05d}.png")))
    *_, left_open = column_studio.sample({**asked, "where": {"light": " ", "hair": ""}})
    assert "--where" not in left_open["command"]
    assert left_open["images"] != done["images"]
    *_, bits = column_studio.measure({"image": DIGIT, "where": {"light": "200"}, "replicates": 2})
    assert bits["bits"] > 0


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ({"hair": "blonde"}, "hair=blonde is unknown"),
        ({"height": "3"}, "the column height is unknown"),
        (["light=3"], "where must be values of at most"),
        ({"light": 3}, "light must be a text"),
    ],
)
def test_values_of_columns_are_checked(column_studio: Studio, where: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        list(column_studio.sample({"n": 1, "steps": 2, "where": where}))
