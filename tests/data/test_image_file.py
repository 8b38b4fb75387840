"""The one reader of images: what it refuses by the header, and that nothing else opens any."""

import ast
import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fuzz.sandbox import peak

import markovae
from markovae.data import image_files
from markovae.data.data_config import DataConfig
from markovae.data.fitted_pictures import Picture, read_mask, read_picture
from markovae.data.image_files import decode, fit_image, flat_picture
from markovae.data.image_reader import open_image
from markovae.errors import UserError

from .garbage import chunk, encoded, exif, png, rgb, tiff_claiming

SOURCE = Path(markovae.__file__).parent
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"


def openings(path: Path, text: str) -> list[str]:
    """Where a file opens images in another way than by `open_image`."""
    found = []
    for node in ast.walk(ast.parse(text)):
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if name.endswith(("Image.open", "ImageFile.Parser", "Image.init", "Image.preinit")):
            found.append(f"{path.name} line {node.lineno}: {name}")
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        for module in modules:
            other = module.split(".")[0] in ("imageio", "cv2", "skimage", "torchvision", "matplotlib", "tifffile")
            plugin = module.endswith("ImagePlugin") and module != "PIL.PngImagePlugin"
            if other or plugin or module in ("PIL.Image.open", "PIL.ImageFile", "PIL.ImageFile.Parser"):
                found.append(f"{path.name} line {node.lineno}: {module}")
    return found


def test_nothing_else_opens_images():
    found = [one for path in SOURCE.rglob("*.py") for one in openings(path, path.read_text(encoding="utf-8"))]
    assert [one.partition(" ")[0] for one in found] == ["image_reader.py"], found


@pytest.mark.parametrize(
    "line",
    [
        "from PIL import Image\nImage.open('x.png')",
        "import PIL.Image\nPIL.Image.open('x.png')",
        "from PIL.Image import open",
        "from PIL import EpsImagePlugin",
        "from PIL import ImageFile\nImageFile.Parser()",
        "import cv2",
    ],
)
def test_another_opening_is_found(line: str):
    assert openings(Path("x.py"), line)


BLANK = Picture(np.zeros((3, 9, 9), np.uint8), "blank")


@pytest.mark.parametrize("content", [POSTSCRIPT, b"\xc5\xd0\xd3\xc6" + bytes(28) + POSTSCRIPT, b"%PDF-1.7\n"])
@pytest.mark.parametrize("read", [lambda p: read_picture(p, (3, 9, 9)), lambda p: read_mask(p, BLANK)])
def test_edit_starts_no_program(tmp_path: Path, content: bytes, read):
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(UserError, match="not an image of a known format"):
        read(tmp_path / "photo.png")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, make):
    make(tmp_path / "photo.png")
    with pytest.raises(UserError, match=r"photo.png cannot be read as an image \((not a regular|Is a dir)"):
        read_picture(tmp_path / "photo.png", (3, 9, 9))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_edit_turns_images_upright_as_training_does(tmp_path: Path, orientation: int):
    content = encoded(rgb(height=6, width=9), "PNG", exif=exif(orientation))
    (tmp_path / "x.png").write_bytes(content)
    shape = (9, 6) if orientation > 4 else (6, 9)
    trained = decode(content, shape, False, "crop", (255, 255, 255))
    assert np.array_equal(read_picture(tmp_path / "x.png", (3, *shape)).pixels, trained)


def test_a_palette_of_greys_is_grey_in_edit_as_in_training(tmp_path: Path):
    grey = rgb().convert("L")
    grey.convert("P").save(tmp_path / "x.png")
    assert np.array_equal(read_picture(tmp_path / "x.png", (1, 12, 10)).pixels[0], np.asarray(grey))


def webp_claiming(width: int, height: int) -> bytes:
    content = encoded(rgb(), "WEBP", save_all=True, append_images=[rgb(1)])
    assert content[12:16] == b"VP8X"
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return content[:24] + sizes + content[30:]


def lossless_webp_claiming(width: int, height: int) -> bytes:
    content = encoded(rgb(), "WEBP", lossless=True)
    assert content[12:16] == b"VP8L"
    bits = int.from_bytes(content[21:25], "little") & ~0xFFFFFFF | (width - 1) | (height - 1) << 14
    return content[:21] + bits.to_bytes(4, "little") + content[25:]


def tiff_of_tiles(side: int) -> bytes:
    """Eight pixels a side, in one compressed tile of far more."""
    tags = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8), (325, 4, 1, 100)]
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + body + bytes(200)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (webp_claiming(16_000, 16_000), "48 megapixels"),
        (webp_claiming(7_000, 7_000), "7000x7000 takes .* MiB to decode, at most 576"),
        (lossless_webp_claiming(7_000, 7_000), "7000x7000 takes .* MiB to decode"),
        (tiff_of_tiles(32_000), "8x8 takes 3,906 MiB to decode"),
        (tiff_claiming(9_000, 9_000), "48 megapixels"),
        (png(16_384, 16_384), "48 megapixels"),
        (png(8_192, 6_144, colour=6), "8192x6144 of 4 bytes a pixel is 192 MiB of pixels, at most 144"),
        (png(8_192, 4_096, depth=16), "8192x4096 of 6 bytes a pixel is 192 MiB"),
    ],
)
def test_what_takes_too_much_memory_is_refused_by_its_header(content: bytes, reason: str):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"{reason}.*save it smaller"), open_image(content):
        pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png(1, 2**20 + 1), "1x1048577 has a side of more than 1,048,576 pixels: cut it"),
        (b"P3 600 600 255\n" + b"0 " * 2**21 + b"0", "a plain PPM file of 4,194,320 bytes, at most 4,194,304"),
    ],
)
def test_what_takes_long_for_its_size_is_refused(content: bytes, reason: str):
    with pytest.raises(ValueError, match=reason), open_image(content):
        pass


def test_a_plain_ppm_of_a_photo_is_read():
    assert decode(b"P3 200 100 255\n" + b"7 " * 60_000, (4, 4), False, "crop", (0, 0, 0)).max() == 7


MASKS = {
    "its red strokes": (255, 0, 0, 200),
    "its white strokes": (255, 255, 255, 200),
    "its transparent parts": (40, 120, 255, 255),
    "what is red": (255, 0, 0),
    "white is redrawn": (200, 200, 200),
}


@pytest.mark.parametrize("words", MASKS)
def test_a_mask_is_read_in_parts_as_it_is_whole(words: str, monkeypatch: pytest.MonkeyPatch):
    stroke = MASKS[words]
    mask = Image.new("RGBA" if len(stroke) == 4 else "RGB", (40, 30))
    mask.paste(stroke, (25, 12, 38, 19))
    mask.putpixel((30, 15), (*stroke[:3], 60)[: len(stroke)])
    blank = Picture(np.zeros((3, 30, 40), np.uint8), "blank")
    whole = read_mask(mask, blank)
    assert words in whole.notes[0]
    expected = np.zeros((30, 40), bool)
    expected[12:19, 25:38] = True
    expected[15, 30] = len(stroke) == 3
    assert np.array_equal(whole.unknown, expected != (words == "its transparent parts"))
    monkeypatch.setattr(image_files, "TILE", 64)
    parts = read_mask(mask, blank)
    assert parts.notes == whole.notes
    assert np.array_equal(parts.strength, whole.strength)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are Linux's")
def test_a_mask_takes_little_memory_beside_its_pixels(tmp_path: Path):
    mask = Image.new("L", (1024, 4096))
    mask.paste(255, (0, 0, 9, 2000))
    mask.convert("RGB").save(tmp_path / "mask.png", compress_level=1)
    shape = (3, 4096, 1024)
    blank = Picture(np.broadcast_to(np.uint8(0), shape), "blank")
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    assert int(read_mask(tmp_path / "mask.png", blank).unknown.sum()) == 9 * 2000
    assert peak() - before < 8 * 1024 * 4096 + 8 * 2**20


def test_a_progressive_jpeg_is_judged_by_its_scans():
    content = encoded(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True)
    with open_image(content):
        pass
    scan = content[content.rindex(b"\xff\xda") : -2]
    refused = pytest.raises(ValueError, match=r"4000x4000 in \d+ scans, at most 67 are read")
    with refused, open_image(content[:-2] + 100 * scan + content[-2:]):
        pass


def test_a_file_of_more_than_half_a_gigabyte_is_not_read(tmp_path: Path):
    with (tmp_path / "x.webp").open("wb") as file:
        file.write(encoded(rgb(), "WEBP"))
        file.truncate(2**30)  # a hole: it takes no disk
    refused = pytest.raises(ValueError, match=r"a file of 1,073,741,824 bytes, at most 536,870,912")
    with refused, open_image(tmp_path / "x.webp"):
        pass


@pytest.mark.parametrize(
    ("size", "fit"), [((1, 2_000_000), "crop"), ((2_000_000, 1), "crop"), ((1, 2_000_000), "resize")]
)
def test_a_thread_of_pixels_is_not_scaled_to_gigabytes(size: tuple[int, int], fit: str):
    with pytest.raises(ValueError, match="too long and thin"):
        fit_image(Image.new("L", size), (64, 64), fit, (0, 0, 0))


def test_arrays_of_threads_are_one_sentence(tmp_path: Path):
    from markovae.data.arrays import read_array_file

    np.save(tmp_path / "x.npy", np.zeros((3, 2_000_000, 1), np.uint8))
    with pytest.raises(UserError, match=r"an image of .*x.npy of 1x2000000 is too long and thin"):
        read_array_file(DataConfig(str(tmp_path / "x.npy"), size=64, layout="nhw", enlarge=True))


def test_a_profile_that_unpacks_to_megabytes_is_not_unpacked():
    bomb = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 26)))
    content = png(64, 64, bomb, chunk(b"IDAT", zlib.compress(bytes(64 * 193))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"known format|Decompressed"), open_image(content) as image:
        flat_picture(image, False, (0, 0, 0))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024
