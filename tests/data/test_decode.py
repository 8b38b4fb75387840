from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.data import image_files as decode_room
from markovae.data.image_files import decode

WHITE = (255, 255, 255)
GREY = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4)
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)


def read(path: Path, grey: bool = False, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """Decode at the stored size, as (H, W) or (H, W, 3)."""
    with Image.open(path) as image:
        size = image.size
        sideways = image.format != "TIFF" and image.getexif().get(0x0112, 1) >= 5
    shape = size if sideways else size[::-1]
    pixels = decode(path, shape, grey, "crop", background)
    return pixels[0] if grey else np.moveaxis(pixels, 0, -1)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp", "gif", "pgm"])
def test_grey_stays_as_it_is(tmp_path: Path, ending: str):
    path = tmp_path / f"x.{ending}"
    Image.fromarray(GREY).save(path, **({"lossless": True} if ending == "webp" else {}))
    assert np.array_equal(read(path, grey=True), GREY)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp", "ppm"])
def test_colour_stays_as_it_is(tmp_path: Path, ending: str):
    path = tmp_path / f"x.{ending}"
    Image.fromarray(COLOUR).save(path, **({"lossless": True} if ending == "webp" else {}))
    assert np.array_equal(read(path), COLOUR)


def test_avif_is_read(tmp_path: Path):
    path = tmp_path / "x.avif"
    Image.new("RGB", (16, 8), (200, 30, 60)).save(path, quality=100)
    assert np.abs(read(path).astype(int) - [200, 30, 60]).max() <= 3


def test_alpha_is_laid_on_the_background(tmp_path: Path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [[10, 20, 30, 255], [10, 20, 30, 0], [10, 20, 30, 51]]
    Image.fromarray(rgba).save(tmp_path / "x.png")
    expected = [[10, 20, 30], [0, 100, 200], [2, 84, 166]]
    assert read(tmp_path / "x.png", background=(0, 100, 200))[0].tolist() == expected


@pytest.mark.parametrize("size", [(23, 5), (5, 23), (1, 115), (115, 1)])
def test_what_is_converted_in_tiles_joins(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decode_room, "TILE", 32)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 4), dtype=np.uint8)
    found = np.asarray(decode_room.flat_picture(Image.fromarray(pixels), False, (10, 200, 30)))
    alpha = pixels[..., 3:].astype(int)
    mixed = pixels[..., :3] * alpha + np.array([10, 200, 30]) * (255 - alpha)
    assert np.array_equal(found, (mixed + 127) // 255)
    sixteen = pixels[..., :1].astype(np.uint16).squeeze(-1) * 257
    assert np.array_equal(decode_room.flat_picture(Image.fromarray(sixteen), True, (0, 0, 0)), pixels[..., 0])


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (1, 77, 254)])
def test_every_value_and_alpha_is_rounded_as_said(background: tuple[int, int, int]):
    value, alpha = np.meshgrid(np.arange(256), np.arange(256))
    pixels = np.stack([value, value, value, alpha], -1).astype(np.uint8)
    expected = (value[..., None] * alpha[..., None] + np.array(background) * (255 - alpha[..., None]) + 127) // 255
    found = np.asarray(decode_room.flatten(Image.fromarray(pixels), background))
    assert np.array_equal(found, expected)
    grey = Image.merge("LA", [Image.fromarray(pixels[..., 0]), Image.fromarray(pixels[..., 3])])
    found = np.asarray(decode_room.flatten(grey, background))
    assert np.array_equal(found, expected[..., 0] if len(set(background)) == 1 else expected)


def test_grey_with_alpha_and_colour_keys(tmp_path: Path):
    la = np.array([[[40, 255], [40, 0], [40, 128]]], np.uint8)
    bands = [Image.fromarray(la[..., 0]), Image.fromarray(la[..., 1])]
    Image.merge("LA", bands).save(tmp_path / "la.png")
    assert read(tmp_path / "la.png", grey=True)[0].tolist() == [40, 255, 147]
    Image.fromarray(GREY).save(tmp_path / "key.png", transparency=20)
    assert read(tmp_path / "key.png", grey=True)[0].tolist() == [0, 255, 40, 60]


def test_palette_with_a_transparent_entry(tmp_path: Path):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "x.png", transparency=1)
    assert read(tmp_path / "x.png", background=(9, 9, 9))[0].tolist() == [[255, 0, 0], [9, 9, 9], [0, 0, 255]]


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, ending: str):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    path = tmp_path / f"x.{ending}"
    if ending == "pgm":
        path.write_bytes(b"P5 6 1 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    expected = np.floor(values[0].astype(float) * 255 / 65535 + 0.5).astype(int).tolist()
    assert expected == [0, 0, 1, 1, 128, 255]
    assert read(path, grey=True)[0].tolist() == expected


def test_a_sixteen_bit_colour_key_hides_that_value_alone(tmp_path: Path):
    Image.fromarray(np.array([[1000, 1001]], np.uint16)).save(tmp_path / "x.png", transparency=1000)
    with Image.open(tmp_path / "x.png") as image:
        assert image.info["transparency"] == 1000
    assert read(tmp_path / "x.png", grey=True)[0].tolist() == [255, 4]


def test_sixteen_bit_colour_is_scaled_to_within_one(tmp_path: Path):
    import struct
    import zlib

    values = np.array([[[0, 300, 65535], [32768, 500, 12345]]], np.uint16)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" + values.astype(">u2").tobytes())
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(data)
    assert np.abs(read(tmp_path / "x.png") - values * (255 / 65535)).max() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, ending: str):
    turn = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.T,
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].T,
        8: lambda x: np.rot90(x),
    }[orientation]
    path = tmp_path / f"x.{ending}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(path, exif=exif, **({"lossless": True} if ending == "webp" else {}))
    assert np.array_equal(decode(path, turn(GREY).shape, True, "crop", WHITE)[0], turn(GREY))


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_the_first_frame_of_an_animation(tmp_path: Path, ending: str):
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if ending == "webp" else {}
    frames[0].save(tmp_path / f"x.{ending}", save_all=True, append_images=frames[1:], **options)
    assert read(tmp_path / f"x.{ending}").reshape(-1, 3).tolist() == [[255, 0, 0]] * 30


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    pixels = read(tmp_path / "x.jpg").astype(int)
    assert np.abs(pixels - [255, 0, 0]).max() <= 3


def test_one_bit_images_are_black_and_white(tmp_path: Path):
    Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1").save(tmp_path / "x.png")
    assert read(tmp_path / "x.png", grey=True)[0].tolist() == [0, 255, 255]


def test_float_and_wide_pixels_are_refused(tmp_path: Path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ValueError, match="float pixels state no range"):
        read(tmp_path / "f.tif", grey=True)
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(ValueError, match=r"from 0 to 70000 must lie in 0…65535"):
        read(tmp_path / "i.tif", grey=True)
