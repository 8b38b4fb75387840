"""`markovae edit` on a small colour model: files in, files out, and one sentence for what does not fit."""

import argparse
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from markovae.build import create
from markovae.checkpoints.reading import load
from markovae.checkpoints.writing import save_checkpoint
from markovae.cli import edit
from markovae.data.fitted_pictures import read_mask, read_picture
from markovae.data.image_files import decode
from markovae.data.images import ImageData
from markovae.errors import UserError
from markovae.sampling.editing import edit as library_edit
from markovae.sampling.inverse import BoxDown
from markovae.training.trainer import Training

SIZE = 8


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_config):
    """A run, and images and masks beside it; tests leave it as it is."""
    tmp_path = tmp_path_factory.mktemp("edit")
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 2
    data = ImageData(rng.integers(0, 256, (12, 3, SIZE, SIZE)).astype(np.uint8), labels, ("cat", "dog"))
    model = create(tiny_config, data.shape, num_classes=2)
    training = Training(model, data, tiny_config.train)
    training.advance()
    tensors, position = training.capture()
    state = {**position, "shape": [3, SIZE, SIZE], "bins": 256, "class_names": ["cat", "dog"], "data": {}}
    save_checkpoint(tmp_path / "run" / "checkpoints", 1, tensors, state, tiny_config)

    def save(name, mode, size=(SIZE, SIZE)):
        shape = size[::-1] if mode == "L" else (*size[::-1], len(mode))
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(tmp_path / name)

    save("image.png", "RGB")
    save("other.png", "RGB")
    save("small.png", "RGB", (SIZE // 4, SIZE // 4))
    save("grey.png", "L")
    save("wide.png", "RGB", (SIZE + 2, SIZE))
    save("alpha.png", "RGBA")
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, SIZE // 2 :] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask[:, 1:]).save(tmp_path / "narrow.png")
    Image.fromarray(mask // 2).save(tmp_path / "soft.png")
    Image.fromarray(mask * 0).save(tmp_path / "black.png")
    (tmp_path / "text.png").write_text("not an image")
    return tmp_path


@pytest.fixture
def folder(made, tmp_path):
    """A copy of `made` for one test to write into."""
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def edited(folder, *words):
    """Run the command in a folder; the pictures it wrote, by name."""
    options = parsed(folder, *words, "--out", str(folder / "out"))
    assert edit.run(options) == 0
    return {path.name: np.asarray(Image.open(path)) for path in sorted((folder / "out").iterdir())}


def parsed(folder, *words):
    parser = argparse.ArgumentParser(exit_on_error=False)
    edit.add_arguments(parser)
    files = [str(folder / word) if word.endswith(".png") else word for word in words]
    return parser.parse_args([str(folder / "run"), *files])


def source(folder, name="image.png"):
    return np.asarray(Image.open(folder / name))


@pytest.mark.parametrize("method", [[], ["--quick"], ["--method", "repaint", "--resampling", "2"]])
def test_masked_pixels_are_drawn_and_the_others_kept(folder, method):
    files = edited(folder, "image.png", "--mask", "mask.png", "--n", "2", "--steps", "5", *method)
    assert list(files) == ["00000.png", "00001.png", "grid.png"]
    for name in ("00000.png", "00001.png"):
        np.testing.assert_array_equal(files[name][:, : SIZE // 2], source(folder)[:, : SIZE // 2])
    assert (files["00000.png"] != files["00001.png"]).any()
    np.testing.assert_array_equal(files["grid.png"][:64:8, :64:8], source(folder))


@pytest.mark.parametrize("how", ["sr2", "sr4", "blur", "grey"])
def test_what_is_restored_looks_the_same_once_degraded(folder, how):
    words = ("image.png", "--degrade", how, "--n", "2", "--steps", "6", "--quick", "--iterations", "40")
    files, original = edited(folder, *words), source(folder).astype(float)
    restored = files["00001.png"].astype(float)
    if how.startswith("sr"):
        side = SIZE // int(how[2:])
        means = [p.reshape(side, SIZE // side, side, SIZE // side, 3).mean((1, 3)) for p in (restored, original)]
    elif how == "grey":
        means = [p @ [0.299, 0.587, 0.114] for p in (restored, original)]
    else:
        means = [p.mean((0, 1)) for p in (restored, original)]
    # Pixels beyond black and white are cut when written, so the means agree loosely.
    assert np.abs(means[0] - means[1]).mean() < 25


def test_an_image_already_degraded_is_restored(folder):
    assert edited(folder, "small.png", "--degrade", "sr4", "--steps", "4", "--n", "1")["00000.png"].shape == (8, 8, 3)


def test_a_grey_image_is_coloured(folder):
    assert edited(folder, "grey.png", "--degrade", "grey", "--steps", "4", "--n", "1")["00000.png"].shape == (8, 8, 3)


def test_a_low_level_returns_nearly_the_image(folder):
    near = edited(folder, "image.png", "--from-level", "0.02", "--steps", "4", "--n", "1")["00000.png"]
    assert np.abs(near.astype(float) - source(folder)).mean() < 6


def test_interpolation_draws_n_images_between_two(folder):
    files = edited(folder, "image.png", "--to", "other.png", "--level", "0.1", "--n", "3", "--steps", "6")
    assert len(files) == 4
    first, last = files["00000.png"].astype(float), files["00002.png"].astype(float)
    for end, name, stranger in ((first, "image.png", "other.png"), (last, "other.png", "image.png")):
        assert np.abs(end - source(folder, name)).mean() < 0.5 * np.abs(end - source(folder, stranger)).mean()


def test_a_round_trip_tells_its_error(folder, capsys):
    back = edited(folder, "image.png", "--round-trip", "--steps", "40")["00000.png"]
    error = float(np.sqrt(np.mean((back.astype(float) - source(folder)) ** 2)))
    told = re.search(r"root mean square error (\d+\.\d\d) grey levels", capsys.readouterr().err)
    # Written pixels are rounded and cut at black and white, which only brings them nearer.
    assert error - 0.6 < float(told[1]) < 2 * error + 1


def test_facts_are_written_into_every_picture(folder):
    words = ["--steps", "3", "--seed", "7", "--class", "dog", "--guidance", "2"]
    edited(folder, "image.png", "--from-level", "0.5", *words)
    with Image.open(folder / "out" / "00002.png") as image:
        text = dict(image.info)
    assert text["markovae:seed"] == "7"
    assert text["markovae:sample"] == "2"
    assert text["markovae:edit"] == "from level 0.5"
    wanted = {"sampler": "sde-dpmpp2m", "steps": "3", "guidance": "2", "class": "dog", "precision": "float32"}
    assert {name: text[f"markovae:{name}"] for name in wanted} == wanted
    assert len(text["markovae:checkpoint"]) == 16


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--mask", "mask.png", "--steps", "3"], {"mask": "mask.png", "steps": 3}),
        (["--mask", "mask.png", "--method", "repaint", "--resampling", "2", "--steps", "3"],
         {"mask": "mask.png", "method": "repaint", "resampling": 2, "steps": 3}),
        (["--degrade", "sr2", "--quick", "--n", "2", "--steps", "3"],
         {"degrade": "sr2", "quick": True, "n": 2, "steps": 3}),
        (["--from-level", "0.5", "--class", "dog", "--guidance", "2"], {"from_level": 0.5, "labels": 1, "guidance": 2}),
        (["--to", "other.png", "--seed", "3", "--steps", "3"], {"to": "other.png", "seed": 3, "steps": 3}),
        (["--round-trip", "--steps", "4"], {"round_trip": True, "steps": 4}),
    ],
)  # fmt: skip
def test_the_command_edits_as_the_library_does_by_the_same_arguments(folder, words, options):
    """The image as a file, and with a mask also of PIL and as an array; the mask as a file and as an array."""
    files, model = edited(folder, "image.png", *words), load(folder / "run")
    options = {name: folder / value if str(value).endswith(".png") else value for name, value in options.items()}
    pixels = source(folder).transpose(2, 0, 1)
    others = (Image.open(folder / "image.png"), pixels, torch.tensor(pixels)) if "mask" in options else ()
    for image in (folder / "image.png", *others):
        if "mask" in options and isinstance(image, np.ndarray):
            options["mask"] = source(folder, "mask.png") > 0
        made = library_edit(model, image, **options)
        for number, picture in enumerate(made.images):
            assert np.array_equal(files[f"{number:05d}.png"], picture.transpose(1, 2, 0))


def test_what_python_gives_wrongly_is_one_sentence(folder):
    model, pixels = load(folder / "run"), source(folder).transpose(2, 0, 1)
    for image, options, sentence in (
        (pixels, {}, "exactly one of mask, degrade"),
        (pixels, {"round_trip": True, "from_level": 0.5}, "exactly one of mask, degrade"),
        (pixels[None], {"round_trip": True}, r"image has shape \(1, 3, 8, 8\)"),
        (pixels / 100, {"round_trip": True}, "holds floats from"),
        (3.5, {"round_trip": True}, "holds floats from 3.5 to 3.5"),
        ([[1, 2], [3]], {"round_trip": True}, "rows differ in length"),
        ({"a": 1}, {"round_trip": True}, "image of type dict is not a picture"),
        (pixels, {"mask": np.zeros((8, 8), bool)}, "is all black"),
        (pixels, {"mask": np.ones((5, 5, 2), bool)}, "has 1, 3 or 4 channels"),
        (pixels, {"mask": "nowhere.png"}, "cannot be read as an image"),
        (pixels, {"from_level": 0.5, "seed": 1.5}, "seed=1.5 must be a whole number"),
        (pixels, {"from_level": 0.5, "fit": "stretch"}, "fit='stretch' must be one of crop, pad, resize"),
        (pixels.astype(int) + 1000, {"round_trip": True}, "outside 0…255"),
        (pixels, {"degrade": "sr5"}, "degrade 'sr5' is unknown"),
        (pixels, {"from_level": 1.5}, r"must lie in \(0, 1\]"),
        (pixels, {"from_level": 0.5, "sampler": "heum"}, "did you mean heun"),
        (pixels, {"mask": pixels[0] > 9, "method": "magic"}, "method 'magic' is unknown"),
        (pixels, {"degrade": BoxDown(3)}, "does not divide into squares of 3"),
    ):
        with pytest.raises(UserError, match=sentence):
            library_edit(model, image, **options)
    model.null_trained = False
    with pytest.raises(UserError, match="never trained without classes"):
        library_edit(model, pixels, from_level=0.5)


def test_draws_depend_on_seed_and_number_only(folder):
    model = load(folder / "run")
    picks = [library_edit(model, folder / "image.png", from_level=0.6, steps=4, n=n).images[0] for n in (3, 1)]
    assert np.abs(picks[0].astype(int) - picks[1]).max() <= 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["image.png", "--mask", "narrow.png"], "the mask .* is 7x8 but the image 8x8"),
        (["image.png", "--mask", "soft.png"], "nowhere half white at the model's 8x8"),
        (["image.png", "--mask", "image.png"], "in color and nothing in it is red"),
        (["image.png", "--mask", "black.png"], "all black"),
        (["text.png", "--from-level", "0.5"], "cannot be read as an image"),
        (["nothing.png", "--from-level", "0.5"], "cannot be read as an image \\(No such file"),
        (["image.png", "--from-level", "0.5", "--class", "cow"], "cow is unknown: this run has cat, dog"),
        (["image.png", "--from-level", "0.5", "--guidance", "3"], "needs a condition"),
        (["image.png", "--from-level", "0.5", "--prompt", "a hat"], "--prompt needs a model of captions"),
        (["image.png", "--from-level", "0.5", "--sampler", "heum"], "heum"),
        (["image.png", "--round-trip", "--sampler", "ancestral"], "draws random numbers"),
        (["image.png", "--round-trip", "--steps", "1"], "steps=1 leaves no step to noise and back"),
        (["image.png", "--round-trip", "--n", "3"], "a round trip gives one image"),
        (["image.png", "--to", "other.png", "--n", "1"], "needs 2 or more"),
        (["image.png", "--from-level", "0.5", "--level", "0.5"], "level belongs to an edit with"),
        (["image.png", "--from-level", "0.5", "--quick"], "quick belongs to degrade"),
        (["image.png", "--degrade", "blur", "--method", "repaint"], "method belongs to an edit with a mask"),
        (["image.png", "--mask", "mask.png", "--resampling", "3"], "resampling belongs to the method repaint"),
        (["image.png", "--mask", "mask.png", "--method", "repaint", "--iterations", "3"], "iterations belongs to"),
        (["image.png", "--from-level", "0.5", "--sampler", "ancestral", "--steps", "51"], "50 levels"),
    ],
)
def test_bad_input_is_one_sentence(folder, words, sentence):
    with pytest.raises(UserError, match=sentence) as told:
        edited(folder, *words)
    assert "\n" not in str(told.value)
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["image.png"],
        ["image.png", "--from-level", "0"],
        ["image.png", "--from-level", "0.5", "--n", "0"],
        ["image.png", "--from-level", "0.5", "--steps", "0"],
        ["image.png", "--degrade", "sr3"],
        ["image.png", "--from-level", "0.5", "--round-trip"],
    ],
)
def test_bad_options_are_refused(folder, words):
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parsed(folder, *words)


def test_a_folder_with_files_is_not_overwritten(folder):
    (folder / "out").mkdir()
    Path(folder / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        edited(folder, "image.png", "--from-level", "0.5", "--steps", "3")
    assert (folder / "out" / "mine.txt").read_text() == "mine"


def test_every_edit_has_a_folder_of_its_own_and_a_full_one_is_refused_first(folder, monkeypatch):
    words = ("image.png", "--mask", "mask.png", "--n", "1", "--steps", "2", "--quick")
    for number in (1, 2):
        assert edit.run(parsed(folder, *words)) == 0
        assert (folder / "run" / "edits" / f"image-mask-moments-seed-0-{number}" / "00000.png").exists()
    monkeypatch.setattr("markovae.sampling.editing.edit", None)
    with pytest.raises(UserError, match=r"--out .* is not empty: name a new folder"):
        edit.run(parsed(folder, *words, "--out", str(folder)))
    checkpoint = next((folder / "run" / "checkpoints").iterdir())
    with pytest.raises(UserError, match="is a checkpoint, not a run: name a folder with --out"):
        edit.run(argparse.Namespace(**{**vars(parsed(folder, *words)), "run_path": str(checkpoint)}))


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("wide.png", "wide.png of 10x8 is scaled and cropped to 8x8, as in training"),
        ("grey.png", "grey.png is grey and was made rgb"),
        ("alpha.png", "alpha.png has transparency, laid on white"),
        ("sixteen.png", "sixteen.png has 16 bits, scaled to 8"),
        ("photo.jpg", "photo.jpg of 40x30 is scaled and cropped"),
    ],
)
def test_pictures_are_read_as_training_reads_them(folder, name, note, capsys):
    sixteen = np.random.default_rng(1).integers(0, 65536, (SIZE, SIZE)).astype(np.uint16)
    Image.fromarray(sixteen).save(folder / "sixteen.png")
    Image.new("RGB", (40, 30), (200, 30, 60)).save(folder / "photo.jpg")
    given = library_edit(load(folder / "run"), folder / name, from_level=0.5, steps=2, n=1).given[0]
    trained = decode(folder / name, (SIZE, SIZE), False, "crop", (255, 255, 255))
    assert np.array_equal(given, trained)
    words = [str(folder / name), "--from-level", "0.5", "--steps", "2", "--n", "1", "--out", str(folder / "out")]
    parser = argparse.ArgumentParser()
    edit.add_arguments(parser)
    assert edit.run(parser.parse_args([str(folder / "run"), *words])) == 0
    assert note in capsys.readouterr().err


def test_arrays_lists_and_tensors_are_pictures(folder):
    model, pixels = load(folder / "run"), source(folder)
    options = {"from_level": 0.5, "steps": 2, "n": 1}
    expected = library_edit(model, folder / "image.png", **options).images
    turned = pixels.transpose(2, 0, 1)
    for image in (
        turned.tolist(),
        turned / np.float32(255),
        torch.tensor(turned / np.float32(255)),
        turned.astype(int),
    ):
        assert np.array_equal(library_edit(model, image, **options).images, expected)
    wide = source(folder, "wide.png")
    expected = library_edit(model, folder / "wide.png", **options).images
    for image in (wide, wide.transpose(2, 0, 1), torch.tensor(wide)):
        assert np.array_equal(library_edit(model, image, **options).images, expected)


def test_a_draw_is_laid_into_a_larger_original_where_the_mask_is_white(folder, capsys):
    photo = np.random.default_rng(3).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(photo).save(folder / "photo.png")
    mask = np.zeros((40, 56), np.uint8)
    mask[10:30, 16:40] = 255
    mask[9, 16:40] = 100  # a soft edge
    Image.fromarray(mask).save(folder / "brush.png")
    files = edited(folder, "photo.png", "--mask", "brush.png", "--n", "2", "--steps", "3", "--quick")
    assert list(files) == ["00000-original.png", "00000.png", "00001-original.png", "00001.png", "grid.png"]
    laid = files["00001-original.png"]
    assert laid.shape == photo.shape
    assert np.array_equal(laid[mask == 0], photo[mask == 0])
    assert (laid[mask == 255] != photo[mask == 255]).any()
    told = capsys.readouterr()
    assert "the same laid into the original of 56x40" in told.out
    assert "white is redrawn" in told.err


def test_fits_lead_back_to_the_same_place(folder):
    """A draw that is the fitted picture itself, enlarged, lies where it came from."""
    across = np.linspace(0, 255, 64).round().astype(np.uint8)
    smooth = np.stack([np.broadcast_to(across, (32, 64)), np.broadcast_to(across[::2, None], (32, 64))], -1)
    smooth = np.concatenate([smooth, smooth[..., :1]], -1)
    for fit in ("crop", "pad", "resize"):
        picture = read_picture(Image.fromarray(np.ascontiguousarray(smooth)), (3, 16, 16), fit=fit)
        laid = picture.laid_back(picture.pixels, np.full((32, 64), 255, np.uint8))
        inside = slice(18, 46) if fit == "crop" else slice(4, 60)
        assert np.abs(laid[4:28, inside].astype(int) - smooth[4:28, inside]).max() <= 10


def test_masks_are_understood_as_people_make_them():
    picture = read_picture(Image.new("RGB", (SIZE, SIZE), (90, 120, 30)), (3, SIZE, SIZE))
    left = np.zeros((SIZE, SIZE), bool)
    left[:, :3] = True

    def colored(inside: tuple[int, ...], outside: tuple[int, ...]) -> Image.Image:
        return Image.fromarray(np.where(left[..., None], inside, outside).astype(np.uint8))

    for mask, words in (
        (colored((255, 255, 255), (0, 0, 0)), "white is redrawn"),
        (colored((160,) * 3, (90,) * 3), "white is redrawn"),
        (colored((250, 10, 20), (90, 120, 30)), "what is red is redrawn"),
        (colored((250, 10, 20, 255), (0, 0, 0, 0)), "its red strokes are redrawn"),
        (colored((255, 255, 255, 255), (0, 0, 0, 0)), "its white strokes are redrawn"),
        (colored((0, 0, 0, 0), (90, 120, 30, 255)), "its transparent parts are redrawn"),
        (colored((0, 0, 0, 0), (0, 0, 0, 255)), "its transparent parts are redrawn"),
        (Image.fromarray(left), "white is redrawn"),
        (Image.fromarray((left * 65535).astype(np.uint16)), "white is redrawn"),
    ):
        read = read_mask(mask, picture)
        assert np.array_equal(read.unknown, left), words
        assert read.notes[0] == f"the mask the image: {words}"


def test_masks_of_other_sizes(folder):
    picture = read_picture(Image.new("RGB", (80, 40), (90, 120, 30)), (3, SIZE, SIZE))
    half = np.zeros((40, 80), bool)
    half[:, :40] = True
    expected = np.zeros((SIZE, SIZE), bool)
    expected[:, : SIZE // 2] = True
    for mask in (half, half.repeat(2, 0).repeat(2, 1), expected):
        read = read_mask(Image.fromarray(mask), picture)
        assert np.array_equal(read.unknown, expected)
        assert read.strength.shape == (40, 80)
    with pytest.raises(UserError, match="is 30x30 but the image 80x40: draw it on the image, or at the model's size"):
        read_mask(Image.fromarray(np.ones((30, 30), bool)), picture)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(np.rot90(half).astype(np.uint8) * 255).save(
        buffer, "PNG", exif=exif
    )  # turned upright by 90 degrees
    assert np.array_equal(read_mask(Image.open(buffer), picture).unknown, expected)


def test_class_names_are_labels_in_python(folder):
    model, image = load(folder / "run"), folder / "image.png"
    named, numbered = (
        library_edit(model, image, from_level=0.5, steps=2, n=1, labels=one).images for one in ("dog", 1)
    )
    assert np.array_equal(named, numbered)
    with pytest.raises(UserError, match="cow is unknown: this model has cat, dog"):
        library_edit(model, image, from_level=0.5, steps=2, labels="cow")
