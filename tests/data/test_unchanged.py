"""Images exactly as their files hold them: slices across sources, classes and captions, and what would be converted."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.data.unchanged import read_unchanged
from markovae.errors import UserError

RNG = np.random.default_rng(0)


def png(path: Path, pixels: np.ndarray, **options: object) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def colours() -> np.ndarray:
    return RNG.integers(0, 256, (6, 5, 3)).astype(np.uint8)


def test_slices_run_across_sources_and_files_are_read_when_asked_for(tmp_path: Path):
    want = [png(tmp_path / "in" / f"{name}.png", colours()) for name in "ab"]
    array = RNG.integers(0, 256, (3, 6, 5, 3)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", images=array, labels=np.arange(3))
    want += [*array.transpose(0, 3, 1, 2), png(tmp_path / "c.png", colours())]
    found = read_unchanged([tmp_path / "in", tmp_path / "x.npz", tmp_path / "c.png"], (3, 6, 5))
    assert found.shape == (6, 3, 6, 5)
    assert found.names == ("a.png", "b.png", "", "", "", "c.png")
    assert found.classes is None, "only the array has classes"
    for rows in (slice(0, 6), slice(1, 3), slice(4, 9), slice(5, 6), slice(3, 3)):
        assert np.array_equal(found[rows], np.array(want[rows]).reshape(-1, 3, 6, 5))
    png(tmp_path / "c.png", colours()[:4])
    with pytest.raises(UserError, match=r"c\.png has changed meanwhile"):
        found[5:6]


def test_palettes_and_bits_are_the_pixels_that_they_mean(tmp_path: Path):
    palette = Image.fromarray(colours()).quantize(8)
    palette.save(tmp_path / "p.png")
    bits = Image.fromarray(RNG.integers(0, 2, (6, 5)).astype(bool))
    bits.save(tmp_path / "b.png")
    assert np.array_equal(
        read_unchanged([tmp_path / "p.png"], (3, 6, 5))[0:1][0], np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    )
    assert set(np.unique(read_unchanged([tmp_path / "b.png"], (1, 6, 5))[0:1])) == {0, 255}


def test_sub_folders_are_classes_and_captions_are_read(tmp_path: Path):
    for name in ("cat/a", "dog/b"):
        png(tmp_path / "in" / f"{name}.png", colours())
    (tmp_path / "in" / "captions.csv").write_text("file_name,text\ncat/a.png,a cat\n", encoding="utf-8")
    found = read_unchanged([tmp_path / "in"], (3, 6, 5))
    assert found.classes == ("cat", "dog")
    assert found.captions == ("a cat", "")
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 6, 5, 3), np.uint8), labels=np.array([0, 1]))
    assert read_unchanged([tmp_path / "x.npz"], (3, 6, 5)).classes == ("0", "1")


def test_what_would_not_be_lossless_is_refused_by_name(tmp_path: Path):
    png(tmp_path / "size.png", colours()[:5])
    png(tmp_path / "grey.png", colours()[..., 0])
    Image.fromarray(colours()).save(tmp_path / "key.png", transparency=(1, 2, 3))
    frames = [Image.fromarray(colours()) for _ in range(2)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    (tmp_path / "cut.png").write_bytes((tmp_path / "key.png").read_bytes()[:40])
    for name, said in (
        ("size", "RGB image of 5x5 pixels"),
        ("grey", "L image of 6x5 pixels"),
        ("key", "has transparent pixels"),
        ("moving", "has frames"),
        ("cut", r"cut\.png cannot be read"),
    ):
        with pytest.raises(UserError, match=said):
            read_unchanged([tmp_path / f"{name}.png"], (3, 6, 5))[0:1]
    np.save(tmp_path / "a.npy", np.zeros((2, 6, 6, 3), np.uint8))
    with pytest.raises(UserError, match="the model takes"):
        read_unchanged([tmp_path / "a.npy"], (3, 6, 5))
