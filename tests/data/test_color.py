import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from markovae.data.color import color_of, to_srgb
from markovae.data.data_config import DataConfig
from markovae.data.folder import read_folder
from markovae.data.image_files import decode, header_of

WHITE = (255, 255, 255)
# Colorants of sRGB, adapted to D50.
RED, GREEN, BLUE = (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)


def icc(space: bytes, columns: dict[bytes, tuple[float, float, float]], gamma: float) -> bytes:
    """A small profile: version 2.1, a display, these colorants and one gamma for all channels."""
    fixed = lambda value: struct.pack(">i", round(value * 65536))  # noqa: E731
    tags = {b"wtpt": b"XYZ " + bytes(4) + b"".join(map(fixed, (0.9642, 1.0, 0.8249)))}
    tags |= {name: b"XYZ " + bytes(4) + b"".join(map(fixed, xyz)) for name, xyz in columns.items()}
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC") if space == b"RGB " else (b"kTRC",), curve)
    tags[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags[b"cprt"] = b"text" + bytes(4) + b"none\0"
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytearray(128)
    head[0:4] = struct.pack(">I", place + len(body))
    head[8:12], head[12:16], head[16:20], head[20:24], head[36:40] = b"\2\x10\0\0", b"mntr", space, b"XYZ ", b"acsp"
    head[68:80] = b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    return bytes(head) + struct.pack(">I", len(tags)) + table + body


SWAPPED = icc(b"RGB ", {b"rXYZ": BLUE, b"gXYZ": GREEN, b"bXYZ": RED}, 2.2)  # its red is blue
LINEAR_GREY = icc(b"GRAY", {}, 1.0)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def decoded(path: Path, grey: bool = False) -> np.ndarray:
    with Image.open(path) as image:
        height, width = image.height, image.width
    return np.moveaxis(decode(path, (height, width), grey, "crop", WHITE), 0, -1)


def stored(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_a_profile_says_what_the_pixels_mean(tmp_path: Path, ending: str):
    options = {"lossless": True} if ending == "webp" else {}
    path = stored(Image.fromarray(PIXELS), tmp_path / f"x.{ending}", icc_profile=SWAPPED, **options)
    assert header_of(path, "x").color == "profile"
    assert np.abs(decoded(path).astype(int) - PIXELS[..., ::-1]).max() <= 12  # 2.2 is nearly sRGB's curve
    assert np.abs(decoded(path).astype(int) - PIXELS).max() > 100


def test_srgb_by_any_name_leaves_every_pixel_as_it_is(tmp_path: Path):
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = stored(Image.fromarray(PIXELS), tmp_path / "x.png", icc_profile=own)
    assert header_of(path, "x").color == ""
    assert np.array_equal(decoded(path), PIXELS)


def test_alpha_and_palettes_go_through_their_profile(tmp_path: Path):
    rgba = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    rgba.putpixel((1, 0), (200, 0, 0, 0))
    shown = decoded(stored(rgba, tmp_path / "a.png", icc_profile=SWAPPED))
    assert shown[0, 0, 2] > 190
    assert shown[0, 0, 0] < 20
    assert shown[0, 1].tolist() == [255, 255, 255]
    palette = Image.new("RGB", (2, 2), (200, 0, 0)).quantize(4)
    shown = decoded(stored(palette, tmp_path / "p.png", icc_profile=SWAPPED))
    assert shown[0, 0, 2] > 190


def test_grey_profiles_and_sixteen_bits(tmp_path: Path):
    """18 % grey of a linear file is 118 of 255 in sRGB."""
    for name, image in (
        ("l.png", Image.new("L", (2, 2), 46)),
        ("la.png", Image.new("LA", (2, 2), (46, 255))),
        ("i.png", Image.fromarray(np.full((2, 2), 46 * 257, np.uint16))),
    ):
        path = stored(image, tmp_path / name, icc_profile=LINEAR_GREY)
        assert header_of(path, name).color == "profile"
        assert abs(int(decoded(path, grey=True)[0, 0, 0]) - 118) <= 1


def test_profiles_that_do_not_fit_are_passed_over_and_counted(tmp_path: Path):
    for number, profile in enumerate((b"no profile", LINEAR_GREY, SWAPPED[:200], b"\0" * 128)):
        path = stored(Image.fromarray(PIXELS), tmp_path / f"{number}.png", icc_profile=profile)
        assert header_of(path, "x").color == "damaged"
        assert np.array_equal(decoded(path), PIXELS)
    notes = read_folder(DataConfig(str(tmp_path))).summary.notes
    assert "4 images with a color profile that cannot be read, taken as sRGB" in notes


def test_other_spaces_are_converted_and_counted(tmp_path: Path):
    stored(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=100)
    stored(Image.new("LAB", (16, 16), (128, 128, 128)), tmp_path / "b.tif")
    stored(Image.new("YCbCr", (16, 16), (76, 85, 255)), tmp_path / "c.tif")
    reading = read_folder(DataConfig(str(tmp_path)))
    assert not reading.summary.unreadable
    red, grey, also_red = (image[:, 8, 8].astype(int) for image in reading.data.images)
    assert np.abs(red - [255, 0, 0]).max() <= 3
    assert np.abs(grey - 119).max() <= 1
    assert np.abs(also_red - [255, 0, 0]).max() <= 3
    for words in ("1 images in CMYK, converted to rgb", "1 images in LAB, converted to rgb"):
        assert words in reading.summary.notes


def test_a_png_may_state_its_gamma(tmp_path: Path):
    def png(*chunks: tuple[bytes, bytes]) -> Path:
        info = PngImagePlugin.PngInfo()
        for kind, content in chunks:
            info.add(kind, content)
        return stored(Image.new("L", (2, 2), 46), tmp_path / "x.png", pnginfo=info)

    linear = (b"gAMA", struct.pack(">I", 100_000))
    assert abs(int(decoded(png(linear), grey=True)[0, 0, 0]) - 118) <= 1
    for chunks in ((), ((b"gAMA", struct.pack(">I", 45_455)),), (linear, (b"sRGB", b"\0")), ((b"gAMA", bytes(4)),)):
        path = png(*chunks)
        assert header_of(path, "x").color == ""
        assert decoded(path, grey=True)[0, 0, 0] == 46


def test_orientation_is_kept_where_colors_are_converted(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = stored(Image.fromarray(PIXELS), tmp_path / "a.png", exif=exif)
    path = stored(Image.fromarray(PIXELS), tmp_path / "b.png", exif=exif, icc_profile=SWAPPED)
    shape = (PIXELS.shape[1], PIXELS.shape[0])
    upright, converted = (decode(p, shape, False, "crop", WHITE) for p in (plain, path))
    assert np.abs(upright[::-1].astype(int) - converted).max() <= 12


def test_nothing_is_copied_where_nothing_is_converted():
    image = Image.fromarray(PIXELS)
    assert to_srgb(image) is image
    assert color_of(image) == ""


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_decoded_jpegs_are_named_with_their_quality(tmp_path: Path, quality: int):
    for number in range(3):
        stored(Image.fromarray(PIXELS), tmp_path / f"{number}.jpg", quality=quality)
    stored(Image.fromarray(PIXELS), tmp_path / "x.png")
    notes = read_folder(DataConfig(str(tmp_path))).summary.notes
    assert any(
        note.startswith(f"3 of 4 images are decoded from JPEG (quality {quality}): their bits") for note in notes
    )
